# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Corrections that came before their frame wait for it, a moment."""

from __future__ import annotations

from collections.abc import Callable
import time
from typing import Generic, TypeVar

from etuner_ros.core.labels.frame_buffer import FrameBuffer, FrameKey
from etuner_ros.core.labels.store import LabelStore

MOST_WAITING = 1000
Item = TypeVar('Item')


class Joiner(Generic[Item]):
    """
    Holds back what is about a frame that is still on its way.

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
        self._waiting: list[tuple[float, FrameKey, Item]] = []

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def hold(self, key: FrameKey, item: Item) -> bool:
        """Hold an item back; return False when it has nothing to wait for, or too many wait."""
        if self.wait_s <= 0 or len(self._waiting) >= MOST_WAITING or not self._on_its_way(key):
            return False
        self._waiting.append((self._clock(), key, item))
        return True

    def _on_its_way(self, key: FrameKey) -> bool:
        if self._buffer.get(key) is not None:
            return False
        if key.uid:
            return self._store.find(key) is None
        # Without a uid the store may know an older picture of this stamp only.
        return not self._buffer.forgotten(key)

    def arrived(self, frame: FrameKey) -> list[Item]:
        """Return what waited for a frame, in order."""
        return self._take(lambda since, key: key.means(frame))

    def overdue(self) -> list[Item]:
        """Return what has waited long enough."""
        now = self._clock()
        return self._take(lambda since, key: now - since > self.wait_s)

    def _take(self, chosen: Callable[[float, FrameKey], bool]) -> list[Item]:
        found = [w for w in self._waiting if chosen(w[0], w[1])]
        if found:
            self._waiting = [w for w in self._waiting if not chosen(w[0], w[1])]
        return [item for _, _, item in found]
