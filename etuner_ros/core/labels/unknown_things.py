# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things that the robot has no name for: each is asked about once, the strangest first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
import math

from etuner_ros.core.boxes.geometry import BoxError
from etuner_ros.core.errors import ImageError
from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey
from etuner_ros.core.labels.things import Seen, Things

MOST_WAITING = 200  # things that may be asked about
MOST_RUNS = 100
MOST_SETTLED = 2000  # things of which it is remembered that they were asked about or named
Track = tuple[str, int, int]  # camera, run of inference, number of the thing there


@dataclass(frozen=True)
class _Sight:
    """One view of a thing."""

    key: FrameKey
    box: tuple[float, ...]  # x, y, width, height in px
    known: float  # how known it looks: familiar where that is told, else how sure its name is
    told: bool
    version: int  # of the model that had no name for it last


class UnknownThings:
    """
    Chooses the thing to ask about.

    Of each thing the view is kept in which it is the strangest, as long as its frame is there. A
    thing that the version that serves now has not seen is not asked about: it may know it.

    :param buffer: of frames
    :param things: makes the picture of a thing
    """

    def __init__(self, buffer: FrameBuffer, things: Things) -> None:
        self._buffer, self._things = buffer, things
        self._waiting: OrderedDict[Track, _Sight] = OrderedDict()
        self._settled: OrderedDict[Track, None] = OrderedDict()
        self._version: OrderedDict[int, int] = OrderedDict()  # that serves, by run of inference

    def see(self, key: FrameKey, seen: Seen) -> None:
        """Note what the robot named in a frame that is kept."""
        self._things.see(key.uid, seen)
        self._note_version(key.uid >> 32, seen.version)
        familiar = seen.familiar or [math.nan] * len(seen.confidences)
        sights = zip(seen.boxes, familiar, seen.confidences, seen.unknown, seen.tracks)
        for box, likeness, confidence, unknown, number in sights:
            track = _track(key, number)
            if not unknown:
                self._waiting.pop(track, None)  # it has got a name meanwhile
                continue
            if not number or track in self._settled:
                continue
            # Of few classes one is always sure: what a thing is like says more, once that is told.
            told = not math.isnan(likeness)
            known = likeness if told else confidence
            sight = _Sight(key, tuple(float(v) for v in box), known, told, seen.version)
            before = self._waiting.get(track)
            there = before is not None and before.key in self._buffer
            if before is not None and there and before.told == told and before.known <= known:
                sight = replace(before, version=seen.version)
            self._waiting[track] = sight
            while len(self._waiting) > MOST_WAITING:
                self._waiting.popitem(last=False)

    def _note_version(self, run: int, version: int) -> None:
        self._version.pop(run, None)
        self._version[run] = version
        while len(self._version) > MOST_RUNS:
            self._version.popitem(last=False)

    def note_labelled(self, key: FrameKey) -> None:
        """Note that somebody named a thing: it needs no question in other frames either."""
        found = self._things.seen_at(key.uid, key.place.box) if key.place else None
        if found is not None and found[0].tracks:
            self._settle(_track(key, found[0].tracks[found[1]]))

    def next(self) -> Frame | None:
        """Return the thing to ask about now, with its picture; None when there is none."""
        for track, sight in sorted(self._waiting.items(), key=lambda one: one[1].known):
            if sight.version != self._version.get(track[1], sight.version):
                del self._waiting[track]  # it left the view; another version may know it
                continue
            frame = self._buffer.get(sight.key)
            if frame is None:
                continue  # still on its way, or gone; the thing may be seen again
            self._settle(track)
            try:
                return self._things.of(frame, sight.box)
            except (BoxError, ImageError):
                continue  # nothing that could be looked at
        return None

    def _settle(self, track: Track) -> None:
        self._waiting.pop(track, None)
        self._settled[track] = None
        while len(self._settled) > MOST_SETTLED:
            self._settled.popitem(last=False)


def _track(key: FrameKey, number: int) -> Track:
    """Return what names a thing: tracks are counted anew when inference starts again."""
    return key.source, key.uid >> 32, number
