#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Make the file of what pictures of one kind differ in, which ships with the package
(etuner_ros/within_class; what it is for: etuner_ros/core/learn/within_class.py).

It is learned from recordings with boxes (`tools/render_things.py --second --seed N`), one of
whole frames (`tools/render_stream.py --second`) and photographs. Their kinds are others than
those of the streams that reports are of. All three sorts count the same.

With --judge nothing is written: it tells what the map is worth for kinds of these pictures that it
was not learned with.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
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
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.within_class import (
    from_scatters,
    RANK,
    Scatter,
    scatter,
    SHRINKAGE,
    WithinClass,
)
from etuner_ros.core.models.likeness import FOLDER
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.models.weights import backbone_digest

SEEDS = 4

Learn = Callable[[Sequence[Scatter]], WithinClass]


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


def right(
    rows: Floats, labels: Sequence[str], told: int, maps: Sequence[WithinClass | None], seed: int
) -> Floats:
    """
    Return how many pictures a head names rightly by each map, in %.

    :param told: labels of each kind; all other pictures are asked for
    """
    rng = np.random.default_rng(seed)
    names = np.array(labels)
    known = np.concatenate(
        [rng.permutation(np.flatnonzero(names == n))[:told] for n in sorted(set(labels))]
    )
    asked = np.setdiff1d(np.arange(len(names)), known)
    found = []
    for within in maps:
        head = InstantHead(rows.shape[1], within=within)
        head.rebuild(torch.from_numpy(rows[known]), names[known].tolist())
        best = head.logits(torch.from_numpy(rows[asked])).argmax(dim=1).numpy()
        found.append(100.0 * (np.array(head.classes)[best] == names[asked]).mean())
    return np.array(found)


def judge(sorts: Mapping[str, tuple[Floats, list[str]]], learn: Learn) -> None:
    """Print what heads get right without a map, with that of other kinds, of other sorts."""
    print('| pictures | labels of each kind | no map | other kinds | other sorts of pictures |')
    print('|---|---|---|---|---|')
    for name in sorts:
        found: dict[int, list[Floats]] = {1: [], 5: [], 20: []}
        for seed in range(SEEDS):
            parts, asked = [], sorts[name]
            for sort, (rows, labels) in sorts.items():
                # Products of one kind stay together.
                kinds = np.random.default_rng(seed).permutation(
                    sorted({n.split()[0] for n in labels})
                )
                first = set(kinds[: len(kinds) // 2])
                at = np.array([n.split()[0] in first for n in labels])
                parts.append(scatter(torch.from_numpy(rows[at]), np.array(labels)[at].tolist()))
                if sort == name:
                    asked = rows[~at], np.array(labels)[~at].tolist()
            others = [scatter(torch.from_numpy(r), n) for s, (r, n) in sorts.items() if s != name]
            maps = (None, learn(parts), learn(others) if others else None)
            for told, shares in found.items():
                shares.append(right(*asked, told, maps, seed))
        for told, shares in found.items():
            cells = ' | '.join(f'{value:.1f}' for value in np.mean(shares, axis=0))
            print(f'| {name} | {told} | {cells} |', flush=True)


def main() -> None:
    """Learn from all sorts of pictures and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--things', type=Path, nargs='*', default=[], help='with boxes')
    parser.add_argument('--every', type=int, default=2, help='take one of so many of its frames')
    parser.add_argument('--stream', type=Path, help='of whole frames')
    parser.add_argument('--grocery', type=Path, help='archive of the grocery photographs')
    parser.add_argument('--images', type=Path, help='your own, as <scenario>/<class>/*.jpg')
    parser.add_argument('--rank', type=int, default=RANK)
    parser.add_argument('--shrinkage', type=float, default=SHRINKAGE)
    parser.add_argument('--output', type=Path, default=FOLDER / f'{ARCHITECTURE}.safetensors')
    parser.add_argument('--judge', action='store_true', help='tell what it is worth instead')
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sorts = {}
    if arguments.things:
        sorts['things in boxes'] = of_boxes(arguments.things, arguments.every)
    if arguments.stream is not None:
        sorts['rendered frames'] = of_pictures(READERS['recording'](arguments.stream))
    if arguments.grocery is not None:
        sorts['photographs'] = of_pictures(READERS['grocery_search'](arguments.grocery))
    if arguments.images is not None:
        sorts['own pictures'] = of_pictures(READERS['images'](arguments.images))
    if not sorts:
        parser.error(
            'there is nothing to learn from: give --things, --stream, --grocery or --images'
        )
    learn = partial(from_scatters, rank=arguments.rank, shrinkage=arguments.shrinkage)
    if arguments.judge:
        judge(sorts, learn)
        return
    learned = learn([scatter(torch.from_numpy(rows), labels) for rows, labels in sorts.values()])
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
        f'{sum(len(labels) for _, labels in sorts.values())} pictures of '
        f'{sum(len(set(labels)) for _, labels in sorts.values())} kinds'
    )


if __name__ == '__main__':
    main()
