# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Streams of labelled batches and inference requests on a virtual clock (etuner.md section 7).

A stream is made from pictures and a seed alone, so every method meets the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt

from etuner_ros.bench.datasets import Picture
from etuner_ros.core.errors import ConfigError

BATCH_GAP_S = 10.0  # mean virtual time between two labelled batches


@dataclass(frozen=True)
class Setting:
    """How a stream is made."""

    kind: str  # NI: new instances; NC: new classes; NIC: both
    scenarios: int = 5  # groups that NC and NIC make; NI has those of the pictures
    batch_size: int = 16
    batches: int = 4  # labelled batches of a scenario at most
    requests: int = 120  # inference requests of a scenario at most
    deployed: float = 0.5  # share of the first scenario's labelled pictures the model starts from
    arrivals: str = 'poisson'  # or uniform, normal, or the file of a trace


@dataclass(frozen=True)
class Event:
    """Something that arrives."""

    time: float  # virtual seconds
    scenario: int
    pictures: tuple[Picture, ...]
    labelled: bool  # a labelled batch, or a single request


@dataclass(frozen=True)
class Stream:
    """What a method meets."""

    events: tuple[Event, ...]
    deployment: tuple[Picture, ...]  # what the deployed model was fitted to
    borders: tuple[float, ...]  # when each scenario but the first begins
    tests: tuple[tuple[Picture, ...], ...]  # scored pictures by scenario
    names: tuple[str, ...]  # of the scenarios
    batch_size: int

    @property
    def end(self) -> float:
        """Virtual time of the last event."""
        return self.events[-1].time

    @property
    def batches(self) -> int:
        """Number of labelled batches."""
        return sum(e.labelled for e in self.events)

    @property
    def classes(self) -> list[str]:
        """All labels of the stream."""
        return sorted({p.label for e in self.events for p in e.pictures})


def arrivals(
    count: int, start: float, length: float, sort: str, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """
    Return `count` ascending times in [start, start + length).

    :param sort: 'poisson' (given its count, a Poisson process is uniform order statistics),
        'uniform' (even gaps), 'normal' (gaps of that law, deviation a quarter of the mean), or a
        text file of times, one a line, stretched to the length
    """
    if sort == 'poisson':
        inside = np.sort(rng.random(count))
    elif sort == 'uniform':
        inside = (np.arange(count) + 0.5) / max(count, 1)
    elif sort == 'normal':
        gaps = np.maximum(rng.normal(1.0, 0.25, count + 1), 1e-3)
        inside = np.cumsum(gaps)[:-1] / gaps.sum()
    else:
        try:
            trace = np.sort(np.loadtxt(sort, dtype=np.float64, ndmin=1))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"arrivals must be poisson, uniform, normal or a file of times, got '{sort}': "
                f'{error}'
            ) from error
        if len(trace) < 2 or trace[-1] <= trace[0]:
            raise ConfigError(f"the trace '{sort}' needs at least two different times")
        position = np.linspace(0, len(trace) - 1, count)
        inside = np.interp(position, np.arange(len(trace)), trace)
        inside = 0.999 * (inside - trace[0]) / (trace[-1] - trace[0])
    return np.asarray(start + length * inside, np.float64)


def make_stream(pictures: Sequence[Picture], setting: Setting, seed: int) -> Stream:
    """
    Make a stream.

    :raises ConfigError: when the pictures do not suffice
    """
    rng = np.random.default_rng(seed)
    names, groups = _groups(pictures, setting, rng)
    first = [p for p in groups[0] if p.labelled]
    kinds = {p.label for p in first}
    order = [first[int(i)] for i in rng.permutation(len(first))]
    # Every class of the first scenario is known at deployment.
    deployment = [next(p for p in order if p.label == kind) for kind in sorted(kinds)]
    taken = {p.name for p in deployment}
    rest = [p for p in order if p.name not in taken]
    wanted = max(0, round(setting.deployed * len(first)) - len(deployment))
    deployment += rest[:wanted]
    if len(kinds) < 2 or len(rest) <= wanted:
        raise ConfigError(
            f"the first scenario, '{names[0]}', holds {len(first)} labelled pictures of "
            f'{len(kinds)} classes: too few to deploy a model and to learn more'
        )
    taken = {p.name for p in deployment}
    events: list[Event] = []
    borders: list[float] = []
    tests: list[tuple[Picture, ...]] = []
    start = 0.0
    for number, group in enumerate(groups):
        labelled = [p for p in group if p.labelled and p.name not in taken]
        scored = [p for p in group if not p.labelled]
        labelled = [labelled[int(i)] for i in rng.permutation(len(labelled))]
        scored = [scored[int(i)] for i in rng.permutation(len(scored))]
        tests.append(tuple(scored))
        size = setting.batch_size
        count = min(setting.batches, math.ceil(len(labelled) / size))
        batches = [tuple(labelled[i * size : (i + 1) * size]) for i in range(count)]
        length = BATCH_GAP_S * max(count, 1)
        for time, batch in zip(arrivals(count, start, length, setting.arrivals, rng), batches):
            events.append(Event(float(time), number, batch, True))
        asked = scored[: setting.requests]
        times = arrivals(len(asked), start, length, setting.arrivals, rng)
        events += [Event(float(t), number, (p,), False) for t, p in zip(times, asked)]
        if number:
            borders.append(start)
        start += length
    events.sort(key=lambda e: e.time)
    return Stream(
        tuple(events), tuple(deployment), tuple(borders), tuple(tests), names, setting.batch_size
    )


def _groups(
    pictures: Sequence[Picture], setting: Setting, rng: np.random.Generator
) -> tuple[tuple[str, ...], list[list[Picture]]]:
    """Return the names and pictures of the scenarios, in order."""
    if setting.kind == 'NI' or len({p.scenario for p in pictures}) > 1:
        names = tuple(sorted({p.scenario for p in pictures}, key=_appearance(pictures)))
        return names, [[p for p in pictures if p.scenario == name] for name in names]
    if setting.kind == 'NC':
        keys = [p.label for p in pictures]
    elif setting.kind == 'NIC':
        keys = [p.product or p.label for p in pictures]
    else:
        raise ConfigError(f"the kind of a stream must be NI, NC or NIC, got '{setting.kind}'")
    unique = sorted(set(keys))
    if len(unique) < 2 * setting.scenarios:
        raise ConfigError(
            f'{len(unique)} groups of pictures can not make {setting.scenarios} scenarios of two '
            f'or more'
        )
    order = [unique[int(i)] for i in rng.permutation(len(unique))]
    place = {key: i % setting.scenarios for i, key in enumerate(order)}
    groups: list[list[Picture]] = [[] for _ in range(setting.scenarios)]
    for picture, key in zip(pictures, keys):
        groups[place[key]].append(picture)
    return tuple(f'group {i + 1}' for i in range(setting.scenarios)), groups


def _appearance(pictures: Sequence[Picture]) -> Callable[[str], str]:
    """Return the sort key of scenarios: as recorded where frames are numbered, else by name."""
    first: dict[str, str] = {}
    for picture in pictures:
        if picture.name.isdigit():
            first[picture.scenario] = min(first.get(picture.scenario, '~'), picture.name)
    return lambda name: first.get(name, name)
