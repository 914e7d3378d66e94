# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labelled samples that are kept for replay: a class-balanced reservoir, bounded in bytes."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from etuner_ros.core.images.codec import decode, encode_jpeg, Image

QUALITY = 95  # of replayed pictures; they are encoded once more than what the camera sent


@dataclass(frozen=True)
class Sample:
    """One labelled frame; `Sample.of` makes it from a picture."""

    sample_id: str
    label: str
    scenario: int
    jpeg: bytes  # of a square picture, already at the size of the network
    predicted: str = ''  # what the robot said when it saw the frame; empty when unknown

    @staticmethod
    def of(sample_id: str, label: str, scenario: int, image: Image, predicted: str = '') -> Sample:
        """Encode RGB uint8 (S, S, 3) of the network's size; at 128 px some 8 KB instead of 49."""
        return Sample(sample_id, label, scenario, encode_jpeg(image, QUALITY), predicted)

    @property
    def image(self) -> Image:
        """The picture, RGB uint8 (S, S, 3); decoded at each use."""
        return decode(self.jpeg)


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
    Keeps samples until `capacity_bytes` are full; then each newcomer displaces a random sample of
    the largest class.

    A sample with a known id replaces the old one: people correct their corrections.
    """

    def __init__(self, capacity_bytes: int, seed: int = 0) -> None:
        self.capacity_bytes = capacity_bytes
        self._rng = np.random.default_rng(seed)
        self._samples: dict[str, Sample] = {}
        self._by_label: dict[str, _Names] = defaultdict(_Names)
        self._by_scenario: dict[int, _Names] = defaultdict(_Names)
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
        while self._samples and self.bytes + len(sample.jpeg) > self.capacity_bytes:
            largest = max(self._by_label.values(), key=len)
            self.discard(largest[int(self._rng.integers(len(largest)))])
        self._samples[sample.sample_id] = sample
        self._by_label[sample.label].add(sample.sample_id)
        self._by_scenario[sample.scenario].add(sample.sample_id)
        self.bytes += len(sample.jpeg)

    def draw(
        self, count: int, rng: np.random.Generator, scenario: int, scenario_share: float
    ) -> list[Sample]:
        """
        Draw samples with replacement: a share from the current scenario, the rest with every class
        equally likely.

        :return: `count` samples, or none when the replay is empty
        """
        if not self._samples:
            return []
        here = self._by_scenario[scenario]
        near = int(round(count * scenario_share)) if len(here) else 0
        drawn: list[Sample] = []
        if near:
            drawn = [self._samples[here[int(i)]] for i in rng.integers(0, len(here), near)]
        labels = [ids for ids in self._by_label.values() if len(ids)]
        for index in rng.integers(0, len(labels), count - near):
            ids = labels[int(index)]
            drawn.append(self._samples[ids[int(rng.integers(len(ids)))]])
        return drawn
