# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
AutoFreeze: the frozen prefix grows over blocks whose gradient norm changes less than the median
(Liu et al. 2021, arXiv 2102.01386).
"""

from __future__ import annotations

from collections.abc import Sequence
import statistics

import torch

from etuner_ros.bench.methods.tuned import Policy
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.models.freezing import frozen_prefix

INTERVAL = 16  # training batches between two checks


def growth(eta: Sequence[float]) -> int:
    """
    Return how many leading active blocks freeze: those before the first whose change is at or
    above the median.

    :param eta: relative change of each active block's gradient norm, from the front
    """
    middle = statistics.median(eta)
    for index, value in enumerate(eta):
        if value >= middle:
            return index
    return 0


class AutoFreeze(Policy):
    """Compares accumulated gradient norms between checks."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._last: dict[str, float] = {}
        self._batches = 0

    def step(self, learner: Learner) -> None:
        """Add this batch's gradients; check every few batches."""
        model = learner.training
        for unit in model.units[frozen_prefix(model) :]:
            grads = [p.grad for p in unit.parameters() if p.grad is not None]
            if grads:
                norm = float(torch.stack([g.square().sum() for g in grads]).sum().sqrt())
                self._sums[unit.name] = self._sums.get(unit.name, 0.0) + norm
        self._batches += 1
        if self._batches % INTERVAL:
            return
        active = model.unit_names[frozen_prefix(model) :]
        both = [n for n in active if n in self._last and n in self._sums]
        if len(both) == len(active) and len(active) > 1:
            eta = [abs(self._sums[n] - self._last[n]) / max(self._last[n], 1e-12) for n in active]
            count = len(model.units) - len(active) + growth(eta)
            learner.state.freeze(model.unit_names[:count])
        self._last, self._sums = self._sums, {}
