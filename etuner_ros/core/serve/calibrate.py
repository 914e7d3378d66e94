# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the ranges of activations that 8 bit have to hold, on the robot's own pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from etuner_ros.core.errors import EngineError
from etuner_ros.core.images.codec import Image
from etuner_ros.core.models.weights import ModelSpec, State
from etuner_ros.core.serve.engines import Engines
from etuner_ros.core.serve.graph_file import Floats
from etuner_ros.core.serve.networks import OnnxSession

Item = TypeVar('Item')
LEAST_PICTURES = 32  # fewer say too little of what is to come
PICTURES = 100  # more change little


def selection(items: Sequence[Item]) -> list[Item]:
    """
    Return at most `PICTURES` of the items, evenly.

    >>> len(selection(range(1000))), selection(range(3))
    (100, [0, 1, 2])
    """
    step = max(len(items) / PICTURES, 1.0)
    return [items[int(i * step)] for i in range(min(len(items), PICTURES))]


def calibrate(
    spec: ModelSpec, state: State, images: Sequence[Image], engines: Engines | None = None
) -> tuple[str, Floats]:
    """
    Return the smallest and the largest value of each activation over pictures.

    :param state: all tensors of the network
    :param images: RGB uint8 (S, S, 3); of more than `PICTURES` an even selection is taken
    :return: layout of the graph, and ranges (n, 2)
    :raises EngineError: for too few pictures, or when the network can not be quantised
    """
    if len(images) < LEAST_PICTURES:
        raise EngineError(
            f'{len(images)} pictures are too few to calibrate int8 with; {LEAST_PICTURES} are '
            f'needed'
        )
    graph = (engines or Engines()).observer(spec)
    session = OnnxSession(graph.filled(state), spec)
    seen = np.stack([session.run([image])[0].reshape(-1, 2) for image in selection(images)])
    if not np.isfinite(seen).all():
        raise EngineError('activations are not finite, so they can not be quantised')
    lowest, highest = seen[:, :, 0].min(axis=0), seen[:, :, 1].max(axis=0)
    return graph.layout, np.stack([lowest, highest], axis=1).astype(np.float32)
