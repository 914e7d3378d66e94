# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where things may be in an image: what every proposer answers, and which ones there are."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from etuner_ros.core.boxes.geometry import as_boxes, Boxes, Floats
from etuner_ros.core.images.codec import Image

MOST = 10  # boxes of an image


class Proposals(NamedTuple):
    """Boxes in which things may be, n of them, the best first."""

    boxes: Boxes  # (n, 4), inside of the image
    scores: Floats  # (n,), in [0, 1]
    labels: tuple[str, ...]  # n, what the proposer takes them for; '' where it does not say


NONE = Proposals(as_boxes(()), np.zeros(0, np.float32), ())


class Proposer(Protocol):
    """Says where things may be."""

    def propose(self, image: Image, most: int = MOST) -> Proposals:
        """
        Return at most so many boxes.

        :param image: RGB uint8, (H, W, 3)
        :raises EngineError: when what it runs on fails
        """
        ...
