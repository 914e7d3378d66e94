# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What all phases of a soak play with: a deployed model and labelled pictures."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.files import replace_file
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.models.weights import pack_base

FRAMES = 288
FITTED = 96  # of them, for the head that the robot comes with; it knows every second kind


@dataclass(frozen=True)
class Stage:
    """Where a soak takes place."""

    base: Path  # weights that the robot comes with
    stream: Path  # labelled pictures
    folder: Path  # for the robots' files

    def pictures(self) -> list[tuple[Image, str]]:
        """Return pictures and what they show."""
        frames = (f for f in open_source(str(self.stream)) if f.label)
        return [(f.image, f.label) for f in islice(frames, FRAMES)]


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    swaps: int = 1000  # under a 30 Hz camera
    kills: int = 200  # at least
    damaged: int = 28  # files, at least
    kill_minutes: float = 9.0  # at least
    cuts: int = 50  # of the power
    calm_minutes: float = 15.0  # for the memory to be level, at most
    radio_s: float = 60.0  # without radio
    waiting_labels: int = 200  # meanwhile
    fault_s: float = 15.0  # that each other fault lasts
    seed: int = 0  # of what is killed when

    def as_dict(self) -> dict[str, float]:
        """Return the numbers by name."""
        return asdict(self)


def deploy(stream: Path, path: Path) -> None:
    """Make base weights, at the size that the robot ships with."""
    import torch

    from etuner_ros.core.models.deploy import choose_exemplars, fit_head
    from etuner_ros.core.models.networks import build, pretrained_spec

    torch.set_num_threads(1)
    pictures = Stage(path, stream, path.parent).pictures()[:FITTED]
    known = sorted({label for _, label in pictures})[::2]  # the others are there to be learned
    images = [resize_square(image, INPUT_SIZE) for image, label in pictures if label in known]
    labels = [label for _, label in pictures if label in known]
    model = build(pretrained_spec('efficientnet_lite0', INPUT_SIZE), 'pretrained')
    fit_head(model, images, labels)
    exemplars = choose_exemplars(images, labels, 3)
    replace_file(path, pack_base(model.state(), model.spec, model.unit_sizes, exemplars))
