# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The robot of a soak: its nodes as processes, as launched; cameras, and a person who labels what the
robot sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
import math
import os
from pathlib import Path
import time
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
import yaml

from etuner_ros.bench.soak.processes import children_of, MARK, memory_mb, processes_with
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import ASIDE, share
from etuner_ros.core.images.codec import Image
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.models.store import ModelStore
from etuner_ros.core.models.weights import read_base
from etuner_ros.msg import (
    Box,
    GroundTruth,
    LabelCorrection,
    LabelReceipt,
    ModelUpdate,
    Prediction,
    Region,
    Regions,
)
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.messages import stamp_ns
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS, reliable
from etuner_ros.shared.supervisor import Supervisor

NODES = ('model_manager', 'inference', 'label_collector', 'tuner')
RESUME_LIMIT_S = 60.0
LEARN_LIMIT_S = 180.0  # for the first start and the first version, on a busy machine too
REMEMBERED = 3000  # pictures of which it is known what they show
AUTHOR = 'ann'
FAR_AUTHOR = 'bob'  # over the radio


@dataclass
class Result:
    """What became of the promises."""

    predictions: int = 0
    labels_sent: int = 0
    labels_accepted: int = 0
    labels_lost: int = 0
    stores_unloadable: int = 0
    orphans: int = 0
    versions_made: int = 0
    not_resumed: int = 0
    resume_s: list[float] = field(default_factory=list)  # after inference had died
    temporary_files: int = 0
    minutes: float = 0.0

    @property
    def broken(self) -> list[str]:
        """What was promised and not kept, in words."""
        promises = {
            'accepted labels are not in the store': self.labels_lost,
            'stores do not open': self.stores_unloadable,
            'processes were left': self.orphans,
            'times it did not go on by itself': self.not_resumed,
            'temporary files were left': self.temporary_files,
        }
        return [f'{count} {what}' for what, count in promises.items() if count]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it."""
        resume = self.resume_s or [0.0]
        return {
            **asdict(self),
            'resume_s': {
                'median': round(float(np.median(resume)), 2),
                'max': round(max(resume), 2),
            },
            'minutes': round(self.minutes, 2),
        }


class Outside:
    """
    A node beside the robot, whose nodes run as processes with their own `ROS_HOME`.

    :param home: its folder: the `ROS_HOME` (in `ros`), parameters and logs
    :param values: parameters by node pattern, besides those that are launched and the network's
    """

    def __init__(self, base: Path, home: Path, values: dict[str, dict[str, Any]]) -> None:
        self.base, self.home, self.ros_home = base, home, home / 'ros'
        self.ros_home.mkdir(parents=True, exist_ok=True)
        os.environ['ROS_HOME'] = os.environ[MARK] = str(self.ros_home)
        model = {'model': {'weights': str(base), 'input_size': read_base(base).spec.input_size}}
        params = {k: {'ros__parameters': v} for k, v in {'/**': model, **values}.items()}
        file = home / 'params.yaml'
        file.write_text(yaml.safe_dump(params))
        self.supervisor = Supervisor([shipped(), file], home / 'log', restart_delay_s=0.5)
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('soak', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def close(self) -> None:
        """Stop everything."""
        self.supervisor.stop()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        os.environ.pop(MARK, None)


class Camera:
    """
    Plays pictures, again and again, while it is plugged in, says what they show, and as a detector
    would that something is in the middle.

    :param source: as its predictions call it
    """

    def __init__(
        self,
        node: Node,
        source: str,
        topic: str,
        pictures: Sequence[tuple[Image, str]],
        rate_hz: float,
    ) -> None:
        self._node, self.source, self.topic = node, source, topic
        self._pictures, self._rate_hz = pictures, rate_hz
        self._truths = node.create_publisher(GroundTruth, 'ground_truth', reliable(100))
        self._regions = node.create_publisher(Regions, 'regions', reliable(10))
        self._images: Any = None
        self._number, self.due = 0, 0.0
        self.shown: dict[int, str] = {}  # stamp: what the picture shows
        self.middle = middle_of(pictures[0][0]) if pictures else Box()
        self.predictions = 0
        self.plug()

    def plug(self) -> None:
        """Plug it in."""
        self._images = self._node.create_publisher(ImageMessage, self.topic, NEWEST_WINS)

    def unplug(self) -> None:
        """Unplug it: its driver's publisher goes, too."""
        self._node.destroy_publisher(self._images)
        self._images = None

    def play(self, now: float) -> None:
        """Publish a picture when one is due."""
        if now < self.due:
            return
        self.due = max(self.due + 1.0 / self._rate_hz, now)
        if self._images is None:
            return
        image, label = self._pictures[self._number % len(self._pictures)]
        self._number += 1
        stamp = time.time_ns()
        self.shown[stamp] = label
        while len(self.shown) > REMEMBERED:
            del self.shown[next(iter(self.shown))]
        message = picture_message(image, stamp)
        self._truths.publish(GroundTruth(header=message.header, label=label))
        self._images.publish(message)
        found = [Region(box=middle_of(image))]
        self._regions.publish(Regions(header=message.header, source=self.source, regions=found))


class Robot(Outside):
    """
    The nodes as processes, cameras, and a person who labels what the robot sees: frames and things
    in turn.

    :param cameras: their names; one is played on `image_raw`, several on `<name>/image_raw`
    :param values: parameters of nodes beside what a soak sets
    """

    def __init__(
        self,
        pictures: Sequence[tuple[Image, str]],
        base: Path,
        home: Path,
        rate_hz: float = 10.0,
        cameras: Sequence[str] = ('camera',),
        values: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        several = len(cameras) > 1
        every: dict[str, dict[str, Any]] = {
            '/**/label_collector': {
                'request_period_s': 0.0,
                'authors': f'{AUTHOR},{FAR_AUTHOR}',
                'author_rate_hz': 20.0,
            },
            # Rounds whether they pay or not, and often: more to interrupt.
            '/**/tuner': {'lazy_tune': {'economy': 0.0, 'min_batches': 2, 'max_batches': 4}},
            '/**/inference': {'keep_rate_hz': 1000.0},
        }
        if several:
            every['/**/inference']['cameras'] = list(cameras)
        for pattern, settings in (values or {}).items():
            every[pattern] = {**every.get(pattern, {}), **settings}
        super().__init__(base, home, every)
        topics = {c: f'{c}/image_raw' if several else 'image_raw' for c in cameras}
        self.cameras = {
            c: Camera(self.node, c, topic, pictures, rate_hz) for c, topic in topics.items()
        }
        self.labels = self.node.create_publisher(LabelCorrection, 'labels', reliable(100))
        hear = self.node.create_subscription
        hear(Prediction, 'predictions', self._on_prediction, reliable(100))
        hear(LabelReceipt, 'label_receipts', self._on_receipt, reliable(1000))
        hear(ModelUpdate, 'model', self._on_model, LATCHED)
        self.result = Result()
        self.receipts: list[LabelReceipt] = []
        self.accepted: dict[tuple[int, str, bool], str] = {}  # stamp, frame_id, a thing: label
        self.versions: set[int] = set()
        self.live: ModelUpdate | None = None
        self.last: Prediction | None = None
        self.last_prediction = 0.0
        self.label_period_s = 0.2
        self._label_next = 0.0
        self._began = time.monotonic()

    def start(self, names: Sequence[str] = NODES) -> None:
        """Start nodes."""
        for name in names:
            self.supervisor.start(name)

    def start_well(self) -> None:
        """
        Start the nodes and wait until they work.

        :raises EtunerError: when they don't
        """
        self.start()
        if not self.until(lambda: self.result.predictions > 10, LEARN_LIMIT_S):
            raise EtunerError(f'the nodes did not start; see {self.home / "log"}')

    def _on_prediction(self, message: Prediction) -> None:
        self.result.predictions += 1
        self.last, self.last_prediction = message, time.monotonic()
        camera = self.cameras.get(message.source)
        if camera is None:
            return
        camera.predictions += 1
        label = camera.shown.get(stamp_ns(message.header))
        if label and message.kept and time.monotonic() >= self._label_next:
            self._label_next = time.monotonic() + self.label_period_s
            self.say(message, label)

    def say(self, message: Any, label: str) -> None:
        """Say what a frame shows."""
        self.result.labels_sent += 1
        camera = self.cameras.get(message.source)
        thing = camera is not None and self.result.labels_sent % 2
        self.labels.publish(
            LabelCorrection(
                header=message.header,
                source=message.source,
                box=camera.middle if camera is not None and thing else Box(),
                label=label,
                author=AUTHOR,
            )
        )

    def be_silent(self) -> None:
        """Label nothing any more."""
        self._label_next = math.inf

    def _on_receipt(self, message: LabelReceipt) -> None:
        self.receipts.append(message)
        if message.code == LabelReceipt.ACCEPTED:
            thing = message.box.width > 0
            key = stamp_ns(message.header), message.header.frame_id, thing
            self.accepted[key] = message.label

    def _on_model(self, message: ModelUpdate) -> None:
        self.versions.add(message.version)
        self.live = message

    def step(self) -> None:
        """Let the world go on for a moment: a picture when it is due, messages, restarts."""
        now = time.monotonic()
        for camera in self.cameras.values():
            camera.play(now)
        due = min(camera.due for camera in self.cameras.values())
        self.executor.spin_once(timeout_sec=max(0.0, min(due - time.monotonic(), 0.02)))
        self.supervisor.check()

    def drain(self) -> None:
        """Take in what waits to be read."""
        before = -1
        while self.result.predictions > before:
            before = self.result.predictions
            for _ in range(10):
                self.executor.spin_once(timeout_sec=0.0)

    def until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Let the world go on until a condition holds."""
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                return False
            self.step()
        return True

    def go_on(self, seconds: float) -> None:
        """Let the world go on for some time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.step()

    def works(self, limit_s: float = RESUME_LIMIT_S) -> bool:
        """Return whether each camera is seen and, when somebody labels, a label is accepted."""
        before = {name: camera.predictions for name, camera in self.cameras.items()}
        labels, labelling = len(self.accepted), self._label_next < math.inf
        return self.until(
            lambda: (
                all(c.predictions > before[n] + 5 for n, c in self.cameras.items())
                and (not labelling or len(self.accepted) > labels)
            ),
            limit_s,
        )

    def check_works(self) -> None:
        """Note when it does not work, or not by itself."""
        self.result.not_resumed += not self.works()

    def memory_mb(self) -> dict[str, float]:
        """Return the memory of each node, in MB."""
        now = {}
        for name in NODES:
            pid = self.supervisor.pid(name)
            if pid is not None:
                now[name] = memory_mb(pid)
                if name == 'tuner':
                    now['worker'] = sum(memory_mb(c) for c in children_of(pid))
        return {k: round(v, 1) for k, v in now.items()}

    def verify(self) -> Result:
        """Stop the robot and look whether everything that was promised is there."""
        result = self.result
        result.minutes = (time.monotonic() - self._began) / 60
        result.versions_made = max(self.versions, default=0)
        self.close()
        deadline = time.monotonic() + 10.0
        while (left := processes_with(f'{MARK}={self.ros_home}')) and time.monotonic() < deadline:
            time.sleep(0.1)
        result.orphans += len(left)
        result.labels_accepted = len(self.accepted)
        stores = self.ros_home / 'etuner'
        try:
            store = LabelStore(stores / 'labels' / 'label_collector.db')
            result.stores_unloadable += len(store.warnings)
            stored = {(s.stamp_ns, s.frame_id, bool(s.place)): s.label for s in store.labelled()}
            result.labels_lost = sum(stored.get(k) != v for k, v in self.accepted.items())
            store.close()
        except EtunerError:
            result.stores_unloadable += 1
            result.labels_lost = len(self.accepted)
        try:
            models = ModelStore(stores / 'models', self.base, read_only=True)
            models.update(models.live)
        except EtunerError:
            result.stores_unloadable += 1
        result.temporary_files = sum(
            '.tmp' in p.name or ASIDE in p.name for p in stores.rglob('*')
        )
        return result


def shipped() -> Path:
    """Return the parameters that are launched."""
    return share() / 'config' / 'etuner.yaml'


def middle_of(image: Image) -> Box:
    """Return the box in the middle of a picture."""
    height, width = image.shape[:2]
    sides = {'width': float(width // 2), 'height': float(height // 2)}
    return Box(x=float(width // 4), y=float(height // 4), **sides)


def picture_message(image: Image, stamp: int) -> ImageMessage:
    """
    Return an image message.

    :param stamp: in ns
    """
    header = Header(frame_id='soak_camera')
    header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
    return array_to_image(image, header)
