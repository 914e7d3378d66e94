# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`label_collector`: joins corrections with the frames they are about, stores them durably, hands out
labelled batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from etuner_ros.core.config import Checked
from etuner_ros.core.config import setting
from etuner_ros.core.errors import StoreError
from etuner_ros.core.files import home
from etuner_ros.core.frame_buffer import Frame
from etuner_ros.core.frame_buffer import FrameBuffer
from etuner_ros.core.frame_buffer import FrameKey
from etuner_ros.core.label_store import LabelStore
from etuner_ros.core.label_store import StoredSample
from etuner_ros.msg import LabelCorrection
from etuner_ros.msg import LabelledBatch
from etuner_ros.msg import LabelledSample
from etuner_ros.msg import LabelReceipt
from etuner_ros.msg import LabelRequest
from etuner_ros.msg import PredictedFrame
from etuner_ros.nodes.common import declare
from etuner_ros.nodes.common import guarded
from etuner_ros.nodes.common import Health
from etuner_ros.nodes.common import LATCHED
from etuner_ros.nodes.common import reliable
from etuner_ros.nodes.common import run
from etuner_ros.nodes.common import short
from etuner_ros.nodes.common import stamp_ns
from etuner_ros.nodes.common import to_bytes
from etuner_ros.srv import GetBatches


@dataclass(frozen=True)
class CollectorSettings(Checked):
    """Parameters of the label collector."""

    source: str = setting('camera', 'camera pipeline that corrections without a source are about')
    keep_s: float = setting(
        120.0, 'how long a predicted frame can be labelled, in s', 1.0, 86400.0
    )
    keep_mb: float = setting(256.0, 'memory for predicted frames, in MB', 1.0, 1e6)
    join_wait_s: float = setting(
        1.0, 'how long a correction waits for its frame to arrive, in s', 0.0, 60.0
    )
    batch_size: int = setting(8, 'labelled samples in a batch', 1, 10000)
    batch_timeout_s: float = setting(
        10.0, 'a smaller batch goes out when its oldest sample has waited so long, in s', 0.1, 1e6
    )
    request_period_s: float = setting(
        2.0, 'time between two label requests, in s; 0 = none', 0.0, 1e6
    )
    max_label_length: int = setting(64, 'longest label, in characters', 1, 1000)
    authors: str = setting('', 'who may label, separated by commas; empty = everyone')
    store: str = setting(
        '', 'database file of the labels; empty = $ROS_HOME/etuner/labels/<node name>.db'
    )


class LabelCollectorNode(Node):
    """
    Collects labels.

    Subscribes `predicted_frame` (PredictedFrame) and `labels` (LabelCorrection). Publishes
    `label_receipts` (LabelReceipt), `label_requests` (LabelRequest), `labelled_batches`
    (LabelledBatch, latched). Serves `~/get_batches` (GetBatches).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('label_collector', **options)
        self.settings = declare(self, '', CollectorSettings)
        name = self.get_fully_qualified_name()
        path = (
            Path(self.settings.store).expanduser()
            if self.settings.store
            else home('labels') / f'{name.strip("/").replace("/", ".")}.db'
        )
        self._store = LabelStore(path)
        self._buffer = FrameBuffer(self.settings.keep_s, int(self.settings.keep_mb * 1e6))
        self._authors = {a.strip() for a in self.settings.authors.split(',') if a.strip()}
        self._waiting: list[tuple[int, LabelCorrection]] = []
        self._accepted = self._refused = 0
        self._oldest_ns: int | None = self._now() if self._store.waiting() else None
        self._asked_ns = 0
        self.health = Health(self, self._diagnostics)
        self._receipts = self.create_publisher(LabelReceipt, 'label_receipts', reliable(100))
        self._requests = self.create_publisher(LabelRequest, 'label_requests', reliable(10))
        self._batches = self.create_publisher(LabelledBatch, 'labelled_batches', LATCHED)
        self.create_subscription(PredictedFrame, 'predicted_frame', self._on_frame, reliable(30))
        self.create_subscription(LabelCorrection, 'labels', self._on_label, reliable(100))
        self.create_service(GetBatches, '~/get_batches', self._on_get_batches)
        self.create_timer(0.1, self._on_tick)
        if self.settings.request_period_s > 0:
            self.create_timer(self.settings.request_period_s, self._request_label)
        last = self._store.last_batch()
        if last:  # a tuner that was away notices by the number that it missed some
            self._batches.publish(self._batch_message(last))
        self.get_logger().info(f'{self._store.count()} labelled samples in {path}')

    def _now(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _diagnostics(self) -> Mapping[str, object]:
        return {
            'frames kept': len(self._buffer),
            'frames kept MB': self._buffer.bytes / 1e6,
            'labels accepted': self._accepted,
            'labels refused': self._refused,
            'labels waiting for a batch': self._store.waiting(),
            'last batch': self._store.last_batch(),
        }

    @guarded
    def _on_frame(self, message: PredictedFrame) -> None:
        key = FrameKey(message.source, stamp_ns(message.header), message.header.frame_id)
        self._buffer.add(
            Frame(
                key,
                bytes(message.image.data),
                message.image.format,
                message.label,
                message.confidence,
                message.novelty,
                message.model_version,
            )
        )
        for item in [w for w in self._waiting if self._key(w[1]) == key]:
            self._waiting.remove(item)
            self._answer(item[1])

    def _key(self, correction: LabelCorrection) -> FrameKey:
        return FrameKey(
            correction.source or self.settings.source,
            stamp_ns(correction.header),
            correction.header.frame_id,
        )

    @guarded
    def _on_label(self, message: LabelCorrection) -> None:
        """Answer at once, or wait a moment for a frame that is still on its way."""
        stamp, now = stamp_ns(message.header), self._now()
        on_its_way = (
            self._buffer.get(self._key(message)) is None
            and abs(now - stamp) < 5e9
            and stamp > self._buffer.forgotten_ns
        )
        if on_its_way and self.settings.join_wait_s > 0 and len(self._waiting) < 1000:
            self._waiting.append((now, message))
        else:
            self._answer(message)

    def _answer(self, correction: LabelCorrection) -> None:
        """Store a correction or refuse it; publish the receipt."""
        code, text, frame, sample_id = self._judge(correction)
        if code == LabelReceipt.ACCEPTED:
            self._accepted += 1
        else:
            self._refused += 1
            self.get_logger().warning(f'a label is refused: {text}', throttle_duration_sec=2.0)
        self._receipts.publish(
            LabelReceipt(
                header=Header(
                    stamp=correction.header.stamp, frame_id=short(correction.header.frame_id)
                ),
                source=short(correction.source or self.settings.source),
                label=short(correction.label.strip()),
                author=short(correction.author),
                code=code,
                message=text,
                predicted_label=frame.label if frame else '',
                sample_id=sample_id,
            )
        )
        if code == LabelReceipt.ACCEPTED:
            self._oldest_ns = self._oldest_ns or self._now()
            self._hand_out()

    def _judge(self, correction: LabelCorrection) -> tuple[int, str, Frame | None, int]:
        """
        Return receipt code, reason, the frame if it is there, and the number of the stored sample.
        """
        label, author = correction.label.strip(), correction.author.strip()
        key = self._key(correction)
        frame = self._buffer.get(key)
        if not label:
            return LabelReceipt.EMPTY_LABEL, 'the label is empty', frame, 0
        limit = self.settings.max_label_length
        if len(label) > limit:
            return (
                LabelReceipt.INVALID_LABEL,
                f'the label has {len(label)} characters, at most {limit} are allowed',
                frame,
                0,
            )
        if not label.isprintable():
            return LabelReceipt.INVALID_LABEL, 'the label holds control characters', frame, 0
        if len(author) > 200 or (author and not author.isprintable()):
            return (
                LabelReceipt.INVALID_LABEL,
                'the author is no printable name of at most 200 characters',
                frame,
                0,
            )
        if self._authors and author not in self._authors:
            return (
                LabelReceipt.NOT_ALLOWED,
                f"'{short(author)}' may not label; see parameter authors",
                frame,
                0,
            )
        if frame is None:
            if key.stamp_ns > self._now() + 1_000_000_000:
                ahead = (key.stamp_ns - self._now()) / 1e9
                return (
                    LabelReceipt.FUTURE_STAMP,
                    f'the stamp lies {ahead:.1f} s in the future: clocks apart, or a wrong stamp',
                    None,
                    0,
                )
            if key.stamp_ns <= self._buffer.forgotten_ns:
                return (
                    LabelReceipt.TOO_OLD,
                    f'the frame is no longer kept; frames are kept for '
                    f'{self.settings.keep_s:.0f} s',
                    None,
                    0,
                )
            where = f"source '{short(key.source)}', frame_id '{short(key.frame_id)}'"
            return (
                LabelReceipt.UNKNOWN_FRAME,
                f'no frame of this stamp was kept for {where}; copy them from its Prediction',
                None,
                0,
            )
        if self._store.is_duplicate(frame, label, author):
            return LabelReceipt.DUPLICATE, 'this frame has this label already', frame, 0
        try:
            sample_id = self._store.add(frame, label, author, self._now())
        except StoreError as error:
            self.health.problem(str(error))
            return LabelReceipt.DISK_FULL, str(error), frame, 0
        kind = 'confirmed' if label == frame.label else 'corrected'
        return LabelReceipt.ACCEPTED, kind, frame, sample_id

    @guarded
    def _on_tick(self) -> None:
        now = self._now()
        for item in [
            w for w in self._waiting if now - w[0] > self.settings.join_wait_s * 1e9 or now < w[0]
        ]:
            self._waiting.remove(item)
            self._answer(item[1])
        if (
            self._oldest_ns is not None
            and not 0 <= now - self._oldest_ns < self.settings.batch_timeout_s * 1e9
        ):
            self._hand_out(partial=True)

    def _hand_out(self, partial: bool = False) -> None:
        """Publish full batches; with `partial` whatever waits."""
        while (waiting := self._store.waiting()) >= self.settings.batch_size or (
            partial and waiting
        ):
            batch = self._store.make_batch(self.settings.batch_size)
            if batch is not None:
                self._batches.publish(self._batch_message(batch))
        if not waiting:
            self._oldest_ns = None

    def _batch_message(self, batch: int) -> LabelledBatch:
        samples = [sample_message(s) for s in self._store.batch(batch)]
        return LabelledBatch(
            collector=self.get_fully_qualified_name(), batch_id=batch, samples=samples
        )

    def _on_get_batches(
        self, request: GetBatches.Request, response: GetBatches.Response
    ) -> GetBatches.Response:
        response.collector = self.get_fully_qualified_name()
        try:
            response.last_batch_id = self._store.last_batch()
            first, limit = max(request.from_batch_id, 1), min(request.limit or 16, 256)
            response.batches = [
                self._batch_message(b)
                for b in range(first, min(first + limit, response.last_batch_id + 1))
            ]
        except Exception as error:  # a service has to answer
            self.health.problem(str(error))
            response.error_code, response.error_msg = (
                GetBatches.Response.STORE,
                f'the label store can not be read: {error}',
            )
        return response

    @guarded
    def _request_label(self) -> None:
        """Ask for the frame that the robot was least sure of since it last asked."""
        frames = self._buffer.since(self._asked_ns)
        if not frames:
            return
        self._asked_ns = max(f.key.stamp_ns for f in frames)
        frame = min(frames, key=lambda f: f.confidence)
        header = header_of(frame.key)
        self._requests.publish(
            LabelRequest(
                header=header,
                source=frame.key.source,
                predicted_label=frame.label,
                confidence=frame.confidence,
                reason=f'least certain of the last {len(frames)} frames',
                image=CompressedImage(
                    header=header, format=frame.image_format, data=to_bytes(frame.image)
                ),
            )
        )

    def close(self) -> None:
        """Close the database."""
        self._store.close()


def header_of(key: FrameKey) -> Header:
    """Return the header that a frame came with."""
    header = Header(frame_id=key.frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(key.stamp_ns, 10**9)
    return header


def sample_message(sample: StoredSample) -> LabelledSample:
    """Return the message of a stored sample."""
    header = header_of(FrameKey(sample.source, sample.stamp_ns, sample.frame_id))
    return LabelledSample(
        header=header,
        source=sample.source,
        sample_id=sample.sample_id,
        label=sample.label,
        predicted_label=sample.predicted,
        author=sample.author,
        model_version=sample.model_version,
        image=CompressedImage(
            header=header, format=sample.image_format, data=to_bytes(sample.image)
        ),
    )


def main() -> int:
    """Run the node."""
    return run(LabelCollectorNode)
