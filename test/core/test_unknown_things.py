# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which thing people are asked about: unknown ones, each once, the strangest first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_frame_buffer import Clock
from test_things import KEY, Office, picture, RED

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.images.codec import decode
from etuner_ros.core.labels.asker import LabelAsker, LATELY_S
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.things import Seen

LEFT, RIGHT = (10, 10, 60, 60), (220, 150, 60, 60)
RUN = 3 << 32


class Asked:
    """Somebody who is asked, and a robot that sees things."""

    def __init__(self, folder: Path) -> None:
        self.office, self.clock = Office(folder), Clock()
        office = self.office
        self.asker = LabelAsker(
            office.buffer, office.store, things=office.things, clock=self.clock
        )

    def see(
        self, number: int, *things: tuple[tuple[int, ...], float, bool, int], version: int = 3
    ) -> FrameKey:
        """Note box, confidence, whether it is unknown and track of each thing in a frame."""
        key = replace(KEY, uid=RUN + number)
        self.office.buffer.add(Frame(key, picture(), 'jpeg', 'desk', 0.1, 0.5, 3, (320, 240)))
        boxes, sure, unknown, tracks = zip(*things) if things else ((), (), (), ())
        named = ['mug'] * len(things)
        self.asker.see(key, Seen(as_boxes(boxes), named, sure, unknown, tracks, (), version))
        return key

    def next(self) -> tuple[int, tuple[int, ...]] | None:
        found = self.asker.next()
        if found is None:
            return None
        key = found[0].key
        return key.uid - RUN, key.place.box if key.place else ()


@pytest.fixture
def asked(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_the_strangest_unknown_thing_is_asked_about_first_and_each_once(asked):
    asked.see(1, (RED, 0.3, True, 1), (LEFT, 0.2, True, 2), (RIGHT, 0.9, False, 3))
    asked.see(2, (RED, 0.1, True, 1), (LEFT, 0.25, True, 2), (RIGHT, 0.9, False, 3))
    assert asked.next() == (2, RED), 'in the frame in which it was the strangest'
    assert asked.next() == (1, LEFT)
    asked.see(3, (RED, 0.1, True, 1), (LEFT, 0.1, True, 2))
    assert asked.next() is None, 'one track is asked about once'
    asked.see(4, (RIGHT, 0.3, True, 4))
    assert asked.next() == (4, RIGHT)


def test_the_least_familiar_comes_first_however_sure_its_name_is(asked):
    """With one name known, all are called so with a score of 1."""
    for number, familiar in ((1, 0.9), (2, 0.2), (3, 0.5)):
        key = replace(KEY, uid=RUN + number)
        asked.office.buffer.add(Frame(key, picture(), 'jpeg', 'desk', 0.1, 0.5, 3, (320, 240)))
        seen = Seen(as_boxes([RED]), ['mug'], [1.0], [True], [number], [familiar])
        asked.asker.see(key, seen)
    assert [asked.next()[0] for _ in range(3)] == [2, 3, 1]


def test_the_request_shows_the_thing_and_its_frame_waits_for_the_answer(asked):
    key = asked.see(1, (RED, 0.3, True, 1))
    thing, reason = asked.asker.next()
    assert 'no name' in reason
    assert (thing.label, thing.confidence) == ('mug', pytest.approx(0.3))
    picture = decode(thing.image)
    assert picture.shape[0] == picture.shape[1] < 120
    assert key in asked.office.buffer.pinned
    asked.asker.note_labelled(thing.key)
    later = asked.see(2, (LEFT, 0.3, True, 2))
    assert asked.next() == (2, LEFT)
    assert later in asked.office.buffer.pinned
    assert key not in asked.office.buffer.pinned


def test_what_was_named_or_is_known_meanwhile_is_not_asked_about(asked):
    key = asked.see(1, (RED, 0.3, True, 1), (LEFT, 0.2, True, 2), (RIGHT, 0.3, True, 0))
    office = asked.office
    near = tuple(v + 3 for v in RED[:2]) + RED[2:]
    asked.asker.note_labelled(office.things.of(office.buffer.get(key), near).key)
    asked.see(2, (RED, 0.3, True, 1), (LEFT, 0.9, False, 2))
    assert asked.next() is None, 'nor what is in no track'


def test_tracks_of_another_run_are_other_things(asked):
    asked.see(1, (RED, 0.3, True, 1))
    assert asked.next() == (1, RED)
    asked.see(1 << 32, (RED, 0.3, True, 1))
    assert asked.next() == (1 << 32, RED)


def test_what_left_the_view_before_another_version_came_is_asked_about_when_it_is_seen_again(
    asked,
):
    asked.see(1, (RED, 0.1, True, 1), (LEFT, 0.2, True, 2))
    asked.see(2, (LEFT, 0.3, True, 2), version=4)  # somebody named something meanwhile
    assert asked.next() == (1, LEFT), 'the newest version has no name for it either'
    assert asked.next() is None, 'it may know the other one by now'
    asked.see(3, (RED, 0.2, True, 1), version=4)
    assert asked.next() == (3, RED)


def test_the_version_of_one_camera_is_that_of_all(asked):
    asked.see(1, (RED, 0.1, True, 1))
    left = replace(KEY, source='left', uid=RUN + 20)
    seen = Seen(as_boxes([LEFT]), ['mug'], [0.9], [False], [1], (), 4)
    asked.asker.see(left, seen)
    assert asked.next() is None, 'it is not known what the new version makes of it'
    asked.see(2, (RED, 0.2, True, 1), version=4)
    assert asked.next() == (2, RED)


def test_a_frame_that_is_gone_or_can_not_be_read_holds_up_nothing(asked):
    gone = replace(KEY, uid=RUN + 9)
    asked.asker.see(gone, Seen(as_boxes([RED]), ['mug'], [0.1], [True], [1]))
    asked.see(1, (LEFT, 0.2, True, 2))
    assert asked.next() == (1, LEFT)
    broken = replace(KEY, uid=RUN + 10)
    asked.office.buffer.add(Frame(broken, b'no picture', 'jpeg', '', 0.1, 0.5, 3, (320, 240)))
    asked.asker.see(broken, Seen(as_boxes([RED]), ['mug'], [0.1], [True], [3]))
    asked.see(2, (RED, 0.3, True, 1))
    assert asked.next() == (2, RED), 'it was seen again'


def test_frames_of_a_camera_without_a_detector_are_asked_about_beside_things(asked):
    asked.see(1, (RED, 0.9, False, 7))
    left = replace(KEY, source='left', uid=RUN + 20)
    asked.office.buffer.add(Frame(left, picture(), 'jpeg', '', 0.9, 0.5, 3, (320, 240)))
    assert asked.asker.next()[0].key == left, 'though the robot is more certain of it'
    assert asked.asker.next() is None


def test_what_was_worth_a_question_in_one_camera_stays_so_when_objects_of_another_come(
    asked: Asked,
) -> None:
    offered = []
    for number, source in enumerate(('left', 'right', 'left', 'right', 'left'), 1):
        name = replace(KEY, source=source, uid=RUN + number)
        asked.office.buffer.add(Frame(name, picture(), 'jpeg', '', 0.1, 0.5, 3, (320, 240)))
        asked.asker.offer(name, [1.0, 0.1 * number], 'net')
        offered.append(name)
    assert asked.office.buffer.pinned == set(offered)
    objects = replace(KEY, source='left', uid=RUN + 9)
    asked.asker.see(objects, Seen(as_boxes([RED]), ['mug'], [0.9], [False], [1]))
    later = replace(KEY, source='right', uid=RUN + 10)
    asked.office.buffer.add(Frame(later, picture(), 'jpeg', '', 0.1, 0.5, 3, (320, 240)))
    asked.asker.offer(later, [1.0, 2.0], 'net')
    assert asked.office.buffer.pinned == {offered[1], offered[3], later}
    assert asked.asker.next()[0].key.source == 'right'


def test_no_whole_frame_is_asked_about_while_objects_come(asked):
    asked.see(1, (RED, 0.9, False, 7))
    assert asked.next() is None
    asked.clock.now += LATELY_S + 1.0
    assert asked.asker.next()[0].key.place is None
    asked.see(2, (RED, 0.3, True, 1))
    office = asked.office
    office.store.add(office.store.find(KEY) or office.buffer.get(KEY), 'duck', 'ann', 0)
    office.store.add(office.buffer.get(KEY), 'tray', 'bob', 0)
    assert asked.asker.next()[0].key == KEY, 'disputes come first'
    assert asked.next() == (2, RED)
