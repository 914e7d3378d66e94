# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Large transfers at a rate, so that small messages find the radio free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import time

from etuner_ros.core.config import Checked, setting

TICK_S = 0.05  # what is sent at once takes so long at the rate: others wait no longer behind it
LEAST_PIECE = 4096  # bytes; less would be mostly headers


@dataclass(frozen=True)
class TransferSettings(Checked):
    """At which rate large things are sent."""

    transfer_mbit_s: float = setting(
        0.0,
        'rate of what is large and goes to other computers (backbones, base weights, pictures of '
        'labels), in Mbit/s; 0 = no limit',
        0.0,
        1e6,
    )


class RateLimit:
    """
    A token bucket that lends: what is sent may be larger than the bucket, the next one waits.

    :param mbit_s: rate in Mbit/s; 0 = no limit. May be set at any time
    :param clock: steady time in s
    """

    def __init__(self, mbit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.mbit_s = mbit_s
        self._clock = clock
        self._free_at = clock()  # when all that was sent is paid for

    @property
    def on(self) -> bool:
        """Whether there is a limit."""
        return self.mbit_s > 0

    @property
    def wait_s(self) -> float:
        """How long nothing may be sent, in s."""
        return max(0.0, self._free_at - self._clock()) if self.on else 0.0

    def piece(self, most: int) -> int:
        """
        Return how many bytes may be sent at once.

        :param most: that are wanted
        """
        if not self.on:
            return most
        return min(most, max(LEAST_PIECE, int(self.mbit_s * 1e6 / 8 * TICK_S)))

    def spend(self, size: int) -> float:
        """
        Note that something is sent, after what was noted before.

        :param size: in bytes
        :return: how long it has to wait, in s
        """
        wait = self.wait_s
        if self.on:
            self._free_at = self._clock() + wait + size / (self.mbit_s * 1e6 / 8)
        return wait
