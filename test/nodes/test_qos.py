# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`qos_overrides` in a params file adapt topics to publishers and subscribers of other QoS."""

from __future__ import annotations

from pathlib import Path
import re
from typing import Any

from helpers import Graph, header, image_message, jpeg_message
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import Image

from etuner_ros.cli.doctor import _check_qos, OK
from etuner_ros.core.errors import ConfigError
from etuner_ros.msg import LabelCorrection, LabelReceipt, PredictedFrame, Prediction
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.operator import OperatorNode
from etuner_ros.nodes.qos import NEWEST_WINS, reliable
from etuner_ros.nodes.teacher import TeacherNode
from etuner_ros.nodes.tuner import TunerNode

PICTURE = np.zeros((8, 8, 3), np.uint8)


def add(ros: Graph, kind: Any, folder: Path, overrides: dict[str, str | int], **more: Any) -> Any:
    """Add a node with overrides from a params file; keys leave out `qos_overrides.<namespace>/`."""
    lines = [f'    qos_overrides.{ros.namespace}/{k}: {v}' for k, v in overrides.items()]
    file = folder / 'qos.yaml'
    file.write_text('\n'.join(['/**:', '  ros__parameters:', *lines, '']))
    options = ['--ros-args', '--params-file', str(file)]
    return ros.add(lambda **o: kind(cli_args=options, **o), **more)


def test_labels_of_a_best_effort_publisher_come_through_when_the_params_file_says_so(
    ros, tmp_path
):
    add(
        ros,
        LabelCollectorNode,
        tmp_path,
        {'labels.subscription.reliability': 'best_effort', 'labels.subscription.depth': 7},
        request_period_s=0.0,
    )
    receipts = ros.listen(LabelReceipt, 'label_receipts')
    frames = ros.speak(PredictedFrame, 'predicted_frame')
    labels = ros.speak(LabelCorrection, 'labels', NEWEST_WINS)
    head = header(1_000_000_000)
    picture = jpeg_message(PICTURE, head)
    frames.publish(PredictedFrame(header=head, source='camera', image=picture))
    labels.publish(LabelCorrection(header=head, label='duck'))
    ros.until(lambda: receipts, 'the receipt')
    assert receipts[0].code == LabelReceipt.ACCEPTED


def test_pictures_and_predictions_have_the_qos_of_the_params_file(ros, deployed, tmp_path):
    node = add(
        ros,
        InferenceNode,
        tmp_path,
        {
            'image_raw.subscription.reliability': 'reliable',
            'predictions.publisher.reliability': 'best_effort',
            'predictions.publisher.durability': 'transient_local',
        },
        autostart=True,
        model__weights=str(deployed),
    )
    ros.until(lambda: node.active, 'inference')
    heard = ros.listen(Prediction, 'predictions', NEWEST_WINS)
    camera = ros.speak(Image, 'image_raw', reliable(1))
    (subscription,) = ros.probe.get_subscriptions_info_by_topic(f'{ros.namespace}/image_raw')
    assert subscription.qos_profile.reliability is ReliabilityPolicy.RELIABLE
    (publisher,) = ros.probe.get_publishers_info_by_topic(f'{ros.namespace}/predictions')
    assert publisher.qos_profile.durability is DurabilityPolicy.TRANSIENT_LOCAL
    camera.publish(image_message(np.zeros((48, 64, 3), np.uint8), header(1_000_000_000)))
    ros.until(lambda: heard, 'the prediction')
    assert NEWEST_WINS.reliability is ReliabilityPolicy.BEST_EFFORT, 'ours is shared by all nodes'


def test_the_example_of_the_documentation_cuts_nobody_off(ros, deployed, tmp_path, repository):
    page = (repository / 'docs' / 'howto.md').read_text()
    (example,) = re.findall(r'```yaml\n([^`]*qos_overrides[^`]*)```', page)
    file = tmp_path / 'example.yaml'
    file.write_text(example.replace('qos_overrides./', f'qos_overrides.{ros.namespace}/'))
    options = ['--ros-args', '--params-file', str(file)]
    model = {'model__weights': str(deployed)}
    node = ros.add(lambda **o: InferenceNode(cli_args=options, **o), autostart=True, **model)
    for kind, more in (
        (LabelCollectorNode, {}),
        (TunerNode, model),
        (TeacherNode, {}),
        (OperatorNode, {}),
    ):
        ros.add(lambda kind=kind, **o: kind(cli_args=options, **o), **more)
    ros.until(lambda: node.active, 'inference')
    ros.listen(Prediction, 'predictions', reliable(50))  # `etuner watch`
    ros.speak(Image, 'image_raw', reliable(1))
    ros.speak(LabelCorrection, 'labels', NEWEST_WINS)

    def asked(topic: str) -> int:
        return len(ros.probe.get_subscriptions_info_by_topic(f'{ros.namespace}/{topic}'))

    ros.until(lambda: asked('predictions') == 4, 'who hears predictions')
    ros.until(lambda: asked('image_raw') == asked('labels') == 1, 'who hears the rest')
    assert [f.text for f in _check_qos(ros.probe) if f.state != OK] == []


@pytest.mark.parametrize(('policy', 'value'), [('reliability', 'sometimes'), ('depth', 'deep')])
def test_an_override_that_is_none_is_said_with_what_there_is(ros, tmp_path, policy, value):
    with pytest.raises(ConfigError, match=r'labels .* best_effort'):
        add(ros, LabelCollectorNode, tmp_path, {f'labels.subscription.{policy}': value})


@pytest.mark.parametrize(
    'topic', ['image_raw.subscription', 'frame_feature.publisher', 'regions.subscription']
)
def test_an_inference_that_can_not_be_configured_leaves_nothing_behind(
    ros, deployed, tmp_path, topic
):
    node = add(
        ros,
        InferenceNode,
        tmp_path,
        {f'{topic}.reliability': 'sometimes'},
        model__weights=str(deployed),
    )

    def held() -> list[int]:
        kinds = 'publishers', 'subscriptions', 'clients', 'services', 'timers', 'guards'
        concerns = node.health._concerns
        return [len(concerns), *(len(list(getattr(node, kind))) for kind in kinds)]

    before, logs = held(), ros.logs()
    for _ in range(2):
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert held() == before
    ros.until(lambda: any('its qos_overrides' in m.msg for m in logs), 'the sentence')
    topics = 'annotated', 'predicted_frame', 'objects'
    ros.until(lambda: not any(map(ros.probe.count_publishers, topics)), 'nobody who publishes')
