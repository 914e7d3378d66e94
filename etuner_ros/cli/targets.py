# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a command is to write when its work is done."""

from __future__ import annotations

from pathlib import Path
import tempfile

from etuner_ros.core.errors import ConfigError


def check_target(path: Path) -> None:
    """
    Look whether a file can be written, before hours of work for it; makes its folder.

    :raises ConfigError: when it can not
    """
    if path.is_dir():
        raise ConfigError(f'{path} can not be written: it is a folder')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ConfigError(f'{path} can not be written: {error.strerror or error}') from error
