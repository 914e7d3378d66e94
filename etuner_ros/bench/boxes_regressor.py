# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
From a proposed box to the taught one: a linear map of the same features that name the region.

The parametrisation is that of R-CNN (arXiv 1311.2524, appendix C). Ridge regression in closed
form.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from etuner_ros.core.boxes.geometry import Boxes, centres, Floats

RIDGE = 1000.0  # penalty, in samples of mean feature variance
# Mostly about as much as proposals of an overlap of a half are off.
_MOST = np.array([0.5, 0.5, 0.7, 0.7], np.float32)


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


class BoxRefiner(NamedTuple):
    """A solved regressor."""

    weight: Floats  # (4, D)
    bias: Floats  # (4,)

    def refine(self, features: Floats, proposals: Boxes) -> Boxes:
        """
        Return better boxes, (n, 4); they may leave the image.

        :param features: (n, D) of the proposals
        """
        return moved(proposals, features @ self.weight.T + self.bias)


def refiner(
    features: Floats, proposals: Boxes, boxes: Boxes, ridge: float = RIDGE
) -> BoxRefiner | None:
    """
    Learn from pairs of a proposal and the box that was taught; None without any.

    :param features: (n, D) of the proposals
    :param proposals: (n, 4)
    :param boxes: (n, 4), taught
    :param ridge: penalty, in samples of mean feature variance
    """
    count, size = features.shape
    if not count:
        return None
    rows = np.concatenate([features, np.ones((count, 1))], axis=1, dtype=np.float64)
    spread = max(float(features.var(axis=0, dtype=np.float64).mean()), 1e-12)
    penalty = np.full(size + 1, ridge * spread)
    penalty[-1] = 1e-9 * count
    solved = np.linalg.solve(rows.T @ rows + np.diag(penalty), rows.T @ offsets(proposals, boxes))
    weight, bias = solved[:-1].T, solved[-1]
    return BoxRefiner(np.ascontiguousarray(weight, np.float32), bias.astype(np.float32))
