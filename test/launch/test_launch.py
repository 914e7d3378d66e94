# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The launch file, with the real `launch` where there is one, and its text anywhere."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
import os
from pathlib import Path
import runpy
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from rclpy.node import Node
import yaml


def test_every_argument_is_declared_at_the_top_with_a_description(repository):
    tree = ast.parse((repository / 'launch' / 'etuner.launch.py').read_text())
    arguments = next(
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and n.targets[0].id == 'ARGUMENTS'
    )
    assert {
        'source',
        'image_transport',
        'battery',
        'device',
        'model',
        'params_file',
        'namespace',
        'metrics',
        'operator',
        'proposer',
        'autostart',
        'composed',
        'teacher_port',
    } <= arguments.keys()
    assert all(isinstance(default, str) and len(text) > 10 for default, text in arguments.values())
    used = {
        n.args[0].value
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        and getattr(n.func, 'id', '') == 'LaunchConfiguration'
        and isinstance(n.args[0], ast.Constant)
    }
    assert used <= arguments.keys()
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert not names & {'eval', 'exec', 'subprocess'}


class Named:
    """A substitution or an action of `launch`, with what it was made of."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options


class Configuration(Named):
    def perform(self, context: Any) -> str:
        return context.launch_configurations[self.arguments[0]]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch, repository: Path) -> Callable[..., dict]:
    """Return what composes the launch file with stand-ins for `launch`: a node's parameters."""
    for name in ('launch', 'launch.actions', 'launch.substitutions'):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    for name in ('actions', 'substitutions'):
        monkeypatch.setitem(sys.modules, f'launch_ros.{name}', MagicMock())
    monkeypatch.setitem(sys.modules, 'launch_ros', MagicMock())
    nodes: list[Named] = []
    sys.modules['launch.substitutions'].LaunchConfiguration = Configuration
    sys.modules['launch.substitutions'].PathJoinSubstitution = Named
    sys.modules['launch_ros.actions'].Node = lambda **options: nodes.append(Named(**options))
    file = runpy.run_path(str(repository / 'launch' / 'etuner.launch.py'))

    def compose(**arguments: str) -> dict[str, list[str]]:
        values = {k: default for k, (default, _) in file['ARGUMENTS'].items()} | arguments
        context = SimpleNamespace(launch_configurations=values)
        nodes.clear()
        file['compose'](context)
        return {n.options['executable']: [path(p) for p in n.options['parameters']] for n in nodes}

    def path(parameters: Any) -> str:
        if isinstance(parameters, Named):
            return str(repository / 'config' / 'etuner.yaml')
        assert isinstance(parameters, str), 'launch_ros would give it a name that others have'
        return parameters

    def remappings(executable: str, **arguments: str) -> list[tuple[str, str]]:
        compose(**arguments)
        return next(n for n in nodes if n.options['executable'] == executable).options[
            'remappings'
        ]

    compose.remappings = remappings  # type: ignore[attr-defined]
    return compose


def received(
    ros: Any, composed: Any, name: str, executable: str = '', /, **arguments: str
) -> dict:
    """
    Return the parameters that a node gets from ROS when `launch_ros` starts it so.

    :param executable: that the node runs in; '' for one of its own
    """
    namespace = arguments.get('namespace', '')
    command = ['--ros-args']
    for file in composed(**arguments)[executable or name]:
        command += ['--params-file', file]
    node = Node(
        name,
        context=ros.context,
        namespace=namespace,
        cli_args=command,
        automatically_declare_parameters_from_overrides=True,
    )
    values = {p: v.value for p, v in node._parameters.items()}
    node.destroy_node()
    return values


@pytest.mark.parametrize('namespace', ['', '/front'])
@pytest.mark.parametrize(
    'sections',
    [
        ['/**'],
        ['label_collector'],
        ['"label_collector"'],
        ['/**/label_collector'],
        ['{namespace}/label_collector'],
        ['/**', 'label_collector'],
        ['/**', '/**/label_collector'],
        ['/**', '{namespace}/label_collector'],
    ],
    ids=' and '.join,
)
def test_the_params_file_wins_however_it_names_a_node(
    ros, composed, tmp_path, namespace, sections
):
    file = tmp_path / 'mine.yaml'
    text = ''
    for number, section in enumerate(sections, 3):
        section = section.format(namespace=namespace)
        text += f'{section}:\n  ros__parameters:\n    batch_size: {number}\n'
    file.write_text(text)
    arguments = {'params_file': str(file), 'namespace': namespace}
    values = received(ros, composed, 'label_collector', **arguments)
    assert values['batch_size'] == 2 + len(sections), 'the last section, the most special one'
    assert values['request_period_s'] == 2.0, "the package's where the file says nothing"
    assert received(ros, composed, 'label_collector')['batch_size'] == 8


def test_arguments_win_over_the_params_file_and_empty_ones_leave_it_alone(ros, composed, tmp_path):
    file = tmp_path / 'mine.yaml'
    file.write_text(
        '/**:\n  ros__parameters:\n    use_sim_time: true\n    model:\n      weights: mine\n'
        'inference:\n  ros__parameters:\n    autostart: false\n'
    )

    def inference(**arguments: str) -> dict:
        return received(ros, composed, 'inference', params_file=str(file), **arguments)

    values = inference()
    assert values['use_sim_time'] is True
    assert values['autostart'] is False
    assert values['model.weights'] == 'mine'
    values = inference(weights='given', autostart='true', use_sim_time='false')
    assert values['use_sim_time'] is False
    assert values['autostart'] is True
    assert values['model.weights'] == 'given'
    assert received(ros, composed, 'inference')['autostart'] is True, 'by default'


@pytest.mark.parametrize('namespace', ['', '/front'])
@pytest.mark.parametrize('executable', ['', 'robot'], ids=['alone', 'composed'])
@pytest.mark.parametrize(
    'sections',
    [
        ['/**', 'inference'],
        ['inference', '/**'],
        ['/**/inference', 'inference', '/**'],
        ['/*/inference', '{namespace}/inference', '/*/*', '/**'],
    ],
    ids=' and '.join,
)
def test_arguments_win_in_whatever_order_the_sections_stand(
    ros, composed, tmp_path, namespace, executable, sections
):
    file = tmp_path / 'mine.yaml'
    values = 'use_sim_time: true\n    source: mine\n    top_k: 7'
    sections = [section.format(namespace=namespace) for section in sections]
    file.write_text('\n'.join(f'{s}:\n  ros__parameters:\n    {values}' for s in sections))
    arguments = {'params_file': str(file), 'namespace': namespace, 'composed': 'false'}
    if executable:
        arguments['composed'] = 'true'
    given = {'use_sim_time': 'false', 'camera_name': 'given'}
    values = received(ros, composed, 'inference', executable, **arguments, **given)
    assert (values['use_sim_time'], values['source'], values['top_k']) == (False, 'given', 7)


@pytest.mark.parametrize(
    ('name', 'word'),
    [
        *((name, 'yes') for name in ('tuner', 'composed', 'teacher', 'operator', 'use_sim_time')),
        ('autostart', 'on'),
        ('tuner', ''),
    ],
)
def test_an_argument_that_is_neither_true_nor_false_is_an_error_that_names_it(
    composed, name, word
):
    with pytest.raises(ValueError, match=f'{name}:={word} is neither true'):
        composed(**{name: word})


def test_true_and_false_are_the_words_that_conditions_of_launch_know(composed):
    assert 'tuner' in composed(tuner='True')
    assert 'tuner' in composed(tuner=' 1 ')
    assert 'tuner' not in composed(tuner='FALSE')
    assert 'robot' in composed(composed='1')
    assert {'teacher', 'operator'} <= composed(teacher='TRUE', operator='1').keys()
    assert not {'teacher', 'operator'} & composed(teacher='0').keys()
    with pytest.raises(ValueError, match='metrics:=often'):
        composed(metrics='often')


def test_a_copy_of_a_params_file_is_read_by_nobody_else(composed, tmp_path, ros_home):
    file = tmp_path / 'mine.yaml'
    file.write_text('teacher:\n  ros__parameters:\n    token: a long secret\n')
    folder = ros_home / 'etuner' / 'launch'
    folder.mkdir(parents=True, mode=0o755)  # as launches before left it
    for _ in range(2):
        copy = Path(composed(params_file=str(file), teacher='true')['teacher'][1])
        assert copy.parent == folder
        assert (folder.stat().st_mode & 0o777, copy.stat().st_mode & 0o777) == (0o700, 0o600)
        copy.chmod(0o644)
    copy.unlink()
    copy.mkdir()  # can not be written
    aside = Path(composed(params_file=str(file), teacher='true')['teacher'][1])
    assert aside.parent != folder
    assert (aside.parent.stat().st_mode & 0o777, aside.stat().st_mode & 0o777) == (0o700, 0o600)


def test_device_and_image_transport_reach_the_nodes_that_have_them(ros, composed):
    arguments = {'device': 'cpu', 'image_transport': 'compressed'}
    values = received(ros, composed, 'inference', **arguments)
    assert (values['device'], values['image_transport']) == ('cpu', 'compressed')
    assert received(ros, composed, 'tuner', **arguments)['train.device'] == 'cpu'


def test_several_cameras_are_heard_below_their_names(ros, composed):
    arguments = {'cameras': '[front, rear]', 'image_topic': 'color/image'}
    values = received(ros, composed, 'inference', **arguments)
    assert values['cameras'] == 'front,rear'
    assert received(ros, composed, 'label_collector', **arguments)['source'] == 'front'
    topics = dict(composed.remappings('inference', **arguments))
    assert topics['front/image_raw'] == 'front/color/image'
    assert topics['rear/image_raw/compressed'] == 'rear/color/image/compressed'
    assert 'image_raw' not in topics
    played = dict(composed.remappings('camera', source='a.mp4', **arguments))
    assert played['image_raw'] == 'front/color/image', 'a recording plays as the first camera'
    alone = dict(composed.remappings('camera', source='a.mp4', image_topic='/usb/image'))
    assert alone['image_raw'] == '/usb/image'
    with pytest.raises(ValueError, match='first slash'):
        composed(cameras='front', image_topic='/color')


def test_composed_nodes_get_the_parameters_that_each_gets_in_a_process_of_its_own(
    ros, composed, tmp_path
):
    file = tmp_path / 'mine.yaml'
    file.write_text(
        '/**:\n  ros__parameters:\n    model:\n      weights: mine\n'
        'label_collector:\n  ros__parameters:\n    batch_size: 3\n'
        'inference:\n  ros__parameters:\n    autostart: false\n'
    )
    arguments = {
        'namespace': '/front',
        'params_file': str(file),
        'autostart': 'true',
        'device': 'cpu',
        'camera_name': '7',
        'weights': 'given',
    }
    assert 'robot' not in composed(**arguments)
    together = {**arguments, 'composed': 'true'}
    assert not {'inference', 'tuner'} & composed(**together).keys()
    for name in ('model_manager', 'inference', 'label_collector', 'tuner'):
        alone = received(ros, composed, name, **arguments)
        assert received(ros, composed, name, 'robot', **together) == alone
    assert (alone['train.device'], alone['model.weights']) == ('cpu', 'given')


def test_the_files_of_parameters_that_launches_leave_do_not_grow_without_bound(
    composed, tmp_path, ros_home
):
    file = tmp_path / 'mine.yaml'

    def launch(number: int, namespace: str = '') -> set[Path]:
        file.write_text(f'tuner:\n  ros__parameters:\n    silence_s: {number}.0\n')
        used = composed(params_file=str(file), namespace=namespace)['tuner'][1]
        assert Path(used).read_text().startswith(f'{namespace}/tuner:')
        return set((ros_home / 'etuner' / 'launch').iterdir())

    assert len(launch(0)) == len(launch(0)) == 1, 'the same launch again takes no room'
    assert len(launch(0, '/front')) == 2
    for number in range(1, 120):
        left = launch(number)
    assert len(left) == 100


def test_metrics_are_off_until_they_get_a_port(ros, composed):
    assert 'metrics' not in composed()
    assert 'metrics' not in composed(metrics='')
    assert received(ros, composed, 'metrics', metrics='9464')['port'] == 9464


def test_each_robot_on_one_computer_may_have_a_teaching_page(ros, composed):
    one = received(ros, composed, 'teacher', teacher='true', namespace='/one')
    assert 'port' not in one, 'that of the node itself'
    arguments = {'namespace': '/two', 'teacher_port': '8091', 'cameras': '[front,rear]'}
    two = received(ros, composed, 'teacher', teacher='true', **arguments)
    assert (two['port'], two['cameras']) == (8091, 'front,rear')
    arguments = {'teacher_host': '0.0.0.0', 'teacher_token': '12345678'}
    phone = received(ros, composed, 'teacher', teacher='true', **arguments)
    assert (phone['host'], phone['token']) == ('0.0.0.0', '12345678')


def test_the_tuner_may_be_on_another_computer(composed):
    assert 'tuner' in composed()
    robot = composed(tuner='false')
    assert 'tuner' not in robot
    assert {'inference', 'label_collector', 'model_manager'} <= set(robot)
    with pytest.raises(ValueError, match='composed:=true'):
        composed(tuner='false', composed='true')


def test_a_params_file_that_is_not_there_is_an_error(composed, tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'):
        composed(params_file=str(tmp_path / 'nowhere.yaml'))


def test_what_the_package_configures_is_what_a_renamed_node_has_anyway(repository):
    """
    A node of another name does not find its section in config/etuner.yaml.

    But for how the tuner learns: that is measured as it stands in the file (docs/howto.md).
    """
    measured = ('train.', 'lazy_tune.', 'sim_freeze.', 'head.')
    pages = runpy.run_path(str(repository / 'tools' / 'docs_pages.py'))
    config = yaml.safe_load((repository / 'config' / 'etuner.yaml').read_text())

    def flat(values: dict, prefix: str = '') -> Iterator[tuple[str, Any]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from flat(value, f'{prefix}{key}.')
            else:
                yield prefix + key, value

    for section, values in config.items():
        name = section.removeprefix('/**/')
        defaults = {parameter: field.default for parameter, field, _ in pages['declared'](name)}
        for parameter, value in flat(values['ros__parameters']):
            if name == 'tuner' and parameter.startswith(measured):
                continue
            if parameter != 'autostart':  # without it a node says what it waits for
                assert value == defaults[parameter], f'{name}: {parameter}'


def test_the_system_comes_up_in_two_namespaces_on_one_computer(ros, deployed):
    pytest.importorskip(
        'launch_ros', reason='ros2 launch is not on this machine (it is not on PyPI)'
    )
    from etuner_ros.msg import TunerStatus
    from etuner_ros.nodes.qos import LATCHED

    environment = {**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)}
    runs = []
    try:
        for name in ('/one', '/two'):
            command = [
                'ros2',
                'launch',
                'etuner_ros',
                'etuner.launch.py',
                f'namespace:={name}',
                f'weights:={deployed}',
            ]
            runs.append(subprocess.Popen(command, env=environment, start_new_session=True))
        heard = {
            name: ros.listen(TunerStatus, f'{name}/tuner/status', LATCHED)
            for name in ('/one', '/two')
        }
        ros.until(
            lambda: all(s and s[-1].state == TunerStatus.WAITING for s in heard.values()),
            'both tuners',
        )
    finally:
        for run in runs:
            os.killpg(run.pid, signal.SIGINT)
            run.wait(30)


def test_a_proposer_is_started_where_it_is_asked_for(ros, composed):
    assert 'proposer' not in composed()
    own = received(ros, composed, 'proposer', proposer='own', camera_name='front')
    assert (own['kind'], own['source']) == ('own', 'front')
