# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How long the lifecycle transitions take under an external manager."""

from __future__ import annotations

from pathlib import Path
import time
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState

from etuner_ros.bench.soak.robot import Outside
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.core.errors import EtunerError

MANAGED = ('model_manager', 'inference')
TRANSITIONS = {
    'configure': Transition.TRANSITION_CONFIGURE,
    'activate': Transition.TRANSITION_ACTIVATE,
    'deactivate': Transition.TRANSITION_DEACTIVATE,
    'cleanup': Transition.TRANSITION_CLEANUP,
}


def time_transitions(base: Path, home: Path) -> dict[str, dict[str, float]]:
    """Return how long each lifecycle transition takes under an external manager, in s."""
    by_hand = {f'/**/{name}': {'autostart': False} for name in MANAGED}
    outside = Outside(base, home, by_hand)
    found: dict[str, dict[str, float]] = {}
    try:
        for name in MANAGED:
            outside.supervisor.start(name)
            client = outside.node.create_client(ChangeState, f'{name}/change_state')
            while not client.wait_for_service(1.0):
                outside.supervisor.check()
            time.sleep(1.0)  # the base weights are looked for
            found[name] = {}
            for label, number in TRANSITIONS.items():
                request = ChangeState.Request()
                request.transition.id = number
                began = time.monotonic()
                future = client.call_async(request)
                outside.executor.spin_until_future_complete(future, timeout_sec=30.0)
                answer = future.result()
                if answer is None or not answer.success:
                    raise EtunerError(f'{name} does not {label}; see {home / "log"}')
                found[name][label] = round(time.monotonic() - began, 3)
    finally:
        outside.close()
    return found


def transitions(stage: Stage, _plan: Plan) -> dict[str, Any]:
    """Time all transitions."""
    found = time_transitions(stage.base, stage.folder / 'transitions')
    return {'transitions_s': found, 'broken': []}
