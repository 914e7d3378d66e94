# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things in boxes: what is cut out, named, refined and followed, and what labels of boxes teach."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etuner_ros.core.boxes.crops import cut, features_of
from etuner_ros.core.boxes.geometry import (
    as_boxes,
    BoxError,
    checked_box,
    distinct,
    overlaps,
    squares,
    usable,
)
from etuner_ros.core.boxes.readout import BACKGROUND, Objects, read, ReadoutSettings
from etuner_ros.core.boxes.tracker import Tracker

SIZE = (320, 240)


def boxes(*values: tuple[float, float, float, float]) -> np.ndarray:
    return as_boxes(list(values))


def test_overlap_is_the_shared_area_of_all_area():
    found = overlaps(boxes((0, 0, 10, 10)), boxes((0, 0, 10, 10), (5, 0, 10, 10), (20, 0, 5, 5)))
    assert found.tolist() == [pytest.approx([1.0, 1 / 3, 0.0])]


def test_a_box_that_reaches_over_the_border_is_clipped():
    assert checked_box([-10, 200, 30, 100], *SIZE).tolist() == [0, 200, 20, 40]


@pytest.mark.parametrize(
    ('box', 'words'),
    [
        ((math.nan, 0, 10, 10), 'not finite'),
        ((0, 0, math.inf, 10), 'not finite'),
        ((0, 0, 1e300, 10), 'not finite'),
        ((10, 10, 0, 20), 'no area'),
        ((10, 10, 20, -3), 'no area'),
        ((400, 10, 20, 20), 'outside of the image of 320 x 240'),
        ((317, 10, 20, 20), '3 x 20 px are in the image'),
        ((1, 2, 3), 'has x, y, width and height'),
    ],
)
def test_a_box_that_can_not_be_used_is_refused_in_words(box, words):
    with pytest.raises(BoxError, match=words):
        checked_box(box, *SIZE)


def test_of_thousands_of_boxes_those_that_can_be_used_are_told_at_once():
    rng = np.random.default_rng(0)
    many = np.concatenate([rng.uniform(0, 200, (5000, 4)), np.full((3, 4), np.nan)])
    good = usable(as_boxes(many), *SIZE)
    assert not good[-3:].any()
    for index in range(0, 5003, 500):
        if good[index]:
            checked_box(many[index].tolist(), *SIZE)
        else:
            with pytest.raises(BoxError):
                checked_box(many[index].tolist(), *SIZE)


def test_the_surest_of_boxes_on_one_thing_stays():
    found = boxes((0, 0, 10, 10), (1, 0, 10, 10), (50, 50, 10, 10))
    scores = np.array([0.5, 0.9, 0.1], np.float32)
    assert distinct(found, scores, 0.5).tolist() == [1, 2]


@pytest.mark.parametrize(
    'box', [(0, 100, 20, 40), (300, 100, 20, 40), (100, 0, 40, 20), (100, 220, 40, 20)]
)
def test_a_square_keeps_the_thing_in_the_middle_also_at_the_border(box):
    image = np.zeros((240, 320, 3), np.uint8)
    x, y, width, height = box
    image[y + 5 : y + height - 5, x + 5 : x + width - 5] = 255
    (crop,) = cut(image, boxes(box), 64, margin=0.0)
    assert crop.shape == (64, 64, 3)
    rows, columns = np.nonzero(crop[..., 0] > 128)
    assert abs(rows.mean() - 31.5) < 1
    assert abs(columns.mean() - 31.5) < 1


def test_a_square_is_as_long_as_the_longer_side_and_its_margins():
    assert squares(boxes((0, 100, 40, 20)), 0.25).tolist() == [[-10, 80, 60, 60]]


@pytest.mark.parametrize('box', [(-50, -50, 60, 60), (300, 230, 100, 100), (0, 0, 320, 240)])
def test_a_crop_has_the_size_of_the_input_wherever_the_box_lies(box):
    image = np.full((240, 320, 3), 7, np.uint8)
    (crop,) = cut(image, boxes(box), 32)
    assert crop.shape == (32, 32, 3)
    assert (crop == 7).all()


def test_all_regions_of_an_image_are_one_batch():
    calls = []

    def look(images):
        calls.append(len(images))
        return np.ones((len(images), 3), np.float32), np.ones((len(images), 2), np.float32)

    image = np.zeros((240, 320, 3), np.uint8)
    assert features_of(image, boxes((0, 0, 9, 9), (5, 5, 50, 20)), look, 32).shape == (2, 3)
    assert calls == [2]


CLASSES = ('cup', BACKGROUND, 'ball')


def test_background_is_left_out_duplicates_are_merged_and_weak_names_are_unknown():
    proposals = boxes((0, 0, 50, 50), (5, 0, 50, 50), (100, 100, 40, 40), (200, 0, 40, 40))
    logits = np.array([[4, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0.1, 0.6]], np.float32)
    found = read(CLASSES, logits, proposals, SIZE, settings=ReadoutSettings(unknown_below=0.5))
    assert found.places.tolist() == [1, 3]
    assert [names[0] for names in found.labels] == ['cup', 'ball']
    assert all(BACKGROUND not in names for names in found.labels)
    assert found.unknown.tolist() == [False, True]
    assert found.scores[0][0] > found.scores[1][0]


def test_what_is_background_rather_than_any_one_thing_is_shown_and_unknown():
    shares = np.array([[0.3, 0.4, 0.3], [0.25, 0.55, 0.2], [0.45, 0.4, 0.15]], np.float32)
    proposals = boxes((0, 0, 40, 40), (100, 0, 40, 40), (200, 0, 40, 40))
    alike = np.full((3, 3), 2.0, np.float32)
    found = read(CLASSES, np.log(shares), proposals, SIZE, likeness=alike)
    said = dict(zip(found.places.tolist(), found.unknown.tolist()))
    assert said == {0: True, 2: False}, 'the second is background rather than all things'


def test_of_names_that_are_as_sure_that_of_what_looks_familiar_comes_first():
    proposals = boxes(*[(60 * place, 0, 40, 40) for place in range(4)])
    logits = np.array([[2, 0, 0], [2, 0, 0], [2, 0, 0], [2.1, 0, 0]], np.float32)
    like = np.array([[0.5, 0, 0], [math.nan, 0, 0], [1.5, 0, 0], [-1, 0, 0]], np.float32)
    found = read(CLASSES, logits, proposals, SIZE, likeness=like)
    assert found.places.tolist() == [2, 1, 0, 3], 'where nothing was taught nothing speaks against'
    like[:] = -1.0
    found = read(CLASSES, logits, proposals, SIZE, likeness=like)
    assert found.places[0] == 3, 'none is like anything: the surer name'


def test_the_energy_of_a_thing_is_that_of_its_logits_however_large_they_are():
    logits = np.array([[1, -2, 3], [900, 0, 0], [-900, -950, -900]], np.float32)
    proposals = boxes((0, 0, 40, 40), (100, 0, 40, 40), (200, 0, 40, 40))
    found = read(CLASSES, logits, proposals, SIZE)
    energy = dict(zip(found.places.tolist(), found.energy.tolist()))
    assert energy == pytest.approx(
        {0: -math.log(math.exp(1) + math.exp(-2) + math.exp(3)), 1: -900, 2: 900 - math.log(2)}
    )


def test_objects_lie_in_the_image():
    found = read(('cup',), np.ones((1, 1), np.float32), boxes((300, 0, 40, 40)), SIZE)
    assert found.boxes.tolist() == [[300, 0, 20, 40]]


@pytest.mark.parametrize('classes', [(), (BACKGROUND,)])
def test_a_model_that_knows_no_thing_finds_them_without_a_name(classes):
    logits = np.zeros((3, len(classes)), np.float32)
    proposals = boxes((0, 0, 9, 9), (0, 0, 9, 8), (40, 0, 9, 9))
    found = read(classes, logits, proposals, SIZE)
    assert found.places.tolist() == [0, 2], 'each once'
    assert found.unknown.all()
    assert found.labels == [(), ()]


def test_a_part_of_a_thing_that_has_its_name_is_no_second_one():
    proposals = boxes((0, 0, 90, 90), (10, 10, 30, 30), (70, 10, 60, 30), (200, 0, 30, 30))
    logits = np.array([[5, 0, 0], [4, 0, 0], [4, 0, 0], [4, 0, 0]], np.float32)
    assert read(CLASSES, logits, proposals, SIZE).places.tolist() == [0, 2, 3]
    logits[1] = (0, 0, 4)
    assert read(CLASSES, logits, proposals, SIZE).places.tolist() == [0, 1, 2, 3], 'a ball upon it'
    logits[1] = (6, 0, 0)
    found = read(CLASSES, logits, proposals, SIZE)
    assert found.places.tolist() == [1, 2, 3], 'the surer one stays, whichever is larger'
    like = np.array([[1.5, 0, 0], [0.2, 0, 0], [0.3, 0, 0], [0.3, 0, 0]], np.float32)
    found = read(CLASSES, logits, proposals, SIZE, likeness=like)
    assert sorted(found.places) == [0, 1, 2, 3], 'what is upon it and has no name can be named'


def drive(seconds: float, speed: float, jitter: float = 1.0) -> list[tuple[float, np.ndarray]]:
    """Return boxes of three things in frames at 10 Hz, the camera driving by at px/s."""
    rng = np.random.default_rng(0)
    things = np.array([[40, 60, 50, 50], [110, 70, 40, 60], [190, 50, 60, 60]], float)
    frames = []
    for number in range(int(seconds * 10)):
        moved = things + [number * speed / 10, 0, 0, 0] + rng.normal(0, jitter, things.shape)
        frames.append((number / 10, as_boxes(moved)))
    return frames


LOOKS = np.eye(3, 16, dtype=np.float32)


def test_of_boxes_upon_each_other_the_one_that_is_a_thing_stays_also_where_any_name_fits():
    proposals = as_boxes([(10, 10, 50, 50), (10, 10, 50, 36)])
    logits = np.array([[2.0, -9.0], [2.1, -9.0]], np.float32)

    def said(*scores: float) -> Objects:
        proposed = np.array(scores, np.float32)
        return read(('cup', 'hat'), logits, proposals, SIZE, proposed=proposed)

    assert said(0.9, 0.2).places.tolist() == [0]
    assert said(0.2, 0.9).places.tolist() == [1]
    for unknown in ((0.0, 0.0), (math.nan, math.nan), (math.inf, 7.0), (-1.0, -0.5)):
        assert said(*unknown).places.tolist() == [1], 'then the surer name'


def test_things_keep_their_numbers_while_the_camera_drives_by():
    tracker = Tracker()
    for number, (stamp, found) in enumerate(drive(3, 120)):
        order = np.roll(np.arange(3), number)  # detectors sort as they like
        assert tracker.update(stamp, found[order], LOOKS[order]).tolist() == (order + 1).tolist()


def test_a_thing_that_was_hidden_for_some_frames_comes_back_with_its_number():
    tracker = Tracker()
    frames = drive(2, 60)
    for number, (stamp, found) in enumerate(frames):
        seen = [0, 2] if 8 <= number < 12 else [0, 1, 2]
        tracks = tracker.update(stamp, found[seen], LOOKS[seen])
    assert tracks.tolist() == [1, 2, 3]


def test_another_thing_in_the_same_place_is_another_track():
    tracker = Tracker()
    spot = boxes((10, 10, 50, 50), (200, 10, 50, 50))
    assert tracker.update(0.0, spot, LOOKS[:2]).tolist() == [1, 2]
    assert tracker.update(0.1, spot, LOOKS[[2, 1]]).tolist() == [3, 2]


def test_tracks_end_after_a_while_and_when_time_goes_back():
    tracker = Tracker()
    spot = boxes((10, 10, 50, 50))
    assert tracker.update(5.0, spot, LOOKS[:1]).tolist() == [1]
    assert tracker.update(5.5, spot, LOOKS[:1]).tolist() == [1]
    assert tracker.update(9.0, spot, LOOKS[:1]).tolist() == [2]
    assert tracker.update(1.0, spot, LOOKS[:1]).tolist() == [3]
    assert tracker.update(1.1, boxes(), np.zeros((0, 16), np.float32)).tolist() == []


def test_how_slow_a_detector_was_before_time_went_back_makes_nobody_wait():
    tracker, spot = Tracker(), boxes((10, 10, 50, 50))
    for number in range(9):
        before = tracker.update(1.5 * number, spot, LOOKS[:1]).tolist()
    again = tracker.update(1.0, spot, LOOKS[:1]).tolist()
    assert again != before
    assert tracker.update(1.9, spot, LOOKS[:1]).tolist() != again, (
        'that is long, for all one knows'
    )


@pytest.mark.parametrize('gap_s', [1e-6, 5e-4, 2e-3])
def test_two_images_at_nearly_one_time_lose_nothing_that_stands_still(gap_s):
    tracker, draw = Tracker(), np.random.default_rng(0)
    spot = boxes((100, 100, 60, 60))
    stamps = [n / 30 for n in range(10)] + [9 / 30 + gap_s] + [n / 30 for n in range(11, 20)]
    for stamp in stamps:
        off = np.float32([*draw.normal(0.0, 1.5, 2), 0, 0])
        assert tracker.update(stamp, spot + off, LOOKS[:1]).tolist() == [1]


def test_a_new_thing_is_expected_where_the_camera_drives_those_that_are_in_view():
    tracker, things = Tracker(), boxes(*[(300 * place, 10, 50, 50) for place in range(4)])
    looks = np.eye(4, 16, dtype=np.float32)
    for number in range(3):  # it stands
        tracker.update(number / 10, things[:3], looks[:3])
    for number, way in enumerate((20, 50, 90, 130)):  # away, and two things are hidden
        tracks = tracker.update(0.3 + number / 10, things[:1] + np.float32([way, 0, 0, 0]), looks)
        assert tracks.tolist() == [1]
    for number, way in enumerate((170, 210)):
        moved = things[[0, 3]] + np.float32([way, 0, 0, 0])
        tracks = tracker.update(0.7 + number / 10, moved, looks[[0, 3]])
        assert tracks.tolist() == [1, 4]


def test_of_a_driver_that_sets_no_stamps_tracks_go_on_and_end_too():
    tracker, draw = Tracker(), np.random.default_rng(0)
    spot = boxes((10, 10, 50, 50))
    for number in range(200):
        away = boxes((500 + 60 * number, 10, 50, 50))
        looks = np.concatenate([LOOKS[:1], draw.normal(size=(1, 16)).astype(np.float32)])
        found = tracker.update(0.0, np.concatenate([spot, away]), looks)
        assert found[0] == 1
    assert len(tracker._tracks) < 10


@pytest.mark.parametrize('step_s', [0.1, 0.75, 1.5])
def test_a_slow_detector_finds_the_same_things_again_and_one_that_was_away_is_another(step_s):
    tracker, spot = Tracker(), boxes((10, 10, 50, 50), (200, 10, 50, 50))
    for number in range(4):  # nobody knows at first how slow it is
        first = tracker.update(step_s * number, spot, LOOKS[:2]).tolist()
    for number in range(4, 9):
        seen = [0, 1] if number != 5 else [0]
        assert tracker.update(step_s * number, spot[seen], LOOKS[seen]).tolist() == [
            first[i] for i in seen
        ]
    patience_s = max(0.7, 2.5 * step_s)
    again_s = step_s * 8 + patience_s - 0.01
    assert tracker.update(again_s, spot[:1], LOOKS[:1]).tolist() == first[:1]
    last = tracker.update(again_s + 0.02, spot, LOOKS[:2]).tolist()
    assert last == [first[0], first[1] + 1], 'the one that was seen is waited for, not the other'
    for number in range(1, 6):  # things that come by now and then, and nothing in between
        numbers = tracker.update(again_s + 6.0 * number, spot, LOOKS[:2]).tolist()
        assert set(numbers).isdisjoint(last), 'others, perhaps'
        last = numbers


def test_a_thing_is_named_by_what_was_seen_of_it_lately_too():
    tracker, here = Tracker(), boxes((10, 10, 40, 40), (200, 10, 40, 40))
    other = np.eye(2, 4, dtype=np.float32)[1]

    def see(stamp: float, value: float) -> np.ndarray:
        """Show a thing whose looks change in one direction, and one whose looks stay."""
        features = np.stack([np.array([1, 0, value, 0], np.float32), other])
        numbers = tracker.follow(stamp, here, np.ones(2, np.float32), features)
        steady = tracker.steadied(numbers, features)
        assert np.allclose(steady[1], other)
        return float(steady[0, 2])

    assert see(0.0, 0.8) == pytest.approx(0.8)
    assert see(0.5, 0.2) == pytest.approx(0.5)
    assert see(1.0, 0.4) == pytest.approx(0.45), 'half of it, half the mean of both before'
    assert see(1.5, 0.4) == see(1.5, 0.4), 'a frame is not before itself'
    for stamp in (2.0, 2.5, 3.0, 3.5):
        see(stamp, 0.4)
    assert see(3.6, 0.4) == pytest.approx(0.4), 'what is two seconds ago is over'
    tracker.forget_looks()
    assert see(3.7, 0.2) == pytest.approx(0.2), 'another network sees other things'
    assert see(3.8, 0.4) == pytest.approx(0.3)
    assert see(9.0, 0.5) == pytest.approx(0.5), 'it may be another thing by now'


@pytest.mark.parametrize('length', [4, 24])
def test_things_keep_their_numbers_when_a_network_with_other_features_takes_over(length):
    tracker, here = Tracker(), boxes((10, 10, 40, 40), (200, 10, 40, 40), (400, 10, 40, 40))
    assert tracker.update(0.0, here, LOOKS[:3]).tolist() == [1, 2, 3]
    tracker.forget_looks()
    others = np.eye(3, length, dtype=np.float32)
    assert tracker.update(0.1, here[:2], others[:2]).tolist() == [1, 2]
    assert tracker.update(0.2, here, others).tolist() == [1, 2, 3], 'also one that was hidden'
    away = boxes((10, 200, 40, 40))
    assert tracker.update(0.3, away, others[:1]).tolist() == [4], 'a thing elsewhere is another'


def test_regions_that_show_one_thing_share_its_track():
    tracker = Tracker()
    twice = boxes((10, 10, 40, 40), (14, 10, 40, 40), (200, 10, 40, 40))
    features = np.eye(3, 4, dtype=np.float32)
    numbers = tracker.follow(0.0, twice, np.float32([0.5, 0.9, 0.7]), features)
    assert numbers[0] == numbers[1] != numbers[2]
    assert (numbers > 0).all()
    assert tracker.follow(0.1, twice[:0], np.zeros(0, np.float32), features[:0]).shape == (0,)
    assert tracker.steadied(numbers[:0], features[:0]).shape == (0, 4)
