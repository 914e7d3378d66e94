# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings that know where the things in their pictures are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etuner_ros.core.boxes.geometry import as_boxes, Boxes, Floats
from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.bags import opened, truth_topic
from etuner_ros.core.images.sources import FrameSource, open_source, Recording, SourceFrame

LEAST_SHARE = 0.3  # a thing of which less is visible is no fair question


@dataclass(frozen=True)
class BoxFrame(SourceFrame):
    """One picture and the things in it, n of them."""

    stamp_ns: int = 0
    boxes: Boxes = field(default_factory=lambda: as_boxes(()))
    labels: tuple[str, ...] = ()
    shares: Floats = field(default_factory=lambda: np.zeros(0, np.float32))  # visible, (0, 1]

    def fair(self, least_share: float = LEAST_SHARE) -> npt.NDArray[np.bool_]:
        """
        Return which things are visible enough to be asked for, (n,).

        The others are neither to be found nor wrong when they are.
        """
        return self.shares >= least_share


class BoxRecording(Recording):
    """
    A rosbag2 recording with `region_truth` (etuner_ros/msg/Regions) beside its pictures.

    :param image_topic: which images to play; empty takes `image_raw`, as in `Recording`
    :param skip: frames at the start that are left out
    :raises ImageError: when it holds no pictures, or no such truth
    """

    def __init__(self, path: Path, image_topic: str = '', skip: int = 0) -> None:
        super().__init__(path, image_topic, skip)
        with opened(self._path) as reader:
            self._regions = truth_topic(reader, self._topic, 'Regions', 'region_truth')
        if not self._regions:
            raise ImageError(f'the recording {path} does not say where things are (region_truth)')

    def __iter__(self) -> Iterator[BoxFrame]:
        """Yield the pictures with what is in them."""
        for stamp, frame, regions in self._frames(self._regions):
            yield BoxFrame(frame.image, frame.label, frame.scenario, stamp, *_read(regions))


def _read(message: Any | None) -> tuple[Boxes, tuple[str, ...], Floats]:
    """Return boxes (n, 4), labels and scores (n,) of a Regions message."""
    regions = message.regions if message is not None else ()
    boxes = [(r.box.x, r.box.y, r.box.width, r.box.height) for r in regions]
    return (
        as_boxes(boxes),
        tuple(r.label for r in regions),
        np.asarray([r.score for r in regions], np.float32),
    )


def open_with_boxes(source: str, image_topic: str = '', skip: int = 0) -> FrameSource:
    """Open a source as `open_source` does; a recording that knows boxes yields `BoxFrame`s."""
    opened = open_source(source, image_topic, skip)
    if isinstance(opened, Recording):
        try:
            return BoxRecording(Path(source).expanduser(), image_topic, skip)
        except ImageError:
            pass  # of pictures alone
    return opened
