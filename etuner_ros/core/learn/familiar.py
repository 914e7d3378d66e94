# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What makes a thing look known: rows of `core/models/likeness.py`, from what was taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.learn.within_class import WithinClass

COUNTING = 100  # of each class; those that were learned last
# Likeness that nine of ten things reach that were seen elsewhere before, with what ships for the
# deployed network: 0.42 to 0.47, however many were taught (docs/boxes.md).
USUAL = 0.45
LOWEST = 0.35  # where some of them are called by wrong names, or are not alike at all
LEAST = 20  # things beside others of their class, from which on they may ask for less
SHARE = 0.05  # of them that would be unknown had they not been taught
# Mean cosine of two things of one class, and of two classes, by the deployed network (three
# recordings, 48 to 208 labels: 0.51 to 0.58, and 0.35 to 0.38).
ALIKE, APART = 0.55, 0.37
PAIRS = 20  # from which on such a mean tells something
TUNED, MOST = 0.6, 0.75  # what is needed after rounds where nothing tells (0.52 to 0.70), and most


class Taught(Protocol):
    """What was taught once."""

    @property
    def row(self) -> Tensor:
        """Its feature, (D,)."""

    @property
    def label(self) -> str:
        """What it is."""

    @property
    def thing(self) -> bool:
        """Whether it is a thing in a box, not a whole image."""


class _Spread(NamedTuple):
    """Mean cosine of two samples of one class, and of two classes; nan of few such pairs."""

    alike: float
    apart: float

    @classmethod
    def of(cls, units: Tensor, classes: Tensor) -> _Spread:
        """Return it of unit vectors (n, D) of classes (n,)."""
        counts = torch.bincount(classes)
        sums = torch.zeros(len(counts), units.shape[1]).index_add_(0, classes, units)
        own, total = float(sums.square().sum()), float(sums.sum(dim=0).square().sum())
        same = int(counts.square().sum()) - len(units)
        other = len(units) ** 2 - same - len(units)
        return cls(
            (own - len(units)) / same if same >= 2 * PAIRS else math.nan,
            (total - own) / other if other >= 2 * PAIRS else math.nan,
        )


def _grown(before: _Spread, now: _Spread) -> list[float]:
    """Return what is needed now, by each mean that tells something before and now."""
    found = []
    if before.alike > 0.0:  # not of nan
        found.append(USUAL * now.alike / before.alike)
    if before.apart < USUAL:
        found.append(1.0 - (1.0 - USUAL) * (1.0 - now.apart) / (1.0 - before.apart))
    return [value for value in found if not math.isnan(value)]


class Familiar:
    """
    Makes the rows for one backbone.

    What is known of a thing is kept by the very feature: one that is learned anew counts anew.

    :param within: what pictures of one kind differ in; without it nothing is told: how alike
        things of one kind are is not known then
    :param deployed: where the backbone is not the deployed one: what that made of samples, by
        their id; rounds make all pictures more alike, and the same samples tell by how much
    """

    def __init__(
        self, within: WithinClass | None, deployed: Mapping[str, Tensor] | None = None
    ) -> None:
        self._within, self._deployed = within, deployed
        self._units: dict[str, tuple[Tensor, Tensor]] = {}  # feature, and its direction in float16

    def rows(self, taught: Mapping[str, Taught], classes: Sequence[str]) -> Tensor | None:
        """
        Return a row for each class, (C, D) float32; nothing while no thing in a box was taught.

        A class is what its things look like; one of which there are none, what its images do. One
        of which there is nothing has a row of zeros.

        :param taught: by sample id
        """
        counting = self._counting(taught, classes)
        if self._within is None or not any(taught[i].thing for i in counting):
            self._units.clear()
            return None
        units = self._directions({i: taught[i].row for i in counting})
        index = {label: i for i, label in enumerate(classes)}
        at = torch.tensor([index[taught[i].label] for i in counting])
        sums = torch.zeros(len(classes), units.shape[1]).index_add_(0, at, units)
        counts = torch.bincount(at, minlength=len(classes))
        charge(6.0 * units.numel(), HEAD)
        others = counts[at] - 1
        told = (others > 0) & torch.tensor([taught[i].thing for i in counting])
        alone = ((units * sums[at]).sum(dim=1) - 1.0)[told] / others[told]
        needed = usual = self._usual(counting, units, at)
        if len(alone) >= LEAST:
            # Never more: neighbouring frames are far more alike than a thing is elsewhere.
            needed = min(usual, max(float(alone.quantile(SHARE)), LOWEST / USUAL * usual))
        means = sums / counts.clamp_min(1)[:, None]
        # The map is symmetric: taken out of the rows, it need not be taken out of features.
        return self._within.without(means) / needed

    def _usual(self, counting: Sequence[str], units: Tensor, at: Tensor) -> float:
        """
        Return the likeness that nine of ten things reach that were seen elsewhere before.

        By as much as things of one class have become more alike, or those of two have come closer.

        :param counting: n ids
        :param units: (n, D), what the backbone makes of them
        :param at: (n,) their classes
        """
        if self._deployed is None:
            return USUAL
        assert self._within is not None
        told: list[float] = []
        both = [place for place, i in enumerate(counting) if i in self._deployed]
        if both:
            rows = torch.stack([self._deployed[counting[place]] for place in both]).float()
            made = torch.nn.functional.normalize(self._within.without(rows), dim=1)
            charge(6.0 * rows.numel(), HEAD)
            told = _grown(_Spread.of(made, at[both]), _Spread.of(units[both], at[both]))
        if not told and len(counting) >= LEAST:  # as after a restart, or months
            told = _grown(_Spread(ALIKE, APART), _Spread.of(units, at))
        return min(max([USUAL, *told]), MOST) if told else TUNED

    @staticmethod
    def _counting(taught: Mapping[str, Taught], classes: Sequence[str]) -> list[str]:
        """Return ids of what counts; nothing that shows no thing, as that is like nothing."""
        of: dict[str, tuple[list[str], list[str]]] = {
            name: ([], []) for name in classes if name != BACKGROUND
        }
        for i, one in taught.items():
            if one.label in of:
                of[one.label][one.thing].append(i)
        return [i for images, things in of.values() for i in (things or images)[-COUNTING:]]

    def _directions(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Return unit vectors (n, D) float32, computed once."""
        self._units = {
            i: known for i, known in self._units.items() if i in rows and known[0] is rows[i]
        }
        new = [i for i in rows if i not in self._units]
        if new:
            assert self._within is not None
            made = self._within.without(torch.stack([rows[i] for i in new]).float())
            made = torch.nn.functional.normalize(made, dim=1).half()
            self._units.update(zip(new, zip([rows[i] for i in new], made)))
        return torch.stack([self._units[i][1] for i in rows]).float()
