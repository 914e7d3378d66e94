# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A version that is ready to serve, the same at fewer pixels, and what is said of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
import itertools

import numpy as np

from etuner_ros.core.models.likeness import Likeness
from etuner_ros.core.models.weights import sha256, State
from etuner_ros.core.serve.graph_file import Floats
from etuner_ros.core.serve.networks import Network

_numbers = itertools.count(1)  # of all models in this process: none comes twice


@dataclass(frozen=True)
class Result:
    """What the model says about one image."""

    labels: list[str]  # best first
    scores: list[float]  # softmax, in [0, 1]
    energy: float
    novelty: float
    appearance: list[float]
    features: Floats  # (D,)
    version: int
    backbone: str  # digest of what made the features
    resize_seconds: float
    seconds: float  # resizing and all that follows
    pixels: int  # side of the square that was looked at


@dataclass(frozen=True)
class RegionResult:
    """What one version makes of n regions of an image."""

    features: Floats  # (n, D)
    logits: Floats  # (n, C)
    classes: tuple[str, ...]  # C
    version: int
    backbone: str  # digest of what made the features
    likeness: Floats | None = None  # (n, C) to what was taught; None where that is not told


@dataclass(frozen=True)
class Named:
    """What a head says of one feature; nothing while it knows no class."""

    labels: list[str]  # best first
    scores: list[float]  # softmax, in [0, 1]
    energy: float  # -logsumexp of the logits


@dataclass(frozen=True)
class Slot:
    """A version that is ready to serve."""

    network: Network
    weight: Floats  # (C, D), of the head
    bias: Floats  # (C,)
    classes: tuple[str, ...]
    version: int
    backbone: str  # digest of what makes the features
    update: State  # of the backbone: tensors that differ from the base weights
    announced: str  # digest of the backbone, as it was announced
    likeness: Likeness | None = None  # to what was taught; None where that is not told
    # Another one each time that a network is filled, as networks are written over in place; a new
    # head alone keeps it.
    number: int = field(default_factory=lambda: next(_numbers))

    def logits(self, features: Floats) -> Floats:
        """Return the logits (n, C) of features (n, D)."""
        logits: Floats = features @ self.weight.T + self.bias
        return logits

    def name(self, features: Floats, top_k: int) -> list[Named]:
        """Return what each of features (n, D) is taken for."""
        if not self.classes:
            return [Named([], [], 0.0)] * len(features)
        found = []
        for logits in self.logits(features):
            powers = np.exp(logits - logits.max())
            total = float(powers.sum())
            best = np.argsort(-logits, kind='stable')[:top_k]
            found.append(
                Named(
                    [self.classes[i] for i in best],
                    (powers[best] / total).tolist(),
                    -float(np.log(total) + logits.max()),
                )
            )
        return found


def next_number() -> int:
    """Return a number for a slot whose network is another one."""
    return next(_numbers)


@dataclass(frozen=True)
class Alignment:
    """Moves and stretches each value: `gain * value + shift`, both (D,)."""

    gain: Floats
    shift: Floats

    def __call__(self, values: Floats) -> Floats:
        """Return aligned values, (..., D)."""
        return values * self.gain + self.shift

    @staticmethod
    def of(values: Floats, target: Floats) -> Alignment:
        """
        Return what gives each value the mean and deviation that it has in another sample.

        Deviations below a tenth of the usual one count as that: of a value that hardly moves, the
        ratio says nothing, and a robot that stands still sees nothing move.

        :param values: (n, D)
        :param target: of the same frames, (n, D)
        """
        ours, theirs = (sample.std(axis=0, dtype=np.float64) for sample in (values, target))
        least = 0.1 * theirs.mean() + 1e-6
        gain = np.maximum(theirs, least) / np.maximum(ours, least)
        shift = target.mean(axis=0, dtype=np.float64) - gain * values.mean(
            axis=0, dtype=np.float64
        )
        return Alignment(gain.astype(np.float32), shift.astype(np.float32))


@dataclass(frozen=True)
class SmallerSlot:
    """
    A version as it serves at fewer pixels, by the head of the version itself.

    A network sees other features at other sizes, and the head was solved on those of the version's
    own size. So they are aligned, `W (gain f + shift) + b`, before the head sees them: of every
    head, as the features are aligned and not the head.
    """

    network: Network
    pixels: int
    number: int  # of the slot that it is of; it serves with no other
    backbone: str  # digest of what makes the features, before they are aligned
    features: Alignment  # (D,)
    appearance: Alignment  # (2A,): a change of pixels is no change of the scenario


def backbone_at(backbone: str, pixels: int) -> str:
    """Return the digest of a backbone that looks at other pixels than those of its version."""
    return sha256(f'{backbone}@{pixels}'.encode())
