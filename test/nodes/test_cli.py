# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `etuner` says of a graph: `doctor`, `watch`, and `models` where no robot is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import json
import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

from helpers import Graph, header, image_message
import numpy as np
import pytest
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rich.console import Console
from sensor_msgs.msg import Image

from etuner_ros.cli import doctor
from etuner_ros.cli.doctor import ERROR, OK, SKIPPED
from etuner_ros.cli.main import main as cli
from etuner_ros.cli.remote import panel, Watcher
from etuner_ros.msg import LabelReceipt, Prediction
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.nodes.tuner import TunerNode

LEFT = ['--ros-args', '-r', '__node:=left']


def examined(
    ros: Graph, meanwhile: Callable[[], object] = lambda: None, namespace: str = ''
) -> list[doctor.Finding]:
    """Let the doctor look at the graph of a test."""
    with ThreadPoolExecutor() as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(ros.domain))
        answer = pool.submit(doctor.check_graph, 'image_raw', 1.0, namespace or ros.namespace)

        def done() -> bool:
            meanwhile()
            return answer.done()

        ros.until(done, 'the doctor')
        return answer.result()


def test_qos_that_can_not_match_is_found_in_the_graph(ros):
    ros.probe.create_publisher(Prediction, 'predictions', qos_profile_sensor_data)
    ros.listen(Prediction, 'predictions', 10)
    ros.probe.create_publisher(LabelReceipt, 'label_receipts', 10)
    ros.listen(LabelReceipt, 'label_receipts', qos_profile_sensor_data)
    found = [f for f in examined(ros) if f.check == 'qos']
    assert [f.state for f in found] == [ERROR]
    assert f'{ros.namespace}/predictions' in found[0].text
    assert 'does not reach' in found[0].text


def test_nodes_are_looked_for_in_the_namespace_of_the_robot_by_what_they_serve(ros, deployed):
    model = {'model__weights': str(deployed)}
    away = ros.add(lambda **o: Node('visitor', **{**o, 'namespace': '/elsewhere'}))

    def says(node: Node, state: str, text: str) -> bool:
        found = doctor._check_nodes(node)
        return (found.state, found.text) == (state, text)

    ros.add(LabelCollectorNode)
    ros.add(TunerNode, **model)
    left = ros.add(lambda **o: InferenceNode(cli_args=LEFT, **o), autostart=True, **model)
    ros.until(lambda: left.active, 'inference')
    missing = f'model_manager is missing in {ros.namespace}'
    ros.until(lambda: says(ros.probe, ERROR, missing), missing)
    assert says(away, SKIPPED, f'no node of etuner_ros runs in /elsewhere, but in {ros.namespace}')
    assert doctor._check_nodes(away).advice == f'etuner doctor --namespace {ros.namespace}'
    ros.add(ModelManagerNode, **model)  # not configured, so it serves nothing
    all_of_them = 'left, label_collector, model_manager, tuner'
    ros.until(lambda: says(ros.probe, OK, all_of_them), all_of_them)


def test_a_camera_that_stands_still_is_found_in_the_graph(ros):
    ros.probe.create_publisher(Image, 'image_raw', 1)
    found = {f.check: f for f in examined(ros)}
    assert found['images'].state == ERROR
    assert 'no image came' in found['images'].text


@pytest.mark.parametrize(('late_s', 'state'), [(0.0, OK), (30.0, ERROR)])
def test_clocks_that_are_apart_are_found_in_the_graph(ros, late_s, state):
    images = ros.probe.create_publisher(Image, 'image_raw', 1)
    picture = np.zeros((8, 8, 3), np.uint8)

    def show() -> None:
        images.publish(image_message(picture, header(time.time_ns() - int(late_s * 1e9))))

    found = {f.check: f for f in examined(ros, show)}
    assert found['images'].state == state, found['images'].text


def test_watch_prints_lines_for_programs(ros):
    command = [sys.executable, '-m', 'etuner_ros.cli.main', 'watch', '--json', '--count', '1']
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[0])
    assert facts['labels_accepted'] == 0
    assert facts['label'] is None, 'what was not heard is not made up'


@pytest.mark.parametrize(
    ('share', 'filled'),
    [(0.5, 15), (math.nan, 0), (math.inf, 0), (-math.inf, 0), (-3.0, 0), (7.0, 30)],
)
def test_watch_shows_a_share_that_is_none(share, filled):
    facts = Watcher(SimpleNamespace(create_subscription=lambda *_: None)).facts()
    seen = {'label': 'cup', 'version': 1, 'latency_ms': 2.0, 'confidence': share}
    tuner = {'state': 'tuning', 'reason': '', 'layers_frozen': 1, 'layers_total': 4}
    told = {'rounds': 0, 'tuning_s': 0.0, 'scenario': 0, 'labels_compared': 0, 'progress': share}
    page = Console(width=100, color_system='standard', force_terminal=True)
    with page.capture() as text:
        page.print(panel({**facts, **seen, **tuner, **told}))
    bars = [line for line in text.get().splitlines() if '━' in line]
    green = '\x1b[32m' + '━' * filled
    assert [(green in b or not filled, b.count('━')) for b in bars] == [(True, 30)] * 2


def test_models_without_a_robot_says_so(ros, capsys, monkeypatch):
    monkeypatch.setattr('etuner_ros.cli.remote.ANSWER_S', 0.2)
    assert cli(['models', 'list', '--node', '/nobody']) == 1
    assert 'is not there' in capsys.readouterr().err


@pytest.mark.parametrize(
    'command',
    [
        ('models', 'list', '--node', 'a b'),
        ('watch', '--namespace', 'a b', '--count', '1'),
        ('doctor', '--image-topic', 'a b'),
        ('doctor', '--namespace', 'a b'),
    ],
)
def test_a_name_that_nothing_in_a_graph_can_have_is_said_in_a_line(
    ros, capsys, monkeypatch, command
):
    monkeypatch.setenv('ROS_DOMAIN_ID', str(ros.domain))
    monkeypatch.setattr(doctor, 'CLOCK_S', 0.0)
    assert cli([*command]) == 1
    said = capsys.readouterr().err
    assert said.startswith('etuner: Invalid'), said
    assert 'a b' in said
    assert said.count('\n') == 1


def test_new_heads_cost_their_own_size_on_the_topics_and_on_the_disk(ros, tmp_path):
    command = [sys.executable, '-m', 'etuner_ros.cli.main', 'bench', 'traffic']
    command += ['--heads', '3', '--backbones', '1', '--output', str(tmp_path)]
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / 'traffic.json').read_text())
    heads, backbone = 4 * found['head_bytes'], found['backbone_bytes']
    assert backbone > 10 * heads
    assert heads < found['sent_by_topic']['model'] < 1.1 * heads
    assert backbone < found['sent_by_topic']['backbone'] < 1.01 * backbone
    assert found['written_bytes'] < 1.1 * (heads + backbone)
    assert not list(tmp_path.glob('.traffic*')), 'it leaves nothing behind'
