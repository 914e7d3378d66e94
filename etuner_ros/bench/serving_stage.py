# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What serving is measured with: a camera, a subscriber, inference as a process, all nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
import os
from pathlib import Path
import signal
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
import yaml

from etuner_ros.bench.swapper import announcement
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import replace_file
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.models.weights import (
    pack,
    pack_base,
    RANGES,
    read_base,
    unpack,
)
from etuner_ros.core.processes import die_with_parent
from etuner_ros.core.serve.calibrate import calibrate
from etuner_ros.msg import Backbone, LabelCorrection, ModelUpdate, Prediction
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS, reliable
from etuner_ros.nodes.running import use_dds_profile
from etuner_ros.shared.supervisor import Supervisor

WIDTH, HEIGHT, RATE_HZ = 640, 480, 30.0
PARTS = ('take', 'convert', 'resize', 'infer', 'publish')  # of the way of a frame
LABELLED = 200  # pictures that rounds train on
ANSWER_S = 1.0  # after the last frame, how long its prediction is waited for
GRAPH_WARM_UP = 600  # predictions before the whole graph is measured
SEPARATE = ('model_manager', 'inference', 'label_collector', 'tuner')  # a process each


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
        self._since = 0.0  # stamp in s of the first picture whose prediction is measured
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

    def quantised(self) -> tuple[Backbone, ModelUpdate]:
        """Return what the tuner makes of the base weights before any round."""
        base, ranges = read_base(self.base), unpack(self.ranges.read_bytes())
        return announcement(base, 1, base.spec.classes, ranges)

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
        if stamp < self._since:  # what an earlier measurement left waiting
            return
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
        self._since = time.time()
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
    process = subprocess.Popen(
        command, stdout=log, stderr=log, env=environment, preexec_fn=die_with_parent
    )
    backbone, version = stage.quantised()
    prefix = f'{namespace}/'.lstrip('/')
    backbones = stage.node.create_publisher(Backbone, f'{prefix}backbone', LATCHED)
    versions = stage.node.create_publisher(ModelUpdate, f'{prefix}model', LATCHED)
    backbones.publish(backbone)
    versions.publish(version)
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
        stage.node.destroy_publisher(backbones)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.close()


@contextmanager
def whole_graph(stage: Stage, executables: Sequence[str] = SEPARATE) -> Iterator[list[int]]:
    """
    Run all nodes; a person confirms what is seen, twice a second, so that rounds run.

    Yields the processes of the executables.
    """
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
        for name in executables:
            supervisor.start(name)
        number = 0

        def warm() -> bool:
            nonlocal number
            number += 1
            stage.publish(number)
            return len(heard) >= GRAPH_WARM_UP

        if not stage.spin_until(warm, 240.0):
            raise EtunerError(f'the nodes do not answer: see {home / "log"}')
        yield [pid for name in executables if (pid := supervisor.pid(name))]
    finally:
        stage.node.destroy_subscription(listener)
        stage.node.destroy_publisher(labels)
        supervisor.stop()
        os.environ.pop('ROS_HOME')
        if before is not None:
            os.environ['ROS_HOME'] = before
