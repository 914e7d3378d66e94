# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Methods that never train the backbone: a classifier on the deployed model's features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etuner_ros.bench.methods.base import Method, World
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.cost import charge, counted_as, HEAD
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.sample import Sample
from etuner_ros.shared.nearest_mean import NearestClassMean


class Never(Method):
    """The deployed model, untouched."""

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Return what the deployed head says."""
        head, classes = self.world.base.head, self.world.base.classes
        with torch.no_grad():
            best = head(self.world.features(samples)).argmax(dim=1)
        return [classes[i] for i in best.tolist()]


class _OnFeatures(Method):
    """Learns each sample from its feature, which is there from when it was predicted."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.on_batch(list(world.exemplars))

    def on_batch(self, samples: list[Sample]) -> None:
        """Learn at once."""
        self.updates += 1
        with counted_as(HEAD):
            self.learn(self.world.features(samples), [s.label for s in samples])

    def learn(self, features: Tensor, labels: list[str]) -> None:
        """Take features (n, D) and their labels."""


class NearestMean(_OnFeatures):
    """Nearest class mean of features scaled to length 1."""

    def __init__(self, world: World) -> None:
        self._means = NearestClassMean()
        super().__init__(world)

    def learn(self, features: Tensor, labels: list[str]) -> None:
        """Add to the class means."""
        charge(4.0 * features.numel())
        for row, label in zip(features.numpy(), labels):
            self._means.add(row, label)

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Return the nearest classes."""
        return [self._means.predict(f) for f in self.world.features(samples).numpy()]


class Ridge(_OnFeatures):
    """Ridge regression onto one-hot targets on features as they are."""

    def __init__(self, world: World) -> None:
        self._head = InstantHead(world.base.feature_size, HeadConfig(prior=0.0))
        self._rows: list[Tensor] = []
        self._labels: list[str] = []
        super().__init__(world)

    def learn(self, features: Tensor, labels: list[str]) -> None:
        """Update the solution; solve anew when that is due, as the robot's head is."""
        self._rows += list(features)
        self._labels += labels
        if self._head.classes:
            for row, label in zip(features, labels):
                self._head.learn(row, label)
        if self._head.is_stale or not self._head.classes:
            self._head.rebuild(torch.stack(self._rows), self._labels)

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Return the best classes."""
        best = self._head.logits(self.world.features(samples)).argmax(dim=1)
        return [self._head.classes[i] for i in best.tolist()]
