# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Values of parameters in the type that their setting has."""

from __future__ import annotations

from typing import Any

from etuner_ros.core.errors import ConfigError


def typed(name: str, like: Any, value: Any) -> Any:
    """
    Return a value in the type of another one; an integer is taken for a float.

    :raises ConfigError: when it is of another type
    """
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(like):
        raise ConfigError(f'parameter {name} must be a {type(like).__name__}, got {value!r}')
    return value
