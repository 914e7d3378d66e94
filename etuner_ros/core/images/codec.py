# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Images as RGB uint8 arrays: decode, encode, resize."""

from __future__ import annotations

from collections.abc import Callable
import struct

import cv2
import numpy as np
import numpy.typing as npt

from etuner_ros.core.errors import ImageError

Image = npt.NDArray[np.uint8]

MAX_SIDE = 16384  # px
MAX_PIXELS = 50_000_000  # of a compressed picture: 150 MB when it is unpacked; 8K has 33 million


def decode(data: bytes) -> Image:
    """
    Decode a JPEG, PNG, BMP or WebP picture.

    Its size is read from its header first, so that a small file can't unpack to much memory.

    :return: RGB uint8, (H, W, 3)
    :raises ImageError: when it is empty, too large, of another format, or can't be decoded
    """
    if not data:
        raise ImageError('the compressed image is empty')
    width, height = encoded_size(data)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ImageError(
            f'the compressed image says that it has {width} x {height} pixels; at most {MAX_SIDE} '
            f'a side and {MAX_PIXELS} in all are taken'
        )
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f'the compressed image can not be decoded: {error}') from error
    if image is None:
        raise ImageError(f'the compressed image ({len(data)} bytes) is damaged')
    return np.ascontiguousarray(image[..., ::-1])


def encoded_size(data: bytes) -> tuple[int, int]:
    """
    Return width and height that the header of a compressed picture claims, as `decode` turns it;
    nothing is decoded.

    :raises ImageError: when the header is damaged, or of another format than `decode` takes
    """
    start = bytes(data[:16])
    for offset, mark, read in _FORMATS:
        if start[offset : offset + len(mark)] == mark:
            try:
                return read(data)
            except (struct.error, IndexError) as error:
                raise ImageError('the header of the compressed image is damaged') from error
    raise ImageError(
        f'the compressed image ({len(data)} bytes) is of an unknown format: JPEG, PNG, BMP and '
        f'WebP are read'
    )


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Walk over the segments to the frame header, as the decoder does."""
    place, upright = 2, True
    while True:
        while data[place] != 0xFF:
            place += 1
        while data[place] == 0xFF:
            place += 1
        marker, place = data[place], place + 1
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD7:  # these stand alone
            continue
        if marker in (0xD8, 0xD9, 0xDA):  # start and end of a picture, pixels: no header came
            raise IndexError
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from('>HH', data, place + 3)
            return (width, height) if upright else (height, width)
        length = max(struct.unpack_from('>H', data, place)[0], 2)
        if marker == 0xE1 and data[place + 2 : place + 8] == b'Exif\0\0':
            upright = _orientation(data[place + 8 : place + length]) < 5
        place += length


def _orientation(exif: bytes) -> int:
    """
    Return how a camera was held, 1 to 8; from 5 on the decoder swaps width and height.

    :param exif: a TIFF header and its first directory; 1 when there is none, or it is damaged
    """
    order = {b'II': '<', b'MM': '>'}.get(bytes(exif[:2]), '')
    if not order:
        return 1
    try:
        (place,) = struct.unpack_from(f'{order}I', exif, 4)
        (entries,) = struct.unpack_from(f'{order}H', exif, place)
        for i in range(entries):
            tag, _, _, value = struct.unpack_from(f'{order}HHIH', exif, place + 2 + 12 * i)
            if tag == 0x0112 and 1 <= value <= 8:
                return int(value)
    except struct.error:
        pass
    return 1


def _png_size(data: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from('>4sII', data, 12)
    if kind != b'IHDR':
        raise IndexError
    return width, height


def _bmp_size(data: bytes) -> tuple[int, int]:
    (length,) = struct.unpack_from('<I', data, 14)
    width, height = struct.unpack_from('<HH' if length == 12 else '<ii', data, 18)
    return width, abs(height)  # negative: from the top


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = bytes(data[12:16])
    if kind == b'VP8X':
        size = bytes(data[24:30])
        return int.from_bytes(size[:3], 'little') + 1, int.from_bytes(size[3:], 'little') + 1
    if kind == b'VP8L':
        (bits,) = struct.unpack_from('<I', data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b'VP8 ':
        width, height = struct.unpack_from('<HH', data, 26)
        return width & 0x3FFF, height & 0x3FFF
    raise IndexError


_FORMATS: tuple[tuple[int, bytes, Callable[[bytes], tuple[int, int]]], ...] = (
    (0, b'\xff\xd8', _jpeg_size),
    (0, b'\x89PNG\r\n\x1a\n', _png_size),
    (0, b'BM', _bmp_size),
    (8, b'WEBP', _webp_size),
)


def encode_jpeg(image: Image, quality: int = 90) -> bytes:
    """Encode RGB uint8 (H, W, 3) as JPEG."""
    ok, code = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ImageError(f'an image of shape {image.shape} can not be written as JPEG')
    return bytes(code)


def reduced(image: Image, side: int) -> Image:
    """
    Return a picture whose short side is no longer than `side`, in its own proportions.

    What `resize_square` makes of it is what it makes of the picture itself, up to resampling.

    :param image: RGB uint8, (H, W, 3)
    :param side: in px; 0 leaves every picture as it is
    :return: the very same picture where it is no larger
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if not 0 < side < short:
        return image

    def scaled(length: int) -> int:
        # Whole pixels on both sides of the centred square, or it would move by half a pixel.
        margin: int = round((length - short) * side / short / 2)
        return side + 2 * margin

    size = (scaled(width), scaled(height))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


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
