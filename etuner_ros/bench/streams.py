# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Streams of labelled batches and inference requests on a virtual clock (etuner.md section 7).

A stream is made from pictures and a seed (and, in video order, from what a reference gets wrong),
so every method meets the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from etuner_ros.bench.datasets import Picture
from etuner_ros.core.errors import ConfigError

BATCH_GAP_S = 10.0  # mean virtual time between two labelled batches
HELD = 10  # every so-manyth frame of a video is tested on and never labelled
BURST = (4, 8)  # frames of a video that a person corrects in one go, from and to
ON_WRONG = 0.8  # share of these corrections that are made because the answer was wrong
AHEAD, NEAR = 300, 24  # frames: how far a burst waits for a wrong answer; from one to the next

# From labelled pictures and asked ones: whether a simple reference that knows the first answers
# each of the others wrongly.
Reference = Callable[[Sequence[Picture], Sequence[Picture]], Sequence[bool]]


LAWS = ('poisson', 'uniform', 'normal')  # of arrivals


@dataclass(frozen=True)
class Setting:
    """How a stream is made."""

    kind: str  # NI: new instances; NC: new classes; NIC: both
    scenarios: int = 5  # groups that NC and NIC make; NI has those of the pictures
    batch_size: int = 16
    batches: int = 4  # labelled batches of a visit at most
    requests: int = 120  # inference requests of a visit at most
    deployed: float = 0.5  # share of the first scenario's labelled pictures the model starts from
    arrivals: str = 'poisson'  # or uniform, normal, or the file of a trace
    visits: int = 1  # of each scenario; its pictures are parted between them
    wrong: float = 0.0  # share of the labels that name another class of the stream
    order: str = 'shuffled'  # or video: all frames as recorded, with the visits of the recording
    corrected: float = 0.01  # video: share of the frames that are labelled

    @property
    def trace(self) -> str:
        """The file of arrivals; empty where they are of a law."""
        return '' if self.arrivals in LAWS else self.arrivals


@dataclass(frozen=True)
class Event:
    """Something that arrives."""

    time: float  # virtual seconds
    scenario: int
    pictures: tuple[Picture, ...]  # of a labelled batch with the labels that were given
    labelled: bool  # a labelled batch, or a single request
    visit: int = 0


@dataclass(frozen=True)
class Stream:
    """What a method meets."""

    events: tuple[Event, ...]
    deployment: tuple[Picture, ...]  # what the deployed model was fitted to
    tests: tuple[tuple[Picture, ...], ...]  # scored pictures by scenario
    names: tuple[str, ...]  # of the scenarios
    batch_size: int
    visits: tuple[int, ...]  # scenario of each visit, in order
    starts: tuple[float, ...]  # when each visit begins

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


def make_stream(
    pictures: Sequence[Picture],
    setting: Setting,
    seed: int,
    wrong_for: Reference | None = None,
) -> Stream:
    """
    Make a stream.

    :param wrong_for: for video order: labels are given mostly where it says that a reference is
        wrong (see `nearest_mean`), without it anywhere
    :raises ConfigError: when the pictures do not suffice
    """
    rng = np.random.default_rng(seed)
    if setting.order == 'video':
        stream = _video(pictures, setting, rng, wrong_for)
    elif setting.order == 'shuffled':
        stream = _shuffled(pictures, setting, rng)
    else:
        raise ConfigError(
            f"the order of a stream must be shuffled or video, got '{setting.order}'"
        )
    if setting.wrong:
        # Drawn apart, so that the same stream with right labels differs in nothing else.
        other = np.random.default_rng((seed, 1))
        stream = replace(stream, events=_mislabelled(stream.events, setting.wrong, other))
    return stream


def _shuffled(pictures: Sequence[Picture], setting: Setting, rng: np.random.Generator) -> Stream:
    """Return a stream of the pictures of each scenario in random order."""
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
    if all(p.labelled for group in groups for p in group):
        raise ConfigError('there are no pictures to ask for: all are to be learned from')
    taken = {p.name for p in deployment}
    events: list[Event] = []
    starts: list[float] = []
    labelled: list[list[Picture]] = []  # by scenario
    scored: list[list[Picture]] = []
    visits = _visits(len(groups), setting.visits, rng)
    start = 0.0
    for visit, number in enumerate(visits):
        if number == len(scored):  # the first visit
            new = [p for p in groups[number] if p.labelled and p.name not in taken]
            asked = [p for p in groups[number] if not p.labelled]
            labelled.append([new[int(i)] for i in rng.permutation(len(new))])
            scored.append([asked[int(i)] for i in rng.permutation(len(asked))])
        turn = visits[:visit].count(number)
        new = _part(labelled[number], turn, setting.visits)
        asked = _part(scored[number], turn, setting.visits)[: setting.requests]
        size = setting.batch_size
        count = min(setting.batches, math.ceil(len(new) / size))
        batches = [tuple(new[i * size : (i + 1) * size]) for i in range(count)]
        length = BATCH_GAP_S * max(count, 1)
        for time, batch in zip(arrivals(count, start, length, setting.arrivals, rng), batches):
            events.append(Event(float(time), number, batch, True, visit))
        times = arrivals(len(asked), start, length, setting.arrivals, rng)
        events += [Event(float(t), number, (p,), False, visit) for t, p in zip(times, asked)]
        starts.append(start)
        start += length
    events.sort(key=lambda e: e.time)
    return Stream(
        tuple(events),
        tuple(deployment),
        tuple(map(tuple, scored)),
        names,
        setting.batch_size,
        tuple(visits),
        tuple(starts),
    )


def _visits(count: int, rounds: int, rng: np.random.Generator) -> list[int]:
    """Return the scenario of each visit: all in order, then all in another order, and so on."""
    visits = list(range(count))
    for _ in range(rounds - 1):
        again = rng.permutation(count)
        while count > 1 and again[0] == visits[-1]:  # that would be no return
            again = rng.permutation(count)
        visits += [int(i) for i in again]
    return visits


def _part(items: list[Picture], index: int, parts: int) -> list[Picture]:
    """Return one of equal parts."""
    return items[len(items) * index // parts : len(items) * (index + 1) // parts]


def _mislabelled(
    events: Sequence[Event], share: float, rng: np.random.Generator
) -> tuple[Event, ...]:
    """Return the events with a share of the labels turned into others of the stream."""
    classes = sorted({p.label for e in events for p in e.pictures})
    labels = sum(len(e.pictures) for e in events if e.labelled)
    wrong = set(rng.choice(labels, round(share * labels), replace=False).tolist())
    result, number = [], -1
    for event in events:
        given = []
        for picture in event.pictures if event.labelled else ():
            number += 1
            if number in wrong:
                others = [c for c in classes if c != picture.label]
                picture = replace(picture, label=others[int(rng.integers(len(others)))])
            given.append(picture)
        result.append(replace(event, pictures=tuple(given)) if given else event)
    return tuple(result)


def _video(
    pictures: Sequence[Picture],
    setting: Setting,
    rng: np.random.Generator,
    wrong_for: Reference | None,
) -> Stream:
    """
    Return a stream of all frames as recorded, each a request, but for those that are labelled.

    The model was fitted to how the first visit begins. Frames come evenly, at the rate at which
    batches are `BATCH_GAP_S` apart on average.
    """
    frames = sorted(pictures, key=lambda p: p.name)
    if not all(p.name.isdigit() for p in frames):
        raise ConfigError('video order needs a recording; these pictures are not numbered')
    names = tuple(dict.fromkeys(p.scenario for p in frames))
    begins = [i for i, p in enumerate(frames) if i == 0 or p.scenario != frames[i - 1].scenario]
    first = begins[1] if len(begins) > 1 else len(frames)
    known = round(setting.deployed * first)
    deployment, frames = frames[:known], frames[known:]
    if len({p.label for p in deployment}) < 2 or known >= first:
        raise ConfigError(
            f"the first visit, to '{names[0]}', holds {first} frames: too few to deploy a model "
            f'of two classes and to learn more'
        )
    begins = [0, *(i - known for i in begins[1:])]
    visit = (np.searchsorted(begins, np.arange(len(frames)), side='right') - 1).tolist()
    labels = _corrections(frames, deployment, setting.corrected, rng, wrong_for)
    period = BATCH_GAP_S * setting.corrected / setting.batch_size
    size = setting.batch_size
    events = []
    for batch in (labels[i : i + size] for i in range(0, len(labels), size)):
        last = batch[-1]
        pictures = tuple(frames[i] for i in batch)
        place = names.index(frames[last].scenario)
        events.append(Event(last * period, place, pictures, True, visit[last]))
    for i in sorted(set(range(len(frames))) - set(labels)):
        place = names.index(frames[i].scenario)
        events.append(Event(i * period, place, (frames[i],), False, visit[i]))
    events.sort(key=lambda e: e.time)
    tests = []
    for name in names:
        held = [p for p in frames[HELD - 1 :: HELD] if p.scenario == name]
        tests.append(tuple(held[int(i)] for i in rng.permutation(len(held))))
    starts = tuple(i * period for i in begins)
    visits = tuple(names.index(frames[i].scenario) for i in begins)
    return Stream(tuple(events), tuple(deployment), tuple(tests), names, size, visits, starts)


def _corrections(
    frames: Sequence[Picture],
    deployment: Sequence[Picture],
    share: float,
    rng: np.random.Generator,
    wrong_for: Reference | None,
) -> list[int]:
    """Return which frames are labelled, ascending: a few close together, then none for long."""
    bursts = max(1, round(share * len(frames) / (sum(BURST) / 2)))
    labels: list[int] = []
    free = 0  # the first frame that may still be labelled
    for start in np.sort(rng.integers(len(frames), size=bursts)).tolist():
        free = max(free, start)
        view = range(free, min(free + AHEAD, len(frames)))
        wrong = set(view)
        if wrong_for is not None and view:
            told = [*deployment, *(frames[i] for i in labels)]
            answers = wrong_for(told, [frames[i] for i in view])
            wrong = {i for i, missed in zip(view, answers) if missed}
        reach = AHEAD
        for _ in range(int(rng.integers(BURST[0], BURST[1] + 1))):
            open_ = [i for i in view if free <= i < free + reach and i % HELD != HELD - 1]
            if not open_:
                break
            wanted = [i for i in open_ if i in wrong] if rng.random() < ON_WRONG else []
            labels.append((wanted or open_)[0])
            free, reach = labels[-1] + int(rng.integers(1, 4)), NEAR
    return labels


def nearest_mean(
    features: Callable[[Sequence[Picture]], npt.NDArray[np.floating[Any]]],
) -> Reference:
    """
    Return a reference for `make_stream`: the nearest mean of a class, by angle.

    :param features: rows (n, D) of a network that does not change
    """

    def wrong_for(known: Sequence[Picture], asked: Sequence[Picture]) -> list[bool]:
        rows = np.asarray(features(known), np.float64)
        centre = rows.mean(axis=0)
        classes = sorted({p.label for p in known})
        number = np.array([classes.index(p.label) for p in known])
        means = np.stack([(rows[number == i] - centre).mean(axis=0) for i in range(len(classes))])
        means /= np.linalg.norm(means, axis=1, keepdims=True) + 1e-12
        said = ((np.asarray(features(asked), np.float64) - centre) @ means.T).argmax(axis=1)
        return [classes[int(i)] != p.label for i, p in zip(said, asked)]

    return wrong_for


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
