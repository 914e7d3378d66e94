#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Make the file of what pictures of one kind differ in, which ships with the package
(etuner_ros/within_class; what it is for: etuner_ros/core/learn/within_class.py).

It is learned from recordings with boxes (`tools/render_things.py --second --seed N`), one of
whole frames (`tools/render_stream.py --second`) and photographs. Their kinds are others than
those of the streams that reports are of. All three sorts count the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
import sys
import tempfile

import numpy as np
from safetensors.numpy import save
import torch

from etuner_ros.bench.boxes_data import ARCHITECTURE, Deployed, read_frames, shots
from etuner_ros.bench.datasets import Picture, READERS
from etuner_ros.core.boxes.geometry import Floats
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.learn.within_class import FOLDER, from_scatters, RANK, scatter, SHRINKAGE
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.models.weights import backbone_digest


def of_boxes(recordings: Sequence[Path], every: int) -> tuple[Floats, list[str]]:
    """Return features of things in boxes, (n, D), and their kinds."""
    deployed = Deployed.pretrained()
    rows: list[Floats] = []
    labels: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for recording in recordings:
            for shot in shots(read_frames(recording, every), None, deployed, Path(folder)):
                rows.append(shot.features)
                labels += shot.names
            print(f'{recording.name}: {len(labels)} things so far', file=sys.stderr)
    return np.concatenate(rows), labels


def of_pictures(pictures: Sequence[Picture]) -> tuple[Floats, list[str]]:
    """Return features of whole pictures, (n, D), and what each shows, as finely as is known."""
    look = Deployed.pretrained().network.look

    def features() -> Iterator[Floats]:
        for i, picture in enumerate(pictures):
            if i % 200 == 0:
                print(f'{i} of {len(pictures)} pictures', file=sys.stderr)
            yield look([picture.image(INPUT_SIZE)])[0]

    labels = [f'{p.label} {p.product}' for p in pictures]
    return np.concatenate(list(features())), labels


def main() -> None:
    """Learn from all sorts of pictures and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--things', type=Path, nargs='*', default=[], help='with boxes')
    parser.add_argument('--every', type=int, default=2, help='take one of so many of its frames')
    parser.add_argument('--stream', type=Path, help='of whole frames')
    parser.add_argument('--grocery', type=Path, help='archive of the grocery photographs')
    parser.add_argument('--rank', type=int, default=RANK)
    parser.add_argument('--shrinkage', type=float, default=SHRINKAGE)
    parser.add_argument('--output', type=Path, default=FOLDER / f'{ARCHITECTURE}.safetensors')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sorts = []
    if arguments.things:
        sorts.append(of_boxes(arguments.things, arguments.every))
    for reader, path in (('recording', arguments.stream), ('grocery_search', arguments.grocery)):
        if path is not None:
            sorts.append(of_pictures(READERS[reader](path)))
    if not sorts:
        parser.error('there is nothing to learn from: give --things, --stream or --grocery')
    scatters = [scatter(torch.from_numpy(rows), labels) for rows, labels in sorts]
    learned = from_scatters(scatters, arguments.rank, arguments.shrinkage)
    backbone = backbone_digest(
        '', build(pretrained_spec(ARCHITECTURE, INPUT_SIZE), 'pretrained').state()
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(
        save(
            {
                'directions': learned.directions.numpy().astype(np.float16),
                'keep': learned.keep.numpy().astype(np.float32),
                'backbone': np.frombuffer(backbone.encode(), np.uint8),
            }
        )
    )
    size = arguments.output.stat().st_size // 1024
    print(
        f'{arguments.output.name}: {size} KB, {arguments.rank} directions, '
        f'{sum(len(labels) for _, labels in sorts)} pictures of '
        f'{sum(len(set(labels)) for _, labels in sorts)} kinds'
    )


if __name__ == '__main__':
    main()
