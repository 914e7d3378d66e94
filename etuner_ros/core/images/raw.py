# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pixels of Image messages, live or recorded: every field of them is checked here. No ROS."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
from rosbags.image.image import convert_color, to_cvtype
from rosbags.image.image import ImageError as ConversionError

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.codec import Image, MAX_SIDE
from etuner_ros.core.names import is_printable

PLANAR = ('nv12', 'nv21')  # encodings with brightness and colour apart
PAIRS = ('uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2')  # encodings in which two pixels share a colour
KNOWN = (
    'rgb8, bgr8, rgba8, bgra8, mono8, mono16, bayer_*8, bayer_*16, yuv422 (uyvy), yuv422_yuy2 '
    '(yuyv), nv12, nv21'
)
LONGEST_NAME = 40  # characters of an encoding that are said


def unpack(message: Any) -> Image:
    """
    Read an Image message, row padding included (which `rosbags.image` leaves out of account, so
    only its colour conversion is used).

    :param message: sensor_msgs/msg/Image, of rclpy or of rosbags
    :return: RGB uint8, (H, W, 3)
    :raises ImageError: when encoding, size, step or buffer are wrong
    """
    if not (0 < message.width <= MAX_SIDE and 0 < message.height <= MAX_SIDE):
        raise ImageError(
            f'image size {message.width} x {message.height} is not between 1 x 1 and {MAX_SIDE} '
            f'x {MAX_SIDE}'
        )
    name = _named(message.encoding)
    try:
        pixels = _planes(message) if message.encoding in PLANAR else _pixels(message)
        image = np.asarray(convert_color(pixels, message.encoding, 'rgb8'))
    except ImageError:
        raise
    except Exception as error:  # OpenCV's and rosbags' own, for what can't be converted
        text = error if isinstance(error, ConversionError) else type(error).__name__
        raise ImageError(
            f"image encoding '{name}' can not be read as colour ({text}); use one of {KNOWN}"
        ) from error
    if image.shape != (message.height, message.width, 3) or image.dtype != np.uint8:
        raise ImageError(f"image encoding '{name}' can not be read as colour; use one of {KNOWN}")
    return np.ascontiguousarray(image)


def _named(encoding: str) -> str:
    """Return an encoding as it can be said in a line."""
    clean = ''.join(c if is_printable(c) else '?' for c in encoding[:LONGEST_NAME])
    return clean if len(encoding) <= LONGEST_NAME else clean[:-3] + '...'


def _pixels(message: Any) -> npt.NDArray[Any]:
    """Return the pixels of an encoding that keeps all channels of a pixel together."""
    _, _, kind, channels = to_cvtype(message.encoding)
    dtype = np.dtype(kind).newbyteorder('>' if message.is_bigendian else '<')
    if message.encoding in PAIRS and message.width % 2:
        raise ImageError(f'an image of encoding {message.encoding} must have an even width')
    row = message.width * channels * dtype.itemsize
    rows = _rows(message, message.height, row, message.step)
    shape = (message.height, message.width, channels)
    pixels: npt.NDArray[Any] = rows.view(dtype).reshape(shape if channels > 1 else shape[:2])
    if dtype.itemsize > 1 and message.is_bigendian == (sys.byteorder == 'little'):
        pixels = pixels.astype(dtype.newbyteorder('='))
    return pixels


def _planes(message: Any) -> npt.NDArray[Any]:
    """
    Return nv12 or nv21 as OpenCV takes it: all rows of brightness, then half as many rows in
    which two colours take turns, for two by two pixels each. `height` is that of the picture.
    """
    if message.width % 2 or message.height % 2:
        raise ImageError(
            f'an image of encoding {message.encoding} must have an even width and height, not '
            f'{message.width} x {message.height}'
        )
    count = message.height * 3 // 2
    # Drivers do not agree on what `step` counts here; without padding the size says it all.
    packed = len(message.data) == count * message.width
    return _rows(message, count, message.width, message.width if packed else message.step)


def _rows(message: Any, count: int, row: int, step: int) -> Image:
    """
    Return the bytes of an image without the padding of its rows.

    :param count: of rows
    :param row: bytes of each that count
    :param step: bytes from the start of one to that of the next; 0 = `row`
    :return: (count, row)
    """
    step = step or row
    if step < row:
        raise ImageError(
            f'image step {step} is shorter than a row of {message.width} '
            f'{_named(message.encoding)} pixels ({row} bytes)'
        )
    needed = step * (count - 1) + row
    if len(message.data) < needed:
        raise ImageError(
            f'the image buffer holds {len(message.data)} bytes, {needed} bytes are announced'
        )
    buffer = np.frombuffer(message.data, np.uint8)
    rows = np.lib.stride_tricks.as_strided(buffer, (count, row), (step, 1), writeable=False)
    return np.ascontiguousarray(rows)
