# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the first blocks of the deployed network make of pictures: computed once for all runs.

Most methods freeze those blocks, so the same activations would be computed again in each run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from etuner_ros.core.learn.activation_cache import same_values
from etuner_ros.core.models.networks import Classifier

LARGEST = 65504.0  # of float16


class Fronts:
    """
    Activations of pictures behind one border of the deployed network, in float16 as the activation
    cache of the learner keeps them.

    :param model: the deployed network
    :param border: number of blocks in front of it; 0 for nothing
    :param values: (n, ...), of each picture
    :param rows: the row of each sample id
    """

    def __init__(
        self,
        model: Classifier,
        border: int,
        values: npt.NDArray[np.float16],
        rows: Mapping[str, int],
    ) -> None:
        self._model, self.border = model, border
        self._values, self._rows = values, rows

    def fit(self, network: Classifier) -> bool:
        """Return whether a network starts with the same blocks, bit for bit."""
        return self.border > 0 and same_values(network.units, self._model.units, self.border)

    def activations(self, sample_ids: Sequence[str]) -> Tensor:
        """Return the activations (n, ...) of samples, float32."""
        found = np.stack([self._values[self._rows[i]] for i in sample_ids])
        return torch.from_numpy(found.astype(np.float32)).contiguous(
            memory_format=torch.channels_last if found.ndim == 4 else torch.contiguous_format
        )


def save(file: Path, parts: Iterable[Tensor]) -> None:
    """Write activations (n, ...), which come in parts."""
    half = [p.clamp(-LARGEST, LARGEST).to(torch.float16).numpy() for p in parts]
    np.save(file, np.concatenate(half))


def load(file: Path) -> npt.NDArray[np.float16]:
    """Map a file of activations; only what is looked at is read."""
    return np.asanyarray(np.load(file, mmap_mode='r'))
