# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images as RGB uint8 arrays: decode, encode, resize."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from etuner_ros.core.errors import ImageError

Image = npt.NDArray[np.uint8]

MAX_SIDE = 16384  # px; larger claims are refused before any memory is taken


def decode(data: bytes) -> Image:
    """
    Decode a JPEG, PNG or other compressed picture.

    :return: RGB uint8, (H, W, 3)
    :raises ImageError: when it is empty or can't be decoded
    """
    if not data:
        raise ImageError('the compressed image is empty')
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f'the compressed image can not be decoded: {error}') from error
    if image is None:
        raise ImageError(
            f'the compressed image ({len(data)} bytes) can not be decoded: damaged, or of an '
            f'unknown format'
        )
    return np.ascontiguousarray(image[..., ::-1])


def encode_jpeg(image: Image, quality: int = 90) -> bytes:
    """Encode RGB uint8 (H, W, 3) as JPEG."""
    ok, code = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ImageError(f'an image of shape {image.shape} can not be written as JPEG')
    return bytes(code)


def resize_square(image: Image, size: int) -> Image:
    """
    Crop the largest centred square and resize it.

    :param image: RGB uint8, (H, W, 3)
    :return: RGB uint8, (size, size, 3)
    """
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    shrink = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (size, size), interpolation=shrink), np.uint8)
