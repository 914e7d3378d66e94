# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of corrections, which wait, who is asked, what is handed out: without ROS."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_frame_buffer import Clock

from etuner_ros.core.config import LabelValueConfig
from etuner_ros.core.labels.asker import LabelAsker
from etuner_ros.core.labels.batches import BatchMaker, MOST_BATCHES, SOME_BATCHES
from etuner_ros.core.labels.desk import Code, Correction, LabelDesk, Receipt
from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey
from etuner_ros.core.labels.joiner import Joiner, LATELY_S, MOST_WAITING
from etuner_ros.core.labels.renaming import rename, RenameCode
from etuner_ros.core.labels.scenario_times import ScenarioTimes
from etuner_ros.core.labels.settings import CollectorSettings, DeskRules
from etuner_ros.core.labels.store import LabelStore

SECOND = 10**9
NOW = 1000 * SECOND


def key(stamp_ns: int = NOW - SECOND, uid: int = 0, source: str = 'camera') -> FrameKey:
    return FrameKey(source, stamp_ns, 'eye', uid)


def frame(name: FrameKey, label: str = 'mug', confidence: float = 0.5) -> Frame:
    return Frame(name, b'picture of ' + label.encode(), 'jpeg', label, confidence, 0.5, 3)


class Office:
    """A desk with its store and its buffer."""

    def __init__(self, folder: Path, **rules: object) -> None:
        self.clock = Clock()
        self.store = LabelStore(folder / 'labels.db')
        self.buffer = FrameBuffer(120.0, 1_000_000, self.clock)
        self.desk = LabelDesk(self.store, self.buffer, DeskRules(**rules), self.clock)

    def say(self, name: FrameKey, label: str = 'duck', **more: object) -> Receipt:
        fields = {'author': 'ann', 'withdraw': False, 'now_ns': NOW, **more}
        now_ns = fields.pop('now_ns')
        return self.desk.answer(Correction.of(name, label, **fields), now_ns, lambda k: 7)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_what_is_accepted_is_stored_with_its_scenario(office):
    office.buffer.add(frame(key(uid=4)))
    receipt = office.say(key(uid=4), '  duck ')
    assert (receipt.code, receipt.text, receipt.frame.key.uid) == (Code.ACCEPTED, 'corrected', 4)
    (sample,) = office.store.labelled()
    assert (sample.uid, sample.label, sample.scenario) == (4, 'duck', 7)
    assert office.say(key(uid=4)).code is Code.DUPLICATE
    assert office.say(key(uid=4), '', withdraw=True).text == 'withdrawn'
    assert office.say(key(uid=4), '', withdraw=True).code is Code.NOTHING_TO_WITHDRAW
    assert (office.desk.accepted, office.desk.refused) == (2, 2)


@pytest.mark.parametrize(
    ('label', 'code'),
    [
        ('می\u200cخوانم', Code.ACCEPTED),
        ('👩\u200d🔬', Code.ACCEPTED),
        ('mug\n', Code.ACCEPTED),
        ('mug\x07', Code.INVALID_LABEL),
        ('mug\ntray', Code.INVALID_LABEL),
        ('\u202emug', Code.INVALID_LABEL),
    ],
)
def test_names_of_all_scripts_are_taken_and_control_characters_are_not(office, label, code):
    office.buffer.add(frame(key(uid=4)))
    assert office.say(key(uid=4), label).code is code


def test_after_a_restart_of_a_simulator_a_label_goes_to_the_picture_seen_last(office):
    office.buffer.add(frame(key(5, uid=1), 'mug'))
    assert office.say(key(5)).frame.label == 'mug'
    office.buffer.add(frame(key(5, uid=2), 'tray'))
    receipt = office.say(key(5))
    assert (receipt.code, receipt.frame.key.uid) == (Code.ACCEPTED, 2)
    pictures = [(s.uid, s.image) for s in office.store.labelled()]
    assert pictures == [(1, b'picture of mug'), (2, b'picture of tray')]
    office.buffer.pinned = set()
    later = LabelDesk(office.store, FrameBuffer(clock=office.clock), clock=office.clock)
    again = later.answer(Correction.of(key(5), 'cup', 'bob', False), NOW, lambda k: 0)
    assert again.frame.key.uid == 2, 'also when the store alone knows it'


def test_without_a_clock_no_stamp_lies_in_the_future(office):
    assert office.say(key(NOW + SECOND)).code is Code.UNKNOWN_FRAME, 'clocks differ a little'
    assert office.say(key(NOW + SECOND + 1)).code is Code.FUTURE_STAMP
    assert office.say(key(NOW + 600 * SECOND)).code is Code.FUTURE_STAMP
    assert office.say(key(NOW + 600 * SECOND), now_ns=0).code is Code.UNKNOWN_FRAME
    office.buffer.add(frame(key(NOW + 600 * SECOND)))
    assert office.say(key(NOW + 600 * SECOND), now_ns=0).code is Code.ACCEPTED


def test_why_corrections_do_not_find_their_frames_is_said_until_one_does(office):
    for number in range(3):
        assert office.desk.trouble() == ''
        office.say(key(number))
    assert '3 corrections' in office.desk.trouble()
    assert 'have to be those of a Prediction' in office.desk.trouble()
    office.clock.now += 61.0
    assert office.desk.trouble() == '', 'it is long ago'
    for number in range(3):
        office.say(key(number))
    office.buffer.add(frame(key()))
    office.say(key())
    assert office.desk.trouble() == ''


def test_frames_that_are_there_and_of_no_use_are_not_said_to_be_gone(office):
    for stamp in range(1, 4):
        office.buffer.add(Frame(key(stamp), b'no picture', 'jpeg', 'mug', 0.5, 0.5, 3, (64, 48)))
        thing = Correction.of(key(stamp), 'cup', 'ann', False, (1.0, 1.0, 9.0, 9.0))
        receipt = office.desk.answer(thing, NOW, lambda k: 7)
        assert (receipt.code, receipt.frame.key) == (Code.UNKNOWN_FRAME, key(stamp))
    assert office.desk.trouble() == ''


def test_an_author_may_send_again_after_a_while(tmp_path):
    office = Office(tmp_path, author_rate_hz=2.0)
    office.buffer.add(frame(key()))
    codes = [office.say(key(), f'kind {i}').code for i in range(21)]
    assert codes == [Code.ACCEPTED] * 20 + [Code.TOO_MANY]
    office.clock.now += 0.5
    assert office.say(key(), 'one more').code is Code.ACCEPTED
    assert office.say(key(), 'and one').code is Code.TOO_MANY
    office.clock.now += 3600.0
    codes = [office.say(key(), f'later {i}').code for i in range(21)]
    assert codes == [Code.ACCEPTED] * 20 + [Code.TOO_MANY], 'hours of silence do not add up'


def test_who_sends_a_little_too_fast_has_a_little_refused(tmp_path):
    office = Office(tmp_path, author_rate_hz=10.0)
    office.buffer.add(frame(key()))
    codes = []
    for number in range(600):  # eleven a second
        codes.append(office.say(key(), f'kind {number}').code)
        office.clock.now += 1 / 11
    assert 30 < codes.count(Code.TOO_MANY) < 60, 'one of eleven, but for the first twenty'


def test_who_may_label_is_checked(tmp_path):
    office = Office(tmp_path, authors=CollectorSettings(authors=' ann,bob ').rules.authors)
    office.buffer.add(frame(key()))
    assert office.say(key(), author='eve').code is Code.NOT_ALLOWED
    assert office.say(key(), author='bob').code is Code.ACCEPTED


def test_a_store_that_fails_is_answered_too(office):
    office.buffer.add(frame(key()))
    office.store.close()
    assert office.say(key()).code is Code.DISK_FULL
    assert office.say(key(1)).code is Code.DISK_FULL


def test_a_picture_that_made_room_can_be_taken_back_but_not_labelled(office):
    office.buffer.add(frame(key()))
    office.say(key())
    office.store._database.execute('UPDATE frames SET image = NULL, size = 0')
    desk = LabelDesk(office.store, FrameBuffer(clock=office.clock), clock=office.clock)
    other = Correction.of(key(), 'cup', 'bob', False)
    assert desk.answer(other, NOW, lambda k: 0).code is Code.TOO_OLD
    back = Correction.of(key(), '', 'ann', True)
    assert desk.answer(back, NOW, lambda k: 0).code is Code.ACCEPTED


def test_a_frame_that_made_room_before_its_time_is_refused_for_that_reason(office):
    first = frame(key())
    office.buffer._max_bytes = len(first.image)
    office.buffer.add(first)
    office.buffer.add(frame(key(1)))
    receipt = office.say(key())
    assert receipt.code is Code.TOO_OLD
    assert 'keep_mb, 256 MB' in receipt.text


# Waiting for the frame


@pytest.fixture
def joiner(office: Office) -> Joiner[str]:
    return Joiner(office.buffer, office.store, 1.0, office.clock)


def test_corrections_wait_for_their_frame_in_order(office, joiner):
    assert joiner.hold(key(1, uid=5), 'by name')
    assert joiner.hold(key(1), 'by stamp')
    assert joiner.hold(key(1, uid=6), 'another picture of this stamp')
    office.buffer.add(frame(key(1, uid=5)))
    assert joiner.arrived(key(1, uid=5)) == ['by name', 'by stamp']
    assert joiner.arrived(key(1, uid=5)) == []
    assert not joiner.hold(key(1, uid=5), 'it is there')
    assert joiner.overdue() == []
    office.clock.now += 1.5
    assert joiner.overdue() == ['another picture of this stamp']
    office.clock.now += 100.0
    assert joiner.overdue() == [], 'each once'


def test_what_is_said_of_a_thing_waits_for_what_the_robot_took_it_for(office, joiner):
    for uid in (1, 2, 3):
        office.buffer.add(frame(key(uid, uid=uid)))
    assert not joiner.hold(key(1, uid=1), 'by a robot that names no things', thing=True)
    assert joiner.named(key(1, uid=1)) == []
    assert not joiner.hold(key(1, uid=1), 'it is known', thing=True)
    assert not joiner.hold(key(2, uid=2), 'of the whole frame')
    assert joiner.hold(key(2, uid=2), 'of a thing', thing=True)
    assert joiner.hold(key(5), 'its frame comes later', thing=True)
    assert joiner.named(key(3, uid=3)) == ['of a thing'], 'what is named in order comes no more'
    office.buffer.add(frame(key(5, uid=5)))
    assert joiner.arrived(key(5, uid=5)) == [], 'of which nothing is named yet'
    assert joiner.named(key(5, uid=5)) == ['its frame comes later']
    office.buffer.add(frame(key(9, uid=9)))
    assert joiner.hold(key(9, uid=9), 'too long', thing=True)
    again = key(9, uid=9 + (1 << 32))
    office.buffer.add(frame(again))
    assert not joiner.hold(again, 'by a robot that started again', thing=True)
    office.clock.now += 1.5
    assert joiner.overdue() == ['too long']
    office.clock.now += LATELY_S
    assert not joiner.hold(key(9, uid=9), 'by a robot whose detector has stopped', thing=True)


def test_names_that_come_out_of_order_do_not_make_a_thing_wait_anew(
    office: Office, joiner: Joiner[str]
) -> None:
    for uid in (1, 2, 3):
        office.buffer.add(frame(key(uid, uid=uid)))
    for uid in (2, 1):
        assert joiner.named(key(uid, uid=uid)) == []
    assert not joiner.hold(key(2, uid=2), 'its things are named', thing=True)
    assert joiner.hold(key(3, uid=3), 'not yet', thing=True)


def test_without_a_name_an_older_picture_of_this_stamp_is_not_taken_for_a_newer(office, joiner):
    office.store.add(frame(key(1, uid=5)), 'duck', 'ann', 0)
    assert not joiner.hold(key(1, uid=5), 'named, and stored')
    assert joiner.hold(key(1), 'a simulator that started again may have shown another one')
    office.buffer.add(frame(key(1, uid=9)))
    assert len(joiner.arrived(key(1, uid=9))) == 1


def test_what_can_not_come_is_not_waited_for(office, joiner):
    small = FrameBuffer(max_bytes=20, clock=office.clock)
    small.add(frame(key(1)))
    small.add(frame(key(2)))
    joiner = Joiner(small, office.store, 1.0, office.clock)
    assert not joiner.hold(key(1), 'it was forgotten')
    for number in range(MOST_WAITING):
        assert joiner.hold(key(10 + number), '')
    assert not joiner.hold(key(5), 'one too many')
    joiner.wait_s = 0.0
    assert not joiner.hold(key(5), '')


# Batches


def test_full_batches_go_out_at_once_and_a_smaller_one_in_the_end(office):
    maker = BatchMaker(office.store, 2, 10.0, office.clock)
    for number in range(5):
        office.store.add(frame(key(number)), 'duck', 'ann', 0)
    assert list(maker.due()) == [1, 2]
    office.clock.now += 9.0
    assert list(maker.due()) == []
    office.clock.now += 1.5
    assert list(maker.due()) == [3]
    assert list(maker.due()) == []
    office.store.add(frame(key(9)), 'duck', 'ann', 0)
    assert list(maker.due()) == [], 'a new label waits anew'
    maker.hurry()
    assert list(maker.due()) == [4]
    office.store.add(frame(key(10)), 'duck', 'ann', 0)
    assert list(maker.due()) == [], 'that was for those who waited'
    sizes = [len(batch.samples) for _, batch in maker.again(1, 0, 10**6)]
    assert sizes == [2, 2, 1, 1]
    assert [number for number, _ in maker.again(2, 1, 10**6)] == [2]
    assert [number for number, _ in maker.again(1, 0, 1)] == [1], 'never nothing'


def test_batches_are_handed_out_again_in_pieces(office: Office) -> None:
    maker = BatchMaker(office.store, 1, 10.0, office.clock)
    for number in range(MOST_BATCHES + 4):
        office.store.add(frame(key(number)), 'duck', 'ann', 0)
    assert len(list(maker.due())) == MOST_BATCHES + 4

    def numbers(first: int, limit: int) -> list[int]:
        return [number for number, _ in maker.again(first, limit, 10**6)]

    assert numbers(3, 0) == list(range(3, 3 + SOME_BATCHES))
    assert numbers(3, 20) == list(range(3, 23))
    assert numbers(3, 1000) == list(range(3, 3 + MOST_BATCHES))
    assert numbers(MOST_BATCHES + 3, 0) == [MOST_BATCHES + 3, MOST_BATCHES + 4]
    assert numbers(MOST_BATCHES + 5, 0) == []


def test_what_another_process_numbered_is_handed_out(office):
    maker = BatchMaker(office.store, 2, 10.0, office.clock)
    office.store.add(frame(key()), 'duck', 'ann', 0)
    list(maker.due())
    office.store.rename('duck', 'bird')
    assert list(maker.due()) == [1]
    assert list(maker.due()) == []
    again = BatchMaker(office.store, 2, 10.0, office.clock)
    assert list(again.due()) == []
    office.clock.now += 11.0
    assert list(again.due()) == [2], 'what waited before a restart goes out'


def test_renaming_says_what_it_did(office):
    for number, label in enumerate(('bird', 'duck')):
        office.store.add(frame(key(number)), label, 'ann', 0)
    assert rename(office.store, 'cup', 'x', 64).code is RenameCode.UNKNOWN_LABEL
    assert 'labels: bird, duck' in rename(office.store, 'cup', 'x', 64).text
    assert rename(office.store, 'duck', ' ', 64).code is RenameCode.INVALID_LABEL
    assert rename(office.store, 'duck', 'x' * 65, 64).code is RenameCode.INVALID_LABEL
    assert (
        rename(office.store, 'bird ', 'duck', 64).text == "'bird' merged with 'duck' in 1 frames"
    )
    assert rename(office.store, 'duck', 'swan', 64).changed == 2


def test_a_typo_that_somebody_contradicts_can_be_renamed(office):
    office.store.add(frame(key()), 'mug', 'ann', 0)
    office.store.add(frame(key()), 'mgu', 'bob', 0)
    assert rename(office.store, 'mgu', 'mug', 64).changed == 1
    assert (office.store.label_of(key()), office.store.count_disputed()) == ('mug', 0)
    assert rename(office.store, 'mgu', 'mug', 64).code is RenameCode.UNKNOWN_LABEL


TYPED, OF_MACOS = 'T\u00fcr', 'Tu\u0308r'  # look the same


def test_a_name_is_one_class_however_its_accents_are_spelled(office):
    office.buffer.add(frame(key(), label=TYPED))
    said = office.say(key(), OF_MACOS)
    assert (said.stored.label, said.text) == (TYPED, 'confirmed')
    assert office.say(key(), TYPED).code is Code.DUPLICATE
    assert rename(office.store, OF_MACOS, 'door', 64).changed == 1
    assert rename(office.store, 'door', OF_MACOS, 64).changed == 1
    assert [s.label for s in office.store.statistics()] == [TYPED]


def test_a_model_that_has_the_other_spelling_is_told_of_a_rename(office):
    office.buffer.add(frame(key()))
    office.say(key(), TYPED)
    before = office.store.last_batch()
    assert rename(office.store, TYPED, TYPED, 64).code is RenameCode.NONE
    told = [office.store.batch(n) for n in range(before + 1, office.store.last_batch() + 1)]
    assert [batch.renamed for batch in told] == [[(OF_MACOS, TYPED)]]


def test_a_store_with_two_spellings_of_a_class_has_one_when_it_is_opened_again(office, tmp_path):
    office.store.add(frame(key(1)), OF_MACOS, 'ann', 0)
    office.store.add(frame(key(2)), TYPED, 'ann', 0)
    office.store.add(frame(key(3)), TYPED, 'ann', 0)
    office.store.add(frame(key(3)), OF_MACOS, 'bob', 0)
    assert office.store.count_disputed() == 1
    office.store.close()
    again = LabelStore(tmp_path / 'labels.db')
    assert [(s.label, s.frames) for s in again.statistics()] == [(TYPED, 3)]
    assert again.count_disputed() == 0
    last = again.last_batch()
    assert again.batch(last).renamed == [(OF_MACOS, TYPED)], 'the tuner is told'
    again.close()
    assert LabelStore(tmp_path / 'labels.db').last_batch() == last, 'once'


# Asking


def test_the_least_certain_of_the_new_frames_is_asked_about_once(office):
    asker = LabelAsker(office.buffer, office.store)
    assert asker.next() is None
    wall = 1_795_575_000 * SECOND
    for name, sure in ((key(wall), 0.9), (key(5, source='uptime'), 0.2), (key(wall + 1), 0.6)):
        office.buffer.add(frame(name, confidence=sure))
    chosen, reason = asker.next()
    assert (chosen.key.source, reason) == ('uptime', 'least certain of the last 3 frames')
    assert asker.next() is None
    office.buffer.add(frame(key(4, source='uptime')))
    assert asker.next()[0].key.stamp_ns == 4, 'new is what came later, not what is stamped later'


def test_what_people_disagree_about_is_asked_first_and_once(office):
    asker = LabelAsker(office.buffer, office.store)
    office.store.add(frame(key(1, uid=3)), 'duck', 'ann', 0)
    office.store.add(frame(key(1, uid=3)), 'tray', 'bob', 0)
    office.buffer.add(frame(key(2)))
    chosen, reason = asker.next()
    assert (chosen.key, reason) == (key(1, uid=3), 'people disagree: duck or tray')
    assert asker.next()[0].key == key(2)
    office.store.add(frame(key(1, uid=3)), 'tray', 'eve', 0)
    assert asker.next() is None
    office.store.add(frame(key(1, uid=3)), 'duck', 'kim', 0)
    assert asker.next()[0].key == key(1, uid=3), 'settled, and disputed again'


def test_all_that_people_disagree_about_is_asked_however_much_it_is(office):
    asker = LabelAsker(office.buffer, office.store)
    for number in range(25):
        office.store.add(frame(key(number)), 'duck', 'ann', 0)
        office.store.add(frame(key(number)), 'tray', 'bob', 0)
    asked = [asker.next()[0].key.stamp_ns for _ in range(25)]
    assert asked == list(range(24, -1, -1))
    assert asker.next() is None


def test_frames_that_are_gone_do_not_use_up_the_requests_of_a_scene(office):
    asker = LabelAsker(office.buffer, office.store, LabelValueConfig(count=1, worth=0.0))
    buffer = office.buffer
    for number in range(5):
        buffer.add(frame(key(number)))
        asker.offer(key(number), np.eye(3)[number % 3], 'net')
    asker._buffer = buffer = FrameBuffer(clock=office.clock)  # all of them made room
    for number in (10, 11):
        buffer.add(frame(key(number)))
        asker.offer(key(number), [1.0, float(number), 0.0], 'net')
    chosen, reason = asker.next()
    assert chosen.key.stamp_ns >= 10
    assert 'stands for much' in reason
    assert chosen.key in buffer.pinned, 'its picture waits for the label'
    asker.note_labelled(chosen.key)
    buffer.add(frame(key(12)))
    asker.offer(key(12), [1.0, 12.0, 0.0], 'net')
    assert key(12) in buffer.pinned
    assert chosen.key not in buffer.pinned


def test_what_is_labelled_already_is_not_asked_about(office):
    asker = LabelAsker(office.buffer, office.store)
    office.buffer.add(frame(key(1)))
    office.store.add(frame(key(1)), 'duck', 'ann', 0)
    asker.offer(key(1), [1.0, 2.0], 'net')
    asker.offer(key(2), [1.0, 2.0], 'net')
    asker.know([np.nan, 1.0], 'net')
    asker.know([], 'net')
    assert not office.buffer.pinned


# Scenarios


def test_each_camera_has_its_own_scenarios():
    times = ScenarioTimes()
    times.on_change('front', 10 * SECOND, 1)
    times.on_change('front', 20 * SECOND, 2)
    times.on_change('rear', 15 * SECOND, 1)
    found = [times.of(key(s * SECOND, source='front')) for s in (9, 10, 19, 20, 99)]
    assert found == [0, 1, 1, 2, 2]
    assert [times.of(key(s * SECOND, source='rear')) for s in (14, 15, 99)] == [0, 1, 1]
    assert times.of(key(source='another')) == 0


def test_a_recording_that_starts_again_stays_in_the_scenario_it_was_in():
    times = ScenarioTimes()
    for loop in range(2):
        for second in range(0, 60, 2):
            times.on_frame('camera', second * SECOND)
            if loop == 0 and second == 30:
                times.on_change('camera', 30 * SECOND, 1)
    assert times.of(key(2 * SECOND)) == 1, 'not 0, which the same stamp was once'
    times.on_change('camera', 20 * SECOND, 2)
    assert [times.of(key(s * SECOND)) for s in (19, 20, 58)] == [1, 2, 2]


def test_changes_that_come_out_of_order_are_put_in_order():
    times = ScenarioTimes()
    for second, number in ((12, 2), (10, 1)):
        times.on_change('camera', second * SECOND, number)
    assert [times.of(key(s * SECOND)) for s in (9, 11, 13)] == [0, 1, 2]
