# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bench of switching: its days, its little world, and what it says of the policy."""

from __future__ import annotations

from dataclasses import replace
import math
import sys

import numpy as np
import pytest

from etuner_ros.bench import switching
from etuner_ros.bench.switching import configure, play_fixed, play_policy
from etuner_ros.bench.switching_days import KINDS, make_days
from etuner_ros.bench.switching_report import summary, table
from etuner_ros.bench.switching_world import bound, costs, World
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.serve.variants import Variant

VARIANTS = (
    Variant(96, 'int8', 2.0, 2.4, 0.74, joules=0.02),
    Variant(128, 'int8', 4.0, 4.8, 0.80, joules=0.04),
    Variant(224, 'int8', 8.0, 9.6, 0.85, joules=0.08),
)


@pytest.fixture(scope='module')
def days() -> dict:
    return {day.kind: day for day in make_days(VARIANTS, [7])}


def test_there_is_a_day_of_each_kind_and_the_same_for_the_same_seed(days):
    assert len(days) == len(KINDS) == 10
    again = {day.kind: day for day in make_days(VARIANTS, [7])}
    other = {day.kind: day for day in make_days(VARIANTS, [8])}
    for kind, day in days.items():
        for name in ('motors', 'load', 'ambient', 'rate', 'battery_heard'):
            assert np.array_equal(getattr(day, name), getattr(again[kind], name))
        assert day.deadline_ms != other[kind].deadline_ms


@pytest.mark.parametrize('kind', ['bursts of others', 'camera rates', 'drop-outs', 'docked'])
def test_the_cheapest_variant_keeps_all_limits_and_nothing_is_over_the_bound(days, kind):
    day = days[kind]
    given = costs(day, VARIANTS)
    fixed = [play_fixed(day, given, VARIANTS, i) for i in range(3)]
    assert fixed[0].violations == 0
    ours, story = play_policy(day, given, VARIANTS)
    assert len(story['charge']) == day.steps
    assert ours.violations == 0
    assert ours.score == ours.within <= bound(day, given) + 1e-9
    for outcome in fixed:
        assert outcome.violations or outcome.score <= bound(day, given) + 1e-9


def test_a_battery_loses_what_is_taken_and_a_board_warms_up_to_where_it_must(days):
    day = replace(days['bursts of others'], load=np.ones(days['bursts of others'].steps))
    given = costs(day, VARIANTS)
    world = World(day, VARIANTS, given)
    while not world.over:
        world.step(1)
    watts = float(np.mean(day.board + day.motors)) + 0.04 * float(day.rate[0])
    assert world.charge == pytest.approx(1.0 - watts * day.hours / day.battery_wh, abs=1e-6)
    board = float(np.mean(day.board[-500:])) + 0.04 * float(day.rate[0])
    assert world.celsius == pytest.approx(
        float(day.ambient[-1]) + day.kelvin_per_watt * board, abs=0.5 * day.kelvin_per_watt
    )


def test_late_and_dropped_frames_are_worth_nothing(days):
    day = days['bursts of others']
    fast = replace(day, load=np.ones(day.steps), rate=np.full(day.steps, 30.0), deadline_ms=8.0)
    right = costs(fast, VARIANTS).right[0]
    assert right[0] == pytest.approx(0.74)
    assert right[2] == pytest.approx(0.5 * 0.85), 'half of them are later than the median'
    faster = replace(fast, rate=np.full(day.steps, 1000.0), deadline_ms=1000.0)
    assert costs(faster, VARIANTS).right[0, 1] == pytest.approx(0.80 / 4.0)


def test_what_is_heard_is_nothing_where_the_sensors_are_silent(days):
    day = days['drop-outs']
    world = World(day, VARIANTS, costs(day, VARIANTS))
    for _ in range(900):
        at, heard = world.at, world.hear()
        assert math.isnan(heard.charge) != day.battery_heard[at]
        assert math.isnan(heard.celsius) != day.heat_heard[at]
        world.step(0)


def test_the_report_names_the_best_fixed_choice_of_each_day(days, monkeypatch):
    monkeypatch.setattr(switching, 'make_days', lambda *_: [days['bursts of others']])
    rows, _ = switching.compare(VARIANTS, [7], 0, 0)
    (row,) = rows
    best = max(f['score'] for f in row['fixed'].values() if not f['violations'])
    assert row['best_fixed_score'] == best == row['fixed'][row['best_fixed']]['score']
    assert row['policy']['regret'] == pytest.approx(1.0 - row['policy']['score'] / best)
    found = {'summary': summary(rows), 'days': rows}
    assert found['summary']['policy']['worst_regret'] == row['policy']['regret']
    assert 'bursts of others 7' in table(found)


def test_without_the_learner_one_is_told_how_to_get_it(days, monkeypatch):
    monkeypatch.setattr(switching, 'make_days', lambda *_: [days['bursts of others']])
    monkeypatch.setitem(sys.modules, 'stable_baselines3', None)
    monkeypatch.delitem(sys.modules, 'etuner_ros.bench.switching_a2c', raising=False)
    with pytest.raises(EtunerError, match='make bench-switching'):
        switching.compare(VARIANTS, [7], 100, 1)


def test_limits_of_a_day_are_those_of_its_policy(days):
    config = configure(days['docked'])
    assert config.target_hours == days['docked'].plans[0][1]
    assert config.battery_wh == days['docked'].battery_wh
