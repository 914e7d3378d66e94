# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Draws what the robot thinks onto its picture; readable at 320 and at 1920 pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np

from etuner_ros.core.images.codec import Image

FONT = cv2.FONT_HERSHEY_DUPLEX
DARK, LIGHT, GREEN, AMBER = (24, 26, 30), (245, 246, 248), (64, 200, 120), (240, 170, 60)


def shrunk(image: Image, width: int) -> Image:
    """
    Return an image that is no wider than a width, in its own proportions.

    :param width: in px; 0 leaves every image as it is
    """
    height, wide = image.shape[:2]
    if not 0 < width < wide:
        return image
    size = (width, max(1, round(height * width / wide)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


@dataclass(frozen=True)
class Marked:
    """A thing as it is drawn."""

    box: tuple[float, float, float, float]  # x, y, width, height in px of the camera's image
    label: str
    confidence: float  # in [0, 1]
    unknown: bool  # drawn in another colour, without a name


def mark(image: Image, things: Iterable[Marked], scale: float) -> Image:
    """
    Return a copy with the boxes of things and their names.

    :param image: RGB uint8, (H, W, 3)
    :param scale: px of this image for one of the camera's
    """
    picture = image.copy()
    height, width = picture.shape[:2]
    unit = max(min(width, int(1.6 * height)) / 320.0, 0.4)  # 1 at 320 px
    pad, thick = max(1, int(2 * unit)), max(1, round(1.2 * unit))
    for thing in things:
        colour = AMBER if thing.unknown else GREEN
        x, y, wide, high = (int(round(scale * v)) for v in thing.box)
        cv2.rectangle(picture, (x, y), (x + wide, y + high), colour, thick)
        known = not thing.unknown and thing.label
        words = f'{thing.label} {round(100 * thing.confidence)} %' if known else '?'
        plain, size = _plain(words), 0.4 * unit
        (long, tall), _ = cv2.getTextSize(plain, FONT, size, max(1, round(size)))
        x = min(max(x, 0), max(width - long - 2 * pad, 0))
        top = y - tall - 2 * pad if y > tall + 2 * pad else max(y, 0)
        cv2.rectangle(picture, (x, top), (x + long + 2 * pad, top + tall + 2 * pad), colour, -1)
        _text(picture, plain, (x + pad, top + pad), size, DARK)
    return np.asarray(picture, np.uint8)


def _plain(text: str) -> str:
    """Return what OpenCV's fonts have of a text."""
    return text.encode('ascii', 'replace').decode()


def annotate(
    image: Image, label: str, confidence: float, novelty: float, version: int, state: str = ''
) -> Image:
    """
    Return a copy with a band of label, confidence and novelty, and a line with version and state.

    :param image: RGB uint8, (H, W, 3)
    :param label: what is predicted; empty while the model knows no class
    :param confidence: in [0, 1]; the bar is amber below a half
    :param novelty: in [0, 1]; shown from a half on
    :param state: what the tuner is doing; empty when unknown
    """
    picture = image.copy()
    height, width = picture.shape[:2]
    unit = max(min(width, int(1.6 * height)) / 320.0, 0.4)  # 1 at 320 px
    pad, band, bar = int(7 * unit), int(30 * unit), max(2, int(4 * unit))
    top = picture[: band + bar]
    top[:] = (0.25 * top + 0.75 * np.array(DARK)).astype(np.uint8)
    share = f'{round(100 * confidence)} %'
    right = _text(picture, share, (width - pad, pad), 0.5 * unit, LIGHT, right=True)
    _text(picture, label or 'knows no class yet', (pad, pad), 0.62 * unit, LIGHT, room=right - pad)
    colour = GREEN if confidence >= 0.5 else AMBER
    picture[band : band + bar, : int(width * min(max(confidence, 0.0), 1.0))] = colour
    line = int(18 * unit)
    if height > band + bar + line:
        bottom = picture[height - line :]
        bottom[:] = (0.35 * bottom + 0.65 * np.array(DARK)).astype(np.uint8)
        start = height - line + int(4 * unit)
        words = f'v{version}' + (f'  {state}' if state else '')
        edge = width - pad
        if novelty >= 0.5:
            new = f'new {round(100 * novelty)} %'
            edge = _text(picture, new, (edge, start), 0.38 * unit, AMBER, right=True) - pad
        _text(picture, words, (pad, start), 0.38 * unit, LIGHT, room=edge)
    return np.asarray(picture, np.uint8)


def _text(
    picture: Image,
    text: str,
    place: tuple[int, int],
    scale: float,
    colour: tuple[int, int, int],
    right: bool = False,
    room: int | None = None,
) -> int:
    """
    Write a line below a place; return the column where it starts.

    :param right: the place is its right end
    :param room: column that it must end before; cut short with dots
    """
    plain = _plain(text)
    thick = max(1, round(scale))

    def size(words: str) -> tuple[int, int]:
        (w, h), _ = cv2.getTextSize(words, FONT, scale, thick)
        return int(w), int(h)

    while room is not None and len(plain) > 4 and place[0] + size(plain)[0] > room:
        plain = plain.rstrip('.')[:-1] + '...'
    wide, high = size(plain)
    x = place[0] - wide if right else place[0]
    cv2.putText(picture, plain, (x, place[1] + high), FONT, scale, colour, thick, cv2.LINE_AA)
    return x
