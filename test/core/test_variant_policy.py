# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which variant serves: limits, hysteresis, recovery, missing readings, bad input."""

from __future__ import annotations

from dataclasses import replace
import json
import math

from hypothesis import given, strategies
import pytest

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.serve.power_budget import PowerBudget
from etuner_ros.core.serve.variant_policy import VariantPolicy, VariantPolicyConfig
from etuner_ros.core.serve.variants import read_variants, Variant

TINY = Variant(96, 'int8', 2.0, 2.4, 0.74, joules=0.02)
SMALL = Variant(128, 'int8', 4.0, 4.8, 0.80, joules=0.04)
LARGE = Variant(224, 'int8', 8.0, 9.6, 0.85, joules=0.08)
ALL = (SMALL, LARGE, TINY)
RATE = 25.0  # so they take 0.5, 1 and 2 W


class Robot:
    """A policy with a clock, and readings that are the same until a test says otherwise."""

    def __init__(self, variants=ALL, **limits) -> None:
        self.now = 100.0
        self.policy = VariantPolicy(variants, VariantPolicyConfig(**limits), lambda: self.now)
        self.load, self.celsius, self.charge, self.watts, self.rate = 1.0, 40.0, 0.9, 5.0, RATE
        self.latency_more = 0.0

    def step(self, seconds: float = 1.0) -> str:
        """Hear everything that is not None, choose, let time pass; return what serves."""
        policy = self.policy
        if self.rate is not None:
            policy.on_rate(self.rate)
        if self.celsius is not None:
            policy.on_temperature(self.celsius)
        if self.charge is not None:
            policy.on_battery(self.charge, self.watts)
        if self.load is not None:
            for _ in range(20):
                ms = self.load * policy.current.p50_ms
                policy.on_prediction(ms, ms + self.latency_more)
        name = policy.choose().name
        self.now += seconds
        return name

    def run(self, seconds: int) -> list[str]:
        """Return what served in each second."""
        return [self.step() for _ in range(seconds)]


def test_without_limits_the_most_accurate_serves_at_once():
    robot = Robot()
    assert robot.step() == LARGE.name
    assert robot.policy.fits
    assert robot.policy.reason == '224 px int8: the most accurate'


def test_a_deadline_rules_out_by_the_table_before_anything_was_predicted():
    policy = VariantPolicy(ALL, VariantPolicyConfig(deadline_ms=9.0))
    assert policy.choose() == SMALL
    assert policy.reason == '128 px int8: 224 px int8 would be late 7 % of the time'


def test_load_slows_down_at_once_and_lets_up_slowly():
    robot = Robot(deadline_ms=12.0, dwell_s=20.0)
    assert robot.step() == LARGE.name
    robot.load = 2.0
    robot.step()
    assert robot.step() == SMALL.name, 'the step after it was heard'
    robot.run(30)
    robot.load = 1.0
    served = robot.run(40)
    assert served[:19] == [SMALL.name] * 19
    assert served[-1] == LARGE.name
    assert served.index(LARGE.name) in (20, 21, 22)


def test_one_slow_prediction_is_not_a_load():
    robot = Robot(deadline_ms=12.0)
    robot.run(5)
    robot.policy.on_prediction(200.0)
    assert robot.policy.choose() == LARGE


def test_a_camera_that_is_too_fast_for_it_rules_a_variant_out():
    robot = Robot()
    robot.step()
    robot.rate = 120.0  # 8.3 ms between two frames
    robot.step()
    assert robot.policy.current == SMALL
    assert 'would take 8.0 ms of the 8.3 between two frames' in robot.policy.reason


def test_what_comes_late_is_left_also_when_the_table_says_that_it_fits():
    robot = Robot(deadline_ms=20.0, max_late=0.02)
    robot.run(2)
    for ms in [8.0] * 160 + [30.0] * 40:  # the median is as it was
        robot.policy.on_prediction(ms)
    for _ in range(20):
        robot.policy.on_prediction(8.0)
    assert robot.policy.choose() == SMALL
    assert robot.policy.reason == '128 px int8: 224 px int8 came late 20 % of the time'


@pytest.mark.parametrize(
    ('late', 'of', 'leaves'),
    [(1, 1, False), (26, 200, False), (32, 200, True)],  # two deviations above 20 are 28.5
)
def test_what_chance_makes_of_the_share_that_may_be_late_is_no_reason_to_leave(late, of, leaves):
    robot = Robot(deadline_ms=20.0, max_late=0.1)
    robot.load = None
    robot.step()
    for ms in [30.0] * late + [8.0] * (of - late):
        robot.policy.on_prediction(ms)
    assert robot.step() == (SMALL if leaves else LARGE).name


def wait_after_being_late(robot: Robot) -> float:
    """Let what serves be late; return after how long it serves again, in s."""
    for ms in [30.0] * 30 + [8.0] * 30:
        robot.policy.on_prediction(ms)
    assert robot.step() != LARGE.name
    began = robot.now
    while robot.step() != LARGE.name:
        assert robot.now < began + 200.0
    return robot.now - began


def test_each_time_that_it_was_late_a_variant_waits_twice_as_long():
    robot = Robot(deadline_ms=20.0, max_late=0.02, dwell_s=10.0)
    robot.run(2)
    waits = [wait_after_being_late(robot) for _ in range(3)]
    assert waits[1] > 1.7 * waits[0]
    assert waits[2] > 1.7 * waits[1]


def test_no_variant_waits_longer_than_32_times_its_wait():
    robot = Robot(deadline_ms=20.0, max_late=0.02, dwell_s=1.0)
    robot.run(2)
    waits = [wait_after_being_late(robot) for _ in range(8)]
    assert waits[-1] == pytest.approx(32.0, abs=2.0)


def test_without_a_wait_what_is_better_serves_at_once():
    robot = Robot(deadline_ms=12.0, dwell_s=0.0)
    robot.load = 2.0
    robot.run(3)
    assert robot.policy.current == SMALL
    robot.load = 1.0
    robot.step(0.0)
    assert robot.step(0.0) == LARGE.name


def test_what_was_in_time_for_twice_its_wait_waits_as_long_as_at_first():
    robot = Robot(deadline_ms=20.0, max_late=0.02, dwell_s=10.0)
    robot.run(2)
    first = wait_after_being_late(robot)
    assert set(robot.run(30)) == {LARGE.name}, 'not yet twice the 20 s'
    assert wait_after_being_late(robot) > 1.7 * first
    assert set(robot.run(90)) == {LARGE.name}
    assert wait_after_being_late(robot) == first


def test_what_was_late_waits_longer_in_another_version_too():
    robot = Robot(deadline_ms=20.0, max_late=0.02, dwell_s=10.0)
    robot.run(2)
    first = wait_after_being_late(robot)
    robot.policy.set_variants([replace(v, accuracy=v.accuracy + 0.01) for v in ALL])
    assert wait_after_being_late(robot) > 1.7 * first


def test_what_would_be_better_only_without_room_is_not_waited_for():
    """Else it would serve one moment and be left the next."""
    steady = replace(SMALL, accuracy=0.77, p99_ms=4.1)
    robot = Robot((steady, LARGE), deadline_ms=9.2, max_late=0.3, up_margin=0.1, dwell_s=5.0)
    robot.load = 2.0
    robot.run(3)
    assert robot.policy.current == steady
    robot.load = 1.0
    robot.run(2)
    limits = robot.policy.limits
    assert limits.value(LARGE) > limits.value(steady) > limits.value(LARGE, 0.1)
    assert not limits.refusals(0.1)[LARGE.name], 'it would fit'
    assert set(robot.run(30)) == {steady.name}
    robot.policy.configure(replace(robot.policy.config, up_margin=0.0))
    assert robot.run(30)[-1] == LARGE.name


def test_a_few_predictions_are_no_load_yet_and_old_ones_none_any_more():
    robot = Robot(deadline_ms=12.0, max_late=0.5)
    robot.load = None
    robot.step(0.0)
    for _ in range(4):  # as the first ones after a start
        robot.policy.on_prediction(11.0 * LARGE.p50_ms, 11.0)
    assert robot.policy.limits.load == 1.0
    assert robot.step(0.0) == LARGE.name
    robot.policy.on_prediction(11.0 * LARGE.p50_ms, 11.0)
    assert robot.policy.limits.load == pytest.approx(11.0)
    assert robot.step(30.0) == TINY.name
    assert robot.policy.limits.load == pytest.approx(11.0)
    robot.step(1.0)
    assert robot.policy.limits.load == 1.0, 'nobody knows what it is by now'


def test_latency_outside_of_the_model_counts_against_the_deadline():
    robot = Robot(deadline_ms=12.0)
    robot.latency_more = 5.0
    robot.run(3)
    assert robot.policy.current == SMALL
    assert 'would be late' in robot.policy.reason, 'that was foreseen'


def test_it_slows_down_before_it_is_too_hot_and_serves_the_cheapest_at_the_limit():
    robot = Robot(max_temperature=80.0, temperature_margin=10.0)
    served = []
    for robot.celsius in (60.0, 69.9, 72.0, 77.0, 80.0, 95.0):
        served.append(robot.step())
        assert robot.policy.fits
    assert served == [LARGE.name, LARGE.name, SMALL.name, TINY.name, TINY.name, TINY.name]
    robot.celsius = 60.0
    later = robot.run(60)
    assert later[8] == TINY.name
    assert later[-1] == LARGE.name


def test_a_closed_loop_with_heat_stays_below_the_limit_and_does_not_flutter():
    robot = Robot(max_temperature=70.0, temperature_margin=5.0, dwell_s=20.0)
    robot.celsius, hottest, changes, before = 40.0, 0.0, 0, ''
    for _ in range(7200):
        name = robot.step()
        watts = robot.policy.limits.watts(robot.policy.current)
        goal = 52.0 + 12.0 * watts  # 58, 64 and 76 degrees Celsius
        robot.celsius += (goal - robot.celsius) / 150.0
        hottest, changes = max(hottest, robot.celsius), changes + (name != before)
        before = name
    assert 62.0 < hottest < 70.0
    assert changes < 7200 / 20.0


def drained(robot: Robot, hours: float, capacity_wh: float, rest: float) -> set[str]:
    """Run a robot on its battery; return what served."""
    served, robot.charge = set(), 1.0
    for _ in range(int(hours * 360)):
        served.add(robot.step(10.0))
        robot.watts = rest + robot.policy.limits.watts(robot.policy.current)
        robot.charge -= robot.watts * 10.0 / 3600.0 / capacity_wh
    return served


@pytest.mark.parametrize(
    ('capacity_wh', 'served'),
    [
        (40.0, {LARGE.name}),  # enough for 5 + 2 W over 4 h, and 10 % more
        (27.5, {SMALL.name, LARGE.name, TINY.name}),
        (24.5, {TINY.name, SMALL.name}),
    ],
)
def test_a_battery_lasts_its_hours_with_what_it_can_afford(capacity_wh, served):
    robot = Robot(target_hours=4.0, min_battery=0.1, battery_wh=capacity_wh)
    assert drained(robot, 3.99, capacity_wh, 5.0) <= served
    assert robot.charge >= 0.1
    assert robot.charge <= 0.1 + 0.04 or served == {LARGE.name}


def test_a_gauge_of_whole_percents_without_power_is_enough():
    robot = Robot(target_hours=4.0, min_battery=0.1, battery_wh=27.0)
    true, used = 1.0, []
    for _ in range(4 * 360 - 1):
        robot.charge, robot.watts = round(true, 2), math.nan
        used.append(robot.step(10.0))
        true -= (5.0 + robot.policy.limits.watts(robot.policy.current)) / 360.0 / 27.0
    assert true >= 0.1
    assert set(used) > {TINY.name}


def test_below_the_least_charge_the_cheapest_serves_until_it_has_recovered():
    robot = Robot(min_battery=0.2, battery_margin=0.05)
    assert robot.run(2)[-1] == LARGE.name
    robot.charge = 0.19
    assert robot.step() == TINY.name
    assert robot.policy.reason == '96 px int8, the cheapest: the battery is at 19 %'
    assert not robot.policy.fits
    robot.charge = 0.22
    assert set(robot.run(60)) == {TINY.name}
    robot.charge = 0.26
    assert robot.run(60)[-1] == LARGE.name


def test_a_battery_without_a_known_capacity_is_said():
    robot = Robot(target_hours=4.0)
    assert robot.step() == TINY.name
    assert 'battery_wh' in robot.policy.reason
    robot.policy.on_battery(0.9, 5.0, capacity_wh=100.0)
    robot.policy.choose()
    assert robot.policy.current == LARGE


@pytest.mark.parametrize(
    ('limits', 'reading', 'lost_s'),
    [
        ({'max_temperature': 80.0}, 'celsius', 60),
        ({'min_battery': 0.2}, 'charge', 900),
    ],
)
def test_a_reading_that_stops_holds_what_serves_and_then_leaves_the_cheapest(
    limits, reading, lost_s
):
    robot = Robot(**limits, deadline_ms=15.0)
    robot.run(2)
    robot.load = 2.0
    robot.run(3)
    assert robot.policy.current == SMALL
    before = getattr(robot, reading)
    setattr(robot, reading, None)
    robot.now += 31.0  # older than a choice may stand on
    robot.load = 1.0
    served = robot.run(lost_s - 35)
    assert set(served) == {SMALL.name}, 'no step up, though there is time for it again'
    assert 'old' in robot.policy.reason
    assert robot.run(40)[-1] == TINY.name
    assert 'not been heard of' in robot.policy.reason
    setattr(robot, reading, before)
    assert robot.run(60)[-1] == LARGE.name


@pytest.mark.parametrize(
    ('limits', 'held', 'reading', 'what'),
    [
        ({'max_temperature': 80.0}, {'celsius': 78.0}, 'celsius', 'temperature'),
        ({'target_hours': 4.0, 'battery_wh': 18.0}, {'watts': 5.0}, 'charge', 'charge'),
        ({'max_temperature': 80.0}, {'rate': 200.0}, 'rate', 'camera rate'),
        ({'deadline_ms': 12.0}, {'load': 2.0}, 'load', 'time of a prediction'),
    ],
)
def test_what_was_held_back_by_a_reading_that_is_old_is_not_chosen_and_that_is_said(
    limits, held, reading, what
):
    robot = Robot(**limits)
    vars(robot).update(held)
    robot.run(3)
    assert robot.policy.current != LARGE
    assert 'old' not in robot.policy.reason
    name = robot.policy.current.name
    setattr(robot, reading, None)
    robot.now += 31.0
    assert set(robot.run(20)) == {name}
    assert robot.policy.reason == f'{name}: nothing more accurate is chosen on an old {what}'


def test_a_battery_lasts_by_the_mean_of_the_rate_and_not_by_that_of_a_moment():
    robot = Robot(target_hours=4.0, battery_wh=36.0)
    assert set(robot.run(600)) == {LARGE.name}
    robot.rate, robot.watts = 110.0, 3.0 + 8.8
    assert robot.policy.limits.watts(LARGE, robot.rate) > robot.policy.limits.battery.allowed()
    assert set(robot.run(5)) == {LARGE.name}
    assert robot.run(900)[-1] != LARGE.name, 'a quarter of an hour is more than a moment'


def test_no_more_is_taken_than_by_predictions_without_a_pause():
    limits = Robot().policy.limits
    assert limits.watts(LARGE, 50.0) == pytest.approx(4.0)
    assert limits.watts(LARGE, 1000.0) == pytest.approx(10.0), '125 of 8 ms each'


def test_a_limit_without_any_reading_is_taken_as_reached():
    robot = Robot(max_temperature=80.0)
    robot.celsius = None
    assert set(robot.run(50)) == {TINY.name}
    robot.celsius = 50.0
    assert robot.step() == LARGE.name, 'the first choice does not wait'


@pytest.mark.parametrize('bad', [math.nan, math.inf, -1.0])
def test_readings_that_are_none_are_not_heard(bad):
    robot = Robot(max_temperature=80.0, min_battery=0.1, deadline_ms=20.0)
    robot.run(2)
    robot.policy.on_battery(bad)
    robot.policy.on_rate(bad)
    robot.policy.on_prediction(bad)
    robot.policy.on_prediction(8.0, math.nan)
    if not math.isfinite(bad):
        robot.policy.on_temperature(bad)
    assert robot.policy.choose() == LARGE


def test_where_none_fits_the_cheapest_serves_and_that_is_said():
    robot = Robot(deadline_ms=1.0)
    assert robot.step() == TINY.name
    assert not robot.policy.fits
    assert 'the cheapest: none fits' in robot.policy.reason


def test_energy_that_was_not_measured_for_all_is_derived_for_all():
    unknown = replace(TINY, joules=None)
    policy = VariantPolicy((unknown, LARGE), VariantPolicyConfig(busy_watts=4.0))
    policy.on_rate(10.0)
    assert policy.limits.watts(unknown) == pytest.approx(0.08)
    assert policy.limits.watts(LARGE) == pytest.approx(0.32)


def test_what_is_known_counts_on_with_the_variants_of_another_version():
    robot = Robot(deadline_ms=12.0)
    robot.run(2)
    robot.load = 2.0
    robot.run(3)
    robot.policy.set_variants([replace(v, accuracy=v.accuracy + 0.01) for v in ALL])
    assert robot.policy.current.accuracy == pytest.approx(0.81)
    assert robot.step() == SMALL.name
    robot.policy.set_variants([replace(v, precision='fp32') for v in ALL])
    assert robot.policy.current.name == '96 px fp32'
    assert robot.step() == '128 px fp32', 'the first choice among others does not wait'


def test_other_limits_count_from_the_next_choice():
    robot = Robot()
    robot.run(2)
    robot.policy.configure(VariantPolicyConfig(deadline_ms=6.0))
    assert robot.step() == SMALL.name


readings = strategies.fixed_dictionaries(
    {
        'load': strategies.none() | strategies.floats(0.5, 5.0),
        'celsius': strategies.none() | strategies.floats(20.0, 95.0),
        'charge': strategies.none() | strategies.floats(0.0, 1.0),
        'watts': strategies.just(math.nan) | strategies.floats(-20.0, 40.0),
        'rate': strategies.none() | strategies.floats(0.0, 200.0),
        'seconds': strategies.floats(0.1, 100.0),
    }
)
LIMITS = {
    'deadline_ms': 15.0,
    'max_temperature': 80.0,
    'min_battery': 0.1,
    'target_hours': 2.0,
    'battery_wh': 20.0,
}


@given(strategies.lists(readings, max_size=40))
def test_whatever_is_heard_steps_up_are_rare_and_what_serves_fits(story):
    robot, before, chosen_before, changed = Robot(**LIMITS), None, False, -math.inf
    for heard in story:
        seconds = heard.pop('seconds')
        vars(robot).update(heard)
        at = robot.now
        robot.step(seconds)
        now = robot.policy.current
        if chosen_before and now.accuracy > before.accuracy:
            assert at - changed >= robot.policy.config.dwell_s
        if now != before:
            changed = at
        before = now
        robot.now = at
        limits = robot.policy.limits
        # The first choice that all readings stand behind does not wait.
        chosen_before = chosen_before or not (limits.lost() or limits.stale())
        refusals = robot.policy.limits.refusals(0.0)
        assert not robot.policy.fits or not refusals[now.name]
        if robot.policy.limits.lost():
            assert now == TINY
        robot.now = at + seconds
        assert robot.policy.reason.startswith(now.name)
        assert robot.policy.reason.count('\n') == 0


@given(
    strategies.floats(0.5, 5.0),
    strategies.floats(20.0, 95.0),
    strategies.floats(1.0, 200.0),
    strategies.floats(0.0, 60.0),
)
def test_with_the_same_readings_it_comes_to_rest(load, celsius, rate, dwell):
    robot = Robot(deadline_ms=15.0, max_temperature=80.0, dwell_s=dwell)
    robot.load, robot.celsius, robot.rate = load, celsius, rate
    robot.run(130)
    assert len(set(robot.run(300))) == 1


def test_a_plan_begins_anew_when_the_robot_sets_out_again():
    now = 0.0
    budget = PowerBudget(1.0, 0.0, 0.0, 0.0, 20.0, lambda: now)
    budget.on_battery(1.0, watts=15.0)
    assert budget.allowed() == pytest.approx(5.0)
    now = 3601.0
    assert budget.allowed() == math.inf, 'the hour is over'
    budget.restart()
    budget.on_battery(0.5, watts=15.0)
    assert budget.allowed() == 0.0


def test_other_hours_count_from_now_on_and_other_limits_do_not_begin_them_anew():
    now = 0.0
    budget = PowerBudget(2.0, 0.0, 0.0, 0.0, 20.0, lambda: now)
    now = 3600.0
    budget.configure(2.0, 0.1, 0.01, 0.01, 30.0)
    assert budget.seconds_left == 3600.0
    budget.configure(3.0, 0.1, 0.01, 0.01, 30.0)
    assert budget.seconds_left == 3 * 3600.0


def test_a_capacity_that_the_battery_told_counts_on_with_other_limits():
    robot = Robot(target_hours=4.0)
    robot.policy.on_battery(0.9, 5.0, capacity_wh=100.0)
    assert robot.step() == LARGE.name
    robot.policy.configure(replace(robot.policy.config, dwell_s=11.0))
    assert robot.step() == LARGE.name
    robot.policy.configure(replace(robot.policy.config, battery_wh=20.0))
    assert robot.step() == TINY.name
    robot.policy.configure(replace(robot.policy.config, battery_wh=0.0))
    assert LARGE.name in robot.run(60), 'the battery told it'


@pytest.mark.parametrize(
    ('limits', 'watts', 'allowed'),
    [
        ({}, 3.0, 7.0),  # 20 Wh in 2 h, less what the rest takes
        ({'min_battery': 0.2}, 3.0, 5.0),
        ({'margin': 0.1}, 3.0, 6.0),
        ({'reserve': 0.25}, 3.0, 4.5),
        ({'min_battery': 0.2, 'margin': 0.1, 'reserve': 0.25}, 3.0, 2.25),
        ({'min_battery': 0.2}, 9.0, 0.0),
        ({}, 0.5, 10.0),  # less than predictions are said to take: not known better
    ],
)
def test_predictions_may_take_what_the_plan_leaves_beside_the_rest_of_the_robot(
    limits, watts, allowed
):
    given = {'min_battery': 0.0, 'margin': 0.0, 'reserve': 0.0, **limits}
    budget = PowerBudget(2.0, **given, capacity_wh=20.0, clock=lambda: 0.0)
    if watts < 1.0:
        budget.on_serving(1.0)
    budget.on_battery(1.0, watts=watts)
    assert budget.allowed() == pytest.approx(allowed)


def test_what_predictions_took_since_the_last_reading_is_not_of_the_rest_of_the_robot():
    now = 0.0
    budget = PowerBudget(2.0, 0.0, 0.0, 0.0, 20.0, lambda: now)
    budget.on_battery(1.0, watts=6.0)
    budget.on_serving(4.0)
    now = 5.0
    budget.on_serving(0.0)
    now = 10.0
    budget.on_battery(1.0, watts=8.0)  # on average: 2 of predictions
    assert budget.usual_watts == pytest.approx(6.0)


def test_a_reading_after_hours_without_one_does_not_stand_for_them():
    now = 0.0
    budget = PowerBudget(20.0, 0.0, 0.0, 0.0, 100.0, lambda: now)
    for _ in range(360):
        now += 10.0
        budget.on_battery(1.0, watts=6.0)
    now += 10 * 3600.0
    budget.on_battery(0.4, watts=60.0)  # it just drives up a ramp
    assert 6.0 < budget.usual_watts < 8.0


def gauged(*parts: tuple[float, int], margin: float = 0.02, flicker: float = 0.0) -> float:
    """
    Return what a robot that takes 5 W is said to take by its gauge alone, on 20 Wh.

    :param parts: charge from which on, and for how many readings, one every two minutes
    """
    now = 0.0
    budget = PowerBudget(20.0, 0.0, margin, 0.0, 20.0, lambda: now)
    for charge, readings in parts:
        for number in range(readings):
            fallen = charge - 5.0 / 20.0 / 30.0 * number
            budget.on_battery(fallen + flicker * (number % 2))
            now += 120.0
    return budget.usual_watts


def test_a_battery_that_was_changed_meanwhile_says_nothing_of_what_the_robot_takes():
    assert gauged((0.5, 20)) == pytest.approx(5.0)
    assert gauged((0.5, 20), (1.0, 20)) == pytest.approx(5.0)


def fallen_by_gauge(rate: float, readings: int = 60, start: float = 0.3) -> PowerBudget:
    """Return a budget that heard the charge move by so much an hour, each two minutes."""
    now = 0.0
    budget = PowerBudget(20.0, 0.0, 0.01, 0.0, 20.0, lambda: now)
    for number in range(readings):
        budget.on_battery(start + rate / 30.0 * number)
        now += 120.0
    return budget


@pytest.mark.parametrize('rate', [0.2, 0.05, 0.01, 0.0])
def test_a_charge_that_rises_or_stands_still_says_nothing_of_what_the_robot_takes(rate):
    assert math.isnan(fallen_by_gauge(rate).usual_watts)
    assert fallen_by_gauge(-0.01).usual_watts == pytest.approx(0.2)


def test_after_a_slow_charge_the_robot_is_known_by_its_drive_alone():
    drive = (0.6, 20)
    slowly = [(0.3 + 0.006 * number, 1) for number in range(50)]
    assert gauged(drive, *slowly, drive, margin=0.01) == pytest.approx(5.0, rel=0.02)


def test_hours_on_a_dock_that_nobody_tells_of_do_not_make_the_line_flat():
    now = 0.0
    budget = PowerBudget(20.0, 0.0, 0.01, 0.0, 20.0, lambda: now)
    for number in range(360 + 30):
        budget.on_battery(1.0 - 5.0 / 20.0 / 30.0 * max(number - 360, 0))
        now += 120.0
    assert budget.usual_watts == pytest.approx(5.0, rel=0.2)


@pytest.mark.parametrize('charging', [True, None])
def test_what_a_dock_holds_full_teaches_nothing(charging):
    now = 0.0
    budget = PowerBudget(20.0, 0.0, 0.01, 0.0, 20.0, lambda: now)
    for number in range(380):  # it takes 5 W, and is on the dock for twelve hours
        docked = 20 <= number < 360
        drives = min(number, 20) + max(number - 360, 0)
        budget.on_battery(1.0 - 5.0 / 20.0 / 30.0 * drives, charging=charging if docked else False)
        if number >= 20:
            assert budget.usual_watts == pytest.approx(5.0)
        now += 120.0


def test_a_driver_that_says_not_charging_while_the_robot_drives_is_not_believed():
    now = 0.0
    budget = PowerBudget(1.0, 0.0, 0.01, 0.0, 20.0, lambda: now)
    for number in range(30):
        budget.on_battery(1.0 - 5.0 / 20.0 / 30.0 * number, charging=None)
        assert budget.allowed() != math.inf
        now += 120.0
    assert budget.usual_watts == pytest.approx(5.0)


def test_a_gauge_that_flickers_within_its_margin_was_not_charged():
    assert gauged((0.9, 20), flicker=0.02) == pytest.approx(5.0, abs=0.5)


def test_charging_is_no_limit_and_says_nothing_of_what_the_robot_takes():
    now = 0.0
    budget = PowerBudget(1.0, 0.0, 0.0, 0.0, 20.0, lambda: now)
    budget.on_battery(1.0, watts=15.0)
    for _ in range(60):
        now += 10.0
        budget.on_battery(1.0, watts=-30.0)
    assert budget.allowed() == math.inf
    budget.on_battery(1.0, watts=15.0)
    assert budget.usual_watts == pytest.approx(15.0)


def test_a_battery_that_tells_no_current_says_that_it_is_charged():
    now = 0.0
    budget = PowerBudget(1.0, 0.0, 0.0, 0.0, 20.0, lambda: now)
    budget.expect(15.0)
    budget.on_battery(0.5)
    assert budget.allowed() == 0.0
    budget.on_battery(0.5, charging=True)
    assert budget.allowed() == math.inf
    budget.on_battery(0.5, watts=15.0, charging=True)
    assert budget.allowed() == 0.0, 'the charger gives less than the robot takes'


def test_what_it_took_on_another_day_is_where_a_robot_starts_from():
    now = 0.0
    budget = PowerBudget(10.0, 0.0, 0.0, 0.0, 100.0, lambda: now)
    budget.expect(6.0)
    budget.on_battery(1.0, watts=9.0)
    assert budget.allowed() == pytest.approx(4.0, abs=0.1), 'not what this moment takes'
    for _ in range(3 * 360):
        now += 10.0
        budget.on_battery(1.0, watts=9.0)
    assert 7.0 < budget.usual_watts < 9.0


# Bad input


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'pixels': 0}, 'pixels must be a whole number'),
        ({'precision': ''}, 'precision must be a name'),
        ({'p50_ms': 0.0}, 'p50_ms must be more than 0'),
        ({'p50_ms': math.nan}, 'p50_ms must be more than 0'),
        ({'p99_ms': 1.0}, r'p99_ms must be at least p50_ms \(2\), got 1.0'),
        ({'accuracy': 84.0}, 'accuracy must be between 0 and 1, got 84.0'),
        ({'joules': -1.0}, 'joules must be more than 0'),
        ({'p99_ms': 'fast'}, 'p99_ms'),
    ],
)
def test_a_variant_that_can_not_be_is_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        replace(TINY, **change)


def test_no_variants_or_two_of_one_name_are_refused_and_the_old_ones_stay():
    with pytest.raises(ConfigError, match='no variants to choose from'):
        VariantPolicy([])
    policy = VariantPolicy(ALL)
    with pytest.raises(ConfigError, match='96 px int8 is there 2 times'):
        policy.set_variants([TINY, TINY])
    assert policy.choose() == LARGE


@pytest.mark.parametrize(
    ('field', 'value'), [('max_late', 0.9), ('deadline_ms', -1.0), ('dwell_s', math.nan)]
)
def test_a_limit_out_of_its_bounds_is_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        VariantPolicyConfig(**{field: value})


ROW = {'pixels': 96, 'precision': 'int8', 'p50_ms': 2.0, 'p99_ms': 2.4, 'accuracy': 0.74}


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        ('{', 'is not JSON'),
        ('{"rows": []}', "has no list 'variants'"),
        ('{"variants": []}', 'no variants to choose from'),
        ('{"variants": [3]}', 'variant 0 is not an object'),
        (json.dumps([{**ROW, 'accuracy': None}]), 'accuracy must be'),
        (json.dumps([{'pixels': 96}]), "variant 0 has no 'precision'"),
        (json.dumps([{**ROW, 'network': 'a'}, {**ROW, 'network': 'b'}]), 'name one network'),
    ],
)
def test_a_table_that_can_not_be_used_is_refused(tmp_path, content, words):
    path = tmp_path / 'table.json'
    path.write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_variants(path)


def test_a_table_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match='can not be read: No such file'):
        read_variants(tmp_path / 'none.json')


def test_tables_of_both_commands_are_read(tmp_path):
    path = tmp_path / 'table.json'
    watts = {**ROW, 'watts': 10.0, 'joules': 'unavailable', 'served': 'onnxruntime-int8'}
    path.write_text(json.dumps({'variants': [watts]}), 'utf-8-sig')  # as some editors write it
    assert read_variants(path)[0].joules == pytest.approx(0.02)
    figures = {k: v for k, v in ROW.items() if k not in ('pixels', 'precision')}
    chosen = [
        {
            'candidate': {'network': name, 'pixels': 96, 'precision': 'int8'},
            **figures,
            'joules': None,
        }
        for name in ('lite0', 'lite1')
    ]
    path.write_text(json.dumps({'measured': chosen}))
    assert read_variants(path, 'lite1') == [replace(TINY, joules=None)]
    with pytest.raises(ConfigError, match='has no lite9; it has lite0, lite1'):
        read_variants(path, 'lite9')
