# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The budget of tuning and the choice of frames that are worth a label."""

from __future__ import annotations

import json
import math

from hypothesis import given, settings, strategies
import numpy as np
import pytest

from etuner_ros.core.config import BudgetConfig, LabelValueConfig
from etuner_ros.core.decide.budget import Budget
from etuner_ros.core.errors import StateError
from etuner_ros.core.labels.value import LabelValue


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
    for now in (5000.0, 3000.0, 0.0):
        assert budget.refusal(now) == 'tuning time is used up for 60 min', 'and takes nothing'
    assert budget.refusal(1800.0) == 'tuning time is used up for 30 min', 'it counts from there'


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


def restarted(budget: Budget, now: float, wall: float | None, saved_at: float | None) -> Budget:
    """Return the budget of a tuner that was started again, on another monotonic clock."""
    state = json.loads(json.dumps(budget.state_dict(90.0, saved_at), allow_nan=False))
    other = Budget(budget.config)
    other.load_state_dict(state, now, wall)
    return other


def test_a_budget_goes_on_where_it_was_after_a_restart():
    budget = Budget(BudgetConfig(seconds_per_hour=60.0, joules_per_hour=100.0))
    budget.on_round(90.0, 90.0, joules=130.0)
    assert budget.refusal(90.0) == 'tuning time is used up for 30 min'
    for wall, saved_at in ((None, None), (None, 5e9), (5e9, None), (5e9, 5e9), (1.0, 5e9)):
        other = restarted(budget, 3.0, wall, saved_at)
        assert other.refusal(3.0) == 'tuning time is used up for 30 min'
    assert other.refusal(3.0 + 1801) == ''


def test_what_was_spent_is_paid_back_while_the_robot_is_off_where_the_time_of_day_is_known():
    budget = Budget(BudgetConfig(seconds_per_hour=60.0))
    budget.on_round(90.0, 90.0)
    assert restarted(budget, 3.0, 5e9 + 1200, 5e9).refusal(3.0) == (
        'tuning time is used up for 10 min'
    )
    rested = restarted(budget, 3.0, 6e9, 5e9)
    rested.on_round(3.0, 60.5)
    assert 'used up' in rested.refusal(3.0), 'no more than an hour is saved up'


def test_a_limit_that_is_new_after_a_restart_does_not_count_rounds_of_before():
    free = Budget()
    free.on_round(0.0, 5000.0)
    other = Budget(BudgetConfig(seconds_per_hour=60.0))
    other.load_state_dict(free.state_dict(0.0), 0.0)
    assert other.refusal(0.0) == ''


def test_a_battery_that_was_low_has_to_recover_by_its_margin_over_a_restart_too():
    budget = Budget(BudgetConfig(min_battery=0.3))
    budget.on_battery(0.29)
    other = restarted(budget, 0.0, None, None)
    assert other.refusal(0.0) == '', 'nothing is known of the battery yet'
    other.on_battery(0.32)
    assert other.refusal(0.0) == 'the battery is at 32 %'


@pytest.mark.parametrize(
    ('key', 'value'),
    [('seconds', -1.0), ('seconds', None), ('joules', math.nan), ('low', 1), ('wall', 'noon')],
)
def test_a_saved_budget_that_is_damaged_or_old_is_refused_by_name_and_changes_nothing(key, value):
    budget = Budget(BudgetConfig(seconds_per_hour=60.0))
    budget.on_round(0.0, 90.0)
    before = budget.state_dict(0.0)
    damaged = {**Budget().state_dict(0.0), key: value}
    if value is None:
        del damaged[key]
    with pytest.raises(StateError, match=f"Budget: '{key}'"):
        budget.load_state_dict(damaged, 0.0)
    assert budget.state_dict(0.0) == before


def blobs(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Frames of four kinds, the first seen most often; and how sure the robot is of each."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, count, p=[0.85, 0.05, 0.05, 0.05])
    features = np.eye(8)[kinds] * 5 + rng.normal(size=(count, 8)) * 0.2
    return features, rng.uniform(0.4, 0.6, count)


def asked(chooser: LabelValue, most: int = 50) -> list:
    """Return what is asked about, until nothing is worth it or `most` are."""
    found = []
    while len(found) < most and (key := chooser.choose()) is not None:
        found.append(key)
    return found


def test_every_kind_is_asked_about_before_one_is_again():
    features, confidence = blobs(0, 200)
    chooser = LabelValue()
    for i, (feature, sure) in enumerate(zip(features, confidence)):
        chooser.offer(i, sure, feature)
    kinds = [int(np.argmax(features[k])) for k in asked(chooser, 4)]
    assert kinds[0] == 0, 'what is seen most comes first'
    assert set(kinds) == {0, 1, 2, 3}, 'the rare kinds too'


def test_a_scene_that_labels_speak_for_is_left_alone():
    features, confidence = blobs(1, 400)
    chooser = LabelValue(LabelValueConfig(worth=0.05))
    for feature in features[:200]:
        chooser.know(feature)
    for i in range(200, 400):
        chooser.offer(i, confidence[i], features[i])
    assert asked(chooser) == []
    chooser.offer('new', 0.9, -features[0])
    for i in range(20):  # a kind that nothing is known of
        chooser.offer(f'new {i}', 0.9, -features[0] + 0.01 * features[i])
    assert str(asked(chooser, 1)[0]).startswith('new')


def test_among_equals_the_uncertain_ones_are_asked_about():
    chooser = LabelValue()
    rng = np.random.default_rng(0)
    for i in range(40):
        sure = 0.1 if i % 2 else 1.0
        chooser.offer(i, sure, [1.0, 0.0, 0.0] if i % 2 else [0.0, 1.0, 0.0])
        chooser.know(rng.normal(size=3) * 0.01 - 1.0)
    assert asked(chooser, 1)[0] % 2 == 1


@pytest.mark.parametrize(('often', 'kinds'), [(0, []), (20, [1, 2])])
def test_a_later_request_of_a_scene_has_to_be_worth_less(often: int, kinds: list[int]) -> None:
    """The rare kind (2) is worth the second request of a scene, and not the first one."""
    chooser, features = LabelValue(LabelValueConfig(worth=0.3, enough=0.0)), np.eye(4)
    chooser.know(features[0])
    for i in range(60):
        kind = 2 if i < 8 else 1 if i < 8 + often else 0
        chooser.offer((kind, i), 0.5, features[kind])
    assert [kind for kind, _ in asked(chooser)] == kinds


def test_when_a_frame_goes_the_others_stay_as_uncertain_as_they_were() -> None:
    chooser = LabelValue(LabelValueConfig(worth=0.0))
    chooser.offer('gone', 0.0, [0.0, 0.0, 1.0])
    for i in range(3):
        chooser.offer(('uncertain', i), 0.5, [0.0, 1.0, 0.0])
    for i in range(3):
        chooser.offer(('sure', i), 0.9, [1.0, 0.0, 0.0])
    chooser.forget('gone')
    assert asked(chooser, 1)[0][0] == 'uncertain'


def test_at_most_so_many_are_asked_about_in_a_scene_and_no_more_than_the_sample_is_kept():
    rng = np.random.default_rng(0)
    chooser = LabelValue(LabelValueConfig(count=5, worth=0.0, sample=30, memory=10))
    for scene in range(3):
        chooser.new_scene()
        for i in range(1000):
            chooser.offer((scene, i), 0.5, rng.normal(size=6))
            assert len(chooser.keys) <= 30
        assert min(i for _, i in chooser.keys) < 300 < 700 < max(i for _, i in chooser.keys)
        assert len(asked(chooser)) == 5
    assert chooser.known == 10


@settings(max_examples=40, deadline=None)
@given(strategies.integers(0, 10_000), strategies.integers(0, 3))
def test_what_is_asked_about_gains_most(seed, known):
    rng = np.random.default_rng(seed)
    features, confidence = rng.normal(size=(8 + known, 3)), rng.uniform(0, 1, 8)
    chooser = LabelValue(LabelValueConfig(worth=0.0))
    for i in range(8):
        chooser.offer(i, confidence[i], features[i])
    for feature in features[8:]:
        chooser.know(feature)
    centred = features - features.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    alike = np.exp((centred @ centred.T - 1) / chooser.config.reach)

    def value(frame: int) -> float:
        """What labels speak for when this frame has one too, in the eyes of all others."""
        spoken = [8 + k for k in range(known)] + [frame]
        others = [i for i in range(8) if i != frame]
        without = {i: max([*alike[i, spoken[:-1]], np.exp(-2 / 0.3)]) for i in others}
        return sum((2 - confidence[i]) * (alike[i, spoken].max() - without[i]) for i in others)

    gains = [max(value(i), 0.0) for i in range(8)]
    assert gains[chooser.choose()] == pytest.approx(max(gains), abs=1e-5)


def test_a_frame_that_can_not_be_compared_is_refused_and_another_network_starts_anew():
    chooser = LabelValue()
    chooser.offer(0, 0.5, [1.0, 2.0])
    for confidence, feature in ((0.5, [math.nan, 1.0]), (1.5, [1.0, 1.0])):
        with pytest.raises(ValueError, match='feature'):
            chooser.offer(1, confidence, feature)
    assert chooser.keys == [0]
    chooser.offer(2, 0.5, [1.0, 2.0, 3.0])
    assert chooser.keys == [2]


def views(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 400 frames of four kinds, 40 % to 10 % of them: of which kind each is, and its feature."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(4, 400, p=[0.4, 0.3, 0.2, 0.1])
    return kinds, np.eye(8)[kinds] * 5 + rng.normal(size=(400, 8)) * 0.2


def turned(features: np.ndarray) -> np.ndarray:
    """Return what another backbone makes of the same pictures: as like each other, elsewhere."""
    size = features.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(9).normal(size=(size, size)))[0]
    return features @ rotation * 3 + 20


def show(chooser: LabelValue, features: np.ndarray, backbone: str, first: int = 0) -> None:
    """Offer frames, numbered from `first` on."""
    for i, feature in enumerate(features, first):
        chooser.offer(i, 0.5, feature, backbone)


def test_features_of_a_backbone_are_chosen_from_as_if_no_other_had_been():
    _, features = views(3)
    chooser, alone = LabelValue(), LabelValue()
    show(chooser, features[:10], 'old')
    for each in (chooser, alone):
        show(each, turned(features[10:60]), 'new', 10)
    assert asked(chooser, 10) == asked(alone, 10)


@pytest.mark.parametrize('seed', range(6))
def test_a_scene_that_was_asked_about_is_not_asked_about_again_with_another_backbone(seed):
    _, features = views(seed)
    chooser, fresh = LabelValue(), LabelValue()
    show(chooser, features[:200], 'old')
    assert len(asked(chooser)) >= 4
    show(chooser, turned(features[200:250]), 'new', 200)
    assert asked(chooser) == [], 'nor while its frames come'
    show(chooser, turned(features[250:]), 'new', 250)
    show(fresh, turned(features[200:]), 'new', 200)
    assert 2 * len(asked(chooser)) < len(asked(fresh))
    strange = np.eye(8)[6] * 5 + np.random.default_rng(0).normal(size=(60, 8)) * 0.2
    show(chooser, turned(strange), 'new', 1000)
    assert asked(chooser, 1)[0] >= 1000, 'a kind that came later is asked about'


@pytest.mark.parametrize('before', [1, 2, 3])
def test_what_was_not_asked_about_before_the_backbone_changed_is_asked_about_after(before):
    kinds, features = views(0)
    chooser = LabelValue()
    show(chooser, features[:200], 'old')
    known = {int(kinds[k]) for k in asked(chooser, before)}
    show(chooser, turned(features[200:]), 'new', 200)
    assert known | {int(kinds[k]) for k in asked(chooser, 4 - before)} == {0, 1, 2, 3}


def test_what_labels_spoke_for_is_known_again_when_the_backbone_is_rolled_back():
    _, features = views(1)
    chooser = LabelValue()
    for feature in features[:200]:
        chooser.know(feature, 'old')
    show(chooser, turned(features[:5]), 'new')
    assert asked(chooser, 1), 'labels of a scene before do not speak for it'
    chooser.new_scene()
    show(chooser, features[200:], 'old')
    assert chooser.known == 200
    assert asked(chooser) == []


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
    budget.on_temperature(70.0)
    budget.configure(BudgetConfig(max_temperature=60.0))
    assert budget.refusal(0.0) == 'the board is at 70 degrees Celsius'


def test_a_scene_of_new_kinds_is_asked_about_though_no_single_frame_stands_for_many():
    """Each new frame is a little like known ones and like its neighbours; none gains much alone."""
    rng = np.random.default_rng(0)
    chooser = LabelValue(LabelValueConfig(worth=1.0))
    for feature in rng.normal(size=(100, 40)):
        chooser.know(feature)
    turned = rng.normal(size=(200, 40)) @ np.diag([3.0] * 8 + [0.3] * 32)
    for i, feature in enumerate(turned):
        chooser.offer(i, 0.9, feature)
    assert len(asked(chooser, 5)) == 5
    chooser.new_scene()
    for feature in turned[:150]:
        chooser.know(feature)
    for i, feature in enumerate(turned[150:]):
        chooser.offer(i, 0.9, feature)
    assert asked(chooser) == [], 'the same scene again, now that labels speak for it'
