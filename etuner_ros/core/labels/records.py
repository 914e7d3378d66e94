# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the label store gives: samples as they go out, batches of them, counts."""

from __future__ import annotations

from dataclasses import dataclass

from etuner_ros.core.labels.frame_buffer import FrameKey, Place


@dataclass(frozen=True)
class StoredSample:
    """One labelled frame as it goes out."""

    sample_id: int
    source: str
    stamp_ns: int
    frame_id: str
    uid: int
    label: str  # empty: taken back, or disputed
    predicted: str
    author: str
    model_version: int
    image_format: str
    image: bytes
    scenario: int
    place: Place | None = None  # of a thing, which the image shows with a margin around it

    @property
    def key(self) -> FrameKey:
        """What names the frame, or the thing in it."""
        return FrameKey(self.source, self.stamp_ns, self.frame_id, self.uid, self.place)


@dataclass(frozen=True)
class Replay:
    """Samples to learn from again."""

    total: int  # that there are
    renamed: list[tuple[str, str]]  # old name, new name, in order
    samples: list[StoredSample]  # the next ones


@dataclass(frozen=True)
class Batch:
    """What a tuner gets at once: first the renamings, then the samples."""

    samples: list[StoredSample]
    renamed: list[tuple[str, str]]  # old name, new name


@dataclass(frozen=True)
class Stored:
    """What became of a correction."""

    sample_id: int
    label: str  # that counts now; empty when people disagree or nobody says anything any more
    said: dict[str, str]  # the last word of each author


@dataclass(frozen=True)
class ClassStatistics:
    """What is stored of one class."""

    label: str
    frames: int
    confirmed: int
    learned: int
    image_bytes: int
