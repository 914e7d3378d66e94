# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Joins what was found in an image with the image itself, by its stamp."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
import time
from typing import Generic, TypeVar

Frame = TypeVar('Frame')
Found = TypeVar('Found')

MOST_BYTES = 256_000_000  # of frames of a camera
NEAR_NS = 50_000_000  # by which another frame may stand in: a thing hardly moves meanwhile


@dataclass
class _Kept(Generic[Frame]):
    since: float  # s, by the clock
    frame: Frame
    met: bool = False  # something was found in it, or it stood in


class Matcher(Generic[Frame, Found]):
    """
    Keeps frames of one camera for a moment, and finds the one that something was found in. What is
    found comes after its frame, as a detector takes its time, or just before it; newest wins.

    A frame that did not come, as a later one is there already, was left out: the camera is faster
    than what keeps its frames, or the detector has stamps of its own. Then the nearest one stands
    in, once, unless something was found in it anyway.

    >>> matcher = Matcher[str, str](1.0)
    >>> matcher.frame(5, 'image'), matcher.found(5, 'boxes')
    (None, 'image')
    >>> matcher.found(6, 'more boxes'), matcher.frame(6, 'next image')
    (None, ('next image', 'more boxes'))

    :param wait_s: how long a frame is kept, by the clock
    :param clock: returns seconds that only grow
    :param size: of a frame, in bytes
    :param most_bytes: that frames may take; the newest one is kept at any size
    :ivar late: how often the frame was gone, or did not come
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
        self._frames: OrderedDict[int, _Kept[Frame]] = OrderedDict()  # by stamp
        # The newest without a frame yet: when it came, its stamp.
        self._waiting: tuple[float, int, Found] | None = None
        self._unmet_since = 0.0  # when the first came of those that waited one after the other
        self._last_ns = self._step_ns = 0  # stamp of what was found last, and from the one before

    def frame(self, stamp_ns: int, frame: Frame) -> tuple[Frame, Found] | None:
        """Keep a frame; return what waited for it, or for one that was left out, and its frame."""
        now = self._clock()
        self._frames.pop(stamp_ns, None)
        self._frames[stamp_ns] = _Kept(now, frame)
        self._forget(now)
        if self._waiting is None:
            return None
        since, wanted, found = self._waiting
        if now - since > self.wait_s:
            self._waiting = None
            self.late += 1
            return None
        its = self._meet(wanted)
        if its is not None:
            return its, found
        if not self._may_come(wanted):
            self._waiting = None
            self._give_up(wanted)
        return None

    def found(self, stamp_ns: int, found: Found) -> Frame | None:
        """Return the frame that something was found in; None while it is not there."""
        now = self._clock()
        self._forget(now)
        self._step_ns, self._last_ns = stamp_ns - self._last_ns, stamp_ns
        its = self._meet(stamp_ns)
        if its is not None:
            return its
        if not self._may_come(stamp_ns):
            self._give_up(stamp_ns)
            return None
        if self._waiting is None:
            self._unmet_since = now
        elif now - self._unmet_since > self.wait_s:
            self.late += 1  # nor did those before it find a frame
        self._waiting = now, stamp_ns, found
        return None

    def clear(self) -> None:
        """Keep nothing: nothing is found in frames any more."""
        self._frames.clear()
        self._waiting = None

    def _meet(self, stamp_ns: int) -> Frame | None:
        """Return the frame of a stamp or, where that was left out, the nearest that is free."""
        kept = self._frames.get(stamp_ns)
        if kept is None:
            nearest = self._nearest(stamp_ns)
            if nearest is None or self._frames[nearest].met:
                return None
            # What is found next is perhaps of that very frame.
            next_ns = stamp_ns + max(self._step_ns, 0)
            if abs(nearest - next_ns) < abs(nearest - stamp_ns):
                return None
            kept = self._frames[nearest]
            self.near += 1
        kept.met = True
        if self._waiting is not None and self._waiting[1] <= stamp_ns:
            self._waiting = None  # newest wins
        return kept.frame

    def _give_up(self, stamp_ns: int) -> None:
        """Note that the frame of a stamp was left out, or is gone."""
        if self._nearest(stamp_ns) is None:
            self.late += 1

    def _may_come(self, stamp_ns: int) -> bool:
        return not self._frames or next(reversed(self._frames)) < stamp_ns

    def _nearest(self, stamp_ns: int) -> int | None:
        """Return the frame that is near enough to one that does not come any more, if any."""
        if self._may_come(stamp_ns):
            return None
        nearest = min(self._frames, key=lambda stamp: abs(stamp - stamp_ns))
        return nearest if abs(nearest - stamp_ns) <= NEAR_NS else None

    def _forget(self, now: float) -> None:
        size = sum(self._size(kept.frame) for kept in self._frames.values())
        while self._frames:
            stamp, kept = next(iter(self._frames.items()))
            fits = size <= self._most_bytes or len(self._frames) == 1
            if fits and now - kept.since <= self.wait_s:
                return
            size -= self._size(kept.frame)
            del self._frames[stamp]
