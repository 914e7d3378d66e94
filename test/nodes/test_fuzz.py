# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every subscription and service of every node gets extreme values over real DDS; no node ends."""

from __future__ import annotations

import re
import time
import traceback
from typing import Any

from helpers import free_port, Graph
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import pytest
from rcl_interfaces.srv import ListParameters
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosidl_parser.definition import AbstractString, BasicType, NamespacedType

from etuner_ros.nodes.camera import CameraNode
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.metrics import MetricsNode
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.nodes.operator import OperatorNode
from etuner_ros.nodes.proposer import ProposerNode
from etuner_ros.nodes.running import SteadyExecutor
from etuner_ros.nodes.teacher import TeacherNode
from etuner_ros.nodes.tuner import TunerNode

EVERYBODY = QoSProfile(
    depth=50, durability=DurabilityPolicy.TRANSIENT_LOCAL
)  # whatever is asked for
FLOATS = st.sampled_from([0.0, -1.0, 1e38, -1e38, float('nan'), float('inf'), -float('inf')])
TEXT = st.one_of(
    st.sampled_from(['', ' ', 'mug', '*', '../..', '\x07', 'ä' * 70, 'x' * 5000, 'rgb8', 'bgr8']),
    st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=20),
)
BYTES = st.one_of(st.binary(max_size=40), st.just(b'\xff\xd8\xff'), st.just(bytes(30_000)))


class Strict(SteadyExecutor):
    """The executor of the executables, which also tells when a callback of ours has raised."""

    def failed(self, error: Exception) -> None:
        super().failed(error)
        files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
        ours = [f for f in files if '/etuner_ros/nodes/' in f and not f.endswith('running.py')]
        assert not ours, traceback.format_exception(error)


def integers(name: str) -> st.SearchStrategy[int]:
    bits = int(re.search(r'\d+', name)[0])
    low, high = (
        (0, 2**bits - 1) if name.startswith('u') else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )
    return st.sampled_from([low, high, low + 1, 0, 1, 3])


def value(kind: Any) -> st.SearchStrategy[Any]:
    """Return values of a field's type, extremes first."""
    element = getattr(kind, 'value_type', None)
    if element is not None:
        if isinstance(element, BasicType) and element.typename in ('uint8', 'octet'):
            return BYTES
        return st.lists(value(element), max_size=4)
    if isinstance(kind, AbstractString):
        return TEXT
    if isinstance(kind, NamespacedType):
        module = __import__('.'.join(kind.namespaces), fromlist=[kind.name])
        return message(getattr(module, kind.name))
    if kind.typename == 'boolean':
        return st.booleans()
    if kind.typename == 'octet':
        return st.binary(min_size=1, max_size=1)
    return FLOATS if kind.typename in ('float', 'double') else integers(kind.typename)


def message(kind: Any) -> st.SearchStrategy[Any]:
    names = [s.lstrip('_') for s in kind.__slots__ if s != '_check_fields']
    fields = dict(zip(names, (value(t) for t in kind.SLOT_TYPES)))
    return st.builds(kind, **fields)


def made(ros: Graph, name: str, deployed: Any, stream: Any) -> Node:
    model = {'model__weights': str(deployed)}
    if name == 'camera':
        return ros.add(CameraNode, source=str(stream), autoplay=False)
    if name == 'label_collector':
        return ros.add(LabelCollectorNode, join_wait_s=0.05)
    if name == 'metrics':
        return ros.add(MetricsNode, port=free_port())
    if name == 'operator':
        return ros.add(OperatorNode)
    if name == 'proposer':
        return ros.add(ProposerNode, kind='own')
    if name == 'teacher':
        node = ros.add(TeacherNode)
        node.watchers = 1  # as while a browser is open
        node._follow_watchers()
        return node
    if name == 'tuner':
        return ros.add(TunerNode, train__unlabelled_weight=0.1, **model)
    kind = InferenceNode if name == 'inference' else ModelManagerNode
    node = ros.add(kind, autostart=True, **model)
    ros.until(lambda: node.diagnostics()['active'], f'{name} to be active')
    return node


@pytest.mark.parametrize(
    'name',
    [
        'camera',
        'inference',
        'label_collector',
        'metrics',
        'model_manager',
        'operator',
        'proposer',
        'teacher',
        'tuner',
    ],
)
def test_no_message_and_no_call_ends_a_node(ros, deployed, stream, name):
    node = made(ros, name, deployed, stream)
    topics = [(s.topic_name, s.msg_type) for s in node.subscriptions]
    publishers = [(ros.speak(kind, topic, EVERYBODY), message(kind)) for topic, kind in topics]
    services = [
        (ros.probe.create_client(s.srv_type, s.srv_name.replace('~', node.get_name())), s.srv_type)
        for s in node.services
        if s.srv_type.__module__.startswith(('etuner_ros', 'std_srvs', 'rcl_interfaces'))
    ]
    for client, _ in services:
        ros.until(client.service_is_ready, client.srv_name)

    ros.executor.remove_node(node)
    steady = Strict(context=ros.context)
    steady.add_node(node)

    def wait(done: Any, what: str) -> None:
        end = time.monotonic() + 20.0
        while not done() and time.monotonic() < end:
            steady.spin_once(timeout_sec=0.0)
            ros.executor.spin_once(timeout_sec=0.0)
        assert done(), what

    @settings(max_examples=25, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def bombard(data: st.DataObject) -> None:
        for publisher, messages in publishers:
            publisher.publish(data.draw(messages))
        for client, kind in services:
            future = client.call_async(data.draw(message(kind.Request)))
            if kind.__module__.startswith('rcl_interfaces'):
                continue  # rclpy's own, which leave some calls without an answer
            wait(future.done, f'an answer of {client.srv_name}')
            assert future.result() is not None
        for _ in range(20):
            steady.spin_once(timeout_sec=0.0)

    bombard()
    steady.remove_node(node)
    ros.executor.add_node(node)
    answer = ros.call(ListParameters, f'{ros.namespace}/{node.get_name()}/list_parameters')
    assert answer.result.names
    if name == 'model_manager':
        assert node.diagnostics()['live version'] == 0, 'noise never goes live'
    if name == 'label_collector':
        assert node._store.last_batch() == 0, 'noise is no label'


def test_a_callback_that_raises_does_not_end_a_node(ros):
    node = Node('odd', context=ros.context, namespace=ros.namespace)
    steady, calls = SteadyExecutor(context=ros.context), []

    def odd() -> None:
        calls.append(len(calls))
        raise ValueError('odd')

    node.create_timer(0.01, odd)
    steady.add_node(node)
    end = time.monotonic() + 20.0
    while len(calls) < 3 and time.monotonic() < end:
        steady.spin_once(timeout_sec=0.1)
    assert len(calls) >= 3
    steady.shutdown()
    node.destroy_node()
