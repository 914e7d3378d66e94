# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`metrics`: the page, read over HTTP, of nodes that are heard over DDS."""

from __future__ import annotations

import re
import socket
import urllib.request

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from helpers import free_port, header, image_message
import numpy as np
from prometheus_client.parser import text_string_to_metric_families
import pytest
from sensor_msgs.msg import Image

from etuner_ros.core.errors import ConfigError
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.metrics import MetricsNode
from etuner_ros.nodes.qos import NEWEST_WINS

# A test behind a proxy must not ask it.
OPEN = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def page(node: MetricsNode) -> dict[tuple[str, str], float]:
    """Read the page as Prometheus does: values by metric and node."""
    with OPEN(f'http://127.0.0.1:{node.settings.port}/metrics', timeout=10) as answer:
        assert answer.headers['Content-Type'].startswith('text/plain; version=')
        text = answer.read().decode()
    samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
    assert all(set(s.labels) == {'namespace', 'node'} for s in samples)
    return {(s.name, s.labels['namespace'] + '/' + s.labels['node']): s.value for s in samples}


def test_frames_that_inference_predicts_are_counted_on_the_page(ros, deployed):
    node = ros.add(MetricsNode, port=free_port())
    inference = ros.add(InferenceNode, model__weights=str(deployed), autostart=True)
    ros.until(lambda: inference.diagnostics()['active'], 'inference to be active')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    name = f'{ros.namespace}/inference'

    def counted() -> dict[tuple[str, str], float]:
        head = header(ros.probe.get_clock().now().nanoseconds)
        images.publish(image_message(np.zeros((64, 64, 3), np.uint8), head))
        found = page(node)
        return found if found.get(('etuner_frames_total', name), 0.0) >= 2 else {}

    found = ros.until(counted, 'frames on the page')
    assert found['etuner_node_up', name] == 1.0
    assert found['etuner_active', name] == 1.0
    assert 0 < found['etuner_latency_seconds', name] < 60
    assert found['etuner_model_version', name] == 0.0
    assert ('etuner_rounds_total', name) not in found
    ros.until(
        lambda: ('etuner_node_up', f'{ros.namespace}/metrics') in page(node), 'its own diagnostics'
    )


def test_hostile_diagnostics_do_not_break_the_page(ros):
    node = ros.add(MetricsNode, port=free_port())
    speaker = ros.speak(DiagnosticArray, '/diagnostics')
    values = [KeyValue(key=f'key {n}', value='1') for n in range(3000)]
    values += [
        KeyValue(key='frames', value='nan'),
        KeyValue(key='latency ms', value='1"} 2\n'),
        KeyValue(key='frames kept', value='5'),
    ]
    evil = DiagnosticStatus(
        name='/x"} 1\netuner_evil 1: etuner', hardware_id='etuner_ros', values=values
    )
    odd = DiagnosticStatus(name='/odd: etuner', hardware_id='etuner_ros', values=values)
    odd.level = b'\xff'
    speaker.publish(DiagnosticArray(status=[evil, odd]))
    ros.until(lambda: ('etuner_node_up', '//odd') in page(node), 'the odd node')
    found = page(node)
    assert found['etuner_frames_kept', '//odd'] == 5.0
    assert ('etuner_frames_total', '//odd') not in found
    assert not [name for name, _ in found if 'evil' in name]


def test_a_port_in_use_is_said_in_one_sentence(ros):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            ros.add(MetricsNode, port=port)
    assert re.fullmatch(
        rf'metrics can not be served on 127\.0\.0\.1:{port} \(Address already in use\); .*',
        str(caught.value),
    )
    with pytest.raises(ConfigError, match='choose another port or host'):
        ros.add(MetricsNode, host='no such host', port=port)


def test_the_port_is_free_again_when_the_node_has_ended(ros):
    port = free_port()
    for _ in range(2):
        node = ros.add(MetricsNode, port=port)
        page(node)
        ros.remove(node)


def test_a_reader_who_says_nothing_does_not_keep_others_waiting(ros):
    node = ros.add(MetricsNode, port=free_port())
    with socket.create_connection(('127.0.0.1', node.settings.port)):
        page(node)
