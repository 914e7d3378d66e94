# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Features of frames that may still be labelled, and the frame without a label that is next."""

from __future__ import annotations

from collections import deque, OrderedDict
from collections.abc import Callable
import math
import time
from typing import Any

from etuner_ros.core.boxes.geometry import as_boxes, overlaps

MOST_FEATURES = 2000  # 5 MB at 1,280 values
MOST_REGIONS = 6000  # of kept frames: a minute of ten regions at 10 Hz
MOST_CAMERAS = 64
REGIONS_S = 10.0  # after the last region frames are whole images again
SAME = 0.6  # overlap from which on a label of a box is one of a region
UNLABELLED_PERIOD_S = 0.5


class FrameFeatures:
    """
    Keeps features by frame, the oldest out.

    :param wanted: whether a frame without a label is of use only with its feature
    :param clock: monotonic time in s
    """

    def __init__(self, wanted: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._wanted, self._clock = wanted, clock
        self._kept: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._regions: deque[tuple[str, tuple[float, ...], str, bytes]] = deque(
            maxlen=MOST_REGIONS
        )
        self._region_s: dict[str, float] = {}  # when a region came last, by camera
        self._frame: dict[str, Any] | None = None  # waits for its feature
        self._next = 0.0
        self.passed_on = 0

    def add(self, name: str, backbone: str, feature: bytes) -> None:
        """Keep the feature of a frame, and the digest of the backbone that made it."""
        self._kept[name] = (backbone, feature)
        while len(self._kept) > MOST_FEATURES:
            self._kept.popitem(last=False)

    def add_region(
        self, frame: str, box: tuple[float, ...], backbone: str, feature: bytes, camera: str = ''
    ) -> None:
        """
        Keep the feature of a region of a frame.

        :param box: x, y, width, height
        """
        self._regions.append((frame, box, backbone, feature))
        self._region_s.pop(camera, None)
        self._region_s[camera] = self._clock()
        while len(self._region_s) > MOST_CAMERAS:
            del self._region_s[next(iter(self._region_s))]

    def of(self, name: str) -> tuple[str, bytes] | None:
        """Return backbone and feature of a frame."""
        return self._kept.get(name)

    def of_box(self, frame: str, box: tuple[float, ...]) -> tuple[str, bytes] | None:
        """Return those of the region of a frame that a box lies on."""
        regions = [region for region in self._regions if region[0] == frame]
        if not regions:
            return None
        overlap = overlaps(as_boxes([box]), as_boxes([r[1] for r in regions]))[0]
        best = int(overlap.argmax())
        return regions[best][2:] if overlap[best] >= SAME else None

    def wants_frame(self, camera: str = '') -> bool:
        """Whether it is time for another frame without a label, and one of this camera will do."""
        # A frame full of things is no example of any one of them.
        regions_come = self._clock() - self._region_s.get(camera, -math.inf) < REGIONS_S
        return not regions_come and self._clock() >= self._next

    def put(self, frame: dict[str, Any]) -> None:
        """Take a frame without a label; it replaces one that still waits."""
        self._next, self._frame = self._clock() + UNLABELLED_PERIOD_S, frame

    def take(self) -> dict[str, Any] | None:
        """Return the frame that waits, with its feature, once that is there."""
        frame = self._frame
        if frame is None:
            return None
        backbone, feature = self._kept.get(frame['id'], ('', b''))
        if self._wanted and not feature:
            return None
        self._frame, self.passed_on = None, self.passed_on + 1
        return {**frame, 'backbone': backbone, 'feature': feature}
