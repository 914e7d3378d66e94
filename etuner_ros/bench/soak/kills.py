# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes are killed at random moments, versions on the disk damaged; the power is cut."""

from __future__ import annotations

from collections import Counter
import os
from pathlib import Path
import random
import time
from typing import Any

from etuner_ros.bench.soak.processes import (
    alive,
    children_of,
    kill_at_once,
    MARK,
    processes_with,
)
from etuner_ros.bench.soak.robot import LEARN_LIMIT_S, NODES, RESUME_LIMIT_S, Robot
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.core.models.store import HEAD_FILE
from etuner_ros.shared.shared_memory import clean, stale_segments

PAUSE_S = 2.0  # between two kills, on average, at least
DAMAGED = 0.7  # share of the kills of the manager after which a file is damaged
SAY_S = 20.0
MOST = 2  # times the kills that are asked for, when there is too little to damage


def damage(folder: Path, rng: random.Random) -> bool:
    """Damage the newest version on the disk in a random way; False when there is none."""
    versions = sorted(folder.glob('*/v*'))
    if not versions:
        return False
    manifest = versions[-1] / 'manifest.json'
    weights = rng.choice([versions[-1] / HEAD_FILE, *sorted(folder.glob('*/backbones/*'))])
    kind = rng.choice(['flip', 'cut', 'manifest', 'live', 'leftover'])
    try:
        if kind == 'flip':
            data = bytearray(weights.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            weights.write_bytes(bytes(data))
        elif kind == 'cut':
            os.truncate(weights, rng.randrange(weights.stat().st_size))
        elif kind == 'manifest':
            os.truncate(manifest, rng.randrange(manifest.stat().st_size))
        elif kind == 'live':
            (versions[-1].parent / 'live').write_bytes(b'\xff')
        else:  # what a crash in the middle of a write leaves
            aside = versions[-1].parent / '.v99999999.tmp'
            aside.mkdir(exist_ok=True)
            (aside / HEAD_FILE).write_bytes(b'half')
    except (OSError, ValueError):
        return False
    return True


class Killer:
    """
    Kills random nodes at random moments, and damages versions.

    :param say: is told how it gets on
    """

    def __init__(self, robot: Robot, seed: int, say: Any = print) -> None:
        self.robot, self._random, self._say = robot, random.Random(seed), say
        self.kills: Counter[str] = Counter()
        self.damaged = 0

    def kill(self, kills: int, damaged: int = 0, minutes: float = 0.0) -> None:
        """
        Kill until all of these are used up.

        :param kills: at least so many, at most twice as many
        :param damaged: files, at least so many
        :param minutes: at least so long
        """
        began, said = time.monotonic(), 0.0
        pause = max(60.0 * minutes / max(kills, 1), PAUSE_S)
        end = began + 60.0 * minutes

        def wanted() -> bool:
            killed = self.kills.total()
            more = self.damaged < damaged and killed < MOST * kills
            return killed < kills or more or time.monotonic() < end

        while wanted():
            self.robot.go_on(self._random.uniform(0.3, 2.0 * pause - 0.3))
            self._kill_one()
            if time.monotonic() - said > SAY_S:
                said = time.monotonic()
                self._say(
                    f'{(said - began) / 60:5.1f} min  {self.kills.total()} kills, '
                    f'{self.damaged} damaged, {len(self.robot.accepted)} labels accepted, '
                    f'version {max(self.robot.versions, default=0)}'
                )
        self.robot.check_works()

    def _kill_one(self) -> None:
        robot, result = self.robot, self.robot.result
        name = self._random.choice(NODES)
        pid = robot.supervisor.pid(name)
        if pid is None:
            return
        children = children_of(pid)
        robot.supervisor.kill(name)
        killed = time.monotonic()
        self.kills[name] += 1
        if name == 'model_manager' and self._random.random() < DAMAGED:
            self.damaged += damage(robot.ros_home / 'etuner' / 'models', self._random)
        if not robot.until(lambda: not any(map(alive, children)), 5.0):
            result.orphans += sum(map(alive, children))
        if name == 'inference':
            seen(robot, killed)


def seen(robot: Robot, killed: float) -> None:
    """
    Note how long it takes until there is a prediction again.

    :param killed: when inference died, in s on the steady clock
    """
    robot.drain()  # what it said before
    before = robot.last_prediction
    if robot.until(lambda: robot.last_prediction > before, RESUME_LIMIT_S):
        robot.result.resume_s.append(robot.last_prediction - killed)
    else:
        robot.result.not_resumed += 1


def kills(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Kill nodes and damage files."""
    before = set(stale_segments(os.getuid()))
    robot = Robot(stage.pictures(), stage.base, stage.folder / 'kills')
    killer = Killer(robot, plan.seed)
    try:
        robot.start_well()
        robot.until(lambda: max(robot.versions, default=0) > 0, LEARN_LIMIT_S)  # to be damaged
        killer.kill(plan.kills, plan.damaged, plan.kill_minutes)
    finally:
        result = robot.verify()
    broken = list(result.broken)
    if killer.damaged < plan.damaged:
        broken.append(f'only {killer.damaged} of {plan.damaged} files were damaged')
    return {
        **result.as_dict(),
        'kills': killer.kills.total(),
        'kills_by_node': dict(killer.kills),
        'damaged_files': killer.damaged,
        'dds_shm_leftover': len(set(stale_segments(os.getuid())) - before),
        'broken': broken,
    }


def cut_power(robot: Robot, cuts: int, seed: int, say: Any = print) -> None:
    """
    End all processes of the robot at once, at random moments; each time it has to work again.

    What a disk loses that is cut off is not tried: the kernel keeps what was written.
    """
    rng, said = random.Random(seed), 0.0
    for number in range(cuts):
        robot.go_on(rng.uniform(0.2, 3.0))
        kill_at_once(list(processes_with(f'{MARK}={robot.ros_home}')))
        cut = time.monotonic()
        robot.until(lambda: not processes_with(f'{MARK}={robot.ros_home}'), 5.0)
        clean(os.getuid())  # as at a boot
        seen(robot, cut)
        robot.check_works()
        if time.monotonic() - said > SAY_S:
            said = time.monotonic()
            say(
                f'{number + 1} power cuts, {len(robot.accepted)} labels accepted, '
                f'version {max(robot.versions, default=0)}'
            )


def power(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Cut the power."""
    robot = Robot(stage.pictures(), stage.base, stage.folder / 'power')
    try:
        robot.start_well()
        cut_power(robot, plan.cuts, plan.seed)
    finally:
        result = robot.verify()
    return {**result.as_dict(), 'power_cuts': plan.cuts, 'broken': result.broken}
