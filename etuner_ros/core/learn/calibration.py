# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How right and how sure a ridge regression is on samples that it has not seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.learn.ridge import RidgeRegression

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
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
    return _likeliest(scores, target)[1]


def _likeliest(scores: Tensor, target: Tensor) -> tuple[float, float]:
    """Return the least mean cross-entropy over scales, and its scale."""
    if scores.shape[1] < 2:
        return 0.0, 1.0
    charge(len(_SCALES) * 4.0 * scores.numel(), HEAD)
    losses = [float(torch.nn.functional.cross_entropy(scores * s, target)) for s in _SCALES]
    best = min(losses)
    return best, _SCALES[losses.index(best)]


def choose_penalty(
    ridge: RidgeRegression, rows: Tensor, hot: Tensor, weight: Tensor, judged: Tensor
) -> Tensor:
    """
    Solve with the penalty whose leave-one-out scores say the labels best; return those, (n, C).

    With few labels a large penalty is right, with thousands a small one. Goes step by step from
    the penalty that the regression has, as long as it gets better: two or three solves.

    :param rows: (n, D + 1)
    :param hot: (n, C) targets
    :param weight: (n,)
    :param judged: (n,) bool, the samples that count
    """
    target = hot.argmax(dim=1)

    def loss(penalty: float) -> tuple[float, Tensor]:
        ridge.ridge = penalty
        ridge.solve(rows, hot, weight)
        scores = leave_one_out(ridge, rows, hot, weight)
        return _likeliest(scores[judged], target[judged])[0], scores

    place = min(range(len(PENALTIES)), key=lambda i: abs(math.log(PENALTIES[i] / ridge.ridge)))
    best, scores = loss(PENALTIES[place])
    for step in (1, -1):
        moved = False
        while 0 <= place + step < len(PENALTIES):
            other, its = loss(PENALTIES[place + step])
            if other >= best:
                break
            place, best, scores, moved = place + step, other, its, True
        if moved:
            break
    if ridge.ridge != PENALTIES[place]:
        ridge.ridge = PENALTIES[place]
        ridge.solve(rows, hot, weight)
    return scores
