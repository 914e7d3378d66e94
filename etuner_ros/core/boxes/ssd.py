# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The proposer that knows things from photographs: an SSD (arXiv 1512.02325) with MobileNet V2,
trained on 23 kinds of Open Images v4. Its file is fetched by `etuner fetch-proposer`.
"""

from __future__ import annotations

from itertools import pairwise
import math
from typing import Any

import cv2
import numpy as np

from etuner_ros.core.boxes.geometry import Boxes, clip, distinct, Floats, LEAST_SIDE
from etuner_ros.core.boxes.proposer import MOST, Proposals
from etuner_ros.core.errors import EngineError
from etuner_ros.core.images.codec import Image

SIDE = 300  # px of its input
GRIDS = (19, 10, 5, 3, 2, 1)  # cells a side of its layers
SCALES = np.linspace(0.2, 0.95, len(GRIDS))  # of its anchors, in sides of the image
RATIOS = (1.0, 2.0, 1 / 2, 3.0, 1 / 3)  # width to height
BOX_SCALES = (10.0, 10.0, 5.0, 5.0)  # of y, x, height, width
MOST_OVERLAP = 0.5
CANDIDATES = 200  # boxes that compete for a place in the answer


def anchors() -> Floats:
    """Return the middle and the size of each anchor, (1917, 4): y, x, h, w in image sides."""
    found = []
    for number, (grid, (scale, following)) in enumerate(
        zip(GRIDS, pairwise((*SCALES, 1.0)), strict=True)
    ):
        if number == 0:
            shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
        else:
            shapes = [(scale, ratio) for ratio in RATIOS] + [(math.sqrt(scale * following), 1.0)]
        places = (np.arange(grid) + 0.5) / grid
        found += [
            (y, x, size / math.sqrt(ratio), size * math.sqrt(ratio))
            for y in places
            for x in places
            for size, ratio in shapes
        ]
    return np.asarray(found, np.float32)


class SsdProposer:
    """
    Proposes by a detector whose kinds are fixed; what it takes a thing for is only a hint.

    :param model: the TFLite file
    :param labels: of its classes, the background first
    :raises EngineError: when its engine is missing or the file is damaged
    """

    name = 'ssd'

    def __init__(self, model: bytes, labels: tuple[str, ...], threads: int = 1) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter

            self._engine: Any = Interpreter(model_content=model, num_threads=threads)
            self._engine.allocate_tensors()
            self._input = self._engine.get_input_details()[0]['index']
            outputs = self._engine.get_output_details()
            shapes = [tuple(o['shape']) for o in outputs]
        except ImportError as error:
            raise EngineError(
                'the proposer ssd needs the Python package ai-edge-litert: make proposer, on a '
                'robot PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --user --no-deps '
                'ai-edge-litert'
            ) from error
        except (RuntimeError, ValueError) as error:
            raise EngineError(f'the proposer ssd can not be loaded: {error}') from error
        self._anchors = anchors()
        expected = [(1, len(self._anchors), 4), (1, len(self._anchors), len(labels))]
        if shapes != expected:
            raise EngineError(f'the proposer ssd answers {shapes}, not {expected}')
        self._boxes, self._classes = (o['index'] for o in outputs)
        self._labels = labels

    def propose(self, image: Image, most: int = MOST) -> Proposals:
        """Return where things may be, at most so many; see `Proposer`."""
        height, width = image.shape[:2]
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        try:
            self._engine.set_tensor(self._input, small[None].astype(np.float32) / 127.5 - 1)
            self._engine.invoke()
            raw = self._engine.get_tensor(self._boxes)[0]
            logits = self._engine.get_tensor(self._classes)[0, :, 1:]
        except (RuntimeError, ValueError) as error:
            raise EngineError(f'the proposer ssd failed: {error}') from error
        kinds = logits.argmax(axis=1)
        best = logits.max(axis=1)
        chosen = np.argsort(-best, kind='stable')[:CANDIDATES]
        boxes = clip(self._decoded(raw[chosen], chosen, width, height), width, height)
        scores = np.asarray(1 / (1 + np.exp(-best[chosen])), np.float32)
        large = boxes[:, 2:].min(axis=1) >= LEAST_SIDE
        boxes, scores, kinds = boxes[large], scores[large], kinds[chosen][large]
        kept = distinct(boxes, scores, MOST_OVERLAP)[:most]
        return Proposals(
            boxes[kept], scores[kept], tuple(self._labels[1 + kinds[i]] for i in kept)
        )

    def _decoded(self, raw: Floats, chosen: Any, width: int, height: int) -> Boxes:
        """Return boxes in px of the image, (n, 4); they may leave it."""
        anchor = self._anchors[chosen]
        coded = raw / np.asarray(BOX_SCALES, np.float32)
        middle = coded[:, :2] * anchor[:, 2:] + anchor[:, :2]
        size = np.exp(np.minimum(coded[:, 2:], 5.0)) * anchor[:, 2:]
        sides = np.array([width, height], np.float32)
        corner = (middle - size / 2)[:, ::-1] * sides
        return np.concatenate([corner, size[:, ::-1] * sides], axis=1, dtype=np.float32)
