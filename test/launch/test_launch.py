# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file, with the real `launch` where there is one, and its text anywhere."""

from __future__ import annotations

import ast
import os
from pathlib import Path
import signal
import subprocess

import pytest


def test_every_argument_is_declared_at_the_top_with_a_description(repository):
    tree = ast.parse((repository / 'launch' / 'etuner.launch.py').read_text())
    arguments = next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and n.targets[0].id == 'ARGUMENTS'
    )
    assert {
        'source',
        'model',
        'params_file',
        'namespace',
        'operator',
        'autostart',
    } <= arguments.keys()
    assert all(isinstance(default, str) and len(text) > 10 for default, text in arguments.values())
    used = {
        n.args[0].value
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        and getattr(n.func, 'id', '') == 'LaunchConfiguration'
        and isinstance(n.args[0], ast.Constant)
    }
    assert used <= arguments.keys()
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not names & {'eval', 'exec', 'subprocess'}


def test_the_system_comes_up_in_two_namespaces(ros, deployed, tmp_path):
    pytest.importorskip(
        'launch_ros', reason='ros2 launch is not on this machine (it is not on PyPI)'
    )
    from etuner_ros.msg import TunerStatus
    from etuner_ros.nodes.qos import LATCHED

    environment = {**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)}
    runs = []
    try:
        for name in ('/one', '/two'):
            command = [
                'ros2',
                'launch',
                'etuner_ros',
                'etuner.launch.py',
                f'namespace:={name}',
                f'weights:={deployed}',
            ]
            home = {**environment, 'ROS_HOME': str(Path(tmp_path) / name.strip('/'))}
            runs.append(subprocess.Popen(command, env=home, start_new_session=True))
        heard = {
            name: ros.listen(TunerStatus, f'{name}/tuner/status', LATCHED)
            for name in ('/one', '/two')
        }
        ros.until(
            lambda: all(s and s[-1].state == TunerStatus.WAITING for s in heard.values()),
            'both tuners',
        )
    finally:
        for run in runs:
            os.killpg(run.pid, signal.SIGINT)
            run.wait(30)
