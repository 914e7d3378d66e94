# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Where the features of a network go in a round, told by some samples for all the others.

A round moves features a lot, but alike: of the distance that they go, a linear map that is fitted
to some hundred samples foretells most. So the head is solved for thousands of samples while the
features of a few are computed (semantic drift compensation, Yu et al., CVPR 2020; by a linear map,
Gomez-Villa et al., ECCV 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

from etuner_ros.core.cost import charge, HEAD

RIDGE = 0.1  # of the mean squared length of a feature, centred


class Drift:
    """
    The map `x + mean + (x - centre) W` from features before a round to those after it.

    Ridge regression of what features moved by, in its dual form: there are fewer samples than
    features.

    :param before: (n, D) features of some samples, n > 0
    :param after: (n, D) of the same ones
    """

    def __init__(self, before: Tensor, after: Tensor) -> None:
        n, size = before.shape
        moved = after - before
        self._centre, self._mean = before.mean(dim=0), moved.mean(dim=0)
        self._rows = before - self._centre
        gram = (self._rows @ self._rows.T).double()
        gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()) + 1e-9)
        self._dual = torch.linalg.solve(gram, (moved - self._mean).double()).float()
        charge(4.0 * n**2 * size + n**3 / 1.5, HEAD)

    def follow(self, rows: Tensor) -> Tensor:
        """Return where features (m, D) went."""
        charge(4.0 * len(rows) * self._rows.numel(), HEAD)
        moved: Tensor = ((rows - self._centre) @ self._rows.T) @ self._dual
        return rows + self._mean + moved
