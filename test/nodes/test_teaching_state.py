# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the teaching page shows, without a browser: two threads use it at once."""

from __future__ import annotations

from collections import deque, OrderedDict
from collections.abc import Callable
import math
import threading
from typing import Any

from helpers import header
import pytest

from etuner_ros.msg import (
    DetectedObject,
    LabelReceipt,
    LabelRequest,
    Objects,
    Prediction,
    TunerStatus,
)
from etuner_ros.nodes.messages import short
from etuner_ros.nodes.teaching.state import TeachingState


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def state(now: list[float]) -> TeachingState:
    return TeachingState('ann', 3, lambda: now[0])


def request(
    stamp_ns: int, uid: int = 0, reason: str = 'odd', predicted: str = 'mug'
) -> LabelRequest:
    return LabelRequest(
        header=header(stamp_ns),
        source='camera',
        frame_uid=uid,
        predicted_label=predicted,
        reason=reason,
    )


def receipt(stamp_ns: int, label: str, uid: int = 0, **fields: Any) -> LabelReceipt:
    found = {'author': 'ann', 'message': 'corrected', 'predicted_label': 'mug', **fields}
    return LabelReceipt(
        header=header(stamp_ns), source='camera', frame_uid=uid, label=label, **found
    )


def test_where_stamps_repeat_the_answer_stands_on_the_card_that_it_is_about(state):
    for uid in (1, 2):
        state.on_request(request(5, uid))
    first, second = state.cards()
    state.say(second.name, 'duck')
    state.on_receipt(receipt(5, 'duck', uid=2))
    first, second = state.cards()
    assert (first.answer, second.answer, second.sent) == ('', 'corrected', 'duck')
    assert second.accepted
    state.on_receipt(receipt(5, 'tray', uid=1, author='bob'))
    assert state.cards()[0].answer == '', 'the label of another person'
    assert state.counts() == (2, 2)
    state.say(second.name, '')
    state.on_receipt(receipt(5, '', uid=2, message='withdrawn'))
    assert (state.cards()[1].sent, state.cards()[1].accepted) == ('', False)


def test_receipts_that_are_slow_do_not_speak_of_what_was_said_since(state):
    state.on_request(request(5, 8))
    name = state.cards()[0].name
    for label in ('mug', ''):  # confirmed, taken back
        state.say(name, label)
    state.on_receipt(receipt(5, 'mug', uid=8, message='confirmed'))
    assert [(c.sent, c.answer, c.accepted) for c in state.cards()] == [('', '', False)]
    for label in ('mug', '', 'duck'):
        state.say(name, label)
    state.on_receipt(receipt(5, 'mug', uid=8, message='confirmed'))
    state.on_receipt(receipt(5, '', uid=8, message='withdrawn'))
    assert [(c.sent, c.answer, c.accepted) for c in state.cards()] == [('duck', '', False)]
    state.on_receipt(receipt(5, 'duck', uid=8))
    assert [(c.sent, c.answer, c.accepted) for c in state.cards()] == [('duck', 'corrected', True)]
    state.say(name, 'cup')
    assert not state.cards()[0].accepted, 'green before its receipt came'


def test_a_refusal_that_names_no_picture_is_shown(state):
    state.on_request(request(5, 8))
    state.on_receipt(receipt(5, 'duck', code=LabelReceipt.TOO_OLD, message='too old'))
    assert [(c.answer, c.accepted) for c in state.cards()] == [('too old', False)]


def test_accepted_cards_make_room_first_once_there_was_time_to_take_them_back(state, now):
    for stamp in (1, 2, 3):
        state.on_request(request(stamp, stamp))
    state.say(state.cards()[1].name, 'duck')
    state.on_receipt(receipt(2, 'duck', uid=2))
    state.on_request(request(9, 9))
    assert [c.key.uid for c in state.cards()] == [2, 3, 9]
    state.on_request(request(1, 1))
    assert [c.key.uid for c in state.cards()] == [2, 9, 1]
    state.on_request(request(3, 3))
    assert [c.key.uid for c in state.cards()] == [2, 1, 3]
    now[0] += 31.0
    state.on_request(request(3, 3, 'asked again'))
    state.on_request(request(4, 4))
    assert [c.key.uid for c in state.cards()] == [1, 3, 4]
    assert state.cards()[1].reason == 'asked again'
    state.say('gone', 'duck')
    assert [c.sent for c in state.cards()] == ['', '', '']
    assert state.picture('gone') is None


def test_cards_that_were_refused_or_never_answered_make_room_too(state, now):
    for stamp in (1, 2, 3):
        state.on_request(request(stamp, stamp))
    first, second, _ = state.cards()
    state.say(first.name, 'duck')
    state.on_receipt(receipt(1, 'duck', uid=1, code=LabelReceipt.TOO_OLD, message='too old'))
    state.say(second.name, 'duck')  # and no receipt comes
    now[0] += 31.0
    for stamp in (4, 5):
        state.on_request(request(stamp, stamp))
    assert [c.key.uid for c in state.cards()] == [3, 4, 5]


def test_a_label_that_was_renamed_elsewhere_is_offered_no_more(state, now):
    state.on_request(request(1, 1))  # the robot says mug
    said = Prediction(source='camera', labels=['mug', 'tray'], scores=[0.9, 0.1])
    state.on_prediction(said)
    state.on_labels(['mug'])
    assert state.classes() == ['mug', 'tray']
    state.on_labels(['cup'])
    state.on_prediction(said)  # the new head is not live yet
    assert not state.offers('mug')
    assert state.classes() == ['cup', 'tray']
    assert state.cards()[0].predicted == ''
    state.on_receipt(receipt(7, 'mug'))  # somebody means it
    assert state.classes() == ['cup', 'mug', 'tray']
    state.on_labels(['cup', 'mug'])
    state.on_labels(['cup'])
    now[0] += 31.0
    state.on_prediction(said)
    assert 'mug' in state.classes(), 'a class of the deployed model'
    assert state.cards()[0].predicted == 'mug'


def test_a_label_that_is_too_long_to_be_told_whole_is_not_offered(state):
    long, whole = 'x' * 150, 'y' * 100
    for number, label in enumerate((long, whole)):
        state.on_request(request(number, number + 1, predicted=label))
        state.on_prediction(Prediction(labels=[label], scores=[0.9]))
        state.on_receipt(receipt(9, short(label)))
    state.on_labels([short(long), whole])
    assert state.classes() == [whole]
    assert [card.predicted for card in state.cards()] == ['', whole]
    assert not state.offers(short(long)), 'a touch would teach another name'


def test_a_camera_that_is_lost_shows_no_old_picture(state, now):
    state.on_live(b'picture', 'front')
    assert state.overview('front').has_live
    assert not state.overview('rear').has_live
    now[0] += 11.0
    assert not state.overview('front').has_live


def test_the_overview_tells_silence_and_the_timeline_goes_on(state, now):
    assert state.overview().seen == ''
    state.on_prediction(Prediction(labels=['tray'], confidence=0.5, model_version=3))
    assert state.overview().seen == 'tray · 50% · version 3'
    for _ in range(3):
        status = TunerStatus(state=TunerStatus.WAITING, reason='waiting for 2', layers_total=4)
        status.layers_frozen, status.scenario_source, status.scenario = 1, 'front', 2
        status.energy_j = math.nan
        state.on_status(status)
    now[0] += 10.0
    state.on_status(status)
    assert state.overview().seen == ''
    assert state.overview().doing == 'waiting for 2'
    assert [(p.minutes, p.frozen, p.scenario) for p in state.points()] == [
        (0.0, 0.25, ('front', 2)),
        (0.17, 0.25, ('front', 2)),
    ]


@pytest.mark.parametrize('period_s', [0.5, 5.0, 60.0])
def test_the_timeline_is_of_the_whole_time_and_what_is_new_shows_at_once(state, now, period_s):
    ends, count = [], 20_000
    for _ in range(count):
        now[0] += period_s
        state.on_status(TunerStatus())
    points, long_min = state.points(), count * period_s / 60
    assert points[0].minutes == pytest.approx(period_s / 60, abs=0.01)
    assert points[-1].minutes == pytest.approx(long_min, abs=0.01)
    apart = [after.minutes - before.minutes for before, after in zip(points, points[1:])]
    assert max(apart) <= long_min / 250, 'no hole'
    assert len(points) <= 601, 'a browser draws all'
    for frozen in range(10):
        now[0] += 2.0
        state.on_status(TunerStatus(layers_frozen=frozen, layers_total=10))
        ends.append(state.points()[-1].frozen)
    assert ends == [frozen / 10 for frozen in range(10)]


class Guarded:
    """A collection that must only be touched by who holds the lock."""

    lock: threading.Lock

    def __getattribute__(self, name: str) -> Any:
        assert object.__getattribute__(self, 'lock').locked(), f'{name} without the lock'
        return super().__getattribute__(name)


def guarded(kind: type) -> type:
    """Return a kind of collection whose operators look at the lock, too."""

    def looks(name: str) -> Callable[..., Any]:
        def call(self: Any, *rest: Any) -> Any:
            assert object.__getattribute__(self, 'lock').locked(), f'{name} without the lock'
            return getattr(kind, name)(self, *rest)

        return call

    operators = '__contains__ __delitem__ __getitem__ __iter__ __len__ __reversed__ __setitem__'
    methods = {name: looks(name) for name in operators.split() if hasattr(kind, name)}
    return type(kind.__name__, (Guarded, kind), methods)


KINDS = {kind: guarded(kind) for kind in (OrderedDict, deque, dict, list, set)}


def guard(state: TeachingState) -> list[type]:
    """Guard each collection that there is by the lock; return of which kinds they are."""
    held = vars(state)
    lock = next(v for v in held.values() if isinstance(v, type(threading.Lock())))
    found = {name: KINDS[type(v)] for name, v in held.items() if type(v) in KINDS}
    for name, kind in found.items():
        kind.lock = lock
        with lock:
            setattr(state, name, kind(held[name]))
    return list(found.values())


def test_nothing_is_touched_by_two_threads_at_once_and_what_is_handed_out_stays(state):
    assert set(guard(state)) == set(KINDS.values())
    state.on_request(request(1, 1))
    said = Prediction(labels=['tray', 'renamed'], scores=[1.0, 1e-9])
    state.on_prediction(said)
    state.on_status(TunerStatus())
    state.on_objects(Objects(objects=[DetectedObject(labels=['tray'], scores=[1.0])]))
    state.on_receipt(receipt(1, 'duck', uid=1))
    state.on_live(b'picture')
    state.on_labels(['duck'])
    cards, points, classes = state.cards(), state.points(), state.classes()
    assert (len(cards), len(points), classes) == (1, 1, ['duck', 'tray'])
    state.say(cards[0].name, 'cup')
    assert state.cards()[0].sent == 'cup'
    assert state.picture(cards[0].name) == b''
    assert state.key(cards[0].name) == cards[0].key
    assert state.offers('duck')
    assert (state.live(), state.overview().has_live, state.counts()) == (b'picture', True, (1, 1))
    state.on_request(request(2, 2))
    assert [(c.key.uid, c.sent, c.answer) for c in cards] == [(1, '', 'corrected')]


def test_a_page_reads_while_the_robot_writes(state):
    """Both sides run to their end, and no card is seen half changed."""
    begin, failures = threading.Barrier(2), []

    def write() -> None:
        begin.wait()
        for number in range(2000):
            state.on_request(request(number, number + 1))
            state.on_receipt(receipt(number, 'duck', uid=number + 1))
            state.on_status(TunerStatus())

    def read() -> None:
        begin.wait()
        try:
            for _ in range(2000):
                for card in state.cards():
                    assert card.accepted == bool(card.answer)
                state.points()
                state.overview()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=t) for t in (write, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(state.cards()) == 3
