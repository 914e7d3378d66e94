# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What several cameras cost: frames per second and latency of each, and the memory of all nodes, with
one `inference` for all cameras and with all nodes once more in a namespace for each.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
import json
from pathlib import Path
import tempfile
import time
from typing import Any

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from etuner_ros.bench.head_commit import machine
from etuner_ros.bench.live import running, stamp_now, turns
from etuner_ros.bench.soak.processes import memory_mb, processes_with
from etuner_ros.bench.soak.stage import deploy, Stage
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError
from etuner_ros.msg import Prediction, TunerStatus
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS, reliable
from etuner_ros.nodes.running import use_dds_profile

NODES = ('model_manager', 'inference', 'label_collector', 'tuner')
WIDTH, HEIGHT, RATE_HZ = 640, 480, 15.0
WARM_UP_S = 15.0  # the network of onnxruntime is warm, and what starts has started
LIMIT_S = 120.0
ONE, EACH = 'one inference for all', 'all nodes for each'


@dataclass(frozen=True)
class Row:
    """What so many cameras cost."""

    way: str
    cameras: int
    rate_hz: float  # of each camera
    predicted_hz: list[float]  # of each camera
    p50_ms: float  # from image stamp to prediction
    p99_ms: float
    memory_mb: float  # of all nodes and of the worker of the tuner: proportional, resident


class Rig:
    """Cameras that show pictures, and somebody who hears what is predicted."""

    def __init__(self, pictures: list[np.ndarray], topics: dict[str, tuple[str, str]]) -> None:
        """
        Make the publishers.

        :param topics: of each camera: prefix of its image, and prefix of the predictions
        """
        self.node = rclpy.create_node('cameras')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.names = list(topics)
        self.latencies: dict[str, list[float]] = defaultdict(list)  # in s, by camera
        self.ready: set[str] = set()  # prefixes of tuners that wait for labels
        self._messages = [array_to_image(picture, Header()) for picture in pictures]
        self._cameras = {
            name: self.node.create_publisher(ImageMessage, f'{image}image_raw', NEWEST_WINS)
            for name, (image, _) in topics.items()
        }
        self.prefixes = {prefix for _, prefix in topics.values()}
        alone = {prefix: name for name, (_, prefix) in topics.items()}
        several = len(self.prefixes) < len(topics)
        for prefix in self.prefixes:
            self.node.create_subscription(
                Prediction,
                f'{prefix}predictions',
                partial(self._on_prediction, '' if several else alone[prefix]),
                reliable(100),
            )
            self.node.create_subscription(
                TunerStatus, f'{prefix}tuner/status', partial(self._on_status, prefix), LATCHED
            )

    def _on_prediction(self, name: str, message: Prediction) -> None:
        stamp = message.header.stamp
        age = time.time() - stamp.sec - 1e-9 * stamp.nanosec
        self.latencies[name or message.source].append(age)

    def _on_status(self, prefix: str, message: TunerStatus) -> None:
        if message.state == TunerStatus.WAITING:
            self.ready.add(prefix)

    def play(self, seconds: float, rate_hz: float) -> None:
        """Have all cameras show pictures, one after the other within a period."""
        for number in turns(self.executor, rate_hz * len(self.names), seconds):
            turn, camera = divmod(number, len(self.names))
            message = self._messages[turn % len(self._messages)]
            stamp_now(message.header)
            self._cameras[self.names[camera]].publish(message)

    def close(self) -> None:
        """Leave the graph."""
        self.executor.shutdown()
        self.node.destroy_node()


def one_row(
    way: str, count: int, rate_hz: float, seconds: float, base: Path, pictures: list[np.ndarray]
) -> Row:
    """Measure one number of cameras."""
    names = ['camera', *(f'camera{i}' for i in range(2, count + 1))]
    shared = way == ONE
    topics = {n: (f'{n}/', '' if shared else f'{n}/') for n in names}
    if count == 1:
        topics = {names[0]: ('', '')}
    parameters: dict[str, dict[str, Any]] = {
        '/**': {
            'autostart': True,
            'model': {'weights': str(base), 'input_size': INPUT_SIZE},
        }
    }
    if shared and count > 1:
        parameters['/**/inference'] = {'cameras': names}
    namespaces = [''] if shared or count == 1 else [f'/{n}' for n in names]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(NODES, parameters, Path(folder) / 'home', namespaces=namespaces) as mark,
        closing(Rig(pictures, topics)) as rig,
    ):
        began = time.monotonic()
        while rig.ready != rig.prefixes or len(rig.latencies) < count:
            rig.play(1.0, 5.0)
            if time.monotonic() - began > LIMIT_S:
                raise EtunerError('the nodes do not come up within two minutes')
        rig.play(WARM_UP_S, rate_hz)
        rig.latencies.clear()
        rig.play(seconds, rate_hz)
        memory = sum(memory_mb(pid) for pid in processes_with(mark))
    found = [rig.latencies[name] for name in names]
    ages = 1e3 * np.concatenate([np.asarray(f) for f in found])
    p50, p99 = (float(np.percentile(ages, q)) for q in (50, 99))
    return Row(way, count, rate_hz, sorted(len(f) / seconds for f in found), p50, p99, memory)


def measure(
    output: Path,
    stream: Path,
    counts: list[int],
    separate: list[int],
    seconds: float,
    say: Any = print,
) -> list[Row]:
    """
    Measure and write `cameras.json`.

    :param stream: labelled pictures
    :param counts: numbers of cameras of one inference
    :param separate: numbers of cameras that have all nodes each
    :param seconds: that each is measured
    """
    where = machine()  # before anything runs
    use_dds_profile()
    rclpy.init()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / 'base.safetensors'
            deploy(stream, base)
            shown = Stage(base, stream, Path(folder)).pictures()[:20]
            pictures = [cv2.resize(image, (WIDTH, HEIGHT)) for image, _ in shown]
            for way, numbers in ((ONE, counts), (EACH, separate)):
                for count in numbers:
                    rows.append(one_row(way, count, RATE_HZ, seconds, base, pictures))
                    say(line(rows[-1]))
    finally:
        rclpy.shutdown()
    output.mkdir(parents=True, exist_ok=True)
    found = {
        'commit': where['commit'],
        'machine': where,
        'size': [WIDTH, HEIGHT],
        'seconds': seconds,
        'rows': [asdict(row) for row in rows],
    }
    (output / 'cameras.json').write_text(json.dumps(found, indent=1) + '\n')
    return rows


def line(row: Row) -> str:
    """Return a row of the table."""
    slowest, fastest = min(row.predicted_hz), max(row.predicted_hz)
    return (
        f'| {row.way} | {row.cameras} | {slowest:.1f} to {fastest:.1f} | {row.p50_ms:.1f} | '
        f'{row.p99_ms:.1f} | {row.memory_mb:.0f} |'
    )


def table(rows: list[Row]) -> str:
    """Return the figures as a Markdown table."""
    head = [
        f'| way | cameras of {RATE_HZ:.0f} Hz | predictions/s of each | p50, ms | p99, ms | '
        f'memory, MB |',
        '|---|---|---|---|---|---|',
    ]
    return '\n'.join([*head, *map(line, rows)])
