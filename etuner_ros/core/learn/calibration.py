# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How right and how sure a ridge regression is on samples that it has not seen."""

from __future__ import annotations

import torch
from torch import Tensor

from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.learn.ridge import RidgeRegression

_SCALES = [2.0**e for e in (0, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6)]


def leave_one_out(ridge: RidgeRegression, rows: Tensor, hot: Tensor, weight: Tensor) -> Tensor:
    """
    Return the scores of each sample by the others, (n, C), by the closed form.

    :param rows: (n, D + 1), what the regression was solved for
    :param hot: (n, C) its targets
    :param weight: (n,) its weights
    """
    leverage = ridge.leverage(rows, weight).clamp_max(1.0 - 1e-9)
    return hot - (hot - ridge.scores(rows)) / (1.0 - leverage)[:, None]


def likeliest_scale(scores: Tensor, target: Tensor) -> float:
    """
    Return the factor of scores whose softmax says the labels best; 1 for a single class.

    :param scores: (n, C), each made without its sample
    :param target: (n,) classes
    """
    if scores.shape[1] < 2:
        return 1.0
    charge(len(_SCALES) * 4.0 * scores.numel(), HEAD)
    losses = [float(torch.nn.functional.cross_entropy(scores * s, target)) for s in _SCALES]
    return _SCALES[losses.index(min(losses))]
