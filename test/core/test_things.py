# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things in frames: which one a box means, what is stored of it, which image regions are of."""

from __future__ import annotations

from pathlib import Path
import sqlite3

import numpy as np
import pytest
from test_frame_buffer import Clock
from test_label_desk import NOW

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.boxes.matcher import Matcher
from etuner_ros.core.images.codec import decode, encode_jpeg
from etuner_ros.core.labels.desk import Code, Correction, LabelDesk, Receipt
from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey, Place
from etuner_ros.core.labels.schema import VERSION
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.labels.things import Seen, Things
from etuner_ros.core.tune.frame_features import FrameFeatures

KEY = FrameKey('camera', NOW, 'eye', 5)
RED = (100, 60, 80, 40)  # x, y, width, height in px of the camera
OF_SCHEMA_4 = (
    'DROP INDEX frames_by_key; ALTER TABLE frames DROP COLUMN place; ALTER TABLE frames DROP '
    'COLUMN image_width; ALTER TABLE frames DROP COLUMN image_height;'
)


def picture(scale: float = 1.0) -> bytes:
    """Return a grey picture of 320 x 240 px with a red thing in it, scaled."""
    image = np.full((240, 320, 3), 128, np.uint8)
    x, y, width, height = RED
    image[y : y + height, x : x + width] = (220, 20, 20)
    step = round(1 / scale)
    return encode_jpeg(np.ascontiguousarray(image[::step, ::step]), 95)


class Office:
    """A desk behind which a frame is kept, at half of the size that the camera has it in."""

    def __init__(self, folder: Path, scale: float = 0.5) -> None:
        self.store = LabelStore(folder / 'labels.db')
        self.buffer = FrameBuffer(120.0, 10_000_000, Clock())
        self.things = Things(self.store)
        self.desk = LabelDesk(self.store, self.buffer, clock=Clock(), things=self.things)
        self.buffer.add(Frame(KEY, picture(scale), 'jpeg', 'desk', 0.5, 0.5, 3, (320, 240)))

    def say(self, box: tuple[float, ...], label: str = 'cup', author: str = 'ann') -> Receipt:
        said = Correction.of(KEY, label, author, not label, box)
        return self.desk.answer(said, NOW, lambda key: 0)


def test_a_thing_is_stored_as_the_square_around_it_beside_its_whole_frame(tmp_path):
    office = Office(tmp_path)
    boxes = as_boxes([RED])
    office.things.see(KEY.uid, Seen(boxes, ['mug'], [0.7]))
    receipt = office.say(RED)
    assert (receipt.code, receipt.text) == (Code.ACCEPTED, 'corrected')
    (sample,) = office.store.labelled()
    assert (sample.label, sample.predicted) == ('cup', 'mug'), 'what the robot named there'
    assert sample.place == Place(*RED, 320, 240)
    square = decode(sample.image)
    assert square.shape[0] == square.shape[1]
    middle = square[square.shape[0] // 2, square.shape[1] // 2].astype(int)
    assert middle[0] > 180, 'the thing is in the middle'
    assert middle[1] < 60
    assert abs(int(square[2, 2, 0]) - 128) < 20, 'with a margin around it'
    whole = office.store.exact(KEY)
    assert decode(whole.image).shape == (120, 160, 3)
    assert office.store.count() == 1, 'the frame itself has no label'


def test_what_the_robot_named_elsewhere_in_a_frame_is_not_what_it_took_a_thing_for(
    tmp_path: Path,
) -> None:
    office = Office(tmp_path)
    office.things.see(KEY.uid, Seen(as_boxes([RED]), ['mug'], [0.7]))
    for box in ((200, 100, 60, 60), (160, 60, 80, 40)):  # the second touches the mug
        office.say(box)
    assert [s.predicted for s in office.store.labelled()] == ['', '']


def test_of_a_large_thing_a_picture_of_bounded_size_is_stored(tmp_path: Path) -> None:
    office = Office(tmp_path)
    image = np.full((720, 960, 3), 128, np.uint8)
    office.buffer.add(Frame(KEY, encode_jpeg(image), 'jpeg', '', 0.5, 0.5, 3, (960, 720)))
    office.say((100, 100, 700, 500))
    (sample,) = office.store.labelled()
    assert sample.place == Place(100, 100, 700, 500, 960, 720)
    assert decode(sample.image).shape == (320, 320, 3)


def test_a_thing_whose_picture_made_room_gets_it_again_while_its_frame_is_there(
    tmp_path: Path,
) -> None:
    office = Office(tmp_path)
    first = office.say(RED)
    office.store._database.execute('UPDATE frames SET image = NULL, size = 0')
    near = (103.0, 62.0, 80.0, 40.0)
    receipt = office.say(near, 'vase')
    assert (receipt.code, receipt.frame.key) == (Code.ACCEPTED, first.frame.key)
    (sample,) = office.store.labelled()
    assert (sample.label, sample.place) == ('vase', Place(*RED, 320, 240))
    assert sample.image == first.frame.image, 'of where it was first'


def test_a_box_that_lies_on_a_named_thing_means_that_thing(tmp_path):
    office = Office(tmp_path)
    first = office.say(RED)
    near = (103.0, 62.0, 80.0, 40.0)
    again = office.say(near, 'cup')
    assert again.code is Code.DUPLICATE
    other = office.say(near, 'bowl', author='bob')
    assert 'disputed' in other.text, 'two names for one thing'
    assert other.frame.key == first.frame.key
    far = office.say((200, 100, 60, 60), 'bowl')
    assert far.frame.key.place.box == (200, 100, 60, 60)
    assert office.say(RED, '', author='bob').text == 'withdrawn'
    assert {s.label for s in office.store.labelled()} == {'cup', 'bowl'}


@pytest.mark.parametrize(
    ('box', 'words'),
    [
        ((float('nan'), 0, 10, 10), 'not finite'),
        ((10, 10, 0.0, 5), 'no area'),
        ((10, 10, -5, 5), 'no area'),
        ((400, 10, 50, 50), 'outside'),
        ((318, 10, 50, 50), 'at least'),
        ((1e30, 1e30, 1e30, 1e30), 'outside'),
    ],
)
def test_a_box_that_can_not_be_gets_a_reason_and_changes_nothing(tmp_path, box, words):
    office = Office(tmp_path)
    receipt = office.say(box)
    assert receipt.code is Code.INVALID_BOX
    assert words in receipt.text
    assert office.store.count() == 0
    assert office.say((300, 200, 50, 90)).code is Code.ACCEPTED, 'a box may leave the image'


def test_a_thing_can_be_corrected_after_its_frame_has_left_the_memory(tmp_path):
    office = Office(tmp_path)
    office.say(RED)
    later = LabelDesk(office.store, FrameBuffer(clock=Clock()), clock=Clock())
    for box in (RED, (200, 100, 60, 60)):
        said = Correction.of(KEY, 'vase', 'ann', False, tuple(map(float, box)))
        assert later.answer(said, NOW, lambda key: 0).code is Code.ACCEPTED
    places = {s.place.box: s.label for s in office.store.labelled()}
    assert places == {RED: 'vase', (200, 100, 60, 60): 'vase'}


def test_a_box_in_a_labelled_frame_that_has_left_the_memory_is_cut_where_the_camera_saw_it(
    tmp_path,
):
    office = Office(tmp_path)
    office.desk.answer(Correction.of(KEY, 'desk', 'ann', False), NOW, lambda key: 0)
    office.store.close()
    store = LabelStore(tmp_path / 'labels.db')
    later = LabelDesk(store, FrameBuffer(clock=Clock()), clock=Clock())
    said = Correction.of(KEY, 'cup', 'ann', False, tuple(map(float, RED)))
    assert later.answer(said, NOW, lambda key: 0).code is Code.ACCEPTED
    thing = next(s for s in store.labelled() if s.label == 'cup')
    assert thing.place == Place(*RED, 320, 240)
    square = decode(thing.image)
    middle = square[square.shape[0] // 2, square.shape[1] // 2].astype(int)
    assert np.abs(middle - (220, 20, 20)).max() < 30, 'what the box shows'


def test_a_box_in_a_frame_whose_size_no_release_noted_is_refused_until_it_is_seen_again(tmp_path):
    office = Office(tmp_path)
    office.desk.answer(Correction.of(KEY, 'desk', 'ann', False), NOW, lambda key: 0)
    office.store.close()
    before = sqlite3.connect(tmp_path / 'labels.db')
    before.executescript(
        f"{OF_SCHEMA_4} ALTER TABLE frames ADD COLUMN place TEXT NOT NULL DEFAULT ''; PRAGMA "
        'user_version = 5;'
    )
    before.close()
    store = LabelStore(tmp_path / 'labels.db')
    assert [s.label for s in store.labelled()] == ['desk']
    later = LabelDesk(store, FrameBuffer(clock=Clock()), clock=Clock())
    said = Correction.of(KEY, 'cup', 'ann', False, tuple(map(float, RED)))
    receipt = later.answer(said, NOW, lambda key: 0)
    assert receipt.code is Code.TOO_OLD
    assert 'how large the camera had this frame is not known' in receipt.text
    assert store.count() == 1
    whole = Correction.of(KEY, 'table', 'ann', False)
    assert later.answer(whole, NOW, lambda key: 0).code is Code.ACCEPTED, 'it is all of it'
    store.close()
    again = Office(tmp_path)  # the robot has the frame still
    again.desk.answer(Correction.of(KEY, 'desk', 'ann', False), NOW, lambda key: 0)
    assert again.store.exact(KEY).size == (320, 240)


def test_a_frame_that_can_not_be_read_is_said(tmp_path):
    office = Office(tmp_path)
    office.buffer.add(Frame(KEY, b'no picture', 'jpeg', '', 0.5, 0.5, 3, (320, 240)))
    receipt = office.say(RED)
    assert receipt.code is Code.UNKNOWN_FRAME
    assert 'can not be read' in receipt.text


def test_a_store_of_the_schema_before_opens_and_takes_things(tmp_path):
    office = Office(tmp_path)
    said = Correction.of(KEY, 'desk', 'ann', False)
    office.desk.answer(said, NOW, lambda key: 0)
    office.store.close()
    before = sqlite3.connect(tmp_path / 'labels.db')
    before.executescript(
        f'{OF_SCHEMA_4} CREATE UNIQUE INDEX '
        'frames_by_key ON frames (source, stamp_ns, frame_id, uid); PRAGMA user_version = 3;'
    )
    before.close()
    again = Office(tmp_path)
    assert [s.label for s in again.store.labelled()] == ['desk']
    assert again.say(RED).code is Code.ACCEPTED
    assert [(s.label, s.place is None) for s in again.store.labelled()] == [
        ('desk', True),
        ('cup', False),
    ]
    assert again.store._database.one('PRAGMA user_version') == VERSION


S = 10**9  # ns


def test_what_is_found_late_or_early_meets_its_frame_and_the_newest_wins():
    clock = Clock()
    matcher: Matcher[str, str] = Matcher(1.0, clock, size=len, most_bytes=64)
    assert matcher.frame(1 * S, 'first') is None
    assert matcher.found(1 * S, 'boxes') == 'first'
    assert matcher.found(2 * S, 'early') is None
    assert matcher.found(3 * S, 'earlier still') is None
    assert matcher.frame(2 * S, 'second') is None, 'newer boxes took its place'
    assert matcher.frame(3 * S, 'third') == ('third', 'earlier still')
    assert matcher.late == 0, 'nobody waited in vain'
    assert matcher.frame(5 * S, 'fifth') is None
    assert matcher.found(4 * S, 'of a frame that did not come') is None
    assert matcher.late == 1
    clock.now += 1.5
    assert matcher.found(5 * S, 'too late') is None
    clock.now += 1.5
    assert matcher.frame(6 * S, 'sixth') is None
    assert matcher.late == 2, 'what waited in vain is late, too'
    for stamp in range(7, 40):
        matcher.frame(stamp * S, 'many')
    assert matcher.found(7 * S, 'of a frame that made room') is None
    assert (matcher.late, matcher.near) == (3, 0)
    for number in range(8):  # the camera pauses, the detector goes on
        assert matcher.found((60 + number) * S, number) is None
        clock.now += 0.3
    assert matcher.late > 3
    assert matcher.frame(67 * S, 'the camera is back') == ('the camera is back', 7)
    assert matcher.found(70 * S, 'early') is None
    assert matcher.found(67 * S, 'of another detector') == 'the camera is back'
    assert matcher.frame(70 * S, 'seventieth') == ('seventieth', 'early')
    assert matcher.found(80 * S, 'boxes') is None
    matcher.clear()
    assert matcher.frame(80 * S, 'after a pause') is None


def test_the_newest_frame_is_kept_at_any_size_and_those_before_it_only_if_they_fit():
    matcher: Matcher[str, str] = Matcher(1.0, Clock(), size=len, most_bytes=8)
    matcher.frame(1 * S, 'four')
    matcher.frame(2 * S, 'more')
    assert matcher.found(1 * S, 'boxes') == 'four', 'both fit'
    matcher.frame(3 * S, 'larger than all')
    assert matcher.found(2 * S, 'boxes') is None
    assert matcher.found(3 * S, 'boxes') == 'larger than all'


def test_of_a_frame_that_was_left_out_the_nearest_stands_in_once_it_can_not_come():
    matcher: Matcher[str, str] = Matcher(1.0, Clock())
    ms = S // 1000
    matcher.found(-200 * ms, 'before')
    matcher.frame(0, 'first')
    assert matcher.found(16 * ms, 'boxes') is None, 'its frame may come'
    assert matcher.frame(33 * ms, 'second') == ('first', 'boxes'), 'it did not'
    assert matcher.found(216 * ms, 'more boxes') is None
    assert matcher.frame(233 * ms, 'third') == ('third', 'more boxes')
    assert matcher.near == 2
    late = matcher.late
    assert matcher.found(300 * ms, 'of nothing') is None
    assert matcher.frame(400 * ms, 'fourth') is None, 'no frame is near'
    assert (matcher.near, matcher.late) == (2, late + 1)


@pytest.mark.parametrize('every', [1, 2, 3])
@pytest.mark.parametrize('behind', [-1, 0, 1, 4])
def test_a_detector_of_every_image_has_each_predicted_one_named_once(every, behind):
    """Its images come at 30 Hz; one of so many is predicted, a few images later."""
    clock = Clock()
    matcher: Matcher[int, int] = Matcher(1.0, clock)
    named = []
    for now in range(200):
        clock.now = now / 30
        looked = now - 2
        if looked >= 0 and looked % every == 0:
            met = matcher.frame(looked * S // 30, looked)
            named += [] if met is None else [met]
        seen = now - 2 - behind
        if seen >= 0:
            met = matcher.found(seen * S // 30, seen)
            named += [] if met is None else [(met, seen)]
    assert all(frame == found for frame, found in named)
    frames = [frame for frame, _ in named]
    assert len(frames) == len(set(frames)) >= 60 // every
    assert matcher.late == 0


def test_a_label_of_a_box_finds_the_feature_of_the_region_that_it_lies_on():
    clock = Clock()
    features = FrameFeatures(wanted=False, clock=clock)
    assert features.wants_frame('left')
    features.add_region('frame', (0.0, 0.0, 10.0, 10.0), 'backbone', b'left', 'left')
    features.add_region('frame', (20.0, 0.0, 10.0, 10.0), 'backbone', b'right', 'left')
    assert features.of_box('frame', (19.0, 0.0, 10.0, 10.0)) == ('backbone', b'right')
    assert features.of_box('frame', (40.0, 0.0, 10.0, 10.0)) is None
    assert features.of_box('other', (0.0, 0.0, 10.0, 10.0)) is None
    assert not features.wants_frame('left'), 'a whole frame is no example where regions are named'
    assert features.wants_frame('right'), 'of another camera it is'
    clock.now += 11.0
    assert features.wants_frame('left')
