# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Egeria: freeze the frontmost blocks whose plasticity has levelled off (Wang et al., EuroSys 2023,
arXiv 2201.06227).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
import copy

import numpy as np
import torch
from torch import Tensor

from etuner_ros.bench.methods.tuned import Policy
from etuner_ros.core.cost import counted_as, PROBE
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.models.freezing import frozen_prefix
from etuner_ros.core.models.networks import Classifier

PROBE_SIZE = 32


def similarity_loss(one: Tensor, other: Tensor) -> float:
    """
    Return the SP loss of two activations (b, ...) of the same samples: the squared Frobenius
    distance of their row-normalised Gram matrices over b squared (Tung & Mori, ICCV 2019).
    """
    grams = []
    for activation in (one, other):
        rows = activation.flatten(1).double()
        grams.append(torch.nn.functional.normalize(rows @ rows.T, dim=1))
    return float((grams[0] - grams[1]).square().sum() / len(one) ** 2)


def slope(values: Sequence[float]) -> float:
    """Return the slope of the least-squares line through evenly spaced values."""
    return float(np.polyfit(np.arange(len(values)), np.asarray(values), 1)[0])


class Egeria(Policy):
    """
    Freezes the front module when its plasticity has levelled off; then watches the next.

    The defaults fit streams of some hundred training batches; the paper's are for epochs.

    :param interval: training batches between two evaluations
    :param snapshot: evaluations after which the reference is taken anew
    :param window: evaluations that the moving average and the line span
    :param tolerance: of the slope, relative to the largest plasticity of the block
    :param hits: evaluations in a row with a slope below that
    """

    def __init__(
        self,
        interval: int = 4,
        snapshot: int = 16,
        window: int = 3,
        tolerance: float = 0.2,
        hits: int = 2,
    ) -> None:
        self.interval, self.snapshot, self.window = interval, snapshot, window
        self.tolerance, self.hits = tolerance, hits
        self._reference: Classifier | None = None
        self._evaluations = self._batches = self._hits = 0
        self._raw: deque[float] = deque(maxlen=window)
        self._smooth: deque[float] = deque(maxlen=window)
        self._scale = 0.0

    def begin(self, learner: Learner) -> None:
        """Draw the batch that plasticity is measured on; the first reference is what starts."""
        if self._reference is None:
            self._reference = copy.deepcopy(learner.training).eval()
        samples = (learner.book.replay.samples + learner.pending)[-PROBE_SIZE:]
        self._batch = learner.training.tensor(s.image for s in samples)

    def step(self, learner: Learner) -> None:
        """Evaluate every few training batches."""
        self._batches += 1
        if self._batches % self.interval:
            return
        with counted_as(PROBE):
            self._evaluate(learner)

    def _evaluate(self, learner: Learner) -> None:
        model = learner.training
        assert self._reference is not None
        reference = self._reference
        self._evaluations += 1
        if self._evaluations % self.snapshot == 0:
            self._reference = copy.deepcopy(model).eval()
        front = frozen_prefix(model)
        if front >= len(model.units) - 1:  # the last block always trains
            return
        mode = model.training
        model.eval()
        now, then = (_activation(m, front, self._batch) for m in (model, reference))
        model.train(mode)
        self._raw.append(similarity_loss(now, then))
        self._smooth.append(float(np.mean(self._raw)))
        if len(self._smooth) < self.window:
            return
        self._scale = self._scale or max(self._smooth)
        still = abs(slope(list(self._smooth))) <= self.tolerance * self._scale
        self._hits = self._hits + 1 if still else 0
        if self._hits >= self.hits:
            learner.state.freeze(model.unit_names[: front + 1])
            self._hits, self._scale = 0, 0.0
            self._raw.clear()
            self._smooth.clear()


class _SeenEnoughError(Exception):
    """Ends a forward pass behind the block that is looked at; no more is charged than needed."""


def _activation(model: Classifier, index: int, batch: Tensor) -> Tensor:
    """Return the output of a block."""
    seen: list[Tensor] = []

    def hook(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)
        raise _SeenEnoughError

    handle = model.units[index].module.register_forward_hook(hook)
    try:
        with torch.inference_mode():
            model.features(batch)
    except _SeenEnoughError:
        pass
    finally:
        handle.remove()
    return seen[0]
