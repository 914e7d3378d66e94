# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What tuning costs: floating point operations and seconds, by part.

The counts are taken from what really runs: a global hook sees every layer of every network, with
the shapes that it got, whether a gradient flows through it and whether its weights get one. So
frozen layers, cut prefixes and cached activations are counted as they are, by no model of ours.

One multiply-add is two operations. A layer's forward pass, the gradient to its input and the
gradient to its weights take the same number each; grouped convolutions divide all three by their
groups (`torch.utils.flop_counter` forgets that in the weight gradient). BatchNorm, activations,
pooling and the optimiser are counted by element; additions of residuals are not.

Without an active meter all of this costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import time
from typing import Any

import torch
from torch import nn, Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

FORWARD, BACKWARD, OPTIMISER = 'forward', 'backward', 'optimiser'
PROBE, CACHE, HEAD, VALIDATION = 'probe', 'cache', 'head', 'validation'
DECODE, OTHER = 'decode', 'other'
PARTS = (FORWARD, BACKWARD, OPTIMISER, PROBE, CACHE, DECODE, HEAD, VALIDATION, OTHER)

ADAMW_PER_ELEMENT = 16  # decay, two moments, two corrections, root, quotient, step
CLIP_PER_ELEMENT = 3  # square, sum, scale

_active: CostMeter | None = None


class CostMeter:
    """
    Counts while it is active; one at a time in a process, for the thread that starts it.

    >>> import torch
    >>> layer = torch.nn.Linear(3, 2)
    >>> with CostMeter() as meter, torch.no_grad():
    ...     _ = layer(torch.zeros(5, 3))
    >>> meter.flops['forward']
    60.0

    :ivar flops: operations by part
    :ivar seconds: wall clock by part; what runs in a part inside another counts for the inner one
    """

    def __init__(self) -> None:
        self.flops: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self._stack: list[str] = []
        self._since = 0.0
        self._paused = 0
        self._handles: list[Any] = []

    @property
    def total_flops(self) -> float:
        """All operations so far."""
        return float(sum(self.flops.values()))

    @property
    def total_seconds(self) -> float:
        """Wall clock of all parts so far, in s."""
        return float(sum(self.seconds.values()))

    def __enter__(self) -> CostMeter:
        """Start counting."""
        global _active
        if _active is not None:
            raise RuntimeError('another CostMeter is active in this process')
        _active = self
        self._handles = [
            nn.modules.module.register_module_forward_hook(self._on_module),
            register_optimizer_step_post_hook(self._on_step),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        global _active
        _active = None
        for handle in self._handles:
            handle.remove()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing inside: for work that is not the method's, as predicting requests."""
        self._clock()
        self._paused += 1
        try:
            yield
        finally:
            self._paused -= 1
            self._since = time.perf_counter()

    def charge(self, flops: float, name: str = '') -> None:
        """Add operations to a part, or to the current one."""
        if not self._paused:
            key = name or (self._stack[-1] if self._stack else FORWARD)
            self.flops[key] = self.flops.get(key, 0.0) + float(flops)

    def _clock(self) -> None:
        now = time.perf_counter()
        if self._stack and not self._paused:
            key = self._stack[-1]
            self.seconds[key] = self.seconds.get(key, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def counted_as(self, name: str) -> Iterator[None]:
        """Count what runs inside for a part."""
        self._clock()
        self._stack.append(name)
        try:
            yield
        finally:
            self._clock()
            self._stack.pop()

    def _on_module(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if self._paused or not inputs or not isinstance(inputs[0], Tensor):
            return
        out = output[0] if isinstance(output, tuple) else output
        if not isinstance(out, Tensor):
            return
        forward, weights = layer_flops(module, inputs[0], out)
        if not forward:
            return
        self.charge(forward)
        if not (torch.is_grad_enabled() and out.requires_grad):
            return
        back = forward if inputs[0].requires_grad else 0.0
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            back += weights
        here = self._stack[-1] if self._stack else FORWARD
        self.charge(back, BACKWARD if here == FORWARD else here)

    def _on_step(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        elements = sum(
            p.numel() for g in optimiser.param_groups for p in g['params'] if p.grad is not None
        )
        self.charge(elements * (ADAMW_PER_ELEMENT + CLIP_PER_ELEMENT), OPTIMISER)


def layer_flops(module: nn.Module, x: Tensor, out: Tensor) -> tuple[float, float]:
    """
    Return the operations of a layer's forward pass, and of the gradient to its weights.

    The gradient to its input takes as many as the forward pass.

    :param x: what the layer got
    :param out: what it returned
    :return: zeros for modules that hold others, which are counted themselves
    """
    elements = float(out.numel())
    if isinstance(module, nn.Conv2d):
        inner = module.in_channels // module.groups
        work = 2.0 * elements * inner * module.kernel_size[0] * module.kernel_size[1]
        return work, work
    if isinstance(module, nn.Linear):
        return 2.0 * elements * module.in_features, 2.0 * elements * module.in_features
    if isinstance(module, nn.MultiheadAttention):  # x is (N, T, D) or (T, N, D)
        tokens = x.shape[1] if module.batch_first else x.shape[0]
        projections = 8.0 * x.numel() * module.embed_dim
        return projections + 4.0 * x.numel() * tokens, projections
    qkv, window = getattr(module, 'qkv', None), getattr(module, 'window_size', None)
    if isinstance(qkv, nn.Linear) and window is not None:
        # Attention of torchvision's Swin, (N, H, W, C): it takes the weights of its layers itself.
        high, wide = window
        padded = elements / (x.shape[1] * x.shape[2])
        padded *= -(-x.shape[1] // high) * high * -(-x.shape[2] // wide) * wide
        projections = 8.0 * padded * qkv.in_features
        return projections + 4.0 * padded * high * wide, projections
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return (7.0 if module.training else 2.0) * elements, 3.0 * elements
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
        return 7.0 * elements, 3.0 * elements
    if isinstance(module, (nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.MaxPool2d)):
        return float(x.numel()), 0.0
    if isinstance(module, (nn.ReLU, nn.ReLU6, nn.LeakyReLU)):
        return elements, 0.0
    if isinstance(module, (nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Sigmoid)):
        return 4.0 * elements, 0.0
    return 0.0, 0.0


def charge(flops: float, name: str = '') -> None:
    """Add operations that no layer makes, such as solving for a head, to the active meter."""
    if _active is not None:
        _active.charge(flops, name)


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_NOTHING = _Nothing()


def counted_as(name: str) -> Any:
    """Return a context whose work counts for a part of the active meter; nothing without one."""
    return _NOTHING if _active is None else _active.counted_as(name)
