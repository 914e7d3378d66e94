# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`robot`: four nodes in one process do what they do in processes of their own."""

from __future__ import annotations

import os
from pathlib import Path
import signal
import subprocess
import sys

from helpers import Graph, header, image_message
import numpy as np
from sensor_msgs.msg import Image
import yaml

from etuner_ros.bench.soak.processes import children_of
from etuner_ros.msg import LabelCorrection, LabelReceipt, ModelUpdate, Prediction, TunerStatus
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS


def start(ros: Graph, parameters: Path) -> subprocess.Popen[str]:
    code = 'from etuner_ros.nodes.robot import main; raise SystemExit(main())'
    options = ['--ros-args', '--params-file', str(parameters), '-r', f'__ns:={ros.namespace}']
    return subprocess.Popen(
        [sys.executable, '-c', code, *options],
        env={**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)},
        text=True,
        stderr=subprocess.PIPE,
    )


def command_of(pid: int) -> bytes:
    """Return the command line of a process; nothing when it has ended."""
    try:
        return Path(f'/proc/{pid}/cmdline').read_bytes()
    except OSError:
        return b''


def test_a_correction_is_learned_by_the_nodes_of_one_process_which_ends_in_order(
    ros, deployed, frames, tmp_path
):
    sections = {
        'inference': {'autostart': True, 'source': 'front'},
        'model_manager': {'autostart': True},
        'label_collector': {'source': 'front', 'batch_size': 1},
    }
    parameters = {
        '/**': {'ros__parameters': {'model': {'weights': str(deployed), 'input_size': 64}}},
        **{f'{ros.namespace}/{n}': {'ros__parameters': v} for n, v in sections.items()},
    }
    file = tmp_path / 'robot.yaml'
    file.write_text(yaml.safe_dump(parameters))
    robot = start(ros, file)
    try:
        statuses = ros.listen(TunerStatus, 'tuner/status', LATCHED)
        versions = ros.listen(ModelUpdate, 'model', LATCHED)
        receipts = ros.listen(LabelReceipt, 'label_receipts')
        said = ros.listen(Prediction, 'predictions')
        camera = ros.speak(Image, 'image_raw', NEWEST_WINS)
        labels = ros.speak(LabelCorrection, 'labels')
        ros.until(
            lambda: statuses and statuses[-1].state == TunerStatus.WAITING and versions,
            'the tuner and its worker, which have the weights of the manager',
        )
        picture = np.ascontiguousarray(frames[0].image)

        def kept() -> Prediction | None:
            camera.publish(image_message(picture, header(1_000_000_000 + len(said))))
            return next((p for p in said if p.kept), None)

        seen = ros.until(kept, 'a prediction that is kept')
        assert seen.source == 'front', "the node's own section of the file counts"
        labels.publish(LabelCorrection(header=seen.header, source='front', label='new kind'))
        ros.until(lambda: receipts, 'the receipt')
        assert receipts[0].code == LabelReceipt.ACCEPTED
        ros.until(lambda: 'new kind' in versions[-1].classes, 'the version that knows it')
        ros.until(
            lambda: (kept(), said[-1].model_version >= versions[-1].version)[1], 'its predictions'
        )
        started = children_of(robot.pid)
        assert any(b'etuner_ros.worker' in command_of(pid) for pid in started)
        robot.send_signal(signal.SIGINT)
        _, errors = robot.communicate(timeout=60)
    finally:
        robot.kill()
        robot.wait()
    assert robot.returncode == 0, errors
    assert 'Traceback' not in errors
    ros.until(lambda: not any(map(command_of, started)), 'the end of all that it had started')
