# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and the core's values; every field from outside is checked here."""

from __future__ import annotations

import sys

import numpy as np
from rosbags.image.image import convert_color, to_cvtype
from rosbags.image.image import ImageError as ConversionError
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.codec import Image, MAX_SIDE
from etuner_ros.nodes.messages import short, to_bytes


def image_to_array(message: ImageMessage) -> Image:
    """
    Read an Image message, row padding included (which `rosbags.image` leaves out of account, so
    only its colour conversion is used).

    :return: RGB uint8, (H, W, 3)
    :raises ImageError: when encoding, size, step or buffer are wrong
    """
    if not (0 < message.width <= MAX_SIDE and 0 < message.height <= MAX_SIDE):
        raise ImageError(
            f'image size {message.width} x {message.height} is not between 1 x 1 and {MAX_SIDE} '
            f'x {MAX_SIDE}'
        )
    try:
        _, _, kind, channels = to_cvtype(message.encoding)
        dtype = np.dtype(kind).newbyteorder('>' if message.is_bigendian else '<')
        row = message.width * channels * dtype.itemsize
        step = message.step or row
        if step < row:
            raise ImageError(
                f'image step {step} is shorter than a row of {message.width} '
                f'{short(message.encoding, 40)} pixels ({row} bytes)'
            )
        needed = step * (message.height - 1) + row
        if len(message.data) < needed:
            raise ImageError(
                f'the image buffer holds {len(message.data)} bytes, {needed} bytes are announced'
            )
        buffer = np.frombuffer(message.data, np.uint8)
        rows = np.lib.stride_tricks.as_strided(
            buffer, (message.height, row), (step, 1), writeable=False
        )
        shape = (
            (message.height, message.width, channels)
            if channels > 1
            else (message.height, message.width)
        )
        pixels = np.ascontiguousarray(rows).view(dtype).reshape(shape)
        if dtype.itemsize > 1 and message.is_bigendian == (sys.byteorder == 'little'):
            pixels = pixels.astype(dtype.newbyteorder('='))
        image = np.asarray(convert_color(pixels, message.encoding, 'rgb8'))
    except ImageError:
        raise
    except (
        Exception
    ) as error:  # OpenCV's and rosbags' own, for encodings and sizes that can't be converted
        known = 'rgb8, bgr8, rgba8, bgra8, mono8, mono16, yuv422, yuv422_yuy2, bayer_*8'
        text = error if isinstance(error, ConversionError) else type(error).__name__
        raise ImageError(
            f"image encoding '{short(message.encoding, 40)}' can not be read as colour ({text}); "
            f'use one of {known}'
        ) from error
    if image.shape != (message.height, message.width, 3) or image.dtype != np.uint8:
        raise ImageError(
            f"image encoding '{short(message.encoding, 40)}' can not be read as colour"
        )
    return np.ascontiguousarray(image)


def array_to_image(image: Image, header: Header) -> ImageMessage:
    """Make an Image message of RGB uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    return ImageMessage(
        header=header,
        height=height,
        width=width,
        encoding='rgb8',
        step=3 * width,
        data=to_bytes(image.tobytes()),
    )
