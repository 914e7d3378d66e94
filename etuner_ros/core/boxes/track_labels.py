# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A label speaks for a whole track: what was seen of it before and after is learned, too."""

from __future__ import annotations

import numpy as np

from etuner_ros.core.boxes.geometry import Floats

WITHIN_S = 3.0  # before and after a label: later the track may have slipped to another thing
SHARE = 0.5  # of the track in what is learned


def with_track(feature: Floats, sightings: Floats) -> Floats:
    """
    Return what a label of a thing teaches, (D,): half of it what was labelled, half the mean of
    what else was seen of the track, so other sides of the thing count without a label of theirs.

    It is one sample, however long the track is, and is taken back as one.

    >>> with_track(np.float32([1.0, 0.0]), np.float32([[0.0, 1.0], [0.0, 3.0]])).tolist()
    [0.5, 1.0]

    :param feature: (D,)
    :param sightings: (n, D); none leave the feature as it is
    """
    if not len(sightings):
        return feature
    mean = sightings.mean(axis=0, dtype=np.float32)
    return np.asarray((1.0 - SHARE) * feature + SHARE * mean, np.float32)
