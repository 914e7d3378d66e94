# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`label_collector`: joins corrections with the frames they are about, stores them durably, hands out
labelled batches.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
import math
from operator import itemgetter
from pathlib import Path
import sqlite3
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from etuner_ros.core.config import Checked, LabelValueConfig, setting
from etuner_ros.core.errors import MessageError, StoreError
from etuner_ros.core.files import home
from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey
from etuner_ros.core.labels.store import LabelStore, Stored, StoredSample
from etuner_ros.core.labels.value import LabelValue, MOST_EXEMPLARS
from etuner_ros.msg import (
    FrameFeature,
    LabelCorrection,
    LabelledBatch,
    LabelledSample,
    LabelReceipt,
    LabelRequest,
    ModelVerdict,
    PredictedFrame,
    ScenarioChange,
)
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import LONGEST_NAME, short, stamp_ns, to_bytes
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.qos import LATCHED, latched, reliable
from etuner_ros.nodes.running import run
from etuner_ros.srv import GetBatches, GetLabelStatistics, RenameLabel

MOST_WAITING = 1000  # corrections whose frame is still on its way
MOST_AUTHORS = 1000  # whose rate is watched
MOST_CHANGES = 1000  # of scenario, for each source
ANSWER_BYTES = 16_000_000  # of pictures in one answer of get_batches
# What may be set at run time.
LIVE = (
    'source',
    'join_wait_s',
    'batch_size',
    'batch_timeout_s',
    'max_label_length',
    'authors',
    'sources',
    'author_rate_hz',
    'max_frame_mb',
    'budget_mb',
    'silence_s',
)
GONE_S = 60.0  # so long something is remembered that was not well
MOST_OPEN = 100  # requests whose frames are kept for their label
MANY_GONE = 3  # corrections without their frame that are worth a warning
BURST = 20  # corrections that an author may send at once


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
    sources: str = setting(
        '', 'camera pipelines whose frames are kept, separated by commas; empty = all'
    )
    author_rate_hz: float = setting(
        10.0,
        'corrections an author may send per second, beside a burst of 20; 0 = no limit',
        0.0,
        1e6,
    )
    silence_s: float = setting(
        10.0,
        'time without a frame after which the likely cause is said, in s; 0 = never',
        0.0,
        1e6,
    )
    max_frame_mb: float = setting(8.0, 'largest encoded frame that is kept, in MB', 0.001, 1e3)
    budget_mb: float = setting(
        4000.0,
        'disk for pictures of labelled frames, in MB; those of the largest class that were '
        'learned make room; 0 = no limit',
        0.0,
        1e9,
    )
    store: str = setting(
        '', 'database file of the labels; empty = $ROS_HOME/etuner/labels/<node name>.db'
    )


class LabelCollectorNode(Node):
    """
    Collects labels.

    Subscribes `predicted_frame` (PredictedFrame), `frame_feature` (FrameFeature), `labels`
    (LabelCorrection), `scenario_changes` (ScenarioChange) and `verdicts` (ModelVerdict). Publishes
    `label_receipts` (LabelReceipt), `label_requests` (LabelRequest), `labelled_batches`
    (LabelledBatch, latched). Serves `~/get_batches` (GetBatches), `~/rename_label` (RenameLabel),
    `~/get_statistics` (GetLabelStatistics).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('label_collector', **options)
        self.settings = declare(self, '', CollectorSettings, self._apply, LIVE)
        name = self.get_fully_qualified_name()
        path = (
            Path(self.settings.store).expanduser()
            if self.settings.store
            else home('labels') / f'{name.strip("/").replace("/", ".")}.db'
        )
        self._store = LabelStore(path, int(self.settings.budget_mb * 1e6))
        self._buffer = FrameBuffer(self.settings.keep_s, int(self.settings.keep_mb * 1e6))
        self._authors = names(self.settings.authors)
        self._sources = names(self.settings.sources)
        self._allowance: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._changes: dict[str, list[tuple[int, int]]] = {}  # source: (stamp, scenario)
        self._waiting: list[tuple[int, LabelCorrection]] = []
        self._accepted = self._refused = 0
        self._oldest_ns: int | None = self._now() if self._store.waiting() else None
        self._asked_ns = 0
        self._value = LabelValue(declare(self, 'requests', LabelValueConfig))
        self._open: deque[FrameKey] = deque(maxlen=MOST_OPEN)  # asked about and not labelled yet
        self._disputes: set[FrameKey] = set()  # that were asked about
        self.health = Health(self, self._diagnostics)
        for warning in self._store.warnings:
            self.health.problem(warning)
            self.get_logger().error(warning)
        self._frames_come = self.health.expect('frame', self.settings.silence_s, self._why_silent)
        self._gone: deque[tuple[float, int]] = deque(maxlen=50)  # when, code of a receipt
        self.health.watch(self._why_gone, 'corrections find their frames', DiagnosticStatus.WARN)
        self.health.watch(
            self._why_unanswered, 'someone listens to label_requests', DiagnosticStatus.OK
        )
        self._asked_at = -math.inf  # monotonic, in s
        self._receipts = self.create_publisher(LabelReceipt, 'label_receipts', reliable(100))
        self._requests = self.create_publisher(LabelRequest, 'label_requests', reliable(10))
        self._batches = self.create_publisher(LabelledBatch, 'labelled_batches', LATCHED)
        self.create_subscription(PredictedFrame, 'predicted_frame', self._on_frame, reliable(30))
        self.create_subscription(LabelCorrection, 'labels', self._on_label, reliable(100))
        self.create_subscription(
            ScenarioChange, 'scenario_changes', self._on_scenario, reliable(10)
        )
        self.create_subscription(ModelVerdict, 'verdicts', self._on_verdict, reliable(10))
        self.create_service(GetBatches, '~/get_batches', self._on_get_batches)
        self.create_service(RenameLabel, '~/rename_label', self._on_rename)
        self.create_service(GetLabelStatistics, '~/get_statistics', self._on_statistics)
        self.create_timer(0.1, self._on_tick)
        if self.settings.request_period_s > 0:
            self.create_timer(self.settings.request_period_s, self._request_label)
            self.create_subscription(FrameFeature, 'frame_feature', self._on_feature, reliable(30))
            self.create_subscription(
                FrameFeature, 'exemplar_features', self._on_exemplar, latched(MOST_EXEMPLARS)
            )
        self._published = last = self._store.last_batch()
        if last:  # a tuner that was away notices by the number that it missed some
            self._batches.publish(self._batch_message(last))
        self.get_logger().info(f'{self._store.count()} labelled frames in {path}')

    def _apply(self, settings: CollectorSettings) -> None:
        """Take settings that were changed at run time."""
        self.settings = settings
        self._authors, self._sources = names(settings.authors), names(settings.sources)
        self._store.budget_bytes = int(settings.budget_mb * 1e6)
        self._frames_come.limit_s = settings.silence_s

    def _why_silent(self) -> str:
        if self.count_publishers('predicted_frame') == 0:
            return 'no inference node is there, or it is in another namespace'
        return 'inference keeps none: is it active, do images come, is keep_rate_hz above 0?'

    def _why_gone(self) -> str:
        """Return why corrections are refused for frames that are not there."""
        while self._gone and time.monotonic() - self._gone[0][0] > GONE_S:
            self._gone.popleft()
        if len(self._gone) < MANY_GONE:
            return ''
        code = Counter(code for _, code in self._gone).most_common(1)[0][0]
        cause = {
            LabelReceipt.TOO_OLD: f'they come later than keep_s ({self.settings.keep_s:.0f} s), '
            f'or keep_mb ({self.settings.keep_mb:.0f} MB) is too little',
            LabelReceipt.FUTURE_STAMP: 'the clocks are apart, or the stamps are wrong',
        }.get(
            code,
            'stamp, frame_id and source have to be those of a Prediction that says `kept`; is '
            'keep_rate_hz of inference too low?',
        )
        return f'{len(self._gone)} corrections in a row are for frames that are not there: {cause}'

    def _why_unanswered(self) -> str:
        if (
            time.monotonic() - self._asked_at > GONE_S
            or self._requests.get_subscription_count() > 0
        ):
            return ''
        return 'nobody listens to label_requests: start the teacher node, or answer them yourself'

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
            'labels disputed': self._store.count_disputed(),
            'pictures stored MB': self._store.stored_bytes / 1e6,
        }

    @guarded
    def _on_frame(self, message: PredictedFrame) -> None:
        key = FrameKey(message.source, stamp_ns(message.header), message.header.frame_id)
        self._frames_come.heard()
        if self._sources and message.source not in self._sources:
            raise MessageError(
                f"a frame of source '{short(message.source)}' is ignored; see parameter sources"
            )
        if len(message.image.data) > self.settings.max_frame_mb * 1e6:
            raise MessageError(
                f'a frame of {len(message.image.data) / 1e6:.1f} MB is ignored; see max_frame_mb'
            )
        if max(map(len, (message.source, message.header.frame_id, message.label))) > LONGEST_NAME:
            raise MessageError('a frame is ignored: its source, frame_id or label is too long')
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
            self._frame(self._key(message)) is None
            and abs(now - stamp) < 5e9
            and stamp > self._buffer.forgotten_ns
        )
        if on_its_way and self.settings.join_wait_s > 0 and len(self._waiting) < MOST_WAITING:
            self._waiting.append((now, message))
        else:
            self._answer(message)

    def _answer(self, correction: LabelCorrection) -> None:
        """Store a correction or refuse it; publish the receipt."""
        code, text, frame, stored = self._judge(correction)
        if code == LabelReceipt.ACCEPTED:
            self._accepted += 1
            self._gone.clear()
            key = self._key(correction)
            self._value.note_labelled(key)
            if key in self._open:
                self._open.remove(key)
        else:
            self._refused += 1
            if code in (
                LabelReceipt.UNKNOWN_FRAME,
                LabelReceipt.TOO_OLD,
                LabelReceipt.FUTURE_STAMP,
            ):
                self._gone.append((time.monotonic(), code))
            self.get_logger().warning(f'a label is refused: {text}', throttle_duration_sec=2.0)
        self._receipts.publish(
            LabelReceipt(
                header=Header(
                    stamp=correction.header.stamp, frame_id=short(correction.header.frame_id)
                ),
                source=short(correction.source or self.settings.source),
                label='' if correction.withdraw else short(correction.label.strip()),
                author=short(correction.author),
                code=code,
                message=text,
                predicted_label=frame.label if frame else '',
                counting_label=stored.label if stored else '',
                sample_id=stored.sample_id if stored else 0,
            )
        )
        if code == LabelReceipt.ACCEPTED:
            self._oldest_ns = self._oldest_ns or self._now()
            self._hand_out()

    def _judge(self, correction: LabelCorrection) -> tuple[int, str, Frame | None, Stored | None]:
        """
        Return receipt code, reason, the frame if it is there, and what was stored.
        """
        author = correction.author.strip()
        label = '' if correction.withdraw else correction.label.strip()
        key = self._key(correction)
        frame = self._frame(key)
        if not label and not correction.withdraw:
            return LabelReceipt.EMPTY_LABEL, 'the label is empty', frame, None
        limit = self.settings.max_label_length
        if len(label) > limit:
            return (
                LabelReceipt.INVALID_LABEL,
                f'the label has {len(label)} characters, at most {limit} are allowed',
                frame,
                None,
            )
        if label and not label.isprintable():
            return LabelReceipt.INVALID_LABEL, 'the label holds control characters', frame, None
        if len(author) > 200 or (author and not author.isprintable()):
            return (
                LabelReceipt.INVALID_LABEL,
                'the author is no printable name of at most 200 characters',
                frame,
                None,
            )
        if self._authors and author not in self._authors:
            return (
                LabelReceipt.NOT_ALLOWED,
                f"'{short(author)}' may not label; see parameter authors",
                frame,
                None,
            )
        if not self._may_send(author):
            return (
                LabelReceipt.TOO_MANY,
                f'more than {self.settings.author_rate_hz:g} corrections per second; see '
                f'author_rate_hz',
                frame,
                None,
            )
        if frame is None:
            if key.stamp_ns > self._now() + 1_000_000_000:
                ahead = (key.stamp_ns - self._now()) / 1e9
                return (
                    LabelReceipt.FUTURE_STAMP,
                    f'the stamp lies {ahead:.1f} s in the future: clocks apart, or a wrong stamp',
                    None,
                    None,
                )
            if key.stamp_ns <= self._buffer.forgotten_ns:
                return (
                    LabelReceipt.TOO_OLD,
                    f'the frame is no longer kept; frames are kept for '
                    f'{self.settings.keep_s:.0f} s',
                    None,
                    None,
                )
            where = f"source '{short(key.source)}', frame_id '{short(key.frame_id)}'"
            return (
                LabelReceipt.UNKNOWN_FRAME,
                f'no frame of this stamp was kept for {where}; copy them from its Prediction',
                None,
                None,
            )
        evicted = not frame.image and self._buffer.get(key) is None
        if evicted and not correction.withdraw:
            text = 'the picture of this frame made room for others, so nothing can be learned'
            return LabelReceipt.TOO_OLD, text, frame, None
        try:
            said = self._store.said(key).get(author)
            if correction.withdraw and said is None:
                text = 'this author had said nothing of this frame'
                return LabelReceipt.NOTHING_TO_WITHDRAW, text, frame, None
            if said == label:
                return LabelReceipt.DUPLICATE, 'this frame has this label already', frame, None
            stored = self._store.add(frame, label, author, self._now(), self._scenario(key))
        except (StoreError, sqlite3.Error) as error:
            self.health.problem(str(error))
            return LabelReceipt.DISK_FULL, str(error), frame, None
        return LabelReceipt.ACCEPTED, outcome(stored, label, frame), frame, stored

    def _frame(self, key: FrameKey) -> Frame | None:
        """Return a frame that is kept in memory or, once it was labelled, in the store."""
        return self._buffer.get(key) or self._store.find(key)

    def _may_send(self, author: str) -> bool:
        """Return whether an author keeps to the rate that is allowed (token bucket)."""
        rate = self.settings.author_rate_hz
        if rate <= 0:
            return True
        now = time.monotonic_ns()
        then, tokens = self._allowance.pop(author, (now, float(BURST)))
        tokens = min(float(BURST), tokens + rate * (now - then) / 1e9)
        self._allowance[author] = (now, max(tokens - 1.0, 0.0))
        while len(self._allowance) > MOST_AUTHORS:
            self._allowance.popitem(last=False)
        return tokens >= 1.0

    @guarded
    def _on_scenario(self, message: ScenarioChange) -> None:
        if message.source in self._changes or len(self._changes) < MOST_CHANGES:
            changes = self._changes.setdefault(message.source, [])
            self._value.new_scene()
            changes.append((stamp_ns(message.header), message.scenario))
            changes.sort()
            del changes[:-MOST_CHANGES]

    def _scenario(self, key: FrameKey) -> int:
        changes = self._changes.get(key.source, [])
        index = bisect_right(changes, key.stamp_ns, key=itemgetter(0))
        return changes[index - 1][1] if index else 0

    @guarded
    def _on_verdict(self, message: ModelVerdict) -> None:
        """Note what a live version has learned."""
        learned = dict(zip(message.collectors, message.batch_ids))
        batch = learned.get(self.get_fully_qualified_name(), 0)
        if message.code == ModelVerdict.ACCEPTED and 0 < batch <= self._store.last_batch():
            self._store.note_learned(batch, message.version)

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
        elif self._oldest_ns is None and self._store.waiting():
            self._oldest_ns = now  # another process imported labels
        if self._store.last_batch() > self._published:  # another process renamed some
            self._publish_batch(self._store.last_batch())

    def _hand_out(self, partial: bool = False) -> None:
        """Publish full batches; with `partial` whatever waits."""
        while (waiting := self._store.waiting()) >= self.settings.batch_size or (
            partial and waiting
        ):
            batch = self._store.make_batch(self.settings.batch_size)
            if batch is not None:
                self._publish_batch(batch)
        if not waiting:
            self._oldest_ns = None

    def _publish_batch(self, batch: int) -> None:
        self._published = batch
        self._batches.publish(self._batch_message(batch))

    def _batch_message(self, batch: int) -> LabelledBatch:
        stored = self._store.batch(batch)
        return LabelledBatch(
            collector=self.get_fully_qualified_name(),
            batch_id=batch,
            samples=[sample_message(s) for s in stored.samples],
            renamed_from=[old for old, _ in stored.renamed],
            renamed_to=[new for _, new in stored.renamed],
        )

    def _on_get_batches(
        self, request: GetBatches.Request, response: GetBatches.Response
    ) -> GetBatches.Response:
        response.collector = self.get_fully_qualified_name()
        try:
            response.last_batch_id = self._store.last_batch()
            first, limit = max(request.from_batch_id, 1), min(request.limit or 16, 256)
            batches, size = [], 0
            for number in range(first, min(first + limit, response.last_batch_id + 1)):
                batches.append(self._batch_message(number))
                size += sum(len(s.image.data) for s in batches[-1].samples)
                if size > ANSWER_BYTES:  # the rest is asked for again
                    break
            response.batches = batches
        except Exception as error:  # a service has to answer
            self.health.problem(str(error))
            response.error_code, response.error_msg = (
                GetBatches.Response.STORE,
                f'the label store can not be read: {error}',
            )
        return response

    def _on_rename(
        self, request: RenameLabel.Request, response: RenameLabel.Response
    ) -> RenameLabel.Response:
        old, new = request.label.strip(), request.new_label.strip()
        if not new or len(new) > self.settings.max_label_length or not new.isprintable():
            response.error_code, response.error_msg = (
                response.INVALID_LABEL,
                f'the new label must be printable, of 1 to {self.settings.max_label_length} '
                f'characters',
            )
            return response
        try:
            known = [s.label for s in self._store.statistics()]
            if old not in known:
                response.error_code, response.error_msg = (
                    response.UNKNOWN_LABEL,
                    f"no frame is labelled '{short(old, 60)}'; labels: "
                    f'{short(", ".join(known), 500)}',
                )
                return response
            response.changed = self._store.rename(old, new)
            self._publish_batch(self._store.last_batch())
            text = 'merged with' if new in known else 'renamed to'
            response.error_msg = f"'{old}' {text} '{new}' in {response.changed} frames"
            self.get_logger().info(response.error_msg)
        except Exception as error:  # a service has to answer
            self.health.problem(str(error))
            response.error_code, response.error_msg = response.STORE, str(error)
        return response

    def _on_statistics(
        self, _request: GetLabelStatistics.Request, response: GetLabelStatistics.Response
    ) -> GetLabelStatistics.Response:
        try:
            found = self._store.statistics()
            response.labels = [s.label for s in found]
            response.frames = [s.frames for s in found]
            response.confirmed = [s.confirmed for s in found]
            response.learned = [s.learned for s in found]
            response.image_bytes = [s.image_bytes for s in found]
            response.disputed = self._store.count_disputed()
            response.stored_bytes = self._store.stored_bytes
            response.budget_bytes = self._store.budget_bytes
        except Exception as error:  # a service has to answer
            self.health.problem(str(error))
            response.error_code, response.error_msg = response.STORE, str(error)
        return response

    @guarded
    def _on_feature(self, message: FrameFeature) -> None:
        """Look whether a frame is among those whose label would help most."""
        key = FrameKey(message.source, stamp_ns(message.header), message.header.frame_id)
        frame = self._buffer.get(key)
        feature = np.frombuffer(bytes(message.feature[: len(message.feature) // 2 * 2]), '<f2')
        if frame is None or not len(feature) or self._store.find(key) is not None:
            return
        self._value.offer(key, min(max(frame.confidence, 0.0), 1.0), feature)
        wanted = {*self._value.keys, *self._open}
        self._buffer.pinned = {k for k in self._buffer if k in wanted}

    @guarded
    def _on_exemplar(self, message: FrameFeature) -> None:
        """Nothing is asked that the model was deployed with."""
        feature = np.frombuffer(bytes(message.feature[: len(message.feature) // 2 * 2]), '<f2')
        if len(feature) and np.isfinite(feature).all():
            self._value.know(feature)

    @guarded
    def _request_label(self) -> None:
        """Ask about one frame: a disputed one, the best of the scene, or the oddest."""
        disputed = self._store.disputed()
        self._disputes &= set(disputed)  # one that is settled may be disputed again
        for disputed_key in disputed:
            frame = None if disputed_key in self._disputes else self._frame(disputed_key)
            if frame is not None:
                self._disputes.add(disputed_key)
                said = sorted(set(self._store.said(disputed_key).values()))
                self._ask(frame, f'people disagree: {short(" or ".join(said))}')
                return
        for gone in [k for k in self._value.keys if k not in self._buffer]:
            self._value.forget(gone)  # a recording started again, or the memory is full
        key = self._value.choose()
        chosen = self._buffer.get(key) if isinstance(key, FrameKey) else None
        if chosen is not None:
            self._open.append(chosen.key)
            self._ask(chosen, 'stands for much of this scene, and no label speaks for it yet')
            return
        frames = self._buffer.since(self._asked_ns)
        if self._value.keys or not frames:
            return
        self._asked_ns = max(f.key.stamp_ns for f in frames)
        oddest = min(frames, key=lambda f: f.confidence)
        self._ask(oddest, f'least certain of the last {len(frames)} frames')

    def _ask(self, frame: Frame, reason: str) -> None:
        """Publish a request for the label of a frame."""
        self._asked_at = time.monotonic()
        header = header_of(frame.key)
        self._requests.publish(
            LabelRequest(
                header=header,
                source=frame.key.source,
                predicted_label=frame.label,
                confidence=frame.confidence,
                reason=reason,
                image=CompressedImage(
                    header=header, format=frame.image_format, data=to_bytes(frame.image)
                ),
            )
        )

    def close(self) -> None:
        """Close the database."""
        self._store.close()


def names(text: str) -> set[str]:
    """Return the names in a list that is separated by commas."""
    return {name.strip() for name in text.split(',') if name.strip()}


def outcome(stored: Stored, label: str, frame: Frame) -> str:
    """Return what a receipt says of an accepted correction."""
    kind = 'confirmed' if label == frame.label else 'corrected'
    if not label:
        kind = 'withdrawn'
    if not stored.label and stored.said:
        said = ' or '.join(sorted(set(stored.said.values())))
        return f'{kind}; disputed: {short(said)}; not learned until one is said more often'
    if label and stored.label != label:
        return f"{kind}; most say '{stored.label}', which counts"
    return kind


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
