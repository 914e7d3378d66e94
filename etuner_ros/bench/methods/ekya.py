# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Ekya: in each window, profile what could be trained on a little of the data, and share the compute
between serving and training so that mean accuracy over the window rises (Bhardwaj et al., NSDI
2022).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import copy
from dataclasses import dataclass, replace
import math

import numpy as np

from etuner_ros.bench.methods.tuned import Tuned
from etuner_ros.core.cost import counted_as, PROBE
from etuner_ros.core.decide.lazy_tune import fit_progress
from etuner_ros.core.learn.live_state import predictions
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.trainer import make_optimiser, train_round
from etuner_ros.core.models.freezing import apply_frozen

PROFILE_EPOCHS = 5
PROFILE_SHARE = 0.1
PROFILE_LEAST = 8  # samples
STEP = 0.1  # of the compute, that is stolen at a time


@dataclass(frozen=True)
class Candidate:
    """What could be trained, and what profiling says of it."""

    frozen_share: float  # of the blocks, from the input on
    epochs: float
    cost: float = 0.0  # windows that it takes with all of the compute
    accuracy: float = 0.0  # afterwards


CANDIDATES = tuple(Candidate(share, epochs) for share in (0.0, 0.5, 0.9) for epochs in (2.0, 4.0))


def window_accuracy(
    now: float, candidate: Candidate | None, train_share: float, serve_need: float
) -> float:
    """
    Return the mean accuracy over a window.

    :param now: accuracy of the weights that serve, in [0, 1]
    :param candidate: what is trained; None for nothing
    :param train_share: of the compute; serving has the rest
    :param serve_need: share that serving needs to answer every request; with less, that many
        requests are answered late and count as wrong
    """
    served = min(1.0, (1.0 - train_share) / serve_need) if serve_need > 0 else 1.0
    if candidate is None or train_share <= 0:
        return served * now
    done = min(candidate.cost / train_share, 1.0)
    return served * (done * now + (1.0 - done) * candidate.accuracy)


def thief(
    now: float, candidates: Sequence[Candidate], serve_need: float
) -> tuple[Candidate | None, float, float]:
    """
    Return what to train, the share of the compute for it, and the mean accuracy that is expected.

    Starts from even shares and steals in steps, both ways, while the mean rises.
    """

    def best(share: float) -> tuple[float, Candidate | None]:
        options = [
            (window_accuracy(now, c, share, serve_need), i) for i, c in enumerate(candidates)
        ]
        value, index = max(options, default=(-1.0, -1))
        idle = window_accuracy(now, None, 0.0, serve_need)
        return (value, candidates[index]) if value > idle else (idle, None)

    share = 0.5
    value, chosen = best(share)
    for direction in (STEP, -STEP):
        while 0.0 < share + direction < 1.0:
            other, what = best(round(share + direction, 9))
            if other <= value:
                break
            share, value, chosen = round(share + direction, 9), other, what
    return chosen, share, value


class Ekya(Tuned):
    """A window is as many batches as the trigger waits for."""

    SERVE_NEED = 0.5
    _share = 1.0

    @property
    def compute_share(self) -> float:
        """What the thief left to training."""
        return self._share

    def round(self) -> Iterator[None]:
        """Profile, choose, train what was chosen; the cheapest candidate when none pays."""
        with counted_as(PROBE):
            now, profiled = self._profile()
        chosen, self._share, _ = thief(now, profiled, self.SERVE_NEED)
        learner = self.learner
        if chosen is None:  # the learner hands samples on to replay through a round only
            chosen = min(profiled, key=lambda c: c.cost)
        learner.state.config = replace(learner.state.config, epochs=chosen.epochs)
        names = learner.training.unit_names
        learner.state.freeze(names[: int(chosen.frozen_share * len(names))])
        yield from super().round()

    def _profile(self) -> tuple[float, list[Candidate]]:
        """Train each candidate for a few epochs on a little data; extrapolate its accuracy."""
        learner = self.learner
        rng = np.random.default_rng(self.world.seed + self.rounds)
        new = learner.pending
        count = min(len(new), max(PROFILE_LEAST, round(PROFILE_SHARE * len(new))))
        some = [new[int(i)] for i in rng.choice(len(new), count, replace=False)]
        known = set(learner.training.classes)
        some = [s for s in some if s.label in known]
        held = [s for s in learner.book.held.values() if s.label in known] or some
        now = self._accuracy(learner.live, held)
        if not some:
            return now, [replace(c, cost=1.0, accuracy=now) for c in CANDIDATES[:1]]
        found = []
        for share in sorted({c.frozen_share for c in CANDIDATES}):
            model = copy.deepcopy(learner.training)
            apply_frozen(model, model.unit_names[: int(share * len(model.units))])
            optimiser = make_optimiser(model, learner.state.config)
            config = replace(learner.state.config, epochs=1.0)
            points = [(0.0, now)]
            for epoch in range(1, PROFILE_EPOCHS + 1):
                for _ in train_round(
                    model,
                    optimiser,
                    some,
                    learner.book.replay,
                    learner.current,
                    config,
                    rng,
                    lambda chosen, m=model: m(m.tensor(s.image for s, _ in chosen)),  # type: ignore[misc]
                ):
                    pass
                points.append((float(epoch), self._accuracy(model, held)))
            curve = fit_progress(points)
            for candidate in CANDIDATES:
                if candidate.frozen_share == share:
                    # An epoch on all data moves as far as many on the profiled part.
                    epochs = candidate.epochs * len(new) / len(some)
                    last = points[-1][1]
                    accuracy = curve.accuracy(epochs) if curve else last
                    cost = candidate.epochs / 4.0 * (1.0 - 0.6 * share) * 0.5
                    found.append(replace(candidate, cost=cost, accuracy=max(accuracy, last)))
        return now, found

    def _accuracy(self, model: object, samples: list[Sample]) -> float:
        said = predictions(model, samples)  # type: ignore[arg-type]
        right = sum(a == s.label for a, s in zip(said, samples))
        return right / len(samples) if samples else math.nan
