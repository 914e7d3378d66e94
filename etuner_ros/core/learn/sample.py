# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One labelled frame, as everything that learns handles it."""

from __future__ import annotations

from dataclasses import dataclass

from etuner_ros.core.identity import Scenario
from etuner_ros.core.images.codec import decode, encode_jpeg, Image

QUALITY = 95  # of kept pictures; they are encoded once more than what the camera sent


@dataclass(frozen=True)
class Sample:
    """One labelled frame; `Sample.of` makes it from a picture."""

    sample_id: str
    label: str
    scenario: Scenario
    jpeg: bytes  # of a square picture, already at the size of the network
    predicted: str = ''  # what the robot said when it saw the frame; empty when unknown
    thing: bool = False  # a thing in a box, not a whole image

    @staticmethod
    def of(
        sample_id: str,
        label: str,
        scenario: Scenario,
        image: Image,
        predicted: str = '',
        thing: bool = False,
    ) -> Sample:
        """Encode RGB uint8 (S, S, 3) of the network's size; at 128 px some 8 KB instead of 49."""
        jpeg = encode_jpeg(image, QUALITY)
        return Sample(sample_id, label, scenario, jpeg, predicted, thing)

    @property
    def image(self) -> Image:
        """The picture, RGB uint8 (S, S, 3); decoded at each use."""
        return decode(self.jpeg)
