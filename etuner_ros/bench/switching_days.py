# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The ten kinds of made days that `etuner bench switching` plays.

Powers, batteries and limits are scaled to the table of variants, so that the table of any board
makes days on which the choice matters: the rest of the robot takes some 4 to 10 times what the
choice can save, its battery lasts with some variants, and is too small for others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from etuner_ros.bench.switching_traces import (
    bursts,
    BUSY_WATTS,
    Day,
    HOUR_S,
    levels,
    settled,
    STEP_S,
    walk,
)
from etuner_ros.core.serve.variants import energies, Variant

# In shares of the power between the cheapest variant and the most accurate one:
IDLE = 2.5  # of the board
OTHERS = 1.0  # of the board for each time that others make predictions slower
MOVING = 2.0  # of motors and sensors on a day on which nothing happens
WARMED_BY = 12.0  # degrees Celsius between the cheapest and the dearest variant, for long
SLACK = 0.02  # charge that the cheapest variant is sure to leave above the minimum
YESTERDAY = 500000  # seeds away, the day that the robot remembers


class _Maker:
    """Makes days for one table."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        joules = energies(variants, BUSY_WATTS)
        best = max(variants, key=lambda v: (v.accuracy, -v.p50_ms))
        self._slowest, self._latest = best.p50_ms, best.p99_ms
        self._joules = min(joules.values()), joules[best.name]
        self._rate = min(30.0, 700.0 / self._slowest)
        saved = self._joules[1] - self._joules[0]
        self.unit = self._rate * (saved if saved > 0 else self._joules[1])  # W

    def plain(self, kind: str, seed: int, hours: float, rng: np.random.Generator) -> Day:
        """Return a day on which nothing happens."""
        steps = int(hours * HOUR_S / STEP_S)
        heard, load = np.ones(steps, bool), 1.0 + 0.05 * np.abs(rng.normal(size=steps))
        return Day(
            kind,
            seed,
            board=np.full(steps, IDLE * self.unit),
            motors=np.full(steps, MOVING * self.unit),
            load=load,
            ambient=np.full(steps, 24.0),
            rate=np.full(steps, self._rate),
            battery_heard=heard,
            heat_heard=heard,
            deadline_ms=self._latest * rng.uniform(1.2, 1.5),
            kelvin_per_watt=WARMED_BY / self.unit,
            settles_s=rng.uniform(100.0, 250.0),
            plans=((0, hours),),
        )

    def with_limits(self, day: Day, battery: float = 2.0, heat: float | None = None) -> Day:
        """
        Return a day with a battery, and a limit of temperature.

        :param battery: power that predictions may take all day, as a share of the way from that of
            the cheapest variant to that of the best; more than 1 = it is large enough
        :param heat: likewise what the hottest moment allows for long; None = no limit
        """
        day = replace(day, board=day.board + OTHERS * self.unit * (day.load - 1.0))
        least, most = (np.mean(day.rate) * j for j in self._joules)
        taken = day.board + day.motors + least + battery * (most - least)
        missing, worst = 0.0, 0.0  # from full
        for watts in taken.tolist():
            missing = max(missing + watts * STEP_S / HOUR_S, 0.0)
            worst = max(missing, worst)
        day = replace(day, battery_wh=worst / (1.0 - day.min_battery - SLACK))
        if heat is None:
            return day
        least, most = (np.max(day.rate) * j for j in self._joules)
        limit = float(settled(day, least + heat * (most - least)).max())
        return replace(day, max_temperature=limit)


def delivery_day(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return eight hours of driving and waiting at doors."""
    day = make.plain('delivery day', seed, 8.0, rng)
    driving = bursts(rng, day.steps, 400.0, 200.0)
    busy = bursts(rng, day.steps, 20.0, 300.0)
    load = levels(rng, busy, 1.3, 2.0, 1.0) * day.load
    motors = make.unit * levels(rng, driving, 5.0, 9.0, 1.5)
    return make.with_limits(replace(day, motors=motors, load=load), rng.uniform(0.4, 0.7))


def hot_afternoon(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return four hours in which it gets hot and cool again."""
    day = make.plain('hot afternoon', seed, 4.0, rng)
    sun = np.sin(np.linspace(0.0, np.pi, day.steps)) ** 2
    wind = walk(rng, day.steps, -1.5, 1.5, 300.0)
    ambient = 24.0 + rng.uniform(10.0, 16.0) * sun + wind
    return make.with_limits(replace(day, ambient=ambient), heat=rng.uniform(0.3, 0.6))


def bursts_of_others(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return an hour and a half beside a process that plans now and then."""
    day = make.plain('bursts of others', seed, 1.5, rng)
    busy = bursts(rng, day.steps, rng.uniform(8.0, 40.0), rng.uniform(30.0, 120.0))
    return make.with_limits(replace(day, load=levels(rng, busy, 1.4, 3.0, 1.0) * day.load))


def slow_drain(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return twelve hours on a small battery whose gauge shows whole percents and no power."""
    day = make.plain('slow drain', seed, 12.0, rng)
    day = replace(
        day,
        gauge=0.01,
        says_watts=False,
        motors=make.unit * walk(rng, day.steps, 1.0, 3.5, 1800.0),
    )
    return make.with_limits(day, rng.uniform(0.3, 0.5))


def drop_outs(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return three hours in which battery and thermometer fall silent for minutes."""
    day = make.plain('drop-outs', seed, 3.0, rng)
    day = replace(
        day,
        battery_heard=~bursts(rng, day.steps, 120.0, 600.0),
        heat_heard=~bursts(rng, day.steps, 60.0, 900.0),
        ambient=walk(rng, day.steps, 22.0, 32.0, 1200.0),
    )
    return make.with_limits(day, rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.7))


def hills(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return six hours with the hills at the end, which nobody foresees."""
    day = make.plain('hills', seed, 6.0, rng)
    climb = np.arange(day.steps) > day.steps * 2 / 3
    motors = make.unit * walk(rng, day.steps, 2.0, 5.0, 600.0)
    motors *= np.where(climb, rng.uniform(1.1, 1.25), 1.0)
    return make.with_limits(replace(day, motors=motors), rng.uniform(0.5, 0.8))


def greenhouse(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return three hours in the heat beside a process that heats the board, too."""
    day = make.plain('greenhouse', seed, 3.0, rng)
    busy = bursts(rng, day.steps, 90.0, 300.0)
    load = levels(rng, busy, 1.2, 1.8, 1.0) * day.load
    ambient = walk(rng, day.steps, 30.0, 38.0, 2400.0)
    day = replace(day, load=load, ambient=ambient)
    return make.with_limits(day, rng.uniform(0.6, 1.2), rng.uniform(0.3, 0.6))


def camera_rates(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return two hours with a camera that is faster where the robot is."""
    day = make.plain('camera rates', seed, 2.0, rng)
    fast = bursts(rng, day.steps, 300.0, 300.0)
    rate = day.rate * levels(rng, fast, 0.6, 1.4, 0.35)
    return make.with_limits(replace(day, rate=rate), rng.uniform(0.4, 0.8))


def crowded(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return two hours on a board that others fill more and less."""
    day = make.plain('crowded', seed, 2.0, rng)
    return make.with_limits(replace(day, load=walk(rng, day.steps, 1.0, 2.2, 400.0) * day.load))


def docked(make: _Maker, seed: int, rng: np.random.Generator) -> Day:
    """Return six hours with a visit to the dock: two plans, as the robot knows when it goes."""
    day = make.plain('docked', seed, 6.0, rng)
    motors = make.unit * levels(rng, bursts(rng, day.steps, 500.0, 300.0), 3.0, 6.0, 1.5)
    begin, pause = int(day.steps * rng.uniform(0.4, 0.6)), int(1200 / STEP_S)
    motors[begin : begin + pause] = -100.0 * make.unit  # until it is full
    hours = [n * STEP_S / HOUR_S for n in (begin, day.steps - begin - pause)]
    plans = ((0, hours[0]), (begin + pause, hours[1]))
    day = replace(day, motors=motors, gauge=0.01, plans=plans)
    return make.with_limits(day, rng.uniform(0.4, 0.7))


KINDS: tuple[Callable[[_Maker, int, np.random.Generator], Day], ...] = (
    delivery_day,
    hot_afternoon,
    bursts_of_others,
    slow_drain,
    drop_outs,
    hills,
    greenhouse,
    camera_rates,
    crowded,
    docked,
)


def make_days(variants: Sequence[Variant], seeds: Sequence[int]) -> list[Day]:
    """Return a day of each kind for each seed; the same for the same table and seeds."""
    make = _Maker(variants)
    found = []
    for seed in seeds:
        for number, kind in enumerate(KINDS):
            day, before = (
                kind(make, s, np.random.default_rng([number, s])) for s in (seed, seed + YESTERDAY)
            )
            rest = before.board + before.motors
            usual = float(np.mean(rest[before.motors >= 0]))  # while it is not charged
            found.append(replace(day, usual_watts=usual))
    return found
