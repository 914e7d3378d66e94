# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which predicted frames are kept for labelling."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Generic, TypeVar

from etuner_ros.core.images.side_thread import SideThread

Frame = TypeVar('Frame')
MOST_WAITING = 30  # kept frames that wait for their encoding
MOST_AFTER_ALL = 2  # kept frames of a camera in a row that were not wanted at first
SLACK = 0.1  # of a period that a frame may come early; cameras are not punctual


class FrameKeeper(Generic[Frame]):
    """
    Keeps so many frames of each camera per second, and encodes them off the hot path: that takes
    longer than a frame may wait.

    The rate counts from when frames come, not from their stamps, which may stand still.

    :param write: encodes and hands on one frame; called in a thread
    :param failed: told of what `write` raised
    :param clock: steady time in s
    """

    def __init__(
        self,
        write: Callable[[Frame], None],
        failed: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST_WAITING,
    ) -> None:
        self._clock = clock
        self._began = clock()
        self._due: dict[str, float] = {}  # when the next frame of a camera is wanted
        self._after_all: dict[str, int] = {}  # kept ones in a row, by camera
        self._side = SideThread('keeper', write, failed, most)

    def wants(self, rate_hz: float, camera: str = '') -> bool:
        """
        Return whether the frame that came now is kept; it then counts, and `keep` has to follow.

        :param rate_hz: frames of this camera per second; 0 = none
        """
        wanted = self._takes_turn(rate_hz, camera, SLACK)
        if wanted:
            self._after_all[camera] = 0
        return wanted

    def wants_after_all(self, rate_hz: float, camera: str = '') -> bool:
        """
        Return whether a frame that was not wanted is kept after all, as there is more to label in
        it; it takes the place of the next one of this camera, but never of all of them. Then
        `keep` has to follow.

        :param rate_hz: frames of this camera per second; 0 = none
        """
        row = self._after_all.get(camera, 0)
        wanted = row < MOST_AFTER_ALL and self._takes_turn(rate_hz, camera, 1.0 + SLACK)
        if wanted:
            self._after_all[camera] = row + 1
        return wanted

    def _takes_turn(self, rate_hz: float, camera: str, early: float) -> bool:
        """Return whether a frame may come so many periods early, and count it."""
        now, due = self._clock(), self._due.get(camera, self._began)
        if rate_hz <= 0:
            return False
        # The rate may have been a lower one before.
        due = self._due[camera] = min(due, now + (MOST_AFTER_ALL + 1) / rate_hz)
        if self._side.full or now < due - early / rate_hz:
            return False
        self._due[camera] = max(due, now - 1.0 / rate_hz) + 1.0 / rate_hz
        return True

    def keep(self, frame: Frame) -> None:
        """Keep a frame that was wanted."""
        self._side.give(frame)

    def close(self) -> None:
        """Write what waits, and end."""
        self._side.close()
