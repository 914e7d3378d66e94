# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weighted ridge regression that is updated by one sample (recursive least squares)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from etuner_ros.core.cost import charge, HEAD

_BIAS_PENALTY = 1e-6  # of the weight of all samples: the bias is practically free
_EQUAL = 1e-12  # of the mean square: a smaller variance is the rounding of equal rows
_CONDITION = 1e-11  # least penalty, of the trace of the moments: less drowns in rounding
_LEAST_LEFT = 1e-9  # of a sample's weight, when it is taken away
_TIE = 1e-5  # what keeps `balance` from 1, so that the majority wins where nothing else tells
_FOLD = 8  # factors that move into the full matrix with each update


def with_ones(features: Tensor) -> Tensor:
    """Return features (n, D) as rows (n, D + 1), float64, whose last column is for the bias."""
    rows = features.detach().double().cpu()
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)


def class_weights(counts: Tensor, balance: float) -> Tensor:
    """Map the number of samples of each class, (C,), to the weight of one of them."""
    return counts.clamp_min(1.0) ** -min(balance, 1.0 - _TIE)


class Samples:
    """
    Samples of a regression, and what they are to each other.

    While they are few, whatever is solved for them, or for them and others, shares their inner
    products, which need neither weights nor penalties.

    :param rows: (n, D + 1) float64, as `with_ones` makes them
    """

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self._inner: Tensor | None = None
        self._moment: tuple[Tensor, Tensor] | None = None  # weights, and what they make of rows

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.rows)

    @property
    def inner(self) -> Tensor:
        """Inner products of the features, without the ones, (n, n)."""
        if self._inner is None:
            features = self.rows[:, :-1]
            charge(2.0 * len(self) * features.numel(), HEAD)
            self._inner = features @ features.T
        return self._inner

    def moment(self, weight: Tensor) -> Tensor:
        """
        Return the weighted inner products of columns, (D + 1, D + 1); once for all penalties.

        :param weight: (n,)
        """
        if self._moment is None or self._moment[0] is not weight:
            charge(2.0 * self.rows.shape[1] * self.rows.numel(), HEAD)
            self._moment = weight, self.rows.T @ (weight[:, None] * self.rows)
        return self._moment[1]

    def with_others(self, rows: Tensor) -> Samples:
        """
        Return these samples and others behind them.

        :param rows: (m, D + 1)
        """
        both = Samples(torch.cat([self.rows, rows]))
        if self._inner is not None and both.are_few:
            theirs = rows[:, :-1]
            charge(2.0 * len(both) * theirs.numel(), HEAD)
            more = both.rows[:, :-1] @ theirs.T
            old = torch.cat([self._inner, more[: len(self)].T])
            both._inner = torch.cat([old, more], dim=1)
        return both

    @property
    def are_few(self) -> bool:
        """Whether they are at most as many as features: then they are solved for in the dual."""
        return self.rows.shape[0] <= self.rows.shape[1]


class RidgeRegression:
    """
    Solves `min_W sum_i a_i ||y_i - W [x_i; 1]||^2 + penalty ||W||^2`.

    The penalty is `ridge * C * v`, v being the mean variance of a feature: relative, so it fits
    any network. It is set by `solve`. After `update` the weights are the minimiser for this
    penalty and for the weights that the samples were given, up to rounding.

    :param features: length D of a feature
    :ivar ridge: relative penalty that the next `solve` takes
    :ivar weights: (D + 1, C) float64
    """

    def __init__(self, features: int, ridge: float) -> None:
        self.ridge = ridge
        self._inverse = RidgeInverse(
            torch.zeros(0, features + 1, dtype=torch.float64),
            torch.ones(features + 1, dtype=torch.float64),
        )
        self.weights = torch.zeros(features + 1, 0, dtype=torch.float64)

    def solve(self, samples: Samples, targets: Tensor, weight: Tensor) -> None:
        """
        Solve for samples, whatever was solved before.

        :param targets: (n, C)
        :param weight: (n,) a, at least 0
        """
        self._solve(samples, targets, weight)

    def solve_and_leave_out(self, samples: Samples, targets: Tensor, weight: Tensor) -> Tensor:
        """
        Solve, and return the scores (n, C) of each sample as solved for all the others.

        In the dual they miss a sample by what all miss it by, over `inverse(1 + K)_ii`.

        :param targets: (n, C)
        :param weight: (n,) a, at least 0
        """
        cholesky = self._solve(samples, targets, weight)
        if cholesky is None:
            return self.without_each(samples.rows, targets, weight)
        charge(len(samples) ** 3 / 1.5, HEAD)
        left = torch.cholesky_inverse(cholesky).diagonal()
        return targets - (targets - self.scores(samples.rows)) / left[:, None]

    def _solve(self, samples: Samples, targets: Tensor, weight: Tensor) -> Tensor | None:
        """
        Solve for samples.

        :return: where they are few, the lower factor of 1 + K, K being what samples are to each
            other, weighted
        """
        rows = samples.rows
        penalty = self._penalty(rows[:, :-1], weight, targets.shape[1])
        root, n = weight.sqrt(), len(samples)
        weighed = rows * root[:, None]
        charge(2.0 * rows.numel() * targets.shape[1], HEAD)
        if not samples.are_few:
            self._inverse = RidgeInverse(weighed, penalty, moment=samples.moment(weight))
            self.weights = self._inverse.times(weighed.T @ (root[:, None] * targets))
            return None
        small = samples.inner / penalty[0] + 1.0 / penalty[-1]
        small *= root[:, None] * root
        small.diagonal().add_(1.0)
        cholesky: Tensor = torch.linalg.cholesky(small)
        alpha = torch.cholesky_solve(root[:, None] * targets, cholesky)
        charge(n**3 / 3.0 + 2.0 * n**2 * targets.shape[1] + 4.0 * n**2, HEAD)
        self.weights = (weighed.T @ alpha) / penalty[:, None]
        self._inverse = RidgeInverse(weighed, penalty, cholesky)
        return cholesky

    def _penalty(self, features: Tensor, weight: Tensor, classes: int) -> Tensor:
        mean = (weight[:, None] * features).sum(dim=0) / weight.sum()
        total = float(weight.sum()) * features.shape[1]
        size = float((weight[:, None] * features.square()).sum()) / total
        variance = float((weight[:, None] * (features - mean).square()).sum()) / total
        if variance <= _EQUAL * size:
            variance = size or 1.0  # equal rows, or one: their own size stands in
        least = _CONDITION * total * size
        penalty = max(self.ridge * classes * variance, least)
        diagonal = torch.full((features.shape[1] + 1,), penalty, dtype=torch.float64)
        diagonal[-1] = _BIAS_PENALTY * float(weight.sum())
        return diagonal

    def scores(self, rows: Tensor) -> Tensor:
        """Map rows (n, D + 1) to scores (n, C)."""
        charge(2.0 * rows.numel() * self.weights.shape[1], HEAD)
        return rows @ self.weights

    def without_each(self, rows: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        """
        Return the scores (n, C) of samples, of each as solved for all the others.

        :param rows: (n, D + 1), some of what it was solved or updated for
        :param targets: (n, C) of these
        :param weight: (n,) of these
        """
        leverage = (weight * self._inverse.quadratic(rows)).clamp_max(1.0 - 1e-9)
        return targets - (targets - self.scores(rows)) / (1.0 - leverage)[:, None]

    def prepare(self) -> None:
        """Make what updates need, or else the first one does."""
        self._inverse.prepare()

    def add_class(self) -> None:
        """Add a class that no sample has, with weights 0."""
        empty = torch.zeros(len(self.weights), 1, dtype=torch.float64)
        self.weights = torch.cat([self.weights, empty], dim=1)

    def update(self, row: Tensor, target: Tensor, weight: float) -> None:
        """
        Add a sample, or with a negative weight take one away: Sherman-Morrison on the inverse,
        gain times error on the weights.

        :param row: (D + 1,)
        :param target: (C,)
        """
        gain = self._inverse.times(row)
        scale = weight / max(1.0 + weight * float(row @ gain), _LEAST_LEFT)
        charge(2.0 * row.numel() * (2.0 * len(target) + 1.0), HEAD)
        self.weights.addr_(gain, target - row @ self.weights, alpha=scale)
        self._inverse.subtract(gain, scale)


class RidgeInverse:
    """
    The inverse of `diag(penalty) + rows' rows`, kept as `diag - factors' signs factors` while
    there are fewer rows than columns, and as a full matrix afterwards.

    Few samples and many features are the rule here: 400 samples of 1,904 features take a tenth of
    the operations that the full matrix takes. When factors have become too many, they move into
    the full matrix a few at a time, so that no update waits for all of them. Factors are made when
    they are asked for first.

    :param rows: (n, D), each times the root of its weight
    :param penalty: (D,), positive
    :param cholesky: (n, n) lower factor of `1 + rows diag(1 / penalty) rows'` where there are
        rows, but at most as many as columns
    :param moment: (D, D), `rows' rows` where there are more
    """

    def __init__(
        self,
        rows: Tensor,
        penalty: Tensor,
        cholesky: Tensor | None = None,
        moment: Tensor | None = None,
    ) -> None:
        n, size = rows.shape
        self._diagonal = 1.0 / penalty
        self._full: Tensor | None = None
        # Room for all at once: an update copies nothing, and the system gives memory that is
        # never written only by name.
        self._factors = torch.empty(size + 1, size, dtype=torch.float64)
        self._signs = torch.ones(size + 1, dtype=torch.float64)
        self._used = 0
        self._waiting: tuple[Tensor, Tensor] | None = None  # rows that have no factors yet
        if n > size:
            assert moment is not None
            matrix = moment + torch.diag(penalty)
            self._full = torch.cholesky_inverse(torch.linalg.cholesky(matrix))
            charge(1.0 * size**3, HEAD)
        elif n:
            assert cholesky is not None
            self._waiting = rows, cholesky

    def prepare(self) -> None:
        """Make the factors, if they are not made yet."""
        if self._waiting is None:
            return
        rows, cholesky = self._waiting
        n, size = rows.shape
        scaled = rows * self._diagonal  # Woodbury
        self._factors[:n] = torch.linalg.solve_triangular(cholesky, scaled, upper=False)
        self._used, self._waiting = n, None
        charge(1.0 * n**2 * size, HEAD)

    def times(self, values: Tensor) -> Tensor:
        """Return the product with a vector (D,) or a matrix (D, m)."""
        matrix = values if values.ndim == 2 else values[:, None]
        self.prepare()
        factors, signs = self._factors[: self._used], self._signs[: self._used]
        product = factors.T @ (signs[:, None] * (factors @ matrix))
        charge(4.0 * matrix.shape[1] * factors.numel(), HEAD)
        if self._full is None:
            product = self._diagonal[:, None] * matrix - product
        else:
            charge(2.0 * matrix.shape[1] * self._full.numel(), HEAD)
            product = self._full @ matrix - product
        return product.reshape(values.shape)

    def quadratic(self, rows: Tensor) -> Tensor:
        """Return x' inverse x for each row of (n, D)."""
        self.prepare()
        factors, signs = self._factors[: self._used], self._signs[: self._used]
        inner = (rows @ factors.T).square() @ signs
        charge(2.0 * len(rows) * factors.numel(), HEAD)
        if self._full is None:
            return rows.square() @ self._diagonal - inner
        charge(2.0 * len(rows) * self._full.numel(), HEAD)
        return ((rows @ self._full) * rows).sum(dim=1) - inner

    def subtract(self, vector: Tensor, scale: float) -> None:
        """Subtract `scale * vector vector'`: a sample was added, or with scale < 0 taken away."""
        self.prepare()
        self._factors[self._used] = abs(scale) ** 0.5 * vector
        self._signs[self._used] = math.copysign(1.0, scale)
        self._used += 1
        if self._full is None and self._used > len(self._diagonal):
            self._full = torch.diag(self._diagonal)
        if self._full is not None:
            self._fold()

    def _fold(self) -> None:
        """Move the last factors into the full matrix."""
        assert self._full is not None
        first = max(self._used - _FOLD, 0)
        last = self._factors[first : self._used]
        signed = self._signs[first : self._used, None] * last
        charge(2.0 * len(last) * self._full.numel(), HEAD)
        self._full.addmm_(signed.T, last, alpha=-1.0)
        self._used = first
