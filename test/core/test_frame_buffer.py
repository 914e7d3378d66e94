# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that can still be labelled, whatever their stamps do."""

from __future__ import annotations

import math

import pytest

from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey

SECOND = 10**9


class Clock:
    """Steady time of a test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def frame(stamp_ns: int, source: str = 'camera', uid: int = 0, size: int = 10) -> Frame:
    key = FrameKey(source, stamp_ns, 'eye', uid)
    return Frame(key, bytes(size), 'jpeg', 'mug', 0.5, 0.5, 1)


def test_frames_are_kept_by_age_and_by_bytes(clock):
    buffer = FrameBuffer(max_age_s=10, max_bytes=35, clock=clock)
    for second in (1, 2, 3, 4):
        buffer.add(frame(second * SECOND))
        clock.now += 1.0
    assert len(buffer) == 3
    assert [buffer.forgotten(frame(s * SECOND).key) for s in (1, 2)] == [True, False]
    assert [buffer.made_room(frame(s * SECOND).key) for s in (1, 2)] == [True, False]
    assert [buffer.age_s(frame(s * SECOND).key) for s in (1, 4)] == [math.inf, 1.0]
    clock.now += 8.5
    buffer.add(frame(5 * SECOND))
    assert [f.key.stamp_ns for f in buffer.since(0)] == [4 * SECOND, 5 * SECOND]
    assert [f.key.stamp_ns for f in buffer.since(4)] == [5 * SECOND]
    assert buffer.forgotten(frame(3 * SECOND).key)
    assert not buffer.made_room(frame(3 * SECOND).key), 'it was old'


def test_cameras_that_stamp_with_different_clocks_keep_their_frames(clock):
    buffer = FrameBuffer(max_age_s=120, clock=clock)
    wall, uptime = 1_795_575_000 * SECOND, 5000 * SECOND
    for number in range(100):
        buffer.add(frame(wall + number, 'front'))
        buffer.add(frame(uptime + number, 'rear'))
        buffer.add(frame(0, 'driver without a clock', uid=number + 1))
    assert len(buffer) == 300
    assert not buffer.forgotten(frame(uptime, 'rear').key)


def test_one_wrong_stamp_forgets_no_other_frame(clock):
    buffer = FrameBuffer(max_age_s=120, clock=clock)
    for second in (10, 11, 3611, 12):
        buffer.add(frame(second * SECOND))
    assert len(buffer) == 4


def test_a_recording_that_starts_again_is_not_too_old(clock):
    buffer = FrameBuffer(max_age_s=10, clock=clock)
    buffer.add(frame(1000 * SECOND, uid=1))
    clock.now += 11.0
    buffer.add(frame(1001 * SECOND, uid=2))
    assert buffer.forgotten(frame(999 * SECOND).key)
    buffer.add(frame(999 * SECOND, uid=3))
    assert not buffer.forgotten(frame(998 * SECOND).key), 'the past of another run says nothing'


def test_what_made_room_in_another_run_of_a_recording_says_nothing(clock: Clock) -> None:
    buffer = FrameBuffer(max_bytes=20, clock=clock)
    for second in (1000, 1001, 1002):
        buffer.add(frame(second * SECOND))
    assert buffer.made_room(frame(980 * SECOND).key)
    for second in (990, 991):  # frames of the earlier run make room for them
        buffer.add(frame(second * SECOND))
        assert not buffer.made_room(frame(980 * SECOND).key)
        assert not buffer.forgotten(frame(1001 * SECOND).key), 'it may still come in this run'
    buffer.add(frame(992 * SECOND))
    assert [buffer.made_room(frame(s * SECOND).key) for s in (990, 991)] == [True, False]


def test_a_late_frame_is_no_start_for_long(clock: Clock) -> None:
    buffer = FrameBuffer(max_bytes=20, clock=clock)
    for stamp in (10, 20, 30, 40, 15, 50):
        buffer.add(frame(stamp * SECOND))
    assert list(buffer) == [frame(stamp * SECOND).key for stamp in (15, 50)]
    for stamp in (30, 40):
        assert buffer.forgotten(frame(stamp * SECOND).key)
        assert buffer.made_room(frame(stamp * SECOND).key)


def test_of_frames_that_came_out_of_order_the_latest_tells_what_was_forgotten(
    clock: Clock,
) -> None:
    buffer = FrameBuffer(max_bytes=20, clock=clock)
    for second in (11, 9, 12, 13):
        buffer.add(frame(second * SECOND))
    assert list(buffer) == [frame(second * SECOND).key for second in (12, 13)]
    assert [buffer.made_room(frame(s * SECOND).key) for s in (9, 10, 11, 12)] == [
        True,
        True,
        True,
        False,
    ]
    assert buffer.forgotten(frame(10 * SECOND).key)


def test_a_frame_that_comes_again_takes_its_room_once(clock: Clock) -> None:
    buffer = FrameBuffer(max_bytes=40, clock=clock)
    buffer.add(frame(1))
    for size in (10, 20, 5):
        buffer.add(frame(2, size=size))
        assert buffer.bytes == 10 + size
    assert list(buffer) == [frame(1).key, frame(2).key]


def test_while_no_frame_comes_none_is_forgotten(clock):
    buffer = FrameBuffer(max_age_s=10, clock=clock)
    buffer.add(frame(1))
    clock.now += 3600.0  # a recording is paused
    assert buffer.get(frame(1).key) is not None


def test_where_stamps_repeat_each_picture_has_its_name(clock):
    buffer = FrameBuffer(clock=clock)
    for uid in (11, 12):
        buffer.add(frame(5, uid=uid))
    assert [buffer.get(frame(5, uid=uid).key).key.uid for uid in (11, 12)] == [11, 12]
    assert buffer.get(frame(5, uid=13).key) is None
    assert buffer.get(frame(5).key).key.uid == 12, 'without a name the newest is meant'
    assert buffer.get(frame(6).key) is None


def test_frames_under_request_take_at_most_half_of_the_memory(clock):
    buffer = FrameBuffer(120.0, 10 * len(frame(1).image), clock)
    for number in range(1, 11):
        buffer.add(frame(number))
    buffer.pin([frame(number).key for number in range(1, 11)])
    assert buffer.pinned == {frame(number).key for number in range(6, 11)}, 'the newest'
    for number in range(11, 14):
        buffer.add(frame(number))
        assert frame(number).key in buffer, 'and there is room for what comes'


def test_frames_under_request_are_forgotten_last(clock):
    buffer = FrameBuffer(max_age_s=10.0, max_bytes=50, clock=clock)
    buffer.add(frame(1))
    buffer.pinned = {frame(1).key}
    for second in range(2, 60):
        clock.now += 1.0
        buffer.add(frame(second))
    assert buffer.get(frame(1).key) is not None
    assert buffer.bytes <= 50
    buffer.pinned = set()
    buffer.add(frame(60))
    assert buffer.get(frame(1).key) is None
