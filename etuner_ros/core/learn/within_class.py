# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What pictures of one kind differ in, as far as a network's features tell: light, place, side, size.

It is much the same for all kinds, so it is learned once from many pictures of kinds that no robot
need ever see, and a head that counts it less needs fewer labels of its own (as within-class
covariance normalisation and nuisance attribute projection do for voices: Hatch, Kajarekar &
Stolcke 2006; Solomonoff, Campbell & Boardman 2005). To penalise the weights of a ridge regression
in these directions is the same as to regress on features that they are taken out of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.models import likeness
from etuner_ros.core.models.weights import State

RANK = 64  # directions that are kept
SHRINKAGE = 0.3  # of what differs towards equal in all directions


class WithinClass(NamedTuple):
    """
    The symmetric map `I - V' diag(1 - keep) V`.

    >>> seen = WithinClass(torch.tensor([[1.0, 0.0]]), torch.tensor([0.1]))
    >>> seen.without(torch.tensor([[2.0, 3.0]]))
    tensor([[0.2000, 3.0000]])
    """

    directions: Tensor  # V, (r, D), orthonormal: in which pictures of one kind differ most
    keep: Tensor  # (r,) in (0, 1]: what is left of them

    def without(self, rows: Tensor) -> Tensor:
        """Return features or weights, (n, D), with less of what pictures of one kind differ in."""
        directions, keep = self.directions.to(rows), self.keep.to(rows)
        charge(4.0 * len(rows) * directions.numel(), HEAD)
        return rows - (rows @ directions.T * (1.0 - keep)) @ directions


class Scatter(NamedTuple):
    """Covariance of features within classes and between their means, (D, D) float64 each."""

    within: Tensor
    between: Tensor


def scatter(features: Tensor, labels: list[str]) -> Scatter:
    """
    Return how features lie, in mean variances within a class; each class counts once between.

    :param features: (n, D)
    """
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    at = torch.tensor([index[label] for label in labels])
    rows = features.double()
    means = torch.zeros(len(index), rows.shape[1], dtype=torch.float64).index_add_(0, at, rows)
    means /= torch.bincount(at)[:, None]
    rest = rows - means[at]
    apart = means - means.mean(dim=0)
    within, between = rest.T @ rest / len(rows), apart.T @ apart / len(means)
    size = within.diagonal().mean()
    return Scatter(within / size, between / size)


def from_scatters(
    scatters: Sequence[Scatter], rank: int = RANK, shrinkage: float = SHRINKAGE
) -> WithinClass:
    """
    Return the map that shrinks the directions in which pictures of one kind differ more than kinds
    do (the maximum margin criterion: Li, Jiang & Zhang 2004), by how much they do so beyond what
    pictures of one kind differ by elsewhere.

    By what pictures of one kind differ in alone, directions that tell kinds of other pictures
    apart are lost.

    :param scatters: of each sort of pictures; all count the same
    """
    within = torch.stack([s.within for s in scatters]).mean(dim=0)
    between = torch.stack([s.between for s in scatters]).mean(dim=0)
    values, vectors = torch.linalg.eigh(within - between)
    values, directions = values.flip(0)[:rank].clamp_min(0.0), vectors.flip(1)[:, :rank].T
    theirs = ((directions @ within) * directions).sum()
    rest = float(within.trace() - theirs) / (len(within) - rank)
    size = (1.0 - shrinkage) * values + shrinkage
    keep = (((1.0 - shrinkage) * rest + shrinkage) / size).sqrt().clamp_max(1.0)
    return WithinClass(directions.contiguous(), keep)


def shipped(architecture: str, base: State) -> WithinClass | None:
    """
    Return what ships with the package for a deployed network; nothing where its backbone is
    another one than it was learned with.

    It is used after rounds, too, as their networks are near the deployed one.

    :param base: all tensors of the deployed network
    :raises WeightsError: when the file is damaged
    """
    found = likeness.shipped(architecture, base)
    return WithinClass(*map(torch.from_numpy, found)) if found is not None else None
