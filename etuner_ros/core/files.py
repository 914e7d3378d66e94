# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files that survive a crash: written aside, synced, renamed, the folder synced."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and sync it."""
    with path.open('wb') as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """
    Replace a file in one step: a reader sees the old bytes or the new ones, also after power loss.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        write_synced(aside, data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def home(name: str) -> Path:
    """
    Return a folder for lasting data: `$ROS_HOME/etuner/<name>`, by default `~/.ros/etuner/<name>`.
    """
    return Path(os.environ.get('ROS_HOME') or Path.home() / '.ros') / 'etuner' / name


def models_home(namespace: str) -> Path:
    """
    Return the folder of the model store of the nodes in a namespace: each has its own.

    >>> models_home('/').name, '/'.join(models_home('/arm/front').parts[-3:])
    ('models', 'models/ns/arm.front')
    """
    name = namespace.strip('/').replace('/', '.')
    return home('models') / 'ns' / name if name else home('models')
