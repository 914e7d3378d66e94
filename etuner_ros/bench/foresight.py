# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a robot has computed of its frames before anybody labels them, for the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etuner_ros.bench.methods.base import World
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.cuts import Cuts

AT_ONCE = 32  # pictures


class Foresight:
    """
    Predicts frames as the robot does.

    What is made on the way is kept: the activation at the frozen border goes to the learner's
    cache, as it would when frames come with it. What the deployed network makes of a picture is
    known beforehand, see `World`; so no more of the live one runs than what has been trained.
    """

    def __init__(self, learner: Learner, world: World) -> None:
        self._learner, self._world = learner, world
        self._cuts = Cuts(learner.live.backbone, learner.live.units)
        self._deployed = learner.backbone
        self._backbone = ''  # that the following are of
        self._front = 0  # border up to which all is known
        self._rows: dict[str, Tensor] = {}  # features by sample id: most frames are met twice

    def look(self, samples: Sequence[Sample]) -> tuple[list[str], dict[str, Tensor]]:
        """Return the labels said, and the features (D,) of the live backbone by sample id."""
        live, state = self._learner.live, self._learner.state
        border = state.cache.border
        said: list[str] = []
        features: dict[str, Tensor] = {}
        for start in range(0, len(samples), AT_ONCE):
            some = samples[start : start + AT_ONCE]
            middle = self._run(some, border) if border else None
            rows = self._features(some, middle)
            said += self._say(rows)
            for index, sample in enumerate(some):
                features[sample.sample_id] = rows[index].clone()
                if middle is not None:
                    state.cache.offer((sample.sample_id, 0), middle[index], live.units)
        return said, features

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """Return the features (n, D) of the live backbone."""
        parts = range(0, len(samples), AT_ONCE)
        return torch.cat([self._features(samples[i : i + AT_ONCE]) for i in parts])

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Return the labels that the live model says."""
        said: list[str] = []
        for start in range(0, len(samples), AT_ONCE):
            said += self._say(self._features(samples[start : start + AT_ONCE]))
        return said

    def _say(self, rows: Tensor) -> list[str]:
        live = self._learner.live
        if not live.classes:
            return [''] * len(rows)
        with torch.inference_mode():
            return [live.classes[i] for i in live.head(rows).argmax(dim=1).tolist()]

    def _features(self, samples: Sequence[Sample], middle: Tensor | None = None) -> Tensor:
        """Return features (n, D); `middle` is what is known at the frozen border."""
        if self._learner.backbone == self._deployed:
            return self._world.features(samples)
        self._follow()
        new = [s for s in samples if s.sample_id not in self._rows]
        if new:
            if middle is None:
                rows = self._run(new, None).flatten(1)
            else:
                new = list(samples)
                with torch.inference_mode():
                    rows = self._cuts.run(middle, self._learner.state.cache.border).flatten(1)
            self._rows |= {s.sample_id: row.clone() for s, row in zip(new, rows)}
        return torch.stack([self._rows[s.sample_id] for s in samples])

    def _run(self, samples: Sequence[Sample], stop: int | None) -> Tensor:
        """Return what the live network makes of samples at a border, or at its end."""
        self._follow()
        start = self._front
        if start and (stop is None or start <= stop):
            x = self._world.fronts.activations([s.sample_id for s in samples])
        else:
            start, x = 0, self._learner.state.tensor([s.image for s in samples])
        with torch.inference_mode():
            return self._cuts.run(x, start, stop)

    def _follow(self) -> None:
        """Forget what an earlier backbone made, and see how far the live one is the deployed."""
        if self._backbone != self._learner.backbone:
            self._backbone = self._learner.backbone
            fronts = self._world.fronts
            self._front = fronts.border if fronts.fit(self._learner.live) else 0
            self._rows = {}
