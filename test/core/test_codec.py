# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Compressed pictures: how large they are is known before any memory is taken."""

from __future__ import annotations

import struct
import zlib

import cv2
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images import codec
from etuner_ros.core.images.codec import decode, encode_jpeg, encoded_size, MAX_SIDE

PICTURE = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
KINDS = {
    'baseline JPEG': ('.jpg', []),
    'progressive JPEG': ('.jpg', [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    'JPEG with restarts': ('.jpg', [cv2.IMWRITE_JPEG_RST_INTERVAL, 2]),
    'PNG': ('.png', []),
    'BMP': ('.bmp', []),
    'WebP': ('.webp', [cv2.IMWRITE_WEBP_QUALITY, 80]),
    'lossless WebP': ('.webp', [cv2.IMWRITE_WEBP_QUALITY, 101]),
}


def encoded(kind: str, picture: np.ndarray = PICTURE) -> bytes:
    suffix, options = KINDS[kind]
    return cv2.imencode(suffix, picture, options)[1].tobytes()


@pytest.fixture
def no_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when a picture is handed to the decoder at all."""

    def called(*arguments: object) -> None:
        raise AssertionError('decoded before its size was looked at')

    monkeypatch.setattr(codec.cv2, 'imdecode', called)


@pytest.mark.parametrize('kind', KINDS)
def test_the_size_is_read_from_the_header(kind):
    assert encoded_size(encoded(kind)) == (40, 24)
    assert decode(encoded(kind)).shape == (24, 40, 3)


def test_a_transparent_webp_picture_says_its_size():
    picture = np.dstack([PICTURE, PICTURE[..., :1]])
    data = cv2.imencode('.webp', picture, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    assert data[12:16] == b'VP8X'
    assert encoded_size(data) == (40, 24)


def test_a_bitmap_may_run_from_the_top_or_have_the_short_header_of_long_ago():
    data = bytearray(encoded('BMP'))
    data[22:26] = struct.pack('<i', -24)
    assert encoded_size(bytes(data)) == (40, 24)
    assert (decode(bytes(data)) == PICTURE[::-1, :, ::-1]).all()
    head = struct.pack('<IHHHH', 12, 40, 24, 1, 24)
    old = b'BM' + struct.pack('<IHHI', 26 + PICTURE.nbytes, 0, 0, 26) + head
    old += PICTURE[::-1].tobytes()
    assert encoded_size(old) == (40, 24)
    assert (decode(old) == PICTURE[..., ::-1]).all()


@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('held', [0, 1, 3, 6, 8, 9])
def test_a_photograph_of_a_phone_is_as_large_as_the_decoder_turns_it(held, order):
    data = encode_jpeg(PICTURE)
    entry = struct.pack(f'{order}HHIHH', 0x112, 3, 1, held, 0)
    tiff = struct.pack(f'{order}HI', 42, 8) + struct.pack(f'{order}H', 1) + entry + bytes(4)
    exif = b'Exif\0\0' + (b'II' if order == '<' else b'MM') + tiff
    data = data[:2] + b'\xff\xe1' + struct.pack('>H', 2 + len(exif)) + exif + data[2:]
    height, width = decode(data).shape[:2]
    assert encoded_size(data) == (width, height) == ((24, 40) if held in (6, 8) else (40, 24))


def test_a_small_file_that_unpacks_to_much_is_refused_before_any_memory_is_taken(no_decoder):
    rows = zlib.compress(bytes(12_000 * (1 + 12_000 * 3)), 9)
    head = struct.pack('>II5B', 12_000, 12_000, 8, 2, 0, 0, 0)
    chunks = [(b'IHDR', head), (b'IDAT', rows), (b'IEND', b'')]
    data = b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        for kind, body in chunks
    )
    assert len(data) < 1_000_000, '432 MB unpacked'
    with pytest.raises(ImageError, match='12000 x 12000 pixels'):
        decode(data)


def test_a_jpeg_that_claims_a_huge_size_is_refused_whatever_comes_before_its_header(no_decoder):
    data = bytearray(encode_jpeg(PICTURE))
    place = data.index(b'\xff\xc0')
    data[place + 5 : place + 9] = struct.pack('>HH', MAX_SIDE + 1, 100)
    thumbnail = encode_jpeg(PICTURE[:8, :8])
    comment = b'\xff\xfe' + struct.pack('>H', 2 + len(thumbnail)) + thumbnail
    for before in (b'', comment, b'\xff\xff\xff', b'noise', b'\xff\x00'):
        with pytest.raises(ImageError, match='16385 pixels'):
            decode(bytes(data[:2]) + before + bytes(data[2:]))


@pytest.mark.parametrize('data', [b'GIF89a' + bytes(100), b'II*\0' + bytes(100), b'P6 9 9 255 '])
def test_a_format_whose_header_is_not_understood_is_refused(data, no_decoder):
    with pytest.raises(ImageError, match='JPEG, PNG, BMP and WebP are read'):
        decode(data)


@pytest.mark.parametrize('kind', KINDS)
def test_a_picture_that_ends_in_its_header_is_an_image_error(kind):
    data = encoded(kind)
    for length in range(1, 20):
        with pytest.raises(ImageError, match='compressed image'):
            decode(data[:length])


@given(st.sampled_from(sorted(KINDS)), st.integers(0, 120), st.binary(min_size=1, max_size=12))
def test_noise_in_a_picture_is_an_image_error_or_a_picture_of_the_size_it_says(kind, at, noise):
    data = bytearray(encoded(kind))
    data[at : at + len(noise)] = noise
    try:
        width, height = encoded_size(bytes(data))
        assert decode(bytes(data)).shape[:2] in ((height, width), (width, height))
    except ImageError:
        pass
