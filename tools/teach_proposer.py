#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Make the file of the proposer that ships with the package (config/proposer/own.onnx).

It is taught from a recording with boxes whose kinds and places are others than those of the
recordings that reports are of, as `tools/render_things.py --second` renders. All maps are solved
in closed form; nothing is trained by gradient.

The first stage says of each anchor how much of a thing it is and how to move it; the second one
looks into the best of these boxes and says the same again (a cascade, arXiv 1712.00726). What the
second stage is taught with are boxes of frames that their first stage was not taught with, as it
will be on the robot.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
import sys
import tempfile
import time
from typing import Any, NamedTuple
import warnings

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import torch
from torch import nn, Tensor
from torch.nn import functional

from etuner_ros.bench.boxes_regressor import offsets as offsets_to
from etuner_ros.core.boxes.dense import HEIGHT, WIDTH
from etuner_ros.core.boxes.geometry import overlaps
from etuner_ros.core.boxes.recording import BoxFrame, BoxRecording
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.serve.graph import simplified

REPOSITORY = Path(__file__).resolve().parent.parent
Array = np.ndarray
STRIDE = 16  # px of a cell
SIDES, RATIOS = (32.0, 52.0, 84.0, 136.0), (0.5, 1.0, 2.0)  # of anchors; width to height
FINE, COARSE = 'block4', 'block10'  # 40 channels of 8 px, 112 of 16 px
OPENED = 'block11'  # its 672 channels in the middle are read, too
AROUND = 7  # cells a side that are averaged
LOW, HIGH = 0.3, 0.7  # overlaps from which a box is something of a thing, and all of one
TAUGHT_FROM = 0.4  # overlap from which an anchor teaches how to move
MOST_OFFSET = 0.7  # in sides of a box
RIDGE, OFFSET_RIDGE = 0.03, 4.0  # penalties, in samples of standardised features
CANDIDATES = 200  # boxes of the first stage that the second one looks into
GRID, FEW = 5, 4  # points a side that the second stage looks at; and of the middle of `OPENED`
CONTEXT = 1.4  # sides of the box over which they lie
SECOND_RIDGE, SECOND_OFFSET_RIDGE = 0.1, 3.0
ON_THINGS, BEST, OTHERS = 30, 10, 20  # boxes of a frame that teach the second stage


class Seen(NamedTuple):
    """What the network makes of pictures: channels by place, (N, C, h, w)."""

    fine: Tensor  # 40 channels of 8 px
    coarse: Tensor  # 112 of 16 px
    wide: Tensor  # 672 of 16 px

    def cells(self) -> tuple[Tensor, Tensor]:
        """Return what is read with its neighbours, (N, 152, h, w), and what without."""
        return torch.cat([self.coarse, functional.avg_pool2d(self.fine, 2)], 1), self.wide


class Trunk(nn.Module):
    """The first blocks of the deployed network."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build(pretrained_spec('efficientnet_lite0', 128), 'pretrained').eval()

    def forward(self, pictures: Tensor) -> Seen:
        """Look at RGB pictures (N, H, W, 3) in [0, 255]."""
        x = pictures.permute(0, 3, 1, 2).float() * self.model._scale + self.model._shift
        for name, block in self.model.backbone.named_children():
            if name == OPENED:
                break
            x = block(x)
            if name == FINE:
                fine = x
        layers: Any = self.model.get_submodule(f'backbone.{OPENED}').layers
        return Seen(fine, x, layers.expand_act(layers.expand_bn(layers.expand(x))))


def _around(cells: Tensor) -> Tensor:
    return functional.avg_pool2d(cells, AROUND, 1, AROUND // 2, count_include_pad=False)


def anchors() -> Array:
    """Return the boxes around each cell, (cells, SIDES x RATIOS, 4), in px of the input."""
    shapes = np.array([(s * r**0.5, s / r**0.5) for s in SIDES for r in RATIOS], np.float32)
    y, x = np.mgrid[0 : HEIGHT // STRIDE, 0 : WIDTH // STRIDE]
    middles = (np.stack([x.ravel(), y.ravel()], 1) + 0.5) * STRIDE
    corners = middles[:, None] - shapes / 2
    found: Array = np.concatenate(
        [corners, np.broadcast_to(shapes, corners.shape)], 2, dtype=np.float32
    )
    return found


def moved(boxes: Tensor, offsets: Tensor) -> Tensor:
    """
    Return boxes that were moved and resized, (n, 4).

    :param offsets: (n, 4): of the middle, in sides of the box, and of the logarithms of its sides
    """
    offsets = offsets.clamp(-MOST_OFFSET, MOST_OFFSET)
    sides = boxes[:, 2:] * offsets[:, 2:].exp()
    middles = boxes[:, :2] + boxes[:, 2:] / 2 + offsets[:, :2] * boxes[:, 2:]
    return torch.cat([middles - sides / 2, sides], 1)


def cells_of(seen: Seen) -> Array:
    """Return features of each cell of a picture, (cells, D), float32."""
    near, wide = seen.cells()
    patches = functional.unfold(near, 3, padding=1).reshape(1, -1, *near.shape[2:])
    found: Array = torch.cat([patches, _around(near), wide], 1)[0].flatten(1).T.numpy()
    return found


def points_of(boxes: Tensor, grid: int) -> Tensor:
    """Return where boxes (n, 4) are looked into, (grid * grid, n, 2), from -1 to 1."""
    sides = CONTEXT * boxes[:, 2:]
    corners = boxes[:, :2] + boxes[:, 2:] / 2 - sides / 2
    steps = (torch.arange(grid) + 0.5) / grid
    across = 2.0 / WIDTH * (corners[:, :1] + sides[:, :1] * steps) - 1.0
    down = 2.0 / HEIGHT * (corners[:, 1:] + sides[:, 1:] * steps) - 1.0
    pairs = [across[:, None].expand(-1, grid, -1), down[:, :, None].expand(-1, -1, grid)]
    return torch.stack(pairs, -1).flatten(1, 2).transpose(0, 1)


def sampled(channels: Tensor, points: Tensor) -> Tensor:
    """Return channels (m, C, h, w) at points (m, p, n, 2), bilinear: (m, C, p, n)."""
    return functional.grid_sample(channels, points, padding_mode='border', align_corners=False)


def inside(seen: Seen, boxes: Tensor, scores: Tensor) -> Tensor:
    """Return what the second stage knows of boxes (n, 4) of a picture, (n, E)."""
    points, few = points_of(boxes, GRID), points_of(boxes, FEW)

    def at(channels: Tensor, points: Tensor) -> Tensor:
        """Return (n, C, points)."""
        return sampled(channels, points.transpose(0, 1)[None])[0].transpose(0, 1)

    return torch.cat(
        [
            at(seen.fine, points).flatten(1),
            at(seen.coarse, points).flatten(1),
            at(seen.wide, few).mean(2),
            boxes[:, 2:].log(),
            scores[:, None],
        ],
        1,
    )


def things_of(frame: BoxFrame) -> Array:
    """Return the boxes of things, (n, 4), in px of the input."""
    scale = np.array([WIDTH / frame.image.shape[1], HEIGHT / frame.image.shape[0]] * 2)
    found: Array = (frame.boxes * scale).astype(np.float32)
    return found


class Wanted(NamedTuple):
    """What is to be said of n boxes."""

    overlap: Array  # (n,)
    offsets: Array  # (n, 4)
    unfair: Array  # (n,) bool: of a thing that is hardly visible

    def score(self) -> Array:
        """Return how much of a thing each is, (n,)."""
        found: Array = np.clip((self.overlap - LOW) / (HIGH - LOW), 0, 1)
        return found


def wanted(boxes: Array, frame: BoxFrame) -> Wanted:
    """Compare boxes with the things in a frame."""
    things = things_of(frame)
    if not len(things):
        none = np.zeros(len(boxes))
        return Wanted(none, np.zeros((len(boxes), 4)), none > 0)
    pairs = overlaps(boxes, things)
    nearest, overlap = pairs.argmax(1), pairs.max(1)
    unfair = ~frame.fair()[nearest] & (overlap > LOW)
    return Wanted(overlap, offsets_to(boxes, things[nearest]), unfair)


class Linear(NamedTuple):
    """What is said of features: `features @ weight + constant`."""

    weight: Array  # (D, K)
    constant: Array  # (K,)


def ridge(rows: Array, targets: Array, penalty: float) -> Linear:
    """
    Return the solution for standardised features.

    :param rows: (n, D)
    :param targets: (n, K)
    :param penalty: in samples, for each of n
    """
    level, (count, size) = targets.mean(0), rows.shape
    wants = (targets - level).astype(np.float32)
    if count < size:
        kernel = rows @ rows.T
        kernel[np.diag_indices(count)] += penalty * count
        return Linear(rows.T @ np.linalg.solve(kernel, wants), level)
    moment = rows.T @ rows
    moment[np.diag_indices(size)] += penalty * count
    return Linear(np.linalg.solve(moment, rows.T @ wants), level)


def unscaled(found: Linear, mean: Array, spread: Array) -> Linear:
    """Return the same for features that are not standardised."""
    weight = found.weight / spread[:, None]
    return Linear(weight, found.constant - mean @ weight)


class Stage(NamedTuple):
    """What is said of boxes."""

    scores: Linear
    offsets: Linear


def first_stage(seen: Sequence[Seen], frames: Sequence[BoxFrame]) -> Stage:
    """Solve for anchors: scores (D, A), offsets (D, A * 4)."""
    boxes = anchors()
    rows = np.concatenate([cells_of(s) for s in seen])
    truth = [wanted(boxes.reshape(-1, 4), f) for f in frames]
    overlap, offsets, unfair = (
        np.concatenate([t[i].reshape(*boxes.shape[:2], *t[i].shape[1:]) for t in truth])
        for i in range(3)
    )
    target = Wanted(overlap, offsets, unfair).score()
    target[unfair] = target.mean()
    mean, spread = rows.mean(0), rows.std(0) + 1e-3
    rows -= mean
    rows /= spread
    moves = np.zeros((rows.shape[1], *offsets.shape[1:]))
    bases = np.zeros(offsets.shape[1:])
    for anchor in range(offsets.shape[1]):
        taught = np.nonzero((overlap[:, anchor] > TAUGHT_FROM) & ~unfair[:, anchor])[0]
        if len(taught) < 20:  # too few to learn from: it stays where it is
            continue
        found = ridge(rows[taught], offsets[taught, anchor], OFFSET_RIDGE)
        moves[:, anchor], bases[anchor] = found
    flat = Linear(moves.reshape(len(moves), -1), bases.ravel())
    scores = ridge(rows, target, RIDGE)
    return Stage(unscaled(scores, mean, spread), unscaled(flat, mean, spread))


def second_stage(rows: Array, truth: Wanted) -> Stage:
    """Solve for boxes of the first stage: scores (E, 1), offsets (E, 4)."""
    mean, spread = rows.mean(0), rows.std(0) + 1e-3
    rows = (rows - mean) / spread
    scores = ridge(rows, truth.score()[:, None], SECOND_RIDGE)
    on = truth.overlap >= TAUGHT_FROM
    offsets = ridge(rows[on], truth.offsets[on], SECOND_OFFSET_RIDGE)
    return Stage(unscaled(scores, mean, spread), unscaled(offsets, mean, spread))


def _tensors(stage: Stage) -> tuple[Tensor, Tensor]:
    """Return weights (K, D) and constants (K,) of all that is said."""
    weight = np.concatenate([stage.scores.weight, stage.offsets.weight], 1).T
    constant = np.concatenate([stage.scores.constant, stage.offsets.constant])
    return torch.tensor(weight, dtype=torch.float32), torch.tensor(constant, dtype=torch.float32)


class First(nn.Module):
    """Trunk and first stage."""

    def __init__(self, trunk: Trunk, stage: Stage) -> None:
        super().__init__()
        self.trunk = trunk
        weights, self.bias = _tensors(stage)
        self.kinds = stage.scores.weight.shape[1]
        near = (weights.shape[1] - 672) // 10
        self.patches = weights[:, : 9 * near].reshape(-1, near, 3, 3)
        self.around = weights[:, 9 * near : 10 * near, None, None]
        self.wide = weights[:, 10 * near :, None, None]
        self.anchors = torch.from_numpy(anchors().reshape(-1, 4))

    def forward(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Return the best boxes of a picture, (n, 4), and how much of a thing each is, (n,)."""
        near, wide = seen.cells()
        said = (
            functional.conv2d(near, self.patches, self.bias, padding=1)
            + functional.conv2d(_around(near), self.around)
            + functional.conv2d(wide, self.wide)
        )
        said = said[0].flatten(1).T
        scores, best = said[:, : self.kinds].reshape(-1).topk(CANDIDATES)
        return moved(self.anchors[best], said[:, self.kinds :].reshape(-1, 4)[best]), scores


class Reader(nn.Module):
    """
    The whole proposer but for leaving out boxes that are said twice.

    As all is linear, each cell is read for each point of the second stage first; of the answers
    those of its own point are taken (R-FCN, arXiv 1605.06409). That costs a tenth.
    """

    def __init__(self, first: First, stage: Stage) -> None:
        super().__init__()
        self.first = first
        weight, self.bias = _tensors(stage)
        points = GRID * GRID
        parts = weight.split([40 * points, 112 * points, 672, 3], 1)
        self.said = len(weight)
        # (points * K, C, 1, 1)
        self.fine, self.coarse = (
            part.reshape(self.said, -1, points).permute(2, 0, 1).flatten(0, 1)[..., None, None]
            for part in parts[:2]
        )
        self.wide, self.rest = parts[2][..., None, None], parts[3]

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (n, 4) in px of a picture (1, H, W, 3), and how much of a thing each is."""
        seen = self.first.trunk(pictures)
        boxes, scores = self.first(seen)
        points = points_of(boxes, GRID)[:, None]
        few = points_of(boxes, FEW)[None]
        known = torch.cat([boxes[:, 2:].log(), scores[:, None]], 1)
        said = functional.linear(known, self.rest, self.bias)
        for channels, weight in ((seen.fine, self.fine), (seen.coarse, self.coarse)):
            answers = functional.conv2d(channels, weight)
            answers = answers.reshape(GRID * GRID, self.said, *channels.shape[2:])
            said = said + sampled(answers, points).sum(0)[:, 0].T
        answers = functional.conv2d(seen.wide, self.wide)
        said = said + sampled(answers, few)[0].mean(1).T
        return moved(boxes, said[:, 1:]), (scores + said[:, 0]) / 2


def mirrored(frame: BoxFrame) -> BoxFrame:
    """Return a frame as a mirror shows it."""
    boxes = frame.boxes.copy()
    boxes[:, 0] = frame.image.shape[1] - boxes[:, 0] - boxes[:, 2]
    return replace(frame, image=np.ascontiguousarray(frame.image[:, ::-1]), boxes=boxes)


@torch.inference_mode()
def look(trunk: Trunk, frames: Sequence[BoxFrame]) -> Iterator[Seen]:
    """Look at pictures."""
    for frame in frames:
        small = cv2.resize(frame.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        yield trunk(torch.from_numpy(small[None]))


@torch.inference_mode()
def examples(
    first: First, seen: Sequence[Seen], frames: Sequence[BoxFrame], rng: np.random.Generator
) -> Iterator[tuple[Array, Wanted]]:
    """Yield boxes of a first stage, as the second one knows them, and what they should be."""
    for one, frame in zip(seen, frames):
        boxes, scores = first(one)
        truth = wanted(boxes.numpy(), frame)
        on = np.flatnonzero((truth.overlap >= TAUGHT_FROM) & ~truth.unfair)
        off = np.flatnonzero((truth.overlap < TAUGHT_FROM) & ~truth.unfair)
        chosen = np.concatenate(
            [rng.permutation(on)[:ON_THINGS], off[:BEST], rng.permutation(off[BEST:])[:OTHERS]]
        ).astype(int)
        rows = inside(one, boxes[chosen], scores[chosen]).numpy()
        yield rows, Wanted(*(part[chosen] for part in truth))


def teach(trunk: Trunk, frames: Sequence[BoxFrame]) -> Reader:
    """Return the proposer that frames teach."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f'{time.monotonic() - began:4.0f} s  {text}', file=sys.stderr, flush=True)

    seen, middle = list(look(trunk, frames)), len(frames) // 4 * 2  # never between mirrored ones
    say(f'{len(frames)} frames are read')
    halves = (slice(None, middle), slice(middle, None))
    found: list[tuple[Array, Wanted]] = []
    for taught, others in (halves, halves[::-1]):
        first = First(trunk, first_stage(seen[taught], frames[taught]))
        found += examples(first, seen[others], frames[others], np.random.default_rng(0))
        say('a half of the first stage')
    rows = np.concatenate([rows for rows, _ in found])
    truth = Wanted(*(np.concatenate([truth[i] for _, truth in found]) for i in range(3)))
    second = second_stage(rows, truth)
    say(f'the second stage, of {len(rows)} boxes')
    return Reader(First(trunk, first_stage(seen, frames)), second)


def export(reader: Reader) -> onnx.ModelProto:
    """Return the graph; its weights are rounded to half precision, and stored in it."""
    options: dict[str, Any] = {'opset_version': 17, 'input_names': ['pictures']}
    if 'dynamo' in torch.onnx.export.__code__.co_varnames:
        options['dynamo'] = False
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        path = Path(folder) / 'own.onnx'
        example = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
        torch.onnx.export(reader.eval(), (example,), str(path), **options)
        graph = onnx.load(str(path))
        for tensor, value in _large(graph):
            rounded = value.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
        onnx.save(graph, str(path))
        return narrowed(simplified(path))


def _large(graph: onnx.ModelProto) -> Iterator[tuple[TensorProto, Array]]:
    """Yield what takes room."""
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 256:
            yield tensor, numpy_helper.to_array(tensor)


def narrowed(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with what half precision holds stored so, and widened when loaded."""
    widened = []
    for tensor, value in _large(graph):
        name, half = tensor.name, value.astype(np.float16)
        if np.array_equal(half, value):
            tensor.CopyFrom(numpy_helper.from_array(half, f'{name}_half'))
            widened.append(
                helper.make_node('Cast', [f'{name}_half'], [name], to=TensorProto.FLOAT)
            )
    for node in reversed(widened):
        graph.graph.node.insert(0, node)
    onnx.checker.check_model(graph)
    return graph


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        'recordings', type=Path, nargs='+', help='with image_raw/compressed and region_truth'
    )
    parser.add_argument('--mirrored', action='store_true', help='also as a mirror shows them')
    parser.add_argument('--every', type=int, default=1, help='take one frame of so many')
    parser.add_argument(
        '--output', type=Path, default=REPOSITORY / 'config' / 'proposer' / 'own.onnx'
    )
    arguments = parser.parse_args()
    frames = [
        frame
        for recording in arguments.recordings
        for frame in list(BoxRecording(recording))[:: arguments.every]
    ]
    if arguments.mirrored:
        frames = [one for frame in frames for one in (frame, mirrored(frame))]
    graph = export(teach(Trunk(), frames))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, str(arguments.output))
    size = arguments.output.stat().st_size
    print(f'{arguments.output}: {size / 1e6:.1f} MB, from {len(frames)} frames')
    return 0


if __name__ == '__main__':
    sys.exit(main())
