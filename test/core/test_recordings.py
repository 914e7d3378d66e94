# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings as people bring them: padded, damaged, with depth beside, not closed."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from dataclasses import replace
import sqlite3
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin
from test_offline import compressed, header, Item, made, raw, record

from etuner_ros.core.boxes.recording import BoxRecording, open_with_boxes
from etuner_ros.core.errors import ImageError
from etuner_ros.core.images import bags
from etuner_ros.core.images.sources import open_source, Recording
from etuner_ros.offline.recording import LearningBag, Seen

RED, BLUE = (200, 30, 40), (30, 40, 200)


def picture(width: int = 30) -> np.ndarray:
    """Return RGB, 24 px high: red on the left, blue on the right."""
    image = np.empty((24, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = RED, BLUE
    return image


def padded(number: int, image: np.ndarray, padding: int = 6) -> Any:
    rows = np.pad(image[..., ::-1].reshape(len(image), -1), ((0, 0), (0, padding)))
    return replace(raw(number, image), step=rows.shape[1], data=rows.reshape(-1))


def planar(number: int, image: np.ndarray) -> Any:
    """Return an image in nv12."""
    height, width = image.shape[:2]
    yuv = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    colours = yuv[height:].reshape(2, -1).T.reshape(-1)
    data = np.concatenate([yuv[:height].reshape(-1), colours])
    return replace(raw(number, image), encoding='nv12', step=width, data=data)


def depth(number: int, encoding: str = '16UC1') -> Any:
    data = np.full(24 * 32 * 2, 7, np.uint8)
    return replace(
        raw(number, picture(32)), encoding=encoding, step=64, width=32, height=24, data=data
    )


def truth(number: int, label: str, scenario: str = 'hall') -> Any:
    kind = 'etuner_ros/msg/GroundTruth'
    return made(kind, header=header(number), label=label, scenario=scenario)


def regions(number: int, *labels: str) -> Any:
    box = made('etuner_ros/msg/Box', x=1.0, y=2.0, width=8.0, height=9.0)
    things = [made('etuner_ros/msg/Region', box=box, label=x, score=0.9) for x in labels]
    return made('etuner_ros/msg/Regions', header=header(number), regions=things)


def correction(number: int, label: str) -> Any:
    kind = 'etuner_ros/msg/LabelCorrection'
    return made(kind, header=header(number), label=label, author='ann')


def labels_of(source: Any) -> list[str]:
    return [frame.label for frame in source]


@pytest.mark.parametrize(('image', 'near'), [(padded, 0), (planar, 8)])
def test_padded_rows_and_planes_are_read_by_all_that_read_recordings(tmp_path, image, near):
    wide = picture(32)
    items: list[Item] = [
        (0.0, 'ground_truth', truth(0, 'mug')),
        (0.0, 'region_truth', regions(0, 'mug')),
        (0.1, 'image_raw', image(0, wide)),
        (0.2, 'labels', correction(0, 'mug')),
    ]
    bag = record(tmp_path / 'bag', items)
    seen = [item.image for _, item in LearningBag(bag) if isinstance(item, Seen)]
    read = [f.image for source in (Recording(bag), BoxRecording(bag)) for f in source]
    assert len(seen + read) == 3
    for found in seen + read:
        assert np.abs(found.astype(int) - wide).max() <= near


def test_a_damaged_message_is_counted_and_the_others_are_played(tmp_path):
    items: list[Item] = []
    for number in range(4):
        items += [(number, 'ground_truth', truth(number, 'mug'))]
        items += [(number + 0.1, 'image_raw', raw(number, picture()))]
    bag = record(tmp_path / 'bag', items)
    with contextlib.closing(sqlite3.connect(bag / 'bag.db3')) as database:
        database.execute("UPDATE messages SET data = x'00' WHERE id IN (1, 4)")
        database.commit()
    source = open_source(str(bag))
    assert labels_of(source) == ['', 'mug', 'mug']
    for part in ('1 messages of ground_truth', '1 messages of image_raw', 'damaged'):
        assert part in source.left_out
    assert labels_of(source) == ['', 'mug', 'mug']
    assert '1 messages of image_raw' in source.left_out, 'not counted twice'


@pytest.mark.parametrize('reader', [Recording, BoxRecording, LearningBag])
def test_a_damaged_storage_ends_the_recording_there_and_that_is_said(tmp_path, reader):
    items: list[Item] = []
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 255, (60, 80, 3), np.uint8) for _ in range(8)]
    for number, image in enumerate(images):
        items += [(number, 'region_truth', regions(number, 'mug'))]
        items += [(number + 0.1, 'image_raw', raw(number, image))]
        items += [(number + 0.2, 'labels', correction(number, 'mug'))]
    bag = record(tmp_path / 'bag', items)
    source = reader(bag)
    whole = len(list(source))
    file = bag / 'bag.db3'
    data = bytearray(file.read_bytes())
    # A large message lies in pages each of which begins with the number of the next one.
    place = data.index(images[5][..., ::-1].tobytes()[6000:6100]) // 4096 * 4096
    data[place : place + 4] = b'\xff' * 4
    file.write_bytes(data)
    assert 0 < len(list(source)) < whole
    said = source.damage.end if isinstance(source, LearningBag) else source.left_out
    assert 'the recording is damaged, and was read up to 4.' in said


def test_pictures_are_those_of_image_raw_and_neither_drawn_nor_depth(tmp_path):
    items: list[Item] = []
    for number in range(2):
        packed = replace(compressed(number, picture()), format='16UC1; compressedDepth png')
        items += [
            (number, 'annotated', raw(number, picture(10))),
            (number, 'a/depth/image_raw', depth(number)),
            (number, 'a/depth/image_raw/compressedDepth', packed),
            (number, 'a/front', raw(number, picture(20))),
            (number, 'b/image_raw', raw(number, picture(40))),
        ]
    bag = record(tmp_path / 'bag', items)
    widths = {f.image.shape[1] for f in open_source(str(bag))}
    assert widths == {40}
    assert {f.image.shape[1] for f in open_source(str(bag), '/annotated')} == {10}
    bag = record(tmp_path / 'other', [i for i in items if 'b/' not in i[1]])
    assert {f.image.shape[1] for f in open_source(str(bag))} == {20}
    bag = record(
        tmp_path / 'none', [i for i in items if not i[1].endswith(('b/image_raw', 'front'))]
    )
    with pytest.raises(ImageError, match='no images but drawn ones, depth'):
        open_source(str(bag))


@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_truth_that_was_recorded_behind_its_picture_is_known(tmp_path, plugin):
    items: list[Item] = []
    for number in range(3):
        items += [(number, 'image_raw', raw(number, picture()))]
        items += [(number + 0.4, 'ground_truth', truth(number, f'kind{number}'))]
        items += [(number + 0.4, 'region_truth', regions(number, f'thing{number}'))]
    bag = record(tmp_path / 'bag', items, plugin)
    assert labels_of(open_source(str(bag))) == ['kind0', 'kind1', 'kind2']
    frames = list(open_with_boxes(str(bag)))
    assert [(f.label, f.labels) for f in frames] == [
        (f'kind{i}', (f'thing{i}',)) for i in range(3)
    ]


def test_where_stamps_repeat_the_truth_before_a_picture_is_its_own(tmp_path):
    items: list[Item] = []
    for number, label in enumerate(['mug', 'duck', '', 'tray']):
        if label:
            items += [(number, 'ground_truth', truth(0, label))]
        items += [(number + 0.1, 'image_raw', raw(0, picture()))]
    bag = record(tmp_path / 'bag', items)
    assert labels_of(open_source(str(bag))) == ['mug', 'duck', '', 'tray']


@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
@pytest.mark.parametrize('late_s', [-0.1, 0.4])
def test_the_first_picture_comes_before_the_recording_was_read(
    tmp_path, monkeypatch, plugin, late_s
):
    items: list[Item] = []
    for number in range(60):
        items += [(number + 1.0, 'image_raw', raw(number, picture()))]
        items += [(number + 1.0 + late_s, 'ground_truth', truth(number, f'kind{number}'))]
        items += [(number + 1.0 + late_s, 'region_truth', regions(number, f'thing{number}'))]
    source = BoxRecording(record(tmp_path / 'bag', items, plugin))
    read, messages = [0], bags.messages

    def counted(*arguments: Any) -> Iterator[Any]:
        for found in messages(*arguments):
            read[0] += 1
            yield found

    monkeypatch.setattr(bags, 'messages', counted)
    monkeypatch.setattr('etuner_ros.core.images.sources.messages', counted, raising=False)
    monkeypatch.setattr('etuner_ros.core.boxes.recording.messages', counted, raising=False)
    for number, frame in enumerate(source):
        assert (frame.label, frame.labels) == (f'kind{number}', (f'thing{number}',))
        assert read[0] <= 3 * (number + 3)


def test_of_two_truths_of_one_picture_one_counts(tmp_path):
    items: list[Item] = []
    for number in range(3):
        items += [(number, 'image_raw', raw(number, picture()))]
        for late, name in ((0.2, 'kind'), (0.3, 'again')):
            items += [(number + late, 'ground_truth', truth(number, f'{name}{number}'))]
            items += [(number + late, 'region_truth', regions(number, f'{name}{number}'))]
    frames = list(BoxRecording(record(tmp_path / 'bag', items)))
    assert [(f.label, f.labels) for f in frames] == [(f'kind{i}', (f'kind{i}',)) for i in range(3)]


@pytest.mark.parametrize('late_s', [-0.1, 0.2])
@pytest.mark.parametrize('image', ['image_raw', 'eye/image_raw'])
def test_of_cameras_with_the_same_stamps_each_has_its_own_truth(tmp_path, late_s, image):
    items: list[Item] = []
    for number in range(3):
        for side in ('left', 'right'):
            items += [(number + 0.5, f'/{side}/{image}', raw(number, picture()))]
            moment, label = number + 0.5 + late_s, f'{side}{number}'
            items += [(moment, f'/{side}/ground_truth', truth(number, label))]
            items += [(moment, f'/{side}/region_truth', regions(number, label))]
        items += [(number + 0.5 + late_s, '/ground_truth', truth(number, 'none'))]
    bag = record(tmp_path / 'bag', items)
    for side in ('left', 'right'):
        frames = list(BoxRecording(bag, f'/{side}/{image}'))
        expected = [f'{side}{number}' for number in range(3)]
        assert [f.label for f in frames] == expected
        assert [f.labels for f in frames] == [(label,) for label in expected]


def test_a_truth_in_no_namespace_of_the_pictures_is_the_first(tmp_path):
    items: list[Item] = [
        (0.0, '/far/off/ground_truth', truth(0, 'mug')),
        (0.1, '/near/ground_truth', truth(0, 'duck')),
        (0.2, '/eye/image_raw', raw(0, picture())),
    ]
    assert labels_of(open_source(str(record(tmp_path / 'bag', items)))) == ['mug']
    items += [(0.15, '/ground_truth', truth(0, 'tray'))]
    assert labels_of(open_source(str(record(tmp_path / 'other', items)))) == ['tray']


def test_a_recording_that_was_played_in_a_loop_has_its_truths_each_time(tmp_path):
    items: list[Item] = []
    for number in range(24):
        items += [(number, 'image_raw', raw(number % 8, picture()))]
        items += [(number + 0.4, 'ground_truth', truth(number % 8, f'kind{number}'))]
    bag = record(tmp_path / 'bag', items)
    assert labels_of(open_source(str(bag))) == [f'kind{number}' for number in range(24)]


def test_a_truth_counts_for_five_seconds_and_a_second_behind_its_picture(tmp_path):
    items: list[Item] = []
    for number, early in enumerate([6.0, 4.0, -0.9, -1.1]):
        items += [(20 * number + 10 - early, 'ground_truth', truth(number, 'mug'))]
        items += [(20 * number + 10, 'image_raw', raw(number, picture()))]
    assert labels_of(open_source(str(record(tmp_path / 'bag', items)))) == ['', 'mug', 'mug', '']


def test_what_waits_for_truths_is_bounded(monkeypatch):
    def told(topic: str, message: Any, moment: float) -> tuple[Any, int, Any]:
        connection: Any = SimpleNamespace(topic=topic)
        return connection, int(moment * 1e9), message

    waiting = bags._Waiting(['ground_truth'])
    small = picture(4)
    for number in range(600):  # truths without pictures, then pictures without truths
        waiting.add(*told('ground_truth', truth(number, 'mug'), number / 10))
    said = waiting._said['ground_truth']
    assert len(said._said) == len(said._order) <= 51
    for number in range(1000, 1064):
        waiting.add(*told('image_raw', raw(number, small), 60 + number / 1e6))
        assert not waiting.ready
    waiting.add(*told('image_raw', raw(2000, small), 60.1))
    assert waiting.ready, 'too many'
    waiting.pop()
    assert not waiting.ready
    monkeypatch.setattr(bags, 'MOST_WAITING_BYTES', 63 * small.nbytes)
    assert waiting.ready, 'too large'
    waiting.pop()
    assert not waiting.ready
    waiting.add(*told('image_raw', raw(2001, small), 70.0))
    while waiting.ready:
        waiting.pop()
    waiting.pop()
    assert len(waiting._stamps) == len(waiting._order) == 1
    assert not said._said
    assert not said._order


def test_the_rate_is_that_of_the_pictures_and_not_of_the_whole_recording(tmp_path):
    items: list[Item] = [(i / 10, 'image_raw', raw(i, picture())) for i in range(100, 140)]
    items += [(0.0, 'ground_truth', truth(0, 'mug')), (500.0, 'ground_truth', truth(1, 'mug'))]
    for plugin in (StoragePlugin.SQLITE3, StoragePlugin.MCAP):
        bag = record(tmp_path / plugin.name, items, plugin)
        assert open_source(str(bag)).rate_hz == pytest.approx(10.0)


@pytest.mark.parametrize('plugin', [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_recording_that_was_not_closed_says_what_to_do(tmp_path, plugin):
    items: list[Item] = [
        (0.0, 'image_raw', raw(0, picture())),
        (0.1, 'labels', correction(0, 'a')),
    ]
    bag = record(tmp_path / 'bag', items, plugin)
    (bag / 'metadata.yaml').unlink()
    file = next(bag.iterdir())
    for path in (bag, file):
        for opener in (lambda p: open_source(str(p)), LearningBag):
            with pytest.raises(ImageError, match=f'was not closed.*`ros2 bag reindex {bag}`'):
                opener(path)
    packed = file.rename(f'{file}.zstd')
    for path in (bag, packed):
        with pytest.raises(ImageError, match=r'unpack .*\.zstd .*, then `ros2 bag reindex'):
            open_source(str(path))
    with pytest.raises(ImageError, match='holds no recording'):
        LearningBag(tmp_path)
