# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`label_collector`: joins corrections with the frames they are about, stores them durably, hands out
labelled batches.
"""

from __future__ import annotations

from collections import deque, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math
from pathlib import Path
import sqlite3
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node

from etuner_ros import msg, srv
from etuner_ros.core.config import LabelValueConfig
from etuner_ros.core.errors import StoreError
from etuner_ros.core.files import home
from etuner_ros.core.labels.asker import LabelAsker
from etuner_ros.core.labels.batches import BatchMaker
from etuner_ros.core.labels.desk import Code, LabelDesk
from etuner_ros.core.labels.frame_buffer import FrameBuffer, FrameKey
from etuner_ros.core.labels.joiner import Joiner
from etuner_ros.core.labels.renaming import rename
from etuner_ros.core.labels.scenario_times import ScenarioTimes
from etuner_ros.core.labels.settings import CollectorSettings, LIVE, names
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.labels.things import SAME, Things
from etuner_ros.core.labels.value import MOST_EXEMPLARS
from etuner_ros.core.niceness import step_back
from etuner_ros.core.rate_limit import RateLimit, TransferSettings
from etuner_ros.nodes import label_messages
from etuner_ros.nodes.answering import answering
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import short, stamp_ns
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.pieces import turn
from etuner_ros.nodes.qos import adaptable, FEATURES, LATCHED, latched, reliable, REQUESTS
from etuner_ros.nodes.running import run
from etuner_ros.nodes.timers import steady_timer

ANSWER_BYTES = 16_000_000  # of pictures in one answer of a service
AT_RUN_TIME = (*LIVE, 'transfer_mbit_s')  # what may be set
ASKED_S = 60.0  # so long after a request somebody should listen to them
FRESH_S = 20.0  # so long the tuner surely has the features of what was seen
MOST_IGNORED = 32  # sources that are said to be ignored
MOST_UNANSWERED = 24  # requests that are told to who listens later: fewer than wait on the way


@dataclass(frozen=True)
class Settings(TransferSettings, CollectorSettings):
    """Parameters of the node."""


class LabelCollectorNode(Node):
    """
    Collects labels.

    Subscribes `predicted_frame` (PredictedFrame), `objects` (Objects), `labels` (LabelCorrection),
    `frame_feature` and `exemplar_features` (FrameFeature), `scenario_changes` (ScenarioChange),
    `verdicts` (ModelVerdict). Publishes `label_receipts` (LabelReceipt), `label_requests`
    (LabelRequest), `labelled_batches` (LabelledBatch, latched). Serves `~/get_batches`
    (GetBatches), `~/get_replay` (GetReplay), `~/rename_label` (RenameLabel), `~/get_statistics`
    (GetLabelStatistics).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('label_collector', **options)
        self.settings = settings = declare(self, '', Settings, self._apply, AT_RUN_TIME)
        name = self.get_fully_qualified_name().strip('/').replace('/', '.')
        path = (
            Path(settings.store).expanduser() if settings.store else home('labels') / f'{name}.db'
        )
        self._store = LabelStore(path, int(settings.budget_mb * 1e6))
        self._buffer = FrameBuffer(settings.keep_s, int(settings.keep_mb * 1e6))
        self._things = Things(self._store)
        self._desk = LabelDesk(self._store, self._buffer, settings.rules, things=self._things)
        self._joiner = Joiner[msg.LabelCorrection](self._buffer, self._store, settings.join_wait_s)
        self._maker = BatchMaker(self._store, settings.batch_size, settings.batch_timeout_s)
        value = declare(self, 'requests', LabelValueConfig)
        self._asker = LabelAsker(self._buffer, self._store, value, self._things)
        self._scenarios = ScenarioTimes()
        self._limit = RateLimit(settings.transfer_mbit_s)
        self._leaving: deque[int] = deque()  # numbers of batches that are to be published
        self._sources = names(settings.sources)
        self._ignored: set[str] = set()  # sources that were said to be ignored
        self._asked_s = -math.inf  # steady time of the last request
        self._listeners = 0  # to requests
        # By frame, or thing in one: what was asked and has no label yet.
        self._unanswered: OrderedDict[FrameKey, msg.LabelRequest] = OrderedDict()

        self.health = Health(self, self._diagnostics)
        for warning in self._store.warnings:
            self.health.problem(warning)
            self.get_logger().error(warning)
        self._frames_come = self.health.expect('frame', settings.silence_s, self._why_silent)
        watch = self.health.watch
        watch(self._desk.trouble, 'corrections find their frames', DiagnosticStatus.WARN)
        watch(self._why_unanswered, 'someone listens to label_requests', DiagnosticStatus.OK)
        watch(self._why_unreadable, 'all pictures can be read', DiagnosticStatus.WARN)

        publish, hear = adaptable(self.create_publisher), adaptable(self.create_subscription)
        self._receipts = publish(msg.LabelReceipt, 'label_receipts', reliable(100))
        self._requests = publish(msg.LabelRequest, 'label_requests', reliable(REQUESTS))
        self._batches = self.create_publisher(msg.LabelledBatch, 'labelled_batches', LATCHED)
        hear(msg.PredictedFrame, 'predicted_frame', self._on_frame, reliable(30))
        hear(msg.Objects, 'objects', self._on_objects, reliable(30))
        hear(msg.LabelCorrection, 'labels', self._on_label, reliable(100))
        hear(msg.ScenarioChange, 'scenario_changes', self._on_scenario, reliable(10))
        hear(msg.ModelVerdict, 'verdicts', self._on_verdict, reliable(10))
        serve = self.create_service
        # In a group of its own: an answer that waits would keep all other callbacks waiting.
        waiting = ReentrantCallbackGroup()
        for kind, name, answer in (
            (srv.GetBatches, '~/get_batches', self._on_get_batches),
            (srv.GetReplay, '~/get_replay', self._on_get_replay),
        ):
            serve(kind, name, self._in_turn(answer), callback_group=waiting)
        serve(srv.RenameLabel, '~/rename_label', self._on_rename)
        serve(srv.GetLabelStatistics, '~/get_statistics', self._on_statistics)
        steady_timer(self, 0.1, self._on_tick)
        if settings.request_period_s > 0:
            steady_timer(self, settings.request_period_s, self._request_label)
            hear(msg.FrameFeature, 'frame_feature', self._on_feature, reliable(FEATURES))
            exemplars = latched(MOST_EXEMPLARS)
            hear(msg.FrameFeature, 'exemplar_features', self._on_exemplar, exemplars)
        if last := self._store.last_batch():  # a tuner that was away notices that it missed some
            self._publish_batch(last)
        self.get_logger().info(f'{self._store.count()} labelled frames in {path}')

    def _apply(self, settings: Settings) -> None:
        """Take settings that were changed at run time."""
        self.settings, self._sources = settings, names(settings.sources)
        self._desk.rules, self._joiner.wait_s = settings.rules, settings.join_wait_s
        self._maker.size, self._maker.timeout_s = settings.batch_size, settings.batch_timeout_s
        self._store.budget_bytes = int(settings.budget_mb * 1e6)
        self._frames_come.limit_s = settings.silence_s
        self._limit.mbit_s = settings.transfer_mbit_s

    def _why_silent(self) -> str:
        if self.count_publishers('predicted_frame') == 0:
            return 'no inference node is there, or it is in another namespace'
        return 'inference keeps none: is it active, do images come, is keep_rate_hz above 0?'

    def _why_unanswered(self) -> str:
        lately = time.monotonic() - self._asked_s <= ASKED_S
        if not lately or self._requests.get_subscription_count() > 0:
            return ''
        return 'nobody listens to label_requests: start the teacher node, or answer them yourself'

    def _why_unreadable(self) -> str:
        if not (count := len(self._store.unreadable)):
            return ''
        return f'{count} pictures are damaged and left out; `etuner labels check` says more'

    def _diagnostics(self) -> Mapping[str, object]:
        return {
            'frames kept': len(self._buffer),
            'frames kept MB': self._buffer.bytes / 1e6,
            'labels accepted': self._desk.accepted,
            'labels refused': self._desk.refused,
            'labels waiting for a batch': self._store.waiting(),
            'last batch': self._store.last_batch(),
            'labels disputed': self._store.count_disputed(),
            'pictures stored MB': self._store.stored_bytes / 1e6,
        }

    @guarded
    def _on_frame(self, message: msg.PredictedFrame) -> None:
        if self._sources and message.source not in self._sources:
            self._say_ignored(message.source)
            return
        self._frames_come.heard()
        frame = label_messages.frame_of(message, self.settings.max_frame_mb)
        self._scenarios.on_frame(frame.key.source, frame.key.stamp_ns)
        self._buffer.add(frame)
        for correction in self._joiner.arrived(frame.key):
            self._answer(correction)

    def _say_ignored(self, source: str) -> None:
        """Say once that another collector is to take the labels of a camera."""
        if source not in self._ignored and len(self._ignored) < MOST_IGNORED:
            self._ignored.add(source)
            text = f"source '{short(source)}' is ignored; see parameter sources"
            self.get_logger().info(text)

    @guarded
    def _on_objects(self, message: msg.Objects) -> None:
        """Note what the robot takes the things in a frame for."""
        if self._sources and message.source not in self._sources:
            return
        key = label_messages.key_of(message)
        if message.kept:
            self._asker.see(key, label_messages.seen_of(message))
        for correction in self._joiner.named(key):
            self._answer(correction)

    @guarded
    def _on_label(self, message: msg.LabelCorrection) -> None:
        """
        Answer at once, or wait a moment for what is still on its way; of a camera of another
        collector not at all: its sender takes the first answer.
        """
        # Without a source it is of the camera that this collector has for its own.
        if self._sources and message.source and message.source not in self._sources:
            self._say_ignored(message.source)
            return
        correction = label_messages.correction_of(message, self.settings.source)
        if not self._joiner.hold(correction.key, message, correction.box is not None):
            self._answer(message)

    def _answer(self, message: msg.LabelCorrection) -> None:
        """Store a correction or refuse it; publish the receipt."""
        correction = label_messages.correction_of(message, self.settings.source)
        now_ns = int(self.get_clock().now().nanoseconds)
        receipt = self._desk.answer(correction, now_ns, self._scenarios.of)
        self._receipts.publish(label_messages.receipt_message(message, correction.key, receipt))
        if receipt.code is Code.ACCEPTED and receipt.frame is not None:
            key = receipt.frame.key
            self._asker.note_labelled(key)
            self._unanswered.pop(key, None)
            # Of a box that somebody drew there is no feature, and of one that was seen long ago
            # the tuner has it no more: it is learned from its batch alone.
            if key.place and (
                self._things.seen_at(key.uid, key.place.box, SAME) is None
                or self._buffer.age_s(key.whole) > FRESH_S
            ):
                self._maker.hurry()
            self._hand_out()
            return
        text = f'a label is refused: {short(receipt.text, 500)}'
        self.get_logger().warning(text, throttle_duration_sec=2.0)
        if receipt.code is Code.DISK_FULL:
            self.health.problem(receipt.text)

    @guarded
    def _on_tick(self) -> None:
        for correction in self._joiner.overdue():
            self._answer(correction)
        self._hand_out()
        self._send_batches()

    def _hand_out(self) -> None:
        try:
            for batch in self._maker.due():
                self._publish_batch(batch)
        except (StoreError, sqlite3.Error) as error:  # tried again; labels are answered meanwhile
            self.health.problem(str(error))

    def _publish_batch(self, number: int) -> None:
        self._leaving.append(number)
        self._send_batches()

    def _send_batches(self) -> None:
        """Publish the batches whose turn it is."""
        name = self.get_fully_qualified_name()
        while self._leaving and self._limit.wait_s <= 0:
            batch = self._store.batch(number := self._leaving.popleft())
            message = label_messages.batch_message(name, number, batch)
            self._limit.spend(label_messages.picture_bytes(message.samples))
            self._batches.publish(message)

    @guarded
    def _on_scenario(self, message: msg.ScenarioChange) -> None:
        self._scenarios.on_change(message.source, stamp_ns(message.header), message.scenario)
        self._asker.new_scene()

    @guarded
    def _on_verdict(self, message: msg.ModelVerdict) -> None:
        """Note what a live version has learned."""
        learned = dict(zip(message.collectors, message.batch_ids))
        batch = learned.get(self.get_fully_qualified_name(), 0)
        if message.code == message.ACCEPTED and 0 < batch <= self._store.last_batch():
            self._store.note_learned(batch, message.version)

    @guarded
    def _on_feature(self, message: msg.FrameFeature) -> None:
        feature = label_messages.feature_of(message)
        if feature.size and not message.box.width:
            key = label_messages.key_of(message)
            self._asker.offer(key, feature, message.backbone_sha256)

    @guarded
    def _on_exemplar(self, message: msg.FrameFeature) -> None:
        """Nothing is asked that the model was deployed with."""
        self._asker.know(label_messages.feature_of(message), message.backbone_sha256)

    @guarded
    def _request_label(self) -> None:
        listeners, before = self._requests.get_subscription_count(), self._listeners
        self._listeners = listeners
        if listeners > before:
            self._ask_again()
        if listeners == 0:
            self._asked_s = time.monotonic()  # and nothing is used up that nobody hears
        elif (chosen := self._asker.next()) is not None:
            self._asked_s = time.monotonic()
            request = label_messages.request_message(*chosen)
            self._unanswered[chosen[0].key] = request
            while len(self._unanswered) > MOST_UNANSWERED:
                self._unanswered.popitem(last=False)
            self._requests.publish(request)

    def _ask_again(self) -> None:
        """Ask what has no answer once more: who listens since now has not heard it."""
        for key, request in list(self._unanswered.items()):
            if self._desk.find(key.whole) is None:
                del self._unanswered[key]  # nobody could label it any more
            else:
                self._requests.publish(request)

    def _in_turn(self, answer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        """Have an answer with pictures wait until it may be sent."""

        async def call(request: Any, response: Any) -> Any:
            filled = answer(request, response)
            await turn(self, self._limit, label_messages.picture_bytes_of(filled))
            return filled

        return call

    @answering
    def _on_get_batches(self, request: Any, response: Any) -> None:
        response.collector = self.get_fully_qualified_name()
        response.last_batch_id = self._store.last_batch()
        most = self._limit.piece(ANSWER_BYTES)
        piece = self._maker.again(request.from_batch_id, request.limit, most)
        name = response.collector
        response.batches = [label_messages.batch_message(name, *found) for found in piece]

    @answering
    def _on_get_replay(self, request: Any, response: Any) -> None:
        response.collector = self.get_fully_qualified_name()
        up_to = min(request.up_to_batch_id, self._store.last_batch())
        most = self._limit.piece(ANSWER_BYTES)
        piece = request.count, request.skip, most
        replay = self._store.replay(up_to, *piece, since_batch=request.since_batch_id)
        response.last_batch_id = self._store.last_batch()
        response.total = replay.total
        response.renamed_from = [old for old, _ in replay.renamed]
        response.renamed_to = [new for _, new in replay.renamed]
        response.samples = [label_messages.sample_message(s) for s in replay.samples]

    @answering
    def _on_rename(self, request: Any, response: Any) -> None:
        longest = self.settings.max_label_length
        renamed = rename(self._store, request.label, request.new_label, longest)
        response.error_code, response.error_msg = int(renamed.code), short(renamed.text, 600)
        response.changed = renamed.changed
        self._hand_out()

    @answering
    def _on_statistics(self, _request: Any, response: Any) -> None:
        found = self._store.statistics()
        response.labels = [s.label for s in found]
        response.frames = [s.frames for s in found]
        response.confirmed = [s.confirmed for s in found]
        response.learned = [s.learned for s in found]
        response.image_bytes = [s.image_bytes for s in found]
        response.disputed = self._store.count_disputed()
        response.stored_bytes = self._store.stored_bytes
        response.budget_bytes = self._store.budget_bytes

    def close(self) -> None:
        """Close the database."""
        self._store.close()


def main() -> int:
    """Run the node."""
    step_back()
    return run(LabelCollectorNode)
