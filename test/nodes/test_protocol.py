# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of another release of this package are refused in words, and change nothing."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import pytest
from rclpy.serialization import serialize_message
from test_fuzz import EVERYBODY, made

from etuner_ros.msg import Backbone, LayerStates, ModelUpdate, ModelVerdict
from etuner_ros.nodes import health
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.messages import PROTOCOL
from etuner_ros.nodes.qos import LATCHED
from etuner_ros.nodes.tuner import TunerNode

WORDS = f'speaks protocol 1 of etuner_ros messages, this node speaks {PROTOCOL}: install the same version'


def numbered(node) -> list[tuple[str, type]]:
    """Return the topics that a node hears whose messages say their protocol."""
    kinds = [(s.topic_name, s.msg_type) for s in node.subscriptions]
    return [(topic, kind) for topic, kind in kinds if hasattr(kind(), 'protocol')]


@pytest.mark.parametrize(
    'name', ['inference', 'label_collector', 'model_manager', 'teacher', 'tuner']
)
def test_another_protocol_is_refused_and_said_once_for_each_topic(ros, deployed, stream, name):
    node = made(ros, name, deployed, stream)
    told = ros.listen(DiagnosticArray, '/diagnostics')
    logs = ros.logs()
    topics = numbered(node)
    assert topics
    publishers = [(ros.speak(kind, topic, EVERYBODY), kind) for topic, kind in topics]

    def words() -> str:
        own = [s.message for m in told[-20:] for s in m.status if f'/{name}: ' in s.name]
        return own[-1] if own else ''

    def all_said() -> bool:
        for publisher, kind in publishers:
            publisher.publish(kind(protocol=1))
        text = words()
        return WORDS in text and all(topic in text for topic, _ in topics)

    ros.until(all_said, 'what is wrong')
    assert '/probe on' in words(), 'who it is'
    if name == 'tuner':
        assert node._worker.update is None
        assert node._worker.layers is None
        assert not node._labels.feed.collectors
    if name == 'model_manager':
        assert node.diagnostics()['refused'] == 0, 'no verdict on what is not understood'
    if name == 'inference':
        assert node._weights.swaps == 0
        assert node._tuner_state == ''
    if name == 'label_collector':
        assert node._diagnostics()['frames kept'] == 0
    if name == 'teacher':
        assert node.state.points() == [], 'nothing is drawn of what the tuner does'

    def said(topic: str) -> int:
        return sum(WORDS in m.msg and topic in m.msg for m in logs)

    ros.until(lambda: all(said(topic) for topic, _ in topics), 'the log')
    assert [said(topic) for topic, _ in topics] == [1] * len(topics)


def test_a_message_of_another_layout_changes_nothing_and_is_said_when_it_can_be_read(
    ros, deployed
):
    """As of 0.1.0, which had no such field: its first bytes are read as the protocol."""
    tuner = ros.add(TunerNode, model__weights=str(deployed))
    told = ros.listen(DiagnosticArray, '/diagnostics')
    layers = ros.speak(LayerStates, 'layers', LATCHED)
    models = ros.speak(ModelUpdate, 'model', LATCHED)
    backbones = ros.speak(Backbone, 'backbone', LATCHED)
    seconds = 1_760_000_123

    def old(message: Any) -> bytes:
        """Without the first field, and what aligns the second."""
        message.header.stamp.sec = seconds
        data = serialize_message(message)
        return data[:4] + data[8:]

    def said() -> bool:
        layers.publish(old(LayerStates(model_version=3)))  # can't be read: it is lost
        models.publish(old(ModelUpdate(version=4, weights=bytes(100), classes=['mug'])))
        backbones.publish(old(Backbone(backbone_sha256='a' * 64, weights=bytes(100))))
        spoken = seconds % 2**16
        text = f'speaks protocol {spoken} of etuner_ros messages, this node speaks {PROTOCOL}'
        return any(text in s.message for m in told[-9:] for s in m.status)

    ros.until(said, 'what is wrong')
    assert tuner._worker.update is None
    assert tuner._worker.layers is None
    assert tuner._worker.backbone is None
    layers.publish(LayerStates(model_version=5))
    ros.until(lambda: tuner._worker.layers, 'a message of this release')
    assert tuner._worker.layers.model_version == 5


def test_a_publisher_of_another_layout_is_told_by_the_hash_of_its_type(ros, monkeypatch):
    """Its messages are lost on the way, without a word of the middleware."""
    hashes = pytest.importorskip('rclpy.type_hash', reason='Humble tells none')
    monkeypatch.setattr(health, 'LAYOUT_S', 0.0)
    node = ros.add(LabelCollectorNode)
    told = ros.listen(DiagnosticArray, '/diagnostics')
    ros.speak(ModelVerdict, 'verdicts')
    look = node.get_publishers_info_by_topic

    def other(topic: str) -> list[Any]:
        found = look(topic)
        for info in found:
            if topic.endswith('verdicts'):
                info.topic_type_hash = hashes.TypeHash(version=1, value=b'0' * 32)
        return found

    def said() -> bool:
        text = '/probe on ' + ros.namespace + '/verdicts has other fields in ModelVerdict messages'
        return any(text in s.message for m in told[-3:] for s in m.status)

    monkeypatch.setattr(node, 'get_publishers_info_by_topic', other)
    ros.until(said, 'what is wrong')
    monkeypatch.setattr(node, 'get_publishers_info_by_topic', look)
    ros.until(lambda: not said(), 'the end of it')
