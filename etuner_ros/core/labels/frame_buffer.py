# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Predicted frames that can still be labelled: bounded in age and in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
import math
import time
from typing import NamedTuple

LARGEST_SIDE = 1_000_000  # px of an image; no picture format goes as far
MOST_SOURCES = 1000  # of which it is remembered what was forgotten


class Place(NamedTuple):
    """A box in an image, in whole px of the image as the camera has it."""

    x: int
    y: int
    width: int
    height: int
    image_width: int  # of that image: its stored picture may be smaller
    image_height: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The box alone."""
        return self[:4]

    @property
    def is_sound(self) -> bool:
        """Whether there can be such a box: in its image, but for a px of rounding."""
        return (
            self.x >= 0
            and self.y >= 0
            and self.width > 0
            and self.height > 0
            and self.x + self.width <= self.image_width + 1
            and self.y + self.height <= self.image_height + 1
            and max(self.image_width, self.image_height) <= LARGEST_SIDE
        )

    def __str__(self) -> str:
        """Return it as text, from which `of` makes it again."""
        return ','.join(map(str, self))

    @classmethod
    def of(cls, text: str) -> Place | None:
        """Return the place of a text; None for an empty one, which is the whole image."""
        return cls(*map(int, text.split(','))) if text else None


@dataclass(frozen=True)
class FrameKey:
    """What names a frame, or a thing in one."""

    source: str
    stamp_ns: int
    frame_id: str
    uid: int = 0  # names the very picture, also where stamps repeat; 0 = not known
    place: Place | None = None  # of the thing; None = the whole image

    @property
    def whole(self) -> FrameKey:
        """What names the frame that the thing is in."""
        return self if self.place is None else replace(self, place=None)

    @property
    def moment(self) -> tuple[str, int, str]:
        """What the camera says of the frame; repeats when a simulator starts again."""
        return self.source, self.stamp_ns, self.frame_id

    def means(self, frame: FrameKey) -> bool:
        """Return whether a frame may be meant by this key: without a uid any of its moment is."""
        return self.moment == frame.moment and self.uid in (0, frame.uid)


@dataclass(frozen=True)
class Frame:
    """A predicted frame."""

    key: FrameKey
    image: bytes  # encoded
    image_format: str
    label: str  # predicted
    confidence: float
    novelty: float
    model_version: int
    size: tuple[int, int] = (0, 0)  # width, height as the camera has it, in px; 0 = not known


@dataclass(frozen=True)
class _Kept:
    frame: Frame
    number: int  # in order of arrival
    arrived_s: float


class FrameBuffer:
    """
    Keeps the newest frames.

    Their age is counted from their arrival, not from their stamps: cameras stamp with different
    clocks, or with 0. While no frame comes none is forgotten.

    :param max_age_s: frames that came longer before the newest one than this are forgotten
    :param max_bytes: the oldest make room when the encoded images take more
    :param clock: returns seconds that only grow
    """

    def __init__(
        self,
        max_age_s: float = 120.0,
        max_bytes: int = 256_000_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_age_s, self._max_bytes, self._clock = max_age_s, max_bytes, clock
        self._frames: OrderedDict[FrameKey, _Kept] = OrderedDict()
        self._forgotten: OrderedDict[str, int] = OrderedDict()  # newest stamp, by source
        self._squeezed: OrderedDict[str, int] = OrderedDict()  # ... of those that made room
        # Of sources that started again: how many frames had come, and the newest stamp since.
        self._again: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self.bytes = 0
        self.added = 0  # frames ever
        self.pinned: set[FrameKey] = set()  # under request: forgotten last, and never by age

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._frames)

    def __contains__(self, key: object) -> bool:
        """Return whether a frame is kept."""
        return key in self._frames

    def __iter__(self) -> Iterator[FrameKey]:
        """Yield what names the frames, oldest first."""
        return iter(self._frames)

    def add(self, frame: Frame) -> None:
        """Keep a frame; old ones make room."""
        key, now = frame.key, self._clock()
        if key.stamp_ns < self._forgotten.get(key.source, key.stamp_ns):
            del self._forgotten[key.source]  # a recording or simulator that started again
            self._squeezed.pop(key.source, None)
            self._again[key.source] = (self.added, key.stamp_ns)
            while len(self._again) > MOST_SOURCES:
                self._again.popitem(last=False)
        elif again := self._again.get(key.source):
            self._again[key.source] = (again[0], max(again[1], key.stamp_ns))
        old = self._frames.pop(key, None)
        self.bytes += len(frame.image) - (len(old.frame.image) if old else 0)
        self.added += 1
        self._frames[key] = _Kept(frame, self.added, now)
        while self._frames:
            oldest = next((k for n, k in self._frames.items() if n not in self.pinned), None)
            if oldest is None:
                if self.bytes <= self._max_bytes:
                    break
                oldest = next(iter(self._frames.values()))
            if now - oldest.arrived_s <= self._max_age_s and self.bytes <= self._max_bytes:
                break
            self._forget(oldest, now - oldest.arrived_s <= self._max_age_s)

    def _forget(self, kept: _Kept, squeezed: bool) -> None:
        frame = kept.frame
        del self._frames[frame.key]
        self.bytes -= len(frame.image)
        source, stamp = frame.key.source, frame.key.stamp_ns
        earlier, newest = self._again.get(source, (0, 0))
        if kept.number <= earlier and stamp > newest:
            return  # of an earlier run: its stamps are still to come in this one
        for stamps in (self._forgotten, self._squeezed) if squeezed else (self._forgotten,):
            stamps[source] = max(stamps.pop(source, stamp), stamp)
            while len(stamps) > MOST_SOURCES:
                stamps.popitem(last=False)

    def pin(self, wanted: Collection[object]) -> None:
        """Pin frames, the newest first, as long as they take at most half of the memory."""
        self.pinned, size = set(), 0
        for key, kept in reversed(self._frames.items()):
            if key in wanted:
                size += len(kept.frame.image)
                if size > self._max_bytes / 2:
                    break
                self.pinned.add(key)

    def get(self, key: FrameKey) -> Frame | None:
        """Return a frame, or None when it is not there; without a uid the newest of its moment."""
        if key.uid:
            kept = self._frames.get(key)
        else:
            kept = next((k for n, k in reversed(self._frames.items()) if key.means(n)), None)
        return kept.frame if kept else None

    def age_s(self, key: FrameKey) -> float:
        """Return how long ago a frame came, in s; inf when it is not there."""
        kept = self._frames.get(key)
        return self._clock() - kept.arrived_s if kept else math.inf

    def forgotten(self, key: FrameKey) -> bool:
        """Return whether frames of this time or later were there, and made room."""
        return key.stamp_ns <= self._forgotten.get(key.source, key.stamp_ns - 1)

    def made_room(self, key: FrameKey) -> bool:
        """Return whether frames of this time or later made room before they were old."""
        return key.stamp_ns <= self._squeezed.get(key.source, key.stamp_ns - 1)

    def since(self, number: int) -> list[Frame]:
        """Return the frames that came after the first `number` ones (see `added`)."""
        return [k.frame for k in self._frames.values() if k.number > number]
