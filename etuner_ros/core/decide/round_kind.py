# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a round is for."""

from __future__ import annotations

from enum import Enum


class RoundKind(Enum):
    """
    What a round is for. All end with a candidate for the network, which the gate judges.

    >>> RoundKind('retreat')
    <RoundKind.RETREAT: 'retreat'>
    """

    TRAIN = 'train'  # on the labels that wait
    CALIBRATE = 'calibrate'  # trains nothing: what is live, quantised
    RETREAT = 'retreat'  # trains nothing: the deployed network, with a head of all labels
