# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The proposer that ships with the package: what the middle of EfficientNet-Lite0 (ImageNet) says of
each cell of an image, and then of the best boxes, read by linear maps that were solved in closed
form (a region proposal network, arXiv 1506.01497, and a second stage, without gradients).
`tools/teach_proposer.py` makes its file.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from etuner_ros.core.boxes.geometry import clip, distinct, LEAST_SIDE
from etuner_ros.core.boxes.proposer import MOST, NONE, Proposals
from etuner_ros.core.errors import EngineError
from etuner_ros.core.images.codec import Image

WIDTH, HEIGHT = 320, 256  # px of its input
MOST_OVERLAP = 0.5


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
            # Threads that wait for work in a loop take the processor from all others.
            options.add_session_config_entry('session.intra_op.allow_spinning', '0')
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=['CPUExecutionProvider']
            )
        except ImportError as error:
            raise EngineError('the proposer own needs onnxruntime') from error
        except Exception as error:  # onnxruntime raises many kinds
            raise EngineError(f'the proposer own can not be loaded: {error}') from error

    def propose(self, image: Image, most: int = MOST) -> Proposals:
        """Return where things may be, at most so many; see `Proposer`."""
        height, width = image.shape[:2]
        small = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        try:
            boxes, scores = self._session.run(None, {'pictures': small[None]})
        except Exception as error:
            raise EngineError(f'the proposer own failed: {error}') from error
        best = np.argsort(-scores, kind='stable')
        scale = np.array([width / WIDTH, height / HEIGHT] * 2, np.float32)
        boxes, scores = clip(boxes[best] * scale, width, height), np.clip(scores[best], 0.0, 1.0)
        large = boxes[:, 2:].min(axis=1) >= LEAST_SIDE
        if not large.any():
            return NONE
        boxes, scores = boxes[large], scores[large]
        kept = distinct(boxes, scores, MOST_OVERLAP)[:most]
        return Proposals(boxes[kept], scores[kept], ('',) * len(kept))
