# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Start the whole system.

Nothing is evaluated or installed here. Every node respawns when it dies; lifecycle nodes bring
themselves up (`autostart`). Two instances in two namespaces run side by side: all topic names are
relative.
"""

import hashlib
import os
from pathlib import Path
import re
import tempfile

from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.substitutions import FindPackageShare
import yaml

from etuner_ros.core.files import home, replace_file
from launch import LaunchDescription

ARGUMENTS = {
    'source': (
        '',
        'what the camera node plays: /dev/video0, a video, a folder, a recording; empty leaves '
        "the node out (the robot's own driver)",
    ),
    'image_topic': (
        'image_raw',
        "the robot's image topic that inference listens to, when it is not image_raw; with "
        'cameras below the name of each: color/image_raw is front/color/image_raw',
    ),
    'cameras': (
        '',
        'several cameras by one inference node: [front,rear] listens to front/image_raw and '
        'rear/image_raw; empty: one camera',
    ),
    'image_transport': (
        '',
        'raw or compressed: listen to the image topic, or to it with /compressed; empty: see the '
        'params file (raw)',
    ),
    'battery': (
        'battery',
        "the robot's topic of sensor_msgs/BatteryState, for the budget and for variants",
    ),
    'device': (
        '',
        'what predicts and trains: auto, cpu, cuda, cuda:1; empty: see the params file (auto)',
    ),
    'model': (
        '',
        'network: efficientnet_lite0 or a torchvision classification model; empty takes that of '
        'the params file',
    ),
    'weights': (
        '',
        'base weights made by `etuner deploy`; empty takes those of the params file, or the '
        'pretrained ones',
    ),
    'engine': (
        '',
        'what serves: auto, onnxruntime or torch; empty: see the params file (auto)',
    ),
    'precision': (
        '',
        'auto, fp32, int8 or fp16 (CUDA); empty: see the params file (auto)',
    ),
    'params_file': (
        '',
        "a YAML file with parameters that win over the package's config/etuner.yaml; names of "
        'nodes in it count in the namespace of this launch',
    ),
    'namespace': ('', 'namespace of all nodes'),
    'camera_name': (
        '',
        'name of the camera pipeline in predictions and labels; empty: see the params file',
    ),
    'composed': (
        'false',
        'true runs inference, model_manager, label_collector and tuner in one process: a little '
        'less memory',
    ),
    'tuner': ('true', 'false leaves the tuner out: another computer has it'),
    'teacher': ('false', 'true starts the teaching page on http://localhost:8090'),
    'teacher_port': (
        '',
        'TCP port of the teaching page, another one for each robot on one computer; empty: 8090, '
        'if params_file does not say another one',
    ),
    'teacher_host': (
        '',
        'address that the teaching page listens on, 0.0.0.0 for other computers and phones, which '
        'needs teacher_token; empty: this computer alone, if params_file does not say another one',
    ),
    'teacher_token': (
        '',
        'secret that opens the teaching page, http://robot:8090/?token=...; whoever may list the '
        'processes of this computer reads it here, and not in a params_file',
    ),
    'metrics': (
        '0',
        'TCP port on which metrics are served to Prometheus, on this computer alone, for example '
        '9464; 0 = off',
    ),
    'proposer': (
        '',
        'auto, ssd or own: starts the node that says where things may be, for a robot without a '
        'detector; empty leaves it out',
    ),
    'operator': ('false', 'true starts the scripted operator, which corrects from ground truth'),
    'autostart': (
        '',
        'false waits for an external lifecycle manager; empty: see the params file (true)',
    ),
    'autoplay': ('', 'false: the camera node waits for ~/play; empty: see the params file (true)'),
    'use_sim_time': ('', 'true follows /clock; empty: see the params file (false)'),
    'log_level': ('info', 'debug, info, warn, error'),
}


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
# Run by `robot` in one process.
COMPOSED = ('model_manager', 'inference', 'label_collector', 'tuner')
MOST_FILES = 100  # of parameters that are kept, of all launches
# A section of a params file, by a node's name alone or in any namespace.
SECTION = re.compile(rf'^(["\']?)(?:/\*\*/)?({"|".join(NODES)})\b', re.MULTILINE)
# Begins the sections that hold arguments. Where several sections fit a node, ROS takes the one
# whose name came first in all files for the weakest; so this is a name that no other file has.
ARGUED = '/**/**/'


def addressed(params_file, namespace):
    """
    Return a copy of a params file in which the nodes' sections name this namespace.

    ROS takes a name alone for one in the root namespace. And where two sections fit a node, ROS
    takes the one whose name came first in all files for the weaker one: under the names that
    config/etuner.yaml uses, a section would be weaker than `/**` of the same file.
    """
    text = Path(params_file).expanduser().read_text()
    return kept(SECTION.sub(lambda found: f'{found[1]}{namespace}/{found[2]}', text))


def kept(text):
    """
    Return a file of parameters that lasts as long as nodes may be started again.

    The same text is the same file, however often it is launched; of all texts the newest are kept.
    """
    folder = home('launch')
    path = folder / f'{hashlib.sha256(text.encode()).hexdigest()[:16]}.yaml'
    try:
        # For us alone: a file of parameters may hold the token of the teaching page.
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        if not path.exists() or path.read_text() != text:
            replace_file(path, text.encode())
        path.chmod(0o600)
        os.utime(path)
    except (OSError, ValueError):  # a full disk, a damaged file: the robot is to start
        path = Path(tempfile.mkdtemp(prefix='etuner_launch_')) / path.name
        path.touch(0o600)
        path.write_text(text)
        return str(path)
    for old in sorted(folder.glob('*.yaml'), key=written)[:-MOST_FILES]:
        old.unlink(missing_ok=True)
    return str(path)


def written(path):
    """Return when a file was written; one that another launch has just removed is the oldest."""
    return path.stat().st_mtime_ns if path.exists() else 0


def switch(name, text):
    """
    Return whether an argument is true, by the words that IfCondition knows.

    :raises ValueError: when it is none of them, with the argument's name
    """
    word = text.strip().lower()
    if word not in ('true', '1', 'false', '0'):
        raise ValueError(f'{name}:={text} is neither true (1) nor false (0)')
    return word in ('true', '1')


def plain(name, text, kind):
    """
    Return the value of an argument as ROS takes it in a file of parameters.

    :raises ValueError: when it is of another type, with the argument's name
    """
    if kind is bool:
        return switch(name, text)
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f'{name}:={text} is not a whole number') from error


def heard(context):
    """Return the names of several cameras, and remappings of the topics that are listened to."""
    topic = LaunchConfiguration('image_topic').perform(context)
    several = LaunchConfiguration('cameras').perform(context).strip('[] ')
    cameras = [part.strip() for part in several.split(',') if part.strip()]
    if cameras and topic.startswith('/'):
        raise ValueError(
            f'image_topic:={topic} can not be below the name of each of cameras:=[{several}]: '
            f'give it without the first slash'
        )
    images = [
        (f'{camera}{name}', f'{camera}{topic}{kind}')
        for camera in ([f'{camera}/' for camera in cameras] or [''])
        for name, kind in (('image_raw', ''), ('image_raw/compressed', '/compressed'))
    ]
    return cameras, images


def compose(context):
    """Put the nodes together; arguments are declared outside, so that --show-args lists them."""

    def given(names, kind):
        """Return the parameters whose arguments are not empty."""
        return {
            parameter: plain(argument, text, kind)
            for argument, parameter in names.items()
            if (text := LaunchConfiguration(argument).perform(context))
        }

    namespace = LaunchConfiguration('namespace').perform(context)
    if not namespace.startswith('/'):
        outer = context.launch_configurations.get('ros_namespace', '').strip('/')
        namespace = '/'.join(['', *filter(None, (outer, namespace))])
    files = [PathJoinSubstitution([FindPackageShare('etuner_ros'), 'config', 'etuner.yaml'])]
    if params_file := LaunchConfiguration('params_file').perform(context):
        files.append(addressed(params_file, namespace.rstrip('/')))
    shared = {
        **given({'use_sim_time': 'use_sim_time'}, bool),
        **given({'model': 'model.architecture', 'weights': 'model.weights'}, str),
        **given({'engine': 'engine', 'precision': 'precision'}, str),
    }
    autostart = given({'autostart': 'autostart'}, bool)
    cameras, images = heard(context)
    name = given({'camera_name': 'source'}, str)
    if cameras and not name:
        # That corrections without one are about.
        name = {'source': cameras[0]}
    watching = {'cameras': ','.join(cameras)} if cameras else {}
    seeing = given({'image_transport': 'image_transport', 'device': 'device'}, str)
    training = given({'device': 'train.device'}, str)

    battery = [('battery', LaunchConfiguration('battery'))]

    def switched(argument):
        return switch(argument, LaunchConfiguration(argument).perform(context))

    processes = []  # executable and options of each
    sections = {}  # what arguments give each node

    def process(executable, parameters, **options):
        """Have a process run nodes, with parameters of each that win over all files."""
        for each, values in parameters.items():
            if values:
                sections[f'{ARGUED}{each}'] = {'ros__parameters': values}
        processes.append((executable, options))

    def node(executable, own=None, **options):
        process(executable, {executable: {**shared, **(own or {})}}, name=executable, **options)

    # The collector's matrices are small: a second thread would mostly wait for a busy core.
    one_thread = {'OPENBLAS_NUM_THREADS': '1'}
    own = {
        'model_manager': autostart,
        'inference': {**autostart, **name, **seeing, **watching},
        'label_collector': name,
        'tuner': training,
    }

    tunes_here = switched('tuner')
    if switched('composed'):
        if not tunes_here:
            raise ValueError('tuner:=false does not go with composed:=true, which has the tuner')
        parameters = {each: {**shared, **own[each]} for each in COMPOSED}
        # Without a `name`: that would be the one of each node in it.
        remappings = [*images, *battery]
        process('robot', parameters, remappings=remappings, additional_env=one_thread)
    else:
        node('model_manager', own['model_manager'])
        node('inference', own['inference'], remappings=[*images, *battery])
        node('label_collector', own['label_collector'], additional_env=one_thread)
        if tunes_here:
            node('tuner', own['tuner'], remappings=battery)
    if switched('teacher'):
        page = {'teacher_host': 'host', 'teacher_token': 'token'}
        node('teacher', {**watching, **given({'teacher_port': 'port'}, int), **given(page, str)})
    if switched('operator'):
        node('operator')
    if LaunchConfiguration('source').perform(context):
        playing = {**given({'source': 'source'}, str), **given({'autoplay': 'autoplay'}, bool)}
        first = f'{cameras[0]}/' if cameras else ''
        seen = [(heard.removeprefix(first), topic) for heard, topic in images[:2]]
        node('camera', playing, remappings=seen)
    if LaunchConfiguration('proposer').perform(context):
        proposing = {
            **given({'proposer': 'kind', 'image_transport': 'image_transport'}, str),
            **name,
            **watching,
        }
        node('proposer', proposing, remappings=images)
    if LaunchConfiguration('metrics').perform(context) not in ('', '0'):
        node('metrics', given({'metrics': 'port'}, int))
    if sections:
        files.append(kept(yaml.safe_dump(sections)))
    nodes = [
        Node(
            package='etuner_ros',
            executable=executable,
            parameters=files,
            output='screen',
            respawn=True,
            respawn_delay=2.0,
            ros_arguments=['--log-level', LaunchConfiguration('log_level')],
            **options,
        )
        for executable, options in processes
    ]
    return [GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), *nodes])]


def generate_launch_description():
    """Return the description."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=compose)])
