# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which scenario each camera was in, and when: so that a label that comes late is counted where its
frame was taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from etuner_ros.core.config import ScenarioConfig
from etuner_ros.core.scenario import ScenarioDetector


class ScenarioLog:
    """One detector per camera; scenarios are numbered over all cameras, from 0."""

    def __init__(self, config: ScenarioConfig | None = None) -> None:
        self._config = config or ScenarioConfig()
        self._detectors: dict[str, ScenarioDetector] = {}
        self._changes: dict[str, list[tuple[int, int]]] = {}
        self.current = 0
        self.score = 0.0

    def on_request(self, source: str, stamp_ns: int, appearance: Sequence[float]) -> bool:
        """
        Take a request of a camera.

        :return: True when its surroundings changed
        """
        detector = self._detectors.setdefault(source, ScenarioDetector(self._config))
        changed = detector.update(appearance)
        self.score = detector.score
        if changed:
            self.current += 1
            self._changes.setdefault(source, []).append((stamp_ns, self.current))
        return changed

    def at(self, source: str, stamp_ns: int) -> int:
        """Return the scenario of a camera at a time."""
        changes = self._changes.get(source, [])
        index = bisect_right(changes, stamp_ns, key=lambda c: c[0])
        return changes[index - 1][1] if index else 0
