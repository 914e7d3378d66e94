#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Make the file of the proposer that ships with the package (config/proposer/own.onnx).

It is taught from a recording with boxes whose kinds and places are others than those of the
recording that reports are of, as `tools/render_things.py --second` renders. All maps are solved in
closed form; nothing is trained by gradient.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
import sys
import tempfile
from typing import Any, NamedTuple
import warnings

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import torch
from torch import nn, Tensor
from torch.nn import functional

from etuner_ros.core.boxes.dense import anchors, HEIGHT, STRIDE, WIDTH
from etuner_ros.core.boxes.geometry import overlaps
from etuner_ros.core.boxes.recording import BoxFrame, BoxRecording
from etuner_ros.core.models.networks import build, pretrained_spec

REPOSITORY = Path(__file__).resolve().parent.parent
Array = np.ndarray
FINE, COARSE = 'block4', 'block10'  # 40 channels of 8 px, 112 of 16 px
OPENED = 'block11'  # its 672 channels in the middle are read, too
AROUND = 7  # cells a side that are averaged
LOW, HIGH = 0.3, 0.7  # overlaps from which a box is something of a thing, and all of one
TAUGHT_FROM = 0.4  # overlap from which an anchor teaches how to move
RIDGE, OFFSET_RIDGE = 0.03, 4.0  # penalties, in samples of standardised features


class Trunk(nn.Module):
    """The first blocks of the deployed network: pictures to what is known of each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build(pretrained_spec('efficientnet_lite0', 128), 'pretrained').eval()

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """
        Look at RGB pictures (N, H, W, 3) in [0, 255].

        :return: (N, 152, h, w), which is read with its neighbours, and (N, 672, h, w)
        """
        x = pictures.permute(0, 3, 1, 2).float() * self.model._scale + self.model._shift
        for name, block in self.model.backbone.named_children():
            if name == OPENED:
                break
            x = block(x)
            if name == FINE:
                fine = x
        layers: Any = self.model.get_submodule(f'backbone.{OPENED}').layers
        wide = layers.expand_act(layers.expand_bn(layers.expand(x)))
        return torch.cat([x, functional.avg_pool2d(fine, 2)], 1), wide


def _around(cells: Tensor) -> Tensor:
    return functional.avg_pool2d(cells, AROUND, 1, AROUND // 2, count_include_pad=False)


@torch.inference_mode()
def described(trunk: Trunk, frame: BoxFrame) -> Array:
    """Return features of each cell, (cells, D), float32."""
    small = cv2.resize(frame.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    near, wide = trunk(torch.from_numpy(small[None]))
    patches = functional.unfold(near, 3, padding=1).reshape(1, -1, *near.shape[2:])
    found: Array = torch.cat([patches, _around(near), wide], 1)[0].flatten(1).T.numpy()
    return found


class Wanted(NamedTuple):
    """What is to be said of each anchor, (cells, anchors a cell, ...)."""

    overlap: Array
    offsets: Array  # (..., 4)
    unfair: Array  # bool: of a thing that is hardly visible


def wanted(frame: BoxFrame) -> Wanted:
    """Compare the anchors with the things in a frame."""
    boxes = anchors()
    flat = boxes.reshape(-1, 4)
    scale = np.array([WIDTH / frame.image.shape[1], HEIGHT / frame.image.shape[0]] * 2)
    shape = boxes.shape[:2]
    if not len(frame.boxes):
        return Wanted(np.zeros(shape), np.zeros((*shape, 4)), np.zeros(shape, bool))
    things = (frame.boxes * scale).astype(np.float32)
    pairs = overlaps(flat, things)
    nearest, overlap = things[pairs.argmax(1)], pairs.max(1)
    middle = (nearest[:, :2] + nearest[:, 2:] / 2 - flat[:, :2] - flat[:, 2:] / 2) / flat[:, 2:]
    offsets = np.concatenate([middle, np.log(nearest[:, 2:] / flat[:, 2:])], 1)
    unfair = ~frame.fair()[pairs.argmax(1)] & (overlap > LOW)
    return Wanted(overlap.reshape(shape), offsets.reshape(*shape, 4), unfair.reshape(shape))


def solve(trunk: Trunk, frames: Sequence[BoxFrame]) -> tuple[Array, Array, Array, Array]:
    """
    Solve both maps.

    :return: weights (D, A) and constants (A,) of how much a thing each of A anchors is, and
        (D, A * 4), (A * 4,) of how to move it
    """
    rows = np.concatenate([described(trunk, f) for f in frames])
    truth = [wanted(f) for f in frames]
    overlap, offsets, unfair = (np.concatenate([t[i] for t in truth]) for i in range(3))
    mean, spread = rows.mean(0), rows.std(0) + 1e-3
    rows = (rows - mean) / spread
    count, size = rows.shape
    target = np.clip((overlap - LOW) / (HIGH - LOW), 0, 1)
    target[unfair] = target.mean()
    level = target.mean(0)
    moment = rows.T @ rows
    moment[np.diag_indices(size)] += RIDGE * count
    found = np.linalg.solve(moment, rows.T @ (target - level).astype(np.float32))
    moves = np.zeros((size, *offsets.shape[1:]))
    bases = np.zeros(offsets.shape[1:])
    for anchor in range(offsets.shape[1]):
        taught = np.nonzero((overlap[:, anchor] > TAUGHT_FROM) & ~unfair[:, anchor])[0]
        if len(taught) < 20:  # too few to learn from: it stays where it is
            continue
        mine, wants = rows[taught], offsets[taught, anchor]
        bases[anchor] = wants.mean(0)
        kernel = mine @ mine.T
        kernel[np.diag_indices(len(taught))] += OFFSET_RIDGE * len(taught)
        moves[:, anchor] = mine.T @ np.linalg.solve(kernel, wants - bases[anchor])
    folded = [w.reshape(size, -1) / spread[:, None] for w in (found, moves)]
    constants = [c.ravel() - mean @ w for c, w in zip((level, bases), folded, strict=True)]
    return folded[0], constants[0], folded[1], constants[1]


class Reader(nn.Module):
    """Trunk and maps as one network."""

    def __init__(self, trunk: Trunk, maps: tuple[Array, Array, Array, Array]) -> None:
        super().__init__()
        self.trunk = trunk
        weights = torch.tensor(np.concatenate([maps[0], maps[2]], 1).T, dtype=torch.float32)
        self.bias = torch.tensor(np.concatenate([maps[1], maps[3]]), dtype=torch.float32)
        self.kinds = maps[0].shape[1]
        near = (weights.shape[1] - 672) // 10
        self.patches = weights[:, : 9 * near].reshape(-1, near, 3, 3)
        self.around = weights[:, 9 * near : 10 * near, None, None]
        self.wide = weights[:, 10 * near :, None, None]

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return how much a thing each anchor is, (1, cells, A), and how to move it."""
        near, wide = self.trunk(pictures)
        said = (
            functional.conv2d(near, self.patches, self.bias, padding=1)
            + functional.conv2d(_around(near), self.around)
            + functional.conv2d(wide, self.wide)
        )
        said = said.flatten(2).transpose(1, 2)
        return said[..., : self.kinds], said[..., self.kinds :]


def export(reader: Reader) -> onnx.ModelProto:
    """Return the graph; its weights are stored in half precision and widened when loaded."""
    options: dict[str, Any] = {'opset_version': 17, 'input_names': ['pictures']}
    if 'dynamo' in torch.onnx.export.__code__.co_varnames:
        options['dynamo'] = False
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        path = Path(folder) / 'own.onnx'
        example = torch.zeros(1, HEIGHT, WIDTH, 3, dtype=torch.uint8)
        torch.onnx.export(reader.eval(), (example,), str(path), **options)
        graph = onnx.load(str(path))
    widened = []
    for tensor in graph.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > 256:
            name, value = tensor.name, numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float16), f'{name}_half'))
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
    parser.add_argument('recording', type=Path, help='with image_raw/compressed and region_truth')
    parser.add_argument('--every', type=int, default=1, help='take one frame of so many')
    parser.add_argument(
        '--output', type=Path, default=REPOSITORY / 'config' / 'proposer' / 'own.onnx'
    )
    arguments = parser.parse_args()
    frames = list(BoxRecording(arguments.recording))[:: arguments.every]
    trunk = Trunk()
    graph = export(Reader(trunk, solve(trunk, frames)))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, str(arguments.output))
    size = arguments.output.stat().st_size
    cells = (HEIGHT // STRIDE) * (WIDTH // STRIDE)
    print(f'{arguments.output}: {size / 1e6:.1f} MB, {cells} cells, from {len(frames)} frames')
    return 0


if __name__ == '__main__':
    sys.exit(main())
