# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Make the graphs of a network, once for its architecture and size: plain, quantised, and one that
observes the range of each activation. Needs torch, onnx and onnxruntime; run as a program, so that
no node waits for it.

BatchNorm is folded in before the export, so that a quantised convolution is what is served. The
structure of the quantised graph (where codes begin and end) is the work of onnxruntime's own
quantiser; the numbers in it are written by `graph_file`, as the weights of each version need them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
import json
import logging
from pathlib import Path
import sys
import tempfile
from typing import Any
import warnings

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
import onnxruntime
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_static,
    QuantType,
)
import torch
from torch import nn, Tensor

from etuner_ros.core.errors import EngineError, EtunerError
from etuner_ros.core.files import replace_file
from etuner_ros.core.models.networks import appearance_of, build, Classifier, pretrained_spec
from etuner_ros.core.models.weights import ModelSpec
from etuner_ros.core.serve.graph_file import FORMAT, Layer, RECIPE
from etuner_ros.core.serve.graph_store import graph_path, KINDS

# What is computed on codes. Sums of two branches are left in float: their quantised kernel takes
# longer than converting does (0.55 of 2.9 ms in EfficientNet-Lite0 at 128 px). So is the last
# mean: features are not rounded again.
QUANTISED = ['Conv', 'Clip', 'Relu', 'MaxPool']


class _Served(nn.Module):
    """What is exported: pictures, normalised, (N, S, S, 3) to features and appearance."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (N, D) and appearance (N, 2A)."""
        seen: list[Tensor] = []
        middle = self.model.units[self.model.middle].module
        handle = middle.register_forward_hook(lambda _m, _i, output: seen.append(output))
        try:
            features = self.model.features(pictures.permute(0, 3, 1, 2))
        finally:
            handle.remove()
        return features, appearance_of(seen[0])


def _randomise(model: Classifier) -> None:
    """Give each tensor values of its own, so that none is taken for another or for a constant."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype.is_floating_point and value.numel():
                noise = 0.1 * torch.randn(value.shape, generator=generator)
                value.copy_(1.0 + noise.abs() if name.endswith('running_var') else noise)


def _fold(model: Classifier, example: Tensor) -> dict[str, tuple[str, float]]:
    """
    Fold each BatchNorm into the convolution that feeds it, in place.

    :return: the name of the BatchNorm and its epsilon, by the name of the convolution
    """
    made: dict[int, tuple[str, Tensor]] = {}
    pairs: dict[str, tuple[str, float]] = {}
    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):

            def after(_m: nn.Module, _i: Any, output: Tensor, name: str = name) -> None:
                made[id(output)] = (name, output)  # held, so that no other gets its id

            handles.append(module.register_forward_hook(after))
        if isinstance(module, nn.BatchNorm2d):

            def before(_m: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
                found = made.get(id(inputs[0]))
                if found is not None:
                    pairs[found[0]] = (name, float(model.get_submodule(name).eps))  # type: ignore[arg-type]

            handles.append(module.register_forward_pre_hook(before))
    with torch.no_grad():
        model.features(example)
    for handle in handles:
        handle.remove()
    for conv_name, (norm_name, _) in pairs.items():
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        if norm.running_mean is None or norm.running_var is None:
            raise EngineError(f'{norm_name} has no running statistics, so it can not be folded')
        gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = torch.zeros_like(gain) if conv.bias is None else conv.bias
        conv.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * gain)
        conv.weight = nn.Parameter(conv.weight * gain[:, None, None, None])
        parent, _, leaf = norm_name.rpartition('.')
        setattr(model.get_submodule(parent), leaf, nn.Identity())
    return pairs


def _export(model: Classifier, size: int) -> onnx.ModelProto:
    """Return the graph of a network, cleaned."""
    example = torch.rand(1, size, size, 3)
    names = {'input_names': ['pictures'], 'output_names': ['features', 'appearance']}
    axes = {name: {0: 'n'} for name in ('pictures', 'features', 'appearance')}
    options: dict[str, Any] = {**names, 'dynamic_axes': axes, 'opset_version': 17}
    # The exporter that traces: ten times as fast, and it keeps the names of the weights.
    if 'dynamo' in torch.onnx.export.__code__.co_varnames:
        options['dynamo'] = False
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        raw = Path(folder) / 'raw.onnx'
        torch.onnx.export(_Served(model).eval(), (example,), str(raw), **options)
        return simplified(raw)


def simplified(file: Path) -> onnx.ModelProto:
    """Return an exported graph without what is constant, and without layers that only pad."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'clean.onnx'
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(str(file), settings, providers=['CPUExecutionProvider'])
        proto = onnx.load(path)
    _merge_pads(proto.graph)
    return proto


def _merge_pads(graph: Any) -> None:
    """Have convolutions pad by themselves where zeros are put around their input."""
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    users: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for pad in [n for n in graph.node if n.op_type == 'Pad']:
        mode = [a.s for a in pad.attribute if a.name == 'mode']
        value = constants.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else 0.0
        amounts = constants.get(pad.input[1])
        using = users.get(pad.output[0], [])
        plain = mode in ([], [b'constant']) and value is not None and not np.any(value)
        if not plain or amounts is None or len(using) != 1 or using[0].op_type != 'Conv':
            continue
        count = len(amounts) // 2
        spatial = np.concatenate([amounts[2:count], amounts[count + 2 :]])
        outside = np.concatenate([amounts[:2], amounts[count : count + 2]])
        if np.any(outside) or np.any(spatial < 0):
            continue
        conv = using[0]
        own = [a for a in conv.attribute if a.name == 'pads']
        before = np.array(own[0].ints if own else [0] * len(spatial))
        for attribute in own:
            conv.attribute.remove(attribute)
        conv.attribute.append(helper.make_attribute('pads', (before + spatial).tolist()))
        conv.input[0] = pad.input[0]
        graph.node.remove(pad)
    used = {name for node in graph.node for name in node.input}
    for tensor in [i for i in graph.initializer if i.name not in used]:
        graph.initializer.remove(tensor)


def _layers(
    model: Classifier, graph: Any, plain: Collection[str], norms: dict[str, tuple[str, float]]
) -> tuple[list[Layer], list[tuple[str, str]]]:
    """
    Find which initializer holds which tensor of the network.

    :param plain: names of the tensors of the network before anything was folded
    :param norms: what was folded into which convolution
    :raises EngineError: when a tensor is nowhere
    """
    values = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    tensors = {k: v.numpy() for k, v in model.state_dict().items() if v.dtype == torch.float32}
    found: dict[str, str] = {}
    for name, value in tensors.items():
        if name.startswith('head.'):
            continue
        fits = [
            n for n, v in values.items() if v.shape == value.shape and np.array_equal(v, value)
        ]
        if len(fits) != 1:
            raise EngineError(
                f"'{model.spec.architecture}' can not be served by onnxruntime: the exported "
                f"graph holds '{name}' {len(fits)} times"
            )
        found[name] = fits[0]
    layers, copied = [], []
    convolutions = {n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    for name, target in found.items():
        owner, _, leaf = name.rpartition('.')
        if owner not in convolutions:
            copied.append((name, target))
        elif leaf == 'weight':
            norm, eps = norms.get(owner, ('', 0.0))
            bias = f'{owner}.bias'
            had = bias if bias in plain else ''
            layers.append(Layer(name, had, norm, eps, target, found.get(bias, '')))
    return layers, copied


def _inputs(quantised: onnx.ModelProto, layers: list[Layer]) -> tuple[list[Layer], list[str]]:
    """
    Find the activations that have a range, and which one is the input of each layer.

    :return: layers, and the names of the activations
    """
    graph = quantised.graph
    initial = {i.name: i for i in graph.initializer}
    makers = {o: n for n in graph.node for o in n.output}
    ranged = sorted(
        {
            n.input[1][: -len('_scale')]
            for n in graph.node
            if n.op_type == 'QuantizeLinear' and n.input[1] in initial
        }
    )
    places = {f'{name}_scale': i for i, name in enumerate(ranged)}
    by_weight = {}
    for node in graph.node:
        if node.op_type != 'Conv':
            continue
        weight, source = makers.get(node.input[1]), makers.get(node.input[0])
        if weight is not None and source is not None and source.op_type == 'DequantizeLinear':
            by_weight[weight.input[0]] = places[source.input[1]]
    return [
        replace(layer, input=by_weight.get(f'{layer.weight_to}_quantized', -1)) for layer in layers
    ], ranged


class _Noise(CalibrationDataReader):  # type: ignore[misc]
    """Pictures for the quantiser, whose own numbers are written over."""

    def __init__(self, size: int) -> None:
        random = np.random.default_rng(0)
        self._left = [random.random((1, size, size, 3), np.float32) for _ in range(2)]

    def get_next(self) -> Any:
        """Return the next one."""
        return {'pictures': self._left.pop()} if self._left else None


def _quantise(plain: onnx.ModelProto, size: int) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / 'plain.onnx', Path(folder) / 'int8.onnx'
        onnx.save(plain, source)
        logging.disable(logging.WARNING)  # it advises to do what was done already
        try:
            quantize_static(
                source,
                target,
                _Noise(size),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=QUANTISED,
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(target)


def _observer(plain: onnx.ModelProto, ranged: list[str]) -> onnx.ModelProto:
    """Return the graph that gives the smallest and the largest value of each activation."""
    proto = onnx.ModelProto()
    proto.CopyFrom(plain)
    graph = proto.graph
    del graph.output[:]
    parts = []
    for i, name in enumerate(ranged):
        for op in ('ReduceMin', 'ReduceMax'):
            part = f'etuner_{op}_{i}'
            graph.node.append(helper.make_node(op, [name], [part], keepdims=0))
            parts.append(part)
    graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), 'etuner_one'))
    for part in parts:
        graph.node.append(helper.make_node('Reshape', [part, 'etuner_one'], [f'{part}_1']))
    joined = [f'{part}_1' for part in parts]
    graph.node.append(helper.make_node('Concat', joined, ['ranges'], axis=0))
    shape = [2 * len(ranged)]
    graph.output.append(helper.make_tensor_value_info('ranges', TensorProto.FLOAT, shape))
    return proto


def _pack(proto: onnx.ModelProto, recipe: dict[str, Any]) -> bytes:
    for tensor in proto.graph.initializer:  # all values as raw bytes, where they can be written
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    entry = proto.metadata_props.add()
    entry.key, entry.value = RECIPE, json.dumps(recipe)
    return bytes(proto.SerializeToString())


def make(spec: ModelSpec) -> dict[str, bytes]:
    """
    Return the templates of a network, by kind.

    :raises EngineError: when the network can not be exported or quantised
    """
    torch.manual_seed(0)
    model = build(spec)
    _randomise(model)
    plain = set(model.state_dict())
    size = spec.input_size
    try:
        norms = _fold(model, torch.rand(1, 3, size, size))
        proto = _export(model, size)
        layers, copied = _layers(model, proto.graph, plain, norms)
        quantised = _quantise(proto, size)
        layers, ranged = _inputs(quantised, layers)
        observer = _observer(proto, ranged)
    except EtunerError:
        raise
    except Exception as error:  # exporter and quantiser raise many kinds
        text = (str(error).strip().splitlines() or ['no reason given'])[0][:200]
        raise EngineError(f"'{spec.architecture}' can not be exported: {text}") from error
    names = [(name, f'{name}_scale', f'{name}_zero_point') for name in ranged]
    recipe = {'format': FORMAT, 'copied': copied, 'ranged': names}
    floats = [asdict(replace(layer, input=-1)) for layer in layers]
    return {
        'fp32': _pack(proto, {**recipe, 'kind': 'fp32', 'layers': floats}),
        'int8': _pack(
            quantised, {**recipe, 'kind': 'int8', 'layers': [asdict(x) for x in layers]}
        ),
        'observer': _pack(observer, {**recipe, 'kind': 'observer', 'layers': floats}),
    }


def main(architecture: str, input_size: int) -> None:
    """Make the templates of an architecture and put them where they are looked for."""
    for kind, data in make(pretrained_spec(architecture, input_size)).items():
        assert kind in KINDS
        replace_file(graph_path(architecture, input_size, kind), data)


if __name__ == '__main__':
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except (EtunerError, OSError) as failure:
        sys.exit(str(failure))
