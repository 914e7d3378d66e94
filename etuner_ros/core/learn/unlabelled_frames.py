# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that nobody labelled, kept to learn from: a bounded sample of each scenario."""

from __future__ import annotations

import numpy as np

from etuner_ros.core.learn.replay import Sample


class UnlabelledFrames:
    """
    Keeps at most so many frames; a newcomer displaces a random one of the scenario with the most.

    :param limit: frames, at least 1
    """

    def __init__(self, limit: int, seed: int = 0) -> None:
        self._limit, self._rng = limit, np.random.default_rng(seed)
        self._by_scenario: dict[int, dict[str, Sample]] = {}

    def __len__(self) -> int:
        """Return the number of frames."""
        return sum(len(frames) for frames in self._by_scenario.values())

    @property
    def samples(self) -> list[Sample]:
        """All frames, scenario by scenario, oldest first."""
        return [s for frames in self._by_scenario.values() for s in frames.values()]

    def add(self, sample: Sample) -> str:
        """Add a frame; return the id of the one that makes room for it, or an empty string."""
        self._by_scenario.setdefault(sample.scenario, {})[sample.sample_id] = sample
        gone = self.thin(self._limit)
        return gone[0] if gone else ''

    def thin(self, limit: int) -> list[str]:
        """Keep so many frames; return the ids of the others."""
        gone = []
        while len(self) > limit:
            most = max(self._by_scenario.values(), key=len)
            gone.append(list(most)[int(self._rng.integers(len(most)))])
            self.discard(gone[-1])
        return gone

    def discard(self, sample_id: str) -> None:
        """Drop a frame, if it is here: it was labelled."""
        for scenario, frames in list(self._by_scenario.items()):
            frames.pop(sample_id, None)
            if not frames:
                del self._by_scenario[scenario]
