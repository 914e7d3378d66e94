# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How often a browser is sent pictures: as often as it can show them."""

from __future__ import annotations

from collections.abc import Callable
import time

MOST_WAIT_S = 2.0  # for a browser to say that a picture is shown: it may have had it already
LONGEST_WAIT_S = 20.0  # where pictures take longer: a new one takes the place of what is coming


class Pace:
    """
    Lets the next picture go once the last one is shown: over a weak radio there are fewer
    pictures then, not ever later ones, and what is pressed comes through between them.

    :param clock: returns seconds that only grow
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sent_s: float | None = None  # when the picture was sent that is not shown yet
        self._wait_s = MOST_WAIT_S

    @property
    def ready(self) -> bool:
        """Whether another picture may be sent."""
        return self._sent_s is None or self._clock() - self._sent_s > self._wait_s

    def sent(self) -> None:
        """Note that a picture is on its way."""
        if self._sent_s is not None:  # the last one did not come in time
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
        self._sent_s = self._clock()

    def shown(self) -> None:
        """Note that the browser shows it, or can not."""
        if self._sent_s is not None:
            took = self._clock() - self._sent_s
            self._wait_s = min(max(2 * took, MOST_WAIT_S), LONGEST_WAIT_S)
        self._sent_s = None
