# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parts of an image as the network takes them: square crops, looked at as one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from etuner_ros.core.boxes.geometry import Boxes, Floats, squares
from etuner_ros.core.images.codec import Image, resize_square

MARGIN = 0.1  # around a box, in longer sides of it

# Pictures of the network's input size to features (n, D) and appearance, as `Network.look`.
Look = Callable[[Sequence[Image]], tuple[Floats, Floats]]


def cut(image: Image, boxes: Boxes, size: int, margin: float = MARGIN) -> list[Image]:
    """
    Cut the square around each box.

    Where a square leaves the image, the pixels at the border are repeated: so the thing stays in
    the middle and as large as it is.

    :param image: RGB uint8, (H, W, 3)
    :param boxes: (n, 4), in the image at least in part
    :param size: side of the network's input, in px
    :return: n of RGB uint8 (size, size, 3)
    """
    height, width = image.shape[:2]
    found = []
    for x, y, side, _ in squares(boxes, margin):
        length = max(int(round(float(side))), 1)
        left, top = int(round(float(x))), int(round(float(y)))
        part = image[
            min(max(top, 0), height - 1) : max(min(top + length, height), 1),
            min(max(left, 0), width - 1) : max(min(left + length, width), 1),
        ]
        missing = (
            max(-top, 0),
            max(top + length - height, 0),
            max(-left, 0),
            max(left + length - width, 0),
        )
        if any(missing):
            part = np.asarray(cv2.copyMakeBorder(part, *missing, cv2.BORDER_REPLICATE), np.uint8)
        found.append(resize_square(part, size))
    return found


def features_of(
    image: Image, boxes: Boxes, look: Look, size: int, margin: float = MARGIN
) -> Floats:
    """
    Return what a network makes of the parts of an image, (n, D), in one batch.

    :param boxes: (n, 4), n > 0
    :raises EngineError: when the engine fails
    """
    return look(cut(image, boxes, size, margin))[0]
