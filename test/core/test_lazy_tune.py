# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""LazyTune decides when a round starts."""

from __future__ import annotations

from dataclasses import replace
import json
import math

from hypothesis import given, strategies
import numpy as np
import pytest
from scipy.optimize import nnls

from etuner_ros.core.config import LazyTuneConfig, TrainConfig
from etuner_ros.core.decide.lazy_tune import (
    fit_line_nnls,
    fit_progress,
    LazyTune,
    LEAST_COMPARED,
    LEAST_TO_RETREAT,
    Prospects,
    RETRY,
    RETRY_TRIAL,
)
from etuner_ros.core.errors import ConfigError, StateError


def after_rounds(accuracies: list[float], **settings: float) -> LazyTune:
    lazy = LazyTune(LazyTuneConfig(economy=0.0, **settings))
    for accuracy in accuracies:
        lazy.on_batch(lazy.batches_needed)
        lazy.on_round_start()
        lazy.on_round_end(10, accuracy)
    return lazy


def test_the_first_batch_starts_a_round():
    lazy = LazyTune(LazyTuneConfig(economy=0.0))
    assert not lazy.should_tune
    lazy.on_batch()
    assert lazy.should_tune


def test_a_round_starts_at_exactly_the_batches_needed():
    lazy = after_rounds([0.5, 0.6])
    needed = lazy.batches_needed
    assert needed > 1
    lazy.on_batch(needed - 1)
    assert not lazy.should_tune
    lazy.on_batch()
    assert lazy.should_tune


def test_diminishing_returns_merge_more_batches():
    eager = after_rounds([0.30, 0.45, 0.60, 0.74], max_batches=20)
    sated = after_rounds([0.80, 0.85, 0.86, 0.862], max_batches=20)
    assert sated.batches_needed > eager.batches_needed


def test_a_round_waits_for_a_share_of_what_the_last_one_gained_and_no_less_than_the_floor() -> (
    None
):
    fast, slow = [0.30, 0.45, 0.60, 0.74], [0.80, 0.85, 0.86, 0.862]

    def needed(accuracies: list[float], share: float, floor: float) -> int:
        settings = {'gain_share': share, 'gain_floor': floor}
        return after_rounds(accuracies, max_batches=50, **settings).batches_needed

    assert 1 < needed(fast, 0.5, 0.001) < needed(fast, 1.0, 0.001), 'the share of 14 points'
    assert needed(fast, 0.5, 0.001) == needed(fast, 0.5, 0.05), 'which is above the floor'
    assert needed(slow, 0.5, 0.001) < needed(slow, 0.5, 0.005) < needed(slow, 0.5, 0.01)


def test_batches_needed_is_capped():
    assert after_rounds([0.9] * 8, max_batches=5).batches_needed == 5


def test_requests_lower_the_batches_needed_but_never_below_one():
    lazy = after_rounds([0.9] * 8, max_batches=6, request_decay=0.5)
    before = lazy.batches_needed
    lazy.on_request(1000)
    assert lazy.batches_needed < before
    lazy.on_request(10**9)
    assert lazy.batches_needed == 1


def test_a_camera_of_some_minutes_or_hours_makes_it_eager_at_the_default_rate():
    needed = {}
    for cap in (2, 4, 8):
        lazy = after_rounds([0.9] * 8, max_batches=cap)
        served = [0, 100, 900, 9000, 90_000, 900_000]  # up to 0, 100, 1,000, 10,000 ...
        needed[cap] = [(lazy.on_request(count), lazy.batches_needed)[1] for count in served]
    assert needed == {  # the table of its documentation, and what 100 change
        2: [2, 2, 2, 1, 1, 1],
        4: [4, 4, 4, 2, 2, 1],
        8: [8, 8, 7, 4, 3, 2],
    }
    lazy.on_batch()
    lazy.on_round_start()
    lazy.on_round_end(10, 0.9)
    assert lazy.batches_needed == 8, 'requests count since the last round'


def test_without_decay_requests_change_nothing():
    lazy = after_rounds([0.9] * 8, max_batches=4, request_decay=0.0)
    lazy.on_request(10**9)
    assert lazy.batches_needed == 4


def test_a_scenario_change_makes_it_eager_again_and_keeps_what_waits():
    lazy = after_rounds([0.9] * 8)
    lazy.on_batch()
    assert not lazy.should_tune
    lazy.on_scenario_change()
    assert lazy.batches_needed == 1
    assert lazy.should_tune


@pytest.mark.parametrize('what', ['surroundings', 'retreat'])
def test_in_new_surroundings_and_after_a_retreat_progress_is_looked_at_anew(what: str) -> None:
    lazy = after_rounds([0.80, 0.85, 0.86, 0.862], max_batches=20)
    assert lazy.batches_needed > 4
    assert 'predicted gain' in lazy.reason
    if what == 'surroundings':
        lazy.on_scenario_change()
    else:
        lazy.on_retreat_start()
        lazy.on_retreat_end(accepted=True)
    assert lazy.batches_needed == 1
    assert 'predicted gain' not in lazy.reason
    fresh = after_rounds([], max_batches=20)
    for accuracy in (0.3, 0.4, 0.45, 0.47):
        for each in (lazy, fresh):
            each.on_batch(each.batches_needed)
            each.on_round_start()
            each.on_round_end(10, accuracy)
        assert lazy.reason == fresh.reason


def test_a_batch_with_a_new_class_starts_a_round():
    lazy = after_rounds([0.9] * 8)
    lazy.on_batch(new_classes=True)
    assert lazy.should_tune


def test_confirmations_alone_start_a_round_only_when_the_cap_is_reached():
    lazy = LazyTune(LazyTuneConfig(economy=0.0, max_batches=4))
    lazy.on_batch(3, errors=0)
    assert not lazy.should_tune
    assert 'all predicted right' in lazy.reason
    lazy.on_batch(errors=0)
    assert lazy.should_tune
    lazy.on_round_start()
    lazy.on_scenario_change()
    lazy.on_batch(errors=1)
    assert lazy.should_tune


def test_a_failed_round_gives_its_batches_back():
    lazy = LazyTune(LazyTuneConfig(economy=0.0))
    lazy.on_batch(3)
    taken = lazy.on_round_start()
    assert (taken, lazy.waiting) == (3, 0)
    lazy.on_round_failed(taken)
    assert lazy.waiting == 3


def test_disabled_it_is_the_immediate_baseline():
    lazy = after_rounds([0.9] * 8, enabled=False, min_batches=8, max_batches=8)
    assert lazy.batches_needed == 1
    assert not lazy.should_tune
    lazy.on_batch(errors=0)
    assert lazy.should_tune, 'also of a batch that was predicted right'


def test_the_reason_names_the_figures():
    lazy = after_rounds([0.5, 0.6])
    lazy.on_batch()
    assert lazy.reason.startswith(f'waiting: 1 of {lazy.batches_needed} batches')


def test_a_restored_instance_decides_alike():
    lazy = after_rounds([0.5, 0.7, 0.78, 0.8])
    lazy.on_request(50)
    other = LazyTune(LazyTuneConfig(economy=0.0))
    other.load_state_dict(lazy.state_dict())
    for each in (lazy, other):
        each.on_batch(2)
        each.on_round_start()
        each.on_round_end(10, 0.81)
    assert other.state_dict() == lazy.state_dict()
    assert other.reason == lazy.reason


def test_a_lifetime_in_one_place_makes_its_state_no_larger_and_no_other():
    """Of many rounds the newest count, as if it had been there since then."""
    long = after_rounds([0.2] * 90 + [0.5 + 0.008 * i for i in range(50)], max_batches=20)
    short = after_rounds([0.5 + 0.008 * i for i in range(50)], max_batches=20)
    assert len(json.dumps(long.state_dict())) < 1.1 * len(json.dumps(short.state_dict()))
    assert long.batches_needed == short.batches_needed > 1


def test_an_unknown_accuracy_changes_nothing():
    lazy = after_rounds([0.5, 0.6])
    before = lazy.batches_needed
    lazy.on_round_end(10, math.nan)
    assert lazy.batches_needed == before


@given(
    strategies.lists(
        strategies.tuples(strategies.integers(0, 10_000), strategies.floats(-50, 50)),
        min_size=2,
        max_size=8,
    )
)
def test_the_closed_form_is_the_nnls_of_scipy(points):
    x, y = [float(p[0]) for p in points], [p[1] for p in points]  # training iterations
    slope, offset, squared = fit_line_nnls(x, y)
    assert slope >= 0
    assert offset >= 0
    _, residual = nnls(np.array([x, np.ones(len(x))]).T, np.array(y))
    assert squared == pytest.approx(residual**2, rel=1e-5, abs=1e-6)


def test_the_progress_curve_recovers_a_curve_of_its_own_form():
    truth = [(k, 0.9 - 1.0 / (0.2 * k + 2.0)) for k in (5, 10, 20, 40)]
    curve = fit_progress(truth)
    assert curve is not None
    assert curve.accuracy(80) == pytest.approx(0.9 - 1.0 / 18.0, abs=0.02)


@given(
    strategies.lists(
        strategies.one_of(
            strategies.tuples(strategies.just('batch'), strategies.integers(1, 5)),
            strategies.tuples(strategies.just('request'), strategies.integers(1, 10**6)),
            strategies.tuples(strategies.just('round'), strategies.floats(0, 1)),
            strategies.tuples(strategies.just('change'), strategies.none()),
        ),
        max_size=40,
    )
)
def test_batches_needed_stays_between_one_and_the_cap(events):
    lazy = LazyTune(LazyTuneConfig(economy=0.0, max_batches=7))
    for kind, value in events:
        if kind == 'batch':
            lazy.on_batch(value)
        elif kind == 'request':
            lazy.on_request(value)
        elif kind == 'round':
            lazy.on_round_start()
            lazy.on_round_end(8, value)
        else:
            lazy.on_scenario_change()
        assert 1 <= lazy.batches_needed <= 7
        assert lazy.waiting >= 0


def test_settings_out_of_range_are_refused_with_name_and_bounds():
    with pytest.raises(ConfigError, match=r'max_batches must be between 1 and 1000, got 0'):
        LazyTuneConfig(economy=0.0, max_batches=0)
    with pytest.raises(ConfigError, match='gain_share'):
        LazyTuneConfig(economy=0.0, gain_share=math.nan)
    with pytest.raises(ConfigError, match=r"cache_precision must be one of 'float32'.*got 'int4'"):
        TrainConfig(cache_precision='int4')


@pytest.mark.parametrize('what', ['surroundings', 'class'])
def test_new_surroundings_and_a_new_class_start_a_round_however_much_it_waits_for(what):
    lazy = LazyTune(LazyTuneConfig(economy=0.0, min_batches=128, max_batches=128))
    assert lazy.batches_needed == 128
    if what == 'surroundings':
        lazy.on_scenario_change()
    lazy.on_batch(new_classes=what == 'class', errors=1)
    assert lazy.batches_needed == 1
    assert lazy.should_tune
    assert 'new surroundings or a new class' in lazy.reason
    taken = lazy.on_round_start()
    lazy.on_round_failed(taken)
    assert lazy.should_tune, 'nothing was learned of it yet'
    lazy.on_round_start()
    lazy.on_round_end(10, 0.5)
    assert lazy.batches_needed >= 128


def test_a_class_that_comes_while_a_round_runs_starts_the_next_one():
    lazy = after_rounds([0.9] * 8)
    lazy.on_batch(4)
    lazy.on_round_start()
    lazy.on_batch(new_classes=True)
    lazy.on_round_end(10, 0.9)
    assert lazy.should_tune


def test_fewest_batches_hold_for_what_the_progress_of_rounds_says():
    lazy = after_rounds([0.5, 0.7], min_batches=3)
    assert lazy.batches_needed == 3
    lazy.on_batch(2)
    assert not lazy.should_tune
    lazy.on_request(100_000)
    assert lazy.should_tune


def test_batches_that_will_arrive_again_are_not_counted_twice():
    lazy = LazyTune(LazyTuneConfig(economy=0.0))
    lazy.on_batch(3)
    lazy.forget_waiting()
    assert not lazy.should_tune


def test_new_surroundings_are_not_forgotten_when_the_worker_dies_in_their_first_round():
    lazy = after_rounds([0.9] * 8)
    lazy.on_scenario_change()
    lazy.on_batch()
    lazy.on_round_start()
    lazy.forget_waiting()
    lazy.on_batch()
    assert lazy.should_tune
    lazy.on_round_start()
    lazy.on_round_end(10, 0.9)
    lazy.on_round_end(10, 0.9)
    lazy.forget_waiting()
    lazy.on_batch()
    assert not lazy.should_tune, 'they were learned'


def test_other_settings_keep_what_was_seen():
    lazy = after_rounds([0.9] * 8)
    lazy.on_batch()
    lazy.configure(LazyTuneConfig(economy=0.0, max_batches=2))
    assert (lazy.waiting, lazy.batches_needed) == (1, 2)


def test_it_goes_on_after_a_restart_by_what_was_written_to_a_file():
    lazy = after_rounds([0.5, 0.7, 0.78, 0.8])
    lazy.on_request(5000)
    lazy.on_scenario_change()
    lazy.on_batch(2, errors=0)
    other = LazyTune(lazy.config)
    other.load_state_dict(json.loads(json.dumps(lazy.state_dict(), allow_nan=False)))
    assert (other.reason, other.state_dict()) == (lazy.reason, lazy.state_dict())


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('urgent', None),  # as an earlier release, which did not have it
        ('waiting', -1),
        ('waiting', True),
        ('chosen', 'four'),
        ('chosen', math.inf),
        ('chosen', 10**400),
        ('points', [[1.0, 0.5], [2.0]]),
        ('points', [[1.0, 1.5]]),
        ('gain', math.nan),
    ],
)
def test_state_that_is_damaged_or_old_is_refused_by_name_and_changes_nothing(key, value):
    state = after_rounds([0.5, 0.7, 0.78]).state_dict()
    state[key] = value
    if value is None:
        del state[key]
    lazy = after_rounds([0.9] * 8)
    before = lazy.state_dict()
    with pytest.raises(StateError, match=rf"LazyTune: '{key}'"):
        lazy.load_state_dict(state)
    with pytest.raises(StateError, match='a mapping is needed, got list'):
        lazy.load_state_dict([])
    assert lazy.state_dict() == before


def thrifty(
    gained: int, passes: int = 480, economy: float = 0.5, new: int = 64, lost: int = 0
) -> LazyTune:
    """Return one to which a batch came, and what the worker says of 64 labels."""
    lazy = LazyTune(LazyTuneConfig(economy=economy))
    lazy.on_batch()
    lazy.on_prospects(Prospects(new, passes, True, 64, gained, lost))
    return lazy


def test_rounds_have_to_bring_something_in_proportion_to_what_they_take() -> None:
    assert thrifty(2).should_tune  # 2 of 64 won, 1.92 needed
    assert not thrifty(1).should_tune
    assert not thrifty(2, passes=520).should_tune
    assert not thrifty(2, economy=0.6).should_tune
    assert not thrifty(10, lost=9).should_tune, 'what they lose counts as well'
    assert thrifty(1, new=128).should_tune, 'one that brings little waits for more labels'
    assert thrifty(0, 10_000, economy=0.0).should_tune, "the paper's rule alone"


def test_where_they_bring_nothing_it_is_tried_again_after_many_labels() -> None:
    assert not thrifty(0, lost=3, new=RETRY - 1).should_tune
    assert thrifty(0, lost=3, new=RETRY).should_tune


def test_the_first_round_is_a_trial_and_what_follows_waits_for_what_it_brought() -> None:
    lazy = LazyTune(LazyTuneConfig(economy=1.0))
    lazy.on_batch()
    assert not lazy.should_tune, 'the worker has said nothing'
    lazy.on_prospects(Prospects(64, 480, False))
    assert lazy.should_tune
    lazy.on_round_start()
    lazy.on_round_end(16, 0.5)
    lazy.on_batch(count=4)
    assert not lazy.should_tune, 'what was said was of the weights before'
    lazy.on_prospects(Prospects(64, 480, True, LEAST_COMPARED - 1, 20, 0))
    assert not lazy.should_tune, 'a few labels are no evidence'
    lazy.on_prospects(Prospects(64, 480, True, LEAST_COMPARED, 20, 0))
    assert lazy.should_tune


def test_an_empty_worker_and_a_newer_batch_are_no_reason_for_a_round() -> None:
    lazy = LazyTune(LazyTuneConfig(economy=0.5))
    lazy.on_prospects(Prospects(0, 0, False))
    lazy.on_batch(new_classes=True)
    assert not lazy.should_tune
    lazy.on_prospects(Prospects(0, 0, False))
    assert not lazy.should_tune
    lazy.on_prospects(Prospects(64, 480, False))
    assert lazy.should_tune
    lazy.on_batch()
    assert not lazy.should_tune, 'what was said is of the labels before'


def test_batches_of_a_single_label_start_no_trial_that_nothing_could_judge() -> None:
    lazy = LazyTune(LazyTuneConfig(economy=0.5, min_batches=8))
    lazy.on_request(100_000)  # of a fast camera: hardly any batch is waited for
    for new in range(1, 40):
        lazy.on_batch()
        lazy.on_prospects(Prospects(new, 480, False))
        assert lazy.should_tune == (new >= 48)
        if new < 48:
            assert f'a trial needs 48 labels to train on, {new} wait' in lazy.reason


def test_with_an_economy_a_new_class_is_no_reason_to_hurry() -> None:
    """The instant head has learned it already."""
    lazy = LazyTune(LazyTuneConfig(economy=0.5, min_batches=4))
    lazy.on_batch(new_classes=True)
    lazy.on_prospects(Prospects(64, 480, False))
    assert lazy.batches_needed == 4
    assert not lazy.should_tune


def test_it_says_what_rounds_have_brought() -> None:
    reason = thrifty(3, lost=2).reason
    assert 'won 3 and lost 2 of 64 labels so far' in reason
    assert 'one of 480 passes' in reason


def test_a_refused_trial_is_not_repeated_with_every_batch() -> None:
    lazy = LazyTune(LazyTuneConfig(economy=0.5))
    lazy.on_round_end(16, 0.5, accepted=False)
    again = LazyTune(lazy.config)
    again.load_state_dict(lazy.state_dict())
    for each in (lazy, again):
        each.on_batch(count=4)
        each.on_prospects(Prospects(RETRY_TRIAL - 1, 480, False))
        assert not each.should_tune
        assert f'the gate refused the trial: another one with {RETRY_TRIAL}' in each.reason
        each.on_prospects(Prospects(RETRY_TRIAL, 480, False))
        assert each.should_tune


def test_after_a_refused_round_the_next_one_has_to_bring_more() -> None:
    for gained, worth in ((7, False), (8, True)):
        lazy = LazyTune(LazyTuneConfig(economy=0.5))
        lazy.on_round_end(16, 0.5, accepted=False)
        lazy.on_batch(count=4)
        lazy.on_prospects(Prospects(64, 480, True, 64, gained, 0))
        assert lazy.should_tune == worth


def lost(new: int = 64, compared: int = 64, since: int = LEAST_TO_RETREAT) -> Prospects:
    """Return what the worker says where rounds have lost two labels and won one."""
    return Prospects(new, 480, True, compared, 1, 2, since)


def eager(told: Prospects, economy: float = 0.5) -> LazyTune:
    """Return one to which a batch came, and what the worker said of it."""
    lazy = LazyTune(LazyTuneConfig(economy=economy))
    lazy.on_batch()
    lazy.on_prospects(told)
    return lazy


def test_rounds_that_have_lost_more_than_they_have_won_are_taken_back() -> None:
    assert eager(lost()).wants_retreat
    assert not eager(replace(lost(), gained=2)).wants_retreat
    assert not eager(lost(), economy=0.0).wants_retreat, "not by the paper's rule"
    assert not eager(replace(lost(), tuned=False)).wants_retreat
    few = lost(compared=112, since=LEAST_TO_RETREAT - 1)
    assert not eager(few).wants_retreat, 'what was compared tells of the round before'


def test_a_retreat_that_the_gate_refused_is_tried_again_when_more_was_compared() -> None:
    lazy = eager(lost())
    lazy.on_retreat_start()
    lazy.on_retreat_end(accepted=False)
    lazy.on_prospects(lost(new=80))
    assert not lazy.wants_retreat
    lazy.on_prospects(lost(new=80, compared=88))
    assert lazy.wants_retreat


def test_a_retreat_that_nobody_judged_is_tried_again_with_the_next_label() -> None:
    lazy = eager(lost())
    lazy.on_retreat_start()
    lazy.on_prospects(lost())
    assert not lazy.wants_retreat, 'what failed would fail again at once'
    lazy.on_prospects(lost(new=65))
    assert lazy.wants_retreat


def test_after_a_retreat_the_next_trial_waits_for_many_labels_also_after_a_restart() -> None:
    lazy = eager(lost())
    lazy.on_retreat_start()
    lazy.on_retreat_end(accepted=True)
    again = LazyTune(lazy.config)
    again.load_state_dict(lazy.state_dict())
    for each in (lazy, again):
        each.on_batch(count=8)
        each.on_prospects(Prospects(RETRY - 1, 480, False))
        assert not each.should_tune
        assert f'lost more than it won: another one with {RETRY} new labels' in each.reason
        each.on_prospects(Prospects(RETRY, 480, False))
        assert each.should_tune
    lazy.on_round_start()
    lazy.on_round_end(16, 0.5)
    lazy.on_batch(count=8)
    lazy.on_prospects(Prospects(64, 480, False))
    assert lazy.should_tune, 'by what that trial has shown'
    lazy.on_prospects(lost())
    assert lazy.wants_retreat, 'as the first one, with the very same figures'


def test_the_gate_is_named_only_where_it_has_refused() -> None:
    fresh = eager(Prospects(0, 0, False))
    assert not fresh.should_tune
    assert 'refused' not in fresh.reason


def test_state_of_a_version_that_knew_no_retreat_loads() -> None:
    state = LazyTune().state_dict()
    del state['retreated']
    LazyTune().load_state_dict(state)
    with pytest.raises(StateError, match="LazyTune: 'retreated'"):
        LazyTune().load_state_dict({**state, 'retreated': 3})
