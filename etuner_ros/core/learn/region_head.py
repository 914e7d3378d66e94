# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The head of regions: the instant head with a class for what shows no thing, a box regressor on the
same features, and the evidence that a name needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from etuner_ros.core.boxes.box_regressor import BoxRefiner, BoxRegressor
from etuner_ros.core.boxes.geometry import Boxes, Floats, overlaps
from etuner_ros.core.boxes.readout import BACKGROUND, evidence_of
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.within_class import WithinClass

FOLDS = 4  # of what is held back


@dataclass(frozen=True)
class RegionSettings:
    """How regions are learned."""

    background: float = 0.25  # weight of that class, beside 1 of each class of things
    most_background: float = 0.3  # overlap with a taught box up to which a proposal shows none
    least_taught: float = 0.5  # overlap with it from which on the proposal shows the thing
    proposal_weight: float = 0.5  # of such a proposal, beside 1 of the taught box itself
    grounds: int = 6  # proposals of a frame that are learned as background; the best ones
    nears: int = 2  # ... as a taught thing, of each; those that fit best
    recall: float = 0.9  # share of known things whose name is said


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
    track of many faint sightings counts no more and no less than a single label.
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
    :ivar regressor: boxes
    :ivar refiner: what it has learned
    :ivar least_evidence: below it a thing is unknown
    """

    def __init__(
        self,
        features: int,
        settings: RegionSettings | None = None,
        config: HeadConfig | None = None,
        within: WithinClass | None = None,
    ) -> None:
        self.settings = settings or RegionSettings()
        self.head = InstantHead(features, config, within)
        self.regressor = BoxRegressor(features)
        self.refiner = BoxRefiner.identity(features)
        self.least_evidence = -np.inf

    def fit(self, frames: Sequence[Regions], groups: Sequence[int] = ()) -> None:
        """
        Learn from all frames, whatever was learned before.

        :param frames: with one thing or more in all
        :param groups: of each frame; frames of one group show the same things, so what is known
            of one by another tells nothing; those below 0 are no measure of what a name needs;
            without groups nothing is unknown
        """
        self._solve(frames)
        self.regressor = BoxRegressor(self.head.features)
        for frame in frames:
            self.regressor.add(frame.paired, frame.proposals, frame.boxes)
        self.refiner = self.regressor.refiner()
        width, pairs = self.head.features + 1, sum(len(f.paired) for f in frames)
        charge(2.0 * pairs * width**2 + 2.0 / 3.0 * width**3, HEAD)
        evidence = self._held_back(frames, groups)
        self.least_evidence = (
            float(np.quantile(evidence, 1.0 - self.settings.recall)) if len(evidence) else -np.inf
        )

    def logits(self, features: Floats) -> Floats:
        """Return logits (n, C) of features (n, D)."""
        return self.head.logits(torch.from_numpy(features)).numpy().astype(np.float32)

    def _solve(self, frames: Sequence[Regions]) -> None:
        labels = [name for frame in frames for name in frame.labels]
        weights = shares(
            labels, np.concatenate([f.weights for f in frames]), self.settings.background
        )
        features = np.concatenate([f.features for f in frames])
        self.head.rebuild(torch.from_numpy(features), labels, torch.from_numpy(weights))

    def _held_back(self, frames: Sequence[Regions], groups: Sequence[int]) -> Floats:
        """Return the evidence of things by what was learned of other groups alone, (m,)."""
        folds = [
            [f for f, g in zip(frames, groups) if g >= 0 and g % FOLDS == fold]
            for fold in range(FOLDS)
        ]
        found = [np.zeros(0, np.float32)]
        for fold, held in enumerate(folds):
            others = [f for i, rest in enumerate(folds) if i != fold for f in rest]
            if not held or not any(set(f.labels) - {BACKGROUND} for f in others):
                continue
            part = RegionHead(
                self.head.features, self.settings, self.head.config, self.head.within
            )
            part._solve(others)
            for frame in held:
                rows = [i for i, n in enumerate(frame.labels) if part.head.knows(n)]
                things = [i for i in rows if frame.labels[i] != BACKGROUND]
                if things:
                    logits = part.logits(frame.features[things])
                    found.append(evidence_of(logits, part.head.classes))
        return np.concatenate(found)
