# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights that come piece by piece, and are asked for again until they are whole."""

from __future__ import annotations

from collections.abc import Callable
import time

from etuner_ros.core.models.weights import sha256

PIECE = 4 * 1024 * 1024  # bytes
LEAST_PIECE = 64 * 1024  # bytes; where not even these come in time, a link carries nothing
LARGEST = 4 * 1024**3  # bytes; a claim beyond this is not believed
ANSWER_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0


class BaseDownload:
    """
    When to ask for which piece.

    An answer is awaited for some seconds. After a failure it pauses, each time twice as long, and
    goes on where it was. A piece that does not come in time was too large for the link, perhaps:
    the next one is half of it.

    :param digest: what names them
    :param now: monotonic seconds
    :param named: whether they are named by the SHA-256 of the bytes that come
    :ivar length: of the piece to ask for, in bytes
    """

    def __init__(
        self, digest: str, now: Callable[[], float] = time.monotonic, named: bool = True
    ) -> None:
        self.digest, self.length = digest, PIECE
        self._now, self._named = now, named
        self._data = bytearray()
        self._asked: float | None = None  # when, while an answer is awaited
        self._pause, self._next = FIRST_PAUSE_S, now()
        self._heard = now()

    @property
    def waits(self) -> bool:
        """Whether an answer is awaited."""
        return self._asked is not None and self._now() - self._asked < ANSWER_S

    @property
    def due(self) -> bool:
        """Whether it is time for an attempt."""
        return not self.waits and self._now() >= self._next

    @property
    def quiet_s(self) -> float:
        """How long no piece has come, in s."""
        return self._now() - self._heard

    def ask(self) -> int | None:
        """Return where the piece to ask for now begins; None when it is not time to ask."""
        if not self.due:
            return None
        self._asked = self._now()
        return len(self._data)

    def fail(self) -> None:
        """Note that an attempt failed: there is a pause before the next."""
        if self._asked is not None and not self.waits:
            self.length = max(self.length // 2, LEAST_PIECE)
        self._asked = None
        self._next = self._now() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)

    def take(self, data: bytes, size: int) -> bytes | None:
        """
        Take a piece.

        :param size: of the whole file
        :return: the weights when they are whole
        :raises ValueError: when this can not be them; it begins anew
        """
        # Twice as much has to come in time, too.
        if self._asked is not None and self._now() - self._asked < ANSWER_S / 3:
            self.length = min(2 * self.length, PIECE)
        self._asked, self._heard = None, self._now()
        self._data += data
        if data and len(self._data) < size <= LARGEST:
            self._pause, self._next = FIRST_PAUSE_S, self._now()
            return None
        whole, self._data = bytes(self._data), bytearray()
        if whole and len(whole) == size and (not self._named or sha256(whole) == self.digest):
            return whole
        raise ValueError('the size or checksum of what arrived is wrong')
