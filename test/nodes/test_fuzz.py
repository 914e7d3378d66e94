# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every subscription and service of every node gets extreme values over real DDS; no node ends."""

from __future__ import annotations

import math
import re
import time
import traceback
from typing import Any

from helpers import free_port, Graph, header, image_message
from hypothesis import given, HealthCheck, settings
from hypothesis import strategies as st
import pytest
from rcl_interfaces.srv import ListParameters
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosidl_parser.definition import AbstractString, BasicType, NamespacedType
from sensor_msgs.msg import Image

from etuner_ros.msg import Box, LabelCorrection, LabelReceipt, Objects, Region, Regions
from etuner_ros.nodes.camera import CameraNode
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.messages import PROTOCOL
from etuner_ros.nodes.metrics import MetricsNode
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.nodes.operator import OperatorNode
from etuner_ros.nodes.proposer import ProposerNode
from etuner_ros.nodes.qos import NEWEST_WINS
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
        if isinstance(element, BasicType) and element.typename == 'uint8':
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
    if 'protocol' in fields:  # else no other field would be looked at
        fields['protocol'] = st.sampled_from([PROTOCOL, PROTOCOL, PROTOCOL, 1])
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


def test_boxes_of_all_kinds_end_no_node_and_each_is_answered(ros, deployed, frames):
    boxes = st.lists(message(Region), max_size=4)
    collector = ros.add(LabelCollectorNode, request_period_s=0.0, author_rate_hz=0.0)
    objects = ros.listen(Objects, 'objects')
    receipts = ros.listen(LabelReceipt, 'label_receipts')
    inference = ros.add(
        InferenceNode, autostart=True, keep_rate_hz=1000.0, model__weights=str(deployed)
    )
    ros.until(lambda: inference.diagnostics()['active'], 'inference to be active')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    regions, labels = ros.speak(Regions, 'regions'), ros.speak(LabelCorrection, 'labels')
    image = frames[0].image
    height, width = image.shape[:2]
    good = Region(box=Box(x=20.0, y=20.0, width=60.0, height=60.0), score=0.5)

    def see(found: list[Region]) -> Objects:
        """Show a frame with regions until the robot has named what is in them."""
        count = len(objects)

        def named() -> bool:
            head = header(ros.probe.get_clock().now().nanoseconds)
            images.publish(image_message(image, head))
            regions.publish(Regions(header=head, regions=found))
            return any(o.kept for o in objects[count:])

        ros.until(named, 'objects')
        return next(o for o in objects[count:] if o.kept)

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(boxes)
    def bombard(found: list[Region]) -> None:
        said = see([*found, good])
        for thing in said.objects:
            sides = thing.box.x, thing.box.y, thing.box.width, thing.box.height
            assert all(math.isfinite(v) for v in sides)
            assert thing.box.x + thing.box.width <= width
            assert thing.box.y + thing.box.height <= height
        for region in found:
            count = len(receipts)
            correction = LabelCorrection(
                header=said.header, frame_uid=said.frame_uid, box=region.box, label='cup'
            )
            labels.publish(correction)
            ros.until(lambda n=count: len(receipts) > n, 'a receipt')

    bombard()
    assert {r.code for r in receipts} & {LabelReceipt.INVALID_BOX}
    assert collector._store.check() == ''
    assert see([good]).objects, 'and it goes on'


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
