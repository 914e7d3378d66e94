# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`operator`: a scripted person who corrects the robot, from the ground truth of a recording; for
demonstrations and tests.
"""

from __future__ import annotations

from dataclasses import dataclass
import math
import random
import time
from typing import Any

from rclpy.node import Node

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.labels.outbox import Outbox
from etuner_ros.msg import GroundTruth, LabelCorrection, LabelReceipt, Prediction
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.label_messages import about, answered_label
from etuner_ros.nodes.messages import short, stamp_ns
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.qos import adaptable, reliable
from etuner_ros.nodes.running import run
from etuner_ros.nodes.timers import steady_timer


@dataclass(frozen=True)
class OperatorSettings(Checked):
    """Parameters of the scripted operator."""

    rate_hz: float = setting(1.0, 'labels per second at most', 0.001, 1000.0)
    share: float = setting(0.5, 'share of the frames that the operator looks at at all', 0.0, 1.0)
    delay_s: float = setting(1.0, 'least time between a frame and its label, in s', 0.0, 3600.0)
    jitter_s: float = setting(1.0, 'further time, evenly drawn, in s', 0.0, 3600.0)
    author: str = setting('operator', 'who the labels are from')
    seed: int = setting(0, 'seed of which frames are chosen and how late', 0, 2**31 - 1)


class OperatorNode(Node):
    """
    Labels some frames, a little late, at a set rate; right ones are confirmed as often as wrong
    ones are corrected. What is not answered is said again. A person lives in real time, whatever
    /clock says.

    Subscribes `ground_truth` (GroundTruth), `predictions` (Prediction), `label_receipts`
    (LabelReceipt). Publishes `labels` (LabelCorrection).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('operator', **options)
        self.settings = declare(self, '', OperatorSettings)
        self._author = short(self.settings.author)  # as receipts have it
        self._random = random.Random(self.settings.seed)
        self._truths: dict[tuple[int, str], str] = {}
        self._due: list[tuple[float, LabelCorrection]] = []  # steady time
        self._outbox = Outbox[LabelCorrection]()
        self._last_s = -math.inf
        self._sent = self._accepted = self._refused = 0
        values = lambda: {
            'labels sent': self._sent,
            'unanswered': len(self._outbox),
            'given up': self._outbox.forgotten,
            'accepted': self._accepted,
            'refused': self._refused,
        }
        self.health = Health(self, values)
        self._labels = adaptable(self.create_publisher)(LabelCorrection, 'labels', reliable(100))
        hear = adaptable(self.create_subscription)
        hear(GroundTruth, 'ground_truth', self._on_truth, reliable(100))
        hear(Prediction, 'predictions', self._on_prediction, reliable(100))
        hear(LabelReceipt, 'label_receipts', self._on_receipt, reliable(100))
        steady_timer(self, 0.05, self._send_due)

    @guarded
    def _on_truth(self, message: GroundTruth) -> None:
        self._truths[stamp_ns(message.header), message.header.frame_id] = message.label
        while len(self._truths) > 1000:
            del self._truths[next(iter(self._truths))]

    @guarded
    def _on_prediction(self, message: Prediction) -> None:
        label = self._truths.get((stamp_ns(message.header), message.header.frame_id))
        now = time.monotonic()
        too_soon = now - self._last_s < 1.0 / self.settings.rate_hz
        if (
            label is None
            or not message.kept
            or too_soon
            or self._random.random() >= self.settings.share
        ):
            return
        self._last_s = now
        late = self.settings.delay_s + self._random.random() * self.settings.jitter_s
        correction = LabelCorrection(
            header=message.header,
            source=message.source,
            frame_uid=message.frame_uid,
            label=label,
            author=self.settings.author,
        )
        self._due.append((now + late, correction))

    @guarded
    def _send_due(self) -> None:
        now = time.monotonic()
        for item in [d for d in self._due if d[0] <= now]:
            self._due.remove(item)
            self._outbox.put(*about(item[1]), answered_label(item[1]), item[1])
            self._sent += 1
        for correction in self._outbox.due(self._labels.get_subscription_count() > 0):
            self._labels.publish(correction)

    @guarded
    def _on_receipt(self, message: LabelReceipt) -> None:
        """Count what is answered; what was said twice is stored, too."""
        if message.author != self._author:
            return
        if not self._outbox.answered(*about(message), message.label, message.code):
            return
        if message.code in (LabelReceipt.ACCEPTED, LabelReceipt.DUPLICATE):
            self._accepted += 1
        else:
            self._refused += 1


def main() -> int:
    """Run the node."""
    return run(OperatorNode)
