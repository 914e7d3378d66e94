# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Runs a phase in a process of its own and, where the machine allows it, in namespaces of its own: a
network that nobody else is on, and a place to mount.
"""

from __future__ import annotations

from functools import lru_cache
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
from typing import Any

from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.processes import die_with_parent

NAMESPACES = ('unshare', '--user', '--map-root-user', '--mount', '--net')
STDERR = 2  # not sys.stderr, which need not be a file
TRY = 'mount -t tmpfs tmpfs /mnt && ip link set lo up && ip link add try0 type veth peer name try1'


@lru_cache(maxsize=1)
def why_not_apart() -> str:
    """Return why there are no namespaces here; empty when there are."""
    missing = [tool for tool in ('unshare', 'nsenter', 'mount', 'ip') if not shutil.which(tool)]
    if missing:
        return f'not installed: {", ".join(missing)} (packages util-linux, mount, iproute2)'
    tried = subprocess.run([*NAMESPACES, 'sh', '-c', TRY], capture_output=True, text=True)
    return '' if tried.returncode == 0 else tried.stderr.strip() or 'unshare failed'


def run_apart(name: str, stage: Stage, plan: Plan) -> dict[str, Any]:
    """
    Run a phase.

    :raises EtunerError: when it ends with an error
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    answer = stage.folder / f'{name}.json'
    arguments = {
        'phase': name,
        'base': str(stage.base),
        'stream': str(stage.stream),
        'folder': str(stage.folder),
        'answer': str(answer),
        'plan': plan.as_dict(),
    }
    command = [sys.executable, '-m', 'etuner_ros.bench.soak', json.dumps(arguments)]
    environment = dict(os.environ)
    if not why_not_apart():
        # Nobody else is on this network; the radio is a network, not this machine alone.
        environment['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'SUBNET'
        shell = 'ip link set lo up && mount -t tmpfs tmpfs /dev/shm && exec "$@"'
        command = [*NAMESPACES, 'sh', '-c', shell, 'sh', *command]
    # What it says on the way is no answer, so it goes where `--json` has none.
    done = subprocess.run(command, env=environment, preexec_fn=die_with_parent, stdout=STDERR)
    if done.returncode or not answer.exists():
        raise EtunerError(f'phase {name} ended with exit code {done.returncode}')
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def stage_of(arguments: dict[str, Any]) -> tuple[Stage, Plan]:
    """Return what `run_apart` has told."""
    paths = (Path(arguments[key]) for key in ('base', 'stream', 'folder'))
    return Stage(*paths), Plan(**arguments['plan'])
