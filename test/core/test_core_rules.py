# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gate, replay, scenario detection, novelty, frames and images: the small rules of the core."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from etuner_ros.core.config import GateConfig, ScenarioConfig
from etuner_ros.core.decide.gate import judge, mcnemar_worse, Outcome
from etuner_ros.core.decide.scenario import (
    compressed,
    NoveltyScore,
    ScenarioDetector,
    variance_of_mean,
)
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.errors import ImageError, StateError
from etuner_ros.core.identity import Scenario
from etuner_ros.core.images.codec import decode, encode_jpeg, resize_square
from etuner_ros.core.learn.replay import Replay
from etuner_ros.core.learn.sample import Sample
from etuner_ros.shared.nearest_mean import NearestClassMean

HERE, THERE = Scenario('front', 0), Scenario('front', 1)


def outcomes(
    pairs: list[tuple[bool, bool]], label: str = 'mug', scenario: Scenario = HERE
) -> list[Outcome]:
    return [
        Outcome(f'{label}{i}', label, scenario, live, candidate)
        for i, (live, candidate) in enumerate(pairs)
    ]


def picture(value: int = 0, size: int = 8) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)


def test_mcnemar_is_exact_and_one_sided():
    assert mcnemar_worse(4, 0) == 1 / 16
    assert mcnemar_worse(0, 4) == 1.0
    assert mcnemar_worse(3, 1) == pytest.approx(5 / 16)


def test_the_gate_refuses_what_is_worse_by_the_paired_test():
    verdict = judge(outcomes([(True, False)] * 6 + [(True, True)] * 60))
    assert not verdict.accepted
    assert verdict.p_worse == pytest.approx(1 / 64)
    assert 'paired test' in verdict.reason


def test_the_gate_accepts_a_small_loss_that_chance_explains_when_there_are_many_samples():
    assert judge(outcomes([(True, False)] * 2 + [(False, True)] + [(True, True)] * 60)).accepted


def test_with_few_samples_the_paired_test_is_stricter():
    lost_three = [(True, False)] * 3
    assert not judge(outcomes([*lost_three, *[(True, True)] * 17])).accepted, 'p = 0.125 on 20'
    assert judge(outcomes([*lost_three, *[(True, True)] * 37])).accepted, 'on 40 it may be chance'
    assert judge(outcomes([(True, False), *[(True, True)] * 19])).accepted, 'one is always chance'


def test_with_very_few_samples_the_mean_may_not_drop():
    few = outcomes([(True, False), *[(True, True)] * 9])
    assert not judge(few).accepted
    assert judge(few, GateConfig(very_few_samples=5)).accepted
    assert judge(outcomes([(False, True), (True, False)])).accepted


def test_with_very_few_samples_a_drop_of_the_mean_may_be_tolerated() -> None:
    config = GateConfig(tolerated_drop=0.1)
    kept = [(True, True)] * 8
    assert judge(outcomes([*kept, (True, False), (True, True)]), config).accepted, 'just so much'
    verdict = judge(outcomes([*kept, (True, False), (True, False)]), config)
    assert verdict.reason.startswith('refused: the mean drops and there are very few samples')


@pytest.mark.parametrize(
    ('pairs', 'accepted'),
    [
        ([(True, False)] * 2 + [(False, False)], False),
        ([(True, False)] + [(False, False)] * 2, True),  # one sample that was right is no class
        ([(True, False)] * 2, True),
        ([(True, False)] * 2 + [(False, True)], True),
    ],
)
def test_a_class_is_lost_where_several_samples_of_it_were_right(
    pairs: list[tuple[bool, bool]], accepted: bool
) -> None:
    verdict = judge(outcomes([(False, True)] * 40, 'duck') + outcomes(pairs, 'mug'))
    assert verdict.accepted == accepted
    assert ("class 'mug' would be lost" in verdict.reason) != accepted


def test_the_gate_refuses_when_a_class_falls_to_zero():
    others = outcomes([(False, True)] * 40, 'duck')
    verdict = judge(others + outcomes([(True, False)] * 3, 'mug'))
    assert not verdict.accepted
    assert "'mug'" in verdict.reason


@pytest.mark.parametrize(('samples', 'least'), [(15, 0.8), (60, 0.9), (200, 0.97)])
def test_accepted_versions_do_not_fall_far_below_the_best_one(samples, least):
    """Each loses some samples that chance explains, gains none, and is the next one's live."""
    rng = np.random.default_rng(0)
    anchor = live = [True] * samples  # the best version so far was right everywhere
    refused = 0
    for _ in range(50):
        candidate = list(live)
        for i in rng.choice(np.flatnonzero(live), rng.integers(1, 5), replace=False):
            candidate[i] = False
        rows = zip(live, candidate, anchor)
        verdict = judge([Outcome(str(i), f'c{i % 5}', HERE, *r) for i, r in enumerate(rows)])
        live = candidate if verdict.accepted else live
        refused += not verdict.accepted
    assert sum(live) / samples >= least
    assert refused >= 48


def test_a_refusal_for_the_sake_of_the_best_version_names_its_figures():
    rows = [(False, False, True)] * 5 + [(True, False, True)] + [(True, True, True)] * 94
    verdict = judge([Outcome(str(i), 'mug', HERE, *row) for i, row in enumerate(rows)])
    assert not verdict.accepted
    assert verdict.reason == (
        'refused: below live and worse than the best version so far, which had 100 % on 100 '
        'samples, 6 of them lost, 0 won (95 % live, 94 % candidate on 100 samples, p = 0.500)'
    )


def test_the_way_back_to_the_best_version_is_open_in_small_steps():
    fallen = [(False, False, True)] * 20 + [(True, True, True)] * 79
    for last in ((False, True, True), (True, True, True), (False, False, True)):
        rows = [*fallen, last]
        assert judge([Outcome(str(i), 'mug', HERE, *row) for i, row in enumerate(rows)]).accepted


def test_samples_that_the_best_version_never_predicted_say_nothing_about_it():
    rows = [(False, False, None)] * 20 + [(True, False, None)] + [(True, True, True)] * 79
    assert judge([Outcome(str(i), 'mug', HERE, *row) for i, row in enumerate(rows)]).accepted


@pytest.mark.parametrize(('predicted', 'accepted'), [(20, False), (60, True)])
def test_with_few_samples_of_the_best_version_the_test_against_it_is_stricter_too(
    predicted: int, accepted: bool
) -> None:
    rows = [(False, False, True)] * 2 + [(True, False, True)]
    rows += [(True, True, True)] * (predicted - 3)
    unknown = [(True, True, None)] * (100 - predicted)
    samples = [Outcome(str(i), 'mug', HERE, *row) for i, row in enumerate([*rows, *unknown])]
    assert judge(samples).accepted == accepted, 'three lost, p = 0.125'


@pytest.mark.parametrize(('lost', 'accepted'), [(5, True), (6, False)])
def test_each_of_the_two_tests_by_surroundings_has_half_the_level(
    lost: int, accepted: bool
) -> None:
    """Five lost have p = 0.031, six 0.016."""
    earlier = outcomes([(True, False)] * lost + [(True, True)] * 40, scenario=HERE)
    won = outcomes([(False, True)] * 6, scenario=THERE)
    assert judge(earlier + won, current={THERE}).accepted == accepted


def test_what_is_won_in_the_surroundings_of_now_can_not_hide_what_is_lost_in_earlier_ones():
    before, rear = Scenario('front', 0), Scenario('rear', 0)
    now = {Scenario('front', 1), rear}
    lost = outcomes([(True, False)] * 6 + [(True, True)] * 40, scenario=before)
    won = outcomes([(False, True)] * 6, scenario=rear)
    assert judge(lost + won).accepted, 'not told what is now'
    verdict = judge(lost + won, current=now)
    assert not verdict.accepted
    assert 'worse in earlier scenarios, 6 of 46 samples lost, 0 won' in verdict.reason
    here = outcomes([(True, False)] * 6 + [(True, True)] * 40, scenario=rear)
    verdict = judge(here + outcomes([(False, True)] * 6, scenario=before), current=now)
    assert 'worse in the current scenario' in verdict.reason


def test_without_samples_nothing_speaks_against_a_candidate():
    verdict = judge([])
    assert verdict.accepted
    assert verdict.samples == 0
    assert math.isnan(verdict.live_accuracy)


def test_the_replay_stays_within_its_bytes_and_keeps_small_classes():
    replay = Replay(capacity_bytes=20 * len(Sample.of('', '', HERE, picture()).jpeg))
    for i in range(3):
        replay.add(Sample.of(f'rare{i}', 'rare', HERE, picture()))
    for i in range(200):
        replay.add(Sample.of(f'common{i}', 'common', HERE, picture()))
    assert replay.bytes <= replay.capacity_bytes
    assert replay.counts() == {'rare': 3, 'common': 17}


def test_a_corrected_correction_replaces_the_first_one():
    replay = Replay(10**6)
    replay.add(Sample.of('x', 'mug', HERE, picture()))
    replay.add(Sample.of('x', 'duck', HERE, picture()))
    assert replay.counts() == {'duck': 1}


def test_replay_draws_the_asked_share_from_the_current_scenario_and_balances_the_rest():
    replay = Replay(10**9)
    for i in range(90):
        replay.add(Sample.of(f'a{i}', 'common', HERE, picture()))
    for i in range(10):
        replay.add(Sample.of(f'b{i}', 'rare', THERE, picture()))
    rng = np.random.default_rng(0)
    drawn = replay.draw(1000, rng, current=[THERE], scenario_share=0.0)
    assert 400 < sum(s.label == 'rare' for s in drawn) < 600
    drawn = replay.draw(1000, rng, current=[THERE], scenario_share=0.5)
    assert 700 < sum(s.scenario == THERE for s in drawn) < 800
    assert Replay(10).draw(4, rng, [HERE], 0.5) == []


def looks(rng: np.random.Generator, centre: float, count: int) -> np.ndarray:
    return rng.normal(centre, 1.0, size=(count, 32))


def test_a_change_of_surroundings_is_found_soon_and_only_once():
    rng = np.random.default_rng(0)
    detector = ScenarioDetector()
    before = [detector.update(x) for x in looks(rng, 5.0, 400)]
    after = [detector.update(x) for x in looks(rng, 9.0, 400)]
    assert not any(before)
    assert sum(after) == 1
    assert after.index(True) < detector.config.window + detector.config.patience
    assert detector.scenario == 1


def video(rng: np.random.Generator, centre: float, count: int, correlation: float) -> np.ndarray:
    """Frames of a camera that moves slowly: each is much like the one before."""
    frames = looks(rng, 0.0, count)
    for i in range(1, count):
        frames[i] = correlation * frames[i - 1] + math.sqrt(1 - correlation**2) * frames[i]
    return centre + frames


def test_frames_of_a_video_that_hang_together_are_no_change_of_surroundings():
    detector = ScenarioDetector()
    rng = np.random.default_rng(1)
    alarms = sum(detector.update(x) for x in video(rng, 30.0, 3000, 0.97))
    assert alarms <= 1
    assert detector.correlation > 0.8
    found = [detector.update(x) for x in video(rng, 60.0, 60, 0.97)]
    assert found.index(True) < 2 * detector.config.window


@pytest.mark.parametrize('correlation', [0.9, 0.95, 0.97, 0.985, 0.99])
def test_a_change_is_found_in_a_video_however_slowly_the_camera_moves(correlation):
    detector = ScenarioDetector()
    frames = video(np.random.default_rng(0), 30.0, 2000, correlation)
    frames[1500:] += 2.0  # two standard deviations in each channel
    found = [i for i, x in enumerate(frames) if detector.update(np.square(x))]
    assert len(found) == 1
    assert 1500 <= found[0] < 1500 + 2 * detector.config.window


@pytest.mark.parametrize('correlation', [0.0, 0.5, 0.9, 0.95])
def test_the_score_is_about_one_in_surroundings_that_stay(correlation):
    detector = ScenarioDetector()
    scores = []
    for x in video(np.random.default_rng(4), 30.0, 3000, correlation):
        assert not detector.update(np.square(x))
        scores.append(detector.score)
    assert np.mean(scores[1000:]) == pytest.approx(1.0, abs=0.15)


def test_a_change_is_declared_with_the_first_so_many_scores_over_the_threshold_in_a_row() -> None:
    detector = ScenarioDetector(ScenarioConfig(window=4, threshold=1.3, patience=3))
    scores: list[float] = []
    for x in looks(np.random.default_rng(0), 5.0, 400):
        if detector.update(x):
            break
        scores.append(detector.score)
    over = [s > 1.3 for s in [*scores, detector.score]]
    assert over[-3:] == [True] * 3
    runs = [over[i : i + 3] for i in range(len(over) - 3)]
    assert [True] * 3 not in runs, 'not before'
    assert sum(over) > 6, 'now and then one was, too'


@pytest.mark.parametrize('correlation', [0.0, 0.5, 0.9, 0.97])
def test_the_variance_of_a_mean_is_that_of_an_ar1_series(correlation):
    values = np.array([correlation ** abs(i - j) for i in range(24) for j in range(24)])
    assert variance_of_mean(24, correlation) == pytest.approx(values.mean(), rel=1e-9)


def test_appearance_that_is_not_finite_or_missing_is_ignored():
    detector = ScenarioDetector()
    assert not detector.update([])
    assert not detector.update([math.nan] * 4)
    rng = np.random.default_rng(0)
    assert not any(detector.update(x) for x in looks(rng, 1.0, 100))


def log_of(events: list[tuple[str, int, float]], log: ScenarioLog | None = None) -> ScenarioLog:
    """Return a log that heard frames: camera, stamp, and what its surroundings look like."""
    log, rng = log or ScenarioLog(), np.random.default_rng(0)
    for source, stamp, centre in events:
        log.on_request(source, stamp, looks(rng, centre, 1)[0])
    return log


def stay(source: str, start: int, count: int, centre: float) -> list[tuple[str, int, float]]:
    """Return events of a camera that stays in surroundings, a frame a second."""
    return [(source, 10**9 * (start + i), centre) for i in range(count)]


def test_a_late_label_counts_in_the_scenario_of_its_frame():
    rng = np.random.default_rng(0)
    log = ScenarioLog()
    changes = [
        i
        for i, x in enumerate([*looks(rng, 5.0, 100), *looks(rng, 9.0, 100)])
        if log.on_request('front', i, x)
    ]
    assert len(changes) == 1
    assert log.at('front', changes[0] - 1) == Scenario('front', 0)
    assert log.at('front', changes[0]) == Scenario('front', 1)
    assert log.at('front', 10**6) == Scenario('front', 1), 'newer than all that was heard'
    assert log.at('rear', 150) == Scenario('rear', 0), 'never heard of'


def test_surroundings_of_one_camera_do_not_count_for_another():
    front = stay('front', 0, 100, 5.0) + stay('front', 100, 100, 9.0)
    rear = stay('rear', 0, 200, 5.0)
    log, rng = ScenarioLog(), np.random.default_rng(0)
    assert (log.current, log.last) == ({}, Scenario('', 0))
    declared = []
    for source, stamp, centre in (event for pair in zip(rear, front) for event in pair):
        if log.on_request(source, stamp, looks(rng, centre, 1)[0]):
            declared.append((log.last, log.score > ScenarioConfig().threshold))
    assert declared == [(Scenario('front', 1), True)]
    assert log.current == {'front': 1, 'rear': 0}
    assert log.at('rear', 190 * 10**9) == Scenario('rear', 0)
    assert log.at('front', 190 * 10**9) == Scenario('front', 1)


def test_a_recording_that_is_played_again_has_its_stamps_twice():
    first = stay('front', 1000, 100, 5.0) + stay('front', 1100, 100, 9.0)
    log = log_of(first + first[:150])  # the second time as far as 1150
    assert log.current == {'front': 3}

    def at(second: int) -> int:
        return log.at('front', second * 10**9).number

    assert (at(1050), at(1140)) == (2, 3), 'as it was this time'
    assert at(1180) == 1, 'not reached this time yet, so it was the last time'
    assert at(10) == 0
    assert at(5000) == 3


def test_frames_that_come_in_another_order_are_no_new_recording():
    events = stay('front', 1000, 100, 5.0) + stay('front', 1100, 100, 9.0)
    mixed = [
        (name, stamp - (600_000_000 if i % 3 == 0 else 0), centre)
        for i, (name, stamp, centre) in enumerate(events)
    ]
    log = log_of([e for pair in zip(mixed[1::2], mixed[::2]) for e in pair])
    assert [log.at('front', s * 10**9).number for s in (1050, 1195)] == [0, 1]
    assert len(log._cameras['front'].passes) <= 100


def test_a_driver_that_stamps_nothing_is_in_its_newest_scenario():
    log = log_of([('front', 0, 5.0)] * 100 + [('front', 0, 9.0)] * 100)
    assert log.at('front', 0) == Scenario('front', 1)


def test_what_is_remembered_of_cameras_and_stamps_is_bounded():
    log = log_of([(f'camera {i}', i, 5.0) for i in range(1000)])
    assert 'camera 999' in log.current
    assert len(log.current) <= 100
    log = log_of([('front', 10**10 * (1000 - i), 5.0) for i in range(1000)])
    assert len(log.state_dict()['cameras'][0]['passes']) <= 100
    assert log.at('front', 10**10) == Scenario('front', 0)


def test_scenarios_go_on_after_a_restart_by_what_was_written_to_a_file():
    log = log_of(
        stay('front', 0, 100, 5.0) + stay('front', 100, 100, 9.0) + stay('rear', 0, 90, 5)
    )
    log.on_version(3, 0, [0.5] * 32)
    other = ScenarioLog()
    other.load_state_dict(json.loads(json.dumps(log.state_dict(), allow_nan=False)))
    assert other.state_dict() == log.state_dict()
    assert (other.current, other.last) == (log.current, log.last)
    assert other.at('front', 50 * 10**9) == Scenario('front', 0)
    log_of(stay('front', 300, 60, 9.0), other)
    assert other.current['front'] == 1, 'the same surroundings as before'
    log_of(stay('rear', 300, 60, 9.0), other)
    assert other.current['rear'] == 1, 'it was carried elsewhere while it was off'


def damage(state: dict, path: list, value: object) -> dict:
    """Return saved state with another value in one place, or without it."""
    state = json.loads(json.dumps(state))
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return state


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        (['cameras'], None),
        (['cameras'], {}),
        (['cameras', 1, 'passes'], None),
        (['cameras', 1, 'passes', 0, 3], [[1]]),
        (['cameras', 1, 'passes', 0, 1], 'now'),
        (['cameras', 1, 'detector', 'scenario'], -1),
        (['cameras', 1, 'detector', 'mean'], [1.0]),
        (['cameras', 1, 'detector', 'm2', 0], math.nan),
        (['cameras', 1, 'name'], 7),
        (['offsets', 0], [1, ['x']]),
        (['last'], 3),
    ],
)
def test_saved_scenarios_that_are_damaged_or_old_are_refused_by_name_and_change_nothing(
    path, value
):
    log = log_of(stay('front', 0, 60, 5.0) + stay('rear', 0, 60, 5.0))
    log.on_version(1, 0, [0.1] * 32)
    before = log.state_dict()
    named = next(key for key in reversed(path) if isinstance(key, str))
    with pytest.raises(StateError, match=f"'{named}'|'changes'"):
        log.load_state_dict(damage(before, path, value))
    assert log.state_dict() == before


def test_a_swap_of_weights_is_no_change_of_surroundings_when_its_move_is_known():
    rng = np.random.default_rng(2)
    move = rng.normal(0, 0.6, 32)
    frames = looks(rng, 25.0, 300)
    swapped = compressed(frames) + move  # as other weights would describe the same frames
    swapped = np.sign(swapped) * swapped**2
    alarms = {}
    for known in (True, False):
        log = ScenarioLog()
        log.on_version(5, 0, ())  # a new head only
        log.on_version(6, 5, move if known else ())
        alarms[known] = [
            log.on_request('front', i, (frames if i < 150 else swapped)[i], 5 if i < 150 else 6)
            for i in range(300)
        ]
    assert not any(alarms[True])
    assert any(alarms[False])


def test_moves_of_several_swaps_of_weights_add_up() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 0.6, (2, 32))
    log = ScenarioLog()
    log.on_version(1, 0, first)
    log.on_version(2, 1, second)
    alarms = []
    for i, x in enumerate(looks(rng, 25.0, 400)):
        version, moved = (0, 0.0) if i < 150 else (1, first) if i < 152 else (2, first + second)
        swapped = compressed(x) + moved
        alarms.append(log.on_request('front', i, np.sign(swapped) * swapped**2, version))
    assert not any(alarms)


@pytest.mark.parametrize('what', ['head', 'backbone'])
def test_only_weights_that_describe_frames_otherwise_make_it_less_sure_of_what_it_saw(
    what: str,
) -> None:
    frames = looks(np.random.default_rng(2), 25.0, 130)
    kept, swapped = ScenarioLog(), ScenarioLog()
    swapped.on_version(1, 0, [0.001] * 32 if what == 'backbone' else ())
    for i, x in enumerate(frames):
        kept.on_request('front', i, x, 0)
        swapped.on_request('front', i, x, int(i >= 120))
    if what == 'head':
        assert swapped.score == kept.score
    else:
        assert swapped.score < 0.9 * kept.score, 'its move is an estimate'


def test_weights_that_nothing_is_known_of_start_the_description_anew():
    rng = np.random.default_rng(3)
    log = ScenarioLog()
    before = [log.on_request('front', i, x, 0) for i, x in enumerate(looks(rng, 5.0, 100))]
    after = [log.on_request('front', 100 + i, x, 9) for i, x in enumerate(looks(rng, 9.0, 100))]
    assert not any(before + after), 'weights and surroundings can not be told apart here'
    assert any(log.on_request('front', 200 + i, x, 9) for i, x in enumerate(looks(rng, 5.0, 60)))


def test_novelty_is_high_for_an_unfamiliar_frame_and_follows_other_weights():
    rng = np.random.default_rng(0)
    novelty = NoveltyScore()
    for energy in rng.normal(-8, 1, 200):
        assert 0 <= novelty.update(energy, 1) <= 1
    assert novelty.update(-3.0, 1) > 0.99
    for energy in rng.normal(-3, 1, 60):  # another scale, after a swap
        last = novelty.update(energy, 2)
    assert last < 0.95
    assert novelty.update(2.0, 2) > 0.97
    assert novelty.update(float('nan'), 2) == 0.5, 'nothing is known of it'
    assert novelty.update(3.0, 2) > 0.97, 'and it spoils nothing'


def test_pictures_survive_the_way_through_jpeg_in_rgb_order():
    red = np.zeros((16, 24, 3), np.uint8)
    red[..., 0] = 200
    back = decode(encode_jpeg(red, 95))
    assert back.shape == red.shape
    assert np.abs(back.astype(int) - red).max() < 12


@pytest.mark.parametrize('data', [b'', b'no picture', encode_jpeg(picture())[:40]])
def test_a_damaged_picture_is_an_image_error(data):
    with pytest.raises(ImageError, match='compressed image'):
        decode(data)


def test_the_centred_square_is_taken():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert resize_square(wide, 5).min() == 255
    assert resize_square(wide, 20).shape == (20, 20, 3)


def test_the_nearest_mean_learns_a_class_from_one_example():
    classifier = NearestClassMean()
    assert classifier.predict(np.ones(2, np.float32)) == ''
    classifier.add(np.array([1, 0], np.float32), 'a')
    classifier.add(np.array([0, 1], np.float32), 'b')
    assert classifier.predict(np.array([5, 1], np.float32)) == 'a'
