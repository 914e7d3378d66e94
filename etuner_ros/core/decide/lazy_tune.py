# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
LazyTune: decide when a round of fine-tuning pays (arXiv 2401.16694, "inter-tuning").

A decision object that is fed with events. It has no clock and does no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
from typing import Any

from etuner_ros.core.config import LazyTuneConfig

LAST_ROUNDS = 3  # whose outcomes on held-back samples say whether tuning pays
MOST_DOUBLINGS = 5


@dataclass(frozen=True)
class ProgressCurve:
    """
    The curve `1 / (ceiling - acc(k)) = slope * k + offset`, fitted by non-negative least squares.
    """

    ceiling: float
    slope: float
    offset: float

    def accuracy(self, iterations: float) -> float:
        """Return the accuracy, in [0, 1], that the curve predicts after so many iterations."""
        inverse = self.slope * iterations + self.offset
        return self.ceiling - 1.0 / inverse if inverse > 0 else 0.0


def fit_line_nnls(x: list[float], y: list[float]) -> tuple[float, float, float]:
    """
    Fit `y = b0 * x + b1` with `b0, b1 >= 0` in closed form.

    With two unknowns the constrained optimum is the free one, or lies on one of the two axes.

    :return: b0, b1 and the sum of squared residuals
    """
    n = len(x)
    sx, sy, sxx, sxy = sum(x), sum(y), sum(v * v for v in x), sum(a * b for a, b in zip(x, y))
    candidates = [(0.0, max(sy / n, 0.0)), (max(sxy / sxx, 0.0) if sxx > 0 else 0.0, 0.0)]
    determinant = n * sxx - sx * sx
    if determinant > 1e-12 * max(n * sxx, 1.0):
        b0 = (n * sxy - sx * sy) / determinant
        b1 = (sy - b0 * sx) / n
        if b0 >= 0 and b1 >= 0:
            candidates.append((b0, b1))

    def residual(line: tuple[float, float]) -> float:
        return sum((line[0] * a + line[1] - b) ** 2 for a, b in zip(x, y))

    best = min(candidates, key=residual)
    return best[0], best[1], residual(best)


def fit_progress(points: list[tuple[float, float]]) -> ProgressCurve | None:
    """
    Fit the progress curve to (iterations, accuracy) points.

    The ceiling is found by a search over 40 values between the best accuracy seen and 1; residuals
    are compared in accuracy, since those of the inverse grow without bound near the ceiling.

    :return: the curve, or None with fewer than three points or without any progress
    """
    if len(points) < 3:
        return None
    x = [k for k, _ in points]
    best_seen = max(a for _, a in points)
    best: tuple[float, ProgressCurve] | None = None
    for step in range(1, 41):
        ceiling = best_seen + (1.02 - best_seen) * step / 40
        slope, offset, _ = fit_line_nnls(x, [1.0 / (ceiling - a) for _, a in points])
        curve = ProgressCurve(ceiling, slope, offset)
        if slope * x[0] + offset <= 0:
            continue
        error = sum((curve.accuracy(k) - a) ** 2 for k, a in points)
        if best is None or error < best[0]:
            best = (error, curve)
    return best[1] if best is not None and best[1].slope > 0 else None


class LazyTune:
    """
    Decides after each labelled batch whether a round of fine-tuning starts.

    A round starts when `waiting >= batches_needed`. After a round, `batches_needed` is the least
    number of batches whose predicted gain reaches the target; inference requests lower it again; a
    scenario change sets it to 1.

    With `pays`, rounds that do not make the model better on held-back samples double the patience,
    and those that do halve it again: where the features of the deployed model and the instant head
    are enough, tuning comes to a rest by itself. That is remembered over changes of scenario.

    >>> lazy = LazyTune(LazyTuneConfig(max_batches=4))
    >>> lazy.on_batch(); lazy.should_tune
    True
    >>> lazy.on_round_start()
    1
    >>> lazy.on_round_end(iterations=10, accuracy=0.5); lazy.batches_needed
    2
    """

    def __init__(self, config: LazyTuneConfig | None = None) -> None:
        self.config = config or LazyTuneConfig()
        self.waiting = 0
        self._errors = 0
        self._needed = 1.0
        self._requests = 0
        self._iterations = 0
        self._points: list[tuple[float, float]] = []
        self._gain: float | None = None
        self._outcomes: list[tuple[int, int]] = []  # gained and lost samples of the last rounds
        self._doublings = 0

    @property
    def _limits(self) -> tuple[int, int]:
        """Fewest and most batches that a round waits for now."""
        factor = 2**self._doublings
        least = self.config.min_batches * factor
        return least, max(self.config.max_batches * factor, least)

    @property
    def batches_needed(self) -> int:
        """Batches that the next round waits for, at least 1."""
        if not self.config.enabled:
            return 1
        served = 1.0 + self.config.request_decay * math.log1p(self._requests)
        return max(self._limits[0], math.ceil(self._needed / served - 1e-9))

    @property
    def should_tune(self) -> bool:
        """
        Whether a round should start now.

        While all that waits was predicted right there is nothing to correct, so confirmations
        alone start a round only when as many have come as a round waits for at most.
        """
        if self.waiting <= 0 or self.waiting < self.batches_needed:
            return False
        return self._errors > 0 or self.waiting >= self._limits[1]

    @property
    def reason(self) -> str:
        """The decision in words."""
        gain = '' if self._gain is None else f', predicted gain {100 * self._gain:.1f} points'
        right = ', all predicted right' if self.waiting and not self._errors else ''
        if self._doublings:
            right += f', {2**self._doublings} times as patient since rounds have not paid'
        verb = 'start' if self.should_tune else 'waiting'
        return f'{verb}: {self.waiting} of {self.batches_needed} batches{right}{gain}'

    def on_batch(
        self, count: int = 1, new_classes: bool = False, errors: int | None = None
    ) -> None:
        """
        Note labelled batches that arrived.

        :param errors: how many of their samples the robot had predicted wrong; None when unknown
        :param new_classes: they hold labels that the model can not say yet; it is wrong on those
            until a round, so none is waited for
        """
        self.waiting += count
        self._errors += count if errors is None else errors
        if new_classes:
            self._needed = 1.0

    def on_request(self, count: int = 1) -> None:
        """Note inference requests that were served."""
        self._requests += count

    def on_round_start(self) -> int:
        """Take all waiting batches into a round; return how many they are."""
        taken, self.waiting, self._errors = self.waiting, 0, 0
        return taken

    def on_round_failed(self, batches: int) -> None:
        """
        Give back the batches of a round that was cancelled or died: nothing was learned from them.
        """
        self.waiting += batches
        self._errors += batches

    def on_round_end(
        self, iterations: int, accuracy: float, gained: int = 0, lost: int = 0
    ) -> None:
        """
        Add a point to the progress curve and choose `batches_needed`.

        :param iterations: training iterations of this round
        :param accuracy: validation accuracy after it, in [0, 1]; NaN when nothing could be
            validated
        :param gained: held-back samples that the round's weights get right and those before did
            not
        :param lost: the other way round
        """
        self._requests = 0
        if self.config.pays:
            self._outcomes = [*self._outcomes, (gained, lost)][-LAST_ROUNDS:]
            pays = sum(g for g, _ in self._outcomes) > sum(n for _, n in self._outcomes)
            if len(self._outcomes) > 1:  # one round says little
                step = -1 if pays else 1
                self._doublings = min(max(self._doublings + step, 0), MOST_DOUBLINGS)
        self._iterations += max(iterations, 0)
        if math.isnan(accuracy):
            return
        self._points.append((float(self._iterations), min(max(accuracy, 0.0), 1.0)))
        least, limit = self._limits
        curve = fit_progress(self._points)
        if curve is None:
            if (
                len(self._points) >= 3
            ):  # three points and no progress: waiting longer is all that can help
                self._gain, self._needed = 0.0, min(self._needed * 2, limit)
            else:
                self._needed = min(self._needed + 1, limit)
            return
        last_gain = self._points[-1][1] - self._points[-2][1]
        target = max(self.config.gain_share * last_gain, self.config.gain_floor)
        per_batch = self._iterations / max(len(self._points), 1) / max(self._needed, 1.0)
        here = curve.accuracy(self._iterations)
        for count in range(least, limit + 1):
            self._needed = float(count)
            self._gain = curve.accuracy(self._iterations + count * per_batch) - here
            if self._gain >= target:
                break

    def on_scenario_change(self) -> None:
        """Start anew: the next batch starts a round."""
        self._needed, self._requests, self._iterations, self._points, self._gain = (
            1.0,
            0,
            0,
            [],
            None,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all state as plain values."""
        return {
            'waiting': self.waiting,
            'errors': self._errors,
            'needed': self._needed,
            'requests': self._requests,
            'iterations': self._iterations,
            'points': [list(p) for p in self._points],
            'gain': self._gain,
            'outcomes': [list(o) for o in self._outcomes],
            'doublings': self._doublings,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of another instance."""
        self._errors = int(state['errors'])
        self.waiting, self._needed, self._requests = (
            int(state['waiting']),
            float(state['needed']),
            int(state['requests']),
        )
        self._iterations, self._gain = int(state['iterations']), state['gain']
        self._points = [(float(k), float(a)) for k, a in state['points']]
        self._outcomes = [(int(g), int(n)) for g, n in state['outcomes']]
        self._doublings = int(state['doublings'])
