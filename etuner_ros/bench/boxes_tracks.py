# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things followed from frame to frame, as on the robot; their tracks may be learned from, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from etuner_ros.bench.boxes_methods import Shot
from etuner_ros.core.boxes.geometry import Floats, overlaps
from etuner_ros.core.boxes.tracker import Tracker, TrackerSettings

SAME = 0.5  # overlap from which on a proposal is the thing
WITHIN_S = 3.0  # before and after a label: later the track may have slipped to another thing


class Tracks:
    """
    The tracks of a stream.

    :param shots: frames, in order
    :ivar of: by frame the track of each proposal
    :ivar steadied: the frames, with what a robot names proposals by
    """

    def __init__(self, shots: Sequence[Shot], settings: TrackerSettings | None = None) -> None:
        tracker = Tracker(settings)
        self.of: dict[int, np.ndarray] = {}
        self.steadied: list[Shot] = []
        self._sightings: dict[tuple[int, int], list[tuple[int, float, Floats]]] = {}
        for shot in shots:
            tracks = tracker.follow(
                shot.stamp, shot.proposals, shot.proposal_scores, shot.proposed
            )
            self.of[shot.number] = tracks
            steady = tracker.steadied(tracks, shot.proposed)
            self.steadied.append(replace(shot, steadied=steady))
            for place in np.flatnonzero(tracks):
                sighting = shot.number, shot.stamp, shot.proposed[place]
                track = shot.visit, int(tracks[place])
                self._sightings.setdefault(track, []).append(sighting)

    def sightings(self, shot: Shot, place: int) -> Floats:
        """Return what else was seen of the track of a proposal near its frame, (n, D)."""
        track = shot.visit, int(self.of[shot.number][place])
        near = [
            feature
            for number, stamp, feature in self._sightings.get(track, [])
            if number != shot.number and abs(stamp - shot.stamp) <= WITHIN_S
        ]
        return np.stack(near) if near else shot.proposed[:0]


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


def purity(shots: Sequence[Shot], tracks: Tracks) -> Purity:
    """Compare tracks with the truth."""
    kinds: dict[int, list[str]] = {}
    for shot in shots:
        for place, track in enumerate(tracks.of[shot.number].tolist()):
            thing = thing_of(shot, place)
            if track and thing >= 0:
                kinds.setdefault(track, []).append(shot.names[thing])
    long = [names for names in kinds.values() if len(names) > 1]
    sightings = sum(len(names) for names in long)
    same = sum(max(names.count(n) for n in set(names)) for names in long)
    return Purity(len(long), sightings / max(len(long), 1), same / max(sightings, 1))
