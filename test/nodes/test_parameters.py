# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters as declared and at run time, silence that is explained, energy and battery."""

from __future__ import annotations

from array import array
import importlib
import math
import os
import runpy
import signal

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from helpers import free_port, header, image_message
import numpy as np
import pytest
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.time import Time
from sensor_msgs.msg import BatteryState, CompressedImage, Image
from std_msgs.msg import Header
import yaml

from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.msg import LabelCorrection, LabelReceipt, PredictedFrame, Prediction, TunerStatus
from etuner_ros.nodes import tuner as tuner_module
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS
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


def set_parameter(ros: object, node: object, name: str, value: object) -> object:
    request = [Parameter(name, value=value).to_parameter_msg()]
    answer = ros.call(
        SetParameters, f'{node.get_fully_qualified_name()}/set_parameters', parameters=request
    )
    return answer.results[0]


def test_parameters_apply_at_run_time_or_are_rejected_with_the_reason(ros, deployed, frames):
    node = ros.add(InferenceNode, model__weights=str(deployed), autostart=True)
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    predictions = ros.listen(Prediction, 'predictions')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)

    def labels() -> int:
        count = len(predictions)

        def seen() -> bool:
            images.publish(image_message(frames[0].image, header(count + 1)))
            return len(predictions) > count

        ros.until(seen, 'a prediction')
        return len(predictions[-1].labels)

    assert labels() == 3
    assert set_parameter(ros, node, 'top_k', 1).successful
    ros.until(lambda: labels() == 1, 'one label')
    for name, value, words in (
        ('top_k', 0, 'range'),
        ('top_k', 'many', 'type'),
        ('device', 'cuda', 'read-only'),
        ('model.input_size', 64, 'read-only'),
    ):
        result = set_parameter(ros, node, name, value)
        assert not result.successful
        assert words in result.reason.replace('read only', 'read-only').lower()
    assert labels() == 1


def test_of_several_parameters_none_counts_when_one_does_not_fit(ros, deployed):
    tuner = ros.add(TunerNode, model__weights=str(deployed))
    before = tuner._lazy.config.max_batches
    wanted = [('lazy_tune.max_batches', 9), ('budget.min_battery', 'low')]
    answer = ros.call(
        SetParametersAtomically,
        f'{tuner.get_fully_qualified_name()}/set_parameters_atomically',
        parameters=[Parameter(n, value=v).to_parameter_msg() for n, v in wanted],
    )
    assert not answer.result.successful
    assert 'budget.min_battery must be a float' in answer.result.reason
    assert tuner._lazy.config.max_batches == before
    assert tuner.get_parameter('lazy_tune.max_batches').value == before


def test_the_collector_and_the_tuner_take_new_limits(ros, deployed):
    collector = ros.add(LabelCollectorNode)
    assert set_parameter(ros, collector, 'authors', 'ann').successful
    assert collector._desk.rules.authors == {'ann'}
    assert set_parameter(ros, collector, 'budget_mb', 2).successful, 'an integer is a number'
    assert collector._store.budget_bytes == 2_000_000
    tuner = ros.add(TunerNode, model__weights=str(deployed))
    assert set_parameter(ros, tuner, 'lazy_tune.max_batches', 9).successful
    assert tuner._lazy.config.max_batches == 9
    assert set_parameter(ros, tuner, 'budget.min_battery', 0.3).successful
    statuses = ros.listen(TunerStatus, 'tuner/status', LATCHED)
    battery = ros.speak(BatteryState, 'battery')
    battery.publish(BatteryState(percentage=math.nan))
    battery.publish(BatteryState(percentage=0.2))
    ros.until(lambda: tuner._budget.refusal(0.0), 'the battery to stop rounds')
    assert 'battery is at 20 %' in tuner._budget.refusal(0.0)
    ros.until(lambda: statuses, 'a status')
    assert statuses[-1].energy_source
    assert math.isnan(statuses[-1].energy_j), 'no round yet: unknown, not 0'


def test_a_least_charge_without_a_charge_to_go_by_is_a_warning(ros, deployed, monkeypatch):
    monkeypatch.setattr(tuner_module, 'BATTERY_S', 0.5)
    told = ros.listen(DiagnosticArray, '/diagnostics')
    node = ros.add(TunerNode, model__weights=str(deployed), budget__min_battery=0.3, silence_s=0.0)

    def warns(words: str) -> bool:
        mine = [m.status[0] for m in told if 'tuner' in m.status[0].name]
        begin = 'budget.min_battery knows no charge, which has to be in [0, 1]: '
        text = f'{begin}{words} on {ros.namespace}/battery'
        return bool(mine) and mine[-1].level == DiagnosticStatus.WARN and text in mine[-1].message

    ros.until(lambda: warns('no sensor_msgs/BatteryState comes'), 'the topic')
    battery = ros.speak(BatteryState, 'battery')
    for percentage, said in ((87.0, '87'), (math.nan, 'nan')):
        battery.publish(BatteryState(percentage=percentage))
        ros.until(lambda said=said: warns(f'percentage is {said}'), 'the range')
    battery.publish(BatteryState(percentage=0.87))
    ros.until(lambda: not node._why_no_charge(), 'the charge')
    battery.publish(BatteryState(percentage=0.2))
    ros.until(lambda: node._budget.refusal(0.0), 'the battery to stop rounds')
    for percentage, said in ((87.0, '87'), (math.nan, 'nan')):
        battery.publish(BatteryState(percentage=percentage))
        ros.until(lambda said=said: warns(f'percentage is {said}'), 'a charge not known any more')
        assert 'battery is at 20 %' in node._budget.refusal(0.0), 'the last that was known counts'
    assert set_parameter(ros, node, 'budget.min_battery', 0.0).successful
    assert not node._why_no_charge(), 'nobody asks'


def test_silence_is_explained_once_and_its_end_is_noted(ros, deployed):
    logs = ros.logs()
    node = ros.add(InferenceNode, model__weights=str(deployed), autostart=True, silence_s=0.2)
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    statuses = ros.listen(DiagnosticArray, '/diagnostics')

    def said(words: str) -> list:
        return [m for m in logs if words in m.msg and m.name.endswith('inference')]

    ros.until(lambda: said('nobody publishes'), 'the cause')

    def state() -> bytes | None:
        found = [s for m in statuses for s in m.status if s.name.endswith('inference: etuner')]
        return found[-1].level if found else None

    ros.until(lambda: state() == DiagnosticStatus.STALE, 'the diagnostic')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    picture = np.zeros((32, 32, 3), np.uint8)

    def back() -> list:
        images.publish(image_message(picture, header(1)))
        return said('image is back')

    ros.until(back, 'the end of the silence')
    assert len(said('nobody publishes')) == 1, 'once'


def newest(statuses: list, node: str) -> DiagnosticStatus:
    found = [s for m in statuses for s in m.status if s.name.endswith(f'{node}: etuner')]
    return found[-1] if found else DiagnosticStatus()


def test_images_from_another_time_are_noticed(ros, deployed):
    logs = ros.logs()
    node = ros.add(InferenceNode, model__weights=str(deployed), autostart=True)
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    picture = np.zeros((32, 32, 3), np.uint8)

    def shown(ahead_s: float, words: str) -> bool:
        stamp = node.get_clock().now().nanoseconds + int(ahead_s * 1e9)
        images.publish(image_message(picture, Header(stamp=Time(nanoseconds=stamp).to_msg())))
        return any(words in m.msg for m in logs)

    ros.until(lambda: shown(-7.0, 'clocks are apart'), 'the warning')
    ros.until(lambda: newest(statuses, 'inference').level == DiagnosticStatus.WARN, 'WARN')
    assert 's old' in newest(statuses, 'inference').message
    ros.until(lambda: shown(0.0, 'images are new'), 'the recovery')
    ros.until(lambda: newest(statuses, 'inference').level == DiagnosticStatus.OK, 'OK')


@pytest.mark.parametrize(
    ('stamp', 'cause'), [(10**9, 'have to be those of a Prediction'), (2 * 10**18, 'the clocks')]
)
def test_corrections_for_frames_that_are_not_there_are_explained(ros, stamp, cause, tmp_path):
    logs = ros.logs()
    node = ros.add(LabelCollectorNode, store=str(tmp_path / 'a.db'), join_wait_s=0.0)
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    receipts = ros.listen(LabelReceipt, 'label_receipts')
    labels = ros.speak(LabelCorrection, 'labels')
    wrong = Header(stamp=Time(nanoseconds=stamp).to_msg(), frame_id='cam')
    for number in range(3):
        labels.publish(LabelCorrection(header=wrong, label=f'cup {number}', author='ann'))
    ros.until(lambda: any(cause in m.msg for m in logs), 'the cause')
    ros.until(
        lambda: newest(statuses, 'label_collector').level == DiagnosticStatus.WARN, 'the WARN'
    )
    frames = ros.speak(PredictedFrame, 'predicted_frame')
    right = Header(stamp=node.get_clock().now().to_msg(), frame_id='cam')
    code = array('B', encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    image = CompressedImage(header=right, format='jpeg', data=code)
    frames.publish(PredictedFrame(header=right, source='camera', image=image))
    ros.until(lambda: node._diagnostics()['frames kept'], 'the frame')
    labels.publish(LabelCorrection(header=right, label='cup', author='ann'))
    ros.until(lambda: receipts[-1:] and receipts[-1].code == LabelReceipt.ACCEPTED, 'acceptance')
    ros.until(lambda: any('find their frames' in m.msg for m in logs), 'the recovery')


def test_a_dead_worker_is_an_error_until_it_is_started_again(ros, deployed):
    logs = ros.logs()
    tuner = ros.add(TunerNode, model__weights=str(deployed), restart_delay_s=1.0)
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    ros.until(lambda: any('worker ready' in m.msg for m in logs), 'the worker')
    os.kill(tuner._worker.pid, signal.SIGKILL)
    ros.until(lambda: newest(statuses, 'tuner').level == DiagnosticStatus.ERROR, 'the error')
    assert 'worker died' in newest(statuses, 'tuner').message
    ros.until(lambda: any('was started again' in m.msg for m in logs), 'the end')
    ros.until(lambda: newest(statuses, 'tuner').level != DiagnosticStatus.ERROR, 'no error')


def test_a_topic_of_another_type_is_named(ros, deployed):
    logs = ros.logs()
    # One participant can not have a topic of two types, so the camera is another one.
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros.domain)
    camera = Node('camera', context=context, namespace=ros.namespace)
    try:
        camera.create_publisher(BatteryState, 'image_raw', 1)
        ros.add(InferenceNode, model__weights=str(deployed), autostart=True, silence_s=0.2)
        ros.until(
            lambda: any('of type sensor_msgs/msg/BatteryState' in m.msg for m in logs), 'the cause'
        )
    finally:
        camera.destroy_node()
        rclpy.shutdown(context=context)


def test_config_and_reference_agree_with_what_is_declared(repository, deployed, ros, tmp_path):
    (tmp_path / 'a.jpg').write_bytes(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    classes = {name: importlib.import_module(f'etuner_ros.nodes.{name}') for name in NODES}
    made = {}
    for name, module in classes.items():
        kind = next(
            v for k, v in vars(module).items() if k.lower() == f'{name.replace("_", "")}node'
        )
        extra: dict = {'source': str(tmp_path)} if name == 'camera' else {}
        if name == 'metrics':
            extra['port'] = free_port()
        if name in ('inference', 'model_manager', 'tuner'):
            extra['model__weights'] = str(deployed)
        made[name] = ros.add(kind, **extra)
        if hasattr(made[name], 'trigger_configure'):
            ros.until(lambda n=name: made[n].may_configure, 'the base weights')
            made[name].trigger_configure()
    own = {
        name: {
            p: v
            for p, v in node._parameters.items()
            if p != 'use_sim_time' and 'start_type_description' not in p
        }
        for name, node in made.items()
    }
    config = yaml.safe_load((repository / 'config' / 'etuner.yaml').read_text())

    def flat(values: dict, prefix: str = '') -> dict:
        items: dict = {}
        for key, value in values.items():
            items.update(
                flat(value, f'{prefix}{key}.')
                if isinstance(value, dict)
                else {prefix + key: value}
            )
        return items

    for pattern, section in config.items():
        name = pattern.rpartition('/')[2]
        nodes = ['inference', 'tuner', 'model_manager'] if name == '**' else [name]
        for parameter, value in flat(section['ros__parameters']).items():
            for node in nodes:
                assert parameter in own[node], f'{pattern}: {parameter} is not declared by {node}'
                assert isinstance(value, type(own[node][parameter].value)), (
                    f'{pattern}: {parameter}'
                )
    pages = runpy.run_path(str(repository / 'tools' / 'docs_pages.py'))
    text = pages['parameters']()
    for name, parameters in own.items():
        on_page = {parameter for parameter, _, _ in pages['declared'](name)}
        own_ones = {p for p in parameters if not p.startswith('qos_overrides.')}
        assert on_page == own_ones - {'autostart'}, f'reference page of {name}'
        assert all(f'`{parameter}`' in text for parameter in on_page)
