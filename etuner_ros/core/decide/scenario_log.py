# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which scenario each camera was in, and when: so that a label that comes late is counted where its
frame was taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from etuner_ros.core.config import ScenarioConfig
from etuner_ros.core.decide.scenario import ScenarioDetector, Vector

MOST_VERSIONS = 1000


class ScenarioLog:
    """One detector per camera; scenarios are numbered over all cameras, from 0."""

    def __init__(self, config: ScenarioConfig | None = None) -> None:
        self._config = config or ScenarioConfig()
        self._detectors: dict[str, ScenarioDetector] = {}
        self._changes: dict[str, list[tuple[int, int]]] = {}
        self._offsets: dict[int, Vector] = {}  # of the appearance, by version of the weights
        self._versions: dict[str, int] = {}
        self.current = 0
        self.score = 0.0

    def on_version(self, version: int, parent: int, move: Sequence[float]) -> None:
        """
        Note how far the appearance of the same frames moved from one version to its child.

        :param move: of the `compressed` appearance; empty when it is the same
        """
        before, moved = self._offsets.get(parent, np.zeros(0)), np.asarray(move, np.float64)
        if before.size == moved.size:
            self._offsets[version] = before + moved
        else:  # one of the two is empty, or it is another network
            self._offsets[version] = moved if moved.size else before
        self._offsets.setdefault(parent, np.zeros(0))
        for old in sorted(self._offsets)[:-MOST_VERSIONS]:
            del self._offsets[old]

    def on_request(
        self, source: str, stamp_ns: int, appearance: Sequence[float], version: int = 0
    ) -> bool:
        """
        Take a request of a camera.

        :param version: of the weights; those that nothing is known of start the description of the
            scenario anew
        :return: True when its surroundings changed
        """
        detector = self._detectors.setdefault(source, ScenarioDetector(self._config))
        before = self._versions.setdefault(source, version)
        if before != version:
            self._versions[source] = version
            if version not in self._offsets or before not in self._offsets:
                detector.restart()
            elif not np.array_equal(self._offsets[version], self._offsets[before]):
                detector.on_swap()
        changed = detector.update(appearance, self._offset(version, len(appearance)))
        self.score = detector.score
        if changed:
            self.current += 1
            self._changes.setdefault(source, []).append((stamp_ns, self.current))
        return changed

    def _offset(self, version: int, size: int) -> Vector | None:
        offset = self._offsets.get(version)
        return offset if offset is not None and offset.size == size else None

    def at(self, source: str, stamp_ns: int) -> int:
        """Return the scenario of a camera at a time."""
        changes = self._changes.get(source, [])
        index = bisect_right(changes, stamp_ns, key=lambda c: c[0])
        return changes[index - 1][1] if index else 0
