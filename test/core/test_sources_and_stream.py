# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of the camera, and the recording that ships with the package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.images.sources import open_source, Recording


@pytest.fixture(scope='module')
def all_frames(stream: Path) -> list:
    return list(Recording(stream))


def picture(value: int) -> np.ndarray:
    return np.full((24, 32, 3), value, np.uint8)


def test_a_folder_takes_turns_between_the_classes_of_each_split(tmp_path):
    for split, label, count in (('b_night', 'mug', 1), ('a_day', 'duck', 2), ('a_day', 'mug', 2)):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f'{i}.jpg').write_bytes(encode_jpeg(picture(40 * i)))
    (tmp_path / 'a_day' / 'duck' / 'broken.jpg').write_bytes(b'no picture')
    played = [(f.scenario, f.label) for f in open_source(str(tmp_path))]
    assert played == [('a_day', 'duck'), ('a_day', 'mug')] * 2 + [('b_night', 'mug')]


def test_a_folder_without_images_is_an_error_that_says_what_is_expected(tmp_path):
    with pytest.raises(ImageError, match='holds no images; expected <split>/<class>'):
        open_source(str(tmp_path))


def test_a_source_that_does_not_exist_is_named():
    with pytest.raises(ImageError, match="'/no/such/thing' does not exist"):
        open_source('/no/such/thing')
    with pytest.raises(ImageError, match='can not be opened; is it plugged in'):
        open_source('/dev/video97')


def test_a_video_is_played_in_order(tmp_path):
    path = str(tmp_path / 'film.avi')
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*'MJPG'), 12.0, (32, 24))
    for value in (10, 90, 170):
        writer.write(picture(value))
    writer.release()
    source = open_source(path)
    assert source.rate_hz == pytest.approx(12.0)
    assert [round(float(f.image.mean()) / 80) for f in source] == [0, 1, 2]
    (tmp_path / 'text.mp4').write_text('no film')
    with pytest.raises(ImageError, match='can not be opened'):
        open_source(str(tmp_path / 'text.mp4'))


@pytest.mark.parametrize('plugin', [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_recordings_of_raw_images_play_from_both_storages(tmp_path, plugin):
    store = get_typestore(Stores.ROS2_HUMBLE)
    types = store.types
    with Writer(tmp_path / 'bag', version=8, storage_plugin=plugin) as writer:
        connection = writer.add_connection(
            '/front/image_raw', 'sensor_msgs/msg/Image', typestore=store
        )
        for i in range(5):
            stamp = types['builtin_interfaces/msg/Time'](sec=i, nanosec=0)
            head = types['std_msgs/msg/Header'](stamp=stamp, frame_id='eye')
            image = types['sensor_msgs/msg/Image'](
                header=head,
                height=24,
                width=32,
                encoding='bgr8',
                is_bigendian=0,
                step=96,
                data=np.tile(np.array([0, 0, 40 * i], np.uint8), 24 * 32),
            )
            writer.write(connection, i * 10**9, store.serialize_cdr(image, connection.msgtype))
    source = open_source(str(tmp_path / 'bag'), skip=1)
    assert [int(f.image[0, 0, 0]) for f in source] == [40, 80, 120, 160]
    assert source.rate_hz == pytest.approx(1.0)
    with pytest.raises(
        ImageError, match=r"no images on '/rear'; image topics: \['/front/image_raw'\]"
    ):
        open_source(str(tmp_path / 'bag'), image_topic='/rear')


def test_the_stream_has_the_kinds_scenarios_and_frames_that_are_promised(all_frames, stream):
    scenarios = list(dict.fromkeys(f.scenario for f in all_frames))
    assert len(scenarios) >= 5
    assert len(all_frames) >= 1500
    assert all(min(f.image.shape[:2]) >= 128 for f in all_frames)
    known = {f.label for f in all_frames if f.scenario == scenarios[0]}
    assert len(known) >= 12
    brings = {s: {f.label for f in all_frames if f.scenario == s} - known for s in scenarios}
    assert [len(new) for new in brings.values() if new] == [3]
    for scenario in scenarios:
        counts = Counter(f.label for f in all_frames if f.scenario == scenario)
        assert known <= counts.keys()
        assert min(counts.values()) >= 20
    assert sum(p.stat().st_size for p in stream.iterdir()) <= 15_000_000


def test_no_two_frames_of_the_stream_are_near_copies(all_frames):
    small = np.stack(
        [cv2.resize(f.image, (16, 16), interpolation=cv2.INTER_AREA) for f in all_frames]
    )
    marks = small.reshape(len(small), -1).astype(np.float32)
    marks -= marks.mean(axis=1, keepdims=True)
    marks /= np.linalg.norm(marks, axis=1, keepdims=True)
    similar = marks @ marks.T
    np.fill_diagonal(similar, 0)
    assert similar.max() < 0.99


def test_the_scenarios_differ_in_light(all_frames):
    means: dict[str, list] = {}
    for f in all_frames:
        means.setdefault(f.scenario, []).append(f.image.mean(axis=(0, 1)))
    colours = {s: np.mean(v, axis=0) for s, v in means.items()}
    assert colours['night'].mean() < 0.5 * colours['workshop'].mean()
    assert colours['warehouse'][0] > 1.5 * colours['warehouse'][2], 'warm light'
    assert colours['night'][2] > colours['night'][0], 'cold light'


def test_the_deployed_model_reaches_85_percent_on_the_second_half(all_frames):
    from etuner_ros.core.images.codec import resize_square
    from etuner_ros.core.models.deploy import extract_features, fit_head
    from etuner_ros.core.models.networks import build, pretrained_spec

    first = [f for f in all_frames if f.scenario == all_frames[0].scenario]
    half = len(first) // 2
    model = build(pretrained_spec('efficientnet_lite0', 128), 'pretrained')
    fit_head(
        model, [resize_square(f.image, 128) for f in first[:half]], [f.label for f in first[:half]]
    )
    features = extract_features(model, [resize_square(f.image, 128) for f in first[half:]])
    said = [model.classes[i] for i in model.head(features).argmax(dim=1).tolist()]
    assert np.mean([a == f.label for a, f in zip(said, first[half:])]) >= 0.85
