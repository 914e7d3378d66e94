# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled samples that are kept for replay: class-balanced, bounded in bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.sample import Sample


class _Names:
    """Sample ids of which one can be added, removed or picked by number at once, however many."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._places: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, number: int) -> str:
        return self._ids[number]

    def add(self, sample_id: str) -> None:
        self._places[sample_id] = len(self._ids)
        self._ids.append(sample_id)

    def remove(self, sample_id: str) -> None:
        place, last = self._places.pop(sample_id), self._ids.pop()
        if last != sample_id:  # the last one takes the empty place
            self._ids[place], self._places[last] = last, place


class Replay:
    """
    Keeps samples until `capacity_bytes` are full; then each newcomer displaces random samples of
    the largest class. So every newcomer is kept, and old samples fade: this is no reservoir, in
    which all that ever came have the same chance to be there.

    A sample with a known id replaces the old one: people correct their corrections.
    """

    def __init__(self, capacity_bytes: int, seed: int = 0) -> None:
        self.capacity_bytes = capacity_bytes
        self._rng = np.random.default_rng(seed)
        self._samples: dict[str, Sample] = {}
        self._by_label: dict[str, _Names] = defaultdict(_Names)
        self._by_scenario: dict[Scenario, _Names] = defaultdict(_Names)
        self.bytes = 0

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._samples)

    def __contains__(self, sample_id: str) -> bool:
        """Return whether a sample is kept."""
        return sample_id in self._samples

    @property
    def samples(self) -> list[Sample]:
        """All samples in order of arrival."""
        return list(self._samples.values())

    def counts(self) -> dict[str, int]:
        """Return the number of samples per label."""
        return {label: len(ids) for label, ids in self._by_label.items() if len(ids)}

    def discard(self, sample_id: str) -> None:
        """Forget a sample, if it is there."""
        sample = self._samples.pop(sample_id, None)
        if sample is not None:
            self._by_label[sample.label].remove(sample_id)
            self._by_scenario[sample.scenario].remove(sample_id)
            self.bytes -= len(sample.jpeg)

    def add(self, sample: Sample) -> None:
        """Keep a sample; others make room for it."""
        self.discard(sample.sample_id)
        self.shrink(self.capacity_bytes - len(sample.jpeg))
        self._samples[sample.sample_id] = sample
        self._by_label[sample.label].add(sample.sample_id)
        self._by_scenario[sample.scenario].add(sample.sample_id)
        self.bytes += len(sample.jpeg)

    def shrink(self, size: int) -> None:
        """Keep at most so many bytes."""
        while self._samples and self.bytes > size:
            largest = max(self._by_label.values(), key=len)
            self.discard(largest[int(self._rng.integers(len(largest)))])

    def get(self, sample_id: str) -> Sample | None:
        """Return a sample, if it is there."""
        return self._samples.get(sample_id)

    def draw(
        self,
        count: int,
        rng: np.random.Generator,
        current: Collection[Scenario],
        scenario_share: float,
    ) -> list[Sample]:
        """
        Draw samples with replacement: a share from the current scenarios, the rest with every
        class equally likely.

        :return: `count` samples, or none when the replay is empty
        """
        if not self._samples:
            return []
        groups = [
            self._by_scenario[s] for s in sorted(current) if len(self._by_scenario.get(s, ()))
        ]
        here = sum(len(group) for group in groups)
        near = int(round(count * scenario_share)) if here else 0
        drawn: list[Sample] = []
        for number in rng.integers(0, here, near) if near else ():
            place, rest = 0, int(number)
            while rest >= len(groups[place]):
                place, rest = place + 1, rest - len(groups[place])
            drawn.append(self._samples[groups[place][rest]])
        labels = [ids for ids in self._by_label.values() if len(ids)]
        for index in rng.integers(0, len(labels), count - near):
            ids = labels[int(index)]
            drawn.append(self._samples[ids[int(rng.integers(len(ids)))]])
        return drawn
