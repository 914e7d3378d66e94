# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The head of regions: the instant head with a class for what shows no thing, and a box regressor on
the same features. A robot learns what people say alone: where one thing of a frame was named, both
lose (docs/boxes.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from etuner_ros.bench.boxes_regressor import BoxRefiner, refiner
from etuner_ros.core.boxes.geometry import Boxes, Floats, overlaps
from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.within_class import WithinClass


@dataclass(frozen=True)
class RegionSettings:
    """How regions are learned."""

    background: float = 0.25  # weight of that class, beside 1 of each class of things
    most_background: float = 0.3  # overlap with a taught box up to which a proposal shows none
    least_taught: float = 0.5  # overlap with it from which on the proposal shows the thing
    proposal_weight: float = 0.5  # of such a proposal, beside 1 of the taught box itself
    grounds: int = 6  # proposals of a frame that are learned as background; the best ones
    nears: int = 2  # ... as a taught thing, of each; those that fit best


@dataclass(frozen=True)
class Regions:
    """What a frame with taught boxes teaches; n samples and m pairs."""

    features: Floats  # (n, D)
    labels: list[str]  # n
    weights: Floats  # (n,)
    paired: Floats  # (m, D), features of proposals
    proposals: Boxes  # (m, 4)
    boxes: Boxes  # (m, 4), the taught one of each


def regions_of(
    taught: Boxes,
    names: Sequence[str],
    features: Floats,
    proposals: Boxes,
    proposed: Floats,
    settings: RegionSettings,
) -> Regions:
    """
    Return what a frame teaches.

    :param taught: (k, 4)
    :param names: k, of the taught boxes
    :param features: (k, D) of the taught boxes
    :param proposals: (p, 4), best first
    :param proposed: (p, D), features of the proposals
    """
    overlap = overlaps(proposals, taught)
    most = overlap.max(axis=1, initial=0.0)
    ground = np.flatnonzero(most < settings.most_background)[: settings.grounds]
    near, things = [], []
    for thing in range(len(taught)):
        fitting = np.argsort(-overlap[:, thing], kind='stable')[: settings.nears]
        good = [p for p in fitting if overlap[p, thing] >= settings.least_taught]
        near += good
        things += [thing] * len(good)
    weights = [1.0] * len(taught) + [settings.proposal_weight] * len(near) + [1.0] * len(ground)
    return Regions(
        np.concatenate([features, proposed[near], proposed[ground]]),
        [*names, *(names[i] for i in things), *([BACKGROUND] * len(ground))],
        np.array(weights, np.float32),
        proposed[near],
        proposals[near],
        taught[things],
    )


def shares(labels: Sequence[str], weights: Floats, background: float) -> Floats:
    """
    Return weights whose mean is 1 for each class, and `background` for that one, (n,).

    As the instant head weighs each class the same by the number of its samples, so do they: a
    thing that was proposed several times counts no more and no less than a single label.
    """
    found = np.asarray(weights, np.float64).copy()
    names = np.asarray(labels)
    for name in dict.fromkeys(labels):
        rows = names == name
        found[rows] *= (background if name == BACKGROUND else 1.0) / found[rows].mean()
    return np.asarray(found, np.float32)


class RegionHead:
    """
    Learns names and boxes of things from features of regions.

    :param features: length D of a feature
    :param within: what pictures of one kind differ in
    :ivar head: names
    :ivar refiner: boxes; None before any pair was learned
    """

    def __init__(
        self,
        features: int,
        settings: RegionSettings | None = None,
        within: WithinClass | None = None,
    ) -> None:
        self.settings = settings or RegionSettings()
        self.head = InstantHead(features, within=within)
        self.refiner: BoxRefiner | None = None

    def fit(self, frames: Sequence[Regions]) -> None:
        """
        Learn from all frames, whatever was learned before.

        :param frames: with one thing or more in all
        """
        labels = [name for frame in frames for name in frame.labels]
        weights = shares(
            labels, np.concatenate([f.weights for f in frames]), self.settings.background
        )
        features = np.concatenate([f.features for f in frames])
        self.head.rebuild(torch.from_numpy(features), labels, torch.from_numpy(weights))
        paired = np.concatenate([f.paired for f in frames])
        self.refiner = refiner(
            paired,
            np.concatenate([f.proposals for f in frames]),
            np.concatenate([f.boxes for f in frames]),
        )
        width = self.head.features + 1
        charge(2.0 * len(paired) * width**2 + 2.0 / 3.0 * width**3, HEAD)

    def logits(self, features: Floats) -> Floats:
        """Return logits (n, C) of features (n, D)."""
        return self.head.logits(torch.from_numpy(features)).numpy().astype(np.float32)
