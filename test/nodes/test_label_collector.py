# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`label_collector`: every correction gets its receipt; what was accepted survives a restart."""

from __future__ import annotations

from array import array

from helpers import Graph, header, jpeg_message
import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock

from etuner_ros.cli.main import main as cli
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.labels.desk import Code
from etuner_ros.core.labels.frame_buffer import FrameKey
from etuner_ros.core.labels.renaming import RenameCode
from etuner_ros.core.labels.value import MOST_EXEMPLARS
from etuner_ros.msg import (
    Box,
    DetectedObject,
    FrameFeature,
    LabelCorrection,
    LabelledBatch,
    LabelReceipt,
    LabelRequest,
    ModelVerdict,
    Objects,
    PredictedFrame,
    ScenarioChange,
)
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.qos import LATCHED, latched, NEWEST_WINS
from etuner_ros.srv import GetBatches, GetLabelStatistics, GetReplay, RenameLabel

PICTURE = np.zeros((8, 8, 3), np.uint8)


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

    def see(self, age_s: float = 1.0, label: str = 'mug', uid: int = 0) -> PredictedFrame:
        head = header(self.now - int(age_s * 1e9))
        frame = PredictedFrame(
            header=head,
            source='camera',
            frame_uid=uid,
            label=label,
            confidence=0.5,
            image=jpeg_message(PICTURE, head),
        )
        kept = int(self.node._diagnostics()['frames kept'])
        self._frames.publish(frame)
        self.ros.until(
            lambda: self.node._diagnostics()['frames kept'] > kept, 'the frame to be kept'
        )
        return frame

    def say(self, head: object, label: str, **fields: object) -> LabelReceipt:
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


def test_a_name_of_either_spelling_of_its_accents_is_confirmed_and_stored_as_one(desk):
    typed, of_macos = 'T\u00fcr', 'Tu\u0308r'
    receipt = desk.say(desk.see(2.0, of_macos).header, of_macos)
    found = receipt.message, receipt.label, receipt.counting_label, receipt.predicted_label
    assert found == ('confirmed', typed, typed, typed)


def test_receipts_have_the_codes_of_the_message():
    assert {c.name: int(c) for c in Code} == {c.name: getattr(LabelReceipt, c.name) for c in Code}
    codes = {c.name: getattr(RenameLabel.Response, c.name) for c in RenameCode}
    assert {c.name: int(c) for c in RenameCode} == codes


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


def test_a_correction_from_a_laptop_whose_clock_is_30_s_off_works(ros, desk):
    """Its header holds the stamp of the image; what the sender's clock says plays no part."""
    laptop = ros.add(lambda **options: Node('laptop', **options), use_sim_time=True)
    clock = ros.speak(Clock, '/clock', NEWEST_WINS)

    def laptop_is(offset_s: int) -> bool:
        now = ros.probe.get_clock().now().nanoseconds + offset_s * 10**9
        clock.publish(Clock(clock=header(now).stamp))
        return abs(laptop.get_clock().now().nanoseconds - now) < 10**9

    labels = laptop.create_publisher(LabelCorrection, 'labels', 50)
    ros.until(lambda: labels.get_subscription_count() > 0, 'the collector')
    for count, offset_s in enumerate((30, -30), 1):
        ros.until(lambda offset_s=offset_s: laptop_is(offset_s), 'the clock to be off')
        frame = desk.see(count)
        labels.publish(LabelCorrection(header=frame.header, label='duck', author='ann'))
        ros.until(lambda count=count: len(desk.receipts) == count, 'the receipt')
        assert desk.receipts[-1].code == LabelReceipt.ACCEPTED
        assert desk.receipts[-1].header == frame.header


def test_a_stamp_of_a_clock_30_s_ahead_that_names_no_frame_is_said_to_be_in_the_future(desk):
    desk.see()
    receipt = desk.say(header(desk.now + 30 * 10**9), 'duck')
    assert receipt.code == LabelReceipt.FUTURE_STAMP
    assert '29.' in receipt.message or '30.' in receipt.message


def test_a_frame_that_is_no_longer_kept_is_too_old(ros):
    desk = Desk(ros, keep_mb=1.0)
    old = desk.see(100.0)
    big = PredictedFrame(header=header(desk.now), source='camera')
    big.image.data = bytes(1_000_000)
    desk._frames.publish(big)
    ros.until(lambda: desk.node._diagnostics()['frames kept MB'] == 1.0, 'it to make room')
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
    head, there = header(desk.now), desk.see(2.0)
    desk._labels.publish(LabelCorrection(header=head, label='duck'))
    assert desk.say(there.header, 'tray').label == 'tray', 'what comes later overtakes it'
    desk._frames.publish(PredictedFrame(header=head, source='camera', label='mug'))
    ros.until(lambda: len(desk.receipts) == 2, 'the receipt')
    assert (desk.receipts[1].label, desk.receipts[1].code) == ('duck', LabelReceipt.ACCEPTED)


def test_a_thing_is_confirmed_once_it_is_known_what_the_robot_took_it_for(ros):
    """Topics come in any order: the page may have been told before the collector is."""
    desk = Desk(ros, join_wait_s=30.0)
    objects = ros.speak(Objects, 'objects')
    box = Box(x=1.0, y=1.0, width=5.0, height=5.0)

    def name(frame: PredictedFrame) -> None:
        thing = DetectedObject(box=box, labels=['cup'], confidence=0.5)
        uid, size = frame.frame_uid, {'width': 8, 'height': 8, 'kept': True}
        said = Objects(
            header=frame.header, source='camera', frame_uid=uid, objects=[thing], **size
        )
        objects.publish(said)

    first, second = desk.see(2.0, uid=1), desk.see(1.0, uid=2)
    name(first)
    ros.until(lambda: desk.node._things.seen_at(1, (1, 1, 5, 5)), 'the first frame to be named')
    words = {'label': 'cup', 'author': 'ann', 'box': box}
    desk._labels.publish(LabelCorrection(header=second.header, frame_uid=2, **words))
    assert desk.say(first.header, 'desk', frame_uid=1).label == 'desk', 'the word waits'
    name(second)
    ros.until(lambda: len(desk.receipts) == 2, 'the receipt')
    assert (desk.receipts[1].code, desk.receipts[1].message) == (
        LabelReceipt.ACCEPTED,
        'confirmed',
    )


def test_where_a_confidence_is_no_number_a_label_has_its_receipt(ros):
    desk, odd = Desk(ros), float('nan')
    objects = ros.speak(Objects, 'objects')
    head, box = header(desk.now), Box(x=1.0, y=1.0, width=5.0, height=5.0)
    picture = jpeg_message(PICTURE, head)
    values = {'label': 'mug', 'confidence': odd, 'novelty': odd}
    frame = PredictedFrame(header=head, source='camera', frame_uid=1, image=picture, **values)
    desk._frames.publish(frame)
    thing = DetectedObject(box=box, labels=['cup'], confidence=odd)
    objects.publish(
        Objects(
            header=head,
            source='camera',
            frame_uid=1,
            objects=[thing],
            width=8,
            height=8,
            kept=True,
        )
    )
    ros.until(lambda: desk.node._things.seen_at(1, (1, 1, 5, 5)), 'the frame to be named')
    ros.until(lambda: desk.node._diagnostics()['frames kept'], 'the frame')
    assert desk.say(head, 'mug').message == 'confirmed'
    assert desk.say(head, 'cup', box=box).message == 'confirmed'


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


def test_that_nobody_answers_requests_is_said_once_and_so_is_the_end(ros):
    logs = ros.logs()
    desk = Desk(ros, request_period_s=0.1)
    desk.see()
    ros.until(lambda: any('nobody listens' in m.msg for m in logs), 'the warning')
    ros.listen(LabelRequest, 'label_requests')
    ros.until(lambda: any('someone listens' in m.msg for m in logs), 'the end')
    assert sum('nobody listens' in m.msg for m in logs) == 1


def test_who_listens_late_hears_what_has_no_answer_yet(ros):
    desk = Desk(ros, request_period_s=0.1)
    first, second = [], []
    teacher = ros.add(lambda **options: Node('first', **options))
    teacher.create_subscription(LabelRequest, 'label_requests', first.append, 10)
    ros.until(lambda: desk.node._listeners == 1, 'the collector to see who listens')
    for count in (1, 2):
        desk.see(3.0 - count, f'kind {count}')
        ros.until(lambda count=count: len(first) == count, 'a request')
    desk.say(first[0].header, 'duck')
    ros.remove(teacher)
    ros.until(lambda: desk.node._listeners == 0, 'nobody to listen')
    again = ros.add(lambda **options: Node('second', **options))
    again.create_subscription(LabelRequest, 'label_requests', second.append, 10)
    ros.until(lambda: second, 'what waits')
    assert [r.header for r in second] == [first[1].header], 'without what was answered'


def test_what_stands_for_much_and_is_not_known_is_asked_for(ros):
    desk = Desk(ros, request_period_s=0.1, requests__worth=0.1)
    requests = ros.listen(LabelRequest, 'label_requests')
    features = ros.speak(FrameFeature, 'frame_feature')
    exemplars = ros.speak(FrameFeature, 'exemplar_features', latched(MOST_EXEMPLARS))
    rng = np.random.default_rng(0)

    def feature(kind: int) -> array:
        row = np.eye(4)[kind] * 5 + rng.normal(size=4) * 0.1
        return array('B', row.astype('<f2').tobytes())

    for _ in range(10):  # kind 0 is what the model was deployed with
        exemplars.publish(FrameFeature(source='camera', feature=feature(0)))
    value = desk.node._asker._value
    ros.until(lambda: value.known == 10, 'the exemplars')
    kinds = {}

    def see(age_s: float, kind: int) -> None:
        frame = desk.see(age_s)
        kinds[frame.header.stamp.sec, frame.header.stamp.nanosec] = kind
        features.publish(FrameFeature(header=frame.header, source='camera', feature=feature(kind)))

    for number in range(30):
        see(30.0 - number, number % 3)

    def answered(kind: int) -> bool:
        for request in requests:
            stamp = request.header.stamp
            if kinds[stamp.sec, stamp.nanosec] == kind:
                assert desk.say(request.header, f'kind {kind}').code == LabelReceipt.ACCEPTED
                return True
        return False

    ros.until(lambda: answered(1), 'a request for one of kind 1')
    ros.until(lambda: answered(2), 'a request for one of kind 2')
    count = len(requests)
    for number in range(30, 36):  # more of the same
        see(30.25 - number / 2, number % 3)
    ros.until(lambda: len(value.keys) >= 30, 'the frames')
    assert value.choose() is None, 'what labels speak for is left alone'
    changes = ros.speak(ScenarioChange, 'scenario_changes')
    changes.publish(ScenarioChange(header=header(desk.now), source='camera', scenario=1))
    ros.until(lambda: not value.keys, 'another scene, in which nothing was seen yet')
    for number in range(12):
        see(9.3 - number / 2, (0, 3)[number % 2])
    ros.until(lambda: answered(3), 'a request for one of kind 3')
    asked = [kinds[r.header.stamp.sec, r.header.stamp.nanosec] for r in requests]
    assert set(asked[:count]) == {1, 2}, 'nothing that the model was deployed with'
    assert set(asked[count:]) == {3}


def test_people_who_disagree_are_told_and_the_tuner_takes_the_label_back(ros):
    desk = Desk(ros, batch_size=1)
    frame = desk.see()
    desk.say(frame.header, 'duck', author='ann')
    receipt = desk.say(frame.header, 'tray', author='bob')
    assert receipt.code == LabelReceipt.ACCEPTED
    assert 'disputed: duck or tray' in receipt.message
    assert receipt.counting_label == ''
    ros.until(lambda: len(desk.batches) == 2, 'the label to be taken back')
    assert [s.label for b in desk.batches for s in b.samples] == ['duck', '']
    settled = desk.say(frame.header, 'tray', author='eve')
    assert (settled.message, settled.counting_label) == ('corrected', 'tray')
    outvoted = desk.say(frame.header, 'mug', author='kim')
    assert (outvoted.label, outvoted.counting_label) == ('mug', 'tray')
    ros.until(lambda: len(desk.batches) == 3, 'the label that leads')
    last = desk.batches[-1].samples[0]
    assert (last.label, last.sample_id) == ('tray', desk.batches[0].samples[0].sample_id)
    answer = ros.call(GetLabelStatistics, 'label_collector/get_statistics')
    assert (list(answer.labels), list(answer.frames), answer.disputed) == (['tray'], [1], 0)


def test_a_correction_can_be_taken_back_even_when_the_frame_is_no_longer_in_memory(ros):
    desk = Desk(ros, batch_size=1)
    frame = desk.see()
    nothing = desk.say(frame.header, '', author='ann', withdraw=True)
    assert nothing.code == LabelReceipt.NOTHING_TO_WITHDRAW
    desk.say(frame.header, 'duck', author='ann')
    ros.remove(desk.node)
    again = Desk(ros, batch_size=1)
    receipt = again.say(frame.header, '', author='ann', withdraw=True)
    assert (receipt.code, receipt.message) == (LabelReceipt.ACCEPTED, 'withdrawn')
    ros.until(lambda: again.batches and again.batches[-1].batch_id == 2, 'the withdrawal')
    assert [s.label for s in again.batches[-1].samples] == ['']


def test_a_label_is_renamed_by_one_small_batch(ros):
    desk = Desk(ros, batch_size=1)
    for age, label in ((3, 'bird'), (2, 'duck')):
        desk.say(desk.see(age).header, label)
    answer = ros.call(RenameLabel, 'label_collector/rename_label', label='bird', new_label='duck')
    assert (answer.error_code, answer.changed) == (RenameLabel.Response.NONE, 1)
    ros.until(lambda: desk.batches[-1].batch_id == 3, 'the renaming')
    batch = desk.batches[-1]
    assert (list(batch.renamed_from), list(batch.renamed_to)) == (['bird'], ['duck'])
    assert not batch.samples
    gone = ros.call(RenameLabel, 'label_collector/rename_label', label='bird', new_label='x')
    assert gone.error_code == RenameLabel.Response.UNKNOWN_LABEL
    assert 'labels: duck' in gone.error_msg
    bad = ros.call(RenameLabel, 'label_collector/rename_label', label='duck', new_label=' ')
    assert bad.error_code == RenameLabel.Response.INVALID_LABEL


def test_an_author_who_sends_too_many_is_stopped_and_others_are_heard(ros):
    desk = Desk(ros, author_rate_hz=0.001)
    frame = desk.see()
    codes = {desk.say(frame.header, f'kind{i}', author='ann').code for i in range(20)}
    assert codes == {LabelReceipt.ACCEPTED}
    assert desk.say(frame.header, 'one more', author='ann').code == LabelReceipt.TOO_MANY
    assert desk.say(frame.header, 'duck', author='bob').code == LabelReceipt.ACCEPTED


def test_frames_of_other_sources_and_huge_ones_are_not_kept(ros):
    desk = Desk(ros, sources='front, camera', max_frame_mb=0.01)
    logs = ros.logs()
    for fields in ({'source': 'rear'}, {'source': 'camera', 'label': 'x' * 1000}):
        desk._frames.publish(PredictedFrame(header=header(desk.now), **fields))
    big = PredictedFrame(header=header(desk.now), source='camera')
    big.image.data = bytes(20_000)
    desk._frames.publish(big)
    objects = ros.speak(Objects, 'objects')
    thing = DetectedObject(box=Box(x=1.0, y=1.0, width=5.0, height=5.0), labels=['cup'])
    for uid, source in ((1, 'rear'), (2, 'front')):
        fields = {'width': 8, 'height': 8, 'kept': True, 'objects': [thing]}
        objects.publish(Objects(header=header(desk.now), source=source, frame_uid=uid, **fields))
    desk.see()
    seen = desk.node._things.seen_at
    ros.until(lambda: seen(2, (1, 1, 5, 5)), 'a thing that the front camera sees')
    assert seen(1, (1, 1, 5, 5)) is None, 'what the rear one sees is none of its business'
    assert desk.node._diagnostics()['frames kept'] == 1
    ros.until(lambda: any("source 'rear' is ignored" in m.msg for m in logs), 'the reason')


def test_labels_of_the_sources_of_another_collector_are_left_to_it(ros):
    """A refusal would end their resending, also where the other one has not heard them yet."""
    desk = Desk(ros, sources='front, camera')
    logs = ros.logs()
    frame = desk.see()
    desk._labels.publish(LabelCorrection(header=frame.header, source='rear', label='duck'))
    receipt = desk.say(frame.header, 'duck', source='camera')
    assert (receipt.code, receipt.source) == (LabelReceipt.ACCEPTED, 'camera')
    assert desk.say(frame.header, 'mug').code == LabelReceipt.ACCEPTED, 'of its own camera'
    assert len(desk.receipts) == 2, 'to that of the other source it says nothing'
    ros.until(lambda: any("source 'rear' is ignored" in m.msg for m in logs), 'the reason')


def test_the_scenario_and_what_was_learned_are_noted(ros):
    desk = Desk(ros, batch_size=1)
    changes = ros.speak(ScenarioChange, 'scenario_changes')
    verdicts = ros.speak(ModelVerdict, 'verdicts')
    changes.publish(ScenarioChange(header=header(desk.now - 10**9), source='camera', scenario=4))
    ros.until(lambda: desk.node._scenarios.of(FrameKey('camera', desk.now, 'eye')) == 4, 'it')
    desk.say(desk.see(5.0).header, 'duck')
    desk.say(desk.see(0.5).header, 'duck')
    assert [s.scenario for s in desk.node._store.labelled()] == [0, 4]
    name = desk.node.get_fully_qualified_name()
    for code, batch in (
        (ModelVerdict.WORSE, 2),  # it is not live
        (ModelVerdict.ACCEPTED, 9),  # of a store that was there before
        (ModelVerdict.ACCEPTED, 1),
    ):
        said = ModelVerdict(code=code, version=3, collectors=[name], batch_ids=[batch])
        verdicts.publish(said)
    ros.until(lambda: desk.node._store.statistics()[0].learned, 'the note')
    assert desk.node._store.statistics()[0].learned == 1, 'of two'


def test_labels_that_another_process_imports_go_out(ros, tmp_path):
    desk = Desk(ros, batch_size=8, batch_timeout_s=0.2, store=str(tmp_path / 'l.db'))
    (tmp_path / 'pictures' / 'duck').mkdir(parents=True)
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    (tmp_path / 'pictures' / 'duck' / 'one.jpg').write_bytes(picture)
    store = ['--store', str(tmp_path / 'l.db')]
    assert cli(['labels', 'import', str(tmp_path / 'pictures'), *store]) == 0
    ros.until(lambda: desk.batches, 'the imported label')
    assert [s.label for s in desk.batches[0].samples] == ['duck']
    assert cli(['labels', 'rename', 'duck', 'bird', *store]) == 0
    ros.until(lambda: len(desk.batches) == 2, 'the renaming')
    assert list(desk.batches[1].renamed_to) == ['bird']


def test_where_stamps_repeat_a_label_goes_to_the_picture_that_was_seen(ros):
    desk = Desk(ros, batch_size=1)
    first, second = 7 << 32 | 1, 0xF0000000 << 32 | 1  # of two runs of a simulator
    seen = desk.see(1.0, 'mug', first)
    desk.say(seen.header, 'cup', frame_uid=first)
    again = desk.see(1.0, 'tray', second)
    assert again.header == seen.header
    receipt = desk.say(again.header, 'bowl', frame_uid=second)
    assert (receipt.predicted_label, receipt.frame_uid) == ('tray', second)
    ros.until(lambda: len(desk.batches) == 2, 'both batches')
    samples = [s for b in desk.batches for s in b.samples]
    assert [(s.frame_uid, s.label, s.predicted_label) for s in samples] == [
        (first, 'cup', 'mug'),
        (second, 'bowl', 'tray'),
    ]
    newest = desk.say(seen.header, 'plate')
    assert (newest.frame_uid, newest.sample_id) == (second, receipt.sample_id)
    gone = desk.say(seen.header, 'plate', frame_uid=9)
    assert (gone.code, gone.frame_uid) == (LabelReceipt.UNKNOWN_FRAME, 0)


def test_a_request_names_the_very_picture(ros):
    desk = Desk(ros, request_period_s=0.1)
    requests = ros.listen(LabelRequest, 'label_requests')
    desk.see(1.0, uid=77)
    ros.until(lambda: requests, 'a request')
    assert requests[0].frame_uid == 77


@pytest.mark.parametrize('clock_came', [False, True])
def test_without_a_clock_and_while_it_stands_every_correction_gets_its_receipt(ros, clock_came):
    """As while a recording is paused: the moment in which people label."""

    def make(**options: object) -> LabelCollectorNode:
        options['parameter_overrides'] += [
            Parameter('use_sim_time', value=True),
            Parameter('join_wait_s', value=0.2),
            Parameter('batch_timeout_s', value=0.2),
        ]
        return LabelCollectorNode(**options)

    node = ros.add(make)
    receipts = ros.listen(LabelReceipt, 'label_receipts')
    batches = ros.listen(LabelledBatch, 'labelled_batches', LATCHED)
    requests = ros.listen(LabelRequest, 'label_requests')
    frames = ros.speak(PredictedFrame, 'predicted_frame')
    labels = ros.speak(LabelCorrection, 'labels')
    if clock_came:
        clock = Clock()
        clock.clock.sec = 100
        ros.speak(Clock, '/clock', NEWEST_WINS).publish(clock)
        ros.until(lambda: node.get_clock().now().nanoseconds == 100 * 10**9, 'the clock')
    head = header(99 * 10**9)
    frames.publish(PredictedFrame(header=head, source='camera', image=jpeg_message(PICTURE, head)))
    ros.until(lambda: requests, 'a request')
    labels.publish(LabelCorrection(header=head, label='duck', author='ann'))
    ros.until(lambda: batches, 'the batch, though it is not full')
    labels.publish(LabelCorrection(header=header(50 * 10**9), label='duck', author='ann'))
    ros.until(lambda: len(receipts) == 2, 'the receipt for a frame that does not come')
    assert [r.code for r in receipts] == [LabelReceipt.ACCEPTED, LabelReceipt.UNKNOWN_FRAME]


def test_a_memory_is_filled_again_newest_first_and_in_pieces(ros, monkeypatch):
    monkeypatch.setattr('etuner_ros.nodes.label_collector.ANSWER_BYTES', 1)
    desk = Desk(ros, batch_size=1)
    for age, label in ((6, 'duck'), (5, 'duck'), (4, 'mug'), (3, 'duck')):
        desk.say(desk.see(age).header, label)
    ros.until(lambda: desk.batches and desk.batches[-1].batch_id == 4, 'the batches')
    found = []
    while True:
        answer = ros.call(
            GetReplay, 'label_collector/get_replay', up_to_batch_id=3, count=10, skip=len(found)
        )
        assert (answer.error_code, answer.total) == (GetReplay.Response.NONE, 3)
        assert answer.collector == desk.node.get_fully_qualified_name()
        if not answer.samples:
            break
        assert len(answer.samples) == 1, 'a piece holds no more than it may'
        found += answer.samples
    assert [(s.sample_id, s.label) for s in found] == [(2, 'duck'), (3, 'mug'), (1, 'duck')]
    assert all(bytes(s.image.data).startswith(b'\xff\xd8') for s in found)
    ros.call(RenameLabel, 'label_collector/rename_label', label='duck', new_label='bird')
    for since, renamed in ((4, ['bird']), (5, [])):  # who has it has renamed it
        asked = {'up_to_batch_id': 5, 'since_batch_id': since, 'count': 10}
        answer = ros.call(GetReplay, 'label_collector/get_replay', **asked)
        assert (answer.renamed_to, answer.samples[0].label) == (renamed, 'bird')
