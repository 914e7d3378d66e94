# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Predicted frames that can still be labelled: bounded in age and in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class FrameKey:
    """What names a frame."""

    source: str
    stamp_ns: int
    frame_id: str


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


class FrameBuffer:
    """
    Keeps the newest frames.

    :param max_age_s: frames older than the newest by more than this are forgotten
    :param max_bytes: the oldest make room when the encoded images take more
    """

    def __init__(self, max_age_s: float = 120.0, max_bytes: int = 256_000_000) -> None:
        self._max_age_ns, self._max_bytes = int(max_age_s * 1e9), max_bytes
        self._frames: OrderedDict[FrameKey, Frame] = OrderedDict()
        self.bytes = 0
        self.pinned: set[FrameKey] = set()  # under request: forgotten last, and never by age
        self.forgotten_ns = 0  # stamp of the newest frame that was forgotten

    def __len__(self) -> int:
        """Return the number of frames."""
        return len(self._frames)

    def __contains__(self, key: object) -> bool:
        """Return whether a frame is kept."""
        return key in self._frames

    def add(self, frame: Frame) -> None:
        """
        Keep a frame; old ones make room. A jump back in time (a recording that starts again)
        empties the buffer.
        """
        newest = (
            next(reversed(self._frames.values())).key.stamp_ns
            if self._frames
            else frame.key.stamp_ns
        )
        if frame.key.stamp_ns < newest - self._max_age_ns:
            self._frames.clear()
            self.bytes, self.forgotten_ns, newest = 0, 0, frame.key.stamp_ns
        old = self._frames.pop(frame.key, None)
        self.bytes += len(frame.image) - (len(old.image) if old else 0)
        self._frames[frame.key] = frame
        newest = max(newest, frame.key.stamp_ns)
        while self._frames:
            oldest = next((f for k, f in self._frames.items() if k not in self.pinned), None)
            if oldest is None:
                if self.bytes <= self._max_bytes:
                    break
                oldest = next(iter(self._frames.values()))
            if oldest.key.stamp_ns >= newest - self._max_age_ns and self.bytes <= self._max_bytes:
                break
            del self._frames[oldest.key]
            self.bytes -= len(oldest.image)
            self.forgotten_ns = max(self.forgotten_ns, oldest.key.stamp_ns)

    def __iter__(self) -> Iterator[FrameKey]:
        """Yield what names the frames, oldest first."""
        return iter(self._frames)

    def get(self, key: FrameKey) -> Frame | None:
        """Return a frame, or None when it is not there."""
        return self._frames.get(key)

    def since(self, stamp_ns: int) -> list[Frame]:
        """Return the frames with a later stamp, oldest first."""
        return [f for f in self._frames.values() if f.key.stamp_ns > stamp_ns]
