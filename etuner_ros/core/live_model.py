# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The model that serves requests, and how another version takes its place between two frames."""

from __future__ import annotations

import copy
from dataclasses import dataclass
import time

import torch

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.images import Image
from etuner_ros.core.images import resize_square
from etuner_ros.core.models import Classifier
from etuner_ros.core.models import from_base
from etuner_ros.core.scenario import NoveltyScore
from etuner_ros.core.weights import BaseWeights
from etuner_ros.core.weights import sha256
from etuner_ros.core.weights import unpack


@dataclass(frozen=True)
class Result:
    """What the model says about one image."""

    labels: list[str]  # best first
    scores: list[float]  # softmax, in [0, 1]
    energy: float
    novelty: float
    appearance: list[float]
    features: torch.Tensor  # (D,)
    version: int
    seconds: float


@dataclass(frozen=True)
class _Slot:
    model: Classifier
    version: int


class LiveModel:
    """
    Holds one version and predicts with it. `prepare` builds another beside it, `swap` makes it
    live by one assignment.

    `predict` may run in one thread while `prepare` runs in another.
    """

    def __init__(self, base: BaseWeights, device: str = 'cpu') -> None:
        self.base = base
        self._device = torch.device(device)
        self._deployed = from_base(base.state, base.spec).to(self._device).eval()
        self._slot = _Slot(self._deployed, 0)
        self._novelty = NoveltyScore()
        self._warm_up(self._deployed)

    @property
    def version(self) -> int:
        """The live version."""
        return self._slot.version

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the live version."""
        return self._slot.model.classes

    def prepare(
        self, version: int, classes: tuple[str, ...], weights: bytes, digest: str
    ) -> _Slot:
        """
        Build a version beside the live one, warm it up and check that it works.

        :param weights: safetensors of what differs from the base weights
        :param digest: SHA-256 of `weights`
        :raises WeightsError: when it may not go live
        """
        if sha256(weights) != digest:
            raise WeightsError(f'version {version} is damaged on the way: its checksum is wrong')
        model = copy.deepcopy(self._deployed)
        model.load_state({**self.base.state, **unpack(weights)}, classes)
        model.eval()
        logits, features = self._warm_up(model)
        if not (torch.isfinite(logits).all() and torch.isfinite(features).all()):
            raise WeightsError(f'version {version} gives values that are not finite')
        return _Slot(model, version)

    def _warm_up(self, model: Classifier) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model once, so that its first frame does not wait."""
        size = model.spec.input_size
        blank = torch.zeros(1, 3, size, size, device=self._device)
        logits, features, _ = model.examine(blank)
        return logits, features

    def swap(self, slot: _Slot) -> None:
        """Make a prepared version live."""
        self._slot = slot

    def predict(self, image: Image, top_k: int) -> Result:
        """
        Predict one image, with one version from beginning to end.

        :param image: RGB uint8, (H, W, 3)
        """
        slot = self._slot
        began = time.perf_counter()
        model = slot.model
        logits, features, appearance = model.examine(
            model.tensor([resize_square(image, model.spec.input_size)])
        )
        labels, scores, energy, novelty = [], [], 0.0, 0.5
        if model.classes:
            top = torch.softmax(logits[0], dim=0).topk(min(top_k, len(model.classes)))
            labels, scores = [model.classes[i] for i in top.indices.tolist()], top.values.tolist()
            energy = -float(torch.logsumexp(logits[0], dim=0))
            novelty = self._novelty.update(energy, slot.version)
        seconds = time.perf_counter() - began
        return Result(
            labels,
            scores,
            energy,
            novelty,
            appearance[0].tolist(),
            features[0],
            slot.version,
            seconds,
        )
