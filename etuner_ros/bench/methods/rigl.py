# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
RigL: train a sparse network whose connections move (Evci et al., ICML 2020, arXiv 1911.11134).

The masked tensors stay dense, so nothing is saved in time or in operations as they are counted
here; what is compared is the accuracy.
"""

from __future__ import annotations

import math

import torch
from torch import nn, Tensor

from etuner_ros.bench.methods.tuned import Policy
from etuner_ros.core.learn.learner import Learner

SPARSITY = 0.5
ALPHA = 0.3
INTERVAL = 100  # training batches between two updates of the masks
END = 0.75  # of the planned training batches, after which the masks stay
PLANNED = 400  # training batches that a stream takes, for the cosine


def drop_share(step: int, end: int, alpha: float = ALPHA) -> float:
    """Return the share of connections that moves: alpha / 2 * (1 + cos(pi t / T_end))."""
    return 0.0 if step >= end else alpha / 2.0 * (1.0 + math.cos(math.pi * step / end))


def densities(shapes: list[tuple[int, ...]], sparsity: float = SPARSITY) -> list[float]:
    """
    Return each layer's density by Erdos-Renyi-Kernel: proportional to the sum of a shape over its
    product, scaled to the overall sparsity; layers that would pass 1 are dense.
    """
    sizes = [math.prod(s) for s in shapes]
    raw = [sum(s) / math.prod(s) for s in shapes]
    dense: set[int] = set()
    while True:
        rest = [i for i in range(len(shapes)) if i not in dense]
        budget = (1.0 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        scale = max(budget, 0.0) / max(sum(raw[i] * sizes[i] for i in rest), 1e-12)
        over = {i for i in rest if scale * raw[i] > 1.0}
        if not over:
            return [1.0 if i in dense else scale * raw[i] for i in range(len(shapes))]
        dense |= over


def move(weight: Tensor, gradient: Tensor, mask: Tensor, share: float) -> Tensor:
    """
    Return a mask of as many connections: the smallest weights of the old one dropped, the largest
    gradients of what was off grown.
    """
    count = int(share * int(mask.sum()))
    if count == 0:
        return mask
    on = mask.bool()
    drop = torch.where(on, weight.abs(), torch.full_like(weight, math.inf)).flatten()
    grow = torch.where(on, torch.full_like(gradient, -1.0), gradient.abs()).flatten()
    count = min(count, int((~on).sum()))
    result = mask.flatten().clone()
    result[drop.topk(count, largest=False).indices] = 0.0
    result[grow.topk(count).indices] = 1.0
    return result.reshape(mask.shape)


class RigL(Policy):
    """Starts from the largest weights; new connections start at zero."""

    def __init__(self) -> None:
        self._masks: dict[str, Tensor] = {}
        self._batches = 0

    def _layers(self, learner: Learner) -> dict[str, Tensor]:
        return {
            n: m.weight
            for n, m in learner.training.backbone.named_modules()
            if isinstance(m, nn.Conv2d)
        }

    def begin(self, learner: Learner) -> None:
        """Choose the first masks by magnitude."""
        layers = self._layers(learner)
        if not self._masks:
            shares = densities([tuple(w.shape) for w in layers.values()])
            for (name, weight), share in zip(layers.items(), shares):
                kept = max(1, round(share * weight.numel()))
                mask = torch.zeros(weight.numel())
                mask[weight.detach().abs().flatten().topk(kept).indices] = 1.0
                self._masks[name] = mask.reshape(weight.shape)
        self._apply(layers)

    def step(self, learner: Learner) -> None:
        """Keep what is off at zero; move connections now and then."""
        layers = self._layers(learner)
        self._batches += 1
        if self._batches % INTERVAL == 0:
            share = drop_share(self._batches, int(END * PLANNED))
            for name, weight in layers.items():
                if weight.grad is not None:
                    mask = move(weight.detach(), weight.grad, self._masks[name], share)
                    self._masks[name] = mask
        self._apply(layers)

    def _apply(self, layers: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in layers.items():
                weight.mul_(self._masks[name])
