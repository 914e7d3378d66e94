# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What happened in a run of the demo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from etuner_ros.core.images.sources import SourceFrame


@dataclass
class Deployed:
    """The deployed model, what it says about every frame, and the frames."""

    weights: Path
    frames: list[SourceFrame]
    start: int  # first frame that is played
    classes: tuple[str, ...]
    untuned: list[str]
    features: np.ndarray
    accuracy: float  # on the second half of the first scenario, in [0, 1]
    sha256: str = ''


@dataclass
class Shot:
    """One frame that was played."""

    index: int
    scenario: str
    truth: str
    seconds: float
    predicted: str | None = None
    version: int = 0


@dataclass
class Record:
    """All that happened in one run."""

    seed: int
    shots: list[Shot] = field(default_factory=list)
    labels: list[tuple[float, int]] = field(
        default_factory=list
    )  # (seconds, frame index) of accepted labels
    swaps: list[tuple[float, int]] = field(default_factory=list)  # (seconds, version)
    frozen: list[tuple[float, int]] = field(default_factory=list)  # (seconds, layers frozen)
    rounds: list[tuple[float, float]] = field(
        default_factory=list
    )  # (seconds at the end, seconds it took)
    changes: list[float] = field(
        default_factory=list
    )  # seconds at which a scenario change was declared
    refused: int = 0
    layers: int = 0
    tuning_s: float = 0.0
    seconds: float = 0.0
    restarts: int = 0
