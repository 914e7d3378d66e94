# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames with things as the deployed network sees them, computed once and kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path

import numpy as np

from etuner_ros.bench.boxes_methods import Shot
from etuner_ros.core.boxes.crops import features_of, MARGIN
from etuner_ros.core.boxes.geometry import Boxes, Floats
from etuner_ros.core.boxes.recording import BoxFrame, BoxRecording
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.learn.within_class import shipped, WithinClass
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.models.weights import backbone_digest
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.networks import Network

Say = Callable[[str], None]
# Boxes (p, 4), scores (p,) and names of an image, best first; names are '' without any.
Propose = Callable[[Image], tuple[Boxes, Floats, Sequence[str]]]

ARCHITECTURE = 'efficientnet_lite0'
LEAST_SIDE = 12  # px; a thing that is smaller is no fair question


@dataclass(frozen=True)
class Deployed:
    """The network that serves, and what names it."""

    network: Network
    digest: str
    within: WithinClass | None  # what ships with the package for it
    size: int = INPUT_SIZE

    @classmethod
    def pretrained(cls, threads: int = 1) -> Deployed:
        """Return the network of the package with ImageNet weights, by the engine that serves."""
        spec = pretrained_spec(ARCHITECTURE, INPUT_SIZE)
        state = build(spec, 'pretrained').state()
        engines = Engines(EngineSettings(engine='onnxruntime'), threads=threads)
        network = engines.network(spec, state, wait=True)
        digest = hashlib.sha256(f'{network.name} {INPUT_SIZE}'.encode())
        digest.update(backbone_digest('', state).encode())
        return cls(network, digest.hexdigest()[:16], shipped(ARCHITECTURE, state))


def read_frames(recording: Path, every: int = 1) -> list[BoxFrame]:
    """
    Return the frames of a recording, one of so many.

    :raises ImageError: when it holds none, or does not know where things are
    """
    frames = list(BoxRecording(recording))[::every]
    if not frames:
        raise ImageError(f'the recording {recording} holds no pictures')
    return frames


def shots(
    frames: Sequence[BoxFrame],
    propose: Propose | None,
    deployed: Deployed,
    folder: Path,
    margin: float = MARGIN,
    say: Say = lambda _line: None,
) -> list[Shot]:
    """
    Return frames with the features of their boxes and proposals.

    :param propose: None proposes the truth: what could be reached at best
    :param folder: where features are kept
    """
    proposals = [_truth(f) if propose is None else propose(f.image) for f in frames]
    digest = hashlib.sha256(f'{deployed.digest} {margin}'.encode())
    for frame, (boxes, _, _) in zip(frames, proposals):
        for array in (frame.image, frame.boxes, boxes):
            digest.update(np.ascontiguousarray(array).tobytes())
    file = folder / f'boxes_{digest.hexdigest()[:24]}.npy'
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        found = []
        for number, (frame, (boxes, _, _)) in enumerate(zip(frames, proposals)):
            if number % 100 == 0:
                say(f'deployed network: {number} of {len(frames)} frames')
            found.append(_look(frame, boxes, deployed, margin))
        part = file.with_suffix('.part.npy')
        np.save(part, np.concatenate(found))
        part.replace(file)
    rows = np.load(file)
    made, start, visits = [], 0, _visits([f.scenario for f in frames])
    for number, (frame, (boxes, scores, names)) in enumerate(zip(frames, proposals)):
        k, p = len(frame.boxes), len(boxes)
        whole, features = rows[start], rows[start + 1 : start + 1 + k]
        fair = frame.fair() & (frame.boxes[:, 2:].min(axis=1, initial=1e9) >= LEAST_SIDE)
        made.append(
            Shot(
                number,
                1e-9 * frame.stamp_ns,
                frame.scenario,
                visits[number],
                (frame.image.shape[1], frame.image.shape[0]),
                frame.boxes[fair],
                tuple(n for n, f in zip(frame.labels, fair) if f),
                frame.boxes[~fair],
                features[fair],
                whole,
                boxes,
                scores,
                tuple(names),
                rows[start + 1 + k : start + 1 + k + p],
            )
        )
        start += 1 + k + p
    return made


def _truth(frame: BoxFrame) -> tuple[Boxes, Floats, Sequence[str]]:
    return frame.boxes, np.ones(len(frame.boxes), np.float32), [''] * len(frame.boxes)


def _look(frame: BoxFrame, boxes: Boxes, deployed: Deployed, margin: float) -> Floats:
    """Return features of the whole frame, its things and its proposals, (1 + k + p, D)."""
    look, size = deployed.network.look, deployed.size
    whole = look([resize_square(frame.image, size)])[0]
    every = np.concatenate([frame.boxes, boxes]).astype(np.float32)
    if not len(every):
        return whole
    return np.concatenate([whole, features_of(frame.image, every, look, size, margin)])


def _visits(places: Sequence[str]) -> list[int]:
    """Return of each frame how many times its place had been left before."""
    left: dict[str, int] = {}
    found = []
    for number, place in enumerate(places):
        if number and places[number - 1] != place:
            left[places[number - 1]] = left.get(places[number - 1], 0) + 1
        found.append(left.get(place, 0))
    return found
