# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""When the worker is started, how much it is sent at once, and when it is taken to hang."""

from __future__ import annotations

from collections.abc import Callable
import math
import time
from typing import Any, Protocol

CREDIT = 4_000_000  # bytes that may be on their way or wait in the worker
STEADY_S = 300.0  # after which a worker that still lives is taken to be sound
LONGEST_DELAY_S = 60.0
OPENING_S = 1800.0  # that a worker may take for its network at least: weights may be downloaded
Message = dict[str, Any]


class Client(Protocol):
    """A worker that was started."""

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message."""

    def close(self) -> None:
        """Kill it."""


def _size(value: Any) -> int:
    """Return the bytes of pictures, weights and features in a message."""
    if isinstance(value, (bytes, bytearray)):
        return len(value)
    inner = value.values() if isinstance(value, dict) else value
    return sum(map(_size, inner)) if isinstance(value, (dict, list, tuple)) else 0


class WorkerLink:
    """
    Keeps one worker running.

    :param start: starts a worker
    :param opening: returns the message that opens base weights of a file; '' = of the settings
    :param timeout_s: without any sign of life, after which a worker that owes an answer is killed
    :param delay_s: before a dead worker is started again; doubles while it dies again and has come
        to no candidate
    :param clock: monotonic time in s
    """

    def __init__(
        self,
        start: Callable[[], Client],
        opening: Callable[[str], Message],
        timeout_s: float = 300.0,
        delay_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start, self._opening, self._clock = start, opening, clock
        self.timeout_s, self.delay_s = timeout_s, delay_s
        self.client: Client | None = None
        self._serial = self._deaths = 0
        self._owed: dict[int, int] = {}  # bytes of messages that are not worked off, by serial
        self._heard = self._started = self._restart_at = math.inf
        self.base = ''  # file of the base weights that were opened last; '' = as in the settings
        self._opens = 0  # serial of the message that opens them

    def start(self, base: str = '') -> None:
        """
        Start a worker, in the place of any that runs.

        :raises OSError: when none can be started; it is tried again later
        """
        self.close()
        self._heard = self._started = self._clock()
        self._restart_at, self.base = math.inf, base
        try:
            self.client = self._start()
        except OSError:
            self.died()
            raise
        self.send(self._opening(base))
        self._opens = self._serial

    @property
    def has_credit(self) -> bool:
        """Whether more pictures may be sent now."""
        return self.client is not None and sum(self._owed.values()) < CREDIT

    def send(self, message: Message) -> None:
        """Send a message; it is lost where no worker runs."""
        if self.client is None:
            return
        if message['op'] != 'cancel':  # which is not worked off in turn
            if not self._owed:
                self._heard = self._clock()
            self._serial += 1
            message = {**message, 'serial': self._serial}
            self._owed[self._serial] = _size(message)
        self.client.send(message)

    def heard(self, message: dict[str, Any]) -> None:
        """Note a message of the worker: whatever it says, it goes on."""
        self._heard = self._clock()
        if message['op'] == 'taken':
            self._owed.pop(message['serial'], None)
        elif message['op'] == 'candidate' or self._clock() - self._started > STEADY_S:
            self._deaths = 0

    def died(self, least_delay_s: float = 0.0) -> None:
        """The worker is gone, or of no use: start another one later."""
        self.close()
        delay = self.delay_s * 2.0**self._deaths
        if self._deaths:
            delay = max(delay, 1.0)
        self._deaths = min(self._deaths + 1, 10)
        self._restart_at = self._clock() + min(max(delay, least_delay_s), LONGEST_DELAY_S)

    @property
    def patience_s(self) -> float:
        """How long the worker may be silent."""
        opens = self._opens in self._owed
        return max(self.timeout_s, OPENING_S) if opens else self.timeout_s

    @property
    def hangs(self) -> bool:
        """Whether the worker owes an answer and has given no sign of life for too long."""
        silent = self._clock() - self._heard > self.patience_s
        return self.client is not None and bool(self._owed) and silent

    def restart_if_due(self) -> bool:
        """Start a dead worker again when its time has come; return whether one was started."""
        if self._clock() < self._restart_at:
            return False
        self.start(self.base)
        return True

    def close(self) -> None:
        """Kill the worker, if one runs."""
        client, self.client = self.client, None
        self._owed.clear()
        if client is not None:
            client.close()
