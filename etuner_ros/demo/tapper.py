# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A scripted person who points at things, and how well the robot finds them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
import random

import numpy as np

from etuner_ros.core.boxes.geometry import as_boxes, Boxes, overlaps
from etuner_ros.core.boxes.readout import BACKGROUND

FOUND = 0.5  # overlap from which on an object is the thing
APART = 0.1  # overlap up to which an object is no thing at all
LEAST_SHARE = 0.3  # a thing of which less is visible is no fair question
RIGHT, UNKNOWN, WRONG, MISSED = 'right', 'unknown', 'wrong', 'missed'


@dataclass(frozen=True)
class Things:
    """What is in a frame, or said to be; n things."""

    boxes: Boxes = field(default_factory=lambda: as_boxes(()))  # (n, 4)
    labels: Sequence[str] = ()  # n; of what the robot says '' for unknown
    shares: Sequence[float] = ()  # n, visible; of the truth


@dataclass(frozen=True)
class Tap:
    """What the person says."""

    box: tuple[float, float, float, float]
    label: str
    drawn: bool  # by hand: the robot had found nothing there


@dataclass(frozen=True)
class Judged:
    """How well a frame was understood."""

    things: tuple[str, ...]  # what became of each fair thing: RIGHT, UNKNOWN, WRONG, MISSED
    kinds: tuple[str, ...]  # what each is
    false_names: int  # objects that have a name where no thing is

    def count(self, outcome: str) -> int:
        """Return how many things had this outcome."""
        return Counter(self.things)[outcome]


def judge(truth: Things, said: Things) -> Judged:
    """Compare what is said of a frame with what is in it."""
    pairs, nothing = _matched(truth, said)
    outcomes = []
    for i, j in pairs:
        if j is None:
            outcomes.append(MISSED)
        elif not said.labels[j]:
            outcomes.append(UNKNOWN)
        else:
            outcomes.append(RIGHT if said.labels[j] == truth.labels[i] else WRONG)
    false = sum(bool(said.labels[j]) for j in nothing)
    return Judged(tuple(outcomes), tuple(truth.labels[i] for i, _ in pairs), false)


def _matched(truth: Things, said: Things) -> tuple[list[tuple[int, int | None]], list[int]]:
    """Return each fair thing with the object that is it, if any, and the objects on nothing."""
    overlap = overlaps(truth.boxes, said.boxes)
    pairs: list[tuple[int, int | None]] = []
    for i, share in enumerate(truth.shares):
        if share >= LEAST_SHARE:
            best = int(overlap[i].argmax()) if len(said.labels) else 0
            found = overlap[i].max(initial=0.0) >= FOUND
            pairs.append((i, best if found else None))
    nothing = np.flatnonzero(overlap.max(axis=0, initial=0.0) < APART)
    return pairs, nothing.tolist()


class Tapper:
    """
    Points at one thing of a frame that the robot does not know, and names it; where the robot
    finds nothing, draws a box; of a name on nothing, says that it is no thing.

    :param gap_s: between two taps
    :param not_things: share of taps that are on what is no thing, where there is such
    """

    def __init__(self, gap_s: float = 1.0, not_things: float = 0.25, seed: int = 0) -> None:
        self._gap_s, self._not_things = gap_s, not_things
        self._random = random.Random(seed)
        self._next_s = -np.inf

    def look(self, now_s: float, truth: Things, said: Things) -> Tap | None:
        """
        Look at a frame; return what to say of it, if anything.

        :param now_s: steady time
        """
        if now_s < self._next_s:
            return None
        tap = self._choose(truth, said)
        if tap is not None:
            self._next_s = now_s + self._gap_s
        return tap

    def _choose(self, truth: Things, said: Things) -> Tap | None:
        pairs, nothing = _matched(truth, said)
        missed = [Tap(_box(truth.boxes[i]), truth.labels[i], True) for i, j in pairs if j is None]
        wrong = [
            Tap(_box(said.boxes[j]), truth.labels[i], False)
            for i, j in pairs
            if j is not None and said.labels[j] != truth.labels[i]
        ]
        false = [Tap(_box(said.boxes[j]), BACKGROUND, False) for j in nothing]
        if false and (self._random.random() < self._not_things or not (wrong or missed)):
            return self._random.choice(false)
        for some in (wrong, missed):
            if some:
                return self._random.choice(some)
        return None


class Answers:
    """How long it takes from the first word on a kind until one of it is named, once a kind."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._named: dict[str, float] = {}  # when, by kind
        self._found: set[str] = set()

    @property
    def median_s(self) -> float | None:
        """The median; None while nothing was found."""
        return float(np.median(self.seconds)) if self.seconds else None

    def on_tap(self, kind: str, now_s: float) -> None:
        """Note that somebody has named a thing of a kind."""
        self._named.setdefault(kind, now_s)

    def on_right(self, kind: str, now_s: float) -> None:
        """Note that the robot names a thing of a kind rightly."""
        if kind in self._named and kind not in self._found:
            self._found.add(kind)
            self.seconds.append(now_s - self._named[kind])


def _box(box: Boxes) -> tuple[float, float, float, float]:
    x, y, width, height = map(float, box)
    return x, y, width, height
