# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What rounds change: the training model, its optimiser, and which blocks are frozen. One
transaction: a round that is cancelled or refused puts all three back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etuner_ros.core.config import SimFreezeConfig, TrainConfig
from etuner_ros.core.cost import counted_as, DECODE
from etuner_ros.core.decide.sim_freeze import SimFreeze
from etuner_ros.core.images.codec import Image
from etuner_ros.core.learn.activation_cache import ActivationCache
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.simsiam import SimSiam
from etuner_ros.core.learn.trainer import (
    augment,
    Chosen,
    grow_optimiser,
    make_optimiser,
    precision,
    view,
)
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.freezing import apply_frozen
from etuner_ros.core.models.networks import channels_last, Classifier
from etuner_ros.core.models.weights import State

LEAST_BATCH = 2


@dataclass
class _Checkpoint:
    """Everything that a round may change."""

    model: dict[str, Tensor]
    classes: tuple[str, ...]
    optimiser: dict[str, Any]
    sim_freeze: dict[str, Any]
    simsiam: dict[str, Tensor]


class TrainingState:
    """
    Owns the training model.

    :param base: the deployed model; it is copied
    """

    def __init__(self, base: Classifier, config: TrainConfig, sim_freeze: SimFreezeConfig) -> None:
        self.config = config
        self.model = copy.deepcopy(base).channels_last()
        self.model.batchnorm_statistics = config.batchnorm_statistics
        self.sim_freeze = SimFreeze(base.unit_names, sim_freeze)
        self.simsiam: SimSiam | None = None
        if config.unlabelled_weight > 0:
            self.simsiam = SimSiam(base.feature_size).to(base.head.weight.device)
        self.optimiser = self._new_optimiser()
        self.cuts = Cuts(self.model.backbone, self.model.units)
        self.cache = ActivationCache(
            self.model, self.cuts, int(config.cache_mb * 1e6), config.cache_precision
        )
        self.rng = np.random.default_rng(config.seed)
        self._before: _Checkpoint | None = None
        self.apply_frozen()

    def _new_optimiser(self) -> torch.optim.Optimizer:
        return make_optimiser(self.model, self.config, self.simsiam)

    # The transaction

    def begin(self) -> None:
        """Note how everything is, before a round."""
        self._before = _Checkpoint(
            {k: v.clone() for k, v in self.model.state_dict().items()},
            self.model.classes,
            copy.deepcopy(self.optimiser.state_dict()),
            copy.deepcopy(self.sim_freeze.state_dict()),
            copy.deepcopy(self.simsiam.state_dict()) if self.simsiam is not None else {},
        )

    def commit(self) -> None:
        """Keep what the round has made."""
        self._before = None

    def roll_back(self) -> None:
        """Put everything back to how it was before the round; what an operator pinned stays."""
        before, self._before = self._before, None
        if before is None:
            return
        self.model.resize_head(before.classes)
        self.model.load_state_dict(before.model)
        self.model.eval()
        pinned, frozen = set(self.sim_freeze.pinned), set(self.sim_freeze.frozen)
        self.sim_freeze.load_state_dict(before.sim_freeze)
        self.sim_freeze.frozen = (self.sim_freeze.frozen - pinned) | (frozen & pinned)
        self.sim_freeze.pinned = pinned
        if self.simsiam is not None:
            self.simsiam.load_state_dict(before.simsiam)
        self.optimiser = self._new_optimiser()
        self.optimiser.load_state_dict(before.optimiser)
        self.apply_frozen(keep_state=True)

    def load(self, state: State, classes: tuple[str, ...]) -> None:
        """
        Take other weights, made elsewhere; nothing that was made with the old ones stays.

        :raises WeightsError: when they do not fit
        """
        self._before = None
        self.put(state, classes)

    def put(self, state: State, classes: tuple[str, ...]) -> None:
        """
        Take other weights; in a round they are what the round has made.

        :raises WeightsError: when they do not fit
        """
        self.model.load_state(state, classes)
        self.model.eval()
        self.optimiser = self._new_optimiser()
        self.apply_frozen()

    # What is frozen, and what the head has

    def apply_frozen(self, keep_state: bool = False) -> None:
        """
        Freeze what SimFreeze says.

        :param keep_state: the optimiser keeps its moments of frozen blocks
        """
        optimiser = None if keep_state else self.optimiser
        apply_frozen(self.model, self.sim_freeze.frozen, optimiser)
        self.cache.follow()

    def freeze(self, names: Iterable[str], keep_state: bool = False) -> None:
        """Freeze exactly these blocks, for other rules than SimFreeze, which must be off then."""
        self.sim_freeze.set_layers(names, self.sim_freeze.pinned)
        self.apply_frozen(keep_state)

    def add_class(self, label: str, weight: Tensor | None = None, bias: float = 0.0) -> None:
        """Append a row to the trained head; zeros without a weight (D,)."""
        self.model.add_class(label, weight, bias)
        grow_optimiser(self.optimiser, self.model)

    def set_row(self, label: str, weight: Tensor, bias: float) -> None:
        """Have the trained head begin with a row, (D,), for a class that it has."""
        head, place = self.model.head, self.model.classes.index(label)
        with torch.no_grad():
            head.weight[place] = weight.to(head.weight)
            head.bias[place] = bias

    def halve_batches(self) -> bool:
        """
        Train in batches of half the size from now on, after memory ran out.

        :return: False when they are of two images already, one new and one replayed
        """
        if self.config.batch_size <= LEAST_BATCH:
            return False
        half = max(LEAST_BATCH, self.config.batch_size // 2)
        self.config = replace(self.config, batch_size=half)
        self.cache.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    # Running the model

    def tensor(self, images: Sequence[Image]) -> Tensor:
        """Stack RGB uint8 images (S, S, 3) to a batch in the memory format of training."""
        return self.model.tensor(images).contiguous(memory_format=torch.channels_last)

    def _images(self, chosen: Chosen, positions: Sequence[int]) -> Tensor:
        with counted_as(DECODE):
            return self.tensor([view(*chosen[p], self.config.seed) for p in positions])

    def activations(self, chosen: Chosen) -> Tensor:
        """Return the activations of views at the border of what is frozen; they are kept."""
        return self.cache.fetch(
            [(s.sample_id, index) for s, index in chosen], lambda p: self._images(chosen, p)
        )

    def _new_views(self, chosen: Chosen) -> Tensor:
        """Return the same of views that nobody asks for again; they are not kept."""
        images = self._images(chosen, range(len(chosen)))
        with torch.no_grad(), self.model.evaluating():
            return self.cuts.run(images, 0, self.cache.border)

    def logits(self, chosen: Chosen) -> Tensor:
        """
        Run the model on views, with gradient behind the frozen blocks.

        :return: (n, C) float32
        """
        start = self.activations(chosen) if self.config.views else self._new_views(chosen)
        if self.config.flip and start.dim() == 4:
            mirrored = torch.from_numpy(self.rng.random(len(start)) < 0.5).to(start.device)
            across = start.flip(2 if channels_last(start) else 3)
            start = torch.where(mirrored[:, None, None, None], across, start)
        with precision(self.config, start.device):
            features = self.cuts.run(start, self.cache.border).flatten(1)
            logits: Tensor = self.model.head(features)
        return logits.to(torch.float32)

    def unlabelled_loss(self, frames: Sequence[Sample]) -> Tensor:
        """Return the weighted SimSiam loss of two new views each of some frames."""
        assert self.simsiam is not None
        count = min(self.config.batch_size, len(frames))
        picked = self.rng.choice(len(frames), count, replace=False)
        images = [frames[int(i)].image for i in picked]
        one, other = (
            self.model.features(self.tensor([augment(i, self.rng) for i in images]))
            for _ in range(2)
        )
        loss: Tensor = self.config.unlabelled_weight * self.simsiam(one, other)
        return loss

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """Return the features (n, D) that the model makes of samples now, float32 on the CPU."""
        parts = []
        with self.model.evaluating(), torch.no_grad():
            for start in range(0, len(samples), 32):
                chosen = [(s, 0) for s in samples[start : start + 32]]
                x = self.cuts.run(self.activations(chosen), self.cache.border)
                parts.append(x.flatten(1).float().cpu())
        return torch.cat(parts)

    def forget(self, sample_ids: Iterable[str]) -> None:
        """Drop the activations of samples."""
        for sample_id in sample_ids:
            for index in range(max(self.config.views, 1)):
                self.cache.discard((sample_id, index))
