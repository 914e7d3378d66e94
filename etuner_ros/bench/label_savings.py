# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How many labels a good choice of frames saves: the accuracy that random frames reach with 50, 100
and 200 labels, beside that of chosen ones with half as many.

Frozen features and the instant head, so that nothing but the choice differs. A frame is looked at
once, in order; the choice sees feature and confidence, never the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math
import time

import numpy as np
import torch

from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.simulate import Library
from etuner_ros.bench.streams import make_stream
from etuner_ros.bench.streams import Setting
from etuner_ros.bench.streams import Stream
from etuner_ros.core.config import LabelValueConfig
from etuner_ros.core.instant_head import InstantHead
from etuner_ros.core.label_value import LabelValue

LABELS = (50, 100, 200)
SPARE = 1.25  # most labels of a scenario, in even shares
GOES = 3  # in which a person answers


@dataclass(frozen=True)
class Savings:
    """One seed: accuracies in [0, 1] by number of labels, and what choosing cost."""

    random: dict[int, float]
    chosen: dict[int, float]
    used: dict[int, int]  # labels that were asked for, of so many allowed
    ms_per_request: float


class _Learner:
    """A head on frozen features."""

    def __init__(self, library: Library, stream: Stream) -> None:
        self.library, self.stream = library, stream
        self.known: list[Picture] = list(stream.deployment)
        self.fit()

    def rows(self, pictures: Sequence[Picture]) -> torch.Tensor:
        return self.library.features([self.library.samples[p.name] for p in pictures])

    def fit(self) -> None:
        self.head = InstantHead(self.rows(self.known[:1]).shape[1])
        self.head.rebuild(self.rows(self.known), [p.label for p in self.known])

    def accuracy(self) -> float:
        found = []
        for tests in self.stream.tests:
            best = self.head.logits(self.rows(tests)).argmax(dim=1).tolist()
            found.append(np.mean([self.head.classes[i] == p.label for i, p in zip(best, tests)]))
        return float(np.mean(found))


def pools(stream: Stream) -> list[list[Picture]]:
    """Return the frames of each scenario that may be labelled, in order."""
    found: list[list[Picture]] = [[] for _ in stream.tests]
    for event in stream.events:
        if event.labelled:
            found[event.scenario] += event.pictures
    return found


def run(
    library: Library, stream: Stream, labels: int, config: LabelValueConfig | None, seed: int
) -> tuple[float, int, float]:
    """
    Label some frames of a stream.

    Random frames are evenly spread over the scenarios. Of chosen ones a scenario gets a quarter
    more at most, as known ones may get none; they are labelled as it goes, in three goes.

    :param labels: in all, at most
    :param config: None for random frames
    :return: the accuracy at the end, the labels used, the seconds of choosing
    """
    learner, rng, spent, used = _Learner(library, stream), np.random.default_rng(seed), 0.0, 0
    places = pools(stream)
    chooser = LabelValue(config, seed)
    if config is not None:
        for row in learner.rows(stream.deployment).numpy():
            chooser.know(row)
    for number, pool in enumerate(places):
        if config is None:
            count = labels // len(places) + (number < labels % len(places))
            learner.known += [pool[int(i)] for i in rng.permutation(len(pool))[:count]]
            learner.fit()
            used += count
            continue
        allowed = min(math.ceil(labels * SPARE / len(places)), labels - used)
        chooser.new_scene()
        for go in range(GOES):
            part = range(len(pool) * go // GOES, len(pool) * (go + 1) // GOES)
            rows = learner.rows([pool[i] for i in part])
            sure = torch.softmax(learner.head.logits(rows), dim=1).amax(dim=1).tolist()
            began = time.perf_counter()
            for place, row, confidence in zip(part, rows.numpy(), sure):
                chooser.offer(place, min(confidence, 1.0), row)
            asked = [
                chooser.choose() for _ in range(allowed * go // GOES, allowed * (go + 1) // GOES)
            ]
            spent += time.perf_counter() - began
            learner.known += [pool[int(k)] for k in asked if k is not None]  # type: ignore[call-overload]
            used += sum(k is not None for k in asked)
            learner.fit()
    return learner.accuracy(), used, spent


def measure(
    pictures: Sequence[Picture],
    kind: str,
    seeds: int,
    size: int = 112,
    config: LabelValueConfig | None = None,
) -> list[Savings]:
    """Compare on one set of pictures, with so many seeds."""
    library = Library(pictures, 'efficientnet_lite0', size)
    found = []
    for seed in range(seeds):
        setting = Setting(kind, batches=1000, requests=0)
        stream = make_stream(library.pictures, setting, seed)
        random, chosen, used, spent = {}, {}, {}, 0.0
        for labels in LABELS:
            random[labels], _, _ = run(library, stream, labels, None, seed)
            for count in (labels // 2, labels):
                chosen[count], used[count], seconds = run(
                    library, stream, count, config or LabelValueConfig(count=10000), seed
                )
                spent = max(spent, seconds)
        found.append(Savings(random, chosen, used, 1e3 * spent / max(used.values())))
    return found


def table(name: str, found: Sequence[Savings]) -> str:
    """Return the comparison as text: means, and the paired difference with half the labels."""
    from etuner_ros.bench.table import interval

    lines = []
    for labels in LABELS:
        gain = [100 * (s.chosen[labels // 2] - s.random[labels]) for s in found]
        same = [100 * (s.chosen[labels] - s.random[labels]) for s in found]
        random = np.mean([100 * s.random[labels] for s in found])
        half = np.mean([100 * s.chosen[labels // 2] for s in found])
        used = np.mean([s.used[labels // 2] for s in found])
        lines.append(
            f'{name:12} random {labels:3}: {random:.1f} %   chosen {used:3.0f}: {half:.1f} % '
            f'({np.mean(gain):+.1f} ± {interval(gain):.1f})   chosen {labels:3}: '
            f'{np.mean(same):+.1f} ± {interval(same):.1f}'
        )
    cost = np.mean([s.ms_per_request for s in found])
    return '\n'.join([*lines, f'{name:12} choosing takes {cost:.1f} ms a request'])
