# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes are really killed and files really damaged; a short form of `make soak`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from etuner_ros.bench.soak import kill_nodes, NODES, Robot, swap_weights, verify
from etuner_ros.shared.shared_memory import clean, SHM, stale_segments


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the processes of a test a domain of their own."""
    monkeypatch.setenv('ROS_DOMAIN_ID', str(1 + os.getpid() % 90))
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')


def test_nodes_that_are_killed_come_back_and_nothing_promised_is_lost(
    apart, frames, deployed, tmp_path
):
    pictures = [(f.image, f.label) for f in frames]
    robot = Robot(pictures, deployed, tmp_path / 'home', rate=10.0)
    robot.start()
    try:
        # With this seed each node once; of the manager the newest version is damaged, too.
        kill_nodes(robot, kills=4, minutes=0.0, seed=14650, say=lambda _text: None)
    finally:
        verify(robot, deployed)
    result = robot.result
    assert result.kills_by_node == dict.fromkeys(NODES, 1)
    assert result.labels_accepted > 0
    assert any(thing for _, _, thing in robot.accepted), 'things by their box, too'
    assert result.labels_lost == 0
    assert result.stores_unloadable == 0
    assert result.orphans == 0
    assert result.not_resumed == 0
    assert result.temporary_files == 0


def test_swaps_drop_no_frame_and_mix_no_versions(apart, frames, deployed, tmp_path):
    result = swap_weights(deployed, frames[0].image, tmp_path / 'home', swaps=12, every=12)
    assert result.swaps == 12
    assert result.versions_seen >= 10, 'the newest wins when two come at once'
    assert result.mixed_versions == 0
    assert result.answered_without > 0
    # A camera on a busy machine loses a frame now and then; swaps must not lose one each.
    assert result.frames_dropped_by_swaps < result.swaps / 2


HOLD = """
import mmap, sys
with open(sys.argv[1], 'r+b') as f:
    held = mmap.mmap(f.fileno(), 0)
print('held', flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not SHM.is_dir(), reason='no /dev/shm here')
def test_only_segments_that_no_process_maps_are_cleared():
    stale, used = (SHM / f'fastrtps_test{os.getpid()}{n}' for n in ('a', 'b'))
    other = SHM / f'somebody{os.getpid()}'
    for path in (stale, used, other):
        path.write_bytes(b'x' * 4096)
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b'held\n'
        assert stale in stale_segments(os.getuid())
        assert stale_segments(os.getuid() + 1) == []
        removed = clean(os.getuid())
        assert stale in removed
        assert not stale.exists()
        assert used.exists()
        assert other.exists()
    finally:
        process.kill()
        process.wait()
        for path in (stale, used, other):
            path.unlink(missing_ok=True)
