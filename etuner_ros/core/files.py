# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files that survive a crash: written aside, synced, renamed, the folder synced."""

from __future__ import annotations

from contextlib import suppress
import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from etuner_ros.core.errors import ConfigError

ASIDE = '.etuner-part'  # ends the name of a file that is being written; nobody else's does


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

    What writers in the same folder left that were killed is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_asides(path.parent)
    aside = path.with_name(f'.{path.name}.{os.getpid()}{ASIDE}')
    try:
        # Locked until it has its name: so others know that its writer lives.
        with _open_locked(aside) as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def clear_asides(folder: Path) -> None:
    """Remove what writers in a folder left that are gone."""
    for aside in folder.glob(f'.*{ASIDE}'):
        # Somebody writes it, or it has its name by now.
        with suppress(OSError), aside.open('rb') as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            aside.unlink()


def _open_locked(aside: Path) -> BinaryIO:
    """Open a file for this process alone."""
    while True:
        stream = aside.open('wb')
        with suppress(OSError):  # a file system without locks: then nobody clears anything either
            fcntl.flock(stream, fcntl.LOCK_EX)
        # Between `open` and `flock` another one may have taken it for a file that was left.
        if aside.exists() and aside.stat().st_ino == os.fstat(stream.fileno()).st_ino:
            return stream
        stream.close()


def share() -> Path:
    """
    Return the folder of what comes with the package beside its code (`config`, `msg`): of this
    source tree, else as colcon or pip installed it.

    :raises ConfigError: when there is none
    """
    here = Path(__file__).resolve()
    if (here.parents[2] / 'package.xml').is_file():
        return here.parents[2]
    for folder in here.parents:
        if (folder / 'share' / 'etuner_ros' / 'config').is_dir():
            return folder / 'share' / 'etuner_ros'
    raise ConfigError(
        f'what comes with etuner_ros (share/etuner_ros) is not beside {here.parents[1]}: install '
        f'the package by colcon or pip instead of copying its code'
    )


def recorded_stream() -> Path:
    """Return the folder of the recording that comes with the package."""
    return share() / 'config' / 'stream'


def own_proposer() -> Path:
    """Return the file of the proposer that comes with the package."""
    return share() / 'config' / 'proposer' / 'own.onnx'


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
