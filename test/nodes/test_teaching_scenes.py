# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames with things on the teaching page, without a browser."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

from helpers import header
from nicegui import Client, ui
from nicegui.page import page
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage

from etuner_ros.core.images.codec import encode_jpeg, encoded_size
from etuner_ros.msg import Box, DetectedObject, LabelReceipt, LabelRequest, Objects, PredictedFrame
from etuner_ros.nodes.teaching.boxed_view import BoxedView
from etuner_ros.nodes.teaching.drawing import cut_out, drawn
from etuner_ros.nodes.teaching.pace import MOST_WAIT_S
from etuner_ros.nodes.teaching.scenes import LONGEST_WAIT_S, MOST_SCENES, Scene, Scenes
from etuner_ros.nodes.teaching.state import TeachingState

RUN = 7 << 32
MUG, DUCK = (100.0, 100.0, 200.0, 200.0), (150.0, 150.0, 50.0, 50.0)


@pytest.fixture
def now() -> list[float]:
    return [100.0]


@pytest.fixture
def scenes(now: list[float]) -> Scenes:
    return Scenes('ann', lambda: now[0])


def box(values: tuple[float, ...]) -> Box:
    x, y, width, height = values
    return Box(x=x, y=y, width=width, height=height)


def frame(number: int, source: str = 'front') -> PredictedFrame:
    picture = CompressedImage(format='jpeg', data=b'picture')
    return PredictedFrame(
        header=header(number), source=source, frame_uid=RUN + number, image=picture
    )


def thing(values: tuple[float, ...], label: str = 'mug', track: int = 1) -> DetectedObject:
    return DetectedObject(
        box=box(values),
        labels=[label],
        scores=[0.5],
        confidence=0.5,
        track=track,
        unknown=not label,
    )


def objects(number: int, *things: DetectedObject, **fields: Any) -> Objects:
    found = {'source': 'front', 'kept': True, 'width': 640, 'height': 480, **fields}
    return Objects(header=header(number), frame_uid=RUN + number, objects=list(things), **found)


def shown(scenes: Scenes, number: int, *things: DetectedObject) -> Scene:
    scenes.on_frame(frame(number))
    scenes.on_objects(objects(number, *things))
    found = scenes.newest()
    assert found is not None
    return found


def receipt(number: int, values: tuple[float, ...], label: str, **fields: Any) -> LabelReceipt:
    return LabelReceipt(
        header=header(number),
        source='front',
        box=box(values),
        label=label,
        **{'author': 'ann', 'message': 'corrected', 'frame_uid': RUN + number, **fields},
    )


def test_boxes_are_shown_on_the_frame_that_they_belong_to(scenes, now):
    scenes.on_frame(frame(1))
    assert scenes.newest() is None
    scenes.on_objects(objects(2, thing(MUG)))
    scenes.on_objects(objects(1, thing(DUCK)))
    assert scenes.newest().key.uid == RUN + 1
    assert scenes.newest('front').things[0].box == DUCK
    scenes.on_frame(frame(2))
    assert scenes.newest().things[0].box == MUG
    shown(scenes, 1, thing(DUCK))
    assert scenes.newest().key.uid == RUN + 2, 'a late one does not go before'
    scenes.on_frame(frame(3))
    scenes.on_objects(objects(3, kept=False))
    assert scenes.newest().key.uid == RUN + 2, 'nobody could speak of it'
    assert scenes.newest('rear') is None
    scenes.on_frame(frame(9, 'rear'))
    scenes.on_objects(objects(9, source='rear'))
    assert scenes.newest('rear').key.source == 'rear'
    assert scenes.newest('front').key.source == 'front'
    now[0] += 10.0
    assert scenes.newest('front') is not None, 'a detector may be slow'
    now[0] += 0.1
    assert scenes.newest('front') is None, 'no objects come any more'
    assert scenes.get(RUN + 2) is not None, 'but that frame can still be spoken of'


def test_a_frame_waits_for_a_slow_detector_but_not_for_ever(scenes, now):
    for number in range(1, 101):  # a detector that takes three seconds, a camera of 30 Hz
        scenes.on_frame(frame(number))
        now[0] += 0.03
    scenes.on_objects(objects(1, thing(MUG)))
    assert scenes.newest().key.uid == RUN + 1
    now[0] += LONGEST_WAIT_S
    scenes.on_frame(frame(101))
    scenes.on_objects(objects(50, thing(MUG)))
    assert scenes.newest() is None, 'that one is gone'
    scenes.on_objects(objects(101, thing(MUG)))
    assert scenes.newest().key.uid == RUN + 101


def test_pictures_that_wait_have_a_bound(scenes, monkeypatch):
    monkeypatch.setattr('etuner_ros.nodes.teaching.scenes.MOST_WAITING_BYTES', 3 * len(b'picture'))
    for number in range(1, 6):
        scenes.on_frame(frame(number))
    for number, there in ((2, False), (3, True), (5, True)):
        scenes.on_objects(objects(number, thing(MUG)))
        assert (scenes.get(RUN + number) is not None) == there


def test_a_finger_means_the_smallest_thing_under_it_and_forgives_a_little(scenes):
    scene = shown(scenes, 1, thing(MUG, 'mug', 1), thing(DUCK, 'duck', 2))
    assert scene.at(160, 160).label == 'duck'
    assert scene.at(290, 290).label == 'mug'
    assert scene.at(310, 200).label == 'mug', 'just beside it'
    assert scene.at(500, 400) is None
    assert scene.inside((-20.0, -20.0, 60.0, 50.0)) == (0.0, 0.0, 40.0, 30.0)
    assert scene.inside((10.0, 10.0, 1.0, 90.0)) is None


def test_what_was_said_is_answered_and_can_be_taken_back_when_the_view_went_on(scenes):
    first = shown(scenes, 1, thing(MUG, '', 4), thing(DUCK, 'duck', 5))
    word = scenes.say(first, MUG, 'cup')
    later = shown(scenes, 2, thing((110.0, 100.0, 200.0, 200.0), 'cup', 4))
    near = (103.0, 100.0, 200.0, 200.0)  # the collector knew the thing by another box
    scenes.on_receipt(receipt(1, near, 'cup', author='bob'))
    assert scenes.words()[0].answer == ''
    scenes.on_receipt(receipt(1, DUCK, 'duck'))
    assert scenes.words()[0].answer == '', 'the receipt of another thing'
    scenes.on_receipt(receipt(1, near, 'cup'))
    assert [(w.label, w.answer, w.accepted) for w in scenes.words()] == [
        ('cup', 'corrected', True)
    ]
    again = receipt(1, near, 'cup', code=LabelReceipt.DUPLICATE, message='has it already')
    scenes.on_receipt(again)  # its first receipt may have been lost
    assert scenes.words()[0].accepted
    assert scenes.word_of(later, later.things[0].box, 4) == scenes.words()[0], 'the same track'
    assert scenes.word_of(later, DUCK, 5) is None
    taken = scenes.take_back(word.number)
    assert (taken.key.uid, taken.box) == (RUN + 1, MUG)
    scenes.on_receipt(receipt(1, near, '', code=LabelReceipt.TOO_MANY, message='too many'))
    assert [(w.label, w.answer) for w in scenes.words()] == [('cup', 'too many')]
    scenes.on_receipt(receipt(1, near, '', message='withdrawn'))
    assert [(w.label, w.answer) for w in scenes.words()] == [('', 'withdrawn')]
    assert scenes.take_back(word.number) is None
    assert scenes.word_of(later, later.things[0].box, 4) is None


def test_a_thing_that_is_named_twice_has_one_word_and_a_refusal_is_shown(scenes):
    scene = shown(scenes, 1, thing(MUG))
    scenes.say(scene, MUG, 'cup')
    scenes.say(scene, (102.0, 101.0, 200.0, 200.0), 'bowl')
    assert [w.label for w in scenes.words()] == ['bowl']
    scenes.on_receipt(
        receipt(1, MUG, 'bowl', frame_uid=0, code=LabelReceipt.TOO_OLD, message='too old')
    )
    assert [(w.answer, w.accepted) for w in scenes.words()] == [('too old', False)]
    for number in range(2, 30):
        scenes.say(shown(scenes, number), DUCK, 'duck')
    assert [w.label for w in scenes.words()] == [*['duck'] * 28, 'bowl'], 'to be taken back'
    for number in range(30, 500):
        scenes.say(shown(scenes, number), DUCK, 'duck')
    assert len(scenes.words()) < 400


def test_a_receipt_that_is_slow_does_not_speak_of_what_was_said_since(scenes):
    scene = shown(scenes, 1, thing(MUG))
    word = scenes.say(scene, MUG, 'cup')
    scenes.say(scene, MUG, ' bowl')
    scenes.on_receipt(receipt(1, MUG, 'cup'))
    assert [(w.label.strip(), w.answer) for w in scenes.words()] == [('bowl', '')]
    again = receipt(1, MUG, 'bowl', code=LabelReceipt.DUPLICATE, message='has it already')
    scenes.on_receipt(again)  # its first one was lost
    assert [(w.label.strip(), w.accepted) for w in scenes.words()] == [('bowl', True)]
    scenes.take_back(word.number)
    scenes.on_receipt(receipt(1, MUG, 'bowl'))
    assert [w.accepted for w in scenes.words()] == [False], 'it is being taken back'
    scenes.on_receipt(receipt(1, MUG, '', message='withdrawn'))
    assert [(w.label, w.answer) for w in scenes.words()] == [('', 'withdrawn')]


def test_odd_objects_are_left_out(scenes):
    nan = float('nan')
    odd = [(nan, nan, nan, nan), (0.0, 0.0, 0.0, 0.0), (900.0, 0.0, 50.0, 50.0)]
    scene = shown(scenes, 1, *[thing(o) for o in odd], thing(MUG), *[thing(DUCK)] * 2000)
    assert 1 <= len(scene.things) <= 256
    assert scene.things[0].box == MUG
    scenes.on_frame(frame(2))
    scenes.on_objects(objects(2, width=0))
    assert scenes.newest() is scene


def test_names_are_drawn_as_text_and_unknown_things_otherwise(scenes):
    scene = shown(scenes, 1, thing(MUG, '<script>', 1), thing(DUCK, '', 2))
    picture = drawn(scene, DUCK)
    assert '<script>' not in picture
    assert '&lt;script&gt; 50%' in picture
    assert '>?</text>' in picture
    assert picture.count('stroke-dasharray') == 1
    assert f'data-uid="{RUN + 1}"' in picture
    assert 'viewBox="140.0 140.0 70.0 70.0"' in cut_out(scene, DUCK)


def test_a_wide_picture_is_made_smaller_for_the_view_and_what_is_cut_out_is_sharp(scenes):
    wide = encode_jpeg(np.zeros((900, 1600, 3), np.uint8))
    message = frame(1)
    message.image.data = wide
    scenes.on_frame(message)
    scenes.on_objects(objects(1, thing(MUG), width=1600, height=900))
    scene = scenes.newest()

    def size(picture: str) -> tuple[int, int]:
        return encoded_size(b64decode(picture.split('base64,')[1].split('"')[0]))

    assert size(drawn(scene)) == (800, 450)
    assert 'viewBox="0.0 0.0 1600.0 900.0"' in drawn(scene), 'boxes are in px of the camera'
    assert size(cut_out(scene, MUG)) == (280, 280), 'no more than that part, in full'
    corner = cut_out(scene, (1500.0, 0.0, 100.0, 100.0))
    assert size(corner) == (120, 120)
    assert 'viewBox="1480.0 -20.0 140.0 140.0"' in corner
    assert '<image x="1480.0" y="0.0" width="120.0" height="120.0"' in corner


class Desk:
    """Takes what is said of things."""

    def __init__(self, state: TeachingState) -> None:
        self.state = state
        self.said: list[tuple[int, str]] = []  # uid of the frame, and label

    def label_thing(self, scene: Scene, box: tuple[float, ...], label: str) -> None:
        self.said.append((scene.key.uid, label))

    def take_back(self, number: int) -> None:
        pass


def test_a_touch_on_the_picture_that_a_slow_link_still_shows_is_taken(now):
    desk = Desk(TeachingState('ann', clock=lambda: now[0]))
    with Client(page('')) as client:
        view = BoxedView(desk, lambda: now[0])

    def marked(name: str) -> ui.element:
        found = (e for e in client.elements.values() if e.props.get('data-testid') == name)
        return next(found)

    def fire(name: str, kind: str, args: Any = None) -> None:
        for listener in marked(name)._event_listeners.values():
            if listener.type == kind:
                marked(name)._handle_event({'listener_id': listener.id, 'args': args})

    shown(desk.state.scenes, 1, thing(MUG))
    view.refresh('')
    for number in range(2, 3 * MOST_SCENES):  # meanwhile the next picture is on its way
        shown(desk.state.scenes, number, thing(DUCK, 'duck'))
    assert desk.state.scenes.get(RUN + 1) is None
    now[0] += MOST_WAIT_S + 0.1
    view.refresh('')
    fire('layer', 'pointerdown', str(RUN + 1))
    fire('layer', 'pointerup', [str(RUN + 1), 200 / 640, 200 / 480, 0.0, 0.0])
    assert marked('thing-confirm').text == '✓ mug'
    marked('typed').set_value('cup')
    fire('send', 'click')
    assert desk.said == [(RUN + 1, 'cup')]


def test_a_card_of_a_thing_is_answered_with_its_box(now):
    state = TeachingState('ann', 5, lambda: now[0])
    for values in ((0.0, 0.0, 0.0, 0.0), MUG, DUCK):
        state.on_request(
            LabelRequest(header=header(1), source='front', frame_uid=RUN + 1, box=box(values))
        )
    whole, mug, duck = state.cards()
    assert (whole.box, mug.box, duck.box) == (None, MUG, DUCK)
    state.say(duck.name, 'duck')
    state.on_receipt(receipt(1, DUCK, 'duck'))
    assert [c.answer for c in state.cards()] == ['', '', 'corrected']
    state.on_objects(objects(2, thing(MUG, 'background')))
    state.on_objects(objects(2, thing(MUG, 'bowl')))
    assert state.classes() == ['bowl', 'duck']
