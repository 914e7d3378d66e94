# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How many labels a good choice of frames saves: the accuracy that random frames reach with 50, 100
and 200 labels, beside that of chosen ones with half as many; and what the frames add that nobody
labelled.

Frozen features and the instant head as launched, so that nothing but the choice differs. A frame
is looked at once, in order; the choice sees feature and confidence, never the truth. The head sees
labels only, or unlabelled frames of the stream, too, as many as the robot keeps.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
import math
import time

import numpy as np
import torch

from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.library import Library
from etuner_ros.bench.shipped import shipped
from etuner_ros.bench.streams import make_stream, Setting, Stream
from etuner_ros.core.config import INPUT_SIZE, LabelValueConfig
from etuner_ros.core.identity import Scenario
from etuner_ros.core.labels.value import LabelValue
from etuner_ros.core.learn import within_class
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.self_training import Unlabelled
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames

LABELS = (50, 100, 200)
SPARE = 1.25  # most labels of a scenario, in even shares
GOES = 3  # in which a person answers


@dataclass(frozen=True)
class Savings:
    """
    One seed: accuracies in [0, 1] by number of labels, from labels only and with unlabelled
    frames, and what choosing cost.
    """

    random: dict[int, tuple[float, float]]
    chosen: dict[int, tuple[float, float]]
    used: dict[int, int]  # labels that were asked for, of so many allowed
    ms_per_request: float


class _Learner:
    """A head on frozen features, as `ros2 launch` starts it."""

    def __init__(self, library: Library, stream: Stream) -> None:
        self.library, self.stream, self.recipe = library, stream, shipped().recipe
        self.within = None
        if self.recipe.head.within_class:
            self.within = within_class.shipped(library.architecture, library.model.state())
        self.known: list[Picture] = list(stream.deployment)
        self.scenes = [-1] * len(self.known)
        self.fit()

    def label(self, scene: int, pictures: Sequence[Picture]) -> None:
        """Learn labels of a scene."""
        self.known += pictures
        self.scenes += [scene] * len(pictures)
        self.fit()

    def rows(self, pictures: Sequence[Picture]) -> torch.Tensor:
        return self.library.features([self.library.samples[p.name] for p in pictures])

    def fit(self) -> None:
        size = self.rows(self.known[:1]).shape[1]
        self.head = InstantHead(size, self.recipe.head, self.within)
        self.head.rebuild(self.rows(self.known), [p.label for p in self.known])

    def fit_unlabelled(self, seed: int) -> None:
        """Learn from frames without a label, too."""
        kept = UnlabelledFrames(self.recipe.train.unlabelled_frames, seed)
        labelled: Set[str] = {p.name for p in self.known}
        for scene, pool in enumerate(pools(self.stream)):
            for picture in pool:
                if picture.name not in labelled:
                    kept.add(
                        replace(self.library.samples[picture.name], scenario=Scenario('', scene))
                    )
        frames = kept.samples
        self.head = InstantHead(self.head.features, self.recipe.head, self.within)
        self.head.rebuild(
            self.rows(self.known),
            [p.label for p in self.known],
            unlabelled=Unlabelled(
                self.library.features(frames), [f.scenario.number for f in frames], self.scenes
            ),
        )

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
) -> tuple[tuple[float, float], int, float]:
    """
    Label some frames of a stream.

    Random frames are evenly spread over the scenarios. Of chosen ones a scenario gets a quarter
    more at most, as known ones may get none; they are labelled as it goes, in three goes.

    :param labels: in all, at most
    :param config: None for random frames
    :return: the accuracies at the end, from labels only and with unlabelled frames; the labels
        used; the seconds of choosing
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
            learner.label(number, [pool[int(i)] for i in rng.permutation(len(pool))[:count]])
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
            named = [int(k) for k in asked if k is not None]  # type: ignore[call-overload]
            learner.label(number, [pool[k] for k in named])
            used += len(named)
    alone = learner.accuracy()
    learner.fit_unlabelled(seed)
    return (alone, learner.accuracy()), used, spent


def measure(
    pictures: Sequence[Picture],
    kind: str,
    seeds: int,
    size: int = INPUT_SIZE,
    config: LabelValueConfig | None = None,
) -> list[Savings]:
    """Compare on one set of pictures, with so many seeds."""
    torch.set_num_threads(1)  # matrices are small; another one would mostly wait
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
    """Return the comparison as text: means, and paired differences to random labels alone."""
    from etuner_ros.bench.table import interval

    lines = []
    for labels in LABELS:
        base = [s.random[labels][0] for s in found]

        def gain(accuracies: Sequence[float], base: Sequence[float] = base) -> str:
            points = [100 * (a - b) for a, b in zip(accuracies, base)]
            width = interval(points)  # of one seed there is none
            return f'{np.mean(points):+.1f}' + ('' if width is None else f' ± {width:.1f}')

        half = labels // 2
        used = np.mean([s.used[half] for s in found])
        lines.append(
            f'{name:12} random {labels:3}: {100 * np.mean(base):.1f} %   with unlabelled: '
            f'{gain([s.random[labels][1] for s in found])}   chosen {used:3.0f}: '
            f'{gain([s.chosen[half][0] for s in found])}, with unlabelled: '
            f'{gain([s.chosen[half][1] for s in found])}   chosen {labels:3}: '
            f'{gain([s.chosen[labels][0] for s in found])}, with unlabelled: '
            f'{gain([s.chosen[labels][1] for s in found])}'
        )
    cost = np.mean([s.ms_per_request for s in found])
    return '\n'.join([*lines, f'{name:12} choosing takes {cost:.1f} ms a request'])
