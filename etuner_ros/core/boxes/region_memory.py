# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Features of regions that look as they did in the last frame: they need no other look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
import time

import numpy as np

from etuner_ros.core.boxes.crops import MARGIN
from etuner_ros.core.boxes.geometry import as_boxes, Boxes, Floats, overlaps, squares
from etuner_ros.core.images.codec import Image
from etuner_ros.core.images.stillness import alike, Cells, cells_of, LONGEST_S

SAME = 0.9  # overlap from which on two boxes are of the same region


@dataclass(frozen=True)
class Region:
    """A region as the network looked at it."""

    box: Boxes  # (4,)
    window: tuple[slice, slice]  # of the cells of the image
    cells: Cells  # in it
    feature: Floats  # (D,)
    since: float  # when that was


class RegionMemory:
    """
    Remembers the regions of one camera's last frame.

    What is compared are the pixels where a region was when the network looked at it, so neither
    steps that add up nor a box that moves by a pixel go unnoticed or cost a look.

    :param clock: returns seconds that only grow
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._regions: list[Region] = []
        self._cells: Cells = np.zeros((0, 0, 3), np.int16)  # of the image that was recalled for
        self._of: tuple[object, ...] = ()  # what made the features, and the size of the images
        self.recalled = 0  # regions that needed no look

    def recall(self, image: Image, boxes: Boxes, network: object) -> list[Region | None]:
        """
        Return for each region what is known of it; None where it has to be looked at.

        :param image: RGB uint8, (H, W, 3)
        :param boxes: (n, 4)
        :param network: equal only to itself, with the weights that it has
        """
        of = (network, image.shape)
        if of != self._of:
            self._regions, self._of = [], of
        now, cells = self._clock(), cells_of(image)
        self._cells = cells
        same = [
            region
            for region in self._regions
            if now - region.since < LONGEST_S and alike(cells[region.window], region.cells)
        ]
        if not same or not len(boxes):
            return [None] * len(boxes)
        overlap = overlaps(boxes, as_boxes([region.box for region in same]))
        best = overlap.argmax(axis=1)
        found = [same[b] if overlap[i, b] >= SAME else None for i, b in enumerate(best)]
        self.recalled += sum(region is not None for region in found)
        return found

    def keep(
        self, image: Image, boxes: Boxes, features: Floats, recalled: Sequence[Region | None]
    ) -> None:
        """
        Remember the regions of this frame.

        :param features: (n, D)
        :param recalled: what `recall` said of them
        """
        now, regions = self._clock(), []
        for box, feature, known in zip(boxes, features, recalled):
            if known is None:
                window = self._window(image, box)
                known = Region(box, window, self._cells[window], feature, now)
            regions.append(known)
        self._regions = regions

    def _window(self, image: Image, box: Boxes) -> tuple[slice, slice]:
        """Return the cells of an image that are cut out for a box (4,), in part at least."""
        rows, columns = self._cells.shape[:2]
        height, width = image.shape[:2]
        x, y, side, _ = squares(box[None], MARGIN)[0]

        def part(low: float, size: int, count: int) -> slice:
            first = min(max(int(low * count / size), 0), count - 1)
            return slice(first, max(math.ceil((low + side) * count / size), first + 1))

        return part(float(y), height, rows), part(float(x), width, columns)
