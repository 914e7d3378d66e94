# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Engines: the same answers as torch, quantised as onnxruntime itself would, and a next best one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import subprocess
import sys
import threading
import time

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    quantize_static,
    QuantType,
)
import pytest
import torch
from versions import make_graphs, travelling

from etuner_ros.core.errors import ConfigError, EngineError, WeightsError
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.models.networks import build, from_base, pretrained_spec
from etuner_ros.core.models.weights import (
    backbone_digest,
    BaseWeights,
    check_update,
    RANGES,
    read_base,
)
from etuner_ros.core.serve.calibrate import calibrate
from etuner_ros.core.serve.engines import Engines, EngineSettings, providers_for
from etuner_ros.core.serve.graph_file import (
    affine,
    GraphFile,
    least_steps,
    processor_flags,
    ranges_of,
    saturates,
    SEVEN_BITS,
    symmetric,
)
from etuner_ros.core.serve.graph_store import graph_path, GraphStore
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.networks import OnnxNetwork, OnnxSession


@pytest.fixture(scope='module')
def base(deployed: Path) -> BaseWeights:
    return read_base(deployed)


@pytest.fixture(scope='module')
def pictures(frames: list) -> list[np.ndarray]:
    return [resize_square(f.image, 64) for f in frames]


@pytest.fixture
def engines(ros_home: Path) -> Engines:
    """Return the default engines; their graphs are shared by all tests."""
    made = Engines()
    yield made
    made.close()


@pytest.fixture(scope='module')
def ranges(base, pictures, graphs) -> tuple[str, np.ndarray]:
    """Return the ranges of the deployed network on all pictures: measuring them takes a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('ETUNER_GRAPHS', str(graphs))
        made = Engines()
        try:
            return calibrate(base.spec, base.state, pictures, made)
        finally:
            made.close()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.mean(np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


def test_onnxruntime_gives_the_features_that_torch_gives(base, pictures, engines):
    network = engines.network(base.spec, base.state, wait=True)
    assert (network.name, network.quantised) == ('onnxruntime-fp32', False)
    model = from_base(base.state, base.spec)
    _, features, appearance = model.examine(model.tensor(pictures[:8]))
    got, seen = network.look(pictures[:8])
    assert np.abs(got - features.numpy()).max() < 1e-4
    assert np.abs(seen - appearance.numpy()).max() < 1e-4
    one = np.concatenate([network.look([p])[0] for p in pictures[:8]])
    assert np.abs(one - got).max() < 1e-4, 'alone as in a batch'
    by_torch = Engines(EngineSettings(engine='torch')).network(base.spec, base.state)
    assert by_torch.name == 'torch-fp32'
    assert np.abs(by_torch.look(pictures[:8])[0] - got).max() < 1e-4


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_small', 'regnet_y_400mf'])
def test_networks_of_torchvision_are_served_too(name, pictures, engines):
    """With biases, squeeze-and-excitation and groups: of each the weights are found."""
    torch.manual_seed(1)
    model = build(pretrained_spec(name, 64))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0.0, 0.1)
    state = model.state()
    _, features, _ = model.examine(model.tensor(pictures[:4]))
    make_graphs(name, 64)
    got, _ = engines.network(model.spec, state, wait=True).look(pictures[:4])
    scale = float(features.abs().max())
    assert np.abs(got - features.numpy()).max() < 1e-4 * scale
    ranges = calibrate(model.spec, state, pictures, engines)
    quantised = engines.network(model.spec, state, ranges, wait=True)
    assert quantised.name == 'onnxruntime-int8'
    assert cosine(quantised.look(pictures[:4])[0], features.numpy()) > 0.98


def test_a_network_that_can_not_be_exported_is_served_by_torch_with_one_sentence(
    pictures, engines
):
    torch.manual_seed(1)
    model = build(pretrained_spec('convnext_tiny', 64))
    network = engines.network(model.spec, model.state(), wait=True)
    assert network.name == 'torch-fp32'
    assert network.look(pictures[:1])[0].shape == (1, model.feature_size)
    assert "'convnext_tiny' can not be served by onnxruntime" in engines.why_not()
    assert engines.why_not().endswith('torch serves')
    assert '\n' not in engines.why_not()


class Pictures(CalibrationDataReader):
    def __init__(self, rows: np.ndarray) -> None:
        self.left = [row[None] for row in rows]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return {'pictures': self.left.pop()} if self.left else None


def test_what_is_written_into_the_graph_is_what_onnxruntime_quantises(
    base, pictures, engines, ranges, tmp_path
):
    """The weights of a version are quantised without the library, to the same numbers."""
    spec, state = base.spec, base.state
    plain = GraphStore().wait(spec.architecture, spec.input_size, 'fp32').filled(state)
    (tmp_path / 'plain.onnx').write_bytes(plain)
    mean, std = (np.array(v, np.float32) for v in (spec.mean, spec.std))
    rows = ((np.stack(pictures) / np.float32(255) - mean) / std).astype(np.float32)
    quantize_static(
        tmp_path / 'plain.onnx',
        tmp_path / 'int8.onnx',
        Pictures(rows),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=['Conv', 'Clip', 'Relu', 'MaxPool'],
        reduce_range=saturates(processor_flags()),
    )
    theirs = {
        i.name: onnx.numpy_helper.to_array(i)
        for i in onnx.load(tmp_path / 'int8.onnx').graph.initializer
    }
    ours = {
        i.name: onnx.numpy_helper.to_array(i)
        for i in onnx.load_from_string(
            GraphStore().wait(spec.architecture, spec.input_size, 'int8').filled(state, ranges[1])
        ).graph.initializer
    }
    codes = [n for n in theirs if n.endswith('weight_quantized')]
    assert len(codes) == 49
    assert set(theirs) == set(ours)
    for name, value in theirs.items():
        if value.dtype == np.float32:
            assert np.allclose(value, ours[name], rtol=1e-5, atol=0), name
        else:
            off = np.abs(value.astype(np.int64) - ours[name].astype(np.int64))
            # A value in the middle is rounded either way; scales have seven digits.
            assert (off <= 1 + 1e-5 * np.abs(value.astype(np.float64))).all(), name
            assert value.dtype == np.int32 or (off > 0).mean() < 0.03, name
    spec_of = OnnxSession((tmp_path / 'int8.onnx').read_bytes(), spec)
    a = np.concatenate([spec_of.run([p])[0] for p in pictures[:8]])
    network = engines.network(spec, state, ranges, wait=True)
    b = np.concatenate([network.look([p])[0] for p in pictures[:8]])
    assert cosine(a, b) > 0.999


def test_a_quantised_version_is_another_backbone_and_its_head_touches_no_network(
    base, frames, engines, ranges
):
    engines.network(base.spec, base.state, wait=True)  # the graph is there from now on
    live = LiveModel(base, engines)
    assert live.engine == 'onnxruntime-fp32'
    image = frames[0].image
    plain = live.predict(image, 1)
    update = {f'{RANGES}{ranges[0]}': ranges[1]}
    live.swap(live.prepare(1, base.spec.classes, *travelling(base, update)))
    result = live.predict(image, 1)
    assert live.engine == 'onnxruntime-int8'
    assert result.backbone == backbone_digest(base.sha256, update) != plain.backbone
    assert np.abs(result.features - plain.features).max() > 0
    # With weights of seven bits, where eight do not fit, less is left.
    least = 0.95 if saturates(processor_flags()) else 0.98
    assert cosine(result.features[None], plain.features[None]) > least
    network = live._slot.network
    rolled = {k: np.roll(v, 1, axis=0) for k, v in base.state.items() if k.startswith('head.')}
    live.swap(live.prepare(2, base.spec.classes, *travelling(base, {**update, **rolled})))
    assert live._slot.network is network
    after = live.predict(image, 1)
    assert (after.version, after.backbone) == (2, result.backbone)
    assert after.labels != result.labels


def test_without_onnxruntime_a_quantised_version_is_served_in_float_and_says_so(
    base, frames, ranges
):
    live = LiveModel(base, Engines(EngineSettings(engine='torch')))
    update = {f'{RANGES}{ranges[0]}': ranges[1]}
    live.swap(live.prepare(1, base.spec.classes, *travelling(base, update)))
    result = live.predict(frames[0].image, 1)
    assert live.engine == 'torch-fp32'
    assert result.backbone == backbone_digest(base.sha256, {}), 'its feature is of the float one'
    assert live.engines.why_not() == ('int8 needs onnxruntime; the version is served in fp32')


def test_torch_serves_until_a_graph_is_made_which_is_tried_again_and_damaged_ones_made_anew(
    base, frames, engines, monkeypatch, tmp_path
):
    engines.network(base.spec, base.state, wait=True)
    source = graph_path(base.spec.architecture, base.spec.input_size, 'fp32')
    blocked = tmp_path / 'graphs'
    blocked.write_text('in the way')
    monkeypatch.setenv('ETUNER_GRAPHS', str(blocked))
    now = [0.0]
    others = Engines(graphs=GraphStore(lambda: now[0]))
    live = LiveModel(base, others)
    assert live.engine == 'torch-fp32'
    assert 'can not be made' in others.why_not()
    blocked.unlink()
    assert (live.has_better, others.warming) == (False, False)
    damaged = graph_path(base.spec.architecture, base.spec.input_size, 'fp32')
    damaged.parent.mkdir()
    damaged.write_bytes(source.read_bytes()[:100_000])
    now[0] = 301.0
    assert (live.has_better, others.warming) == (False, True)
    before = live.predict(frames[0].image, 1)
    assert live.engine == 'torch-fp32'
    deadline = time.monotonic() + 120
    while not live.has_better:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    live.renew()
    assert (live.engine, others.warming, others.why_not()) == ('onnxruntime-fp32', False, '')
    assert damaged.stat().st_size == source.stat().st_size
    after = live.predict(frames[0].image, 1)
    assert (after.version, after.backbone, after.labels) == (0, before.backbone, before.labels)
    assert np.abs(after.features - before.features).max() < 1e-4
    others.close()


def test_a_session_that_fails_while_it_serves_loses_no_frame(base, frames, engines, monkeypatch):
    engines.network(base.spec, base.state, wait=True)
    live = LiveModel(base, engines)

    def fail(*_: object) -> None:
        raise EngineError('onnxruntime failed: out of memory')

    monkeypatch.setattr(OnnxNetwork, 'look', fail)
    result = live.predict(frames[0].image, 1)
    assert (result.version, len(result.labels), live.engine) == (0, 1, 'torch-fp32')
    assert engines.why_not() == 'onnxruntime failed: out of memory; torch serves'


@pytest.mark.parametrize('precision', ['fp32', 'int8'])
def test_regions_that_threads_share_are_seen_as_each_is_alone(
    precision, base, frames, engines, ranges
):
    """Also by the worker, which looks at one picture at a time and solves the head on that."""
    update = {f'{RANGES}{ranges[0]}': ranges[1]} if precision == 'int8' else {}
    engines.network(base.spec, base.state, ranges if update else None, wait=True)
    live, image = LiveModel(base, engines), frames[0].image
    live.swap(live.prepare(1, base.spec.classes, *travelling(base, update)))
    assert live.engine == f'onnxruntime-{precision}'
    boxes = np.array([(5 * i, 3 * i, 40 + i, 60 - i) for i in range(7)], np.float32)
    looked, look, two = set(), OnnxNetwork.look, threading.Barrier(2, timeout=60)

    def by_two(network: OnnxNetwork, squares: list) -> tuple:
        looked.add(threading.get_ident())
        two.wait()  # for another thread
        return look(network, squares)

    with ThreadPoolExecutor(3) as pool:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OnnxNetwork, 'look', by_two)
            shared = live.look_at(image, boxes, pool.map).features
        assert len(looked - {threading.get_ident()}) >= 2
    alone = [live.look_at(image, box[None]).features[0] for box in boxes]
    np.testing.assert_array_equal(shared, alone)
    assert live.look_at(image, boxes[:0], pool.map).features.shape == (0, shared.shape[1])


@pytest.mark.parametrize(('engine', 'count'), [('onnxruntime', 2), ('torch', 7)])
def test_regions_that_go_through_the_network_together_need_no_other_thread(
    engine, count, base, frames
):
    engines = Engines(EngineSettings(engine=engine))
    engines.network(base.spec, base.state, wait=True)
    live = LiveModel(base, engines)
    assert live.engine.startswith(engine)
    boxes = np.array([(5 * i, 3 * i, 40 + i, 60 - i) for i in range(count)], np.float32)
    result = live.look_at(frames[0].image, boxes, lambda *_: pytest.fail('another thread looks'))
    assert len(result.features) == count
    engines.close()


def test_regions_are_named_though_a_session_fails_in_a_thread(base, frames, engines, monkeypatch):
    engines.network(base.spec, base.state, wait=True)
    live = LiveModel(base, engines)

    def fail(*_: object) -> None:
        raise EngineError('onnxruntime failed: out of memory')

    monkeypatch.setattr(OnnxNetwork, 'look', fail)
    boxes = np.array([(5 * i, 3 * i, 40, 60) for i in range(5)], np.float32)
    with ThreadPoolExecutor(2) as pool:
        result = live.look_at(frames[0].image, boxes, pool.map)
    assert (len(result.features), live.engine) == (5, 'torch-fp32')


def test_a_folder_that_can_not_be_written_to_leaves_torch_serving(base, monkeypatch, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    monkeypatch.setenv('ETUNER_GRAPHS', str(tmp_path / 'file' / 'graphs'))
    engines = Engines()
    network = engines.network(base.spec, base.state, wait=True)
    assert network.name == 'torch-fp32'
    assert 'can not be made' in engines.why_not()
    assert str(tmp_path / 'file') in engines.why_not()


def test_ranges_of_another_release_and_too_few_pictures_are_told(base, pictures, engines, ranges):
    network = engines.network(base.spec, base.state, ('0123456789ab', ranges[1]), wait=True)
    assert network.name == 'onnxruntime-fp32'
    assert 'another release' in engines.why_not()
    with pytest.raises(EngineError, match='5 pictures are too few .* 32 are needed'):
        calibrate(base.spec, base.state, pictures[:5], engines)
    int8 = GraphFile(graph_path('efficientnet_lite0', 64, 'int8').read_bytes())
    with pytest.raises(EngineError, match='5. ranges'):
        int8.filled(base.state, ranges[1][:3])
    with pytest.raises(EngineError, match='the weights lack'):
        int8.filled({}, ranges[1])
    with pytest.raises(EngineError, match='damaged'):
        GraphFile(b'no graph')


def test_a_provider_that_can_not_be_loaded_is_no_reason_to_stop(base, engines):
    graph = GraphStore().wait(base.spec.architecture, base.spec.input_size, 'fp32')
    with pytest.raises(EngineError, match='CUDAExecutionProvider'):
        OnnxSession(
            graph.filled(base.state),
            base.spec,
            1,
            ['CUDAExecutionProvider', 'CPUExecutionProvider'],
        )
    with pytest.raises(EngineError, match='not on cuda: install onnxruntime-gpu'):
        providers_for('cuda', 'auto')


def test_where_tensorrt_can_not_be_loaded_the_next_provider_serves(base, engines, monkeypatch):
    """As with the usual wheel for GPUs, which lists it whether its libraries are there or not."""
    listed = [('TensorrtExecutionProvider', {}), 'CPUExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr('etuner_ros.core.serve.engines.providers_for', lambda *_: listed)
    with pytest.warns(UserWarning, match='TensorrtExecutionProvider'):
        network = engines.network(base.spec, base.state, wait=True)
    assert network.name == 'onnxruntime-fp32'
    assert not engines.why_not(), 'that is as good as it gets here'


def test_torch_without_memory_looks_at_regions_one_by_one(base, frames, monkeypatch):
    live = LiveModel(base, engines=Engines(EngineSettings(engine='torch')))
    boxes = np.array([[10, 10, 50, 50], [40, 40, 60, 60], [0, 20, 40, 60]], np.float32)
    wanted = live.look_at(frames[0].image, boxes).features
    network = live._slot.network
    examine, most = network._model.examine, 1

    def short_of_memory(batch):
        if len(batch) > most:
            raise torch.cuda.OutOfMemoryError('CUDA out of memory')
        return examine(batch)

    monkeypatch.setattr(network._model, 'examine', short_of_memory)
    found = live.look_at(frames[0].image, boxes).features
    assert np.allclose(found, wanted, atol=1e-4)
    most = 0
    with pytest.raises(EngineError, match='torch failed: CUDA out of memory'):
        live.look_at(frames[0].image, boxes)


def test_an_onnxruntime_that_does_not_import_is_no_reason_to_stop(tmp_path):
    """One that was built for another numpy, or for a GPU whose libraries are not there."""
    broken = tmp_path / 'onnxruntime'
    broken.mkdir()
    (broken / '__init__.py').write_text("raise AttributeError('another numpy')")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.serve.devices import engines_for
from etuner_ros.core.serve.engines import EngineSettings
model = build(pretrained_spec('efficientnet_lite0', 32))
engines = engines_for(EngineSettings(), 'cpu', 1)
print(engines.network(model.spec, model.state()).name, engines.why_not())
"""
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, timeout=120
    )
    assert (
        done.stdout == 'torch-fp32 onnxruntime does not import: another numpy; torch serves\n'
    ), done.stderr


def test_half_precision_needs_a_gpu():
    with pytest.raises(ConfigError, match="'fp16' needs CUDA"):
        Engines(EngineSettings(precision='fp16'), 'cpu')
    with pytest.raises(ConfigError, match='engine must be one of'):
        EngineSettings(engine='tflite')


def test_ranges_travel_with_an_update_and_are_checked(base, ranges):
    name = f'{RANGES}{ranges[0]}'
    check_update(base.state, {name: ranges[1]}, len(base.spec.classes))
    assert ranges_of({name: ranges[1]})[0] == ranges[0]
    assert ranges_of({'head.bias': np.zeros(1)}) is None
    for bad in (ranges[1].astype(np.float64), ranges[1][:, :1], ranges[1][:, ::-1] + 1.0):
        with pytest.raises(WeightsError, match=r'quantised\.ranges'):
            check_update(base.state, {name: np.ascontiguousarray(bad)}, len(base.spec.classes))
    broken = ranges[1].copy()
    broken[0, 0] = np.nan
    with pytest.raises(WeightsError, match='ranges that are none'):
        check_update(base.state, {name: broken}, len(base.spec.classes))


def test_codes_cover_their_ranges():
    scales, zeros = affine(np.array([[0.0, 6.0], [-2.0, 3.1], [1.0, 5.1], [0.0, 0.0]], np.float32))
    assert zeros.tolist() == [0, 100, 0, 0]
    assert np.allclose(scales, [6 / 255, 5.1 / 255, 5.1 / 255, 1.0])
    assert saturates({'fma', 'avx2', 'avx512f'})
    assert not saturates({'avx2', 'avx512f', 'avx512_vnni'})
    assert not saturates({'avx2', 'avx_vnni'})
    assert not saturates(set()), 'not on ARM'
    codes, _ = symmetric(np.array([[1.0, -0.5]], np.float32), most=SEVEN_BITS)
    assert codes.tolist() == [[64, -32]], 'two products with 255 fit into 16 bit'
    codes, steps = symmetric(np.array([[[-1.0]], [[0.5]], [[0.0]]], np.float32))
    assert codes.ravel().tolist() == [-127, 127, 0]
    assert np.allclose(steps, [1 / 127, 0.5 / 127, 1.0])


def test_the_bias_of_a_channel_whose_weights_are_nearly_nothing_still_fits():
    weight, bias = np.full((1, 2), 1e-12, np.float32), np.array([3.0], np.float32)
    _, steps = symmetric(weight, least_steps(bias, 0.02))
    code = np.rint(bias / (np.float32(0.02) * steps))
    assert abs(code[0]) < 2**31
    assert np.isclose(code[0] * 0.02 * steps[0], 3.0)
