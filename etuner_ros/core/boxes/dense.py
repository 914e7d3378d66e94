# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The proposer that ships with the package: what the middle of EfficientNet-Lite0 (ImageNet) says of
each cell of an image, read by linear maps that were solved in closed form (a region proposal
network, arXiv 1506.01497, without gradients). `tools/teach_proposer.py` makes its file.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from etuner_ros.core.boxes.geometry import Boxes, clip, distinct, Floats, LEAST_SIDE
from etuner_ros.core.boxes.proposer import MOST, NONE, Proposals
from etuner_ros.core.errors import EngineError
from etuner_ros.core.images.codec import Image

WIDTH, HEIGHT, STRIDE = 320, 256, 16  # px of its input, and of a cell
SIDES, RATIOS = (32.0, 52.0, 84.0, 136.0), (0.5, 1.0, 2.0)  # of its anchors; width to height
MOST_OFFSET = 0.7  # in sides of an anchor
MOST_OVERLAP = 0.5
CANDIDATES = 200  # boxes that compete for a place in the answer


def anchors() -> Boxes:
    """Return the boxes around each cell, (cells, SIDES x RATIOS, 4), in px of its input."""
    shapes = np.array([(s * r**0.5, s / r**0.5) for s in SIDES for r in RATIOS], np.float32)
    y, x = np.mgrid[0 : HEIGHT // STRIDE, 0 : WIDTH // STRIDE]
    middles = (np.stack([x.ravel(), y.ravel()], 1) + 0.5) * STRIDE
    corners = middles[:, None] - shapes / 2
    return np.concatenate([corners, np.broadcast_to(shapes, corners.shape)], 2, dtype=np.float32)


def moved(boxes: Boxes, offsets: Floats) -> Boxes:
    """
    Return boxes that were moved and resized, (n, 4).

    :param offsets: (n, 4): of the middle, in sides of the box, and of the logarithms of its sides
    """
    offsets = np.clip(offsets, -MOST_OFFSET, MOST_OFFSET)
    sides = boxes[:, 2:] * np.exp(offsets[:, 2:])
    middles = boxes[:, :2] + boxes[:, 2:] / 2 + offsets[:, :2] * boxes[:, 2:]
    return np.concatenate([middles - sides / 2, sides], axis=1, dtype=np.float32)


class DenseProposer:
    """
    Proposes what looks like a thing, of whatever kind.

    :param model: the ONNX file
    :raises EngineError: when onnxruntime is missing or the file is damaged
    """

    name = 'own'

    def __init__(self, model: bytes, threads: int = 1) -> None:
        try:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
            options.log_severity_level = 3
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=['CPUExecutionProvider']
            )
        except ImportError as error:
            raise EngineError('the proposer own needs onnxruntime') from error
        except Exception as error:  # onnxruntime raises many kinds
            raise EngineError(f'the proposer own can not be loaded: {error}') from error
        self._anchors = anchors().reshape(-1, 4)

    def propose(self, image: Image, most: int = MOST) -> Proposals:
        """Return where things may be, at most so many; see `Proposer`."""
        height, width = image.shape[:2]
        small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        try:
            found, offsets = self._session.run(None, {'pictures': small[None]})
        except Exception as error:
            raise EngineError(f'the proposer own failed: {error}') from error
        scores = np.clip(found.reshape(-1), 0.0, 1.0)
        best = np.argsort(-found.reshape(-1), kind='stable')[:CANDIDATES]
        scale = np.array([width / WIDTH, height / HEIGHT] * 2, np.float32)
        boxes = moved(self._anchors[best], offsets.reshape(-1, 4)[best]) * scale
        boxes, scores = clip(boxes, width, height), scores[best]
        large = boxes[:, 2:].min(axis=1) >= LEAST_SIDE
        if not large.any():
            return NONE
        boxes, scores = boxes[large], scores[large]
        kept = distinct(boxes, scores, MOST_OVERLAP)[:most]
        return Proposals(boxes[kept], scores[kept], ('',) * len(kept))
