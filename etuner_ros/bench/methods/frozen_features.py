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

SHRINKAGE = 1e-4  # of Deep SLDA's covariance towards the identity


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
    """Ridge regression onto one-hot targets: our instant head without any tuning below it."""

    def __init__(self, world: World) -> None:
        self._head = InstantHead(world.base.feature_size, HeadConfig(prior=0.0))
        super().__init__(world)

    def learn(self, features: Tensor, labels: list[str]) -> None:
        """Update the exact solution."""
        if not self._head.classes:
            self._head.rebuild(features, labels)
            return
        for row, label in zip(features, labels):
            self._head.learn(row, label)

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Return the best classes."""
        best = self._head.logits(self.world.features(samples)).argmax(dim=1)
        return [self._head.classes[i] for i in best.tolist()]


class StreamingLDA:
    """
    Streaming linear discriminant analysis with a shared covariance.

    :param size: length D of a feature
    """

    def __init__(self, size: int) -> None:
        self.means = torch.zeros(0, size, dtype=torch.float64)
        self.covariance = torch.zeros(size, size, dtype=torch.float64)
        self.counts: list[int] = []
        self.classes: list[str] = []
        self.seen = 0

    def add(self, feature: Tensor, label: str) -> None:
        """Learn one sample (equations 2 and 3); it is compared with the mean before it."""
        if label not in self.classes:
            self.classes.append(label)
            self.counts.append(0)
            self.means = torch.cat([self.means, torch.zeros_like(self.covariance[:1])])
        index = self.classes.index(label)
        change = feature.double() - self.means[index]
        if self.counts[index]:  # a first sample says nothing of the spread around its mean
            spread = torch.outer(change, change) * (self.seen / (self.seen + 1.0))
            self.covariance = (self.seen * self.covariance + spread) / (self.seen + 1.0)
        self.counts[index] += 1
        self.means[index] += change / self.counts[index]
        self.seen += 1

    def linear(self) -> tuple[Tensor, Tensor]:
        """Return weight (C, D) and bias (C,), float64 (equations 4 to 6)."""
        eye = torch.eye(len(self.covariance), dtype=torch.float64)
        # Positive definite by the shrinkage, so the pseudo-inverse of the paper is the inverse.
        shrunk = (1.0 - SHRINKAGE) * self.covariance + SHRINKAGE * eye
        precision = torch.cholesky_inverse(torch.linalg.cholesky(shrunk))
        weight = self.means @ precision
        return weight, -0.5 * (weight * self.means).sum(dim=1)


class DeepSLDA(_OnFeatures):
    """Streaming LDA on frozen features."""

    def __init__(self, world: World) -> None:
        self._lda = StreamingLDA(world.base.feature_size)
        self._linear: tuple[Tensor, Tensor] | None = None
        super().__init__(world)

    def learn(self, features: Tensor, labels: list[str]) -> None:
        """Update means and covariance; the precision is inverted once for a batch."""
        size = features.shape[1]
        for row, label in zip(features, labels):
            self._lda.add(row, label)
        self._linear = self._lda.linear()
        charge(6.0 * len(labels) * size**2 + 2.0 * size**3)

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Return the best classes."""
        assert self._linear is not None
        weight, bias = self._linear
        best = (self.world.features(samples).double() @ weight.T + bias).argmax(dim=1)
        return [self._lda.classes[i] for i in best.tolist()]
