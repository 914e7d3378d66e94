# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How soon changes of scenario are found, how many are missed, and how often there is none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
import statistics

import numpy as np

from etuner_ros.core.config import INPUT_SIZE, ScenarioConfig
from etuner_ros.core.decide.scenario import ScenarioDetector, Vector
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.models.networks import build, pretrained_spec

GROUPS = 5  # of kinds, one after the other, in a stream of new kinds
STRETCH = 150  # frames of a group at most
SOON = 60  # frames within which a change counts as found


@dataclass(frozen=True)
class Findings:
    """What the detector did on streams of one sort."""

    sort: str  # NI: other surroundings; NC: other kinds in the same surroundings
    frames: int
    changes: int
    delays: list[int]  # frames, of the changes that were found
    false_alarms: int

    def __str__(self) -> str:
        """Return a row of the table."""
        median = f'{statistics.median(self.delays):.0f}' if self.delays else '-'
        worst = f'{max(self.delays)}' if self.delays else '-'
        return (
            f'| {self.sort} | {self.frames} | {self.changes} | '
            f'{self.changes - len(self.delays)} | {median} | {worst} | '
            f'{1000 * self.false_alarms / self.frames:.2f} |'
        )


HEADER = (
    '| stream | frames | changes | missed | median delay, frames | longest | false alarms per '
    '1,000 frames |\n|---|---|---|---|---|---|---|'
)


def measure(
    stream: Path,
    size: int = INPUT_SIZE,
    seeds: int = 5,
    config: ScenarioConfig | None = None,
) -> list[Findings]:
    """
    Play labelled pictures in several orders to the detector, with the pretrained network.

    :param stream: recording with ground truth, or folder `<scenario>/<kind>/*.jpg`
    :raises ConfigError: when it holds fewer than ten kinds
    """
    frames = [f for f in open_source(str(stream)) if f.label]
    kinds = sorted({f.label for f in frames})
    if len(kinds) < 2 * GROUPS:
        raise ConfigError(f"'{stream}' holds {len(kinds)} kinds, at least {2 * GROUPS} are needed")
    model = build(pretrained_spec('efficientnet_lite0', size), 'pretrained')
    seen = [
        row
        for start in range(0, len(frames), 16)
        for row in model.appearance(
            model.tensor(resize_square(f.image, size) for f in frames[start : start + 16])
        )
        .double()
        .numpy()
    ]
    places = [f.scenario for f in frames]
    labels = [f.label for f in frames]
    found = [
        _play(
            'NC: other kinds in the same surroundings',
            seen,
            _new_kinds(places, labels, seeds),
            config,
        )
    ]
    if len(set(places)) > 1 and all(places):
        found.insert(0, _play('NI: other surroundings', seen, _new_places(places, seeds), config))
    return found


def _new_places(places: list[str], seeds: int) -> Iterator[list[list[int]]]:
    """Yield streams as stretches of frame numbers: the places in their order, shuffled within."""
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        yield [
            rng.permutation([i for i, p in enumerate(places) if p == place]).tolist()
            for place in dict.fromkeys(places)
        ]


def _new_kinds(places: list[str], labels: list[str], seeds: int) -> Iterator[list[list[int]]]:
    """Yield streams whose stretches hold one group of kinds after the other, of one place."""
    place = max(set(places), key=places.count)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        here = sorted({n for n, p in zip(labels, places) if p == place})
        order = rng.permutation(here).tolist()
        groups = [set(order[i::GROUPS]) for i in range(GROUPS)]
        yield [
            rng.permutation(
                [i for i, n in enumerate(labels) if n in group and places[i] == place]
            ).tolist()[:STRETCH]
            for group in groups
        ]


def _play(
    sort: str,
    seen: list[Vector],
    streams: Iterator[list[list[int]]],
    config: ScenarioConfig | None,
) -> Findings:
    frames = changes = false = 0
    delays: list[int] = []
    for stretches in streams:
        detector = ScenarioDetector(config)
        alarms = [
            at
            for at, number in enumerate(n for stretch in stretches for n in stretch)
            if detector.update(seen[number])
        ]
        borders = np.cumsum([len(s) for s in stretches])
        for border in borders[:-1]:
            after = [a - int(border) for a in alarms if 0 <= a - border < SOON]
            delays += after[:1]
        false += sum(not any(0 <= a - b < SOON for b in borders[:-1]) for a in alarms)
        frames += int(borders[-1])
        changes += len(stretches) - 1
    return Findings(sort, frames, changes, delays, false)
