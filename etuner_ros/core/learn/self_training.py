# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Self-training: frames that nobody labelled count as what the head takes them for, in the shares
that it is in doubt between, given what was labelled in their scene (expectation maximisation;
Grandvalet & Bengio 2004 for what unlabelled data can give).

A guess that the head is in doubt about changes little, as it is what it says already; there is no
threshold.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.learn.ridge import class_weights, RidgeRegression, Samples, with_ones
from etuner_ros.core.learn.scene_prior import ScenePrior


@dataclass(frozen=True)
class Unlabelled:
    """Frames that nobody labelled, and what ties them to those that somebody did."""

    features: Tensor  # (m, D)
    scenes: Sequence[Hashable]  # m: in which scene each was seen
    label_scenes: Sequence[Hashable]  # n: the same of the labelled samples

    @property
    def told(self) -> Tensor:
        """Which labels are of scenes that frames are of, (n,) bool."""
        scenes = set(self.scenes)
        return torch.tensor([scene in scenes for scene in self.label_scenes])


class SelfTraining:
    """
    Guesses labels of frames and fits to them.

    :param features: (m, D) of the frames, as the regression sees them
    :param scenes: m, of the frames
    :param prior: what the labels of a scene say about its other frames
    :param scale: of the scores, so that their softmax is a calibrated probability
    """

    def __init__(
        self,
        features: Tensor,
        scenes: Sequence[Hashable],
        prior: ScenePrior,
        scale: float,
        config: HeadConfig,
    ) -> None:
        self._rows = with_ones(features)
        self._offsets = prior.offsets(scenes)
        self._scale, self._config = scale, config

    def fit(
        self, ridge: RidgeRegression, samples: Samples, hot: Tensor, further: Tensor
    ) -> Tensor:
        """
        Solve a regression for labels and guesses, which it makes as it comes: once, as guesses
        that are made anew by what they have taught confirm themselves.

        :param samples: n that are labelled
        :param hot: (n, C) their targets
        :param further: (n,) their weights beside those of their classes
        :return: samples of each class that were weighted, labels and guesses, (C,)
        """
        guess = self._guess(ridge)
        effective = hot.sum(dim=0) + guess.sum(dim=0)
        balanced = class_weights(effective, self._config.balance)
        share = self._config.unlabelled_weight * (guess @ balanced)
        weight = torch.cat([further * (hot @ balanced), share])
        ridge.solve(samples.with_others(self._rows), torch.cat([hot, guess]), weight)
        return effective

    def _guess(self, ridge: RidgeRegression) -> Tensor:
        """Return how likely each frame shows each class, (m, C)."""
        return torch.softmax(self._scale * ridge.scores(self._rows) + self._offsets, dim=1)
