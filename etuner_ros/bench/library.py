# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a data set as the deployed network sees them, shared by all runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import hashlib
import os
from pathlib import Path
import tempfile

import numpy as np
import torch
from torch import Tensor

from etuner_ros.bench import fronts
from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.fronts import Fronts
from etuner_ros.bench.provenance import code
from etuner_ros.core.config import SimFreezeConfig
from etuner_ros.core.decide.sim_freeze import SimFreeze
from etuner_ros.core.identity import DEPLOYED
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.deploy import fit_head
from etuner_ros.core.models.networks import build, Classifier, pretrained_spec

EXEMPLARS = 10  # deployment pictures of a class that replay knows
AT_ONCE = 32  # pictures


class Library:
    """
    The pictures of a data set as the network takes them, with what the deployed backbone makes of
    them; computed once and kept in files.

    :param weights: state-dict file of a torchvision network; empty for pretrained ones
    :param frozen: which blocks the shipped method freezes from the start; what they make of the
        pictures is kept, too
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        architecture: str,
        size: int,
        weights: str = '',
        folder: Path | None = None,
        progress: Callable[[str], None] = lambda _line: None,
        frozen: SimFreezeConfig | None = None,
    ) -> None:
        self.pictures = list(pictures)
        self.architecture, self.size, self.weights = architecture, size, weights
        self.model = build(pretrained_spec(architecture, size), weights or 'pretrained').eval()
        if not self.model.classes:
            self.model.add_class('')
        self._progress = progress
        self.samples = {
            p.name: Sample.of(p.name, p.label, DEPLOYED, p.image(size)) for p in self.pictures
        }
        # Other code may make other features of the same pictures.
        digest = hashlib.sha256(f'{architecture} {size} {code()}'.encode())
        for tensor in self.model.backbone.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        for name, sample in self.samples.items():
            digest.update(name.encode() + sample.jpeg)
        folder = folder or Path(tempfile.gettempdir()) / f'etuner_bench_{os.getuid()}'
        folder.mkdir(parents=True, exist_ok=True)
        stem = digest.hexdigest()[:24]
        file = folder / f'{stem}.npz'
        if not file.exists():
            part = file.with_suffix(f'.{os.getpid()}.npz')
            self._look(part)
            part.replace(file)
        stored = np.load(file)
        rows = torch.from_numpy(stored['features'])
        self._features = {p.name: rows[i] for i, p in enumerate(self.pictures)}
        self.appearance = {
            p.name: stored['appearance'][i].astype(np.float64) for i, p in enumerate(self.pictures)
        }
        self.fronts = self._fronts(folder, stem, frozen)

    def _batches(self) -> Iterator[Tensor]:
        for start in range(0, len(self.pictures), AT_ONCE):
            if start % (10 * AT_ONCE) == 0:
                self._progress(f'deployed network: {start} of {len(self.pictures)} pictures')
            some = self.pictures[start : start + AT_ONCE]
            yield self.model.tensor([self.samples[p.name].image for p in some])

    def _look(self, file: Path) -> None:
        """Compute features and appearance of all pictures."""
        features, appearance = [], []
        for batch in self._batches():
            _, rows, seen = self.model.examine(batch)
            features.append(rows.numpy())
            appearance.append(seen.numpy())
        np.savez(file, features=np.concatenate(features), appearance=np.concatenate(appearance))

    def _fronts(self, folder: Path, stem: str, frozen: SimFreezeConfig | None) -> Fronts:
        """Return what the blocks that are frozen from the start make of all pictures."""
        border = 0
        if frozen is not None:
            cuts = Cuts(self.model.backbone, self.model.units)
            border = cuts.border(len(SimFreeze(self.model.unit_names, frozen).frozen))
        if border == 0:
            return Fronts(self.model, 0, np.zeros((0,), np.float16), {})
        file = folder / f'{stem}_{border}.npy'
        if not file.exists():
            part = file.with_suffix(f'.{os.getpid()}.npy')
            with torch.inference_mode():
                fronts.save(part, (cuts.run(batch, 0, border) for batch in self._batches()))
            part.replace(file)
        rows = {p.name: i for i, p in enumerate(self.pictures)}
        return Fronts(self.model, border, fronts.load(file), rows)

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """Return features (n, D) of the deployed backbone."""
        return torch.stack([self._features[s.sample_id] for s in samples])

    def features_of(self, pictures: Sequence[Picture]) -> Tensor:
        """Return the same of pictures."""
        return torch.stack([self._features[p.name] for p in pictures])

    def deploy(self, pictures: Sequence[Picture]) -> tuple[Classifier, tuple[Sample, ...]]:
        """Return a model whose head is fitted to pictures, and the exemplars it travels with."""
        model = build(pretrained_spec(self.architecture, self.size), self.weights or 'pretrained')
        samples = [self.samples[p.name] for p in pictures]
        fit_head(model, [s.image for s in samples], [s.label for s in samples])
        chosen: list[Sample] = []
        counts: dict[str, int] = {}
        for sample in samples:
            counts[sample.label] = counts.get(sample.label, 0) + 1
            if counts[sample.label] <= EXEMPLARS:
                chosen.append(sample)
        return model.eval(), tuple(chosen)
