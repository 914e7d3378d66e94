# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Gate, replay, scenario detection, novelty, frames and images: the small rules of the core."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etuner_ros.bench.nearest_mean import NearestClassMean
from etuner_ros.core.config import GateConfig
from etuner_ros.core.decide.gate import judge, mcnemar_worse, Outcome
from etuner_ros.core.decide.scenario import compressed, NoveltyScore, ScenarioDetector
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.codec import decode, encode_jpeg, resize_square
from etuner_ros.core.learn.replay import Replay, Sample


def outcomes(pairs: list[tuple[bool, bool]], label: str = 'mug') -> list[Outcome]:
    return [
        Outcome(f'{label}{i}', label, 0, live, candidate)
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


def test_the_gate_refuses_when_a_class_falls_to_zero():
    others = outcomes([(False, True)] * 40, 'duck')
    verdict = judge(others + outcomes([(True, False)] * 3, 'mug'))
    assert not verdict.accepted
    assert "'mug'" in verdict.reason


def test_without_samples_nothing_speaks_against_a_candidate():
    verdict = judge([])
    assert verdict.accepted
    assert math.isnan(verdict.live_accuracy)


def test_the_replay_stays_within_its_bytes_and_keeps_small_classes():
    replay = Replay(capacity_bytes=20 * len(Sample.of('', '', 0, picture()).jpeg))
    for i in range(3):
        replay.add(Sample.of(f'rare{i}', 'rare', 0, picture()))
    for i in range(200):
        replay.add(Sample.of(f'common{i}', 'common', 0, picture()))
    assert replay.bytes <= replay.capacity_bytes
    assert replay.counts() == {'rare': 3, 'common': 17}


def test_a_corrected_correction_replaces_the_first_one():
    replay = Replay(10**6)
    replay.add(Sample.of('x', 'mug', 0, picture()))
    replay.add(Sample.of('x', 'duck', 0, picture()))
    assert replay.counts() == {'duck': 1}


def test_replay_draws_the_asked_share_from_the_current_scenario_and_balances_the_rest():
    replay = Replay(10**9)
    for i in range(90):
        replay.add(Sample.of(f'a{i}', 'common', 0, picture()))
    for i in range(10):
        replay.add(Sample.of(f'b{i}', 'rare', 1, picture()))
    rng = np.random.default_rng(0)
    drawn = replay.draw(1000, rng, scenario=1, scenario_share=0.0)
    assert 400 < sum(s.label == 'rare' for s in drawn) < 600
    drawn = replay.draw(1000, rng, scenario=1, scenario_share=0.5)
    assert 700 < sum(s.scenario == 1 for s in drawn) < 800
    assert Replay(10).draw(4, rng, 0, 0.5) == []


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


def test_appearance_that_is_not_finite_or_missing_is_ignored():
    detector = ScenarioDetector()
    assert not detector.update([])
    assert not detector.update([math.nan] * 4)
    rng = np.random.default_rng(0)
    assert not any(detector.update(x) for x in looks(rng, 1.0, 100))


def test_a_late_label_counts_in_the_scenario_of_its_frame():
    rng = np.random.default_rng(0)
    log = ScenarioLog()
    changes = [
        i
        for i, x in enumerate([*looks(rng, 5.0, 100), *looks(rng, 9.0, 100)])
        if log.on_request('front', i, x)
    ]
    assert len(changes) == 1
    assert log.at('front', changes[0] - 1) == 0
    assert log.at('front', changes[0]) == 1
    assert log.at('rear', 150) == 0


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
