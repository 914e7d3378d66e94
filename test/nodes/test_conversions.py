# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Image messages of all encodings that drivers send; no DDS."""

from __future__ import annotations

from array import array

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import Image

from etuner_ros.core.errors import ImageError
from etuner_ros.nodes.conversions import image_to_array

RED, BLUE = (200, 30, 40), (30, 40, 200)


@pytest.fixture
def picture() -> np.ndarray:
    """Return RGB, 24 x 32: red on the left, blue on the right."""
    image = np.empty((24, 32, 3), np.uint8)
    image[:, :16], image[:, 16:] = RED, BLUE
    return image


def message(rows: np.ndarray, encoding: str, width: int = 32, height: int = 24, **fields) -> Image:
    rows = rows.reshape(len(rows), -1)
    values = {
        'height': height,
        'width': width,
        'encoding': encoding,
        'step': rows.shape[1],
        'data': array('B', rows.tobytes()),
        **fields,
    }
    return Image(**values)


def planes(picture: np.ndarray, encoding: str) -> np.ndarray:
    """Return nv12 or nv21: as many rows of brightness, half as many of both colours in turns."""
    height, width = picture.shape[:2]
    planar = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
    colours = planar[height:].reshape(2, -1)
    order = colours if encoding == 'nv12' else colours[::-1]
    return np.vstack([planar[:height], order.T.reshape(height // 2, width)])


def pairs(picture: np.ndarray, brightness_first: bool) -> np.ndarray:
    """Return two bytes a pixel: brightness, and one of both colours in turns."""
    yuv = cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)
    height, width = picture.shape[:2]
    light = yuv[:height]
    u, v = yuv[height:].reshape(2, height // 2, width // 2)
    colour = np.empty((height, width), np.uint8)
    colour[:, 0::2], colour[:, 1::2] = np.repeat(u, 2, axis=0), np.repeat(v, 2, axis=0)
    return np.stack([light, colour] if brightness_first else [colour, light], axis=2)


@pytest.mark.parametrize('encoding', ['nv12', 'nv21'])
@pytest.mark.parametrize('padding', [0, 16])
def test_brightness_and_colour_apart_are_read_with_and_without_padding(picture, encoding, padding):
    rows = np.pad(planes(picture, encoding), ((0, 0), (0, padding)))
    image = image_to_array(message(rows, encoding))
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).max() < 8


@pytest.mark.parametrize('step', [0, 48, 64])
def test_a_driver_that_counts_its_step_otherwise_is_understood(picture, step):
    image = image_to_array(message(planes(picture, 'nv12'), 'nv12', step=step))
    assert np.abs(image.astype(int) - picture).max() < 8


@pytest.mark.parametrize('encoding', ['uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2'])
def test_pixels_that_share_their_colour_are_read(picture, encoding):
    rows = pairs(picture, brightness_first=encoding.startswith('yuyv') or 'yuy2' in encoding)
    image = image_to_array(message(rows, encoding))
    assert np.abs(image.astype(int) - picture).max() < 8


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize(('bits', 'big'), [(8, 0), (16, 0), (16, 1)])
def test_the_mosaic_of_a_bare_sensor_is_read(picture, pattern, bits, big):
    mosaic = np.empty(picture.shape[:2], np.uint8)
    for place, colour in enumerate(pattern):
        top, left = divmod(place, 2)
        mosaic[top::2, left::2] = picture[top::2, left::2, 'rgb'.index(colour)]
    if bits == 16:  # the same share of a larger range
        mosaic = (mosaic.astype(np.uint16) * 257).astype('>u2' if big else '<u2')
    rows = mosaic.view(np.uint8)
    image = image_to_array(message(rows, f'bayer_{pattern}{bits}', is_bigendian=big))
    # Where red meets blue a pixel's missing colours are guessed from both.
    assert (image[:, :14] == RED).all()
    assert (image[:, 18:] == BLUE).all()


@pytest.mark.parametrize(
    ('rows', 'encoding', 'fields', 'words'),
    [
        ((36, 32), 'nv12', {'data': array('B', bytes(36 * 32 - 1))}, '1151 bytes, 1152 bytes are'),
        ((36, 32), 'nv21', {'step': 20, 'data': array('B', bytes(9))}, 'step 20 is shorter'),
        ((36, 31), 'nv12', {'width': 31}, 'even width and height, not 31 x 24'),
        ((36, 32), 'nv12', {'height': 23}, 'even width and height, not 32 x 23'),
        ((24, 62), 'uyvy', {'width': 31}, 'even width'),
        ((24, 32), 'nv24', {}, "encoding 'nv24' can not be read as colour .* nv12, nv21"),
    ],
)
def test_what_can_not_be_read_is_said_with_the_cause(rows, encoding, fields, words):
    with pytest.raises(ImageError, match=words):
        image_to_array(message(np.zeros(rows, np.uint8), encoding, **fields))
