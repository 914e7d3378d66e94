# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Values of parameters in the type that their setting has."""

from __future__ import annotations

from typing import Any

from etuner_ros.core.errors import ConfigError


def typed(name: str, like: Any, value: Any) -> Any:
    """
    Return a value in the type of another one; an integer is taken for a float, and for a tuple of
    names a list as well as one text.

    :raises ConfigError: when it is of another type
    """
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    if isinstance(like, tuple):
        return _names(name, value)
    if type(value) is not type(like):
        raise ConfigError(f'parameter {name} must be a {type(like).__name__}, got {value!r}')
    return value


def _names(name: str, value: Any) -> tuple[str, ...]:
    """
    Return names that are given as a list, or as one string such as 'front,rear' or '[front,rear]'.

    :raises ConfigError: when they are neither
    """
    if isinstance(value, str):
        parts = [part.strip(' \'"') for part in value.strip().strip('[]').split(',')]
    elif isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        parts = [part.strip() for part in value]
    else:
        raise ConfigError(f'parameter {name} must be a list of names, got {value!r}')
    return tuple(part for part in parts if part)
