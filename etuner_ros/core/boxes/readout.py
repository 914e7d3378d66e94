# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a version of the head says of the regions of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from etuner_ros.core.boxes.geometry import (
    Boxes,
    clip,
    distinct,
    Floats,
    insides,
    overlaps,
    without_rivals,
)

BACKGROUND = 'background'  # label of a region that shows no thing
_LEAST_SCORE = 1e-6  # of a proposal
# What a score counts beside likeness; see `familiar_as`.
_USUAL_SCORE = 0.6  # of a name that is known; with it a thing is as familiar as it is like it
_SCORE_POWER = 0.2


@dataclass(frozen=True)
class ReadoutSettings:
    """What is said of regions."""

    most_overlap: float = 0.5  # of two objects; above it they are one, and the surer one stays
    # Share of a named one that may lie in another one of its name; above it it is a part of that.
    most_inside: float = 0.7
    top_k: int = 3  # names of an object
    # How familiar it has to look, of what a name needs, or it is unknown; 0: not asked.
    unlike_below: float = 1.0
    # Score below which it is unknown where that is not told; 0: not asked.
    unknown_below: float = 0.4


@dataclass(frozen=True)
class Objects:
    """What is in an image, the surest first; n objects."""

    places: npt.NDArray[np.intp]  # (n,) of each in the proposals
    boxes: Boxes  # (n, 4), clipped
    labels: list[tuple[str, ...]]  # best first
    scores: list[tuple[float, ...]]  # softmax over all classes, background too
    # (n,) the score of the proposal times that of the best name, and how familiar it is
    ranks: Floats
    familiar: Floats  # (n,) see `familiar_as`; nan: not told
    unknown: npt.NDArray[np.bool_]  # (n,) not familiar, or too little speaks for a name
    energy: Floats  # (n,) -logsumexp(logits) (arXiv 2010.03759)

    def __len__(self) -> int:
        """Return n."""
        return len(self.places)


def probabilities(logits: Floats) -> Floats:
    """Return the softmax of logits (n, C)."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares


def familiar_as(likeness: Floats, shares: Floats, names: npt.NDArray[np.intp]) -> Floats:
    """
    Return how familiar regions look as what they are called, (n,); 1 is what a name needs.

    It is how like that they are, and for a little their score: what is a bit like several kinds is
    none of them more often than what is like a single one.

    :param likeness: (n, C) to what was taught of each class, nan for one of which nothing was; see
        `core/models/likeness.py`
    :param shares: (n, C) their scores; of one class alone they tell nothing
    :param names: (n,) columns of what they are called
    """
    places = np.arange(len(names))
    score = shares[places, names] if shares.shape[1] > 1 else _USUAL_SCORE
    found: Floats = likeness[places, names].clip(0.0) * (score / _USUAL_SCORE) ** _SCORE_POWER
    return found


def _things(classes: Sequence[str]) -> list[int]:
    return [i for i, name in enumerate(classes) if name != BACKGROUND]


def read(
    classes: Sequence[str],
    logits: Floats,
    proposals: Boxes,
    size: tuple[int, int],
    settings: ReadoutSettings | None = None,
    proposed: Floats | None = None,
    likeness: Floats | None = None,
) -> Objects:
    """
    Say what is in the regions of an image: names and boxes, each thing once.

    Regions that are background more likely than all things together are left out; those that are
    so more likely than the best thing are unknown. The surest are those that are most
    likely things, and of that name: a head that knows few kinds is sure of anything.

    :param logits: (n, C)
    :param proposals: (n, 4)
    :param size: width and height of the image, in px
    :param proposed: (n,) scores of the proposals in [0, 1]; None for equal ones
    :param likeness: (n, C) to what was taught of each class, nan for one of which nothing was;
        None where that is not told
    """
    settings = settings or ReadoutSettings()
    things = _things(classes)
    if not len(proposals):
        return _nothing()
    # Never 0: of those without a score the surer name still comes first.
    scores = np.ones(len(proposals)) if proposed is None else np.nan_to_num(proposed)
    objectness = np.asarray(scores.clip(_LEAST_SCORE, 1.0), np.float32)
    if not things:
        return _nameless(clip(proposals, *size), objectness, settings.most_overlap)
    shares = probabilities(logits)
    shown = np.flatnonzero(shares[:, things].sum(axis=1) >= 0.5)
    boxes, shares = clip(proposals[shown], *size), shares[shown]
    best = np.asarray(things)[shares[:, things].argmax(axis=1)]
    score = shares[np.arange(len(shown)), best]
    familiar = np.full(len(shown), np.nan, np.float32)
    ranks = objectness[shown] * score
    if likeness is not None and settings.unlike_below > 0:
        # nan where nothing was taught of that name: then nothing speaks against it.
        familiar = familiar_as(likeness[shown], shares, best)
        ranks = ranks * np.nan_to_num(familiar, nan=1.0).clip(_LEAST_SCORE)
    # Among few classes the best one has a high score whatever it is.
    least = max(settings.unknown_below, 1.5 / len(classes)) if settings.unknown_below > 0 else 0.0
    unknown = np.where(np.isnan(familiar), score < least, familiar < settings.unlike_below)
    unknown |= shares.argmax(axis=1) != best  # background
    rivals = overlaps(boxes, boxes) > settings.most_overlap
    parts = insides(boxes, boxes) > settings.most_inside
    parts &= np.equal.outer(best, best) & ~np.logical_or.outer(unknown, unknown)
    kept = without_rivals(rivals | parts, ranks)
    places = shown[kept]
    order = np.argsort(-shares[:, things], axis=1, kind='stable')[:, : settings.top_k]
    largest = logits[places].max(axis=1, initial=-np.inf)
    energy = -(largest + np.log(np.exp(logits[places] - largest[:, None]).sum(axis=1)))
    return Objects(
        places,
        boxes[kept],
        [tuple(classes[things[i]] for i in order[k]) for k in kept],
        [tuple(float(shares[k, things[i]]) for i in order[k]) for k in kept],
        ranks[kept],
        familiar[kept],
        unknown[kept],
        energy.astype(np.float32),
    )


def _nameless(boxes: Boxes, ranks: Floats, most_overlap: float) -> Objects:
    """Return what is said while no class is known: all proposals, best first, without a name."""
    places = distinct(boxes, ranks, most_overlap)
    none = np.zeros(len(places), np.float32)
    untold = np.full(len(places), np.nan, np.float32)
    nothing: list[tuple[str, ...]] = [()] * len(places)
    return Objects(
        places,
        boxes[places],
        nothing,
        [()] * len(places),
        ranks[places],
        untold,
        none == 0,
        none,
    )


def _nothing() -> Objects:
    none = np.zeros(0, np.float32)
    return Objects(
        np.zeros(0, np.intp),
        np.zeros((0, 4), np.float32),
        [],
        [],
        none,
        none,
        none > 0,
        none,
    )
