# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Made days of robots: what moves, what heats and what else computes, for `etuner bench switching`.

Made, not recorded. Batteries and limits are scaled to the table of variants, so that a table of
any board makes days on which the choice matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from etuner_ros.core.serve.variants import energies, Variant

STEP_S = 2.0
BUSY_WATTS = 5.0  # of a busy core above idle, where the table has no energy
IDLE_WATTS = 4.0  # of the board
OTHER_WATTS = 1.5  # of the board for each time that others make predictions slower
HOUR_S = 3600.0
WARMED_BY = 12.0  # degrees Celsius between the cheapest and the dearest variant, for long
SLACK = 0.02  # charge that the cheapest variant is sure to leave above the minimum
COOL = 1000.0  # a limit that is none
FINEST = 0.001  # of charge, that any gauge shows


@dataclass(frozen=True)
class Day:
    """
    One made day, in steps of `STEP_S`; arrays have one value a step.

    :param board: W of all of the board but predictions
    :param motors: W of the rest of the robot, negative while it is charged
    :param load: how many times slower predictions are than the table says
    :param ambient: degrees Celsius
    :param rate: frames a second
    :param battery_heard: whether the battery says something in this step; likewise the temperature
    :param gauge: steps of the charge, in [0, 1]
    :param says_watts: whether the battery says its power
    :param kelvin_per_watt: of the board, once it has settled, which takes `settles_s` to two
        thirds
    """

    kind: str
    seed: int
    board: np.ndarray
    motors: np.ndarray
    load: np.ndarray
    ambient: np.ndarray
    rate: np.ndarray
    battery_heard: np.ndarray
    heat_heard: np.ndarray
    deadline_ms: float
    kelvin_per_watt: float
    settles_s: float
    battery_wh: float = 0.0
    min_battery: float = 0.1
    max_temperature: float = COOL
    gauge: float = FINEST
    says_watts: bool = True

    @property
    def name(self) -> str:
        """Kind and seed."""
        return f'{self.kind} {self.seed}'

    @property
    def steps(self) -> int:
        """How many."""
        return len(self.load)

    @property
    def hours(self) -> float:
        """How long it lasts."""
        return self.steps * STEP_S / HOUR_S


def bursts(rng: np.random.Generator, steps: int, on_s: float, off_s: float) -> np.ndarray:
    """Return whether it is on: times on and off, each exponential with its mean and 4 s more."""
    found = np.zeros(steps, bool)
    at, on = 0, False
    while at < steps:
        count = int((4.0 + rng.exponential(on_s if on else off_s)) / STEP_S) + 1
        found[at : at + count] = on
        at, on = at + count, not on
    return found


def levels(
    rng: np.random.Generator, on: np.ndarray, low: float, high: float, off: float
) -> np.ndarray:
    """Return `off`, or a level of its own for each time that it is on."""
    number = np.cumsum(np.diff(on.astype(int), prepend=0) == 1)
    return np.where(on, rng.uniform(low, high, number[-1] + 1)[number], off)


def walk(
    rng: np.random.Generator, steps: int, low: float, high: float, memory_s: float
) -> np.ndarray:
    """Return a value that wanders between two bounds."""
    keep = np.exp(-STEP_S / memory_s)
    noise, value = rng.normal(0.0, np.sqrt(1 - keep**2), steps), np.empty(steps)
    state = rng.normal()
    for i in range(steps):
        state = keep * state + noise[i]
        value[i] = state
    return low + (high - low) / (1 + np.exp(-1.5 * value))


def settled(day: Day, watts: float) -> np.ndarray:
    """Return the temperature of the board with predictions that always take the same power."""
    keep = np.exp(-STEP_S / day.settles_s)
    goal = day.ambient + day.kelvin_per_watt * (day.board + watts)
    found, celsius = np.empty(day.steps), goal[0]
    for i in range(day.steps):
        celsius = keep * celsius + (1 - keep) * goal[i]
        found[i] = celsius
    return found


class _Maker:
    """Makes days for one table."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        joules = energies(variants, BUSY_WATTS)
        self._slowest = max(v.p50_ms for v in variants)
        self._latest = max(v.p99_ms for v in variants)
        self._joules = min(joules.values()), max(joules.values())

    def plain(self, kind: str, seed: int, hours: float, rng: np.random.Generator) -> Day:
        """Return a day on which nothing happens."""
        steps = int(hours * HOUR_S / STEP_S)
        rate = min(30.0, 700.0 / self._slowest)
        least, most = (rate * j for j in self._joules)
        heard, load = np.ones(steps, bool), 1.0 + 0.05 * np.abs(rng.normal(size=steps))
        return Day(
            kind,
            seed,
            board=np.full(steps, IDLE_WATTS),
            motors=np.full(steps, 3.0),
            load=load,
            ambient=np.full(steps, 24.0),
            rate=np.full(steps, rate),
            battery_heard=heard,
            heat_heard=heard,
            deadline_ms=self._latest * rng.uniform(1.2, 1.5),
            kelvin_per_watt=WARMED_BY / max(most - least, 1e-9),
            settles_s=rng.uniform(100.0, 250.0),
        )

    def with_limits(self, day: Day, battery: float = 2.0, heat: float | None = None) -> Day:
        """
        Return a day with a battery, and a limit of temperature.

        :param battery: power that predictions may take all day, as a share of the way from that of
            the cheapest variant to that of the dearest; more than 1 = the battery is large enough
        :param heat: likewise what the hottest moment allows for long; None = no limit
        """
        day = replace(day, board=day.board + OTHER_WATTS * (day.load - 1.0))
        least, most = (np.mean(day.rate) * j for j in self._joules)
        taken = day.board + day.motors + least + battery * (most - least)
        # What is charged on the way can not be spent before, so the worst part of the day counts.
        worst = float(np.max(np.cumsum(taken))) * STEP_S / HOUR_S
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
    motors = levels(rng, driving, 8.0, 14.0, 2.0)
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
    day = replace(day, gauge=0.01, says_watts=False, motors=walk(rng, day.steps, 1.0, 5.0, 1800.0))
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
    motors = walk(rng, day.steps, 3.0, 7.0, 600.0) * np.where(climb, rng.uniform(1.1, 1.25), 1.0)
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
    """Return six hours with a visit to the dock, which nobody foresees, either."""
    day = make.plain('docked', seed, 6.0, rng)
    motors = levels(rng, bursts(rng, day.steps, 500.0, 300.0), 5.0, 9.0, 2.0)
    begin = int(day.steps * rng.uniform(0.4, 0.6))
    motors[begin : begin + int(1200 / STEP_S)] = -12.0
    day = replace(day, motors=motors, gauge=0.01)
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
    return [
        kind(make, seed, np.random.default_rng([number, seed]))
        for seed in seeds
        for number, kind in enumerate(KINDS)
    ]
