# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner doctor`: finds in seconds what usually goes wrong, and says what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import importlib
from importlib import metadata
import os
from pathlib import Path
import platform
import shutil
import time
from typing import Any

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.files import home, share
from etuner_ros.core.images.bags import messages_folder
from etuner_ros.core.installing import INSTALL, requirements, UNINSTALL
from etuner_ros.shared.shared_memory import stale_segments

OK, WARNING, ERROR, SKIPPED = 'ok', 'warning', 'error', 'skipped'
LEAST_FREE = 1_000_000_000  # bytes
LISTEN_S = 3.0
CLOCK_S = 1.0  # that the time of a simulation is looked for
# What tells a node of each kind, whatever its name: the end of a service's name, and its type.
SERVED = {
    'inference': ('/get_frame', 'etuner_ros/srv/GetFrame'),
    'label_collector': ('/get_batches', 'etuner_ros/srv/GetBatches'),
    'model_manager': ('/list_versions', 'etuner_ros/srv/ListVersions'),
    'tuner': ('/fine_tune/_action/send_goal', 'etuner_ros/action/FineTune_SendGoal'),
}
MOST_AGE_S = 1.0  # of an image's stamp, beyond which clocks are taken to be apart


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    state: str
    text: str
    advice: str = ''


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ''


def _import_problem(module: str) -> str:
    """Return why a module does not import; empty when it does."""
    try:
        importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what is compiled may raise what is no Exception
        return (str(error).strip() or type(error).__name__)[:120]
    return ''


def _share() -> Path | None:
    """Return where the package is installed."""
    try:
        return share()
    except ConfigError:
        return None


def is_jetson() -> bool:
    """Return whether this is a Jetson."""
    return Path('/etc/nv_tegra_release').exists() or 'tegra' in platform.release()


def check_python() -> Finding:
    """Look at the version of Python."""
    text = platform.python_version()
    return Finding('python', OK, text)


def check_torch() -> Finding:
    """Look whether torch works and, on a Jetson, sees the GPU."""
    try:
        torch = importlib.import_module('torch')
    except Exception as error:
        return Finding(
            'torch',
            ERROR,
            f'does not import: {error}',
            "a Jetson: NVIDIA's own torch of its JetPack; else: "
            f'{INSTALL} torch torchvision --index-url https://download.pytorch.org/whl/cpu',
        )
    cuda = bool(torch.cuda.is_available())
    text = f'{torch.__version__}, {"CUDA " + str(torch.version.cuda) if cuda else "CPU only"}'
    if is_jetson() and not cuda:
        return Finding(
            'torch',
            ERROR,
            f'{text} on a Jetson',
            f"a torch from PyPI replaced the board's own: {UNINSTALL} torch torchvision, then "
            "install the wheels of your JetPack's index",
        )
    return Finding('torch', OK, text)


def check_torchvision() -> Finding:
    """Look whether torchvision's operators fit torch."""
    try:
        importlib.import_module('torchvision')
    except ImportError as error:
        return Finding('torchvision', ERROR, f'does not import: {error}', 'install torchvision')
    except RuntimeError as error:
        if 'torchvision::' in str(error):
            return Finding(
                'torchvision',
                WARNING,
                f'{_version("torchvision")} does not fit torch {_version("torch")}',
                'classifiers work; for the rest install the pair that belongs together',
            )
        return Finding('torchvision', ERROR, str(error), 'install the one that fits torch')
    return Finding('torchvision', OK, _version('torchvision'))


def check_engine(cuda: bool = False) -> Finding:
    """
    Look which engine will serve.

    :param cuda: torch sees a GPU
    """
    try:
        onnxruntime = importlib.import_module('onnxruntime')
    except ImportError:
        return Finding(
            'engine',
            WARNING,
            'onnxruntime is not installed: torch serves, some times slower',
            f'{INSTALL} --no-deps -r {requirements()}',
        )
    except Exception as error:
        return Finding(
            'engine',
            WARNING,
            f'onnxruntime does not import: {str(error)[:120]}; torch serves',
            'install the one that fits this Python and numpy',
        )
    providers = ', '.join(onnxruntime.get_available_providers())
    version = _version('onnx')
    problem = _import_problem('onnx') if version else ''
    if problem or not version:
        why = f'but onnx {version} does not import: {problem}' if version else 'without onnx'
        return Finding(
            'engine',
            WARNING,
            f'onnxruntime {onnxruntime.__version__} {why}; no graph can be made, torch serves',
            f'{INSTALL} --no-deps -r {requirements()}',
        )
    text = f'onnxruntime {onnxruntime.__version__}: {providers}'
    if cuda and 'CUDA' not in providers and 'Tensorrt' not in providers:
        return Finding(
            'engine',
            WARNING,
            f'{text}; on the GPU torch serves, in 32 bit',
            'an onnxruntime with CUDA or TensorRT that fits this board, or device:=cpu',
        )
    return Finding('engine', OK, text)


def check_teaching_page() -> Finding:
    """Look whether the teaching page can be served."""
    version = _version('nicegui')
    if not version:
        return Finding(
            'teaching page',
            SKIPPED,
            'nicegui is not installed',
            f'{INSTALL} nicegui==3.18.0',
        )
    return Finding('teaching page', OK, f'nicegui {version}')


def check_proposers() -> Finding:
    """Look which sources of regions there are besides a detector of the robot's own."""
    from etuner_ros.core.boxes.proposer import available

    folder = _share()
    if folder is None:
        return Finding('proposers', SKIPPED, 'the package is not found; source its workspace')
    found = available(folder / 'config' / 'proposer' / 'own.onnx')
    there = ', '.join(kind for kind, reason in found.items() if not reason)
    if not there:
        return Finding('proposers', WARNING, '; '.join(found.values()), 'things need a detector')
    missing = '; '.join(reason for reason in found.values() if reason)
    return Finding('proposers', OK, f'{there} ({missing})' if missing else there)


def check_numpy() -> Finding:
    """Look whether cv_bridge, where there is one, was made for this numpy."""
    import numpy

    try:
        importlib.import_module('cv_bridge.boost.cv_bridge_boost')
    except ModuleNotFoundError:
        return Finding('numpy', OK, f'{numpy.__version__}, no cv_bridge (none is needed)')
    except Exception as error:
        return Finding(
            'numpy',
            WARNING,
            f'{numpy.__version__}, cv_bridge does not load: {str(error)[:120]}',
            f'pip brought a numpy that cv_bridge was not made for: {UNINSTALL} numpy',
        )
    return Finding('numpy', OK, f'{numpy.__version__}, cv_bridge loads')


def check_ros() -> Finding:
    """Look for ROS 2, and for wheels of two distros in one environment."""
    try:
        importlib.import_module('rclpy')
    except Exception as error:
        return Finding(
            'ros', ERROR, f'rclpy does not import: {error}', 'source ROS 2, or tools/env.sh'
        )
    distros = {
        name.split('-')[1]
        for d in metadata.distributions()
        if (name := (d.metadata['Name'] or '')).startswith('ros-')
        and name.split('-')[1] in ('humble', 'jazzy', 'kilted', 'lyrical', 'rolling')
    }
    sourced = os.environ.get('ROS_DISTRO', '')
    if len(distros) > 1 or (sourced and distros and sourced not in distros):
        mixed = ', '.join(sorted(distros | ({sourced} - {''})))
        return Finding(
            'ros',
            ERROR,
            f'parts of several distros: {mixed}',
            'make distclean, then make setup in a shell with at most one ROS 2 sourced',
        )
    return Finding('ros', OK, sourced or ', '.join(sorted(distros)) or 'found')


def _fields(definition: str) -> set[str]:
    """Return the names of a message's fields; those of constants have a `=`."""
    lines = (line.partition('#')[0] for line in definition.splitlines())
    return {line.split()[1] for line in lines if line.strip() and '=' not in line}


def check_package() -> Finding:
    """Look whether the messages are built and are those of this code."""
    try:
        messages = importlib.import_module('etuner_ros.msg')
    except Exception as error:
        return Finding(
            'messages', ERROR, f'are not built: {error}', 'colcon build, then source install/'
        )
    for file in sorted(messages_folder().glob('*.msg')):
        built = getattr(messages, file.stem, None)
        if built is None or _fields(file.read_text()) != set(built.get_fields_and_field_types()):
            text = f'are those of another build: {file.stem}'
            return Finding('messages', ERROR, text, 'colcon build again')
    return Finding('messages', OK, 'built')


def check_folders() -> list[Finding]:
    """Look whether stores can be written and have room."""
    found = []
    for name in ('models', 'labels', 'base'):
        folder = home(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f'.probe-{os.getpid()}'
            probe.write_bytes(b'x')
            probe.unlink()
            free = shutil.disk_usage(folder).free
        except OSError as error:
            found.append(
                Finding(
                    f'folder {name}',
                    ERROR,
                    f'{folder} can not be written: {error.strerror or error}',
                    'set ROS_HOME to a folder that can, or mend its owner (chown)',
                )
            )
            continue
        state = OK if free > LEAST_FREE else WARNING
        advice = '' if state == OK else 'little room: lower budget_mb and models.keep'
        found.append(Finding(f'folder {name}', state, f'{free / 1e9:.1f} GB free', advice))
    return found


def check_shared_memory() -> Finding:
    """Look for what DDS left behind after SIGKILL."""
    stale = stale_segments(os.getuid())
    if not stale:
        return Finding('shared memory', OK, 'nothing left behind')
    size = sum(p.stat().st_size for p in stale if p.exists()) / 1e6
    return Finding(
        'shared memory',
        WARNING,
        f'{len(stale)} segments of processes that were killed, {size:.0f} MB',
        'etuner doctor --clean',
    )


def check_graph(
    image_topic: str, listen_s: float = LISTEN_S, namespace: str = ''
) -> list[Finding]:
    """
    Look at the running graph: nodes, images, QoS, clocks.

    :param namespace: of the robot whose nodes are looked for, and where the topic is
    """
    from rclpy.parameter import Parameter
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import CompressedImage, Image

    from etuner_ros.cli.visiting import visitor

    heard: list[tuple[float, float]] = []  # stamp, when it came

    def on_image(message: Any) -> None:
        stamp, now = message.header.stamp, node.get_clock().now().nanoseconds / 1e9
        if now > 0:  # else the clock of the simulation has not come yet
            heard.append((stamp.sec + stamp.nanosec / 1e9, now))

    def spin(condition: Callable[[], bool], most_s: float = listen_s) -> None:
        end = time.monotonic() + most_s
        while time.monotonic() < end and not condition():
            executor.spin_once(timeout_sec=0.1)

    with visitor(namespace) as (node, executor):
        spin(lambda: node.count_publishers('/clock') > 0, CLOCK_S)
        if node.count_publishers('/clock'):  # stamps are of a simulation
            node.set_parameters([Parameter('use_sim_time', value=True)])
        kind = CompressedImage if image_topic.endswith('/compressed') else Image
        node.create_subscription(kind, image_topic, on_image, qos_profile_sensor_data)
        spin(lambda: len(heard) >= 5)
        found = [_check_nodes(node), *_check_qos(node)]
        topic = node.resolve_topic_name(image_topic)
        publishers = node.get_publishers_info_by_topic(topic)
        found.append(_check_images(topic, len(publishers), heard, listen_s))
        return found


def _check_nodes(node: Any) -> Finding:
    """Look which nodes run in the namespace of `node`, by their names and what they serve."""
    # There may be several of each, of other names; one that is not configured serves nothing.
    found: dict[str, set[tuple[str, str]]] = {role: set() for role in SERVED}
    for name, space in node.get_node_names_and_namespaces():
        if name in SERVED:
            found[name].add((space, name))
    for service, kinds in node.get_service_names_and_types():
        for role, (served, kind) in SERVED.items():
            if kind in kinds and service.endswith(served):
                space, _, name = service.removesuffix(served).rpartition('/')
                found[role].add((space or '/', name))
    here = node.get_namespace()
    names = {
        role: sorted(n for space, n in there if space == here) for role, there in found.items()
    }
    if not any(names.values()):
        others = sorted({space for there in found.values() for space, _ in there})
        if others:
            return Finding(
                'nodes',
                SKIPPED,
                f'no node of etuner_ros runs in {here}, but in {", ".join(others)}',
                f'etuner doctor --namespace {others[0]}',
            )
        return Finding(
            'nodes', SKIPPED, 'no node of etuner_ros runs', 'ros2 launch etuner_ros ...'
        )
    if missing := [role for role, there in names.items() if not there]:
        text = f'{", ".join(missing)} {"is" if len(missing) == 1 else "are"} missing in {here}'
        return Finding('nodes', ERROR, text, 'look at its log')
    return Finding('nodes', OK, ', '.join(name for there in names.values() for name in there))


def _check_images(
    topic: str, publishers: int, heard: list[tuple[float, float]], listen_s: float
) -> Finding:
    if not publishers:
        return Finding(
            'images', SKIPPED, f'nobody publishes {topic}', 'name it: --image-topic /my/image_raw'
        )
    if not heard:
        return Finding(
            'images',
            ERROR,
            f'{topic} has {publishers} publishers but no image came in {listen_s:.0f} s',
            'the camera stands still, its type is another one, or images do not get through: '
            'try it on the same computer, then raise net.core.rmem_max',
        )
    age = sorted(came - stamp for stamp, came in heard)[len(heard) // 2]
    if abs(age) > MOST_AGE_S:
        return Finding(
            'images',
            ERROR,
            f'images of {topic} are {age:.1f} s old when they come',
            'clocks are apart (set up chrony or PTP), or use_sim_time differs between nodes',
        )
    return Finding('images', OK, f'{topic}: {len(heard)} images, {1e3 * age:.0f} ms old')


def _check_qos(node: Any) -> list[Finding]:
    """Compare what is offered with what is asked for, on every topic of this package."""
    from rclpy.qos import qos_check_compatible, QoSCompatibility

    found = []
    for topic, kinds in node.get_topic_names_and_types():
        if not any(k.startswith(('etuner_ros/', 'sensor_msgs/msg/Image')) for k in kinds):
            continue
        if len(set(kinds)) > 1:
            text = f'{topic} has several types: {", ".join(sorted(kinds))}'
            found.append(Finding('qos', ERROR, text, 'remap one of them'))
        for offered in node.get_publishers_info_by_topic(topic):
            for asked in node.get_subscriptions_info_by_topic(topic):
                state, why = qos_check_compatible(offered.qos_profile, asked.qos_profile)
                if state == QoSCompatibility.ERROR:
                    found.append(
                        Finding(
                            'qos',
                            ERROR,
                            f'{topic}: {offered.node_name} does not reach {asked.node_name}: '
                            f'{why}',
                            'make the subscriber ask for less, or the publisher offer more',
                        )
                    )
    return found or [Finding('qos', OK, 'all publishers reach all subscribers')]


def examine(
    image_topic: str = 'image_raw', graph: bool = True, namespace: str = ''
) -> list[Finding]:
    """Run all checks."""
    torch = check_torch()
    found = [
        check_python(),
        torch,
        check_torchvision(),
        check_engine(torch.state == OK and 'CUDA' in torch.text),
        check_numpy(),
        check_ros(),
    ]
    found += [check_package(), check_proposers(), check_teaching_page()]
    found += [*check_folders(), check_shared_memory()]
    if graph and not any(f.check == 'ros' and f.state == ERROR for f in found):
        found += check_graph(image_topic, namespace=namespace)
    return found
