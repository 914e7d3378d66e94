# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labels that were said and not answered yet: they are said again until they are."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
import math
import threading
import time
from typing import Generic, TypeVar

from etuner_ros.core.labels.desk import Code
from etuner_ros.core.labels.frame_buffer import FrameKey

AGAIN = (Code.TOO_MANY, Code.DISK_FULL)  # answers after which it is worth to say it again
MOST_WAITING = 1000
MOST_PATIENCE_S = 30.0
Item = TypeVar('Item')


@dataclass
class _Said(Generic[Item]):
    frame: FrameKey
    part: Hashable
    label: str
    item: Item
    patience_s: float  # after it was said the next time
    late: bool = False  # it was sent before, or nobody listened
    due_s: float = -math.inf


class Outbox(Generic[Item]):
    """
    Holds what somebody says of frames until a receipt has come.

    DDS forgets who is out of radio for longer than its lease (20 s as a rule), and what is
    published meanwhile reaches nobody. Threads may share an outbox.

    :param patience_s: so long a receipt is waited for at first, then twice as long each time, up
        to MOST_PATIENCE_S
    :param rate_hz: so many are said late at most, per second; a collector refuses too many
    :param clock: returns seconds that only grow
    :ivar forgotten: how many were given up without an answer: too many waited
    """

    def __init__(
        self,
        patience_s: float = 5.0,
        rate_hz: float = 8.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience_s, self._rate_hz, self._clock = patience_s, rate_hz, clock
        self.forgotten = 0
        self._lock = threading.Lock()
        self._said: list[_Said[Item]] = []
        self._late_s = -math.inf  # when something was said late the last time

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._said)

    def put(self, frame: FrameKey, part: Hashable, label: str, item: Item) -> None:
        """
        Take what is said of a part of a frame; it replaces what was said of the same before.

        :param part: of the frame, such as a box
        The oldest is forgotten when more than MOST_WAITING wait.
        """
        with self._lock:
            others = [s for s in self._said if (s.frame, s.part) != (frame, part)]
            waiting = [*others, _Said(frame, part, label, item, self._patience_s)]
            self._said = waiting[-MOST_WAITING:]
            self.forgotten += len(waiting) - len(self._said)

    def answered(self, frame: FrameKey, part: Hashable, label: str, code: int) -> bool:
        """
        Note a receipt; return whether it ends the wait of something.

        :param frame: as the receipt names it: the uid is 0 when it found no picture
        """
        with self._lock:
            for said in self._said:
                meant = frame.means(said.frame) or said.frame.means(frame)
                if meant and (said.part, said.label) == (part, label):
                    if code in AGAIN:
                        said.patience_s = self._patience_s
                        said.due_s = self._clock() + said.patience_s
                        return False
                    self._said.remove(said)
                    return True
        return False

    def due(self, listening: bool) -> list[Item]:
        """
        Return what is to be published now.

        :param listening: whether anybody hears it
        """
        with self._lock:
            now = self._clock()
            if not listening:
                for said in self._said:
                    said.late, said.due_s = True, min(said.due_s, now)
                    said.patience_s = self._patience_s  # its silence said nothing
                return []
            chosen = [s for s in self._said if not s.late]
            late = [s for s in self._said if s.late and s.due_s <= now]
            if late and now - self._late_s >= 1.0 / self._rate_hz:
                self._late_s = now
                # The longest due: many that nobody answers keep no other waiting.
                chosen.append(min(late, key=lambda said: said.due_s))
            for said in chosen:
                said.late, said.due_s = True, now + said.patience_s
                said.patience_s = max(said.patience_s, min(2 * said.patience_s, MOST_PATIENCE_S))
            return [s.item for s in chosen]
