# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the tuner does with labels and frames: the worker gets them as fast as it takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.node import Node

from etuner_ros.core.decide.lazy_tune import LazyTune
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.tune.batch_feed import BatchFeed
from etuner_ros.core.tune.frame_features import FrameFeatures
from etuner_ros.core.tune.round_keeper import RoundKeeper
from etuner_ros.msg import (
    FrameFeature,
    LabelledBatch,
    LabelledSample,
    LabelReceipt,
    ModelUpdate,
    PredictedFrame,
)
from etuner_ros.nodes import tuning_messages as messages
from etuner_ros.nodes.collector_clients import CollectorClients
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.label_messages import box_of
from etuner_ros.nodes.messages import stamp_ns
from etuner_ros.nodes.tuning_messages import backbone_name, frame_name, learned_of
from etuner_ros.worker.link import WorkerLink


class LabelSide:
    """
    Feeds the worker with labelled batches, corrections, and frames that nobody labelled.

    :param has_head: whether there is an instant head, which learns from features
    :param live: returns the version that is live
    :param labels_came: called when the worker was sent labels that no round has learned
    """

    def __init__(
        self,
        node: Node,
        health: Health,
        link: WorkerLink,
        keeper: RoundKeeper,
        scenarios: ScenarioLog,
        lazy: LazyTune,
        has_head: bool,
        live: Callable[[], ModelUpdate | None],
        labels_came: Callable[[], object],
    ) -> None:
        self.health, self.get_logger = health, node.get_logger
        self._link, self._keeper = link, keeper
        self._scenarios, self._lazy = scenarios, lazy
        self._live, self._labels_came = live, labels_came
        self.feed = BatchFeed()
        self.features, self._has_head = FrameFeatures(has_head), has_head
        self._clients = CollectorClients(
            node, self.feed, health, self._take_batch, self._take_replay
        )
        self._told = (False, False)  # the worker: it has all labels there are, and those learned

    def begin(self, room: int) -> None:
        """
        Feed a worker that knows nothing yet.

        :param room: samples that its replay has room for
        """
        live, tried = self._live(), self._keeper.tried
        same = live is not None and backbone_name(live) == tried.backbone
        same &= self._has_head  # without it what a refused round learned is new again
        self.feed.restart(learned_of(live), room, tried.cursors if same else {})
        self._told = (False, False)
        self.ask()

    def ask(self) -> None:
        """Ask collectors for what is missing, and tell the worker when nothing is."""
        self._clients.ask(self._link.has_credit)
        self.tell_worker()

    def tell_worker(self) -> None:
        """Tell the worker when it has all labels that there are, or no longer."""
        caught_up = self._keeper.ready and not self.feed.behind
        told = (caught_up, caught_up and self.feed.complete)
        if told != self._told:
            self._told = told
            self._link.send({'op': 'caught_up', 'value': told[0], 'complete': told[1]})

    @guarded
    def on_batch(self, message: LabelledBatch) -> None:
        """Pass a batch on in its turn; what was missed is asked for."""
        if self.feed.on_batch(message.collector, message.batch_id, self._link.has_credit):
            self._take_batch(message)
        self.ask()

    def _take_batch(self, message: LabelledBatch) -> None:
        """
        Hand a batch to the worker; one that the live weights have learned is only replayed, and
        one that was in a round that was refused.
        """
        learned = self.feed.learned(learned_of(self._live()))
        collector, number = message.collector, message.batch_id
        new = number > learned.get(collector, 0) and not self.feed.was_tried(collector, number)
        renamed = list(zip(message.renamed_from, message.renamed_to))
        handed = messages.samples_message(
            message.collector, message.samples, new, renamed, self._scenarios.at
        )
        self._link.send(handed)
        samples = handed['samples']
        if new and samples:
            update = self._live()
            known = set(update.classes) if update else set()
            self._lazy.on_batch(
                new_classes=any(s['label'] not in known for s in samples),
                errors=sum(s['label'] != s['predicted'] for s in samples),
            )
            self._labels_came()

    def _take_replay(
        self, name: str, samples: Sequence[LabelledSample], renamed: list[tuple[str, str]]
    ) -> None:
        self._link.send(
            messages.samples_message(name, samples, False, renamed, self._scenarios.at)
        )

    @guarded
    def on_feature(self, message: FrameFeature) -> None:
        """Keep the feature of a frame for when it is labelled."""
        name = frame_name(message.source, message.header, message.frame_uid)
        feature, box = bytes(message.feature), box_of(message.box)
        if box is not None:
            digest, camera = message.backbone_sha256, message.source
            self.features.add_region(name, box, digest, feature, camera)
            return
        self.features.add(name, message.backbone_sha256, feature)
        self.pass_on_frame()

    @guarded
    def on_receipt(self, message: LabelReceipt) -> None:
        """Have the instant head learn a label at once; its picture comes with a batch."""
        box = box_of(message.thing)
        frame = frame_name(message.source, message.header, message.frame_uid)
        name = frame_name(message.source, message.header, message.frame_uid, message.thing)
        kept = self.features.of(frame) if box is None else self.features.of_box(frame, box)
        if message.code != LabelReceipt.ACCEPTED or not self._keeper.ready:
            return
        if not message.counting_label:  # taken back, or people disagree
            self._link.send({'op': 'withdraw', 'ids': [name]})
        elif kept:
            self._link.send(
                {
                    'op': 'correction',
                    'id': name,
                    'label': message.counting_label,
                    'backbone': kept[0],
                    'feature': kept[1],
                    'thing': box is not None,
                    'scenario': self._scenarios.at(message.source, stamp_ns(message.header)),
                }
            )

    @guarded
    def on_frame(self, message: PredictedFrame) -> None:
        """Take frames for learning without labels, two a second."""
        if self._keeper.ready and self.features.wants_frame(message.source):
            self.features.put(
                {
                    'op': 'unlabelled',
                    'id': frame_name(message.source, message.header, message.frame_uid),
                    'image': bytes(message.image.data),
                    'scenario': self._scenarios.at(message.source, stamp_ns(message.header)),
                }
            )
            self.pass_on_frame()

    def pass_on_frame(self) -> None:
        """Send the frame without a label that waits, once its feature has come."""
        frame = self.features.take() if self._keeper.ready and self._link.has_credit else None
        if frame is not None:
            self._link.send(frame)
