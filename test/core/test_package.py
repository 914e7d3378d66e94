# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The package as a whole: layers, executables, pages, and the API of Humble."""

from __future__ import annotations

import ast
import doctest
import importlib
from importlib.metadata import version
from pathlib import Path
import pkgutil
import re
import runpy
import sqlite3
import subprocess
import sys

from ament_index_python.packages import get_package_prefix, get_package_share_directory
import pytest

from etuner_ros.core.models.efficientnet_lite import LITES

NODES = (
    'camera',
    'inference',
    'label_collector',
    'metrics',
    'model_manager',
    'operator',
    'proposer',
    'robot',
    'teacher',
    'tuner',
)
LIGHT = ('camera', 'label_collector', 'metrics', 'model_manager', 'operator', 'proposer', 'tuner')

BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError('blocked: ' + name)
sys.meta_path.insert(0, Block())
import importlib
for name in {modules!r}:
    importlib.import_module(name)
"""


def run_blocked(modules: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess:
    code = BLOCKED.format(modules=modules, blocked=blocked)
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd='/')


def core_modules() -> list[str]:
    import etuner_ros.core

    found = pkgutil.walk_packages(etuner_ros.core.__path__, 'etuner_ros.core.')
    return [m.name for m in found]


def test_pip_installs_beside_the_code_what_a_desk_without_ros_needs(repository, monkeypatch):
    told: dict[str, object] = {}
    monkeypatch.setattr('setuptools.setup', told.update)
    monkeypatch.chdir(repository)
    runpy.run_path(str(repository / 'setup.py'))
    files = {name: folder for folder, names in told['data_files'] for name in names}
    for name in ('msg/Objects.msg', 'config/etuner.yaml', 'config/stream/metadata.yaml'):
        assert files[name] == f'share/etuner_ros/{Path(name).parent}'
        assert (repository / name).is_file()


def test_pip_brings_a_desk_all_that_a_replay_imports_but_torch(repository, monkeypatch):
    told: dict[str, object] = {}
    monkeypatch.setattr('setuptools.setup', told.update)
    monkeypatch.chdir(repository)
    runpy.run_path(str(repository / 'setup.py'))
    named = {'opencv-python-headless': 'cv2', 'pyyaml': 'yaml'}
    asked = [*told['install_requires'], *told['extras_require']['desk']]
    brought = {named.get(name, name.replace('-', '_')) for name in asked}
    assert LITES['efficientnet_lite0'].wheel.replace('-', '_') in brought
    imported = set()
    for room in (
        'core/images',
        'core/labels',
        'core/learn',
        'core/tune',
        'core/models',
        'offline',
    ):
        for path in (repository / 'etuner_ros' / room).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition('.')[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(str(node.module).partition('.')[0])
    others = imported - set(sys.stdlib_module_names) - {'etuner_ros', 'torch', 'torchvision'}
    assert {'cv2', 'numpy'} <= others
    assert others - {'onnxscript'} <= brought, 'onnxscript is for `etuner models export` alone'
    assert "'<folder>[desk]'" in (repository / 'docs' / 'howto.md').read_text()


def test_what_comes_with_the_package_is_found_without_ros():
    code = (
        'from etuner_ros.bench.shipped import shipped_recipe\n'
        'from etuner_ros.core.files import own_proposer, recorded_stream\n'
        'from etuner_ros.core.images.bags import known_types\n'
        'assert shipped_recipe().recipe and own_proposer().is_file()\n'
        "assert (recorded_stream() / 'metadata.yaml').is_file()\n"
        "assert 'etuner_ros/msg/Objects' in known_types().fielddefs\n"
    )
    blocked = BLOCKED.format(modules=[], blocked=('rclpy', 'ament_index_python', 'sensor_msgs'))
    found = subprocess.run(
        [sys.executable, '-c', blocked + code], capture_output=True, text=True, cwd='/'
    )
    assert found.returncode == 0, found.stderr


def test_the_core_knows_nothing_of_ros():
    ros = (
        'rclpy',
        'std_msgs',
        'sensor_msgs',
        'diagnostic_msgs',
        'rcl_interfaces',
        'ament_index_python',
    )
    done = run_blocked(core_modules(), ros)
    assert done.returncode == 0, done.stderr


def test_only_inference_and_the_worker_import_torch():
    done = run_blocked([f'etuner_ros.nodes.{node}' for node in LIGHT], ('torch', 'torchvision'))
    assert done.returncode == 0, done.stderr


def test_every_executable_is_named_alike_in_setup_py_and_cmake(repository):
    setup = (repository / 'setup.py').read_text()
    cmake = (repository / 'CMakeLists.txt').read_text()
    in_cmake = re.search(r'foreach\(name ([a-z_ ]+)\)', cmake).group(1).split()
    assert sorted(in_cmake) == sorted([*NODES, 'etuner'])
    assert all(f"'{name}'" in setup for name in NODES)
    assert 'etuner = etuner_ros.cli.main:main' in setup
    folder = Path(get_package_prefix('etuner_ros')) / 'lib' / 'etuner_ros'
    assert {p.name for p in folder.iterdir()} >= {*NODES, 'etuner'}
    for name in NODES:
        assert callable(importlib.import_module(f'etuner_ros.nodes.{name}').main)


def test_what_tests_import_is_what_a_robot_has(repository):
    """Anything else is imported where it is used, and the test skipped without it."""
    listed = (repository / 'package.xml').read_text()
    has = {
        name.replace('-', '_') for name in re.findall(r'depend>(?:python3-)?([a-z_-]+)<', listed)
    }
    for line in (repository / 'requirements-robot.txt').read_text().splitlines():
        has.add(re.split('[^a-z_]', line)[0])
    has |= {'cv2', 'nicegui', 'rosgraph_msgs', 'rosidl_parser', 'torch'}  # other names, or README
    ours = {f.stem for folder in ('test', 'tools') for f in (repository / folder).rglob('*.py')}
    for file in (repository / 'test').rglob('*.py'):
        for n in ast.parse(file.read_text()).body:
            names = [a.name for a in n.names] if isinstance(n, ast.Import) else []
            if isinstance(n, ast.ImportFrom):
                names = [n.module]
            found = {name.partition('.')[0] for name in names} - {'etuner_ros'} - ours
            assert found - sys.stdlib_module_names <= has, file.name


def test_setup_py_does_not_ask_for_torch(repository):
    tree = ast.parse((repository / 'setup.py').read_text())
    required = next(
        k.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        for k in n.keywords
        if k.arg == 'install_requires'
    )
    assert 'numpy' in ast.literal_eval(required)
    assert not any('torch' in name for name in ast.literal_eval(required))
    robot = (repository / 'requirements-robot.txt').read_text().splitlines()
    assert not any(re.match(r'torch(vision)?\b', line) for line in robot)


def test_pip_installs_what_lies_beside_the_code(repository):
    tree = ast.parse((repository / 'setup.py').read_text())
    patterns = next(
        ast.literal_eval(k.value)['etuner_ros']
        for n in ast.walk(tree)
        if isinstance(n, ast.Call)
        for k in n.keywords
        if k.arg == 'package_data'
    )
    package = repository / 'etuner_ros'
    beside = [f for f in package.rglob('*') if f.is_file() and f.suffix not in ('.py', '.pyc')]
    assert beside
    for file in beside:
        inside = file.relative_to(package)
        assert any(inside.match(p) for p in patterns), f'{inside} is not in package_data'


def test_versions_agree(repository):
    import etuner_ros

    assert f"version='{etuner_ros.__version__}'" in (repository / 'setup.py').read_text()
    assert (
        f'<version>{etuner_ros.__version__}</version>' in (repository / 'package.xml').read_text()
    )


def test_launch_config_and_recording_are_installed():
    share = Path(get_package_share_directory('etuner_ros'))
    for name in (
        'launch/etuner.launch.py',
        'config/etuner.yaml',
        'config/stream/metadata.yaml',
        'config/stream_things/metadata.yaml',
        'config/proposer/own.onnx',
        'package.xml',
    ):
        assert (share / name).is_file(), name


def test_the_command_line_deploys_and_says_what_is_wrong(tmp_path, stream):
    from etuner_ros.cli.main import main
    from etuner_ros.core.models.weights import read_base

    target = tmp_path / 'base.safetensors'
    assert (
        main(
            [
                'deploy',
                '--source',
                str(stream),
                '--count',
                '40',
                '--input-size',
                '64',
                '--output',
                str(target),
            ]
        )
        == 0
    )
    base = read_base(target)
    assert len(base.spec.classes) == 12
    assert len(base.exemplars) == 40
    assert main(['deploy', '--source', str(tmp_path / 'nothing')]) == 1


def test_a_file_that_can_not_be_written_is_named_before_the_network_is_made(
    tmp_path, stream, capsys, monkeypatch
):
    from etuner_ros.cli.main import main
    from etuner_ros.core.models import networks

    def build(*_: object) -> None:
        raise AssertionError('it began')

    monkeypatch.setattr(networks, 'build', build)
    (tmp_path / 'file').touch()
    (tmp_path / 'folder.safetensors').mkdir()
    for output in (tmp_path / 'file' / 'base.safetensors', tmp_path / 'folder.safetensors'):
        assert main(['deploy', '--source', str(stream), '--output', str(output)]) == 1
        assert f'etuner: {output} can not be written: ' in capsys.readouterr().err


def test_a_folder_that_can_not_be_made_is_said_without_a_traceback(tmp_path):
    (tmp_path / 'file').touch()
    output = tmp_path / 'file' / 'demo'
    command = [sys.executable, '-m', 'etuner_ros.cli.main', 'demo', '--output', str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, f'etuner: {output}: Not a directory\n')


def test_a_database_that_fails_is_said_without_a_traceback(tmp_path, capsys, monkeypatch):
    from etuner_ros.cli.main import main
    from etuner_ros.core.labels.store import LabelStore

    def count(_: LabelStore) -> int:
        raise sqlite3.OperationalError('database is locked')

    monkeypatch.setattr(LabelStore, 'count_disputed', count)
    LabelStore(tmp_path / 'labels.db').close()
    assert main(['labels', 'stats', '--store', str(tmp_path / 'labels.db')]) == 1
    assert capsys.readouterr().err == 'etuner: database is locked\n'


def test_messages_can_be_used_from_cpp(tmp_path):
    prefixes = {
        Path(get_package_prefix('etuner_ros')),
        Path(get_package_prefix('std_msgs')),
        Path(get_package_prefix('rosidl_runtime_cpp')),
    }
    includes = [
        f'-I{d}' for prefix in prefixes for d in (prefix / 'include').iterdir() if d.is_dir()
    ]
    source = tmp_path / 'use.cpp'
    source.write_text(
        '#include <etuner_ros/msg/prediction.hpp>\n#include <etuner_ros/srv/swap_model.hpp>\n#include <etuner_ros/action/fine_tune.hpp>\n'
        'int main() {\n  etuner_ros::msg::Prediction p;\n  p.labels.push_back("mug");\n  p.model_version = 3;\n'
        '  etuner_ros::action::FineTune::Result r;\n  r.error_code = etuner_ros::action::FineTune::Result::REFUSED;\n'
        '  return p.labels.size() == 1 ? 0 : 1;\n}\n'
    )
    done = subprocess.run(
        ['c++', '-std=c++17', '-fsyntax-only', *includes, str(source)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize('name', ['decide.lazy_tune', 'decide.cka', 'decide.gate'])
def test_the_examples_in_docstrings_are_right(name):
    result = doctest.testmod(importlib.import_module(f'etuner_ros.core.{name}'))
    assert result.attempted > 0
    assert result.failed == 0


# What nodes may call of rclpy: all of it is in Humble's (rclpy 3.3).
HUMBLE_NAMES = {
    'rclpy': {'init', 'ok', 'shutdown', 'logging', 'exceptions', 'create_node', 'spin_once'},
    'rclpy.action': {'ActionServer', 'CancelResponse', 'GoalResponse'},
    'rclpy.callback_groups': {'CallbackGroup', 'ReentrantCallbackGroup'},
    'rclpy.clock': {'Clock', 'ClockType'},
    'rclpy.context': {'Context'},
    'rclpy.exceptions': {'InvalidServiceNameException'},
    'rclpy.executors': {
        'ExternalShutdownException',
        'ShutdownException',
        'SingleThreadedExecutor',
        'TimeoutException',
    },
    'rclpy.guard_condition': {'GuardCondition'},
    'rclpy.lifecycle': {'LifecycleNode', 'LifecyclePublisher', 'TransitionCallbackReturn'},
    'rclpy.parameter': {'Parameter'},
    'rclpy.publisher': {'Publisher'},
    'rclpy.service': {'Service'},
    'rclpy.signals': {'SignalHandlerOptions'},
    'rclpy.subscription': {'Subscription'},
    'rclpy.node': {'Node'},
    'rclpy.qos': {
        'DurabilityPolicy',
        'HistoryPolicy',
        'qos_profile_sensor_data',
        'QoSPolicyKind',
        'QoSProfile',
        'ReliabilityPolicy',
    },
    'rclpy.qos_overriding_options': {'QoSOverridingOptions'},
    'rclpy.task': {'Future'},
    'rclpy.timer': {'Timer'},
}
HUMBLE_NODE = {
    'add_on_set_parameters_callback', 'remove_on_set_parameters_callback', 'get_publishers_info_by_topic',
    'get_subscriptions_info_by_topic', 'destroy_timer',
    'count_publishers', 'count_subscribers', 'create_client', 'create_guard_condition', 'create_lifecycle_publisher', 'create_publisher',
    'create_service', 'create_subscription', 'create_timer', 'declare_parameter', 'destroy_client', 'destroy_guard_condition',
    'destroy_lifecycle_publisher', 'destroy_node', 'destroy_publisher', 'destroy_service', 'destroy_subscription', 'get_clock',
    'get_fully_qualified_name', 'get_logger', 'get_name', 'get_namespace', 'get_parameter', 'has_parameter', 'on_activate', 'on_cleanup', 'on_configure',
    'on_deactivate', 'on_error', 'on_shutdown', 'trigger_activate', 'trigger_configure',
}  # fmt: skip
HUMBLE_KEYWORDS = {
    'create_timer': {'callback_group', 'clock'},
    'create_subscription': {'callback_group', 'event_callbacks', 'qos_overriding_options', 'raw'},
    'create_publisher': {'callback_group', 'event_callbacks', 'qos_overriding_options'},
    'create_service': {'qos_profile', 'callback_group'},
    'create_client': {'qos_profile', 'callback_group'},
    'ActionServer': {
        'goal_callback',
        'cancel_callback',
        'handle_accepted_callback',
        'callback_group',
        'result_timeout',
    },
    'init': {'args', 'context', 'domain_id', 'signal_handler_options'},
}


def ros_sources(repository: Path) -> list[Path]:
    return [
        *sorted((repository / 'etuner_ros' / 'nodes').rglob('*.py')),
        *sorted((repository / 'etuner_ros' / 'demo').glob('*.py')),
    ]


def test_only_names_of_humbles_rclpy_are_imported(repository):
    for path in ros_sources(repository):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('rclpy'):
                used = {alias.name for alias in node.names}
                assert used <= HUMBLE_NAMES.get(node.module, set()), (
                    f'{path.name}: {node.module} {used}'
                )


def test_only_calls_of_humbles_rclpy_are_used(repository):
    from rclpy.lifecycle import LifecycleNode

    newer = {name for name in dir(LifecycleNode) if not name.startswith('_')} - HUMBLE_NODE
    for path in ros_sources(repository):
        tree = ast.parse(path.read_text())
        own = {
            n.name
            for n in ast.walk(tree)
            if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = (
                function.attr
                if isinstance(function, ast.Attribute)
                else getattr(function, 'id', '')
            )
            on_node = isinstance(function, ast.Attribute) and (
                (isinstance(function.value, ast.Name) and function.value.id in ('self', 'node'))
                or (
                    isinstance(function.value, ast.Attribute)
                    and function.value.attr in ('_node', 'node')
                )
            )
            where = f'{path.name}:{node.lineno}'
            if on_node and name not in own:
                assert name not in newer, f'{where}: {name} is not known to be in Humble'
            if (
                isinstance(function, ast.Attribute)
                and getattr(function.value, 'id', '') == 'rclpy'
            ):
                assert name in HUMBLE_NAMES['rclpy'], f'{where}: rclpy.{name}'
            extra = {k.arg for k in node.keywords} - HUMBLE_KEYWORDS.get(
                name, {k.arg for k in node.keywords}
            )
            assert not extra, f'{where}: {name}({extra}) is not in Humble'


def test_the_code_is_python_3_10(repository):
    for path in [
        *(repository / 'etuner_ros').rglob('*.py'),
        *(repository / 'launch').glob('*.py'),
    ]:
        ast.parse(path.read_text(), feature_version=(3, 10))


def test_the_environment_is_that_of_the_pins(repository):
    if not (Path(sys.prefix) / '.steps' / 'run').exists():
        pytest.skip('tools/bootstrap.py has not made this environment')
    lines = (repository / 'tools' / 'pins.ini').read_text().splitlines()
    pinned = {line.partition(';')[0].strip() for line in lines}
    for package in ('numpy', 'safetensors', 'rosbags', 'msgpack', 'rich'):
        assert f'{package}=={version(package)}' in pinned


def test_the_reference_page_tells_what_each_field_is_for(repository):
    pages = runpy.run_path(str(repository / 'tools' / 'docs_pages.py'))
    page = pages['interfaces']()
    for file in [f for kind in ('msg', 'srv', 'action') for f in (repository / kind).iterdir()]:
        assert f'### {file.stem}\n' in page
    section = page.split('### SetFrozenLayers')[1].split('###')[0]
    assert '*Request*' in section
    assert '| `bool` | `pinned` | true: SimFreeze may not change them; false gives' in section
    assert section.index('*Response*') < section.index('`uint16` | `UNKNOWN_LAYER=1`')
    commands = pages['commands']()
    assert '## etuner labels export' in commands
    assert '--format {folder,coco,labelstudio}' in commands


def test_links_in_the_documentation_lead_somewhere(repository):
    pages = [
        repository / 'README.md',
        repository / 'SECURITY.md',
        *(repository / 'docs').glob('*.md'),
    ]
    for page in pages:
        for target in re.findall(r'\]\(([^)#\s]+)', page.read_text()):
            if not target.startswith('http'):
                assert (page.parent / target).exists(), f'{page.name}: {target}'
