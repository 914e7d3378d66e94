# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Boxes of an image: float32 (n, 4), each x, y of the upper left corner, width and height, in px of
the image as the camera has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from etuner_ros.core.errors import EtunerError

Boxes = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float32]

LEAST_SIDE = 4.0  # px; less shows nothing that could be named


class BoxError(EtunerError):
    """A box can't be used: not finite, empty, or not in the image."""


def as_boxes(values: npt.ArrayLike) -> Boxes:
    """
    Return values as boxes (n, 4); none at all is (0, 4).

    :raises BoxError: when they have another shape
    """
    boxes = np.asarray(values, np.float32)
    if not boxes.size:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise BoxError(f'boxes are (n, 4): x, y, width, height; got {boxes.shape}')
    return boxes


def checked_box(values: Sequence[float], width: int, height: int) -> Boxes:
    """
    Return a box from outside, clipped to its image, (4,).

    :param values: x, y, width, height
    :param width: of the image, in px
    :param height: of the image, in px
    :raises BoxError: saying what is wrong
    """
    if len(values) != 4:
        raise BoxError(f'a box has x, y, width and height, this one {len(values)} values')
    said = ', '.join(f'{float(v):.6g}' for v in values)
    with np.errstate(over='ignore'):
        box = np.asarray(values, np.float32)
    if not np.isfinite(box).all():
        raise BoxError(f'the box ({said}) is not finite')
    if box[2] <= 0 or box[3] <= 0:
        raise BoxError(f'the box ({said}) has no area: width and height must be positive')
    inside: Boxes = clip(box[None], width, height)[0]
    if not inside[2:].all():
        raise BoxError(f'the box ({said}) is outside of the image of {width} x {height} px')
    if inside[2:].min() < LEAST_SIDE:
        raise BoxError(
            f'of the box ({said}) {inside[2]:.3g} x {inside[3]:.3g} px are in the image of '
            f'{width} x {height} px; at least {LEAST_SIDE:.0f} x {LEAST_SIDE:.0f} are needed'
        )
    return inside


def usable(boxes: Boxes, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Tell which boxes `checked_box` would take, (n,)."""
    with np.errstate(invalid='ignore', over='ignore'):
        inside = clip(boxes, width, height)
        sides = np.minimum(inside[:, 2:].min(axis=1), boxes[:, 2:].min(axis=1))
    return np.asarray(np.isfinite(boxes).all(axis=1) & (sides >= LEAST_SIDE), np.bool_)


def clip(boxes: Boxes, width: int, height: int) -> Boxes:
    """Return the parts of boxes that lie in the image; of none, width or height is 0."""
    limit = np.array([width, height], np.float32)
    low = np.clip(boxes[:, :2], 0.0, limit)
    high = np.clip(boxes[:, :2] + boxes[:, 2:], 0.0, limit)
    return np.concatenate([low, np.maximum(high - low, 0.0)], axis=1, dtype=np.float32)


def centres(boxes: Boxes) -> Floats:
    """Return the middle of each box, (n, 2)."""
    return np.asarray(boxes[:, :2] + 0.5 * boxes[:, 2:], np.float32)


def overlaps(ours: Boxes, others: Boxes) -> Floats:
    """Return the intersection over union of each pair, (n, m), in [0, 1]."""
    common = _common(ours, others)
    areas = ours[:, 2:].prod(axis=1)[:, None] + others[:, 2:].prod(axis=1)[None]
    return np.asarray(common / np.maximum(areas - common, 1e-9), np.float32)


def insides(ours: Boxes, others: Boxes) -> Floats:
    """Return which share of the smaller one of each pair lies in the other, (n, m), in [0, 1]."""
    smaller = np.minimum.outer(ours[:, 2:].prod(axis=1), others[:, 2:].prod(axis=1))
    return np.asarray(_common(ours, others) / np.maximum(smaller, 1e-9), np.float32)


def _common(ours: Boxes, others: Boxes) -> Floats:
    """Return the area that each pair shares, (n, m)."""
    low = np.maximum(ours[:, None, :2], others[None, :, :2])
    high = np.minimum(
        ours[:, None, :2] + ours[:, None, 2:], others[None, :, :2] + others[None, :, 2:]
    )
    return np.asarray(np.maximum(high - low, 0.0).prod(axis=2), np.float32)


def squares(boxes: Boxes, margin: float) -> Boxes:
    """
    Return the square around each box.

    :param margin: on each side, in longer sides of the box
    """
    side = boxes[:, 2:].max(axis=1, keepdims=True) * (1.0 + 2.0 * margin)
    return np.concatenate([centres(boxes) - 0.5 * side, side, side], axis=1, dtype=np.float32)


def distinct(boxes: Boxes, scores: Floats, most_overlap: float) -> npt.NDArray[np.intp]:
    """
    Return the places of boxes that no better one overlaps too much, best first (non-maximum
    suppression).

    :param scores: (n,)
    :param most_overlap: intersection over union above which the weaker one is left out
    """
    return without_rivals(overlaps(boxes, boxes) > most_overlap, scores)


def without_rivals(rivals: npt.NDArray[np.bool_], scores: Floats) -> npt.NDArray[np.intp]:
    """
    Return the places of what has no better rival that stays itself, best first.

    :param rivals: (n, n), which can not stay both
    :param scores: (n,)
    """
    kept: list[int] = []
    for place in np.argsort(-np.asarray(scores), kind='stable'):
        if not rivals[place, kept].any():
            kept.append(int(place))
    return np.array(kept, np.intp)
