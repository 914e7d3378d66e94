# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What runs the robot for months: the unit, the containers, the health check, the backup."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
import os
from pathlib import Path
import re
import runpy
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from typing import Any
from unittest.mock import MagicMock
from xml.etree import ElementTree

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from helpers import Graph
import numpy as np
import pytest
from rclpy.node import Node
import yaml

from etuner_ros.cli.main import main as cli
from etuner_ros.cli.main import parser
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.models.store import ModelStore
from etuner_ros.core.models.weights import ModelSpec, pack_base
from etuner_ros.nodes.health import Health
from etuner_ros.nodes.inference import InferenceNode

LARGE = {'model', 'backbone', 'candidate', 'head_candidate', 'image_raw', 'annotated'}


# What the files name


@pytest.fixture
def arguments(repository: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the arguments of the launch file."""
    for name in ('', '.actions', '.conditions', '.substitutions'):
        monkeypatch.setitem(sys.modules, f'launch{name}', MagicMock())
    for name in ('', '.actions', '.parameter_descriptions', '.substitutions'):
        monkeypatch.setitem(sys.modules, f'launch_ros{name}', MagicMock())
    file = runpy.run_path(str(repository / 'launch' / 'etuner.launch.py'))
    return set(file['ARGUMENTS'])


def executables(repository: Path) -> set[str]:
    """Return what is installed as executables, as CMakeLists.txt has it."""
    text = (repository / 'CMakeLists.txt').read_text()
    found = re.search(r'foreach\(name ([a-z_ ]+)\)', text)
    assert found
    return set(found[1].split())


def check_command(words: list[str], repository: Path, arguments: set[str]) -> None:
    """Check that what a command names is in this package."""
    if words[:2] == ['ros2', 'launch']:
        words = [w for w in words[2:] if w != '--noninteractive']
        assert words[:2] == ['etuner_ros', 'etuner.launch.py']
        assert {w.partition(':=')[0] for w in words[2:]} <= arguments
    elif words[0].startswith('install/'):
        folder, _, name = words[0].rpartition('/')
        assert folder == 'install/etuner_ros/lib/etuner_ros'
        assert name in executables(repository)
    else:
        assert words[0] == 'etuner'
        parser().parse_args(words[1:])


def test_what_runs_the_robot_is_installed(repository):
    assert re.search(
        r'install\(DIRECTORY launch config ', (repository / 'CMakeLists.txt').read_text()
    )
    for name in ('etuner.service', 'record.txt'):
        assert (repository / 'config' / name).is_file()


# The unit


@pytest.fixture
def unit(repository: Path) -> ConfigParser:
    """Return the unit; of a key that stands several times ConfigParser keeps the last one."""
    read = ConfigParser(strict=False, interpolation=None, delimiters=('=',), comment_prefixes='#')
    read.optionxform = str  # type: ignore[assignment,method-assign]
    read.read(repository / 'config' / 'etuner.service')
    return read


def environment(repository: Path) -> dict[str, str]:
    lines = (repository / 'config' / 'etuner.service').read_text().splitlines()
    given = [shlex.split(line.partition('=')[2]) for line in lines if line[:12] == 'Environment=']
    return dict(pair.split('=', 1) for pairs in given for pair in pairs)


def test_the_unit_ends_the_launch_in_order_and_starts_it_again_within_limits(unit):
    service = unit['Service']
    assert service['Restart'] == 'on-failure'
    assert (service['KillMode'], service['KillSignal']) == ('mixed', 'SIGINT')
    assert 15 < float(service['TimeoutStopSec']) < 90, 'more than the launch needs for SIGKILL'
    limits = unit['Unit']
    burst, interval = int(limits['StartLimitBurst']), float(limits['StartLimitIntervalSec'])
    assert burst * float(service['RestartSec']) < interval, 'or it would never stay down'
    assert service['OOMPolicy'] == 'continue', 'the worker is what the kernel takes first'
    assert unit['Install']['WantedBy'] == 'multi-user.target'


def test_the_unit_keeps_what_the_robot_learns_where_it_may_write(unit, repository):
    service, given = unit['Service'], environment(repository)
    assert given['ROS_HOME'] == f'/var/lib/{service["StateDirectory"]}'
    for name in ('ROS_LOG_DIR', 'XDG_CACHE_HOME', 'CUDA_CACHE_PATH'):
        assert given[name].startswith(given['ROS_HOME'])


def test_the_hardening_of_the_unit_leaves_cameras_gpu_and_dds_alone(unit):
    service = unit['Service']
    for key in (
        'DeviceAllow',
        'DevicePolicy',
        'MemoryDenyWriteExecute',
        'PrivateDevices',
        'PrivateIPC',
        'PrivateNetwork',
        'PrivateTmp',
        'PrivateUsers',
        'ProtectClock',
    ):
        assert key not in service
    assert service['NoNewPrivileges'] == 'yes'
    families = set(service['RestrictAddressFamilies'].split())
    assert families >= {'AF_UNIX', 'AF_INET', 'AF_INET6', 'AF_NETLINK'}, 'DDS uses these'


def test_the_command_of_the_unit_launches_with_the_arguments_as_bash_reads_it(
    unit, repository, arguments, tmp_path
):
    (tmp_path / 'bin').mkdir()
    said = tmp_path / 'bin' / 'ros2'
    said.write_text('#!/bin/sh\nprintf "%s\\n" ros2 "$@" "$SOURCED"\n')
    said.chmod(0o755)
    setup = tmp_path / 'a b' / 'setup.bash'
    setup.parent.mkdir()
    setup.write_text('export SOURCED=sourced\n')
    words = shlex.split(unit['Service']['ExecStart'].replace('$$', '$'))
    given = environment(repository)
    names = {**given, 'ETUNER_SETUP': str(setup), 'PATH': f'{tmp_path}/bin:/usr/bin:/bin'}
    names['ETUNER_ARGUMENTS'] += ' teacher:=true'
    done = subprocess.run(words, env=names, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *launch, sourced = done.stdout.splitlines()
    assert sourced == 'sourced'
    assert launch[-2:] == ['image_topic:=/camera/image_raw', 'teacher:=true']
    check_command(launch, repository, arguments)


def test_systemd_takes_the_unit(repository):
    if shutil.which('systemd-analyze') is None:
        pytest.skip('systemd-analyze is not on this machine')
    file = repository / 'config' / 'etuner.service'
    command = ['systemd-analyze', 'verify', '--man=no', str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, '')


# The containers


@pytest.fixture
def services(repository: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load((repository / 'compose.yaml').read_text())['services']


def test_the_container_has_what_a_robot_needs(services, repository):
    whole = yaml.safe_load((repository / 'compose.yaml').read_text())
    etuner = services['etuner']
    assert etuner['build'] == '.'
    assert (repository / 'Dockerfile').is_file()
    left_out = (repository / '.dockerignore').read_text().split()
    built = (repository / '.gitignore').read_text().split()
    assert {name.strip('/') for name in built if name.startswith('/')} <= set(left_out)
    assert etuner['shm_size'] == '512m'
    assert etuner['network_mode'] == 'host'
    assert etuner['restart'] == 'unless-stopped'
    kept = [v.partition(':') for v in etuner['volumes']]
    assert {source for source, _, _ in kept} == set(whole['volumes'])
    assert etuner['environment']['ROS_HOME'] in {target for _, _, target in kept}
    assert etuner['logging']['options'].keys() == {'max-size', 'max-file'}
    text = (repository / 'compose.yaml').read_text()
    assert '    # devices:\n    #   - /dev/video0:/dev/video0\n' in text
    yaml.safe_load(text.replace('    # devices:\n    #   -', '    devices:\n      -'))


def test_the_teaching_page_is_a_profile_and_shares_memory_with_the_rest(services):
    assert services['teacher']['profiles'] == ['teacher']
    assert 'profiles' not in services['etuner'], 'it always starts'
    assert services['etuner']['ipc'] == 'shareable'
    assert services['teacher']['ipc'] == 'service:etuner'
    for key in ('image', 'network_mode', 'environment'):
        assert services['teacher'][key] == services['etuner'][key]


def test_the_commands_of_the_containers_are_in_this_package(services, repository, arguments):
    for service in services.values():
        text = re.sub(r'\$\{\w+:-([^}]*)\}', r'\1', service['command'])
        words = shlex.split(text)
        assert words[:2] != ['ros2', 'run'], 'before Kilted it does not pass a signal on'
        check_command(words, repository, arguments)
    check = services['etuner']['healthcheck']
    kind, shell, option, text = check['test']
    assert (kind, shell, option) == ('CMD', 'bash', '-c')
    before, _, command = text.partition(' && ')
    built = (repository / 'Dockerfile').read_text()
    assert before in built, 'as the entry point does it'
    assert 'colcon build' in built
    assert '--merge-install' not in built, 'executables lie in install/etuner_ros'
    words = shlex.split(command)
    check_command(words, repository, arguments)
    own: argparse.Namespace = parser().parse_args(words[1:])
    assert own.timeout_s + 10 < float(check['timeout'].rstrip('s'))


@pytest.mark.parametrize('name', ['Dockerfile', 'docs/months.md', 'README.md'])
def test_pip_is_never_to_remove_what_apt_installed(repository, name):
    """It can not: the list of files is missing. Of a user's own place it removes nothing."""
    text = (repository / name).read_text()
    lines = re.findall(r'pip install (.* -r src/etuner_ros/requirements-robot.txt)', text)
    assert lines
    for line in lines:
        assert {'--user', '--ignore-installed'} & set(line.split()), line


# The list of topics


def test_each_topic_that_is_recorded_is_one_of_a_node_and_none_is_large(repository):
    listed = (repository / 'config' / 'record.txt').read_text().split()
    assert len(set(listed)) == len(listed)
    policy = ElementTree.parse(repository / 'config' / 'sros2_policy.xml')
    known = set()
    for profile in policy.iter('profile'):
        for topic in profile.iter('topic'):
            name = re.sub('^~/', f'{profile.get("node")}/', topic.text or '')
            known.add('/' + name.lstrip('/'))
    assert set(listed) <= known
    assert not {name.lstrip('/') for name in listed} & LARGE
    assert {f'/{name}' for name in LARGE} <= known, 'what is left out has these names'
    nodes = (repository / 'etuner_ros' / 'nodes').rglob('*.py')
    sources = '\n'.join(path.read_text() for path in nodes)
    for name in set(listed) - {'/rosout', '/parameter_events'}:  # of rclpy itself
        own = name.removeprefix('/')
        spellings = (f"'{own}'", f"'{name}'", f"'~/{own.partition('/')[2]}'")
        assert any(spelling in sources for spelling in spellings), name


# The health check


def asked(ros: Graph, *options: str) -> int:
    """Run `etuner healthy` while the nodes of a test run."""
    with ThreadPoolExecutor() as pool, pytest.MonkeyPatch.context() as patch:
        patch.setenv('ROS_DOMAIN_ID', str(ros.domain))
        code = pool.submit(cli, ['healthy', '--namespace', ros.namespace, *options])
        ros.until(code.done, 'etuner healthy')
        return code.result()


def test_inference_that_runs_is_healthy(ros, deployed, capsys):
    ros.add(InferenceNode, autostart=True, model__weights=str(deployed), wait_for_model=False)
    assert asked(ros, '--timeout-s', '60') == 0
    assert f'{ros.namespace}/inference is alive' in capsys.readouterr().out


def telling(ros: Graph, name: str, level: bytes, text: str) -> Callable[[], object]:
    """Have a node of this name that says this of itself."""
    node = ros.add(lambda **options: Node(name, **options))
    health = Health(node, dict)
    health.watch(lambda: text, 'it is over', level)
    return health._publish


@pytest.mark.parametrize(
    ('level', 'code'),
    [
        (DiagnosticStatus.OK, 0),
        (DiagnosticStatus.WARN, 0),
        (DiagnosticStatus.STALE, 0),
        (DiagnosticStatus.ERROR, 1),
    ],
)
def test_only_an_error_of_inference_is_not_healthy(ros, capsys, level, code):
    telling(ros, 'inference', level, 'so it is')
    telling(ros, 'tuner', DiagnosticStatus.ERROR, 'the worker does not start')
    assert asked(ros, '--timeout-s', '60' if code == 0 else '3') == code
    out, err = capsys.readouterr()
    said = out if code == 0 else err
    assert 'so it is' in said
    assert len(said.splitlines()) == 1


def test_a_node_whose_figures_can_not_be_read_says_why(ros):
    def values() -> dict[str, object]:
        raise OSError('the disk is gone')

    heard = ros.listen(DiagnosticArray, '/diagnostics')
    node = ros.add(lambda **options: Node('inference', **options))
    Health(node, values)._publish()
    status = ros.until(lambda: heard, 'the diagnostics')[0].status[0]
    assert (status.level, status.message) == (DiagnosticStatus.ERROR, 'the disk is gone')


def test_an_error_that_passes_within_the_time_is_healthy(ros):
    texts = iter(['not up yet'] * 5)
    node = ros.add(lambda **options: Node('inference', **options))
    Health(node, dict).watch(lambda: next(texts, ''), 'up', DiagnosticStatus.ERROR)
    assert asked(ros, '--timeout-s', '60') == 0


def test_silence_is_not_healthy_and_another_robot_is_not_meant(ros, capsys):
    publisher = ros.probe.create_publisher(DiagnosticArray, '/diagnostics', 10)
    other = DiagnosticStatus(level=DiagnosticStatus.OK, name='/rear/inference: etuner')
    timer = ros.probe.create_timer(
        0.05, lambda: publisher.publish(DiagnosticArray(status=[other]))
    )
    assert asked(ros, '--timeout-s', '2') == 1
    assert capsys.readouterr().err == (
        f'etuner: {ros.namespace}/inference said nothing on /diagnostics within 2 s\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ros, 'namespace', 'rear')
        assert asked(ros, '--timeout-s', '60', '--json') == 0
    ros.probe.destroy_timer(timer)


ALONE = """
from rclpy.node import Node
from etuner_ros.nodes.health import Health
from etuner_ros.nodes.running import run

class Inference(Node):
    def __init__(self):
        super().__init__('inference', namespace='/front')
        self.health = Health(self, dict)

raise SystemExit(run(Inference))
"""


def test_a_process_that_hangs_is_not_healthy_as_seen_from_another_process(ros):
    names = {**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)}
    command = [sys.executable, '-m', 'etuner_ros.cli.main', 'healthy', '--namespace', 'front']

    def ask(timeout_s: int) -> int:
        words = [*command, '--timeout-s', str(timeout_s)]
        return subprocess.run(words, env=names, capture_output=True, timeout=150).returncode

    process = subprocess.Popen([sys.executable, '-c', ALONE], env=names)
    try:
        assert ask(90) == 0
        process.send_signal(signal.SIGSTOP)
        assert ask(3) == 1
        process.send_signal(signal.SIGCONT)
        assert ask(90) == 0, 'and it is again'
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


# The backup


def shell(repository: Path, title: str, **names: str) -> None:
    """Run a block of the page, word for word."""
    text = (repository / 'docs' / 'months.md').read_text()
    blocks = re.findall(r'```sh\n(.*?)```', text, re.DOTALL)
    (script,) = [block for block in blocks if block.startswith(f'{title}\n')]
    done = subprocess.run(
        ['bash', '-euc', script],
        env={'PATH': '/usr/bin:/bin', **names},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


SPEC = ModelSpec('tiny', 32, ('a', 'b'), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STATE = {
    'backbone.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
    'head.weight': np.ones((2, 3), np.float32),
    'head.bias': np.zeros(2, np.float32),
}

WRITERS = """
import sys
from pathlib import Path
import numpy as np
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.models.store import ModelStore

home = Path(sys.argv[1]) / 'etuner'
labels = LabelStore(home / 'labels' / 'label_collector.db')
models = ModelStore(home / 'models', home / 'base' / 'base.safetensors')
for number in range(1, 100000):
    picture = bytes([number % 251]) * 20000
    frame = Frame(FrameKey('camera', number, 'eye'), picture, 'jpeg', 'mug', 0.5, 0.0, 1)
    labels.add(frame, f'kind {number % 7}', 'ann', number)
    if number % 8 == 0:
        labels.make_batch(8)
        models.commit(
            {
                'head.bias': np.full(2, number, np.float32),
                'backbone.weight': np.full((2, 3), number // 40, np.float32),
            },
            models.live,
            ('a', 'b'),
            learned={'label_collector': labels.last_batch()},
        )
    print(number, flush=True)
"""


@pytest.fixture
def working(ros_home: Path) -> Any:
    """Have a process that writes labels and versions as fast as it can."""
    base = ros_home / 'etuner' / 'base' / 'base.safetensors'
    base.parent.mkdir(parents=True)
    base.write_bytes(pack_base(STATE, SPEC, [('backbone', 6)], []))
    process = subprocess.Popen(
        [sys.executable, '-c', WRITERS, str(ros_home)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while int(process.stdout.readline() or -1) != 200:
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def written(home: Path) -> tuple[int, int, dict[str, int]]:
    """Open all that is in a home; return labels, last batch, and what the live version learned."""
    store = LabelStore(home / 'etuner' / 'labels' / 'label_collector.db', set_aside=False)
    assert store.warnings == []
    assert store.check() == ''
    stored = list(store.labelled())
    assert all(
        s.image == bytes([s.stamp_ns % 251]) * 20000 and s.label == f'kind {s.stamp_ns % 7}'
        for s in stored
    )
    assert [s.stamp_ns for s in stored] == list(range(1, len(stored) + 1)), 'none is missing'
    count, batch = len(stored), store.last_batch()
    store.close()
    base = home / 'etuner' / 'base' / 'base.safetensors'
    models = ModelStore(home / 'etuner' / 'models', base)
    assert models.live > 0
    learned = dict(models.manifests[models.live].learned)
    assert models.update(models.live)['backbone.weight'].shape == (2, 3)
    models.close()
    return count, batch, learned


def count_on(ros_home: Path) -> int:
    store = LabelStore(ros_home / 'etuner' / 'labels' / 'label_collector.db', set_aside=False)
    try:
        return store.count()
    finally:
        store.close()


def test_a_backup_of_a_robot_that_works_opens_and_fits_together(
    working, ros_home, tmp_path, repository
):
    backup = tmp_path / 'backup' / 'one'
    places = {'ROS_HOME': str(ros_home), 'BACKUP': str(backup)}
    before = count_on(ros_home)
    shell(repository, '# back up, while it runs', **places)
    assert working.poll() is None, 'it went on'
    assert count_on(ros_home) > before, 'it wrote meanwhile'
    count, batch, learned = written(backup)
    assert count >= before
    assert 0 < learned['label_collector'] <= batch, 'no version is of labels that are missing'
    working.kill()
    working.wait()
    shell(repository, '# restore, while nothing runs', **places)
    assert written(ros_home)[0] == count, 'as it was then'
    assert (ros_home / 'etuner.before' / 'labels' / 'label_collector.db').is_file()


def test_labels_of_the_first_releases_are_restored_from_a_backup(
    ros_home, tmp_path, repository, capsys
):
    """Of a store of schema 2, copied as the page says and put in the place of a new one."""
    data = repository / 'test' / 'core' / 'data' / 'labels_schema_2.sql'
    backup = tmp_path / 'backup'
    old = backup / 'etuner' / 'labels' / 'label_collector.db'
    old.parent.mkdir(parents=True)
    source = sqlite3.connect(tmp_path / 'old.db')
    source.executescript(data.read_text())
    source.execute('VACUUM INTO ?', (str(old),))
    source.close()
    home = ros_home / 'etuner' / 'labels' / 'label_collector.db'
    LabelStore(home).close()
    shell(repository, '# restore, while nothing runs', ROS_HOME=str(ros_home), BACKUP=str(backup))
    assert cli(['labels', 'check']) == 0
    assert cli(['labels', 'stats']) == 0
    assert 'tray ' in capsys.readouterr().out
    store = LabelStore(home, set_aside=False)
    assert not store.warnings
    assert (store.last_batch(), store.waiting()) == (3, 4)
    assert [s.label for s in store.labelled()]
    store.close()


def test_labels_are_backed_up_after_the_versions_that_learned_them(repository):
    text = (repository / 'docs' / 'months.md').read_text()
    script = text.partition('# back up, while it runs\n')[2].partition('```')[0]
    assert 0 < script.index('cp -al') < script.index('VACUUM INTO')


def test_sqlite3_copies_labels_of_a_robot_that_works(working, ros_home, tmp_path, repository):
    if shutil.which('sqlite3') is None:
        pytest.skip('sqlite3 is not on this machine')
    (line,) = re.findall(
        r'^sqlite3 .*VACUUM.*$', (repository / 'docs' / 'months.md').read_text(), re.MULTILINE
    )
    subprocess.run(
        ['bash', '-euc', line],
        env={'PATH': '/usr/bin:/bin', 'ROS_HOME': str(ros_home)},
        cwd=tmp_path,
        check=True,
    )
    assert working.poll() is None
    copy = LabelStore(tmp_path / 'copy.db', set_aside=False)
    assert copy.check() == ''
    assert copy.count() >= 200
    assert len(list(copy.labelled())) == copy.count()
    copy.close()
