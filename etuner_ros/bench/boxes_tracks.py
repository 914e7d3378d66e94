# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labels that speak for a track: the stream in order, followed as on the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from etuner_ros.bench.boxes_methods import Lesson, Shot, WithProposals
from etuner_ros.core.boxes.geometry import distinct, overlaps
from etuner_ros.core.boxes.track_labels import (
    Lesson as TrackLesson,
)
from etuner_ros.core.boxes.track_labels import (
    Sighting,
    TrackLabels,
    TrackLabelSettings,
)
from etuner_ros.core.boxes.tracker import Tracker, TrackerSettings
from etuner_ros.core.learn.region_head import Regions, RegionSettings
from etuner_ros.core.learn.within_class import WithinClass

SAME = 0.5  # overlap from which on a proposal is the thing
APART = 0.5  # overlap above which of two proposals the weaker one is not followed

Key = tuple[int, int]  # number of a frame, and the place of a proposal


def follow(
    shots: Sequence[Shot], settings: TrackerSettings | None = None
) -> dict[int, np.ndarray]:
    """Return by frame the track of each proposal; 0 for one that a better one covers."""
    tracker, found = Tracker(settings), {}
    for shot in shots:
        kept = distinct(shot.proposals, shot.proposal_scores, APART)
        tracks = np.zeros(len(shot.proposals), np.int64)
        tracks[kept] = tracker.update(shot.stamp, shot.proposals[kept], shot.proposed[kept])
        found[shot.number] = tracks
    return found


def thing_of(shot: Shot, place: int) -> int:
    """Return the thing that a proposal shows, -1 for none."""
    if not len(shot.boxes):
        return -1
    overlap = overlaps(shot.proposals[place][None], shot.boxes)[0]
    return int(overlap.argmax()) if overlap.max() >= SAME else -1


@dataclass(frozen=True)
class Purity:
    """How well tracks follow things."""

    tracks: int  # that show a thing in two frames or more
    frames: float  # of such a track, on average
    pure: float  # share of their sightings that show the kind which the track shows mostly


def purity(shots: Sequence[Shot], tracks: dict[int, np.ndarray]) -> Purity:
    """Compare tracks with the truth."""
    kinds: dict[int, list[str]] = {}
    for shot in shots:
        for place, track in enumerate(tracks[shot.number].tolist()):
            thing = thing_of(shot, place)
            if track and thing >= 0:
                kinds.setdefault(track, []).append(shot.names[thing])
    long = [names for names in kinds.values() if len(names) > 1]
    sightings = sum(len(names) for names in long)
    same = sum(max(names.count(n) for n in set(names)) for names in long)
    return Purity(len(long), sightings / max(len(long), 1), same / max(sightings, 1))


class OnTracks(WithProposals):
    """
    All of ours, each label of which speaks for its track.

    :param pool: all frames in which things are labelled, in order
    """

    def __init__(
        self,
        pool: Sequence[Shot],
        tracks: dict[int, np.ndarray],
        settings: RegionSettings | None = None,
        spreading: TrackLabelSettings | None = None,
        within: WithinClass | None = None,
    ) -> None:
        super().__init__(settings or RegionSettings(), within=within)
        self._tracks, self._pool = tracks, pool
        self._spreading = spreading

    def _frames(self, lessons: Sequence[Lesson]) -> list[Regions]:
        """Return what labels teach, and what they teach of their tracks."""
        frames = super()._frames(lessons)
        labels: TrackLabels[Key] = TrackLabels(self._spreading)
        for shot in self._pool:
            for place, track in enumerate(self._tracks[shot.number].tolist()):
                if track:
                    key = (shot.number, place)
                    labels.see(track, Sighting(key, shot.stamp, shot.proposed[place]))
        learned: dict[Key, TrackLesson[Key]] = {}
        for lesson in sorted(lessons, key=lambda x: x.shot.stamp):
            shot = lesson.shot
            for thing in lesson.taught:
                upon = overlaps(shot.boxes[thing][None], shot.proposals)[0]
                upon[self._tracks[shot.number] == 0] = 0.0
                place = int(upon.argmax()) if len(upon) else -1
                if place < 0 or upon[place] < SAME:
                    continue
                track = int(self._tracks[shot.number][place])
                for old in labels.withdraw(track):
                    learned.pop(old.sighting.key, None)
                for new in labels.label(
                    track, (shot.number, place), shot.stamp, shot.names[thing]
                ):
                    learned[new.sighting.key] = new
        if learned:
            found = list(learned.values())
            none = np.zeros((0, 4), np.float32)
            features = np.stack([x.sighting.feature for x in found])
            frames.append(
                Regions(
                    features,
                    [x.label for x in found],
                    np.array([x.weight for x in found], np.float32),
                    features[:0],
                    none,
                    none,
                )
            )
        return frames
