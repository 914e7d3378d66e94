# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How old images are when they come: whether the clocks of a robot agree."""

from __future__ import annotations

from collections import deque
import statistics

MOST_AGE_S = 1.0  # beyond which clocks are taken to be apart
REMEMBERED = 30  # images


class ImageAge:
    """The age of the last images, by their stamps."""

    def __init__(self) -> None:
        self._ages_s: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, stamp_ns: int, now_ns: int) -> None:
        """
        An image came.

        :param now_ns: on the clock of the stamps; 0 while that does not run yet (no /clock), and
            nothing can be said of any age
        """
        if now_ns > 0:
            self._ages_s.append((now_ns - stamp_ns) / 1e9)

    @property
    def seconds(self) -> float:
        """The usual age; 0 when none is known."""
        return statistics.median(self._ages_s) if self._ages_s else 0.0

    def why_wrong(self) -> str:
        """Return what is wrong with the stamps; nothing when all is well."""
        age = self.seconds
        if abs(age) <= MOST_AGE_S:
            return ''
        when = f'{age:.1f} s old' if age > 0 else f'{-age:.1f} s ahead'
        return (
            f'images are {when} when they come: clocks are apart (set up chrony or PTP), '
            f'use_sim_time differs between nodes, or the camera driver queues them'
        )
