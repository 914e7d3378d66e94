# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Made days of robots: what moves, what heats and what else computes, for `etuner bench switching`.

Made, not recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEP_S = 2.0
BUSY_WATTS = 5.0  # of a busy core above idle, where the table has no energy
HOUR_S = 3600.0
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
    :param plans: steps at which the robot sets out, and hours that the battery must last from then
    :param usual_watts: of board and motors on another day of this kind, which the robot remembers
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
    plans: tuple[tuple[int, float], ...] = ()
    usual_watts: float = 0.0

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
