# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes are really killed and files really damaged; a short form of `make soak`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import subprocess
import sys

from helpers import new_domain
import pytest

from etuner_ros.bench.soak import kills
from etuner_ros.bench.soak.apart import run_apart, why_not_apart
from etuner_ros.bench.soak.cameras import CAMERAS, unplug
from etuner_ros.bench.soak.kills import cut_power, Killer
from etuner_ros.bench.soak.protocol import intrude
from etuner_ros.bench.soak.robot import LEARN_LIMIT_S, NODES, Robot
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.bench.soak.swaps import SwapRun
from etuner_ros.shared.shared_memory import clean, SHM, stale_segments

pytestmark = pytest.mark.alone


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the processes of a test a domain of their own."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(new_domain()))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


def test_nodes_that_are_killed_come_back_and_nothing_promised_is_lost(
    apart, frames, deployed, tmp_path, monkeypatch
):
    monkeypatch.setattr(kills, 'PAUSE_S', 0.5)
    robot = Robot([(f.image, f.label) for f in frames], deployed, tmp_path / 'home')
    # With this seed each node once; of the manager the newest version is damaged, too.
    killer = Killer(robot, seed=14650, say=lambda _text: None)
    try:
        robot.start_well()
        assert robot.until(lambda: max(robot.versions, default=0) > 0, LEARN_LIMIT_S)
        killer.kill(4)
        cut_power(robot, cuts=1, seed=0, say=lambda _text: None)
    finally:
        result = robot.verify()
    assert killer.kills == dict.fromkeys(NODES, 1)
    assert killer.damaged == 1
    assert result.labels_accepted > 0
    assert any(thing for _, _, thing in robot.accepted), 'things by their box, too'
    assert result.broken == []


def test_cameras_come_back_and_nodes_of_another_version_change_nothing(
    apart, frames, stream, deployed, tmp_path
):
    pictures = [(f.image, f.label) for f in frames]
    robot = Robot(pictures, deployed, tmp_path / 'home', cameras=CAMERAS)
    try:
        robot.start_well()
        assert robot.works()
        assert unplug(robot, CAMERAS[:1], seconds=1.0) == []
        assert unplug(robot, CAMERAS, seconds=1.0) == []
        assert intrude(robot, Stage(deployed, stream, tmp_path), seconds=2.0) == []
    finally:
        result = robot.verify()
    assert all(camera.predictions > 0 for camera in robot.cameras.values())
    assert result.broken == []


@pytest.mark.skipif(bool(why_not_apart()), reason=f'no namespaces here: {why_not_apart()}')
@pytest.mark.parametrize('phase', ['disk', 'radio'])
def test_a_full_disk_and_a_lost_radio_lose_nothing_that_was_accepted(
    phase, stream, deployed, tmp_path
):
    plan = Plan(fault_s=1.0, radio_s=3.0, waiting_labels=20)
    found = run_apart(phase, Stage(deployed, stream, tmp_path), plan)
    assert found['broken'] == []
    assert found['labels_accepted'] > 0


def test_swaps_drop_no_frame_and_mix_no_versions(apart, frames, deployed, tmp_path):
    run = SwapRun(deployed, frames[0].image, tmp_path / 'home', rate=30.0)
    swaps, pictures = 12, 144

    def dropped() -> int:
        """Return how many more frames have no answer with swaps than without."""
        run.without(pictures)
        answered = len(run.heard)
        assert answered > 0
        run.with_swaps(pictures, swaps)
        return answered - len(run.heard)

    try:
        run.start()
        # A camera on a busy machine loses frames, now and then many of them; swaps that lose one
        # each do so every time.
        lost = [dropped()]
        while lost[-1] >= swaps / 2 and len(lost) < 3:
            lost.append(dropped())
        result = run.finish()
    finally:
        run.close()
    assert lost[-1] < swaps / 2, lost
    assert result.swaps == swaps * len(lost)
    assert result.versions_seen >= 10, 'the newest wins when two come at once'
    assert result.mixed_versions == 0


HOLD = """
import mmap, sys
with open(sys.argv[1], 'r+b') as f:
    held = mmap.mmap(f.fileno(), 0)
print('held', flush=True)
sys.stdin.read()
"""


@contextmanager
def files_in_shared_memory(*names: str) -> Iterator[list[Path]]:
    """Make files, and remove what is left of them."""
    paths = [SHM / name for name in names]
    try:
        for path in paths:
            path.write_bytes(b'x' * 4096)
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Have another process map a file; it is killed in the end."""
    command = [sys.executable, '-c', HOLD, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b'held\n'
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(not SHM.is_dir(), reason='no /dev/shm here')
def test_only_segments_that_no_process_maps_are_cleared():
    name = f'fastrtps_test{os.getpid()}'
    with files_in_shared_memory(f'{name}a', f'{name}b', f'somebody{os.getpid()}') as paths:
        stale, used, other = paths
        with held(used):
            assert stale in stale_segments(os.getuid())
            assert stale_segments(os.getuid() + 1) == []
            assert stale in clean(os.getuid())
            assert not stale.exists()
            assert used.exists()
            assert other.exists()


@pytest.mark.skipif(not SHM.is_dir(), reason='no /dev/shm here')
def test_the_lock_of_a_port_that_somebody_still_sends_to_is_not_cleared():
    port = f'fastrtps_port{os.getpid()}'
    with files_in_shared_memory(port, f'{port}_el', f'sem.{port}_mutex') as paths:
        with held(paths[0]):
            clean(os.getuid())
            assert all(path.exists() for path in paths), 'who listens next is not heard'
        assert set(paths) <= set(clean(os.getuid())), 'nobody uses it any more'
