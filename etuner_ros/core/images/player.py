# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plays a source of pictures: which one comes next, and whether any come at all."""

from __future__ import annotations

from collections.abc import Iterator

from etuner_ros.core.images.sources import Device, FrameSource, SourceFrame


class Player:
    """
    Plays, stops, starts again at the end.

    :param loop: at the end it starts again by itself
    """

    def __init__(self, source: FrameSource, loop: bool) -> None:
        self.wanted = False  # whether it is to play; not any more at its end
        self._source, self._loop = source, loop
        self._frames: Iterator[SourceFrame] = iter(())
        self._ended = True  # the next picture is the first one
        self._came = False  # pictures since it began; a source without any must not loop

    @property
    def lost(self) -> str:
        """Why a camera gives no pictures; empty while it does."""
        return self._source.lost if isinstance(self._source, Device) else ''

    @property
    def playing(self) -> bool:
        """Whether pictures come."""
        return self.wanted and not self.lost

    @property
    def state(self) -> str:
        """What it does, in words."""
        if not self.wanted:
            return 'stopped'
        return self.lost or 'playing'

    def play(self) -> None:
        """Go on where it was stopped; at the end, start again."""
        self.wanted = True

    def stop(self) -> None:
        """Stop before the next picture."""
        self.wanted = False

    def next(self) -> SourceFrame | None:
        """Return the next picture; None when there is none (now, when a camera is lost)."""
        if isinstance(self._source, Device):
            return self._source.newest()
        if self._ended:
            self._begin()
        frame = next(self._frames, None)
        if frame is None and self._loop and self._came:
            self._begin()
            frame = next(self._frames, None)
        self._came = self._came or frame is not None
        self._ended = frame is None
        self.wanted = self.wanted and not self._ended
        return frame

    def _begin(self) -> None:
        self._frames, self._came = iter(self._source), False

    def close(self) -> None:
        """Let go of a device, or of a file that is open where it stopped."""
        self._frames, self._ended = iter(()), True
        if isinstance(self._source, Device):
            self._source.close()
