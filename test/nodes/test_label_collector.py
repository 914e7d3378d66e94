# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`label_collector`: every correction gets its receipt; what was accepted survives a restart."""

from __future__ import annotations

from helpers import Graph
from helpers import header
from helpers import jpeg_message
import numpy as np
import pytest

from etuner_ros.msg import LabelCorrection
from etuner_ros.msg import LabelledBatch
from etuner_ros.msg import LabelReceipt
from etuner_ros.msg import LabelRequest
from etuner_ros.msg import PredictedFrame
from etuner_ros.nodes.common import LATCHED
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.srv import GetBatches


class Desk:
    """A collector, a robot that sends it frames, and a person who labels them."""

    def __init__(self, ros: Graph, **parameters: object) -> None:
        self.ros = ros
        self.node = ros.add(
            LabelCollectorNode, **{'join_wait_s': 0.0, 'request_period_s': 0.0, **parameters}
        )
        self.receipts = ros.listen(LabelReceipt, 'label_receipts')
        self.batches = ros.listen(LabelledBatch, 'labelled_batches', LATCHED)
        self._frames = ros.speak(PredictedFrame, 'predicted_frame')
        self._labels = ros.speak(LabelCorrection, 'labels')
        self.now = ros.probe.get_clock().now().nanoseconds

    def see(self, age_s: float = 1.0, label: str = 'mug') -> PredictedFrame:
        head = header(self.now - int(age_s * 1e9))
        frame = PredictedFrame(
            header=head,
            source='camera',
            label=label,
            confidence=0.5,
            image=jpeg_message(np.zeros((8, 8, 3), np.uint8), head),
        )
        kept = int(self.node._diagnostics()['frames kept'])
        self._frames.publish(frame)
        self.ros.until(
            lambda: self.node._diagnostics()['frames kept'] > kept, 'the frame to be kept'
        )
        return frame

    def say(self, head: object, label: str, **fields: str) -> LabelReceipt:
        count = len(self.receipts)
        self._labels.publish(LabelCorrection(header=head, label=label, **fields))
        self.ros.until(lambda: len(self.receipts) > count, 'a receipt')
        return self.receipts[-1]


@pytest.fixture
def desk(ros: Graph) -> Desk:
    return Desk(ros)


def test_a_correction_and_a_confirmation_are_accepted(desk):
    first, second = desk.see(2.0), desk.see(1.0)
    receipt = desk.say(first.header, '  duck ', author='ann')
    assert (receipt.code, receipt.label, receipt.predicted_label) == (
        LabelReceipt.ACCEPTED,
        'duck',
        'mug',
    )
    assert receipt.header == first.header
    assert receipt.sample_id == 1
    assert receipt.message == 'corrected'
    assert desk.say(second.header, 'mug').message == 'confirmed'


def test_an_unknown_stamp_is_refused_with_the_reason(desk):
    desk.see()
    receipt = desk.say(header(desk.now), 'duck')
    assert receipt.code == LabelReceipt.UNKNOWN_FRAME
    assert 'copy them from its Prediction' in receipt.message
    wrong = header(desk.now - 10**9, 'another eye')
    assert desk.say(wrong, 'duck').code == LabelReceipt.UNKNOWN_FRAME


def test_a_stamp_from_the_future_is_refused(desk):
    receipt = desk.say(header(desk.now + 600 * 10**9), 'duck')
    assert receipt.code == LabelReceipt.FUTURE_STAMP
    assert 'in the future' in receipt.message


def test_a_frame_that_is_no_longer_kept_is_too_old(ros):
    desk = Desk(ros, keep_s=5.0)
    old = desk.see(100.0)
    desk.see(99.0)
    desk._frames.publish(PredictedFrame(header=header(desk.now), source='camera'))
    ros.until(lambda: desk.node._buffer.forgotten_ns, 'the old frames to be forgotten')
    assert desk.say(old.header, 'duck').code == LabelReceipt.TOO_OLD


@pytest.mark.parametrize(
    ('label', 'code'),
    [
        ('', LabelReceipt.EMPTY_LABEL),
        ('   \t', LabelReceipt.EMPTY_LABEL),
        ('a\x07b', LabelReceipt.INVALID_LABEL),
        ('x' * 65, LabelReceipt.INVALID_LABEL),
        ('x' * 10_000_000, LabelReceipt.INVALID_LABEL),
    ],
)
def test_a_label_that_is_none_is_refused_and_the_node_lives(desk, label, code):
    frame = desk.see()
    receipt = desk.say(frame.header, label)
    assert receipt.code == code
    assert receipt.message
    assert len(receipt.label) <= 100, 'a huge label is not echoed'
    assert desk.say(frame.header, 'duck').code == LabelReceipt.ACCEPTED


def test_a_duplicate_is_refused_but_a_changed_mind_and_another_person_are_heard(desk):
    frame = desk.see()
    codes = [
        desk.say(frame.header, label, author=author).code
        for label, author in (('duck', 'ann'), ('duck', 'ann'), ('tray', 'ann'), ('duck', 'bob'))
    ]
    ok, no = LabelReceipt.ACCEPTED, LabelReceipt.DUPLICATE
    assert codes == [ok, no, ok, ok]


def test_only_listed_authors_may_label(ros):
    desk = Desk(ros, authors='ann, bob')
    frame = desk.see()
    assert desk.say(frame.header, 'duck', author='eve').code == LabelReceipt.NOT_ALLOWED
    assert desk.say(frame.header, 'duck', author='bob').code == LabelReceipt.ACCEPTED


def test_a_correction_waits_for_a_frame_that_is_still_on_its_way(ros):
    desk = Desk(ros, join_wait_s=30.0)
    head = header(desk.now)
    desk._labels.publish(LabelCorrection(header=head, label='duck'))
    ros.until(lambda: desk.node._waiting, 'the correction to wait')
    assert not desk.receipts
    desk._frames.publish(PredictedFrame(header=head, source='camera', label='mug'))
    ros.until(lambda: desk.receipts, 'the receipt')
    assert desk.receipts[0].code == LabelReceipt.ACCEPTED


def test_labels_come_out_in_numbered_batches(ros):
    desk = Desk(ros, batch_size=2)
    for age in (5, 4, 3, 2):
        desk.say(desk.see(age).header, 'duck')
    ros.until(lambda: len(desk.batches) == 2, 'two batches')
    assert [b.batch_id for b in desk.batches] == [1, 2]
    assert [s.sample_id for b in desk.batches for s in b.samples] == [1, 2, 3, 4]
    sample = desk.batches[0].samples[0]
    assert (sample.label, sample.predicted_label) == ('duck', 'mug')
    assert bytes(sample.image.data).startswith(b'\xff\xd8')


def test_a_smaller_batch_goes_out_in_the_end(ros):
    desk = Desk(ros, batch_size=100, batch_timeout_s=0.2)
    desk.say(desk.see().header, 'duck')
    ros.until(lambda: desk.batches, 'the small batch')
    assert len(desk.batches[0].samples) == 1


def test_after_a_restart_the_labels_are_there_and_can_be_asked_for(ros):
    desk = Desk(ros, batch_size=1)
    for age in (3, 2, 1):
        desk.say(desk.see(age).header, f'kind{age}')
    ros.remove(desk.node)
    again = ros.add(LabelCollectorNode)
    late: list[LabelledBatch] = ros.listen(LabelledBatch, 'labelled_batches', LATCHED)
    ros.until(lambda: late, 'the last batch, latched')
    assert late[-1].batch_id == 3
    answer = ros.call(GetBatches, 'label_collector/get_batches', from_batch_id=2)
    assert answer.error_code == GetBatches.Response.NONE
    assert answer.last_batch_id == 3
    assert [b.samples[0].label for b in answer.batches] == ['kind2', 'kind1']
    assert answer.collector == again.get_fully_qualified_name()


def test_the_least_certain_frame_is_asked_for(ros):
    desk = Desk(ros, request_period_s=0.3)
    requests = ros.listen(LabelRequest, 'label_requests')
    for age, confidence in ((3, 0.9), (2, 0.2), (1, 0.6)):
        desk._frames.publish(
            PredictedFrame(
                header=header(desk.now - age * 10**9),
                source='camera',
                label='mug',
                confidence=confidence,
            )
        )
    ros.until(lambda: requests, 'a request')
    ros.until(
        lambda: min(r.confidence for r in requests) < 0.3, 'the request for the least certain one'
    )
    assert all(r.reason for r in requests)
