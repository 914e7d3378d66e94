# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The instant head: a linear classifier on the features of the live backbone that learns from one
correction in milliseconds and takes a new class from one example (etuner.md section 5.2).

Weighted ridge regression onto one-hot targets. Its inverse second-moment matrix is kept, in
factors, and updated by rank one (recursive least squares), so after any sequence of samples the
head is the exact minimiser, not an approximation by gradient steps. As it is linear, it is
deployed by writing it into the network's own head: a prediction costs nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.cost import charge, HEAD
from etuner_ros.core.learn.scene_prior import ScenePrior

_BIAS_PENALTY = 1e-6  # of the penalty on weights: the bias is practically free
_NEVER = -30.0  # logit of a class without samples
_GUESSES = 3  # times that the labels of unlabelled frames are guessed anew
_SCALES = [2.0**e for e in (0, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6)]


@dataclass(frozen=True)
class Unlabelled:
    """Frames that nobody labelled, and what ties them to those that somebody did."""

    features: Tensor  # (m, D)
    scenes: Sequence[int]  # m: in which scene each was seen
    label_scenes: Sequence[int]  # n: the same of the labelled samples


class InstantHead:
    """
    Solves `min_W sum_i a_i ||y_i - W [x_i; 1]||^2 + penalty ||W||^2` and keeps it solved.

    The sample weight `a_i` is `n_c ** -balance` with the number of samples of its class at that
    time: with 1 every class counts the same, with 0 every sample. The penalty is
    `config.ridge * C * v`, v being the mean variance of a feature: relative, so it fits any
    network.

    >>> head = InstantHead(2)
    >>> _ = head.rebuild(torch.tensor([[0.0, 1.0], [0.1, 1.1]]), ['cup', 'cup'])
    >>> _ = head.learn(torch.tensor([1.0, 0.0]), 'ball')  # a new class from one example
    >>> head.classes[int(head.logits(torch.tensor([[0.9, 0.1]])).argmax())]
    'ball'

    :param features: length D of a feature vector
    """

    def __init__(self, features: int, config: HeadConfig | None = None) -> None:
        self.config = config or HeadConfig()
        self.features = features
        self.classes: list[str] = []
        self.counts: dict[str, int] = {}
        self.scale = 1.0  # of the scores, so that their softmax is a calibrated probability
        self._unseen, self._measured = 1e6, 0  # of the scene prior; labels that it was chosen from
        self.accuracy = math.nan  # leave-one-out, in [0, 1], of the last rebuild
        self._inverse = _Inverse(
            torch.zeros(0, features + 1, dtype=torch.float64),
            torch.ones(features + 1, dtype=torch.float64),
        )
        self._weights = torch.zeros(features + 1, 0, dtype=torch.float64)

    def rebuild(
        self,
        features: Tensor,
        labels: Sequence[str],
        weights: Tensor | None = None,
        unlabelled: Unlabelled | None = None,
    ) -> list[float]:
        """
        Start anew from all samples, as after a swap of the backbone.

        Also measures, from the closed form of leave-one-out prediction, how right the head is on
        samples that it has not seen, and sets `scale` to the likeliest one.

        :param features: (n, D), any float type
        :param labels: n labels
        :param weights: (n,) further weight of each sample; None for 1
        :param unlabelled: frames to learn from by guessing; see `_suppose`
        :return: the weight that each sample got, which `unlearn` needs
        :raises ValueError: when the sizes do not fit or there is no sample
        """
        if features.ndim != 2 or features.shape[1] != self.features or not len(labels):
            raise ValueError(
                f'features must be (n, {self.features}) with n > 0, got {tuple(features.shape)}'
            )
        if len(labels) != len(features):
            raise ValueError(f'{len(features)} features but {len(labels)} labels')
        self.classes = list(dict.fromkeys(labels))
        target, hot = self._count(labels)
        rows = self._rows(features)
        further = torch.ones(len(rows)).double() if weights is None else weights.double()
        weight = further * (hot @ self._balanced(hot.sum(dim=0)))
        self._fit(rows, hot, weight)
        leverage = (weight * self._inverse.quadratic(rows)).clamp_max(1.0 - 1e-9)
        charge(6.0 * rows.numel() * len(self.classes), HEAD)
        unseen = hot - (hot - rows @ self._weights) / (1.0 - leverage)[:, None]
        self.accuracy = float((unseen.argmax(dim=1) == target).double().mean())
        losses = [float(torch.nn.functional.cross_entropy(unseen * s, target)) for s in _SCALES]
        self.scale = _SCALES[losses.index(min(losses))] if len(self.classes) > 1 else 1.0
        if unlabelled is not None and len(unlabelled.features) and len(self.classes) > 1:
            prior = ScenePrior(target, unlabelled.label_scenes, len(self.classes))
            prior.fit(self.scale * unseen, set(unlabelled.scenes))
            self._unseen, self._measured = prior.unseen, len(labels)
            weight = self._suppose(rows, hot, further, unlabelled, prior)
        return [float(w) for w in weight]

    def relearn(
        self, features: Tensor, labels: Sequence[str], unlabelled: Unlabelled
    ) -> list[float]:
        """
        Do as `rebuild`, from where the head is now: guesses start from what it says, and what was
        measured last holds as long as labels have not grown by half since. Half as costly.

        :param features: (n, D) of samples that it has learned
        """
        same = self.classes and set(labels) == set(self.classes)
        if not same or len(labels) > 1.5 * self._measured:
            return self.rebuild(features, labels, unlabelled=unlabelled)
        target, hot = self._count(labels)
        prior = ScenePrior(target, unlabelled.label_scenes, len(self.classes), self._unseen)
        ones = torch.ones(len(labels)).double()
        given = self._suppose(self._rows(features), hot, ones, unlabelled, prior)
        return [float(w) for w in given]

    def _count(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Count the labels; return their classes (n,) and the same one-hot, (n, C) float64."""
        index = {label: i for i, label in enumerate(self.classes)}
        target = torch.tensor([index[label] for label in labels])
        hot = torch.nn.functional.one_hot(target, len(self.classes)).double()
        self.counts = {name: int(n) for name, n in zip(self.classes, hot.sum(dim=0))}
        return target, hot

    def _fit(self, rows: Tensor, target: Tensor, weight: Tensor) -> None:
        """Solve for rows (n, D + 1) with targets (n, C) and weights (n,)."""
        mean = (weight[:, None] * rows[:, :-1]).sum(dim=0) / weight.sum()
        variance = float(
            (weight[:, None] * (rows[:, :-1] - mean).square()).sum()
            / (weight.sum() * self.features)
        )
        # A single sample has no variance; its own size stands in.
        variance = variance or float(rows[:, :-1].square().mean()) or 1.0
        penalty = self.config.ridge * len(self.classes) * variance
        diagonal = torch.full((self.features + 1,), penalty, dtype=torch.float64)
        diagonal[-1] *= _BIAS_PENALTY
        self._inverse = _Inverse(rows * weight.sqrt()[:, None], diagonal)
        self._weights = self._inverse.times(rows.T @ (weight[:, None] * target))

    def _suppose(
        self,
        rows: Tensor,
        hot: Tensor,
        further: Tensor,
        unlabelled: Unlabelled,
        prior: ScenePrior,
    ) -> Tensor:
        """
        Fit to unlabelled frames, too: each counts as what the head takes it for, in the shares
        that it is in doubt between, given what was labelled in its scene; then guess again
        (expectation maximisation; Grandvalet & Bengio 2004 for what unlabelled data can give).

        A guess that the head is in doubt about changes little, as it is what it says already;
        there is no threshold.

        :return: the weights of the labelled samples, (n,)
        """
        extra = self._rows(unlabelled.features)
        offsets = prior.offsets(unlabelled.scenes)

        def guesses() -> Tensor:
            charge(2.0 * extra.numel() * len(self.classes), HEAD)
            return torch.softmax(self.scale * (extra @ self._weights) + offsets, dim=1)

        guess = guesses()
        balanced = self._balanced(hot.sum(dim=0) + guess.sum(dim=0))
        given = further * (hot @ balanced)
        weight = torch.cat([given, self.config.unlabelled_weight * (guess @ balanced)])
        everything = torch.cat([rows, extra])
        self._fit(everything, torch.cat([hot, guess]), weight)
        for _ in range(_GUESSES - 1):
            target = torch.cat([hot, guesses()])
            charge(2.0 * everything.numel() * len(self.classes), HEAD)
            self._weights = self._inverse.times(everything.T @ (weight[:, None] * target))
        return given

    def _balanced(self, counts: Tensor) -> Tensor:
        """Map the number of samples of each class, (C,), to the weight of one of them."""
        return counts.clamp_min(1.0) ** -self.config.balance

    def learn(self, feature: Tensor, label: str, weight: float = 1.0) -> float:
        """
        Learn one sample; a label never seen before adds a class.

        :param feature: (D,)
        :param weight: further weight of the sample
        :return: the weight that it got, which `unlearn` needs
        :raises ValueError: when the feature has another length or is not finite
        """
        if not len(self.classes):
            return self.rebuild(feature[None], [label], torch.tensor([weight]))[0]
        row = self._checked(feature)
        if label not in self.counts:
            self.classes.append(label)
            self.counts[label] = 0
            empty = torch.zeros(self.features + 1, 1, dtype=torch.float64)
            self._weights = torch.cat([self._weights, empty], dim=1)
        self.counts[label] += 1
        given = self._weight(label) * weight
        self._update(row, self._target(label), given)
        return given

    def unlearn(self, feature: Tensor, label: str, weight: float) -> None:
        """Forget one sample that was learned with this label and weight."""
        self.counts[label] -= 1
        self._update(self._checked(feature), self._target(label), -weight)

    def logits(self, features: Tensor) -> Tensor:
        """Map features (n, D) to calibrated logits (n, C), in the order of `classes`."""
        return self.scale * (self._rows(features) @ self._weights)

    def linear(self, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """
        Return the head as weight (C, D) and bias (C,), float32, with rows in the order of
        `classes`. A class that has lost all its samples (renamed, taken back) is never said.

        :raises KeyError: for a class that was never learned
        """
        index = {label: i for i, label in enumerate(self.classes)}
        chosen = self.scale * self._weights[:, [index[label] for label in classes]]
        for row, label in enumerate(classes):
            if not self.counts[label]:
                chosen[:, row] = 0.0
                chosen[-1, row] = _NEVER
        return chosen[:-1].T.float().contiguous(), chosen[-1].float()

    def _weight(self, label: str) -> float:
        return float(max(self.counts[label], 1) ** -self.config.balance)

    def _target(self, label: str) -> Tensor:
        target = torch.zeros(len(self.classes), dtype=torch.float64)
        target[self.classes.index(label)] = 1.0
        return target

    def _rows(self, features: Tensor) -> Tensor:
        rows = features.detach().double().cpu()
        return torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)

    def _checked(self, feature: Tensor) -> Tensor:
        if feature.shape != (self.features,) or not bool(torch.isfinite(feature).all()):
            raise ValueError(
                f'a feature must be ({self.features},) and finite, got {tuple(feature.shape)}'
            )
        return self._rows(feature[None])[0]

    def _update(self, row: Tensor, target: Tensor, weight: float) -> None:
        """Recursive least squares: Sherman-Morrison on the inverse, gain times error on W."""
        gain = self._inverse.times(row)
        scale = weight / (1.0 + weight * float(row @ gain))
        self._weights.addr_(gain, target - row @ self._weights, alpha=scale)
        self._inverse.subtract(gain, scale)
        charge(4.0 * row.numel() * len(target), HEAD)


class _Inverse:
    """
    The inverse of `diag(penalty) + rows' rows`, kept as `diag - factors' signs factors` while
    there are fewer rows than columns, and as a full matrix afterwards.

    Few samples and many features are the rule here: 400 samples of 1,904 features take a tenth of
    the operations that the full matrix takes.

    :param rows: (n, D), each times the root of its weight
    :param penalty: (D,), positive
    """

    def __init__(self, rows: Tensor, penalty: Tensor) -> None:
        n, size = rows.shape
        self._diagonal = 1.0 / penalty
        self._full: Tensor | None = None
        self._factors = torch.zeros(0, size, dtype=torch.float64)
        self._signs = torch.zeros(0, dtype=torch.float64)
        if 0 < n <= size:
            scaled = rows * self._diagonal  # Woodbury
            small = scaled @ rows.T
            small.diagonal().add_(1.0)
            root, failed = torch.linalg.cholesky_ex(small)
            if not int(failed):
                self._factors = torch.linalg.solve_triangular(root, scaled, upper=False)
                self._signs = torch.ones(n, dtype=torch.float64)
            charge(3.0 * n**2 * size + n**3 / 3.0, HEAD)
        # Features that hardly differ leave a tiny penalty, and the small matrix ill-conditioned.
        if n > len(self._factors):
            moment = rows.T @ rows
            moment.diagonal().add_(penalty)
            self._full = torch.cholesky_inverse(torch.linalg.cholesky(moment))
            charge(2.0 * n * size**2 + size**3, HEAD)

    def times(self, values: Tensor) -> Tensor:
        """Return the product with a vector (D,) or a matrix (D, m)."""
        columns = values.numel() // len(self._diagonal)
        if self._full is not None:
            charge(2.0 * columns * self._full.numel(), HEAD)
            return self._full @ values
        charge(4.0 * columns * self._factors.numel(), HEAD)
        inner = self._factors @ values
        signs, diagonal = self._signs, self._diagonal
        if values.ndim == 2:
            signs, diagonal = signs[:, None], diagonal[:, None]
        return diagonal * values - self._factors.T @ (signs * inner)

    def quadratic(self, rows: Tensor) -> Tensor:
        """Return x' inverse x for each row of (n, D)."""
        if self._full is not None:
            charge(2.0 * len(rows) * self._full.numel(), HEAD)
            return ((rows @ self._full) * rows).sum(dim=1)
        charge(2.0 * len(rows) * self._factors.numel(), HEAD)
        inner = (rows @ self._factors.T).square() @ self._signs
        return rows.square() @ self._diagonal - inner

    def subtract(self, vector: Tensor, scale: float) -> None:
        """Subtract `scale * vector vector'`: a sample was added, or with scale < 0 taken away."""
        if self._full is not None:
            charge(2.0 * self._full.numel(), HEAD)
            self._full.addr_(vector, vector, alpha=-scale)
            return
        self._factors = torch.cat([self._factors, abs(scale) ** 0.5 * vector[None]])
        self._signs = torch.cat([self._signs, torch.tensor([math.copysign(1.0, scale)]).double()])
        if len(self._factors) > self._factors.shape[1]:
            signed = self._signs[:, None] * self._factors
            self._full = torch.diag(self._diagonal) - self._factors.T @ signed
            charge(2.0 * len(self._factors) * self._full.numel(), HEAD)
            self._factors, self._signs = self._factors[:0], self._signs[:0]
