# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What was said and not answered is said again, not too fast."""

from __future__ import annotations

import pytest

from etuner_ros.core.labels.desk import Code
from etuner_ros.core.labels.frame_buffer import FrameKey
from etuner_ros.core.labels.outbox import MOST_WAITING, Outbox


class Somebody:
    def __init__(self) -> None:
        self.now = 100.0
        self.outbox = Outbox[str](patience_s=5.0, rate_hz=8.0, clock=lambda: self.now)

    def say(self, number: int, label: str = 'mug') -> None:
        self.outbox.put(key(number), (), label, f'{label} {number}')

    def wait(self, seconds: float, listening: bool = True) -> list[str]:
        """Look 64 times a second; return what was published."""
        said: list[str] = []
        for _ in range(round(64 * seconds)):
            self.now += 1 / 64
            said += self.outbox.due(listening)
        return said


def key(number: int, uid: int | None = None) -> FrameKey:
    return FrameKey('camera', number, 'optical', number if uid is None else uid)


@pytest.fixture
def somebody() -> Somebody:
    return Somebody()


def test_what_is_answered_is_said_once(somebody):
    somebody.say(1)
    assert somebody.wait(1.0) == ['mug 1']
    assert somebody.outbox.answered(key(1), (), 'mug', Code.ACCEPTED)
    assert not somebody.outbox.answered(key(1), (), 'mug', Code.DUPLICATE), 'it waits for nothing'
    assert somebody.wait(20.0) == []


def test_a_refusal_ends_it_also_when_no_picture_was_found(somebody):
    somebody.say(1)
    somebody.wait(1.0)
    assert somebody.outbox.answered(key(1, uid=0), (), 'mug', Code.TOO_OLD)
    assert len(somebody.outbox) == 0


def test_without_an_answer_it_is_said_again(somebody):
    somebody.say(1)
    somebody.wait(1.0)
    assert somebody.wait(5.0) == ['mug 1']
    assert len(somebody.wait(3600.0)) in range(110, 130), 'ever less often, and for ever'


@pytest.mark.parametrize('code', [Code.DISK_FULL, Code.TOO_MANY])
def test_what_failed_for_now_is_tried_again(somebody, code):
    somebody.say(1)
    somebody.wait(4.0)
    assert not somebody.outbox.answered(key(1), (), 'mug', code)
    assert somebody.wait(4.5) == [], 'counted from the answer'
    assert somebody.wait(1.0) == ['mug 1']


def test_only_the_last_word_counts(somebody):
    somebody.say(1)
    somebody.wait(0.1)
    somebody.say(1, 'cup')
    assert not somebody.outbox.answered(key(1), (), 'mug', Code.ACCEPTED)
    assert set(somebody.wait(6.0)) == {'cup 1'}


def test_two_things_in_a_frame_wait_for_two_answers(somebody):
    somebody.outbox.put(key(1), (0, 0, 9, 9), 'mug', 'left')
    somebody.outbox.put(key(1), (20, 0, 9, 9), 'mug', 'right')
    assert somebody.wait(1.0) == ['left', 'right']
    assert somebody.outbox.answered(key(1), (0, 0, 9, 9), 'mug', Code.ACCEPTED)
    assert somebody.wait(6.0) == ['right']


def test_labels_that_waited_for_the_radio_come_no_faster_than_a_collector_takes_them(somebody):
    for number in range(200):
        somebody.say(number)
    assert somebody.wait(60.0, listening=False) == []
    said = []
    for _ in range(40):
        said += (now := somebody.wait(1.0))
        assert len(now) <= 8, 'rate_hz'
        for text in now:
            somebody.outbox.answered(key(int(text.split()[1])), (), 'mug', Code.ACCEPTED)
    assert sorted(said) == sorted(f'mug {n}' for n in range(200)), 'each once'


def test_many_that_nobody_answers_keep_no_other_from_being_said_again(somebody):
    for number in range(300):  # of a camera whose collector is down
        somebody.say(number)
    somebody.wait(600.0)
    somebody.say(999)
    assert somebody.wait(0.1)[0] == 'mug 999'  # and its first receipt is lost
    assert 'mug 999' in somebody.wait(60.0)


def test_what_was_said_in_vain_comes_soon_when_the_radio_is_back(somebody):
    for number in range(200):
        somebody.say(number)
    somebody.wait(600.0)  # somebody listened who has no answer
    somebody.wait(60.0, listening=False)
    assert len(set(somebody.wait(26.0))) == 200
    assert len(set(somebody.wait(26.0))) == 200, 'those whose receipts were lost, once more'


def test_those_at_the_end_have_their_turn_with_a_radio_that_comes_and_goes(somebody):
    for number in range(200):
        somebody.say(number)
    said = set()
    for _ in range(40):
        somebody.wait(1.0, listening=False)
        said |= set(somebody.wait(1.0))
    assert len(said) == 200


def test_it_does_not_grow_without_end(somebody):
    for number in range(MOST_WAITING + 5):
        somebody.say(number)
    assert len(somebody.outbox) == MOST_WAITING
    said = somebody.wait(0.1)
    assert said == [f'mug {number}' for number in range(5, MOST_WAITING + 5)], 'the newest'
    assert somebody.outbox.forgotten == 5
