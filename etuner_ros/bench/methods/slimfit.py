# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
SlimFit: in each iteration only the layers train whose weights changed most when they last did
(Ardakani et al., NAACL 2024, arXiv 2305.18513).
"""

from __future__ import annotations

from collections.abc import Mapping
import math

import torch
from torch import Tensor

from etuner_ros.bench.methods.tuned import Policy
from etuner_ros.core.learn.learner import Learner

FROZEN_SHARE = 0.9
START = 1e3  # changes start large and random, so that every layer gets its turn


def relative_change(before: Tensor, after: Tensor) -> float:
    """Return the mean relative change of weights; those that are zero do not count."""
    mask = before.abs() > 1e-12
    if not bool(mask.any()):
        return 0.0
    return float(((after - before).abs()[mask] / before.abs()[mask]).mean())


def to_freeze(changes: Mapping[str, float], share: float = FROZEN_SHARE) -> list[str]:
    """Return the layers with the smallest changes."""
    ranked = sorted(changes, key=lambda name: changes[name])
    return ranked[: math.floor(share * len(ranked) + 1e-9)]


class SlimFit(Policy):
    """Freezes per iteration; the head always trains."""

    def __init__(self) -> None:
        self._changes: dict[str, float] = {}
        self._before: dict[str, list[Tensor]] = {}

    def begin(self, learner: Learner) -> None:
        """Choose the blocks of the first iteration."""
        if not self._changes:
            generator = torch.Generator().manual_seed(learner.state.config.seed)
            noise = torch.rand(len(learner.training.units), generator=generator).tolist()
            names = learner.training.unit_names
            self._changes = {n: START * (1.0 + x) for n, x in zip(names, noise)}
        self._choose(learner)

    def step(self, learner: Learner) -> None:
        """Measure what the iteration changed and choose anew."""
        for unit in learner.training.units:
            if unit.name in self._before:
                pairs = zip(self._before[unit.name], unit.parameters())
                values = [(relative_change(b, a.detach()), a.numel()) for b, a in pairs]
                total = sum(n for _, n in values)
                self._changes[unit.name] = sum(v * n for v, n in values) / total
        self._choose(learner)

    def _choose(self, learner: Learner) -> None:
        frozen = set(to_freeze(self._changes))
        learner.state.freeze(frozen, keep_state=True)
        self._before = {
            unit.name: [p.detach().clone() for p in unit.parameters()]
            for unit in learner.training.units
            if unit.name not in frozen
        }
