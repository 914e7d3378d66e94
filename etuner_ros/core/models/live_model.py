# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The model that serves requests, and how another version takes its place between two frames."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
import copy
from dataclasses import dataclass
import threading
import time

import torch

from etuner_ros.core.decide.scenario import NoveltyScore
from etuner_ros.core.errors import WeightsError
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.models.networks import Classifier, from_base
from etuner_ros.core.models.weights import (
    backbone_digest,
    BaseWeights,
    check_update,
    HEAD_PRIOR,
    HEAD_TENSORS,
    read_in_place,
    sha256,
    State,
)


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
    backbone: str  # digest of what made the features
    seconds: float


@dataclass(frozen=True)
class _Slot:
    model: Classifier
    version: int
    backbone: str  # its digest
    changed: frozenset[str]  # tensors that may differ from the base weights


class LiveModel:
    """
    Holds one version and predicts with it. `prepare` builds another beside it, `swap` makes it
    live by one assignment.

    `predict` may run in one thread while `prepare` runs in another: there are two networks, and
    the one that does not serve takes the tensors of the next version in place. Nothing is built or
    allocated for a swap, which would hold Python's lock (with a network built anew, predictions
    beside it took up to 0.1 s).
    """

    def __init__(self, base: BaseWeights, device: str = 'cpu') -> None:
        self.base = base
        self._device = torch.device(device)
        deployed = from_base(base.state, base.spec).to(self._device).eval()
        self._base = {k: v.clone() for k, v in deployed.state_dict().items()}
        bare = backbone_digest(base.sha256, {})
        self._slot = _Slot(deployed, 0, bare, frozenset())
        self._spare = _Slot(copy.deepcopy(deployed), 0, bare, frozenset())
        self._serving: _Slot | None = None  # in use by a prediction right now
        self._lock = threading.Lock()
        self._novelty = NoveltyScore()
        for slot in (self._slot, self._spare):
            self._warm_up(slot.model)

    @property
    def version(self) -> int:
        """The live version."""
        return self._slot.version

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the live version."""
        return self._slot.model.classes

    def prepare(
        self,
        version: int,
        classes: tuple[str, ...],
        weights: bytearray | array[int],
        digest: str,
        backbone: str = '',
    ) -> _Slot:
        """
        Make a version in the network that does not serve, run it once and check that it works.

        One version at a time: what was prepared and not swapped in is given up.

        :param weights: safetensors of what differs from the base weights
        :param digest: SHA-256 of `weights`
        :param backbone: what `backbone_digest` says of them; worked out when it is empty
        :raises WeightsError: when it may not go live; the live version is as it was
        """
        if sha256(weights) != digest:
            raise WeightsError(f'version {version} is damaged on the way: its checksum is wrong')
        update = read_in_place(weights) if len(weights) else {}
        check_update(self.base.state, update, len(classes))
        while self._is_serving(self._spare):  # a last prediction with the version before
            time.sleep(0.001)
        model, before = self._spare.model, self._spare.changed
        backbone = backbone or backbone_digest(self.base.sha256, update)
        update.pop(HEAD_PRIOR, None)  # it is in the bias already
        changed = frozenset(update)
        # Whatever fails from here on, what was written is put back by the next version.
        self._spare = _Slot(model, version, backbone, before | changed)
        self._load(model, before, update, classes)
        logits, features = self._warm_up(model)
        if not (torch.isfinite(logits).all() and torch.isfinite(features).all()):
            raise WeightsError(f'version {version} gives values that are not finite')
        self._spare = _Slot(model, version, backbone, changed)
        return self._spare

    def _load(
        self, model: Classifier, before: frozenset[str], update: State, classes: tuple[str, ...]
    ) -> None:
        """Write an update into a network; what differed before and is not in it goes back."""
        model.resize_head(classes)
        own = model.state_dict()
        with torch.inference_mode():
            for name, value in update.items():
                own[name].copy_(torch.from_numpy(value))
            for name in (before | set(HEAD_TENSORS)) - update.keys():
                own[name].copy_(self._base[name])

    def _is_serving(self, slot: _Slot) -> bool:
        with self._lock:
            return self._serving is not None and self._serving.model is slot.model

    def _warm_up(self, model: Classifier) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the model once, so that its first frame does not wait."""
        size = model.spec.input_size
        blank = torch.zeros(1, 3, size, size, device=self._device)
        logits, features, _ = model.examine(blank)
        return logits, features

    def swap(self, slot: _Slot) -> None:
        """Make a prepared version live."""
        with self._lock:
            self._slot, self._spare = slot, self._slot

    def predict(self, image: Image, top_k: int) -> Result:
        """
        Predict one image, with one version from beginning to end.

        :param image: RGB uint8, (H, W, 3)
        """
        with self._serve() as slot:
            return self._predict(slot, image, top_k)

    def feature(self, image: Image) -> tuple[torch.Tensor, int, str]:
        """
        Look at a picture that is no frame.

        :return: its feature (D,), the version and the backbone that it is of
        """
        with self._serve() as slot:
            model = slot.model
            tensor = model.tensor([resize_square(image, model.spec.input_size)])
            return model.examine(tensor)[1][0], slot.version, slot.backbone

    @contextmanager
    def _serve(self) -> Iterator[_Slot]:
        """Give the live network, which is not written to meanwhile."""
        with self._lock:
            slot = self._serving = self._slot
        try:
            yield slot
        finally:
            self._serving = None

    def _predict(self, slot: _Slot, image: Image, top_k: int) -> Result:
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
            slot.backbone,
            seconds,
        )
