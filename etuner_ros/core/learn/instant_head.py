# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The instant head: a linear classifier on the features of the live backbone that learns from one
correction in milliseconds and takes a new class from one example (etuner.md section 5.2).

Weighted ridge regression onto one-hot targets, kept solved by rank-one updates (recursive least
squares) instead of gradient steps. What a sample weighs, the penalty and the calibration are those
of the last solve: between two solves the head is close to what a solve would give, not the same,
and `is_stale` says when to solve again. As it is linear, it is deployed by writing it into the
network's own head: a prediction costs nothing more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
import math

import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.learn.calibration import choose_penalty, likeliest_scale
from etuner_ros.core.learn.ridge import class_weights, RidgeRegression, Samples, with_ones
from etuner_ros.core.learn.scene_prior import ScenePrior
from etuner_ros.core.learn.self_training import SelfTraining, Unlabelled
from etuner_ros.core.learn.within_class import WithinClass

ENOUGH = 12  # labels a class on average, with which leave-one-out tells penalties apart
GROWTH = 1.5  # labels now, of those at the last solve, that make it stale
NEVER = -30.0  # logit of a class without samples


class InstantHead:
    """
    Ridge regression, its calibration and what it guesses of frames without a label.

    A solve gives each sample of a class the weight `n_c ** -balance`, n_c being the number of its
    samples: with 1 every class counts the same (but for a hair: the majority wins a tie), with 0
    every sample. Between solves old samples keep their weight, and a new one gets nearly what the
    last solve gave its class; see `learn`.

    >>> head = InstantHead(2)
    >>> _ = head.rebuild(torch.tensor([[0.0, 1.0], [0.1, 1.1]]), ['cup', 'cup'])
    >>> _ = head.learn(torch.tensor([1.0, 0.0]), 'ball')  # a new class from one example
    >>> head.classes[int(head.logits(torch.tensor([[0.9, 0.1]])).argmax())]
    'ball'

    :param features: length D of a feature vector
    :param within: what pictures of one kind differ in; it is taken out of features
    :ivar classes: every class that it has a row for, also when its samples are gone
    :ivar counts: samples of each class now
    :ivar scale: of the scores, so that their softmax is a calibrated probability
    :ivar said_by_others: n labels: what the other samples said of each at the last solve, by
        labels alone
    :ivar solved: labels that the last rebuild saw
    :ivar ridge: relative penalty of the last solve: chosen by leave-one-out where there are labels
        enough, else the one that it has
    """

    def __init__(
        self,
        features: int,
        config: HeadConfig | None = None,
        within: WithinClass | None = None,
    ) -> None:
        self.config = config or HeadConfig()
        self.features, self.within = features, within
        self.classes: list[str] = []
        self.counts: dict[str, int] = {}
        self.scale = 1.0
        self.said_by_others: list[str] = []
        self.solved = 0
        self._learned = 0  # labels since the last rebuild
        self._rebuilt = 0  # classes that the last rebuild saw
        # Samples of each class that the last solve saw, guesses too, and what came on top since.
        self._weighed: dict[str, float] = {}
        self._grown: Counter[str] = Counter()
        self._ridge = RidgeRegression(features, self.config.ridge)

    @property
    def is_stale(self) -> bool:
        """
        Whether it is time for another rebuild: labels have grown by half since the last one, or
        there is a class that it has not seen, for which its penalty is too small.

        A label that replaces another counts as a new one.
        """
        grown = self.solved + self._learned > GROWTH * self.solved
        return grown or (self.has_new_class and self.ridge < self.config.ridge)

    @property
    def has_new_class(self) -> bool:
        """Whether a class has come since the last rebuild."""
        return len(self.classes) > self._rebuilt

    @property
    def ridge(self) -> float:
        """Relative penalty of the last solve."""
        return self._ridge.ridge

    @ridge.setter
    def ridge(self, value: float) -> None:
        self._ridge.ridge = value

    def knows(self, label: str) -> bool:
        """Whether there is at least one sample of a class now."""
        return self.counts.get(label, 0) > 0

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
        :param unlabelled: frames to learn from by guessing; see `SelfTraining`
        :return: the weight that each sample got, which `unlearn` needs
        :raises ValueError: when sizes do not fit, a feature is not finite or there is no sample
        """
        rows = self._checked(features, labels)
        self.classes = list(dict.fromkeys(labels))
        self.solved, self._learned = len(labels), 0
        self._rebuilt = len(self.classes)
        further = torch.ones(len(rows)).double() if weights is None else weights.double()
        choose = self.config.choose_ridge and len(rows) >= ENOUGH * len(self.classes) > ENOUGH
        if not choose:
            self._ridge.ridge = self.config.ridge
        return self._solve(rows, labels, further, unlabelled, choose)

    def relearn(
        self, features: Tensor, labels: Sequence[str], unlabelled: Unlabelled
    ) -> list[float]:
        """
        Do as `rebuild`, with the penalty that it has as long as labels have not grown by half
        since that was chosen.

        :param features: (n, D) of samples that it has learned
        """
        old = len(labels) > GROWTH * self.solved or self.has_new_class
        if old or set(labels) != set(self.classes):
            return self.rebuild(features, labels, unlabelled=unlabelled)
        rows = self._checked(features, labels)
        return self._solve(rows, labels, torch.ones(len(rows)).double(), unlabelled, choose=False)

    def _solve(
        self,
        rows: Tensor,
        labels: Sequence[str],
        further: Tensor,
        unlabelled: Unlabelled | None,
        choose: bool,
    ) -> list[float]:
        """
        Solve for labels alone, measure that, and then for frames without a label, too.

        Guesses always start from the labels: those of the last solve would confirm themselves.

        :param choose: the penalty, too
        :return: the weight of each sample
        """
        samples = Samples(rows)
        target, hot = self._one_hot(labels)
        counts = hot.sum(dim=0)
        weight = further * (hot @ class_weights(counts, self.config.balance))
        if choose:
            alone = choose_penalty(self._ridge, samples, hot, weight)
        else:
            alone = self._ridge.solve_and_leave_out(samples, hot, weight)
        self.said_by_others = [self.classes[i] for i in alone.argmax(dim=1).tolist()]
        self.scale = likeliest_scale(alone, target)
        self._note(counts, counts)
        if unlabelled is not None and len(unlabelled.features) and len(self.classes) > 1:
            here, scale = unlabelled.told, self.scale
            foretold = here & (counts[target] > 1.0)  # no other label tells of an only one
            if foretold.any():
                # A head can be sure and right on the pictures that it was deployed with, and sure
                # and wrong here: its guesses are no surer than labels of these scenes bear out.
                scale = min(scale, likeliest_scale(alone[foretold], target[foretold]))
            prior = ScenePrior(target, unlabelled.label_scenes, len(self.classes))
            prior.fit(scale * alone, here)
            training = SelfTraining(
                self._seen(unlabelled.features), unlabelled.scenes, prior, scale, self.config
            )
            effective = training.fit(self._ridge, samples, hot, further)
            self._note(counts, effective)
            weight = further * (hot @ class_weights(effective, self.config.balance))
        return [float(w) for w in weight]

    def prepare(self) -> None:
        """Make what `learn` needs after a solve, or else the first label waits for it."""
        self._ridge.prepare()

    def _one_hot(self, labels: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the classes of labels, (n,), and the same one-hot, (n, C) float64."""
        index = {label: i for i, label in enumerate(self.classes)}
        target = torch.tensor([index[label] for label in labels])
        return target, torch.nn.functional.one_hot(target, len(self.classes)).double()

    def _note(self, counts: Tensor, effective: Tensor) -> None:
        """Note how many samples of each class were solved for: labels, and with guesses."""
        self.counts = {name: int(n) for name, n in zip(self.classes, counts)}
        self._weighed = dict(zip(self.classes, effective.tolist()))
        self._grown.clear()

    def learn(self, feature: Tensor, label: str, weight: float = 1.0) -> float:
        """
        Learn one sample; a label never seen before adds a class.

        The sample weighs what the last solve gave those of its class, until the class has grown
        by half since; then less, so that a class that grows a lot does not drown the others.

        :param feature: (D,)
        :param weight: further weight of the sample
        :return: the weight that it got, which `unlearn` needs
        :raises ValueError: when the feature has another length or is not finite
        """
        if not self.classes:
            return self.rebuild(feature[None], [label], torch.tensor([weight]))[0]
        row = self._checked(feature[None], [label])[0]
        if label not in self.counts:
            self.classes.append(label)
            self.counts[label] = 0
            self._ridge.add_class()
        self.counts[label] += 1
        self._grown[label] += 1
        self._learned += 1
        given = weight * self._weight(label)
        self._ridge.update(row, self._target(label), given)
        return given

    def _weight(self, label: str) -> float:
        """Return the weight of the newest sample of a class."""
        solved, grown = self._weighed.get(label, 0.0), self._grown[label]
        samples = solved + grown  # of which many were taken back, maybe
        if grown > 0:
            samples = max(solved, samples / GROWTH)
        return float(class_weights(torch.tensor([samples]), self.config.balance))

    def unlearn(self, feature: Tensor, label: str, weight: float) -> None:
        """
        Forget one sample that was learned with this label and weight.

        :raises ValueError: when there is no sample of this label, or `learn` would refuse it
        """
        row = self._checked(feature[None], [label])[0]
        if not self.knows(label):
            raise ValueError(f'no sample of {label!r} is known')
        self.counts[label] -= 1
        self._grown[label] -= 1
        self._ridge.update(row, self._target(label), -weight)

    def without_each(
        self, features: Tensor, labels: Sequence[str], weights: Sequence[float]
    ) -> list[str]:
        """
        Return what it would say of each of some samples had it learned all but that one.

        :param features: (n, D) of samples that it has learned
        :param labels: n, that it learned them with
        :param weights: n, that it gave them
        """
        rows = self._checked(features, labels)
        _, hot = self._one_hot(labels)
        weight = torch.tensor(weights, dtype=torch.float64)
        alone = self._ridge.without_each(rows, hot, weight)
        alone[:, [not self.knows(name) for name in self.classes]] = -math.inf
        return [self.classes[i] for i in alone.argmax(dim=1).tolist()]

    def logits(self, features: Tensor, classes: Sequence[str] | None = None) -> Tensor:
        """
        Map features (n, D) to calibrated logits (n, C) of classes, or of all in their order.

        `linear` is for what is served; this costs less for few features.
        """
        return with_ones(self._seen(features)) @ self._rows_of(
            self.classes if classes is None else classes
        )

    def linear(self, classes: Sequence[str]) -> tuple[Tensor, Tensor]:
        """
        Return the head as weight (C, D) and bias (C,), float32, with rows in the order of
        `classes`. A class that it has no sample of (never seen, renamed, taken back) is never
        said.
        """
        chosen = self._rows_of(classes)
        weight = self._seen(chosen[:-1].T)  # what is taken out of features: the map is symmetric
        return weight.float().contiguous(), chosen[-1].float()

    def _rows_of(self, classes: Sequence[str]) -> Tensor:
        """Return the calibrated weights of classes for what the regression sees, (D + 1, C)."""
        index = {label: i for i, label in enumerate(self.classes)}
        chosen = torch.zeros(self.features + 1, len(classes), dtype=torch.float64)
        chosen[-1] = NEVER
        known = [i for i, label in enumerate(classes) if self.knows(label)]
        rows = [index[classes[i]] for i in known]
        chosen[:, known] = self.scale * self._ridge.weights[:, rows]
        return chosen

    def _target(self, label: str) -> Tensor:
        target = torch.zeros(len(self.classes), dtype=torch.float64)
        target[self.classes.index(label)] = 1.0
        return target

    def _checked(self, features: Tensor, labels: Sequence[str]) -> Tensor:
        """Return features as rows for the regression."""
        size = tuple(features.shape[1:])
        if features.ndim != 2 or size != (self.features,) or not len(labels):
            raise ValueError(
                f'features must be (n, {self.features}) with n > 0, got {tuple(features.shape)}'
            )
        if len(labels) != len(features):
            raise ValueError(f'{len(features)} features but {len(labels)} labels')
        rows = with_ones(self._seen(features))
        if not math.isfinite(float(rows.square().sum())):
            raise ValueError('features must be finite')
        return rows

    def _seen(self, features: Tensor) -> Tensor:
        """Return features (n, D) as the regression sees them."""
        return features if self.within is None else self.within.without(features.double())
