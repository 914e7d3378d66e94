# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Serving under load: how long a prediction takes, from image stamp to the subscriber, at 640 x 480
and 30 Hz, while the robot idles, tunes and swaps, and with the whole graph beside it; and the
engines side by side, each with its swaps; `make bench-serving`.

The modes take turns, several times over; the median of a mode's repetitions counts. Beside the
real nodes stand the bare model (same resize, normalise and forward on an array in memory) and
tuning in a thread of the inference process, which is what this package does not do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
import json
import os
from pathlib import Path
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
import yaml

from etuner_ros.bench.datasets import recording
from etuner_ros.bench.engines import accuracy, networks_of, time_in_turns
from etuner_ros.bench.soak import swap_weights
from etuner_ros.bench.swapper import announcing
from etuner_ros.bench.table import machine
from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import replace_file
from etuner_ros.core.images.codec import encode_jpeg, Image, resize_square
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.models.weights import (
    pack,
    pack_base,
    RANGES,
    read_base,
    sha256,
    unpack,
)
from etuner_ros.core.serve.calibrate import calibrate
from etuner_ros.core.serve.engines import Engines
from etuner_ros.core.serve.graph_file import ranges_of
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.msg import LabelCorrection, ModelUpdate, Prediction
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.messages import to_bytes
from etuner_ros.nodes.parameters import ModelSettings
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS, reliable
from etuner_ros.nodes.running import use_dds_profile
from etuner_ros.shared.supervisor import Supervisor
from etuner_ros.worker.client import WorkerClient

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30.0
MODES = ('bare_model', 'idle', 'tuning', 'tuning_in_thread', 'swapping', 'whole_graph')
PARTS = ('take', 'convert', 'resize', 'infer', 'publish')  # of the way of a frame
LABELLED = 200  # pictures that rounds train on
SWAP_PERIOD_S = 2.0
ANSWER_S = 1.0  # after the last frame, how long its prediction is waited for
INPUT_SIZE = ModelSettings().input_size
SWAP_EVERY = 9  # pictures between two swaps
GRAPH_WARM_UP = 600  # predictions before the whole graph is measured


@dataclass
class Measured:
    """What one repetition of a mode gave."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    frames: int
    dropped: int
    train_samples_per_s: float | None = None
    versions: int = 1
    parts_ms: dict[str, float] | None = None  # medians; they need not add up to the median


def measured(latencies: list[float], sent: int) -> Measured:
    """Return percentiles of latencies in s."""
    if not latencies:
        raise EtunerError('no prediction came: look at the log of inference')
    values = 1e3 * np.asarray(latencies)
    p50, p95, p99 = (float(np.percentile(values, q)) for q in (50, 95, 99))
    return Measured(p50, p95, p99, float(values.max()), sent, sent - len(latencies))


class Stage:
    """A camera, a subscriber, and what the modes need."""

    def __init__(self, stream: Path, folder: Path) -> None:
        self.folder, self.source = folder, stream
        os.environ['ETUNER_GRAPHS'] = str(folder / 'graphs')  # of all that runs here
        self.frames = [f for f in open_source(str(stream)) if f.label][: LABELLED + 40]
        self.base = folder / 'deployed.safetensors'
        self._deploy()
        self.pictures = [_camera_picture(f.image) for f in self.frames[:40]]
        self.ranges = folder / 'ranges.safetensors'  # of activations: versions are quantised
        self._calibrate()
        use_dds_profile()
        rclpy.init()
        self.node = rclpy.create_node('bench_camera')
        self.cameras: dict[str, Any] = {}  # publisher by namespace
        self.heard: Counter[str] = Counter()  # predictions by namespace
        self.sent: dict[int, int] = {}  # number of the picture by its stamp in ns
        self.add_camera('')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.latencies: list[float] = []
        self.parts: dict[str, list[float]] = {name: [] for name in PARTS}
        self.versions: set[int] = set()

    def _deploy(self) -> None:
        import torch

        from etuner_ros.core.models.deploy import fit_head
        from etuner_ros.core.models.networks import build, pretrained_spec

        torch.set_num_threads(1)
        model = build(pretrained_spec('efficientnet_lite0', INPUT_SIZE), 'pretrained')
        images = [resize_square(f.image, INPUT_SIZE) for f in self.frames]
        fit_head(model, images, [f.label for f in self.frames])
        replace_file(self.base, pack_base(model.state(), model.spec, model.unit_sizes))

    def _calibrate(self) -> None:
        base = read_base(self.base)
        pictures = [resize_square(p, base.spec.input_size) for p in self.pictures]
        layout, values = calibrate(base.spec, base.state, pictures)
        self.ranges.write_bytes(pack({f'{RANGES}{layout}': values}))

    def quantised(self) -> ModelUpdate:
        """Return what the tuner makes of the base weights before any round."""
        base, data = read_base(self.base), self.ranges.read_bytes()
        return ModelUpdate(
            version=1,
            base_sha256=base.sha256,
            sha256=sha256(data),
            architecture=base.spec.architecture,
            classes=base.spec.classes,
            weights=to_bytes(data),
        )

    def add_camera(self, namespace: str) -> None:
        """Add a camera that shows the same pictures."""
        topic = f'{namespace}/image_raw'.lstrip('/')
        self.cameras[namespace] = self.node.create_publisher(ImageMessage, topic, NEWEST_WINS)
        self.node.create_subscription(
            Prediction,
            f'{namespace}/predictions'.lstrip('/'),
            partial(self._on_prediction, namespace),
            reliable(50),
        )

    def _on_prediction(self, namespace: str, message: Prediction) -> None:
        self.heard[namespace] += 1
        stamp = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        latency = time.time() - stamp
        self.latencies.append(latency)
        inside = message.inference_ms - message.resize_ms
        took = (message.wait_ms, message.convert_ms, message.resize_ms, inside)
        for name, value in zip(PARTS, (*took, 1e3 * latency - sum(took))):
            self.parts[name].append(value)
        self.versions.add(message.model_version)

    def spin_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Spin until a condition holds."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                return False
            self.executor.spin_once(timeout_sec=0.05)
        return True

    def publish(self, number: int) -> None:
        """Publish a picture from each camera, stamped now."""
        now = time.time()
        header = Header(frame_id='camera')
        header.stamp.sec, header.stamp.nanosec = int(now), int((now % 1.0) * 1e9)
        self.sent[header.stamp.sec * 10**9 + header.stamp.nanosec] = number
        picture = self.pictures[number % len(self.pictures)]
        message = array_to_image(picture, header)
        for camera in self.cameras.values():
            camera.publish(message)

    def stream(self, frames: int, rate_hz: float = RATE_HZ) -> Measured:
        """Publish so many pictures from each camera and collect what comes back."""
        self.spin_until(lambda: False, 0.3)
        self.latencies.clear()
        self.versions.clear()
        for part in self.parts.values():
            part.clear()
        begin = time.monotonic()
        for number in range(frames):
            due = begin + number / rate_hz
            while (left := due - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left)
            self.publish(number)
        sent = frames * len(self.cameras)
        self.spin_until(lambda: len(self.latencies) >= sent, ANSWER_S)
        result = measured(self.latencies, sent)
        result.versions = len(self.versions)
        result.parts_ms = {name: statistics.median(v) for name, v in self.parts.items()}
        return result

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown()


def _camera_picture(image: Image) -> Image:
    import cv2

    return np.asarray(cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR), np.uint8)


@contextmanager
def inference(stage: Stage, train_in_thread: bool = False, namespace: str = '') -> Iterator[Path]:
    """Run the inference node in a process; yields the file that it counts samples in."""
    counts = stage.folder / 'trained'
    counts.unlink(missing_ok=True)
    command = [
        sys.executable,
        '-m',
        'etuner_ros.bench.inference_process',
        str(counts) if train_in_thread else '',
        str(stage.base),
        str(stage.source),
        str(LABELLED),
        '--ros-args',
        '-p',
        'autostart:=true',
        '-p',
        f'model.weights:={stage.base}',
        '-p',
        f'model.input_size:={INPUT_SIZE}',
        '-p',
        'threads:=1',
        '-r',
        f'__ns:=/{namespace}',
    ]
    log = (stage.folder / 'inference.log').open('ab')
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    versions = stage.node.create_publisher(ModelUpdate, f'{namespace}/model'.lstrip('/'), LATCHED)
    versions.publish(stage.quantised())
    try:
        stage.versions.clear()
        stage.latencies.clear()
        stage.heard.clear()
        number = 0

        def answered() -> bool:
            nonlocal number
            number += 1
            stage.publish(number)
            return stage.heard[namespace] >= 10

        def quantised() -> bool:
            answered()
            return 1 in stage.versions

        if not stage.spin_until(answered, 60.0) or not stage.spin_until(quantised, 60.0):
            raise EtunerError(f'inference does not answer: see {stage.folder / "inference.log"}')
        yield counts
    finally:
        stage.node.destroy_publisher(versions)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


class Training:
    """The tuner's worker, kept busy: one round after the other on the same labelled pictures."""

    def __init__(self, stage: Stage) -> None:
        self.samples = 0
        self._round = 0
        self._ready = threading.Event()
        self._train = TrainConfig()
        # Nothing is frozen and every batch is as expensive as it can be: the hardest neighbour.
        freeze = SimFreezeConfig(enabled=False)
        self._client = WorkerClient(self._train, freeze, HeadConfig(), self._on_message)
        self._client.send(
            {
                'op': 'open',
                'path': str(stage.base),
                'architecture': 'efficientnet_lite0',
                'input_size': INPUT_SIZE,
                'weights': '',
            }
        )
        self._samples = [
            {
                'id': str(i),
                'label': f.label,
                'predicted': '',
                'image': encode_jpeg(f.image),
                'scenario': ['camera', 0],
            }
            for i, f in enumerate(stage.frames[:LABELLED])
        ]
        base = read_base(stage.base)
        self._model = {
            'op': 'model',
            'version': 0,
            'classes': list(base.spec.classes),
            'weights': pack({}),
        }
        if not self._ready.wait(60.0):
            raise EtunerError('the worker did not load the model')

    def _on_message(self, message: dict[str, Any]) -> None:
        if message['op'] == 'ready':
            self._client.send(self._model)
        elif message['op'] == 'model_loaded':
            self._next()
            self._ready.set()
        elif message['op'] == 'progress':
            self.samples += self._train.batch_size
        elif message['op'] in ('candidate', 'nothing', 'failed'):
            self._client.send(self._model)  # back to what is live, and again

    def _next(self) -> None:
        self._round += 1
        # Other names each time: a sample is new once.
        samples = [{**s, 'id': f'{s["id"]}/{self._round}'} for s in self._samples]
        message = {'op': 'samples', 'samples': samples, 'new': True}
        self._client.send({**message, 'renamed': [], 'withdrawn': []})
        self._client.send({'op': 'round', 'id': self._round, 'scenarios': {'camera': 0}})

    def rate(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Return the samples trained a second while something runs, and what that returned."""
        before, began = self.samples, time.monotonic()
        value = run()
        return (self.samples - before) / (time.monotonic() - began), value

    def close(self) -> None:
        """End the worker."""
        self._client.close()


def bare_model(stage: Stage, frames: int) -> Measured:
    """Resize, normalise and run the model on arrays in memory, at the camera's rate."""
    import torch

    torch.set_num_threads(1)
    engines = Engines()
    base = read_base(stage.base)
    engines.network(base.spec, base.state, wait=True)  # the graph is there from now on
    live = LiveModel(base, engines)
    data = bytearray(stage.ranges.read_bytes())
    engines.network(base.spec, base.state, ranges_of(unpack(bytes(data))), wait=True)
    live.swap(live.prepare(1, base.spec.classes, data, sha256(data)))
    latencies = []
    begin = time.monotonic()
    for number in range(frames):
        time.sleep(max(0.0, begin + number / RATE_HZ - time.monotonic()))
        started = time.perf_counter()
        live.predict(stage.pictures[number % len(stage.pictures)], 3)
        latencies.append(time.perf_counter() - started)
    return measured(latencies, frames)


def run_mode(stage: Stage, mode: str, frames: int) -> Measured:
    """Run one repetition of a mode."""
    if mode == 'bare_model':
        return bare_model(stage, frames)
    if mode == 'whole_graph':
        with whole_graph(stage):
            return stage.stream(frames)
    if mode == 'tuning_in_thread':
        with inference(stage, train_in_thread=True) as counts:
            before, began = _count(counts), time.monotonic()
            result = stage.stream(frames)
            rate = (_count(counts) - before) / (time.monotonic() - began)
            result.train_samples_per_s = rate
            return result
    with inference(stage):
        if mode == 'tuning':
            training = Training(stage)
            try:
                training.rate(lambda: stage.spin_until(lambda: training.samples > 0, 30.0))
                rate, result = training.rate(lambda: stage.stream(frames))
            finally:
                training.close()
            result.train_samples_per_s = rate
            return result  # type: ignore[no-any-return]
        if mode == 'swapping':
            count = max(1, int(frames / RATE_HZ / SWAP_PERIOD_S))
            with announcing(stage.base, 2, count, SWAP_PERIOD_S, stage.ranges):
                return stage.stream(frames)
        return stage.stream(frames)


@contextmanager
def whole_graph(stage: Stage) -> Iterator[None]:
    """Run all nodes; a person confirms what is seen, twice a second, so that rounds run."""
    home = stage.folder / 'graph'
    values = {'autostart': True, 'model': {'weights': str(stage.base), 'input_size': INPUT_SIZE}}
    home.mkdir(exist_ok=True)
    file = home / 'params.yaml'
    file.write_text(yaml.safe_dump({'/**': {'ros__parameters': values}}))
    before = os.environ.get('ROS_HOME')
    os.environ['ROS_HOME'] = str(home)
    supervisor = Supervisor([file], home / 'log', restart_delay_s=0.5)
    labels = stage.node.create_publisher(LabelCorrection, 'labels', reliable(100))
    shown = {i: f.label for i, f in enumerate(stage.frames[: len(stage.pictures)])}
    heard: list[Prediction] = []
    told = 0.0

    def tell(message: Prediction) -> None:
        nonlocal told
        heard.append(message)
        if message.kept and time.monotonic() - told > 0.5:
            told = time.monotonic()
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            label = shown[stage.sent.get(stamp, 0) % len(shown)]
            labels.publish(
                LabelCorrection(
                    header=message.header, source=message.source, label=label, author='bench'
                )
            )

    listener = stage.node.create_subscription(Prediction, 'predictions', tell, reliable(50))
    try:
        for name in ('model_manager', 'inference', 'label_collector', 'tuner'):
            supervisor.start(name)
        number = 0

        def warm() -> bool:
            nonlocal number
            number += 1
            stage.publish(number)
            return len(heard) >= GRAPH_WARM_UP

        if not stage.spin_until(warm, 240.0):
            raise EtunerError(f'the nodes do not answer: see {home / "log"}')
        yield
    finally:
        stage.node.destroy_subscription(listener)
        stage.node.destroy_publisher(labels)
        supervisor.stop()
        os.environ.pop('ROS_HOME')
        if before is not None:
            os.environ['ROS_HOME'] = before


def swaps_by_engine(stage: Stage, swaps: int) -> dict[str, dict[str, Any]]:
    """
    Swap backbones under the camera with each engine.

    :return: by engine `swap_gap_ratio`, `frames_dropped_by_swaps`, `mixed_versions`, and gaps
    """
    found = {}
    for name in ('torch-fp32', 'onnxruntime-fp32', 'onnxruntime-int8'):
        engine, _, precision = name.partition('-')
        home = stage.folder / f'swaps-{name}'
        settings = {'engine': engine, 'precision': precision}
        coded = stage.ranges if precision == 'int8' else None
        result = swap_weights(
            stage.base, stage.pictures[0], home, swaps, SWAP_EVERY, RATE_HZ, settings, coded
        )
        found[name] = asdict(result)
        print(
            f'{swaps} swaps, {name}: {result.frames_dropped_by_swaps} frames dropped, gap ratio '
            f'{result.swap_gap_ratio:.2f}',
            file=sys.stderr,
            flush=True,
        )
    return found


def engines_side_by_side(stage: Stage, swaps: int, turns: int) -> dict[str, dict[str, Any]]:
    """Return milliseconds, accuracy and swaps of each engine at the size that is served."""
    base = read_base(stage.base)
    pictures = [resize_square(p, base.spec.input_size) for p in stage.pictures]
    networks = networks_of(base.spec, base.state, pictures)
    times = time_in_turns(networks, dict.fromkeys(networks, pictures), turns)
    sets = {'recording': recording(stage.source)}
    measured_int8 = accuracy(sets, base.spec.architecture, base.spec.input_size, print_err)
    delta = measured_int8['recording']['int8_minus_fp32']
    swapped = swaps_by_engine(stage, swaps) if swaps else {}
    return {
        name: {
            'pixels': base.spec.input_size,
            **row,
            'accuracy_delta': delta if name.endswith('int8') else 0.0,
            **{
                key: swapped[name][key]
                for key in (
                    'swap_gap_ratio',
                    'frames_dropped_by_swaps',
                    'swaps',
                    'mixed_versions',
                    'gap_p999_with_ms',
                    'gap_p999_without_ms',
                )
                if name in swapped
            },
        }
        for name, row in times.items()
    }


def print_err(text: str) -> None:
    """Tell of progress."""
    print(text, file=sys.stderr, flush=True)


def _count(file: Path) -> int:
    return int(file.read_text() or 0) if file.exists() else 0


def unloaded(stage: Stage, seconds: float) -> float:
    """Return the samples the worker trains a second with nothing beside it."""
    training = Training(stage)
    try:
        stage.spin_until(lambda: training.samples > 0, 30.0)
        rate, _ = training.rate(lambda: time.sleep(seconds))
    finally:
        training.close()
    return rate


def serve(stream: Path, output: Path, frames: int, repetitions: int, swaps: int) -> dict[str, Any]:
    """
    Measure all modes in turns, then the engines, and write `serving.json`.

    :param frames: of each mode, over all repetitions
    :param swaps: of each engine; 0 leaves them out
    """
    each = -(-frames // repetitions)
    found: dict[str, list[Measured]] = {mode: [] for mode in MODES}
    free: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(stream, Path(folder))
        try:
            for repetition in range(repetitions):
                for mode in MODES:
                    result = run_mode(stage, mode, each)
                    found[mode].append(result)
                    print(
                        f'{repetition + 1} of {repetitions}, {mode}: p50 {result.p50_ms:.1f}, '
                        f'p99 {result.p99_ms:.1f} ms, {result.dropped} of {each} dropped',
                        file=sys.stderr,
                        flush=True,
                    )
                free.append(unloaded(stage, each / RATE_HZ))
            engines = engines_side_by_side(stage, swaps, max(3 * repetitions, 3))
        finally:
            stage.close()
    modes = {mode: _median(results) for mode, results in found.items()}
    baseline = statistics.median(free)
    overheads = [
        i.p50_ms - b.p50_ms for i, b in zip(found['idle'], found['bare_model'], strict=True)
    ]
    answer = {
        'modes': modes,
        'engines': engines,
        'overhead_p50_ms': modes['idle']['p50_ms'] - modes['bare_model']['p50_ms'],
        'overhead_p50_range_ms': [min(overheads), max(overheads)],
        'parts_p50_ms': modes['idle']['parts_ms'],
        'unloaded_train_samples_per_s': baseline,
        'p99_tuning_vs_idle': modes['tuning']['p99_ms'] / modes['idle']['p99_ms'],
        'training_vs_unloaded': modes['tuning']['train_samples_per_s'] / baseline,
        'frames_per_repetition': each,
        'repetitions': {mode: [asdict(r) for r in results] for mode, results in found.items()},
        'setting': {
            'image': f'{WIDTH}x{HEIGHT} rgb8',
            'rate_hz': RATE_HZ,
            'model': 'efficientnet_lite0',
            'input_size': INPUT_SIZE,
            'threads': 1,
        },
        'machine': machine(),
        'commit': machine()['commit'],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / 'serving.json').write_text(json.dumps(answer, indent=1) + '\n')
    return answer


def _median(results: list[Measured]) -> dict[str, Any]:
    """Return the medians over repetitions; frames and drops are sums."""
    rates = [r.train_samples_per_s for r in results if r.train_samples_per_s is not None]
    return {
        **{
            key: statistics.median(getattr(r, key) for r in results)
            for key in ('p50_ms', 'p95_ms', 'p99_ms', 'max_ms')
        },
        'p50_range_ms': [min(r.p50_ms for r in results), max(r.p50_ms for r in results)],
        'p99_range_ms': [min(r.p99_ms for r in results), max(r.p99_ms for r in results)],
        'parts_ms': {
            name: statistics.median(r.parts_ms[name] for r in results if r.parts_ms)
            for name in PARTS
        }
        if results[0].parts_ms
        else None,
        'frames': sum(r.frames for r in results),
        'dropped': sum(r.dropped for r in results),
        'train_samples_per_s': statistics.median(rates) if rates else None,
        'versions': max(r.versions for r in results),
    }


def table(answer: dict[str, Any]) -> str:
    """Return the modes as a Markdown table, and the three figures that matter."""
    lines = [
        '| mode | p50, ms | p95, ms | p99, ms | longest, ms | frames | dropped | samples trained '
        'a second |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for mode, m in answer['modes'].items():
        rate = '-' if m['train_samples_per_s'] is None else f'{m["train_samples_per_s"]:.1f}'
        lines.append(
            f'| {mode} | {m["p50_ms"]:.1f} | {m["p95_ms"]:.1f} | {m["p99_ms"]:.1f} | '
            f'{m["max_ms"]:.1f} | {m["frames"]} | {m["dropped"]} | {rate} |'
        )
    return '\n'.join(lines) + (
        f'\n\np99 while tuning: {answer["p99_tuning_vs_idle"]:.2f} of idle, with '
        f'{100 * answer["training_vs_unloaded"]:.0f} % of the unloaded training throughput; ROS '
        f'and conversion: {answer["overhead_p50_ms"]:.1f} ms at p50, of a frame '
        + ', '.join(f'{name} {ms:.2f}' for name, ms in answer['parts_p50_ms'].items())
        + ' ms\n\n'
        + _engine_table(answer['engines'])
    )


def _engine_table(engines: dict[str, dict[str, Any]]) -> str:
    lines = [
        '| engine | px | p50, ms | over turns | p99, ms | accuracy, points | swaps | dropped | '
        'gap ratio |',
        '|---|---|---|---|---|---|---|---|---|',
    ]
    for name, row in engines.items():
        low, high = row['p50_range_ms']
        lines.append(
            f'| {name} | {row["pixels"]} | {row["p50_ms"]:.2f} | {low:.2f} to {high:.2f} | '
            f'{row["p99_ms"]:.2f} | {row["accuracy_delta"]:+.2f} | {row.get("swaps", 0)} | '
            f'{row.get("frames_dropped_by_swaps", "-")} | {row.get("swap_gap_ratio", 0.0):.2f} |'
        )
    return '\n'.join(lines)
