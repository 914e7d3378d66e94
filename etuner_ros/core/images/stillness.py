# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether an image, or a part of one, shows what it showed before: a robot that stands still."""

from __future__ import annotations

from collections.abc import Callable
import time

import cv2
import numpy as np
import numpy.typing as npt

from etuner_ros.core.images.codec import Image

Cells = npt.NDArray[np.int16]  # means of small parts of an image, (rows, columns, 3)
CELL = 10  # px of a side: of so many px the noise of a sensor cancels out
MOST_CELLS = 128  # along a side
MOST_CHANGE = 5  # of the mean of a cell, in levels of 255, that is noise
LONGEST_S = 2.0  # then it is looked at anew: something dim may have changed by less


def cells_of(image: Image) -> Cells:
    """
    Return what is compared of an image.

    :param image: RGB uint8, (H, W, 3)
    """
    size = tuple(min(max(side // CELL, 1), MOST_CELLS) for side in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.int16)


def alike(ours: Cells, others: Cells) -> bool:
    """Return whether two images show the same, but for noise."""
    return ours.shape == others.shape and int(np.abs(ours - others).max()) <= MOST_CHANGE


class Stillness:
    """
    Tells of each image of a camera whether it shows what the last one did that it called new.

    It is that one that others are compared with, so what changes slowly is noticed in the end.

    :param clock: returns seconds that only grow
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: tuple[Cells, float] | None = None

    def is_same(self, image: Image) -> bool:
        """Return whether there is nothing new in an image, RGB uint8 (H, W, 3)."""
        now, cells = self._clock(), cells_of(image)
        before, since = self._seen or (None, 0.0)
        if before is not None and now - since < LONGEST_S and alike(cells, before):
            return True
        self._seen = cells, now
        return False
