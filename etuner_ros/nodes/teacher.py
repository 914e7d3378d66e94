# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`teacher`: a web page on the robot. What it sees, the frames and things whose label would help
most, one touch to confirm or correct, and how it gets on.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
import math
import socket
import threading
import time
from typing import Any

from nicegui import ui
import rclpy
from rclpy.exceptions import InvalidServiceNameException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.labels.frame_buffer import FrameKey
from etuner_ros.core.labels.outbox import Outbox
from etuner_ros.core.labels.spelling import composed
from etuner_ros.msg import (
    Box,
    LabelCorrection,
    LabelReceipt,
    LabelRequest,
    Objects,
    PredictedFrame,
    Prediction,
    TunerStatus,
)
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.label_messages import about, answered_label, header_of
from etuner_ros.nodes.messages import short
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.qos import adaptable, LATCHED, reliable, REQUESTS
from etuner_ros.nodes.running import init, SteadyExecutor, use_dds_profile
from etuner_ros.nodes.teaching.access import check_access
from etuner_ros.nodes.teaching.full_picture import FullPictureClient
from etuner_ros.nodes.teaching.page import build
from etuner_ros.nodes.teaching.scenes import Rectangle, Scene
from etuner_ros.nodes.teaching.state import Card, TeachingState
from etuner_ros.nodes.timers import steady_timer
from etuner_ros.srv import GetLabelStatistics

LIVE_PERIOD_S = 0.2
LABELS_PERIOD_S = 5.0  # between two looks at which labels count, at least
REST = 50.0  # times as long as the last answer took: a large store is read for it
LOST_S = 120.0  # after which an answer is taken to be lost


@dataclass(frozen=True)
class TeacherSettings(Checked):
    """Parameters of the teaching page."""

    host: str = setting('127.0.0.1', 'address to listen on; 0.0.0.0 = all, which needs a token')
    port: int = setting(8090, 'TCP port', 1, 65535)
    token: str = setting('', 'secret that opens the page, http://robot:8090/?token=...')
    author: str = setting('teacher', 'who the labels of this page are from')
    requests: int = setting(24, 'frames on the wall at most', 1, 200)
    cameras: tuple[str, ...] = setting(
        (), "cameras to look at, as in `inference`: ['front', 'rear']; empty = the only one"
    )
    collector: str = setting('label_collector', 'node that is asked which labels count')
    inference: str = setting(
        'inference', 'nodes that are asked for full pictures, separated by commas'
    )


class TeacherNode(Node):
    """
    Serves the teaching page.

    Subscribes `label_requests` (LabelRequest), `label_receipts` (LabelReceipt), `predictions`
    (Prediction), `tuner/status` (TunerStatus) and, only while a browser is open, `objects`
    (Objects) and `predicted_frame` (PredictedFrame), and of each camera of which no objects come
    `annotated/compressed` (CompressedImage). Publishes `labels` (LabelCorrection). Calls
    `inference/get_frame` (GetFrame) and, while a browser is open,
    `label_collector/get_statistics` (GetLabelStatistics).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('teacher', **options)
        self.settings = declare(self, '', TeacherSettings)
        check_access(self.settings.host, self.settings.token)
        self._author = short(self.settings.author)  # as receipts have it
        self.state = TeachingState(self._author, self.settings.requests)
        self.watchers = 0  # browsers that are open
        self._outbox = Outbox[LabelCorrection]()
        self._full = FullPictureClient(self, self.settings.inference)
        self._live: dict[str, Any] = {}  # subscriptions, by camera
        self._things: list[Any] = []  # subscriptions
        self._live_s: dict[str, float] = {}  # when a picture was taken last
        self.health = Health(self, self._diagnostics)
        self._labels = adaptable(self.create_publisher)(LabelCorrection, 'labels', reliable(100))
        hear = adaptable(self.create_subscription)
        hear(LabelRequest, 'label_requests', self._on_request, reliable(REQUESTS))
        hear(LabelReceipt, 'label_receipts', self._on_receipt, reliable(100))
        hear(Prediction, 'predictions', self._on_prediction, reliable(10))
        hear(TunerStatus, 'tuner/status', self._on_status, LATCHED)
        steady_timer(self, 0.3, self._follow_watchers)
        steady_timer(self, 0.1, self._send)
        self._asked: Any = None  # which labels count, of which no answer came yet
        self._asked_s = self._next_s = -math.inf  # when, and when next
        self._stats = self._client(self.settings.collector)
        steady_timer(self, LABELS_PERIOD_S, self._ask_labels)

    def _client(self, collector: str) -> Any:
        try:
            return self.create_client(GetLabelStatistics, f'{collector}/get_statistics')
        except (InvalidServiceNameException, ValueError) as error:
            text = f'collector: no node can be called {short(collector)!r}'
            raise ConfigError(text) from error

    @guarded
    def _ask_labels(self) -> None:
        """Ask which labels count: people rename them, on other pages and by commands."""
        now = time.monotonic()
        if self._asked is not None and now - self._asked_s > LOST_S:
            self._stats.remove_pending_request(self._asked)
            self._asked = None
        due = self._asked is None and now >= self._next_s
        if due and self.watchers > 0 and self._stats.service_is_ready():
            self._asked_s = now
            self._asked = self._stats.call_async(GetLabelStatistics.Request())
            self._asked.add_done_callback(self._on_labels)

    @guarded
    def _on_labels(self, future: Any) -> None:
        self._asked, answer = None, future.result()
        now = time.monotonic()
        self._next_s = now + REST * (now - self._asked_s)
        if answer is not None and not answer.error_code:
            self.state.on_labels([short(label) for label in answer.labels])

    def _diagnostics(self) -> dict[str, object]:
        cards, accepted = self.state.counts()
        return {
            'browsers': self.watchers,
            'frames on the wall': cards,
            'labels accepted': accepted,
            'labels without an answer': len(self._outbox),
            'labels given up': self._outbox.forgotten,
        }

    def watch(self, change: int) -> None:
        """Note that a browser came (1) or went (-1); the page calls it, from one thread."""
        self.watchers += change

    @guarded
    def _follow_watchers(self) -> None:
        """
        Listen to pictures only while somebody looks.

        The annotated one is drawn only then, and not wanted where boxes are drawn here.
        """
        looked_at = self.watchers > 0
        if looked_at and not self._things:
            hear = adaptable(self.create_subscription)
            self._things = [
                hear(Objects, 'objects', self._on_objects, reliable(10)),
                hear(PredictedFrame, 'predicted_frame', self._on_frame, reliable(10)),
            ]
        elif not looked_at:
            while self._things:
                self.destroy_subscription(self._things.pop())
        for camera in self.settings.cameras or ('',):
            wanted = looked_at and self.state.scenes.newest(camera) is None
            if wanted and camera not in self._live:
                self._live[camera] = adaptable(self.create_subscription)(
                    CompressedImage,
                    f'{camera}/annotated/compressed' if camera else 'annotated/compressed',
                    partial(self._on_live, camera),
                    reliable(1),
                )
            elif not wanted and camera in self._live:
                self.destroy_subscription(self._live.pop(camera))

    @guarded
    def _on_live(self, camera: str, message: CompressedImage) -> None:
        now = time.monotonic()
        if now - self._live_s.get(camera, -math.inf) >= LIVE_PERIOD_S:
            self._live_s[camera] = now
            self.state.on_live(bytes(message.data), camera)

    @guarded
    def _on_frame(self, message: PredictedFrame) -> None:
        self.state.scenes.on_frame(message)

    @guarded
    def _on_objects(self, message: Objects) -> None:
        self.state.on_objects(message)

    @guarded
    def _on_request(self, message: LabelRequest) -> None:
        self.state.on_request(message)

    @guarded
    def _on_receipt(self, message: LabelReceipt) -> None:
        if message.author == self._author:
            self._outbox.answered(*about(message), message.label, message.code)
        self.state.on_receipt(message)

    @guarded
    def _on_prediction(self, message: Prediction) -> None:
        self.state.on_prediction(message)

    @guarded
    def _on_status(self, message: TunerStatus) -> None:
        self.state.on_status(message)

    def full(self, name: str) -> bytes:
        """
        Return the encoded picture of a card as the camera had it; waits, in a thread of the page.

        :raises EtunerError: when it can't be had any more
        """
        key = self.state.key(name)
        if key is None:
            raise EtunerError('this frame is not on the wall any more')
        return self._full.fetch(key.uid)

    def label(self, card: Card, label: str) -> None:
        """Send what a person says of a card; empty takes it back."""
        label = composed(label)
        self.state.say(card.name, label)  # it may have made room while they typed
        self._publish(card.key, card.box, label)

    def label_thing(self, scene: Scene, box: Rectangle, label: str) -> None:
        """Send what a person says of a thing, by its box in px of the camera's image."""
        word = self.state.scenes.say(scene, box, composed(label))
        self._publish(word.key, word.box, word.label)

    def take_back(self, number: int) -> None:
        """Take back what was said of a thing."""
        word = self.state.scenes.take_back(number)
        if word is not None:
            self._publish(word.key, word.box, '')

    def _publish(self, key: FrameKey, box: Rectangle | None, label: str) -> None:
        x, y, width, height = map(float, box or (0, 0, 0, 0))
        correction = LabelCorrection(
            header=header_of(key),
            source=key.source,
            frame_uid=key.uid,
            box=Box(x=x, y=y, width=width, height=height),
            label=label,
            author=self.settings.author,
            withdraw=not label,
        )
        self._outbox.put(*about(correction), answered_label(correction), correction)
        self._send()

    @guarded
    def _send(self) -> None:
        """Publish labels: new ones, and again those without an answer."""
        for correction in self._outbox.due(self._labels.get_subscription_count() > 0):
            self._labels.publish(correction)


def check_port(host: str, port: int) -> None:
    """
    Check that nobody else listens there.

    :raises ConfigError: when the page can not be served
    """
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # What a page that has ended leaves behind keeps no other from its place.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f'the teaching page can not be served on {short(host)}:{port} '
            f'({getattr(error, "strerror", None) or error}); choose another port or host, or end '
            f'what is there (teacher:=true has started a page already)'
        ) from error


def main() -> int:
    """Run the node and its page."""
    use_dds_profile()
    init()
    try:
        node = TeacherNode()
        check_port(node.settings.host, node.settings.port)
    except EtunerError as error:
        rclpy.logging.get_logger('etuner_ros').fatal(str(error))
        rclpy.shutdown()
        return 1
    except Exception:
        if rclpy.ok():
            raise
        return 0  # it was told to stop meanwhile
    executor = SteadyExecutor()
    executor.add_node(node)

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            while rclpy.ok():
                executor.spin_once(timeout_sec=0.2)

    thread = threading.Thread(target=spin, name='executor', daemon=True)
    thread.start()
    settings = node.settings
    build(node, settings.token, settings.cameras)
    node.get_logger().info(f'teaching page on http://{settings.host}:{settings.port}/')
    try:
        ui.run(
            host=settings.host,
            port=settings.port,
            reload=False,
            show=False,
            favicon='🤖',
            show_welcome_message=False,
            uvicorn_logging_level='warning',
        )
    except KeyboardInterrupt:
        pass
    finally:
        if rclpy.ok():
            rclpy.shutdown()
        thread.join(2.0)
    return 0
