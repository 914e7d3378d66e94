# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A label speaks for a whole track: what was seen of it before and after is learned, too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from etuner_ros.core.boxes.geometry import Floats

Key = TypeVar('Key', bound=Hashable)  # names a region: a frame and the place in it


@dataclass(frozen=True)
class TrackLabelSettings:
    """How much the rest of a track counts beside the region that was labelled."""

    weight: float = 0.5  # of a sighting next to the labelled one, which weighs 1
    half_life_s: float = 2.0  # after so long it weighs half as much: the track may have slipped
    least_weight: float = 0.05  # below it nothing is learned
    interval_s: float = 0.3  # between two sightings that are kept: the next frame shows no more
    most_tracks: int = 500  # that are remembered; the oldest go first
    most_sightings: int = 60  # of a track


@dataclass(frozen=True)
class Sighting(Generic[Key]):
    """A region of a track, as it was seen."""

    key: Key
    stamp: float  # of the image, in s
    feature: Floats  # (D,)


@dataclass(frozen=True)
class Lesson(Generic[Key]):
    """A sighting with the label that it is to be learned with."""

    sighting: Sighting[Key]
    label: str
    weight: float


@dataclass
class _Track(Generic[Key]):
    sightings: list[Sighting[Key]] = field(default_factory=list)
    asked: bool = False
    label: str = ''
    labelled_at: float = 0.0
    learned: dict[Key, Lesson[Key]] = field(default_factory=dict)


class TrackLabels(Generic[Key]):
    """
    Remembers what was seen of each track, and spreads labels over it.

    >>> labels = TrackLabels[int]()
    >>> _ = labels.see(1, Sighting(10, 0.0, np.zeros(2)))
    >>> _ = labels.see(1, Sighting(11, 0.5, np.zeros(2)))
    >>> [(x.sighting.key, round(x.weight, 2)) for x in labels.label(1, 11, 0.5, 'cup')]
    [(10, 0.42)]
    >>> labels.may_ask(1), [x.sighting.key for x in labels.withdraw(1)]
    (False, [10])
    """

    def __init__(self, settings: TrackLabelSettings | None = None) -> None:
        self.settings = settings or TrackLabelSettings()
        self._tracks: OrderedDict[int, _Track[Key]] = OrderedDict()

    def see(self, track: int, sighting: Sighting[Key]) -> list[Lesson[Key]]:
        """Note a region of a track; return what is to be learned of it: nothing, or itself."""
        known = self._track(track)
        last = known.sightings[-1].stamp if known.sightings else -np.inf
        if sighting.stamp - last < self.settings.interval_s:
            return []
        known.sightings.append(sighting)
        del known.sightings[: -self.settings.most_sightings]
        return self._learn(known, [sighting]) if known.label else []

    def label(self, track: int, key: Key, stamp: float, label: str) -> list[Lesson[Key]]:
        """
        Spread a label over its track.

        What an earlier label of this track taught is to be taken back first, by `withdraw`.

        :param key: of the region that was labelled, which is learned anyway and left out here
        :param stamp: of its image, in s
        :return: what is to be learned beside it
        """
        known = self._track(track)
        known.asked, known.label, known.labelled_at = True, label, stamp
        known.learned = {}
        return self._learn(known, [s for s in known.sightings if s.key != key])

    def withdraw(self, track: int) -> list[Lesson[Key]]:
        """Take the label of a track back; return what is to be unlearned."""
        known = self._tracks.get(track)
        if known is None:
            return []
        lessons, known.learned, known.label = list(known.learned.values()), {}, ''
        return lessons

    def may_ask(self, track: int) -> bool:
        """Whether nobody was asked about this track, and nobody named it."""
        known = self._tracks.get(track)
        return known is None or not known.asked

    def asked(self, track: int) -> None:
        """Note that somebody is asked about a track."""
        self._track(track).asked = True

    def _track(self, number: int) -> _Track[Key]:
        known = self._tracks.setdefault(number, _Track())
        self._tracks.move_to_end(number)
        while len(self._tracks) > self.settings.most_tracks:
            self._tracks.popitem(last=False)
        return known

    def _learn(self, track: _Track[Key], sightings: list[Sighting[Key]]) -> list[Lesson[Key]]:
        rules = self.settings
        lessons = []
        for sighting in sightings:
            passed = abs(sighting.stamp - track.labelled_at)
            weight = rules.weight * 0.5 ** (passed / rules.half_life_s)
            if weight >= rules.least_weight:
                lessons.append(Lesson(sighting, track.label, weight))
        track.learned.update((lesson.sighting.key, lesson) for lesson in lessons)
        return lessons
