# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Joins what was found in an image with the image itself, by its stamp."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import time
from typing import Generic, TypeVar

Frame = TypeVar('Frame')
Found = TypeVar('Found')

MOST_BYTES = 256_000_000  # of frames of a camera
NEAR_NS = 50_000_000  # by which another frame may stand in: a thing hardly moves meanwhile


class Matcher(Generic[Frame, Found]):
    """
    Keeps frames of one camera for a moment, and finds the one that something was found in. What is
    found comes after its frame, as a detector takes its time, or just before it; newest wins.

    A frame that did not come, as a later one is there already, was left out: the camera is faster
    than what keeps its frames, or the detector has stamps of its own. Then the nearest one stands
    in.

    >>> matcher = Matcher[str, str](1.0)
    >>> matcher.frame(5, 'image'), matcher.found(5, 'boxes')
    (None, 'image')
    >>> matcher.found(6, 'more boxes'), matcher.frame(6, 'next image')
    (None, ('next image', 'more boxes'))

    :param wait_s: how long a frame is kept, by the clock
    :param clock: returns seconds that only grow
    :param size: of a frame, in bytes
    :param most_bytes: that frames may take; the newest one is kept at any size
    :ivar late: how often the frame was gone
    :ivar near: how often another frame stood in
    """

    def __init__(
        self,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[Frame], int] = lambda _: 0,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.wait_s, self._clock = wait_s, clock
        self._size, self._most_bytes = size, most_bytes
        self.late = self.near = 0
        self._frames: OrderedDict[int, tuple[float, Frame]] = OrderedDict()  # by stamp
        self._waiting: tuple[float, int, Found] | None = None  # the newest, without a frame yet

    def frame(self, stamp_ns: int, frame: Frame) -> tuple[Frame, Found] | None:
        """Keep a frame; return what waited for it, or for one that was left out, and its frame."""
        now = self._clock()
        self._frames.pop(stamp_ns, None)
        self._frames[stamp_ns] = now, frame
        self._forget(now)
        if self._waiting is None:
            return None
        since, wanted, found = self._waiting
        its = self._frame_of(wanted)
        if its is not None:
            self._waiting = None
            return its, found
        if now - since > self.wait_s:
            self._waiting = None
            self.late += 1
        return None

    def found(self, stamp_ns: int, found: Found) -> Frame | None:
        """Return the frame that something was found in; None while it is not there."""
        now = self._clock()
        self._forget(now)
        its = self._frame_of(stamp_ns)
        if its is None:
            if self._waiting is not None:
                self.late += 1
            self._waiting = now, stamp_ns, found
        return its

    def clear(self) -> None:
        """Keep no frames: nothing is found in them any more."""
        self._frames.clear()

    def _frame_of(self, stamp_ns: int) -> Frame | None:
        """Return the frame of a stamp or, once a later one is there, the nearest."""
        known = self._frames.get(stamp_ns)
        if known is not None:
            return known[1]
        if not self._frames or next(reversed(self._frames)) < stamp_ns:
            return None  # it may still come
        nearest = min(self._frames, key=lambda stamp: abs(stamp - stamp_ns))
        if abs(nearest - stamp_ns) > NEAR_NS:
            return None
        self.near += 1
        return self._frames[nearest][1]

    def _forget(self, now: float) -> None:
        size = sum(self._size(frame) for _, frame in self._frames.values())
        while self._frames:
            stamp, (since, frame) = next(iter(self._frames.items()))
            fits = size <= self._most_bytes or len(self._frames) == 1
            if fits and now - since <= self.wait_s:
                return
            size -= self._size(frame)
            del self._frames[stamp]
