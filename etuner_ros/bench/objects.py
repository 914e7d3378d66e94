# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
From camera to objects, and where the time goes: a camera of 640 x 480, all nodes as they ship, and
somebody who names things at first, so that the tuner has pictures to calibrate 8 bit with, and
then listens; `etuner bench objects`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
import json
import os
from pathlib import Path
import tempfile
import time
from typing import Any
from unittest.mock import patch
import uuid

from ament_index_python.packages import get_package_share_directory
import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
import yaml

from etuner_ros.bench import provenance
from etuner_ros.bench.soak.processes import processes_with
from etuner_ros.bench.soak.stage import deploy
from etuner_ros.core.boxes.recording import BoxFrame, BoxRecording
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError
from etuner_ros.msg import LabelCorrection, Objects, Prediction, Regions, TunerStatus
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.messages import stamp_ns
from etuner_ros.nodes.punctual import keep_memory
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS, reliable
from etuner_ros.nodes.region_messages import box_message
from etuner_ros.nodes.running import use_dds_profile
from etuner_ros.shared.supervisor import Supervisor

NODES = ('model_manager', 'inference', 'label_collector', 'tuner', 'proposer')
WIDTH, HEIGHT, RATE_HZ = 640, 480, 10.0
PICTURES = 40  # of the recording, evenly; shown one after the other, again and again
MARK = 'ETUNER_OBJECTS'  # in the environment of every process of a run
LABELS = 48  # things that are named: enough to calibrate with, too few for a round
WARM_UP_S = 8.0
LIMIT_S = 150.0  # until all nodes are up, and 8 bit serve where they are to
PARTS = ('predicted', 'taken', 'looked', 'proposed', 'waited', 'named')


@dataclass(frozen=True)
class Row:
    """What one setting takes, in ms; of parts the median and the 95th percentile."""

    engine: str
    most: int  # regions of an image
    images: int
    regions: float  # mean of an image
    p50_ms: float  # from image stamp until its objects were published
    p95_ms: float
    parts_ms: dict[str, tuple[float, float]]  # see `Outside.parts`
    own_cores: float  # that all nodes and the camera kept busy
    other_cores: float  # that other work did meanwhile: the less, the better the figures


class Outside:
    """A camera before the robot, and somebody who names things and listens."""

    def __init__(self, frames: Sequence[BoxFrame]) -> None:
        self.node = rclpy.create_node('camera')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._frames = frames
        self._messages = [array_to_image(frame.image, Header()) for frame in frames]
        self._shown: dict[int, BoxFrame] = {}  # by stamp
        self._images = self.node.create_publisher(ImageMessage, 'image_raw', NEWEST_WINS)
        self._labels = self.node.create_publisher(LabelCorrection, 'labels', reliable(100))
        self.labels = 0  # that were given
        self.engine = ''  # that serves
        self.tuner_waits = False
        self.clear()
        hear = self.node.create_subscription
        hear(Prediction, 'predictions', self._on_prediction, reliable(100))
        hear(Regions, 'regions', self._on_regions, reliable(100))
        hear(Objects, 'objects', self._on_objects, reliable(100))
        hear(TunerStatus, 'tuner/status', self._on_status, LATCHED)
        hear(DiagnosticArray, '/diagnostics', self._on_diagnostics, reliable(50))

    def clear(self) -> None:
        """Forget what was heard."""
        # By the stamp of the image, all in ms.
        self._predicted: dict[int, float] = {}  # from stamp to prediction
        self._proposed: dict[int, float] = {}  # until its regions are here
        self.objects: dict[int, tuple[float, float]] = {}  # latency; the network and the names
        self.regions: list[int] = []  # of each image
        self._told: dict[str, list[float]] = {'taken': [], 'looked': []}

    def _on_prediction(self, message: Prediction) -> None:
        self._predicted[stamp_ns(message.header)] = message.latency_ms

    def _on_regions(self, message: Regions) -> None:
        stamp = stamp_ns(message.header)
        self._proposed[stamp] = (time.time_ns() - stamp) / 1e6
        self.regions.append(len(message.regions))

    def _on_objects(self, message: Objects) -> None:
        self.objects[stamp_ns(message.header)] = message.latency_ms, message.inference_ms
        if message.kept and self.labels < LABELS:
            self._name(message)

    def _name(self, message: Objects) -> None:
        """Say what the thing is that is seen best."""
        frame = self._shown[stamp_ns(message.header)]
        best = int(frame.shares.argmax())
        self._labels.publish(
            LabelCorrection(
                header=message.header,
                source=message.source,
                frame_uid=message.frame_uid,
                box=box_message(frame.boxes[best]),
                label=frame.labels[best],
                author='bench',
            )
        )
        self.labels += 1

    def _on_status(self, message: TunerStatus) -> None:
        self.tuner_waits = message.state == TunerStatus.WAITING

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            self.engine = values.get('engine', self.engine)
            if 'proposer' in values:
                self._told['taken'].append(float(values['wait ms']))
                self._told['looked'].append(float(values['ms']))

    def parts(self) -> dict[str, list[float]]:
        """
        Return, in ms for each image: `predicted`, from its stamp until the whole image is named,
        beside the rest; `proposed`, from its stamp until its regions are heard; `waited`, from
        there until `inference` looks at them, and publishing; `named`, crops, network and head.
        For an image a second: `taken`, from its stamp until the proposer has it, and `looked`, how
        long that looks; both are parts of `proposed`.
        """
        found: dict[str, list[float]] = {name: [] for name in PARTS} | self._told
        for stamp, (latency, named) in self.objects.items():
            if stamp in self._proposed and stamp in self._predicted:
                proposed = self._proposed[stamp]
                found['predicted'].append(self._predicted[stamp])
                found['proposed'].append(proposed)
                found['waited'].append(latency - named - proposed)
                found['named'].append(named)
        return found

    def play(self, seconds: float) -> None:
        """Show pictures at the rate of the camera."""
        began, number = time.monotonic(), 0
        while (due := number / RATE_HZ) < seconds:
            while (left := began + due - time.monotonic()) > 0:
                self._executor.spin_once(timeout_sec=left)
            place, now = number % len(self._messages), time.time_ns()
            message, self._shown[now] = self._messages[place], self._frames[place]
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
            self._images.publish(message)
            number += 1

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()


@contextmanager
def nodes(base: Path, home: Path, own: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """
    Run all nodes as they ship; yields the mark in the environment of their processes.

    :param own: parameters beyond those, by node
    """
    home.mkdir(parents=True)
    sections = {'/**': {'model': {'weights': str(base), 'input_size': INPUT_SIZE}}}
    sections |= {f'/**/{name}': dict(values) for name, values in own.items()}
    file = home / 'params.yaml'
    file.write_text(yaml.safe_dump({k: {'ros__parameters': v} for k, v in sections.items()}))
    shipped = Path(get_package_share_directory('etuner_ros')) / 'config' / 'etuner.yaml'
    mark = uuid.uuid4().hex
    with patch.dict(os.environ, {MARK: mark, 'ROS_HOME': str(home)}):
        supervisor = Supervisor([shipped, file], home / 'log')
        try:
            for name in NODES:
                supervisor.start(name)
            yield mark
        finally:
            supervisor.stop()


def one_row(
    precision: str, most: int, seconds: float, base: Path, frames: Sequence[BoxFrame]
) -> Row:
    """Measure one setting."""
    own: dict[str, dict[str, Any]] = {
        'inference': {'precision': precision},
        'tuner': {'precision': precision},
        'proposer': {'kind': 'own', 'most': most},
    }
    with (
        tempfile.TemporaryDirectory() as folder,
        nodes(base, Path(folder) / 'home', own) as mark,
        closing(Outside(frames)) as outside,
    ):
        began, wanted = time.monotonic(), f'onnxruntime-{precision}'
        while not (outside.labels == LABELS and outside.engine == wanted and outside.tuner_waits):
            outside.play(1.0)
            if time.monotonic() - began > LIMIT_S:
                raise EtunerError(
                    f'within {LIMIT_S:.0f} s {wanted} does not name objects; what serves is '
                    f'{outside.engine or "nothing"}'
                )
        outside.play(WARM_UP_S)
        outside.clear()
        own_before, all_before = busy_s(mark)
        outside.play(seconds)
        own_after, all_after = busy_s(mark)
    latencies = [latency for latency, _ in outside.objects.values()]
    parts = {name: _percentiles(values) for name, values in outside.parts().items()}
    mean = float(np.mean(outside.regions))
    own_cores = (own_after - own_before) / seconds
    other_cores = (all_after - all_before) / seconds - own_cores
    latency = _percentiles(latencies)
    return Row(wanted, most, len(latencies), mean, *latency, parts, own_cores, other_cores)


def busy_s(mark: str) -> tuple[float, float]:
    """
    Return how long processors were busy, in s: with marked processes and this one, and at all.

    Processes that ended are not counted.
    """
    ticks = os.sysconf('SC_CLK_TCK')
    own = 0
    for pid in (*processes_with(mark), os.getpid()):
        with suppress(OSError):
            fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
            own += int(fields[11]) + int(fields[12])
    counts = [int(n) for n in Path('/proc/stat').read_text().splitlines()[0].split()[1:9]]
    return own / ticks, (sum(counts) - counts[3] - counts[4]) / ticks


def enlarged(frame: BoxFrame) -> BoxFrame:
    """Return a frame as a camera of `WIDTH` x `HEIGHT` would show it."""
    height, width = frame.image.shape[:2]
    scale = np.array([WIDTH / width, HEIGHT / height] * 2, np.float32)
    image = cv2.resize(frame.image, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return replace(frame, image=np.asarray(image, np.uint8), boxes=frame.boxes * scale)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    p50, p95 = np.percentile(values, (50, 95))
    return float(p50), float(p95)


def measure(
    output: Path,
    stream: Path,
    recording: Path,
    precisions: Sequence[str],
    mosts: Sequence[int],
    seconds: float,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """
    Measure and write `objects.json`.

    :param stream: labelled pictures, for the head that the robot comes with
    :param recording: with things, for the camera
    :param precisions: 'fp32', 'int8'
    :param mosts: numbers of regions
    :param seconds: that each is measured
    """
    use_dds_profile()
    keep_memory()  # as the camera has it
    rclpy.init()
    rows = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / 'base.safetensors'
            deploy(stream, base)
            frames = [enlarged(f) for f in BoxRecording(recording) if len(f.boxes)]
            shown = frames[:: max(len(frames) // PICTURES, 1)][:PICTURES]
            for precision in precisions:
                for most in mosts:
                    rows.append(one_row(precision, most, seconds, base, shown))
                    say(line(rows[-1]))
    finally:
        rclpy.shutdown()
    output.mkdir(parents=True, exist_ok=True)
    found = {
        'commit': provenance.git('rev-parse', '--short', 'HEAD'),
        'machine': provenance.machine(),
        'size': [WIDTH, HEIGHT],
        'rate_hz': RATE_HZ,
        'seconds': seconds,
        'rows': [asdict(row) for row in rows],
    }
    (output / 'objects.json').write_text(json.dumps(found, indent=1) + '\n')
    return rows


def line(row: Row) -> str:
    """Return a row of the table."""
    parts = ' | '.join('{:.1f} ({:.1f})'.format(*row.parts_ms[name]) for name in PARTS)
    return (
        f'| {row.engine} | {row.most} | {row.regions:.1f} | {row.images} | {row.p50_ms:.1f} '
        f'({row.p95_ms:.1f}) | {parts} | {row.own_cores:.2f} and {row.other_cores:.2f} |'
    )


def table(rows: Sequence[Row]) -> str:
    """Return the figures as a Markdown table."""
    head = [
        '| engine | regions at most | on the mean | images | camera to objects, ms (p95) | '
        + ' | '.join(PARTS)
        + ' | cores: own and other work |',
        '|---|---|---|---|---|' + '---|' * (len(PARTS) + 1),
    ]
    return '\n'.join([*head, *map(line, rows)])
