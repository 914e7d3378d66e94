# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo on a short recording, and the supervisor that keeps its nodes running."""

from __future__ import annotations

import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

from etuner_ros.cli.main import main
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.images.sources import Recording, SourceFrame
from etuner_ros.demo.run import empty
from etuner_ros.msg import TunerStatus
from etuner_ros.nodes.qos import LATCHED
from etuner_ros.shared.supervisor import Supervisor

pytestmark = pytest.mark.alone


def write_recording(path: Path, frames: list[SourceFrame], definition: str) -> None:
    """Write frames with their truth, stamps a tenth of a second apart."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg(definition, 'etuner_ros/msg/GroundTruth'))
    types = store.types
    with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        images = writer.add_connection('image', 'sensor_msgs/msg/CompressedImage', typestore=store)
        truths = writer.add_connection('truth', 'etuner_ros/msg/GroundTruth', typestore=store)
        for i, frame in enumerate(frames):
            stamp = types['builtin_interfaces/msg/Time'](sec=1 + i // 10, nanosec=i % 10 * 10**8)
            head = types['std_msgs/msg/Header'](stamp=stamp, frame_id='eye')
            truth = types['etuner_ros/msg/GroundTruth'](
                header=head, label=frame.label, scenario=frame.scenario
            )
            code = np.frombuffer(encode_jpeg(frame.image), np.uint8)
            image = types['sensor_msgs/msg/CompressedImage'](header=head, format='jpeg', data=code)
            writer.write(truths, i * 10**8, store.serialize_cdr(truth, truths.msgtype))
            writer.write(images, i * 10**8, store.serialize_cdr(image, images.msgtype))


@pytest.mark.timeout(300)
def test_the_demo_runs_to_its_end_and_leaves_a_page_with_everything_inside(
    tmp_path, stream, repository
):
    every = list(Recording(stream))
    first = [f for f in every if f.scenario == 'workshop'][:96]
    second = [f for f in every if f.scenario == 'market'][:48]
    write_recording(
        tmp_path / 'short', [*first, *second], (repository / 'msg' / 'GroundTruth.msg').read_text()
    )
    command = [
        sys.executable,
        '-m',
        'etuner_ros.cli.main',
        'demo',
        '--stream',
        str(tmp_path / 'short'),
    ]
    command += ['--output', str(tmp_path / 'out'), '--rate', '20', '--seed', '5']
    done = subprocess.run(command, capture_output=True, text=True, cwd='/')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'on the other half it reaches' in done.stdout
    figures = json.loads((tmp_path / 'out' / 'figures.json').read_text())
    assert [s['scenario'] for s in figures['scores'][0]] == ['workshop', 'market']
    assert figures['runs'][0]['labels'] > 5
    assert figures['deployed_accuracy'] > 0.7
    page = (tmp_path / 'out' / 'index.html').read_text()
    assert page.count('<svg') == 2
    assert page.count('data:image/jpeg;base64,') == 16
    assert 'http' not in page.replace('http://www.w3.org', '').replace(
        'http://purl.org', ''
    ).replace('http://creativecommons.org', '').replace('https://matplotlib.org', '')


def test_the_supervisor_starts_again_what_dies_and_leaves_nothing_behind(
    ros, deployed, tmp_path, monkeypatch
):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(ros.domain))
    params = tmp_path / 'params.yaml'
    params.write_text(f"/**: {{ros__parameters: {{model: {{weights: '{deployed}'}}}}}}\n")
    supervisor = Supervisor([params], tmp_path / 'log', restart_delay_s=0.0)
    try:
        supervisor.start('tuner', ros.namespace)
        statuses = ros.listen(TunerStatus, 'tuner/status', LATCHED)
        ros.until(lambda: statuses, 'the tuner')
        child = supervisor._children[0].process
        os.kill(child.pid, 9)
        child.wait()
        assert supervisor.check() == ['tuner (exit code -9)']
        supervisor.check()
        assert supervisor.restarts == 1
        statuses.clear()
        ros.until(lambda: statuses, 'the tuner that was started again')
        again = supervisor._children[0].process
    finally:
        supervisor.stop()
    assert again.returncode == 0, 'it ended in order'


@pytest.mark.timeout(300)
def test_the_demo_of_things_ends_with_a_robot_that_finds_some_by_their_names(tmp_path):
    command = [sys.executable, '-m', 'etuner_ros.cli.main', 'demo', '--things', '--rate', '20']
    command += ['--gap-s', '0.3', '--output', str(tmp_path / 'out')]
    done = subprocess.run(command, capture_output=True, text=True, cwd='/')
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / 'out' / 'figures.json').read_text())
    assert figures['taps'] > 10
    assert figures['refused'] == 0
    assert len(figures['visits']) == 8
    assert max(visit['right'] for visit in figures['visits']) > 0.1
    page = (tmp_path / 'out' / 'index.html').read_text()
    assert page.count('<svg') == 1
    assert page.count('data:image/jpeg;base64,') >= 3
    empty(tmp_path / 'out')  # as the other demo does
    assert [f.name for f in (tmp_path / 'out').iterdir()] == ['.etuner_demo']
    other = tmp_path / 'mine'
    other.mkdir()
    (other / 'params.yaml').touch()
    command[-1] = str(other)
    done = subprocess.run(command, capture_output=True, text=True, cwd='/')
    assert done.returncode != 0
    assert 'not of an earlier demo' in done.stderr
    assert (other / 'params.yaml').exists(), 'nothing of others is removed'


def test_a_folder_is_emptied_only_where_a_demo_left_its_mark(tmp_path):
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'deployed.safetensors').touch()  # as many a robot's weights are called
    (mine / 'thesis.tex').touch()
    with pytest.raises(EtunerError, match='not of an earlier demo'):
        empty(mine)
    assert len(list(mine.iterdir())) == 2


@pytest.mark.parametrize('things', [[], ['--things']])
@pytest.mark.parametrize('bad', ['none', 'empty', 'damaged', 'without truth', 'inside'])
def test_a_bad_recording_is_one_line_and_the_last_demo_stays(
    tmp_path, repository, monkeypatch, capsys, bad, things
):
    output, stream = tmp_path / 'out', tmp_path / bad
    empty(output)
    (output / 'index.html').touch()
    if bad == 'inside':
        stream = output / 'stream'
        shutil.copytree(repository / 'config' / f'stream{"_things" if things else ""}', stream)
    elif bad == 'without truth':
        frames = [SourceFrame(np.zeros((8, 8, 3), np.uint8))] * 8
        definition = (repository / 'msg' / 'GroundTruth.msg').read_text()
        write_recording(stream, frames, definition)
    elif bad != 'none':
        stream.mkdir()
        if bad == 'damaged':
            (stream / 'metadata.yaml').write_text('x: 1')
    assert main(['demo', '--stream', str(stream), '--output', str(output), *things]) == 1
    said = capsys.readouterr().err
    assert said.startswith('etuner: ')
    assert said.count('\n') == 1
    assert (output / 'index.html').exists()
