# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What people are advised to type on a robot when a Python package is missing or wrong."""

from __future__ import annotations

from pathlib import Path

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.files import share

# The pip of Ubuntu 24.04 refuses to work beside apt without the variable.
PIP = 'PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip'
INSTALL = f'{PIP} install --user'
UNINSTALL = f'{PIP} uninstall'


def requirements() -> Path:
    """Return the list of what rosdep does not have."""
    name = 'requirements-robot.txt'
    try:
        return share() / name
    except ConfigError:
        return Path(name)
