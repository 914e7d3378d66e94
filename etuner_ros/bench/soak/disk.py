# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The disk is full when a new robot is booted, again in the middle of its work, and when it is booted
then; each time there is room again. A file system of its own, of a few MB, is really full.
"""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import shutil
import subprocess
from typing import Any

from etuner_ros.bench.soak.kills import seen
from etuner_ros.bench.soak.processes import kill_at_once, MARK, processes_with
from etuner_ros.bench.soak.robot import LEARN_LIMIT_S, RESUME_LIMIT_S, Robot
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.msg import LabelReceipt

SIZE_MB = 256
BLOCK = 4096


class SmallDisk:
    """
    A file system of a few MB in memory.

    :param folder: where it is mounted; only processes of this mount namespace see it
    :raises subprocess.CalledProcessError: when this process may not mount
    """

    def __init__(self, folder: Path, size_mb: int = SIZE_MB) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = ['mount', '-t', 'tmpfs', '-o', f'size={size_mb}m', 'tmpfs', str(folder)]
        subprocess.run(command, check=True)
        self.folder, self._ballast = folder, folder / 'ballast'

    def fill(self) -> None:
        """Fill it to the last byte."""
        with self._ballast.open('ab', buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(BLOCK))

    def free(self) -> None:
        """Make room."""
        self._ballast.unlink(missing_ok=True)

    @property
    def is_full(self) -> bool:
        """Whether nothing can be written."""
        return shutil.disk_usage(self.folder).free < BLOCK


def full_at_boot(robot: Robot, disk: SmallDisk, seconds: float) -> list[str]:
    """
    Boot on a full disk, then make room.

    :return: what was not as promised, in words
    """
    disk.fill()
    robot.start()
    robot.go_on(seconds)
    broken = [] if disk.is_full else ['the disk was not full at boot']
    disk.free()
    if not robot.works(RESUME_LIMIT_S):
        robot.result.not_resumed += 1
    return broken


def full_at_work(robot: Robot, disk: SmallDisk, seconds: float) -> list[str]:
    """
    Fill the disk while the robot learns; cut the power meanwhile; then make room.

    :return: what was not as promised, in words
    """
    broken = []
    restarts, receipts = robot.supervisor.restarts, len(robot.receipts)
    predictions = robot.result.predictions
    disk.fill()
    refused = lambda: any(r.code == LabelReceipt.DISK_FULL for r in robot.receipts[receipts:])
    robot.until(lambda: disk.fill() or refused(), max(seconds, RESUME_LIMIT_S))  # type: ignore[func-returns-value]
    if not refused():
        broken.append('no receipt said that the disk is full')
    robot.go_on(seconds)
    if robot.result.predictions <= predictions:
        broken.append('nothing was predicted on a full disk')
    if robot.supervisor.restarts > restarts:
        broken.append(f'{robot.supervisor.restarts - restarts} nodes died of a full disk')
    disk.fill()
    kill_at_once(list(processes_with(f'{MARK}={robot.ros_home}')))
    robot.go_on(seconds)
    disk.free()
    seen(robot, robot.last_prediction)
    if not robot.works(RESUME_LIMIT_S):
        robot.result.not_resumed += 1
    return broken


def disk(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Fill the disk; runs in a mount namespace where it may mount."""
    home = stage.folder / 'disk'
    os.environ.pop('ETUNER_GRAPHS', None)  # they lie on the full disk, too
    small = SmallDisk(home / 'ros')
    robot = Robot(stage.pictures(), stage.base, home)
    broken: list[str] = []
    try:
        broken += full_at_boot(robot, small, plan.fault_s)
        if not robot.until(lambda: max(robot.versions, default=0) > 0, LEARN_LIMIT_S):
            broken.append('nothing was learned after there was room')
        broken += full_at_work(robot, small, plan.fault_s)
    finally:
        result = robot.verify()
    full = sum(r.code == LabelReceipt.DISK_FULL for r in robot.receipts)
    return {
        **result.as_dict(),
        'labels_refused_disk_full': full,
        'disk_mb': SIZE_MB,
        'broken': [*result.broken, *broken],
    }
