# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Start the whole system.

Nothing is evaluated or installed here. Every node respawns when it dies; lifecycle nodes bring
themselves up (`autostart`). Two instances in two namespaces run side by side: all topic names are
relative.
"""

from pathlib import Path
import re
from tempfile import NamedTemporaryFile

from launch.actions import DeclareLaunchArgument, GroupAction, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchDescription

ARGUMENTS = {
    'source': (
        '',
        'what the camera node plays: /dev/video0, a video, a folder, a recording; empty leaves '
        "the node out (the robot's own driver)",
    ),
    'image_topic': (
        'image_raw',
        "the robot's image topic that inference listens to, when it is not image_raw",
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
    'teacher': ('false', 'true starts the teaching page on http://localhost:8090'),
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
# A section of a params file, by a node's name alone or in any namespace.
SECTION = re.compile(rf'^(["\']?)(?:/\*\*/)?({"|".join(NODES)})\b', re.MULTILINE)


def addressed(params_file, namespace):
    """
    Return a copy of a params file in which the nodes' sections name this namespace.

    ROS takes a name alone for one in the root namespace. And where two sections fit a node, ROS
    takes the one whose name came first in all files for the weaker one: under the names that
    config/etuner.yaml uses, a section would be weaker than `/**` of the same file.
    """
    text = Path(params_file).expanduser().read_text()
    with NamedTemporaryFile('w', prefix='etuner_params_', suffix='.yaml', delete=False) as copy:
        copy.write(SECTION.sub(lambda found: f'{found[1]}{namespace}/{found[2]}', text))
    return copy.name


def compose(context):
    """Put the nodes together; arguments are declared outside, so that --show-args lists them."""

    def given(names, kind):
        """Return the parameters whose arguments are not empty, by argument."""
        return {
            parameter: ParameterValue(LaunchConfiguration(argument), value_type=kind)
            for argument, parameter in names.items()
            if LaunchConfiguration(argument).perform(context)
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
    name = given({'camera_name': 'source'}, str)
    seeing = given({'image_transport': 'image_transport', 'device': 'device'}, str)
    training = given({'device': 'train.device'}, str)

    images = [
        ('image_raw', LaunchConfiguration('image_topic')),
        ('image_raw/compressed', [LaunchConfiguration('image_topic'), '/compressed']),
    ]
    battery = [('battery', LaunchConfiguration('battery'))]

    def node(executable, own=None, **options):
        return Node(
            package='etuner_ros',
            executable=executable,
            name=executable,
            parameters=[*files, {**shared, **(own or {})}],
            output='screen',
            respawn=True,
            respawn_delay=2.0,
            ros_arguments=['--log-level', LaunchConfiguration('log_level')],
            **options,
        )

    nodes = [
        node('model_manager', autostart),
        node(
            'inference',
            {**autostart, **name, **seeing},
            remappings=[*images, *battery],
        ),
        # Its matrices are small: a second thread would mostly wait for a core that is busy.
        node('label_collector', name, additional_env={'OPENBLAS_NUM_THREADS': '1'}),
        node('tuner', training, remappings=battery),
        node('teacher', condition=IfCondition(LaunchConfiguration('teacher'))),
        node('operator', condition=IfCondition(LaunchConfiguration('operator'))),
    ]
    if LaunchConfiguration('source').perform(context):
        playing = {**given({'source': 'source'}, str), **given({'autoplay': 'autoplay'}, bool)}
        nodes.append(node('camera', playing, remappings=images))
    if LaunchConfiguration('proposer').perform(context):
        proposing = {
            **given({'proposer': 'kind', 'image_transport': 'image_transport'}, str),
            **name,
        }
        nodes.append(node('proposer', proposing, remappings=images))
    if LaunchConfiguration('metrics').perform(context) not in ('', '0'):
        nodes.append(node('metrics', given({'metrics': 'port'}, int)))
    return [GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), *nodes])]


def generate_launch_description():
    """Return the description."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=compose)])
