# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which frames are kept, what is done beside the hot path, and how old images are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from etuner_ros.core.images.age import ImageAge
from etuner_ros.core.images.annotate import shrunk
from etuner_ros.core.images.frame_keeper import FrameKeeper
from etuner_ros.core.images.side_thread import SideThread
from etuner_ros.core.niceness import NICENESS


class Slow:
    """Work that waits until it may go on."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.done: list[int] = []

    def __call__(self, job: int) -> None:
        self.begun.set()
        self.go_on.wait()
        self.done.append(job)


def test_those_who_give_jobs_never_wait_and_the_newest_wins():
    slow = Slow()
    side = SideThread('test', slow, pytest.fail, most=1)
    side.give(0)
    slow.begun.wait()
    for job in (1, 2, 3):
        side.give(job)
    slow.go_on.set()
    side.close()
    assert slow.done == [0, 3]


def test_a_job_that_fails_is_told_and_the_next_one_is_done():
    done, failures = [], []
    side = SideThread('test', lambda job: done.append(1 // job), failures.append, most=3)
    for job in (0, 1):
        side.give(job)
    side.close()
    assert done == [1]
    assert [type(f) for f in failures] == [ZeroDivisionError]


class Clock:
    """Time that stands until it is moved."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def wanted(keeper: FrameKeeper, clock: Clock, count: int, gap_s: float, rate_hz: float) -> int:
    total = 0
    for _ in range(count):
        total += keeper.wants(rate_hz)
        clock.now += gap_s
    return total


@pytest.mark.parametrize(('rate', 'expected'), [(0.0, 0), (10.0, 100), (30.0, 300), (1000.0, 300)])
def test_so_many_frames_a_second_are_kept(rate, expected):
    clock = Clock()
    keeper = FrameKeeper(lambda _: None, pytest.fail, clock)
    assert wanted(keeper, clock, 300, 1 / 30, rate) == pytest.approx(expected, abs=2)
    keeper.close()


@pytest.mark.parametrize('shift', range(6))
@pytest.mark.parametrize(
    ('rate', 'every', 'share'), [(10.0, 6, 1.0), (2.0, 6, 0.2), (10.0, 1, 0.3)]
)
def test_what_a_detector_looked_at_is_kept_first_and_no_more_in_all(rate, every, share, shift):
    clock = Clock()
    keeper = FrameKeeper(lambda _: None, pytest.fail, clock)
    kept: set[int] = set()
    at_once = 0
    for i in range(300):  # of 30 a second; the detector is 3 frames late
        if keeper.wants(rate):
            kept.add(i)
            at_once += 1
        looked_at = i - 3
        if (
            looked_at % every == shift % every
            and looked_at not in kept
            and keeper.wants_after_all(rate)
        ):
            kept.add(looked_at)
        clock.now += 1 / 30
    keeper.close()
    assert len(kept) <= 10 * rate + 3
    assert at_once >= 10 * rate / 3 - 1, 'nobody is left without frames that come at once'
    looked_at = set(range(shift % every, 297, every))
    assert len(kept & looked_at) >= share * len(looked_at) - 1


def test_a_rate_that_is_raised_counts_at_once():
    clock = Clock()
    keeper = FrameKeeper(lambda _: None, pytest.fail, clock)
    assert keeper.wants(0.01)
    clock.now += 1.0
    assert not keeper.wants(0.01)
    assert wanted(keeper, clock, 60, 1 / 30, 10.0) >= 15
    keeper.close()


def test_where_nothing_is_to_be_kept_nothing_is_kept_after_all():
    keeper = FrameKeeper(lambda _: None, pytest.fail, Clock())
    assert not keeper.wants_after_all(0.0)
    keeper.close()


def test_a_camera_that_is_not_punctual_loses_no_kept_frame():
    clock, rng = Clock(), np.random.default_rng(0)
    keeper = FrameKeeper(lambda _: None, pytest.fail, clock)
    kept = 0
    for i in range(300):
        clock.now = 100.0 + (i + rng.uniform(-0.2, 0.2)) / 30
        kept += keeper.wants(10.0)
    assert 95 <= kept <= 101
    keeper.close()


def test_after_a_pause_no_more_frames_a_second_are_kept_than_before():
    clock = Clock()
    keeper = FrameKeeper(lambda _: None, pytest.fail, clock)
    assert wanted(keeper, clock, 30, 1 / 30, 5.0) == pytest.approx(5, abs=1)
    clock.now += 60.0
    assert wanted(keeper, clock, 30, 1 / 30, 5.0) == pytest.approx(5, abs=1)
    keeper.close()


def test_a_camera_whose_frames_fit_no_period_has_as_many_kept_as_were_asked_for():
    clock = Clock()
    keeper = FrameKeeper(lambda _: None, pytest.fail, clock)
    assert wanted(keeper, clock, 300, 1 / 30, 20.0) == pytest.approx(200, abs=2)
    keeper.close()


def test_while_too_many_wait_for_their_encoding_none_is_kept():
    slow, clock = Slow(), Clock()
    keeper = FrameKeeper(slow, pytest.fail, clock, most=2)
    for number in range(3):
        clock.now += 1.0
        assert keeper.wants(10.0)
        keeper.keep(number)
        slow.begun.wait()
    clock.now += 1.0
    assert not keeper.wants(10.0)
    slow.go_on.set()
    keeper.close()
    assert slow.done == [0, 1, 2], 'what was said to be kept is kept, also at the end'


def test_images_from_another_time_are_told_and_a_late_one_is_not():
    age = ImageAge()
    for _ in range(5):
        age.note(10 * 10**9, 10 * 10**9 + 3 * 10**7)
    age.note(10 * 10**9, 20 * 10**9)
    assert not age.why_wrong()
    for _ in range(30):
        age.note(10 * 10**9, 17 * 10**9)
    assert '7.0 s old' in age.why_wrong()
    ahead = ImageAge()
    for _ in range(30):
        ahead.note(10 * 10**9, 5 * 10**9)
    assert '5.0 s ahead' in ahead.why_wrong()


def test_before_the_clock_runs_no_image_is_of_another_time():
    age = ImageAge()
    age.note(1_800_000_000 * 10**9, 0)
    assert not age.why_wrong()
    assert age.seconds == 0.0


def test_an_image_is_shrunk_and_never_enlarged():
    image = np.zeros((1080, 1920, 3), np.uint8)
    assert shrunk(image, 640).shape == (360, 640, 3)
    assert shrunk(image, 0) is image
    assert shrunk(image, 4000) is image
    assert shrunk(np.zeros((1, 2000, 3), np.uint8), 10).shape == (1, 10, 3)


@pytest.mark.skipif(sys.platform != 'linux', reason='threads have no niceness of their own')
def test_what_is_done_beside_lets_those_who_give_jobs_go_first():
    found: list[int] = []

    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    side = SideThread[int]('test', lambda _: found.append(niceness()), pytest.fail, most=1)
    side.give(0)
    side.close()
    assert found[0] == min(niceness() + NICENESS, 19)


def test_where_the_system_forbids_to_step_back_jobs_are_done_all_the_same(monkeypatch):
    def forbid(*_: object) -> None:
        raise PermissionError('not in this container')

    monkeypatch.setattr(os, 'setpriority', forbid)
    done: list[int] = []
    side = SideThread('test', done.append, pytest.fail, most=1)
    side.give(0)
    side.close()
    assert done == [0]


# In a process of its own: in this one, OpenCV's threads are there.
FIRST_TO_NEED_THEM = """
import os
import threading
import cv2
import numpy as np
from etuner_ros.core.images.side_thread import SideThread

def threads():
    return set(map(int, os.listdir('/proc/self/task')))

def work(size):
    cv2.cvtColor(np.zeros((size, size, 3), np.uint8), cv2.COLOR_RGB2BGR)
    started = threads() - there - {threading.get_native_id()}
    assert len(started) == 3, started
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in started} == {own}

def failed(error):
    print(repr(error), flush=True)
    os._exit(1)

cv2.setNumThreads(4)
own, there = os.getpriority(os.PRIO_PROCESS, 0), threads()
side = SideThread('test', work, failed, 1)
side.give(2000)
side.close()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='threads have no niceness of their own')
@pytest.mark.skipif(
    not re.search('Parallel framework: +pthreads', cv2.getBuildInformation()),
    reason='this OpenCV has threads of another library, which starts them as it likes',
)
def test_threads_of_opencv_that_work_for_all_do_not_step_back():
    subprocess.run([sys.executable, '-c', FIRST_TO_NEED_THEM], check=True, timeout=60)
