# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How likely each class is now: a robot sees much of the same for a while, and then something else.
"""

from __future__ import annotations

from collections.abc import Sequence
import math

import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig

_UNSEEN = 0.5  # labels that every class counts for on top of its own
_AFTER_CHANGE = 0.25  # what is left of the counts when the scenario changes


class LabelPrior:
    """
    Shares of the classes among recent labels, fading exponentially.

    A head that is fitted with every class weighted the same gives, calibrated, `p(x | c)` up to a
    factor; by Bayes' rule the logarithm of the share belongs on top. (A head that is trained by
    gradient on recent batches learns that by itself, and forgets the other classes with it; here
    it can be taken back at any time.)

    >>> prior = LabelPrior(HeadConfig(prior=1.0))
    >>> for _ in range(20): prior.on_label('cup')
    >>> offsets = prior.offsets(['cup', 'ball'])
    >>> bool(offsets[0] > 0 > offsets[1])
    True
    """

    def __init__(self, config: HeadConfig) -> None:
        self._strength, self._keep = config.prior, 1.0 - 1.0 / config.prior_memory
        self._counts: dict[str, float] = {}

    def on_label(self, label: str) -> None:
        """Note a label."""
        for known in self._counts:
            self._counts[known] *= self._keep
        self._counts[label] = self._counts.get(label, 0.0) + 1.0

    def rename(self, label: str, new_label: str) -> None:
        """Call a label otherwise."""
        if label in self._counts:
            count = self._counts.pop(label)
            self._counts[new_label] = self._counts.get(new_label, 0.0) + count

    def on_scenario_change(self) -> None:
        """Trust what was labelled before less."""
        for known in self._counts:
            self._counts[known] *= _AFTER_CHANGE

    def offsets(self, classes: Sequence[str]) -> Tensor:
        """Return what to add to calibrated logits, (C,) float32; 0 for equally likely classes."""
        counts = [self._counts.get(label, 0.0) + _UNSEEN for label in classes]
        mean = sum(counts) / max(len(counts), 1)
        return torch.tensor([self._strength * math.log(c / mean) for c in counts])
