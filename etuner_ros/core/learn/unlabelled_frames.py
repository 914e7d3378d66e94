# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that nobody labelled, kept to learn from: a bounded sample of the last scenarios."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.sample import Sample

CURRENT_SHARE = 0.5  # of the room, for the scenarios that cameras are in now
MOST_EARLIER = 8  # scenarios before them; older ones expire


class UnlabelledFrames:
    """
    Keeps at most so many frames: half of the room is for the current scenarios, the last earlier
    ones share the rest. Where one side leaves room the other takes it.

    :param limit: frames, at least 1
    """

    def __init__(self, limit: int, seed: int = 0) -> None:
        self._limit, self._rng = limit, np.random.default_rng(seed)
        self._by_scenario: dict[Scenario, dict[str, Sample]] = {}  # oldest scenario first
        self._current: frozenset[Scenario] = frozenset()

    def __len__(self) -> int:
        """Return the number of frames."""
        return sum(len(frames) for frames in self._by_scenario.values())

    @property
    def samples(self) -> list[Sample]:
        """All frames, scenario by scenario, oldest first."""
        return [s for frames in self._by_scenario.values() for s in frames.values()]

    def set_current(self, current: Collection[Scenario]) -> list[str]:
        """Note which scenarios cameras are in; return the ids of frames that expire."""
        self._current = frozenset(current)
        earlier = [s for s in self._by_scenario if s not in self._current]
        gone: list[str] = []
        for scenario in earlier[: max(len(earlier) - MOST_EARLIER, 0)]:
            gone += self._by_scenario.pop(scenario)
        return gone

    def add(self, sample: Sample) -> list[str]:
        """Add a frame; return the ids of those that make room for it."""
        self._by_scenario.setdefault(sample.scenario, {})[sample.sample_id] = sample
        gone: list[str] = []
        while len(self) > self._limit:
            gone.append(self._victim())
            self.discard(gone[-1])
        return gone

    def _victim(self) -> str:
        """Choose a random frame of the largest scenario of the side that has too many."""
        here = {s: f for s, f in self._by_scenario.items() if s in self._current}
        earlier = {s: f for s, f in self._by_scenario.items() if s not in self._current}
        count = sum(len(frames) for frames in here.values())
        side = here if not earlier or count > CURRENT_SHARE * self._limit else earlier
        most = max(side.values(), key=len)
        return list(most)[int(self._rng.integers(len(most)))]

    def keep_only(self, sample_ids: Collection[str]) -> list[str]:
        """Drop all frames but these; return the ids of the others."""
        gone = [s.sample_id for s in self.samples if s.sample_id not in sample_ids]
        for sample_id in gone:
            self.discard(sample_id)
        return gone

    def discard(self, sample_id: str) -> None:
        """Drop a frame, if it is here: it was labelled."""
        for scenario, frames in list(self._by_scenario.items()):
            frames.pop(sample_id, None)
            if not frames:
                del self._by_scenario[scenario]
