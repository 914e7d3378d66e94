# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which frame, or which thing in one, people are asked about next."""

from __future__ import annotations

from collections import deque, OrderedDict
from collections.abc import Callable
import math
import time

import numpy as np
import numpy.typing as npt

from etuner_ros.core.config import LabelValueConfig
from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.labels.things import Seen, Things
from etuner_ros.core.labels.unknown_things import UnknownThings
from etuner_ros.core.labels.value import LabelValue

MOST_OPEN = 100  # requests whose frames are kept for their label
LATELY_S = 10.0  # so long after the last objects no whole frame of that camera is asked about
MOST_CAMERAS = 64  # of which it is remembered when their objects came


class LabelAsker:
    """
    Asks about a frame or a thing that people disagree about, else about a thing that the robot has
    no name for, else about the frame whose label is worth most, else, as long as no features come,
    about the one that the robot is least certain of.

    While objects of a camera come none of its whole frames is asked about: one with several things
    in it is no question.
    Frames that may be asked about or were, and have no label yet, are pinned in the buffer.
    """

    def __init__(
        self,
        buffer: FrameBuffer,
        store: LabelStore,
        config: LabelValueConfig | None = None,
        things: Things | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer, self._store, self._clock = buffer, store, clock
        self._unknown = UnknownThings(buffer, things or Things(store))
        self._objects_s: OrderedDict[str, float] = OrderedDict()  # when they came last, by camera
        self._value = LabelValue(config)
        self._open: deque[FrameKey] = deque(maxlen=MOST_OPEN)  # asked about and not labelled yet
        self._disputes: set[FrameKey] = set()  # that were asked about
        self._looked_at = 0  # frames of the buffer, when it was asked for the least certain one

    def offer(self, key: FrameKey, feature: npt.ArrayLike, backbone: str) -> None:
        """
        Look whether a frame is among those whose label would help most.

        :param feature: (D,), as the network that serves makes it
        :param backbone: digest of that network without its head
        :raises ValueError: when it is not finite
        """
        frame = self._buffer.get(key)
        if frame is None or self._store.find(frame.key) is not None:
            return
        if self._objects_come(frame.key.source):
            return
        confidence = min(max(frame.confidence, 0.0), 1.0)
        self._value.offer(frame.key, confidence, feature, backbone)
        self._pin()

    def _pin(self) -> None:
        self._buffer.pin({*self._value.keys, *self._open})

    def see(self, key: FrameKey, seen: Seen) -> None:
        """Note what the robot named in a frame that is kept."""
        if len(seen.boxes):
            if not self._objects_come(key.source):
                for whole in self._value.keys:
                    if isinstance(whole, FrameKey) and whole.source == key.source:
                        self._value.forget(whole)
            self._objects_s.pop(key.source, None)
            self._objects_s[key.source] = self._clock()
            while len(self._objects_s) > MOST_CAMERAS:
                self._objects_s.popitem(last=False)
        self._unknown.see(key, seen)

    def _objects_come(self, camera: str) -> bool:
        """Return whether objects of a camera came lately."""
        return self._clock() - self._objects_s.get(camera, -math.inf) < LATELY_S

    def know(self, feature: npt.ArrayLike, backbone: str) -> None:
        """Take a feature (D,) as spoken for: the model was deployed with its picture."""
        row = np.asarray(feature, np.float32)
        if row.size and np.isfinite(row).all():
            self._value.know(row, backbone)

    def note_labelled(self, key: FrameKey) -> None:
        """Note that a frame, or a thing in one, got a label, asked for or not."""
        if key.place is None:
            self._value.note_labelled(key)
        else:
            self._unknown.note_labelled(key)
        if key.whole in self._open:
            self._open.remove(key.whole)

    def new_scene(self) -> None:
        """Note that the surroundings changed."""
        self._value.new_scene()

    def next(self) -> tuple[Frame, str] | None:
        """
        Return the frame or the thing to ask about now and why; None when no label is worth the
        trouble.
        """
        found = self._disputed() or self._unknown_thing()
        return found or self._worth_most() or self._least_certain()

    def _disputed(self) -> tuple[Frame, str] | None:
        disputed = self._store.disputed()
        self._disputes &= set(disputed)  # one that is settled may be disputed again
        for key in disputed:
            frame = None if key in self._disputes else self._store.exact(key)
            if frame is not None:
                self._disputes.add(key)
                said = sorted(set(self._store.said(key).values()))
                return frame, f'people disagree: {" or ".join(said)}'
        return None

    def _unknown_thing(self) -> tuple[Frame, str] | None:
        thing = self._unknown.next()
        if thing is None:
            return None
        self._open.append(thing.key.whole)
        self._pin()
        return thing, 'a thing that the robot has no name for'

    def _worth_most(self) -> tuple[Frame, str] | None:
        for gone in [k for k in self._value.keys if k not in self._buffer]:
            self._value.forget(gone)  # the memory is full
        key = self._value.choose()
        frame = self._buffer.get(key) if isinstance(key, FrameKey) else None
        if frame is None:
            return None
        self._open.append(frame.key)
        return frame, 'stands for much of this scene, and no label speaks for it yet'

    def _least_certain(self) -> tuple[Frame, str] | None:
        frames = [
            frame
            for frame in self._buffer.since(self._looked_at)
            if not self._objects_come(frame.key.source)
        ]
        if self._value.keys or not frames:
            return None
        self._looked_at = self._buffer.added
        oddest = min(frames, key=lambda f: f.confidence)
        return oddest, f'least certain of the last {len(frames)} frames'
