# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The same thing in one frame after the other: boxes followed by overlap and by look."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from etuner_ros.core.boxes.geometry import Boxes, centres, distinct, Floats, overlaps

_SMOOTHING = 0.5  # share of the newest step in the velocity of a track
_STEADY_S = 2.0  # so long what was seen of a thing counts in what it is taken for ...
_STEADY = 0.5  # ... by this share
_MOST_LOOKS = 30  # of a thing that are kept
_STEPS = 9  # from frame to frame, of which the middle one is the usual
_LEAST_STEPS = 3  # that tell it
# Of the usual step: in a shorter one boxes move by what detectors are off, which is no velocity.
_LEAST_STEP = 0.5
_MOST_MISSED = 5  # looks in a row at frames of one and the same stamp, which tells no time
_LONGEST_STEP_S = 2.0  # a longer one is a pause: nothing was there, perhaps


@dataclass(frozen=True)
class TrackerSettings:
    """When two boxes show the same thing."""

    least_overlap: float = 0.2  # intersection over union with where the thing is expected
    least_likeness: float = 0.5  # cosine of features, from what all regions have in common
    look: float = 0.5  # share of the likeness in what tells pairs apart; the rest is the overlap
    # A thing that was not seen for so long is another one: at least so many s, and so many usual
    # steps from one frame to the next, as a slow detector sees nothing in between.
    patience_s: float = 0.7
    patience_steps: float = 2.5
    most_overlap: float = 0.5  # of two regions; above it they show one thing


@dataclass
class _Track:
    number: int
    box: Boxes  # (4,)
    feature: Floats  # (D,)
    velocity: Floats  # (2,), px/s
    stamp: float
    # When it was seen lately, the newest last, and its features (D,).
    looks: deque[tuple[float, Floats]] = field(default_factory=lambda: deque(maxlen=_MOST_LOOKS))
    missed: int = 0  # frames of its own stamp in which it was not seen

    def at(self, stamp: float) -> Boxes:
        """Return where it is expected, (4,)."""
        step = (stamp - self.stamp) * self.velocity
        return np.concatenate([self.box[:2] + step, self.box[2:]], dtype=np.float32)


class Tracker:
    """
    Gives regions of one camera numbers that stay with their things; they count from 1.

    Pairs are taken best first. A thing is expected where its own motion takes it, a new one where
    that of all others would, as it is mostly the camera that moves.
    """

    def __init__(self, settings: TrackerSettings | None = None) -> None:
        self.settings = settings or TrackerSettings()
        self._tracks: list[_Track] = []
        self._last = 0
        self._common: Floats = np.zeros(0, np.float32)  # (D,), the running mean of features
        self._stamp = -np.inf
        self._steps: deque[float] = deque(maxlen=_STEPS)  # s, the newest last

    @property
    def _usual_step(self) -> float:
        """From one frame to the next, in s; 0 = not known yet."""
        return float(np.median(self._steps)) if len(self._steps) >= _LEAST_STEPS else 0.0

    @property
    def patience_s(self) -> float:
        """For how long a thing is waited for."""
        return max(self.settings.patience_s, self.settings.patience_steps * self._usual_step)

    def update(self, stamp: float, boxes: Boxes, features: Floats) -> npt.NDArray[np.int64]:
        """
        Return the track of each region of a frame, (n,).

        A stamp that goes back (a restarted simulator) ends all tracks. Where stamps stand still (a
        driver that sets none), what was not seen five times in a row is another thing.

        :param stamp: of the image, in s
        :param boxes: (n, 4), each thing once
        :param features: (n, D)
        """
        if stamp < self._stamp:
            self._tracks = []
            self._steps.clear()
        still = stamp == self._stamp
        for old in self._tracks:
            old.missed = old.missed + 1 if still else 0
        self._tracks = [
            t
            for t in self._tracks
            if stamp - t.stamp <= self.patience_s and t.missed <= _MOST_MISSED
        ]
        if 0.0 < stamp - self._stamp <= _LONGEST_STEP_S:
            self._steps.append(stamp - self._stamp)
        self._stamp = stamp
        numbers = np.zeros(len(boxes), np.int64)
        if not len(boxes):
            return numbers
        mean = features.mean(axis=0)
        self._common = 0.95 * self._common + 0.05 * mean if self._common.size else mean
        before = list(self._tracks)
        least_s = _LEAST_STEP * self._usual_step
        for track, region in self._pairs(stamp, boxes, features):
            self._follow(before[track], stamp, boxes[region], features[region], least_s)
            numbers[region] = before[track].number
        moving = [t.velocity for t in before if t.stamp == stamp]
        drift = np.median(moving, axis=0) if moving else np.zeros(2)
        for region in np.flatnonzero(numbers == 0).tolist():
            self._last += 1
            numbers[region] = self._last
            self._tracks.append(
                _Track(
                    self._last,
                    boxes[region].copy(),
                    features[region].copy(),
                    drift.astype(np.float32),
                    stamp,
                )
            )
            self._tracks[-1].looks.append((stamp, features[region].copy()))
        return numbers

    def follow(
        self, stamp: float, boxes: Boxes, scores: Floats, features: Floats
    ) -> npt.NDArray[np.int64]:
        """
        Return the track of each region of a frame, (n,), where several may show one thing.

        :param scores: (n,), the best of those that show one thing is followed
        """
        numbers = np.zeros(len(boxes), np.int64)
        kept = distinct(boxes, scores, self.settings.most_overlap)
        numbers[kept] = self.update(stamp, boxes[kept], features[kept])
        others = np.flatnonzero(numbers == 0)
        if len(others):
            numbers[others] = numbers[kept[overlaps(boxes[others], boxes[kept]).argmax(axis=1)]]
        return numbers

    def steadied(self, numbers: npt.NDArray[np.int64], features: Floats) -> Floats:
        """
        Return what the regions of the newest frame are to be named by, (n, D): half of it what is
        seen now, half the mean of what was seen of the thing in the two seconds before.

        :param numbers: (n,) their tracks
        :param features: (n, D)
        """
        tracks = {t.number: t for t in self._tracks}
        steady: Floats = features.copy()
        for place, number in enumerate(numbers.tolist()):
            before = [
                look
                for stamp, look in (tracks[number].looks if number in tracks else ())
                if stamp < self._stamp <= stamp + _STEADY_S
            ]
            if before:
                mean = np.mean(before, axis=0, dtype=np.float32)
                steady[place] = (1.0 - _STEADY) * features[place] + _STEADY * mean
        return steady

    def forget_looks(self) -> None:
        """Another network looks from now on: its features are no mean with those before."""
        self._common = np.zeros(0, np.float32)
        for track in self._tracks:
            track.looks.clear()

    def _pairs(self, stamp: float, boxes: Boxes, features: Floats) -> list[tuple[int, int]]:
        """Return which tracks go on in which regions, each once."""
        if not self._tracks:
            return []
        expected = np.stack([t.at(stamp) for t in self._tracks])
        overlap = overlaps(expected, boxes)
        # Of a network with longer or shorter features no look tells anything: the overlap decides.
        fits = self._common.shape
        looks = [t.feature if t.feature.shape == fits else self._common for t in self._tracks]
        likeness = self._likeness(np.stack(looks), features)
        rules = self.settings
        score = (1.0 - rules.look) * overlap + rules.look * likeness
        score[(overlap < rules.least_overlap) | (likeness < rules.least_likeness)] = -np.inf
        found = []
        while np.isfinite(score).any():
            track, region = np.unravel_index(int(score.argmax()), score.shape)
            found.append((int(track), int(region)))
            score[track], score[:, region] = -np.inf, -np.inf
        return found

    def _likeness(self, ours: Floats, others: Floats) -> Floats:
        """Return the cosine of each pair, (n, m), without what all regions have in common."""
        a, b = ours - self._common, others - self._common
        lengths = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1)[None]
        found: Floats = (a @ b.T) / np.maximum(lengths, 1e-9)
        # A single region is the mean itself: then the overlap alone decides.
        return np.where(lengths > 1e-6, found, 1.0).astype(np.float32)

    @staticmethod
    def _follow(track: _Track, stamp: float, box: Boxes, feature: Floats, least_s: float) -> None:
        passed = stamp - track.stamp
        if passed > 0:
            step = (centres(box[None]) - centres(track.box[None]))[0] / max(passed, least_s)
            track.velocity = (_SMOOTHING * step + (1.0 - _SMOOTHING) * track.velocity).astype(
                np.float32
            )
        track.box, track.feature, track.stamp = box.copy(), feature.copy(), stamp
        track.missed = 0
        track.looks.append((stamp, track.feature))
