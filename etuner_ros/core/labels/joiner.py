# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Corrections that came before what they are about wait for it, a moment."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
import time
from typing import Generic, TypeVar

from etuner_ros.core.labels.frame_buffer import FrameBuffer, FrameKey
from etuner_ros.core.labels.store import LabelStore

MOST_WAITING = 1000
LATELY_S = 10.0  # so long after the last names others are waited for
MOST_RUNS = 64  # of cameras, each until a robot starts again
Item = TypeVar('Item')


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    since: float
    key: FrameKey
    item: Item
    thing: bool  # it is about a thing in the frame
    frame_is_there: bool  # so it waits for what the robot named in it


class Joiner(Generic[Item]):
    """
    Holds back what is about a frame that is still on its way, or about a thing in a frame of
    which the robot has not said yet what it takes its things for.

    :param wait_s: so long at most
    :param clock: returns seconds that only grow
    """

    def __init__(
        self,
        buffer: FrameBuffer,
        store: LabelStore,
        wait_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._buffer, self._store, self.wait_s, self._clock = buffer, store, wait_s, clock
        self._waiting: list[_Waiting[Item]] = []
        # By camera and run (the upper half of a uid): the newest frame whose things were named,
        # and when that was.
        self._named: OrderedDict[tuple[str, int], tuple[int, float]] = OrderedDict()

    def hold(self, key: FrameKey, item: Item, thing: bool = False) -> bool:
        """
        Hold an item back; return False when it has nothing to wait for, or too many wait.

        :param thing: it is about a thing in the frame
        """
        if self.wait_s <= 0 or len(self._waiting) >= MOST_WAITING:
            return False
        there = not self._on_its_way(key)
        if there and not (thing and self._names_come(key)):
            return False
        self._waiting.append(_Waiting(self._clock(), key, item, thing, there))
        return True

    def _on_its_way(self, key: FrameKey) -> bool:
        if self._buffer.get(key) is not None:
            return False
        if key.uid:
            return self._store.find(key) is None
        # Without a uid the store may know an older picture of this stamp only.
        return not self._buffer.forgotten(key)

    def _names_come(self, key: FrameKey) -> bool:
        """Return whether the robot names things for this camera, and of no later frame yet."""
        uid, at = self._named.get((key.source, key.uid >> 32), (key.uid, 0.0))
        return uid < key.uid and self._clock() - at <= LATELY_S

    def arrived(self, frame: FrameKey) -> list[Item]:
        """Return what waited for a frame, in order."""
        self._waiting = [
            replace(w, key=frame, frame_is_there=True)
            if not w.frame_is_there and w.key.means(frame)
            else w
            for w in self._waiting
        ]
        return self._complete()

    def named(self, frame: FrameKey) -> list[Item]:
        """Note that the robot has named the things in a frame; return, in order, what waited."""
        run = frame.source, frame.uid >> 32
        before, _ = self._named.pop(run, (0, 0.0))
        self._named[run] = max(frame.uid, before), self._clock()
        while len(self._named) > MOST_RUNS:
            self._named.popitem(last=False)
        return self._complete()

    def _complete(self) -> list[Item]:
        """Return, in order, what has nothing to wait for any more."""
        return self._take(lambda w: w.frame_is_there and not (w.thing and self._names_come(w.key)))

    def overdue(self) -> list[Item]:
        """Return what has waited long enough."""
        now = self._clock()
        return self._take(lambda w: now - w.since > self.wait_s)

    def _take(self, chosen: Callable[[_Waiting[Item]], bool]) -> list[Item]:
        found = [w for w in self._waiting if chosen(w)]
        if found:
            self._waiting = [w for w in self._waiting if not chosen(w)]
        return [w.item for w in found]
