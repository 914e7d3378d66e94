# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The budget of tuning and the choice of frames that are worth a label."""

from __future__ import annotations

from itertools import combinations
import math

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies
import numpy as np
import pytest

from etuner_ros.core.budget import Budget
from etuner_ros.core.config import BudgetConfig
from etuner_ros.core.config import LabelValueConfig
from etuner_ros.core.label_value import LabelValue
from etuner_ros.core.label_value import Pick


def test_without_limits_a_round_may_always_start():
    budget = Budget()
    budget.on_round(0.0, seconds=1e6, joules=1e9)
    budget.on_battery(0.01)
    budget.on_temperature(99.0)
    assert budget.refusal(0.0) == ''


def test_time_that_was_overdrawn_is_paid_back_by_waiting():
    budget = Budget(BudgetConfig(seconds_per_hour=360.0))  # a tenth of the time
    budget.on_round(100.0, 300.0)
    assert budget.refusal(100.0) == '', 'a minute is left'
    budget.on_round(100.0, 90.0)
    assert 'tuning time' in budget.refusal(100.0)
    assert budget.refusal(100.0 + 299.0), 'thirty seconds too many take five minutes'
    assert budget.refusal(100.0 + 301.0) == ''


def test_idle_hours_do_not_add_up():
    budget = Budget(BudgetConfig(joules_per_hour=1000.0))
    assert budget.refusal(0.0) == ''
    budget.on_round(100 * 3600.0, 1.0, joules=1500.0)
    assert 'energy' in budget.refusal(100 * 3600.0)
    assert budget.refusal(101 * 3600.0) == ''


def test_energy_that_nobody_measured_is_not_counted_as_none_or_any():
    budget = Budget(BudgetConfig(joules_per_hour=1.0, seconds_per_hour=10.0))
    budget.on_round(0.0, 5.0, joules=math.nan)
    assert budget.refusal(0.0) == ''
    budget.on_round(0.0, 6.0, joules=math.nan)
    assert 'tuning time' in budget.refusal(0.0)


def test_a_clock_that_jumps_back_gives_nothing():
    budget = Budget(BudgetConfig(seconds_per_hour=10.0))
    budget.on_round(5000.0, 20.0)
    assert budget.refusal(0.0)
    assert budget.refusal(1.0)


@pytest.mark.parametrize(
    ('config', 'event', 'bad', 'between', 'good', 'word'),
    [
        (BudgetConfig(min_battery=0.3), 'on_battery', 0.29, 0.32, 0.36, 'battery'),
        (BudgetConfig(max_temperature=80.0), 'on_temperature', 81.0, 77.0, 74.0, 'degrees'),
    ],
)
def test_battery_and_temperature_stop_rounds_until_they_recovered_by_a_margin(
    config, event, bad, between, good, word
):
    budget = Budget(config)
    note = getattr(budget, event)
    note(between)
    assert budget.refusal(0.0) == ''
    note(bad)
    assert word in budget.refusal(0.0)
    note(between)
    assert word in budget.refusal(0.0)
    note(math.nan)
    assert word in budget.refusal(0.0), 'a sensor without a value changes nothing'
    note(good)
    assert budget.refusal(0.0) == ''


def test_a_budget_goes_on_where_it_was():
    budget = Budget(BudgetConfig(seconds_per_hour=60.0))
    budget.on_round(0.0, 90.0)
    other = Budget(budget.config)
    other.load_state_dict(budget.state_dict())
    assert other.refusal(0.0) == budget.refusal(0.0) != ''


def blobs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of four kinds, the first seen most often; and how sure the robot is of each."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, count, p=[0.85, 0.05, 0.05, 0.05])
    features = np.eye(8)[kinds] * 5 + rng.normal(size=(count, 8)) * 0.2
    return features, rng.uniform(0.4, 0.6, count)


def test_chosen_frames_are_different_from_each_other():
    features, confidence = blobs(0, 200)
    chooser = LabelValue(LabelValueConfig(count=4))
    for i, (feature, sure) in enumerate(zip(features, confidence)):
        chooser.offer(i, sure, feature)
    kinds = {int(np.argmax(features[p.key])) for p in chooser.take()}
    assert kinds == {0, 1, 2, 3}, 'the rare kinds too'
    assert chooser.take() == []


def test_among_equals_the_uncertain_ones_are_chosen():
    chooser = LabelValue(LabelValueConfig(count=2, reluctance=0.0))
    for i, sure in enumerate([0.9, 0.8, 0.2, 0.95, 0.1, 0.7]):
        chooser.offer(i, sure, [1.0, 0.0])
    assert [p.key for p in chooser.take()] == [4, 2]


@settings(max_examples=40, deadline=None)
@given(strategies.integers(0, 10_000), strategies.integers(1, 4))
def test_one_pass_reaches_at_least_a_quarter_of_the_best_choice(seed, count):
    rng = np.random.default_rng(seed)
    features, confidence = rng.normal(size=(9, 3)), rng.uniform(0, 1, 9)
    chooser = LabelValue(LabelValueConfig(count=count, reluctance=1.0))
    everything = LabelValue(LabelValueConfig(count=9))
    for i in range(9):
        chooser.offer(i, confidence[i], features[i])
        everything.offer(i, confidence[i], features[i])
        assert len(chooser.picks) <= count
    best = max(chooser.value(list(s)) for s in combinations(everything.picks, count))
    assert chooser.value(chooser.picks) >= 0.25 * best


def test_a_frame_that_can_not_be_compared_is_refused():
    chooser = LabelValue()
    chooser.offer(0, 0.5, [1.0, 2.0])
    for confidence, feature in ((0.5, [1.0]), (0.5, [math.nan, 1.0]), (1.5, [1.0, 1.0])):
        with pytest.raises(ValueError, match='feature'):
            chooser.offer(1, confidence, feature)
    assert [p.key for p in chooser.picks] == [0]


def test_other_limits_keep_what_was_spent_and_what_is_known_of_the_board():
    budget = Budget(BudgetConfig(seconds_per_hour=100))
    budget.on_round(0.0, 60.0)
    budget.on_battery(0.2)
    budget.configure(BudgetConfig(seconds_per_hour=50, min_battery=0.3))
    assert budget.refusal(0.0) == 'the battery is at 20 %'
    budget.configure(BudgetConfig(seconds_per_hour=50))
    assert 'tuning time is used up' in budget.refusal(0.0)
    budget.configure(BudgetConfig(seconds_per_hour=70, joules_per_hour=5))
    assert budget.refusal(0.0) == ''


@given(strategies.integers(2, 6), strategies.integers(0, 10_000))
def test_the_gain_of_every_exchange_is_the_difference_of_the_values(count, seed):
    rng = np.random.default_rng(seed)
    chooser = LabelValue(LabelValueConfig(count=count, diversity=0.7))
    for number in range(count):
        chooser.offer(number, float(rng.random()), rng.normal(size=4))
    feature = rng.normal(size=4)
    new = Pick('new', float(rng.random()), feature / np.linalg.norm(feature))
    picks = chooser.picks
    expected = [
        chooser.value([*picks[:i], new, *picks[i + 1 :]]) - chooser.value(picks)
        for i in range(count)
    ]
    assert np.allclose(chooser._gains(new), expected, atol=1e-9)
