# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How right and how sure a ridge regression is on samples that it has not seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.learn.ridge import RidgeRegression, Samples

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
_SCALES = [2.0**e for e in (0, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6)]


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


def choose_penalty(
    ridge: RidgeRegression, samples: Samples, hot: Tensor, weight: Tensor
) -> Tensor:
    """
    Solve with the penalty whose leave-one-out scores say the labels best; return those (n, C).

    With few labels a large penalty is right, with thousands a small one. A sample counts as it
    does in the regression, so where classes weigh the same, those with few labels tell what they
    need.
    Goes step by step from the penalty that the regression has, as long as that is better by more
    than its standard error: where the head is right anyway, all penalties seem the same, and are
    not for other pictures.

    :param hot: (n, C) targets
    :param weight: (n,)
    """
    target = hot.argmax(dim=1)
    # The only sample of a class is told by none of the others.
    share = weight * (hot.sum(dim=0)[target] > 1.0)
    share = share / share.sum().clamp_min(1e-12)

    def loss(place: int) -> tuple[Tensor, Tensor]:
        ridge.ridge = PENALTIES[place]
        scores = ridge.solve_and_leave_out(samples, hot, weight)
        scaled = scores * likeliest_scale(scores, target)
        each = torch.nn.functional.cross_entropy(scaled, target, reduction='none')
        return each, scores

    place = min(range(len(PENALTIES)), key=lambda i: abs(math.log(PENALTIES[i] / ridge.ridge)))
    best, scores = loss(place)
    solved = place
    for step in (1, -1):
        began = place
        while 0 <= place + step < len(PENALTIES):
            solved = place + step
            other, its = loss(solved)
            gain = best - other
            mean = float((share * gain).sum())
            if mean <= float((share * (gain - mean)).square().sum()) ** 0.5:
                break
            place, best, scores = solved, other, its
        if place != began:
            break
    if solved != place:
        ridge.ridge = PENALTIES[place]
        ridge.solve(samples, hot, weight)
    return scores
