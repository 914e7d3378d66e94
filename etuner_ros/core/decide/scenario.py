# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Scenario change detection and novelty: one pass, constant memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from etuner_ros.core.config import ScenarioConfig
from etuner_ros.core.decide.state import Saved

AFTER_SWAP = 40  # frames that the description of a scenario counts as after a swap
MOST_SCENARIOS = 2**31 - 1  # that messages can name
LEAST_INDEPENDENT = 10  # frames, by their autocorrelation, that a scenario is described by ...
MOST_OF_MEMORY = 0.9  # ... or as many as this share of what is remembered, if that is less

Vector = npt.NDArray[np.float64]


@dataclass
class RunningMoments:
    """
    Mean and variance in one pass (Welford); with `memory`, old values fade out exponentially.
    """

    memory: float = math.inf
    count: float = 0.0
    mean: float = 0.0
    _m2: float = 0.0

    def fade(self, count: float) -> None:
        """Let all values so far weigh no more than so many."""
        if self.count > count:
            self._m2 *= (count - 1.0) / (self.count - 1.0)
            self.count = count

    def add(self, value: float) -> None:
        """Add one value."""
        if self.count >= self.memory:
            keep = 1.0 - 1.0 / self.memory
            self.count, self._m2 = self.count * keep, self._m2 * keep
        self.count += 1.0
        change = value - self.mean
        self.mean += change / self.count
        self._m2 += change * (value - self.mean)

    @property
    def deviation(self) -> float:
        """Standard deviation; 0 with fewer than two values."""
        return math.sqrt(max(self._m2, 0.0) / (self.count - 1.0)) if self.count > 1.0 else 0.0


class NoveltyScore:
    """
    How unusual a frame is among those of the live weights: the normal CDF of its standardised
    energy score, in [0, 1].
    """

    def __init__(self, memory: int = 500) -> None:
        self._memory = memory
        self._moments = RunningMoments(memory)
        self._version: Hashable = None

    def update(self, energy: float, version: Hashable) -> float:
        """
        Return the novelty of a frame with this energy score; 0.5 for the first 20 frames.

        Other weights have another scale of energy, so after a swap what was seen before counts as
        20 frames only.

        :param version: what names the weights, and how they look at a frame
        """
        if version != self._version:
            self._version = version
            self._moments.fade(20.0)
        if not math.isfinite(energy):
            return 0.5  # it would stay in the moments for good
        deviation = self._moments.deviation
        score = 0.5
        if self._moments.count >= 20 and deviation > 0:
            score = 0.5 * (
                1.0 + math.erf((energy - self._moments.mean) / (deviation * math.sqrt(2.0)))
            )
        self._moments.add(energy)
        return score


def compressed(appearance: Vector) -> Vector:
    """Return the signed square root: channels are heavy-tailed."""
    return np.sign(appearance) * np.sqrt(np.abs(appearance))


def variance_of_mean(count: float, correlation: float) -> float:
    """
    Return the variance of the mean of so many values, as a share of the variance of one.

    Neighbours hang together: the values are an AR(1) series of this lag-one correlation a. For
    many values that is `(1 + a) / (1 - a) / count`; the second term is what this says too much of
    few, `2 a (1 - a^count) / (count (1 - a))^2`.

    >>> variance_of_mean(24, 0.0) == 1 / 24, round(variance_of_mean(2, 0.5), 3)
    (True, 0.75)
    >>> round(variance_of_mean(24, 0.97), 2)
    0.8
    """
    a, rest = correlation, 1.0 - correlation
    too_much = 2.0 * a * (1.0 - math.pow(a, count)) / (count * rest) ** 2
    return (1.0 + a) / rest / count - too_much


class ScenarioDetector:
    """
    Declares a scenario change when recent frames look different from those of the scenario.

    Each frame comes as its *appearance*: mean and deviation of every channel of the network's
    middle block. Lighting, background, clutter and distance show there (NI), and so do new kinds
    of objects (NC). When weights are swapped it moves a little; that move is measured on stored
    samples, and frames are compared without it (`offset`). (The energy score, which the paper
    watches, jumps with every swap, and moves less and less between scenarios the better the model
    has become; the first block sees new surroundings a few frames earlier, but not new kinds.)

    The scenario is described by mean and variance of each value, the newest `window` frames left
    out. With the window's mean m, the score is the mean over values of `(m - mean)^2 / (variance *
    (s(window) + s(n)))`: about 1 within a scenario, less when it drifts slowly. A video has far
    fewer independent frames than frames: s is `variance_of_mean` at the lag-one autocorrelation
    of the scenario so far. A change is declared when the score exceeds `threshold` for `patience`
    requests in a row.
    """

    def __init__(self, config: ScenarioConfig | None = None) -> None:
        self.config = config or ScenarioConfig()
        self.scenario = 0
        self.score = 0.0
        self._window: deque[Vector] = deque()
        self._begin(0)

    def _begin(self, size: int) -> None:
        self._size, self._count, self._over = size, 0.0, 0
        self._mean, self._m2 = np.zeros(size), np.zeros(size)
        self._before: Vector | None = None  # the frame that was described last
        self._lagged = np.zeros(size)  # sum of products of neighbours

    @property
    def correlation(self) -> float:
        """
        Lag-one autocorrelation of frames in this scenario, in [0, 0.99].

        What is measured on n frames about their own mean is too low by `(1 + 4 a) / n`.
        """
        total = float(self._m2.sum())
        if total <= 0:
            return 0.0
        measured = float(self._lagged.sum()) / total
        return min(max(measured + (1.0 + 4.0 * measured) / self._count, 0.0), 0.99)

    def restart(self) -> None:
        """Forget what the scenario looks like, without declaring a change."""
        self._window.clear()
        self._begin(self._size)

    def on_swap(self) -> None:
        """
        Note that weights were swapped that describe frames otherwise.

        The correction for that (`offset`) is an estimate, so what was described before counts as
        few frames only: the score is smaller at first and the description follows sooner.
        """
        keep = min(1.0, AFTER_SWAP / max(self._count, 1.0))
        self._count, self._m2 = self._count * keep, self._m2 * keep
        self._lagged = self._lagged * keep

    def update(self, appearance: Sequence[float] | Vector, offset: Vector | None = None) -> bool:
        """
        Take the appearance of one request.

        :param offset: how far swaps of weights have moved `compressed` appearance so far
        :return: True when a change is declared with this request; values that are not finite are
            ignored
        """
        values = np.asarray(appearance, np.float64)
        if values.size == 0 or not np.isfinite(values).all():
            return False
        values = compressed(values)
        if offset is not None and offset.shape == values.shape:
            values = values - offset
        if values.size != self._size:  # another network
            self._window.clear()
            self._begin(values.size)
        self._window.append(values)
        if len(self._window) <= self.config.window:
            return False
        self._describe(self._window.popleft())
        if self._count < self.config.warm_up:
            return False
        correlation = self.correlation
        independent = LEAST_INDEPENDENT * (1.0 + correlation) / (1.0 - correlation)
        if self._count < min(independent, MOST_OF_MEMORY * self.config.memory):
            return False
        of_window, of_scenario = (
            variance_of_mean(size, correlation) for size in (self.config.window, self._count)
        )
        # About their own mean, frames vary less than about the true one.
        variance = self._m2 / self._count / (1.0 - of_scenario) + 1e-8
        mean = np.mean(list(self._window), axis=0)
        spread = of_window + of_scenario
        self.score = float(np.mean((mean - self._mean) ** 2 / (variance * spread)))
        self._over = self._over + 1 if self.score > self.config.threshold else 0
        if self._over < self.config.patience:
            return False
        self.scenario += 1
        self.restart()  # the window still holds frames from before the change
        return True

    def state_dict(self) -> dict[str, Any]:
        """
        Return the number of the scenario and what it looks like, as plain values.

        The window is left out: when this is read again, its frames are no neighbours of new ones.
        """
        return {
            'scenario': self.scenario,
            'count': self._count,
            'mean': self._mean.tolist(),
            'm2': self._m2.tolist(),
            'lagged': self._lagged.tolist(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Continue from `state_dict` of another instance; the next frames fill the window first.

        :raises StateError: naming what is wrong; nothing is changed then
        """
        saved = Saved('ScenarioDetector', state)
        scenario, count = saved.whole('scenario', 0, MOST_SCENARIOS), saved.number('count', 0.0)
        mean, m2, lagged = (np.array(saved.numbers(key)) for key in ('mean', 'm2', 'lagged'))
        if not mean.size == m2.size == lagged.size or (m2 < 0).any():
            raise saved.error("'mean', 'm2' and 'lagged' do not belong together")
        self.scenario, self.score = scenario, 0.0
        self._window.clear()
        self._begin(mean.size)
        self._count, self._mean, self._m2, self._lagged = count, mean, m2, lagged

    def _describe(self, values: Vector) -> None:
        if self._count >= self.config.memory:
            keep = 1.0 - 1.0 / self.config.memory
            self._count, self._m2 = self._count * keep, self._m2 * keep
            self._lagged = self._lagged * keep
        self._count += 1.0
        change = values - self._mean
        self._mean = self._mean + change / self._count
        self._m2 = self._m2 + change * (values - self._mean)
        if self._before is not None:
            self._lagged = self._lagged + change * (self._before - self._mean)
        self._before = values
