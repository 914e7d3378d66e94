# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The SROS2 policy has the form that the tools read, and names what the running nodes use."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from helpers import free_port, Graph
import pytest
from rclpy.node import Node

from etuner_ros.nodes.camera import CameraNode
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.metrics import MetricsNode
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.nodes.operator import OperatorNode
from etuner_ros.nodes.proposer import ProposerNode
from etuner_ros.nodes.teacher import TeacherNode
from etuner_ros.nodes.tuner import TunerNode

NODES = (
    'camera',
    'inference',
    'label_collector',
    'metrics',
    'model_manager',
    'operator',
    'proposer',
    'teacher',
    'tuner',
)
# Elements, what may stand in them, and their attributes, as in the format's schema (version 0.2.0).
FORM = {
    'policy': ({'enclaves'}, {'version'}),
    'enclaves': ({'enclave'}, set()),
    'enclave': ({'profiles'}, {'path'}),
    'profiles': ({'profile'}, set()),
    'profile': ({'topics', 'services', 'actions'}, {'ns', 'node'}),
    'topics': ({'topic'}, {'publish', 'subscribe'}),
    'services': ({'service'}, {'reply', 'request'}),
    'actions': ({'action'}, {'call', 'execute'}),
    'topic': (set(), set()),
    'service': (set(), set()),
    'action': (set(), set()),
}


@pytest.fixture(scope='module')
def policy(repository: Path) -> ElementTree.Element:
    return ElementTree.parse(repository / 'config' / 'sros2_policy.xml').getroot()


def test_the_policy_has_the_form_of_the_schema(policy):
    for element in policy.iter():
        children, attributes = FORM[element.tag]
        assert {child.tag for child in element} <= children
        assert set(element.attrib) <= attributes
        if element.tag in ('topics', 'services', 'actions'):
            assert set(element.attrib.values()) <= {'ALLOW', 'DENY'}
            assert element.attrib
            assert len(element)


def allowed(policy: ElementTree.Element, node: str, kind: str, right: str) -> set[str]:
    profile = next(p for p in policy.iter('profile') if p.get('node') == node)
    found = [g for g in profile.findall(kind) if g.get(right) == 'ALLOW']
    return {full(item.text or '', node) for group in found for item in group}


def full(name: str, node: str) -> str:
    if name.startswith('~/'):
        return f'/{node}/{name[2:]}'
    return name if name.startswith('/') else f'/{name}'


def watched(node: TeacherNode) -> TeacherNode:
    """As while a browser is open."""
    node.watchers = 1
    node._follow_watchers()
    return node


def used(ros: Graph, node: Node, which: str) -> set[str]:
    names = [getattr(e, 'topic_name', None) or e.srv_name for e in getattr(node, which)]
    return {full(n.replace(ros.namespace, ''), node.get_name()) for n in names}


@pytest.mark.parametrize('name', NODES)
def test_every_node_may_do_what_it_does(ros, deployed, stream, policy, name):
    model = {'model__weights': str(deployed)}
    node = {
        'camera': lambda: ros.add(CameraNode, source=str(stream), autoplay=False),
        'inference': lambda: ros.add(InferenceNode, variants__pixels='48', **model),
        'label_collector': lambda: ros.add(LabelCollectorNode),
        'metrics': lambda: ros.add(MetricsNode, port=free_port()),
        'model_manager': lambda: ros.add(ModelManagerNode, **model),
        'operator': lambda: ros.add(OperatorNode),
        'proposer': lambda: ros.add(ProposerNode, kind='own'),
        'teacher': lambda: watched(ros.add(TeacherNode)),
        'tuner': lambda: ros.add(TunerNode, train__unlabelled_weight=0.1, **model),
    }[name]()
    if hasattr(node, 'trigger_configure'):
        ros.until(lambda: node.may_configure, 'the base weights')
        node.trigger_configure()
    pairs = (
        ('publishers', 'topics', 'publish'),
        ('subscriptions', 'topics', 'subscribe'),
        ('services', 'services', 'reply'),
        ('clients', 'services', 'request'),
    )
    for which, kind, right in pairs:
        missing = used(ros, node, which) - allowed(policy, name, kind, right)
        assert not missing, f'{name}: {which} that the policy does not allow'
    if name == 'tuner':
        assert allowed(policy, name, 'actions', 'execute') == {'/tuner/fine_tune'}
