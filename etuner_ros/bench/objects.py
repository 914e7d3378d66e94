# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
From camera to objects, and where the time goes: a camera of 640 x 480, all nodes as they ship, and
somebody who names things at first, so that the tuner has pictures to calibrate 8 bit with, and
then listens; `etuner bench objects`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
import json
import math
import os
from pathlib import Path
import tempfile
import time
from typing import Any

import cv2
from diagnostic_msgs.msg import DiagnosticArray
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from etuner_ros.bench.head_commit import machine
from etuner_ros.bench.live import running, stamp_now, turns
from etuner_ros.bench.soak.processes import processes_with
from etuner_ros.bench.soak.stage import deploy
from etuner_ros.core.boxes.recording import BoxFrame, BoxRecording
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import share
from etuner_ros.core.images.codec import Image
from etuner_ros.msg import LabelCorrection, Objects, Prediction, Regions, TunerStatus
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.messages import stamp_ns
from etuner_ros.nodes.punctual import keep_memory
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS, reliable
from etuner_ros.nodes.region_messages import box_message
from etuner_ros.nodes.running import use_dds_profile

NODES = ('model_manager', 'inference', 'label_collector', 'tuner', 'proposer')
WIDTH, HEIGHT, RATE_HZ = 640, 480, 10.0
PICTURES = 40  # of the recording, evenly; shown one after the other, again and again
LABELS = 48  # things that are named: enough to calibrate with, too few for a round
CAMERAS = 'moving', 'still'
NOISE = 3.0  # standard deviation of a pixel of a camera that stands still, in levels of 255
WARM_UP_S = 8.0
LIMIT_S = 150.0  # until all nodes are up, and 8 bit serve where they are to
PARTS = ('predicted', 'taken', 'looked', 'proposed', 'waited', 'named')


@dataclass(frozen=True)
class Row:
    """What one setting takes, in ms; of parts the median and the 95th percentile."""

    engine: str
    camera: str  # moving: every picture is another one; still: the same picture, with noise
    most: int  # regions of an image
    shown: int  # images
    images: int  # of these, that objects came of: the proposer takes the newest when it has time
    regions: float  # mean of an image
    p50_ms: float  # from image stamp until its objects were published
    p95_ms: float
    parts_ms: dict[str, tuple[float, float]]  # see `Window.parts`
    own_cores: float  # that all nodes and the camera kept busy
    other_cores: float  # that other work did meanwhile: the less, the better the figures


@dataclass
class Window:
    """What was shown and heard for some time; by the stamp of the image in ns, all else in ms."""

    shown: dict[int, BoxFrame] = field(default_factory=dict)
    predicted: dict[int, float] = field(default_factory=dict)  # from stamp to prediction
    proposed: dict[int, float] = field(default_factory=dict)  # until its regions are here
    # From stamp to objects; the network and the names, of that.
    objects: dict[int, tuple[float, float]] = field(default_factory=dict)
    regions: list[int] = field(default_factory=list)  # of each image
    # What the proposer says of itself.
    told: dict[str, list[float]] = field(default_factory=lambda: {'taken': [], 'looked': []})

    def parts(self) -> dict[str, list[float]]:
        """
        Return, in ms for each image with objects: `predicted`, from its stamp until the whole
        image is named, beside the rest; `proposed`, from its stamp until its regions are heard;
        `waited`, from there until `inference` looks at them, and publishing; `named`, crops,
        network and head. For an image a second: `taken`, from its stamp until the proposer has it,
        and `looked`, how long that looks; both are parts of `proposed`.
        """
        found: dict[str, list[float]] = {name: [] for name in PARTS} | self.told
        for stamp, (latency, named) in self.objects.items():
            if stamp in self.proposed and stamp in self.predicted:
                proposed = self.proposed[stamp]
                found['predicted'].append(self.predicted[stamp])
                found['proposed'].append(proposed)
                found['waited'].append(latency - named - proposed)
                found['named'].append(named)
        return found

    def row(
        self, engine: str, camera: str, most: int, own_cores: float, other_cores: float
    ) -> Row:
        """Return what this comes to; of what did not happen, nan."""
        return Row(
            engine,
            camera,
            most,
            len(self.shown),
            len(self.objects),
            float(np.mean(self.regions)) if self.regions else math.nan,
            *_percentiles([latency for latency, _ in self.objects.values()]),
            {name: _percentiles(values) for name, values in self.parts().items()},
            own_cores,
            other_cores,
        )


class Outside:
    """A camera before the robot, and somebody who names things and listens."""

    def __init__(self, frames: Sequence[BoxFrame]) -> None:
        self.node = rclpy.create_node('camera')
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self.node)
        self._frames = frames
        self._messages = [array_to_image(frame.image, Header()) for frame in frames]
        rng = np.random.default_rng(0)
        self._still = [array_to_image(noisy(frames[0].image, rng), Header()) for _ in range(10)]
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
        """Forget what was shown and heard; what still comes of it counts no more."""
        self.window = Window()

    def _on_prediction(self, message: Prediction) -> None:
        self.window.predicted[stamp_ns(message.header)] = message.latency_ms

    def _on_regions(self, message: Regions) -> None:
        stamp = stamp_ns(message.header)
        if stamp in self.window.shown:  # else it is of another robot
            self.window.proposed[stamp] = (time.time_ns() - stamp) / 1e6
            self.window.regions.append(len(message.regions))

    def _on_objects(self, message: Objects) -> None:
        stamp = stamp_ns(message.header)
        frame = self.window.shown.get(stamp)
        if frame is None:  # of another robot
            return
        self.window.objects[stamp] = message.latency_ms, message.inference_ms
        if message.kept and self.labels < LABELS:
            self._name(message, frame)

    def _name(self, message: Objects, frame: BoxFrame) -> None:
        """Say what the thing is that is seen best."""
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
                self.window.told['taken'].append(float(values['wait ms']))
                self.window.told['looked'].append(float(values['ms']))

    def play(self, seconds: float, camera: str = 'moving') -> None:
        """Show pictures at the rate of the camera."""
        messages = self._still if camera == 'still' else self._messages
        for number in turns(self._executor, RATE_HZ, seconds):
            place = number % len(messages)
            message = messages[place]
            frame = self._frames[0 if camera == 'still' else place]
            self.window.shown[stamp_now(message.header)] = frame
            self._images.publish(message)

    def close(self) -> None:
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()


def two_rows(
    precision: str, most: int, seconds: float, base: Path, frames: Sequence[BoxFrame]
) -> Iterator[Row]:
    """Measure one setting, of a camera that moves and of one that stands still."""
    own: dict[str, dict[str, Any]] = {
        '/**': {'model': {'weights': str(base), 'input_size': INPUT_SIZE}},
        '/**/inference': {'precision': precision},
        '/**/tuner': {'precision': precision},
        '/**/proposer': {'kind': 'own', 'most': most},
    }
    shipped = share() / 'config' / 'etuner.yaml'
    with (
        tempfile.TemporaryDirectory() as folder,
        running(NODES, own, Path(folder) / 'home', upon=[shipped]) as mark,
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
        for camera in CAMERAS:
            outside.play(WARM_UP_S, camera)
            outside.clear()
            own_before, all_before = busy_s(mark)
            outside.play(seconds, camera)
            own_after, all_after = busy_s(mark)
            own_cores = (own_after - own_before) / seconds
            other_cores = (all_after - all_before) / seconds - own_cores
            yield outside.window.row(wanted, camera, most, own_cores, other_cores)


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


def noisy(image: Image, rng: np.random.Generator) -> Image:
    """Return a picture, RGB uint8 (H, W, 3), as a sensor sees it once more."""
    noise = rng.normal(0.0, NOISE, image.shape)
    return np.asarray(np.clip(image + noise, 0, 255), np.uint8)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
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
    Measure and write `objects.json`, after each row.

    :param stream: labelled pictures, for the head that the robot comes with
    :param recording: with things, for the camera
    :param precisions: 'fp32', 'int8'
    :param mosts: numbers of regions
    :param seconds: that each is measured
    """
    where = machine()  # before anything runs
    use_dds_profile()
    keep_memory()  # as the camera has it
    output.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    found = {
        'commit': where['commit'],
        'machine': where,
        'size': [WIDTH, HEIGHT],
        'rate_hz': RATE_HZ,
        'seconds': seconds,
    }
    rclpy.init()
    try:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder) / 'base.safetensors'
            deploy(stream, base)
            frames = [enlarged(f) for f in BoxRecording(recording) if len(f.boxes)]
            shown = frames[:: max(len(frames) // PICTURES, 1)][:PICTURES]
            for precision in precisions:
                for most in mosts:
                    for row in two_rows(precision, most, seconds, base, shown):
                        rows.append(row)
                        say(line(row))
                        found['rows'] = [asdict(r) for r in rows]
                        (output / 'objects.json').write_text(json.dumps(found, indent=1) + '\n')
    finally:
        rclpy.shutdown()
    return rows


def line(row: Row) -> str:
    """Return a row of the table."""
    parts = ' | '.join('{:.1f} ({:.1f})'.format(*row.parts_ms[name]) for name in PARTS)
    return (
        f'| {row.engine} | {row.camera} | {row.most} | {row.regions:.1f} | '
        f'{row.images} of {row.shown} | '
        f'{row.p50_ms:.1f} ({row.p95_ms:.1f}) | {parts} | '
        f'{row.own_cores:.2f} and {row.other_cores:.2f} |'
    )


def table(rows: Sequence[Row]) -> str:
    """Return the figures as a Markdown table."""
    head = [
        '| engine | camera | regions at most | on the mean | images with objects | '
        + ' | '.join(['camera to objects, ms (p95)', *PARTS])
        + ' | cores: own and other work |',
        '|---|---|---|---|---|---|' + '---|' * (len(PARTS) + 1),
    ]
    return '\n'.join([*head, *map(line, rows)])
