# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The little model of a robot that the made days are played on: battery, heat, time of a prediction.

The battery loses what board, motors and predictions take. The board warms up towards the ambient
temperature and what it takes times its thermal resistance. The time of a prediction is log-normal
with median and 99th percentile of the table times the load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from etuner_ros.bench.switching_traces import BUSY_WATTS, Day, HOUR_S, settled, STEP_S
from etuner_ros.core.serve.variants import energies, Variant

SAMPLES = 20  # of the predictions of a step, whose times are heard
Z99 = 2.3263  # standard deviations that one in a hundred exceeds


@dataclass(frozen=True)
class Heard:
    """What the robot hears in a step; NaN where nothing is."""

    celsius: float
    charge: float
    watts: float
    rate: float
    slower: np.ndarray  # times of some predictions, in medians of the variant at no load


@dataclass(frozen=True)
class Costs:
    """
    What each variant gives and takes in each step, (steps, variants).

    :param right: expected accuracy of a frame: 0 where it is dropped or late
    :param watts: above idle
    :param at_rest: degrees Celsius of the board without predictions, (steps,)
    """

    right: np.ndarray
    watts: np.ndarray
    at_rest: np.ndarray


def costs(day: Day, variants: Sequence[Variant]) -> Costs:
    """Work out what each variant gives and takes in each step."""
    joules = energies(variants, BUSY_WATTS)
    right, watts = np.empty((2, day.steps, len(variants)))
    for number, v in enumerate(variants):
        median = day.load * v.p50_ms
        capacity = 1e3 / median
        served = np.minimum(1.0, capacity / day.rate)
        # A frame that finds another one being predicted waits for half of it on average.
        needed = day.deadline_ms - np.where(served < 1.0, 0.5 * median, 0.0)
        spread = max(math.log(v.tail) / Z99, 1e-6)
        z = np.log(np.maximum(needed, 1e-9) / median) / spread
        in_time = 0.5 * (1.0 + np.vectorize(math.erf)(z / math.sqrt(2.0)))
        right[:, number] = served * in_time * v.accuracy
        watts[:, number] = joules[v.name] * day.rate * served
    return Costs(right, watts, settled(day, 0.0))


class World:
    """
    A robot on a day.

    :param start: step that it begins in; the battery is then as if predictions had taken the same
        share of it all day
    """

    def __init__(
        self, day: Day, variants: Sequence[Variant], given: Costs, start: int = 0
    ) -> None:
        self.day, self.variants = day, list(variants)
        self._right, self._watts = given.right, given.watts
        rest = day.board + day.motors
        self._rest, self._board, self._ambient = rest.tolist(), day.board.tolist(), day.ambient
        self._keep = math.exp(-STEP_S / day.settles_s)
        self._random = np.random.default_rng([day.seed, day.steps, start])
        self.at = start
        self.last = min(range(len(variants)), key=lambda i: variants[i].p50_ms)
        self.charge = 1.0
        if start:
            spent = 1.0 - day.min_battery
            share = float(np.sum(rest[:start]) / max(float(np.sum(rest)), 1e-9))
            self.charge = min(1.0 - spent * share, 1.0)
        self.celsius = float(given.at_rest[start] if start else day.ambient[0])

    @property
    def over(self) -> bool:
        """Whether the day is."""
        return self.at >= self.day.steps

    @property
    def seconds(self) -> float:
        """Time of the day, in s."""
        return self.at * STEP_S

    def hear(self) -> Heard:
        """Return what is heard before the choice of this step."""
        day, at = self.day, self.at
        noise = self._random.normal(size=2)
        charge = watts = celsius = math.nan
        if day.battery_heard[at]:
            charge = min(max(round(self.charge / day.gauge) * day.gauge, 0.0), 1.0)
            if day.says_watts:
                watts = self._rest[at] + self._watts[at, self.last] + 0.2 * float(noise[0])
        if day.heat_heard[at]:
            celsius = round(2.0 * (self.celsius + 0.3 * float(noise[1]))) / 2.0
        variant = self.variants[self.last]
        spread = math.log(variant.tail) / Z99
        slower = day.load[at] * np.exp(spread * self._random.normal(size=SAMPLES))
        return Heard(celsius, charge, watts, float(day.rate[at]), slower)

    def step(self, chosen: int) -> tuple[float, bool]:
        """
        Serve with a variant for one step.

        :return: expected accuracy of a frame, and whether a limit is violated
        """
        day, at = self.day, self.at
        watts = float(self._watts[at, chosen])
        right = float(self._right[at, chosen]) if self.charge > 0 else 0.0
        used = (self._rest[at] + watts) * STEP_S / HOUR_S
        self.charge = min(max(self.charge - used / day.battery_wh, 0.0), 1.0)
        goal = self._ambient[at] + day.kelvin_per_watt * (self._board[at] + watts)
        self.celsius = self._keep * self.celsius + (1 - self._keep) * float(goal)
        self.at, self.last = at + 1, chosen
        return right, self.charge < day.min_battery or self.celsius > day.max_temperature


@dataclass
class Outcome:
    """
    How a day went.

    :param score: expected accuracy of a frame, in [0, 1]; 0 for a late or dropped one
    :param within: the same, with 0 for frames of steps over a limit, too
    :param violations: steps over a limit
    :param switches: times that another variant was chosen
    """

    score: float
    within: float
    violations: int
    switches: int


class Tally:
    """Adds up how a day goes."""

    def __init__(self, day: Day) -> None:
        self._rate = day.rate
        self._right = self._within = self._frames = 0.0
        self._violations = self._switches = 0
        self._last = -1

    def add(self, at: int, chosen: int, right: float, violated: bool) -> None:
        """Count a step."""
        self._right += right * self._rate[at]
        self._within += 0.0 if violated else right * self._rate[at]
        self._frames += self._rate[at]
        self._violations += violated
        self._switches += self._last not in (-1, chosen)
        self._last = chosen

    def outcome(self) -> Outcome:
        """Return the sum."""
        frames = max(self._frames, 1e-9)
        score, within = float(self._right / frames), float(self._within / frames)
        return Outcome(score, within, int(self._violations), int(self._switches))


def bound(day: Day, given: Costs) -> float:
    """
    Return a score that nothing can exceed: loads are foreseen, the battery is spent as pays best,
    and it is never hot.

    By Lagrange's multiplier on energy, so with any mixture of variants in a step.
    """
    weight = day.rate / np.sum(day.rate)
    rest = float(np.sum(day.board + day.motors)) * STEP_S / HOUR_S
    # Of a day with a dock only the sum counts: charging earlier than it happens is a bound, too.
    budget = (1.0 - day.min_battery) * day.battery_wh - rest
    energy = given.watts * STEP_S / HOUR_S
    rows = np.arange(day.steps)
    low, high = 0.0, 1.0
    for _ in range(60):
        price = 0.5 * (low + high)
        best = np.argmax(given.right * weight[:, None] - price * energy, axis=1)
        if float(np.sum(energy[rows, best])) > budget:
            low = price
        else:
            high = price
    # The dual at any price is a bound.
    value = np.max(given.right * weight[:, None] - high * energy, axis=1)
    free = np.max(given.right, axis=1) @ weight
    return float(min(np.sum(value) + high * budget, free))
