# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""When labels that wait are handed out as a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
import math
import time

from etuner_ros.core.labels.records import Batch
from etuner_ros.core.labels.store import LabelStore

MOST_BATCHES, SOME_BATCHES = 256, 16  # in one piece, and when none is wanted in particular


class BatchMaker:
    """
    Numbers full batches at once, a smaller one when its oldest label has waited long enough.

    :param size: labels of a full batch
    :param timeout_s: how long a label waits at most
    :param clock: returns seconds that only grow
    """

    def __init__(
        self,
        store: LabelStore,
        size: int = 8,
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self.size, self.timeout_s, self._clock = store, size, timeout_s, clock
        self._oldest_s: float | None = None  # since when a label waits
        self._last = store.last_batch()  # that was handed out

    def hurry(self) -> None:
        """Let nothing that waits now wait for a full batch."""
        self._oldest_s = -math.inf

    def due(self) -> Iterator[int]:
        """
        Yield the batches that are to be handed out now.

        Those that another process numbered are among them: the last one of them, from which a
        receiver sees that it missed some.
        """
        now, waiting = self._clock(), self._store.waiting()
        if waiting and self._oldest_s is None:
            self._oldest_s = now
        partial = self._oldest_s is not None and now - self._oldest_s >= self.timeout_s
        while waiting >= self.size or (partial and waiting):
            if (batch := self._store.make_batch(self.size)) is None:
                break  # another process was faster
            self._last = batch
            yield batch
            waiting = self._store.waiting()
        if not waiting:
            self._oldest_s = None
        if (last := self._store.last_batch()) > self._last:
            self._last = last
            yield last

    def again(self, first: int, limit: int, most_bytes: int) -> list[tuple[int, Batch]]:
        """
        Return batches that were handed out already, from one on, with their numbers.

        :param limit: at most so many; 0 = some
        :param most_bytes: of pictures after which no further batch is begun
        """
        first, size = max(first, 1), 0
        end = first + min(limit or SOME_BATCHES, MOST_BATCHES)
        found: list[tuple[int, Batch]] = []
        for number in range(first, min(end, self._store.last_batch() + 1)):
            if size > most_bytes:
                break
            found.append((number, self._store.batch(number)))
            size += sum(len(s.image) for s in found[-1][1].samples)
        return found
