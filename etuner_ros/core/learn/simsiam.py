# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Learning without labels: SimSiam (Chen & He 2021, arXiv 2011.10566), which ETuner uses for frames
that nobody labels.
"""

from __future__ import annotations

from torch import nn, Tensor
from torch.nn import functional


class SimSiam(nn.Module):
    """
    Projection and prediction heads on top of features, used in training only.

    :param features: length D of a feature vector
    """

    def __init__(self, features: int, width: int = 256, bottleneck: int = 64) -> None:
        super().__init__()
        self.projector = nn.Sequential(
            nn.Linear(features, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(width, bottleneck, bias=False),
            nn.BatchNorm1d(bottleneck),
            nn.ReLU(inplace=True),
            nn.Linear(bottleneck, width),
        )

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        """
        Return the loss of two views of the same frames (eq. 4), in [-1, 1].

        :param one: features (N, D) of one view, N at least 2
        :param other: features (N, D) of the other
        """
        z1, z2 = self.projector(one), self.projector(other)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return 0.5 * (negative_cosine(p1, z2) + negative_cosine(p2, z1))


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """
    Return minus the mean cosine of rows; no gradient flows into the target (eq. 1 and 3).

    >>> import torch
    >>> x = torch.tensor([[3.0, 4.0]])
    >>> round(float(negative_cosine(x, 2 * x)), 6)
    -1.0
    """
    return -functional.cosine_similarity(prediction, target.detach(), dim=1).mean()
