# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
LazyTune: decide when a round of fine-tuning pays (arXiv 2401.16694, "inter-tuning").

A decision object that is fed with events. It has no clock and does no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
from typing import Any

from etuner_ros.core.config import LazyTuneConfig
from etuner_ros.core.decide.state import Saved

REQUESTS = 1000.0  # as many lower the batches needed for the first time by a fifth
# At the economy 1: labels that a pass of a sample through the network has to win.
PRICE = 0.008
LEAST_TRIAL = 48  # labels to train on: one over fewer than it takes to judge it is for nothing
LEAST_COMPARED = 24  # labels, with fewer nobody knows what rounds have brought
LEAST_TO_RETREAT = 48  # since the last round, with which rounds that have lost are taken back
AFTER_REFUSAL = 4.0  # as much has a round to bring when the gate has refused the last one
RETRY = 400  # labels since the last round, with which it is tried again whatever rounds brought
RETRY_TRIAL = 128  # as many after a trial that was refused: one gate says little of other places
MOST_POINTS = 50  # rounds that the progress curve is fitted to, the newest


@dataclass(frozen=True)
class Prospects:
    """What a round would take, and what rounds have brought so far."""

    new: int  # labels that no round has seen
    passes: int  # of a sample through what is trained: forward, backward, features for the head
    tuned: bool  # the live network is another than the deployed one
    # Newest labels of which it was asked, before any round saw them, whether the live network or
    # the deployed one gets them right, each with a head that was told all the others.
    compared: int = 0
    gained: int = 0  # of these, that only the live network gets right
    lost: int = 0  # and only the deployed one
    since_round: int = 0  # of these, that came since the last round

    @property
    def standing(self) -> tuple[int, int, int]:
        """What was found when they were asked."""
        return self.compared, self.gained, self.lost


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

    The ceiling is found by a search over 40 values between the best accuracy seen and 1.02: an
    accuracy of 1 needs a ceiling over it. Residuals are compared in accuracy, since those of the
    inverse grow without bound near the ceiling.

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
    number of batches whose predicted gain reaches the target, from `min_batches` to `max_batches`.
    What makes an up-to-date model worth more lowers it, down to 1:

    - a change of scenario, or a batch with a class that the model can not say: to 1 at once, until
      the next round (with an `economy` above 0 not: the instant head has learned it already);
    - inference requests r served since the last round: to `chosen * (1 + r / 1000) **
      -request_decay`, rounded up.

    | requests at the default decay of 0.3 | 0 | 1,000 | 10,000 | 100,000 | 1,000,000 |
    |---|---|---|---|---|---|
    | of 2 batches | 2 | 2 | 1 | 1 | 1 |
    | of 4 batches | 4 | 4 | 2 | 2 | 1 |
    | of 8 batches | 8 | 7 | 4 | 3 | 2 |

    A camera of 10 Hz brings 4 batches to 3 in 3 minutes, to 2 in 15 and to 1 in three hours.

    With an `economy` above 0 rounds have to pay. The first one is a trial, over 48 labels at
    least, in however small batches they came. From then on new labels tell what rounds have
    brought so far: those that the live network gets right and the deployed one, with the instant
    head alone, does not, less those where it is the other way round. A round runs when this gain,
    at the labels since the last round, is at least `economy * 0.008` labels for each pass of a
    sample through the network that the round takes (gain per cost, as in Dinkelbach's method for
    ratios). So where rounds bring nothing there is one, and another one every 400 labels; when the
    gate refuses the trial, the next one comes after 128; where rounds bring much they come as
    often as batches allow. Where they have lost more labels than they have won, and 48 or more
    have come since the last one, what they have made is taken back (`wants_retreat`).

    >>> lazy = LazyTune(LazyTuneConfig(max_batches=4, economy=0.0))
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
        self._chosen = 1.0  # batches, by the progress curve
        self._urgent = self._was_urgent = False  # now, and when the running round started
        self._requests = 0
        self._iterations = 0
        self._points: list[tuple[float, float]] = []
        self._gain: float | None = None
        self._refused = False  # by the gate, the last round
        self._retreated = False  # since the last round
        # Labels that were new, and the standing, when a retreat started last ...
        self._tried_retreat: tuple[int, tuple[int, int, int]] | None = None
        self._refused_retreat: tuple[int, int, int] | None = None  # ... and what the gate refused
        self._prospects: Prospects | None = None

    def configure(self, config: LazyTuneConfig) -> None:
        """Take other settings; all that was seen counts on."""
        self.config = config

    @property
    def batches_needed(self) -> int:
        """Batches that the next round waits for, at least 1."""
        if (self._urgent and self.config.economy == 0) or not self.config.enabled:
            return 1
        least, most = self.config.min_batches, self._most
        served = math.pow(1.0 + self._requests / REQUESTS, -self.config.request_decay)
        return max(1, math.ceil(min(max(self._chosen, least), most) * served - 1e-9))

    @property
    def should_tune(self) -> bool:
        """
        Whether a round should start now.

        While all that waits was predicted right there is nothing to correct, so confirmations
        alone start a round only when as many have come as a round waits for at most; switched off
        it asks for nothing but a batch.
        """
        if not self.config.enabled:
            return self.waiting > 0
        if self.waiting <= 0 or self.waiting < self.batches_needed or not self.is_worth_it:
            return False
        return self._errors > 0 or self.waiting >= self._most

    @property
    def _most(self) -> int:
        return max(self.config.max_batches, self.config.min_batches)

    @property
    def is_worth_it(self) -> bool:
        """Whether a round brings enough for what it takes, as far as that was told."""
        told = self._prospects
        if self.config.economy == 0 or not self.config.enabled:
            return True
        if told is None or told.new == 0:
            return False
        if told.new >= RETRY:
            return True
        if not told.tuned:
            least = RETRY_TRIAL if self._refused else LEAST_TRIAL
            return not self._retreated and told.new >= least
        if told.compared < LEAST_COMPARED:
            return False
        gain = (told.gained - told.lost) / told.compared
        dear = AFTER_REFUSAL if self._refused else 1.0
        return gain * told.new >= dear * self.config.economy * PRICE * told.passes

    @property
    def wants_retreat(self) -> bool:
        """
        Whether the deployed network should take the place of the live one: so far rounds have lost
        more labels than they have won.

        One that the gate has refused is wanted again when more was compared, one that nobody could
        judge when more labels have come.
        """
        told = self._prospects
        if told is None or self.config.economy == 0 or not self.config.enabled:
            return False
        known = told.tuned and told.since_round >= LEAST_TO_RETREAT
        again = told.standing == self._refused_retreat
        again |= (told.new, told.standing) == self._tried_retreat
        return known and told.lost > told.gained and not again

    def on_retreat_start(self) -> None:
        """Note that the deployed network is proposed."""
        if self._prospects is not None:
            self._tried_retreat = (self._prospects.new, self._prospects.standing)

    def on_retreat_end(self, accepted: bool) -> None:
        """
        Note what the gate said of a retreat.

        :param accepted: the deployed network is live again; what follows is the progress of others
        """
        if not accepted:
            self._refused_retreat = None if self._tried_retreat is None else self._tried_retreat[1]
            return
        self._tried_retreat = self._refused_retreat = None
        self._retreated, self._refused, self._prospects = True, False, None
        self._chosen, self._gain = 1.0, None
        self._iterations, self._points = 0, []

    def on_prospects(self, prospects: Prospects) -> None:
        """Note what a round over all that waits would take, and what rounds have brought."""
        self._prospects = prospects

    @property
    def brought(self) -> str:
        """What rounds have brought so far, in words; nothing where that was not told."""
        told = self._prospects
        if told is None:
            return ''
        return f'they have won {told.gained} and lost {told.lost} of {told.compared} labels'

    @property
    def reason(self) -> str:
        """The decision in words."""
        gain = '' if self._gain is None else f', predicted gain {100 * self._gain:.1f} points'
        right = ', all predicted right' if self.waiting and not self._errors else ''
        if self._urgent:
            right += ', new surroundings or a new class'
        told = self._prospects
        rests = (self._refused or self._retreated) and told is not None and not told.tuned
        if self.waiting and told is not None and rests and not self.is_worth_it:
            why, least = 'the gate refused the trial', RETRY_TRIAL
            if self._retreated:
                why, least = 'the last trial lost more than it won', RETRY
            right += f', {why}: another one with {least} new labels, {told.new} have come'
        elif self.waiting and told is not None and not told.tuned and not self.is_worth_it:
            right += f', a trial needs {LEAST_TRIAL} labels to train on, {told.new} wait'
        elif self.waiting and told is not None and not self.is_worth_it:
            right += (
                f', rounds have won {told.gained} and lost {told.lost} of {told.compared} labels '
                f'so far: too little for one of {told.passes} passes'
            )
        verb = 'start' if self.should_tune else 'waiting'
        return f'{verb}: {self.waiting} of {self.batches_needed} batches{right}{gain}'

    def on_batch(
        self, count: int = 1, new_classes: bool = False, errors: int | None = None
    ) -> None:
        """
        Note labelled batches that arrived.

        :param errors: how many of their samples the robot had predicted wrong; None when unknown
        :param new_classes: they hold labels that the model can not say yet; it is wrong on those
            until a round, so no other batch is waited for
        """
        self.waiting += count
        self._prospects = None  # what was told is of the labels before
        self._errors += count if errors is None else errors
        self._urgent |= new_classes

    def on_request(self, count: int = 1) -> None:
        """Note inference requests that were served."""
        self._requests += count

    def on_round_start(self) -> int:
        """Take all waiting batches into a round; return how many they are."""
        taken, self.waiting, self._errors = self.waiting, 0, 0
        self._was_urgent, self._urgent = self._urgent, False
        return taken

    def on_round_failed(self, batches: int) -> None:
        """
        Give back the batches of a round that was cancelled or died: nothing was learned from them.
        """
        self.waiting += batches
        self._errors += batches
        self._urgent |= self._was_urgent

    def forget_waiting(self) -> None:
        """
        Note that all batches that no version has learned yet will arrive once more, those of a
        running round as well: the worker, or all, was started again.
        """
        self.waiting = self._errors = 0
        self._urgent |= self._was_urgent
        self._prospects = None

    def on_round_end(self, iterations: int, accuracy: float, accepted: bool = True) -> None:
        """
        Add a point to the progress curve and choose `batches_needed`.

        :param iterations: training iterations of this round
        :param accuracy: of the weights that are live after it, in [0, 1], on validation samples
            of the current scenario that these weights have predicted; NaN when there is none
        :param accepted: by the gate; a refused one makes the next one dearer
        """
        self._refused, self._retreated = not accepted, False
        self._requests, self._was_urgent, self._prospects = 0, False, None
        self._iterations += max(iterations, 0)
        if math.isnan(accuracy):
            return
        self._points.append((float(self._iterations), min(max(accuracy, 0.0), 1.0)))
        del self._points[:-MOST_POINTS]
        least, limit = self.config.min_batches, self._most
        curve = fit_progress(self._points)
        if curve is None:
            if len(self._points) < 3:
                self._chosen = min(self._chosen + 1, limit)
            else:  # no progress: waiting longer is all that can help
                self._gain, self._chosen = 0.0, min(self._chosen * 2, limit)
            return
        last_gain = self._points[-1][1] - self._points[-2][1]
        target = max(self.config.gain_share * last_gain, self.config.gain_floor)
        first, last = self._points[0][0], self._points[-1][0]
        per_batch = (last - first) / (len(self._points) - 1) / max(self._chosen, 1.0)
        here = curve.accuracy(self._iterations)
        for count in range(least, limit + 1):
            self._chosen = float(count)
            self._gain = curve.accuracy(self._iterations + count * per_batch) - here
            if self._gain >= target:
                break

    def on_scenario_change(self) -> None:
        """Start anew: the next batch starts a round, whatever was waited for before."""
        self._urgent, self._chosen, self._gain = True, 1.0, None
        self._requests, self._iterations, self._points = 0, 0, []

    def state_dict(self) -> dict[str, Any]:
        """Return all state as plain values, for JSON."""
        return {
            'waiting': self.waiting,
            'errors': self._errors,
            'chosen': self._chosen,
            'urgent': self._urgent,
            'was_urgent': self._was_urgent,
            'requests': self._requests,
            'iterations': self._iterations,
            'points': [list(p) for p in self._points],
            'gain': self._gain,
            'refused': self._refused,
            'retreated': self._retreated,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Continue from `state_dict` of another instance, of an earlier run for instance.

        :raises StateError: naming what is wrong; nothing is changed then
        """
        saved = Saved('LazyTune', state)
        points = [
            (saved.as_number(k, 'points', 0.0), saved.as_number(a, 'points', 0.0, 1.0))
            for k, a in saved.rows('points', 2)
        ][-MOST_POINTS:]
        gain = None if saved.get('gain') is None else saved.number('gain')
        waiting, errors = saved.whole('waiting'), saved.whole('errors')
        chosen, requests = saved.number('chosen', 1.0), saved.whole('requests')
        urgent, was_urgent = saved.flag('urgent'), saved.flag('was_urgent')
        refused = saved.flag('refused')
        retreated = 'retreated' in state and saved.flag('retreated')  # older states lack it
        iterations = saved.whole('iterations')
        self.waiting, self._errors, self._chosen, self._requests = (
            waiting,
            errors,
            chosen,
            requests,
        )
        self._urgent, self._was_urgent, self._refused = urgent, was_urgent, refused
        self._retreated = retreated
        self._iterations, self._points, self._gain = iterations, points, gain
