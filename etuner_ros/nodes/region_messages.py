# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Boxes of an image as messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from std_msgs.msg import Header

from etuner_ros.core.boxes.geometry import Boxes, Floats
from etuner_ros.msg import Box, Region, Regions


def box_message(box: Iterable[float]) -> Box:
    """Return a box: x, y, width, height in px."""
    x, y, width, height = map(float, box)
    return Box(x=x, y=y, width=width, height=height)


def to_regions(
    header: Header, boxes: Boxes, scores: Floats, labels: Sequence[str], source: str = ''
) -> Regions:
    """
    Return boxes of an image as a message.

    :param header: of the image
    :param boxes: (n, 4), px
    :param scores: (n,), in [0, 1]
    :param labels: n
    """
    regions = [
        Region(
            box=box_message(box),
            score=float(score),
            label=label,
        )
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]
    return Regions(header=header, source=source, regions=regions)
