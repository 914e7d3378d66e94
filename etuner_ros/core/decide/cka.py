# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Linear centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414), on n x n Gram matrices
in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from etuner_ros.core.cost import charge


def gram(activations: Tensor) -> Tensor:
    """
    Return the Gram matrix of activations.

    :param activations: (n, ...) of any float type
    :return: (n, n) float64
    """
    # Centred as they come, then multiplied in float64: products of wide layers nearly cancel.
    rows = activations.flatten(1)
    rows = (rows - rows.mean(dim=0, keepdim=True)).double()
    charge(2.0 * rows.numel() * (len(rows) + 1))
    return rows @ rows.T


def _hsic(a: Tensor, b: Tensor, debiased: bool) -> Tensor:
    if not debiased:
        return (a * b).sum()
    # Song et al. 2012, unbiased estimator; the diagonals are zeroed by the caller.
    n = a.shape[0]
    total = (
        (a * b).sum()
        + a.sum() * b.sum() / ((n - 1) * (n - 2))
        - 2.0 * (a.sum(dim=0) @ b.sum(dim=0)) / (n - 2)
    )
    return total / (n * (n - 3))


def linear_cka(x: Tensor, y: Tensor, debiased: bool = False) -> float:
    """
    Return the similarity of two representations of the same n samples.

    `CKA(X, Y) = ||Y'X||_F^2 / (||X'X||_F ||Y'Y||_F)` with centred columns.

    :param x: (n, ...) activations
    :param y: (n, ...) activations of the same samples
    :param debiased: use the unbiased HSIC estimator; n of at least 4
    :return: 1 for equal up to rotation and scale; near 0 for unrelated; the debiased value may be
        slightly negative
    :raises ValueError: when the numbers of samples differ or are too small

    >>> import torch
    >>> x = torch.arange(12.0).reshape(4, 3) ** 2
    >>> round(linear_cka(x, -2 * x), 6)
    1.0
    """
    return cka_of_grams(gram(x), gram(y), debiased)


def cka_of_grams(a: Tensor, b: Tensor, debiased: bool = False) -> float:
    """Return linear CKA from two centred Gram matrices (n, n); see `linear_cka`."""
    if a.shape != b.shape or a.shape[0] < (4 if debiased else 2):
        raise ValueError(
            f'CKA needs the same samples on both sides and enough of them, got {tuple(a.shape)} '
            f'and {tuple(b.shape)}'
        )
    if debiased:
        a, b = (m - torch.diag(torch.diagonal(m)) for m in (a, b))
    norm = torch.sqrt(torch.clamp(_hsic(a, a, debiased) * _hsic(b, b, debiased), min=0.0))
    if norm <= 1e-300:  # a constant representation has no direction
        return 1.0 if torch.equal(a, b) else 0.0
    return float(_hsic(a, b, debiased) / norm)
