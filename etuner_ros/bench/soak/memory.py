# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Is the memory of a robot that learns level?

Replay, activation cache and head are bounded; at the bounds that are launched they fill up for
hours. Here the bounds are smaller, so that they are reached, and what grows then is a leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import time
from typing import Any

import numpy as np

from etuner_ros.bench.soak.robot import NODES, Robot
from etuner_ros.bench.soak.stage import Plan, Stage

PERIOD_S = 5.0  # between two looks
WINDOW_MINUTES = 3.0  # two of them are compared
MOST_GROWTH = 0.02  # of the medians of two windows, one after the other
LABEL_PERIOD_S = 0.1
ROWS = 40  # in the result
BOUNDS: dict[str, dict[str, Any]] = {
    '/**/tuner': {
        # An eighth and a sixteenth of what is launched; a third of the labels for the head.
        'train': {'replay_mb': 8.0, 'cache_mb': 16.0},
        'head': {'max_samples': 1000},
    },
}


@dataclass(frozen=True)
class Look:
    """The memory of all nodes at one time."""

    minutes: float
    mb: dict[str, float]


def grown(looks: Sequence[Look], name: str, window_minutes: float = WINDOW_MINUTES) -> float:
    """
    Return by which share the memory of a process has grown from one window to the next, the last.

    The medians count: rounds take more for a moment. Infinite until there are two windows.
    """
    now = looks[-1].minutes if looks else 0.0
    if now < 2 * window_minutes:
        return float('inf')
    last = [x.mb[name] for x in looks if x.minutes > now - window_minutes and name in x.mb]
    before = [
        x.mb[name]
        for x in looks
        if now - 2 * window_minutes < x.minutes <= now - window_minutes and name in x.mb
    ]
    if not last or not before:
        return float('inf')
    return float(np.median(last) / np.median(before)) - 1.0


def by_thirds(looks: Sequence[Look]) -> dict[str, list[float]]:
    """Return the median memory of each process in each third of the time, in MB."""
    names = dict.fromkeys(name for look in looks for name in look.mb)
    found = {}
    for name in names:
        thirds = np.array_split([look.mb[name] for look in looks if name in look.mb], 3)
        found[name] = [round(float(np.median(t)), 1) for t in thirds if len(t)]
    return found


def leave_alone(robot: Robot, most_minutes: float, say: Any = print) -> list[Look]:
    """Let the robot see, learn and swap until its worker's memory is level."""
    began, looks = time.monotonic(), list[Look]()
    while True:
        passed = (time.monotonic() - began) / 60
        looks.append(Look(round(passed, 2), robot.memory_mb()))
        if len(looks) % 6 == 1:
            said = looks[-1].mb
            say(f'{passed:5.1f} min  version {max(robot.versions, default=0)}, MB: {said}')
        if abs(grown(looks, 'worker')) <= MOST_GROWTH or passed >= most_minutes:
            return looks
        robot.go_on(min(PERIOD_S, 60.0 * (most_minutes - passed) + 0.1))


def memory(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Let a robot learn in peace; look at its memory."""
    robot = Robot(stage.pictures(), stage.base, stage.folder / 'memory', values=BOUNDS)
    robot.label_period_s = LABEL_PERIOD_S
    looks: list[Look] = []
    try:
        robot.start_well()
        looks = leave_alone(robot, plan.calm_minutes)
        robot.check_works()
    finally:
        result = robot.verify()
    growth = {name: grown(looks, name) for name in (*NODES, 'worker')}
    level = abs(growth['worker']) <= MOST_GROWTH
    broken = [] if level else ['the memory of the worker is not level']
    return {
        **result.as_dict(),
        'memory_level': level,
        'memory_growth': {k: round(v, 4) if np.isfinite(v) else None for k, v in growth.items()},
        'memory_growth_bound': MOST_GROWTH,
        'window_minutes': WINDOW_MINUTES,
        'bounds': BOUNDS,
        'memory_by_thirds_mb': by_thirds(looks),
        'memory_mb': [
            {'minutes': x.minutes, **x.mb} for x in looks[:: max(1, len(looks) // ROWS)]
        ],
        'broken': [*result.broken, *broken],
    }
