# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the robot runs: the live version, mirrored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import copy

import numpy as np
import torch
from torch import Tensor

from etuner_ros.core.boxes.readout import familiar_as, probabilities
from etuner_ros.core.errors import EngineError
from etuner_ros.core.learn.candidates import Candidate
from etuner_ros.core.learn.instant_head import NEVER
from etuner_ros.core.learn.quantiser import features_by, Quantiser
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.served_head import HeadRows, Kept
from etuner_ros.core.models.likeness import Likeness, shipped
from etuner_ros.core.models.networks import Classifier
from etuner_ros.core.models.weights import (
    backbone_digest,
    backbone_of,
    HEAD_LIKENESS,
    HEAD_PRIOR,
    HEAD_TENSORS,
    network_of,
    same_bits,
    State,
)
from etuner_ros.core.serve.graph_file import ranges_of
from etuner_ros.core.serve.networks import Network


class LiveState:
    """
    Owns the live model.

    :param base: the deployed model; it is copied
    :param base_sha256: of the file of the base weights, which backbones are named after
    :param quantiser: makes the network of a quantised version
    """

    def __init__(
        self, base: Classifier, base_sha256: str = '', quantiser: Quantiser | None = None
    ) -> None:
        self.base = base.state()
        self.base_classes = base.classes
        self.deployed = frozenset(base.classes)  # labels
        self._base_sha256 = base_sha256
        self.model = copy.deepcopy(base).eval()
        self.update: State = {}
        self.version, self.backbone = 0, self.digest({})
        self._within = shipped(base.spec.architecture, self.base)
        self._quantiser = quantiser
        self.network: Network | None = None  # that serves, when it is a quantised one
        # The live version is quantised, and that network can't be had here: features are those of
        # the float one, until a version in float, or with other ranges, takes its place.
        self.served_elsewise = False

    @property
    def is_tuned(self) -> bool:
        """Whether the live network is another than the deployed one; its head does not count."""
        return bool(network_of(backbone_of(self.update)))

    def digest(self, update: State) -> str:
        """Return the name of the backbone of weights."""
        return backbone_digest(self._base_sha256, update)

    def take(self, update: State, classes: tuple[str, ...], version: int) -> None:
        """
        Become another version.

        :param update: tensors that differ from the base weights
        :raises WeightsError: when they do not fit; nothing has changed then
        """
        self.model.load_state(self.whole(update), classes)
        self.model.eval()
        backbone = self.digest(update)
        if backbone != self.backbone:
            self.network = self._quantiser.network(update) if self._quantiser else None
            self.served_elsewise = self.network is None and ranges_of(update) is not None
        self.update, self.version, self.backbone = update, version, backbone

    def whole(self, update: State) -> State:
        """Return all tensors of the network for an update."""
        return {**self.base, **network_of(update)}

    def to_train(self, update: State) -> State:
        """Return the same for the training model: what is likely here and now is not learned."""
        whole = self.whole(update)
        if HEAD_PRIOR in update:
            bias = np.asarray(whole[HEAD_TENSORS[1]], np.float32)
            whole[HEAD_TENSORS[1]] = bias - np.asarray(update[HEAD_PRIOR], np.float32)
        return whole

    def with_head(self, weights: State) -> State:
        """Return the live update with another head."""
        return {**backbone_of(self.update), **weights}

    def is_same(self, update: State, classes: tuple[str, ...]) -> bool:
        """Return whether weights are to the last bit those that are live."""
        ours = self.update
        return (
            classes == self.model.classes
            and set(update) == set(ours)
            and all(
                same_bits(np.asarray(value), np.asarray(ours[name]))
                for name, value in update.items()
            )
        )

    def has_become(self, candidate: Candidate) -> bool:
        """Return whether the live weights are those of a candidate."""
        ours, theirs = candidate.live_update, self.update
        return candidate.backbone == self.backbone and all(
            name in ours and name in theirs and same_bits(ours[name], np.asarray(theirs[name]))
            for name in HEAD_TENSORS
            if name in ours or name in theirs
        )

    @property
    def head(self) -> HeadRows:
        """The head that is served."""
        head = self.model.head
        prior = self.update.get(HEAD_PRIOR)
        told = torch.zeros(len(head.bias)) if prior is None else torch.tensor(np.array(prior))
        return HeadRows(head.weight.detach().cpu(), head.bias.detach().cpu() - told, told)

    def kept(self, labels: Iterable[str]) -> dict[str, Kept] | None:
        """
        Return what is served of classes whose pictures are on their way, or lie in a store that is
        gone; nothing where one of them came with the deployed network, whose rows do not go with
        those of an instant head.
        """
        labels, head = set(labels), self.head
        if not self.deployed.isdisjoint(labels):
            return None
        told = self.update.get(HEAD_LIKENESS)
        found = {}
        for place, label in enumerate(self.model.classes):
            if label in labels:
                likeness = None if told is None else torch.tensor(np.asarray(told[place]))
                found[label] = Kept(head.weight[place], head.bias[place], likeness)
        return found

    @property
    def silent(self) -> set[str]:
        """Classes that it never says: their row is that of a class without samples."""
        rows = self.head
        off = (rows.bias <= NEVER / 2) & ~rows.weight.any(dim=1)
        return {name for name, is_off in zip(self.model.classes, off.tolist()) if is_off}

    def says(self, feature: Tensor) -> str:
        """Return what it makes of a feature (D,); nothing without classes."""
        if not self.model.classes:
            return ''
        return self.model.classes[int(self._logits(feature).argmax())]

    def _logits(self, features: Tensor) -> Tensor:
        """Return the logits of features (..., D), float32 on the CPU."""
        head = self.model.head
        with torch.no_grad():
            found: Tensor = head(features.to(head.weight)).float().cpu()
        return found

    def knows(self, label: str, thing: Tensor | None = None) -> bool:
        """
        Return whether things of a class can look known, and the feature (D,) of one does.

        True where that can not be told, for the network is another one than what ships is for.
        """
        rows = self.update.get(HEAD_LIKENESS)
        if self._within is None:
            return True
        if rows is None or label not in self.model.classes:
            return False
        likeness = Likeness(np.asarray(rows, np.float32), self._within)
        place = self.model.classes.index(label)
        if not likeness.rows[place].any():
            return False
        if thing is None:
            return True
        row = thing.detach().float().cpu()[None]
        shares = probabilities(self._logits(row).numpy())
        return bool(familiar_as(likeness(row.numpy()), shares, np.array([place]))[0] >= 1.0)

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """Return the features (n, D) of samples as they are served, float32 on the CPU."""
        if self.network is not None:
            try:
                return features_by(self.network, samples)
            except EngineError:
                self.network, self.served_elsewise = None, True
        rows = []
        with torch.no_grad():
            for start in range(0, len(samples), 32):
                images = [s.image for s in samples[start : start + 32]]
                rows.append(self.model.features(self.model.tensor(images)).float().cpu())
        return torch.cat(rows)


def predictions(model: Classifier, samples: Sequence[Sample]) -> list[str]:
    """Return the label that a model gives each sample; empty without classes."""
    if not model.classes or not samples:
        return [''] * len(samples)
    with torch.inference_mode():
        best = [
            int(row.argmax())
            for start in range(0, len(samples), 32)
            for row in model(model.tensor(s.image for s in samples[start : start + 32]))
        ]
    return [model.classes[i] for i in best]
