# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of kept frames: at the size that is needed, and in full while there is room."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.images.codec import decode, encode_jpeg, reduced, resize_square
from etuner_ros.core.images.full_pictures import FullPictures
from etuner_ros.core.images.sources import Recording
from etuner_ros.nodes.inference_settings import InferenceSettings


@pytest.fixture(scope='module')
def camera(stream: Path) -> list[np.ndarray]:
    """Return frames of all scenarios of the recording, enlarged to 640 x 480."""
    frames = islice(Recording(stream), 0, None, 20)
    return [cv2.resize(f.image, (640, 480), interpolation=cv2.INTER_LINEAR) for f in frames]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ('size', 'side', 'expected'),
    [
        ((480, 640), 320, (320, 426)),
        ((640, 480), 320, (426, 320)),
        ((720, 1280), 320, (320, 568)),
        ((500, 500), 320, (320, 320)),
        ((3, 4000), 2, (2, 2666)),
        ((481, 640), 480, (480, 638)),
        ((5, 7), 1, (1, 1)),
        ((500, 700), 333, (333, 467)),  # 466.2, and as many pixels on both sides of the square
    ],
)
def test_a_picture_is_scaled_down_to_its_short_side(size, side, expected):
    assert reduced(picture(*size), side).shape == (*expected, 3)


@pytest.mark.parametrize('side', [0, 480, 481, 16384])
def test_a_picture_is_never_scaled_up_nor_copied(side):
    image = picture(480, 640)
    assert reduced(image, side) is image


@pytest.mark.parametrize('size', [(480, 640), (640, 480), (720, 1280), (481, 643), (512, 512)])
def test_the_network_sees_the_same_in_the_kept_picture(size, camera):
    """Up to resampling: of a square moved by one of its pixels it sees three times as much."""
    image = cv2.resize(camera[0], size[::-1], interpolation=cv2.INTER_LINEAR)
    seen = resize_square(image, INPUT_SIZE).astype(int)
    kept = resize_square(reduced(image, 2 * INPUT_SIZE), INPUT_SIZE)
    moved = np.abs(seen[:, 1:] - seen[:, :-1]).mean()
    assert np.abs(seen - kept).mean() < moved / 3


def test_a_kept_frame_takes_little_more_than_half_of_the_bytes(camera):
    """The figure in docs/behaviour.md is printed: `pytest -s test/core/test_kept_pictures.py`."""
    side = InferenceSettings().kept_side(INPUT_SIZE)
    quality = InferenceSettings().jpeg_quality
    full = np.mean([len(encode_jpeg(i, quality)) for i in camera]) / 1e3
    kept = np.mean([len(encode_jpeg(reduced(i, side), quality)) for i in camera]) / 1e3
    print(f'640 x 480: {full:.1f} KB a frame; with a short side of {side} px {kept:.1f} KB')
    assert kept < 0.6 * full
    seen = [resize_square(i, INPUT_SIZE).astype(int) for i in camera]
    codes = [encode_jpeg(reduced(i, side), quality) for i in camera]
    off = [np.abs(s - resize_square(decode(c), INPUT_SIZE)).mean() for s, c in zip(seen, codes)]
    assert np.mean(off) < 1.5, 'grey levels of 256, with all that JPEG does'


def test_the_side_follows_the_network_and_is_never_below_its_input():
    sides = {
        -1: 320,  # twice the input
        0: 0,  # as the camera has it
        1: 160,
        100: 160,
        200: 200,
    }
    for keep_size, side in sides.items():
        assert InferenceSettings(keep_size=keep_size).kept_side(160) == side
    assert InferenceSettings().kept_side(224) == 448


def test_the_oldest_full_pictures_make_room():
    pictures = FullPictures[str](100)
    for uid in (1, 2, 3):
        pictures.add(uid, f'picture {uid}', 40)
    assert [pictures.get(uid) for uid in (1, 2, 3)] == [None, 'picture 2', 'picture 3']
    assert pictures.bytes == 80
    pictures.most_bytes = 79
    assert [pictures.get(uid) for uid in (2, 3)] == [None, 'picture 3']
    pictures.add(4, 'too large', 80)
    assert [pictures.get(uid) for uid in (3, 4)] == ['picture 3', None]
    assert pictures.bytes == 40


def test_without_memory_no_full_picture_is_kept():
    pictures = FullPictures[str](0)
    pictures.add(1, 'picture', 1)
    assert pictures.get(1) is None
    assert pictures.bytes == 0
