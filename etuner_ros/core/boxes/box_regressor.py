# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
From a proposed box to the taught one: a linear map of the same features that name the region.

The parametrisation is that of R-CNN (arXiv 1311.2524, appendix C). Ridge regression in closed
form; sums over samples are kept, so a sample can be added and taken back in any order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from etuner_ros.core.boxes.geometry import Boxes, centres, Floats
from etuner_ros.core.errors import WeightsError

RIDGE = 1000.0  # penalty, in samples of mean feature variance
TARGETS = 4
# Mostly about as much as proposals of an overlap of a half are off.
_MOST = np.array([0.5, 0.5, 0.7, 0.7], np.float32)
_TENSORS = ('boxes.weight', 'boxes.bias')

Doubles = npt.NDArray[np.float64]


def offsets(proposals: Boxes, boxes: Boxes) -> Floats:
    """Return what leads from proposals to boxes, (n, 4): dx, dy, log dw, log dh."""
    moved = (centres(boxes) - centres(proposals)) / proposals[:, 2:]
    grown = np.log(boxes[:, 2:] / proposals[:, 2:])
    return np.concatenate([moved, grown], axis=1).astype(np.float32)


def moved(proposals: Boxes, by: Floats) -> Boxes:
    """Return proposals moved by offsets, (n, 4); wild offsets are cut off."""
    step = np.clip(by, -_MOST, _MOST)
    size = proposals[:, 2:] * np.exp(step[:, 2:])
    corner = centres(proposals) + step[:, :2] * proposals[:, 2:] - 0.5 * size
    return np.concatenate([corner, size], axis=1).astype(np.float32)


@dataclass(frozen=True)
class BoxRefiner:
    """A solved regressor, as it serves."""

    weight: Floats  # (4, D)
    bias: Floats  # (4,)

    @classmethod
    def identity(cls, features: int) -> BoxRefiner:
        """Return the one that leaves boxes as they are."""
        return cls(np.zeros((TARGETS, features), np.float32), np.zeros(TARGETS, np.float32))

    def refine(self, features: Floats, proposals: Boxes) -> Boxes:
        """
        Return better boxes, (n, 4); they may leave the image.

        :param features: (n, D) of the proposals
        """
        return moved(proposals, features @ self.weight.T + self.bias)

    def tensors(self) -> dict[str, Floats]:
        """Return what travels beside the head, by name."""
        return dict(zip(_TENSORS, (self.weight, self.bias)))

    @classmethod
    def of(cls, tensors: Mapping[str, Floats], features: int) -> BoxRefiner:
        """
        Return the one that `tensors` made; without any, the identity.

        :raises WeightsError: when shapes or values are wrong
        """
        if not any(name in tensors for name in _TENSORS):
            return cls.identity(features)
        shapes = ((TARGETS, features), (TARGETS,))
        for name, shape in zip(_TENSORS, shapes):
            value = tensors.get(name)
            if value is None or value.shape != shape or not np.isfinite(value).all():
                raise WeightsError(f'{name} must be {shape} finite values')
        return cls(*(np.asarray(tensors[name], np.float32) for name in _TENSORS))


class BoxRegressor:
    """
    Learns `BoxRefiner` from pairs of a proposal and the box that was taught.

    >>> regressor = BoxRegressor(2)
    >>> proposal = np.array([[0, 0, 10, 10]], np.float32)
    >>> regressor.add(np.ones((1, 2), np.float32), proposal, proposal + 1)
    >>> regressor.refiner().refine(np.ones((1, 2), np.float32), proposal).round(3).tolist()
    [[1.0, 1.0, 11.0, 11.0]]

    :param features: length D of a feature
    :param ridge: penalty, in samples of mean feature variance
    :ivar weight: of all pairs
    """

    def __init__(self, features: int, ridge: float = RIDGE) -> None:
        self.features, self.ridge = features, ridge
        self.weight = 0.0
        self._moment: Doubles = np.zeros((features + 1, features + 1))
        self._product: Doubles = np.zeros((features + 1, TARGETS))

    def add(
        self, features: Floats, proposals: Boxes, boxes: Boxes, weight: float | Floats = 1.0
    ) -> None:
        """
        Learn pairs.

        :param features: (n, D) of the proposals
        :param proposals: (n, 4)
        :param boxes: (n, 4), taught
        :param weight: of all, or (n,) of each
        :raises ValueError: when sizes do not fit or a value is not finite
        """
        rows: Doubles = np.ones((len(features), self.features + 1))
        if np.shape(features) != (len(proposals), self.features) or len(boxes) != len(proposals):
            raise ValueError(
                f'features must be (n, {self.features}) with n proposals and boxes, got '
                f'{np.shape(features)}, {len(proposals)} and {len(boxes)}'
            )
        rows[:, :-1] = features
        targets = offsets(proposals, boxes).astype(np.float64)
        if not (np.isfinite(rows).all() and np.isfinite(targets).all()):
            raise ValueError('features and boxes must be finite, boxes of some area')
        weighed = np.broadcast_to(np.asarray(weight, np.float64), len(rows))[:, None] * rows
        self._moment += rows.T @ weighed
        self._product += weighed.T @ targets
        self.weight += float(np.sum(np.broadcast_to(weight, len(rows))))

    def take_back(
        self, features: Floats, proposals: Boxes, boxes: Boxes, weight: float | Floats = 1.0
    ) -> None:
        """Forget pairs that were added with these very values."""
        self.add(features, proposals, boxes, -np.asarray(weight, np.float32))

    def refiner(self) -> BoxRefiner:
        """Return the solution; the identity without pairs."""
        if self.weight <= 1e-6:
            return BoxRefiner.identity(self.features)
        sums, size = self._moment[-1, :-1], self.features
        variance = (np.trace(self._moment[:size, :size]) - sums @ sums / self.weight) / (
            self.weight * size
        )
        spread = max(float(variance), 1e-12)
        penalty = np.full(size + 1, self.ridge * spread)
        penalty[-1] = 1e-9 * self.weight
        solved = np.linalg.solve(self._moment + np.diag(penalty), self._product)
        return BoxRefiner(
            np.ascontiguousarray(solved[:-1].T, np.float32), solved[-1].astype(np.float32)
        )
