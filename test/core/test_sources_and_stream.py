# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sources of the camera, and the recording that ships with the package."""

from __future__ import annotations

from collections import Counter
import contextlib
from pathlib import Path
import sqlite3
import threading

import cv2
import numpy as np
import psutil
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.images.player import Player
from etuner_ros.core.images.sources import (
    Device,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    open_source,
    Recording,
)


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
    with pytest.raises(ImageError, match='holds no images; expected <class>/'):
        open_source(str(tmp_path))


def test_a_source_that_does_not_exist_is_named():
    with pytest.raises(ImageError, match="'/no/such/thing' does not exist"):
        open_source('/no/such/thing')
    for name in ('/dev/video97', '/dev/v4l/by-id/none'):
        with pytest.raises(ImageError, match='can not be opened; is it plugged in'):
            open_source(name)


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


class Port:
    """Where a camera is plugged in, and unplugged; pauses end when the test says so."""

    def __init__(self) -> None:
        self.plugged = True
        self.opened = self.open_now = 0
        self.pauses: list[float] = []
        self.paused, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def open(self, _device: object) -> PluggedCamera:
        self.opened += 1
        return PluggedCamera(self)

    def pause(self, closed: threading.Event, seconds: float) -> None:
        self.pauses.append(seconds)
        self.paused.release()
        while not closed.is_set() and not self.go_on.acquire(timeout=0.05):
            pass


class PluggedCamera:
    """A capture of a port."""

    rate_hz = 30.0

    def __init__(self, port: Port) -> None:
        self._port, self.is_open = port, port.plugged
        port.open_now += 1

    def read(self) -> np.ndarray | None:
        threading.Event().wait(0.005)  # as a camera does
        return picture(7) if self.is_open and self._port.plugged else None

    def close(self) -> None:
        self._port.open_now -= 1


def test_a_camera_that_was_unplugged_is_opened_again_until_it_gives_pictures():
    port = Port()
    device = Device('/dev/video3', port.open, port.pause)
    assert device.newest() is not None
    assert not device.lost
    port.plugged = False
    for _ in range(6):
        port.paused.acquire()
        assert 'the camera /dev/video3 gives no pictures' in device.lost
        assert device.newest() is None, 'at once'
        port.go_on.release()
    assert port.pauses[:5] == [FIRST_PAUSE_S * 2**i for i in range(4)] + [LONGEST_PAUSE_S]
    port.paused.acquire()
    port.plugged = True
    port.go_on.release()
    frame = None
    while frame is None:
        frame = device.newest()
    assert not device.lost
    port.plugged = False
    port.paused.acquire()
    assert port.pauses[-1] == FIRST_PAUSE_S, 'it is lost anew'
    device.close()
    assert port.open_now == 0, 'every capture was let go of'


def test_each_picture_of_a_camera_is_given_once():
    port, shown = Port(), threading.Semaphore(0)

    class Slides(PluggedCamera):
        """A capture whose pictures come when the test says so."""

        count = 0

        def read(self) -> np.ndarray | None:
            shown.acquire()
            self.count += 1
            return picture(self.count)

    device = Device('/dev/video3', lambda _: Slides(port), port.pause)
    shown.release()
    assert device.newest(60.0).image[0, 0, 0] == 1
    assert device.newest(0.0) is None, 'there is no other one yet'
    shown.release()
    assert device.newest(60.0).image[0, 0, 0] == 2
    closing = threading.Thread(target=device.close)
    closing.start()
    shown.release()
    closing.join()


def test_a_lost_camera_is_let_go_of_at_once():
    port = Port()
    device = Device('/dev/video3', port.open, port.pause)
    port.plugged = False
    port.paused.acquire()
    device.close()
    assert not device._thread.is_alive()
    assert port.open_now == 0


def test_a_player_tells_the_truth_of_a_camera_that_is_lost():
    port = Port()
    device = Device('/dev/video3', port.open, port.pause)
    player = Player(device, loop=False)
    assert (player.playing, player.state) == (False, 'stopped')
    player.play()
    assert player.next() is not None
    assert (player.playing, player.state) == (True, 'playing')
    port.plugged = False
    port.paused.acquire()
    assert player.next() is None
    assert not player.playing
    assert 'gives no pictures' in player.state
    port.plugged = True
    port.go_on.release()
    while player.next() is None:
        pass
    assert player.playing, 'it goes on by itself'
    player.close()


def test_a_player_stops_goes_on_and_starts_again_at_the_end(tmp_path):
    for name in 'ab':
        (tmp_path / f'{name}.jpg').write_bytes(encode_jpeg(picture(ord(name))))
    player = Player(open_source(str(tmp_path)), loop=False)
    player.play()
    seen = [player.next()]
    player.stop()
    player.play()
    seen.append(player.next())
    assert [int(f.image[0, 0, 0]) for f in seen] == [97, 98]
    assert player.next() is None
    assert (player.playing, player.state) == (False, 'stopped')
    player.play()
    assert int(player.next().image[0, 0, 0]) == 97


def test_a_player_that_ends_lets_go_of_a_recording_where_it_stopped(stream):
    def still_open() -> list[str]:
        return [f.path for f in psutil.Process().open_files() if stream in Path(f.path).parents]

    player = Player(open_source(str(stream)), loop=False)
    assert player.next() is not None
    assert still_open()
    player.close()
    assert not still_open()


def test_a_loop_over_pictures_that_are_all_damaged_ends(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(b'no picture')
    player = Player(open_source(str(tmp_path)), loop=True)
    player.play()
    assert player.next() is None
    assert not player.playing


def as_of_humble(file: Path) -> None:
    """Make a recording in sqlite3 one that does not say what its messages are."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute('DROP TABLE message_definitions')
        database.execute('UPDATE schema SET schema_version = 3')
        database.commit()


@pytest.mark.parametrize(
    ('plugin', 'humble'),
    [(StoragePlugin.MCAP, False), (StoragePlugin.SQLITE3, False), (StoragePlugin.SQLITE3, True)],
)
def test_recordings_of_raw_images_play_from_both_storages(tmp_path, plugin, humble):
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
    if humble:
        as_of_humble(tmp_path / 'bag' / 'bag.db3')
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
