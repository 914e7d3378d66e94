# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Start the whole system.

Nothing is evaluated or installed here. Every node respawns when it dies; lifecycle nodes bring
themselves up (`autostart`). Two instances in two namespaces run side by side: all topic names are
relative.
"""

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
    'params_file': (
        '',
        "a YAML file with parameters that win over the package's config/etuner.yaml",
    ),
    'namespace': ('', 'namespace of all nodes'),
    'camera_name': (
        '',
        'name of the camera pipeline in predictions and labels; empty: see the params file',
    ),
    'teacher': ('false', 'true starts the teaching page on http://localhost:8090'),
    'operator': ('false', 'true starts the scripted operator, which corrects from ground truth'),
    'autostart': ('true', 'false waits for an external lifecycle manager'),
    'autoplay': ('true', 'false: the camera node waits for ~/play'),
    'use_sim_time': ('false', 'true follows /clock'),
    'log_level': ('info', 'debug, info, warn, error'),
}


def compose(context):
    """Put the nodes together; arguments are declared outside, so that --show-args lists them."""
    defaults = PathJoinSubstitution([FindPackageShare('etuner_ros'), 'config', 'etuner.yaml'])
    files = [defaults]
    if LaunchConfiguration('params_file').perform(context):
        files.append(LaunchConfiguration('params_file'))
    shared = {'use_sim_time': ParameterValue(LaunchConfiguration('use_sim_time'), value_type=bool)}
    for argument, parameter in (('model', 'model.architecture'), ('weights', 'model.weights')):
        if LaunchConfiguration(argument).perform(context):
            shared[parameter] = ParameterValue(LaunchConfiguration(argument), value_type=str)
    autostart = {'autostart': ParameterValue(LaunchConfiguration('autostart'), value_type=bool)}
    name = {}
    if LaunchConfiguration('camera_name').perform(context):
        name['source'] = ParameterValue(LaunchConfiguration('camera_name'), value_type=str)

    images = [
        ('image_raw', LaunchConfiguration('image_topic')),
        ('image_raw/compressed', [LaunchConfiguration('image_topic'), '/compressed']),
    ]

    def node(executable, own=None, **options):
        return Node(
            package='etuner_ros',
            executable=executable,
            name=executable,
            parameters=[*files, shared, own or {}],
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
            {**autostart, **name},
            remappings=images,
        ),
        # Its matrices are small: a second thread would mostly wait for a core that is busy.
        node('label_collector', name, additional_env={'OPENBLAS_NUM_THREADS': '1'}),
        node('tuner'),
        node('teacher', condition=IfCondition(LaunchConfiguration('teacher'))),
        node('operator', condition=IfCondition(LaunchConfiguration('operator'))),
    ]
    if LaunchConfiguration('source').perform(context):
        playing = {
            'source': ParameterValue(LaunchConfiguration('source'), value_type=str),
            'autoplay': ParameterValue(LaunchConfiguration('autoplay'), value_type=bool),
        }
        nodes.append(node('camera', playing, remappings=images))
    return [GroupAction([PushRosNamespace(LaunchConfiguration('namespace')), *nodes])]


def generate_launch_description():
    """Return the description."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=compose)])
