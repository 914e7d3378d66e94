# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which scenario a camera was in when a frame was taken."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from operator import itemgetter

from etuner_ros.core.labels.frame_buffer import FrameKey

MOST_SOURCES = MOST_CHANGES = 1000
LATE_NS = 5 * 10**9  # so much out of order a frame or a change may come


@dataclass
class _Run:
    """What is known of a camera since its stamps went back the last time."""

    newest_ns: int
    before: int = 0  # scenario at its begin
    changes: list[tuple[int, int]] = field(default_factory=list)  # stamp, scenario; sorted

    @property
    def current(self) -> int:
        return self.changes[-1][1] if self.changes else self.before


class ScenarioTimes:
    """
    Changes of scenario of each camera.

    Stamps that go back (a recording that starts again) begin a new list: the scenario stays, and
    changes of the time before say nothing of the frames to come.
    """

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def on_frame(self, source: str, stamp_ns: int) -> None:
        """Note the stamp of a frame."""
        run = self._runs.get(source)
        if run is None:
            if len(self._runs) < MOST_SOURCES:
                self._runs[source] = _Run(stamp_ns)
        elif stamp_ns < run.newest_ns - LATE_NS:
            self._runs[source] = _Run(stamp_ns, run.current)
        else:
            run.newest_ns = max(run.newest_ns, stamp_ns)

    def on_change(self, source: str, stamp_ns: int, scenario: int) -> None:
        """Note that a scenario began with the frame of this stamp."""
        self.on_frame(source, stamp_ns)
        if (run := self._runs.get(source)) is not None:
            run.changes.append((stamp_ns, scenario))
            run.changes.sort()
            del run.changes[:-MOST_CHANGES]

    def of(self, key: FrameKey) -> int:
        """Return the scenario of a frame."""
        run = self._runs.get(key.source)
        if run is None:
            return 0
        index = bisect_right(run.changes, key.stamp_ns, key=itemgetter(0))
        return run.changes[index - 1][1] if index else run.before
