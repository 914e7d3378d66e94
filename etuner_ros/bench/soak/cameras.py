# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Two cameras are unplugged and plugged in again: first one, then the other, then both."""

from __future__ import annotations

from typing import Any

from etuner_ros.bench.soak.robot import RESUME_LIMIT_S, Robot
from etuner_ros.bench.soak.stage import Plan, Stage

CAMERAS = ('front', 'rear')


def unplug(robot: Robot, names: tuple[str, ...], seconds: float) -> list[str]:
    """
    Unplug cameras for some time.

    :return: what was not as promised, in words
    """
    broken = []
    for name in names:
        robot.cameras[name].unplug()
    robot.go_on(1.0)  # what was on its way arrives
    before = {name: camera.predictions for name, camera in robot.cameras.items()}
    robot.go_on(seconds)
    for name, camera in robot.cameras.items():
        if name not in names and camera.predictions == before[name]:
            broken.append(f'{name} was not seen while {" and ".join(names)} was unplugged')
    for name in names:
        robot.cameras[name].plug()
    if not robot.works(RESUME_LIMIT_S):
        robot.result.not_resumed += 1
    return broken


def cameras(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Unplug cameras; whatever is done, no node may die of it."""
    robot = Robot(stage.pictures(), stage.base, stage.folder / 'cameras', cameras=CAMERAS)
    broken: list[str] = []
    try:
        robot.start_well()
        robot.check_works()
        restarts = robot.supervisor.restarts
        for names in ((CAMERAS[0],), (CAMERAS[1],), CAMERAS):
            broken += unplug(robot, names, plan.fault_s)
        if robot.supervisor.restarts > restarts:
            broken.append(f'{robot.supervisor.restarts - restarts} nodes died')
    finally:
        result = robot.verify()
    return {
        **result.as_dict(),
        'predictions_by_camera': {n: c.predictions for n, c in robot.cameras.items()},
        'broken': [*result.broken, *broken],
    }
