# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How like what was taught of each class a feature is: what a robot that was not taught everything
needs beside a score, as a head is sure of anything. NumPy only.

It is the mean cosine to what was taught of a class, between features in which what pictures of one
kind differ in is shrunk. That is linear but for the length of the feature: one row for each class
is enough, whatever was taught, and it travels with the head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.models.weights import backbone_digest, State, unpack

Floats = npt.NDArray[np.float32]

FOLDER = Path(__file__).resolve().parents[2] / 'within_class'


class Within(NamedTuple):
    """What pictures of one kind differ in, as it ships: the map `I - V' diag(1 - keep) V`."""

    directions: Floats  # V, (r, D)
    keep: Floats  # (r,) in (0, 1]

    def lengths(self, features: Floats) -> Floats:
        """Return how long features (n, D) are after the map, (n,)."""
        along = features @ self.directions.T
        left = np.square(features).sum(axis=1) - np.square(along) @ (1.0 - np.square(self.keep))
        return np.asarray(np.sqrt(left.clip(0.0)), np.float32)


def shipped(architecture: str, base: State) -> Within | None:
    """
    Return what ships with the package for a deployed network; nothing where its backbone is
    another one than it was learned with.

    :param base: all tensors of the deployed network
    :raises WeightsError: when the file is damaged
    """
    file = FOLDER / f'{architecture}.safetensors'
    if not file.is_file():
        return None
    try:
        tensors = unpack(file.read_bytes())
        backbone = bytes(tensors['backbone']).decode()
        directions = np.asarray(tensors['directions'], np.float32)
        keep = np.asarray(tensors['keep'], np.float32)
    except (WeightsError, KeyError, ValueError, OSError) as error:
        raise WeightsError(f'{file} is damaged: install the package again ({error})') from error
    return Within(directions, keep) if backbone == backbone_digest('', base) else None


@dataclass(frozen=True)
class Likeness:
    """
    How like what was taught of each class features are; 1 is what a name needs.

    :ivar rows: (C, D), 0 for a class of which nothing was taught
    """

    rows: Floats
    within: Within

    def __call__(self, features: Floats) -> Floats:
        """Return it of features (n, D) for each class, (n, C); nan where nothing was taught."""
        lengths = np.maximum(self.within.lengths(features), 1e-6)
        likeness: Floats = features @ self.rows.T / lengths[:, None]
        likeness[:, ~self.rows.any(axis=1)] = np.nan
        return likeness
