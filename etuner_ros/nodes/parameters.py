# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS parameters from settings dataclasses: declared, checked, followed at run time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from etuner_ros.core.config import Checked, INPUT_SIZE, setting
from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.typed import typed

Settings = TypeVar('Settings', bound=Checked)


@dataclass(frozen=True)
class ModelSettings(Checked):
    """Which network; the same in `inference`, `tuner` and `model_manager`."""

    architecture: str = setting(
        'efficientnet_lite0',
        'network: efficientnet_lite0, 1, 2 or the name of a torchvision classification model',
    )
    input_size: int = setting(INPUT_SIZE, 'side of the square input, in px', 32, 1024)
    weights: str = setting(
        '',
        "'' = pretrained on ImageNet; a .safetensors file of base weights (`etuner deploy`); or "
        'a state-dict file of a torchvision model',
    )


def declare(
    node: Node,
    prefix: str,
    kind: type[Settings],
    apply: Callable[[Settings], None] | None = None,
    live: Collection[str] | None = None,
) -> Settings:
    """
    Declare a parameter for each field of a settings dataclass and read them.

    An integer given for a float is taken, and for several names a list of strings as well as one
    string with commas between them, in brackets or not. Values are checked by the parameter's
    range and again by the dataclass.

    :param prefix: put before each name, as `prefix.field`; empty for none
    :param apply: takes new settings when a parameter is set at run time; without it all are
        read-only
    :param live: fields that may be set at run time; None = all
    :raises ConfigError: when a value does not fit
    """
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        name = f'{prefix}.{field.name}' if prefix else field.name
        low, high = field.metadata.get('min'), field.metadata.get('max')
        descriptor = ParameterDescriptor(
            description=field.metadata['help'],
            read_only=apply is None or (live is not None and field.name not in live),
            dynamic_typing=isinstance(field.default, (float, tuple)),
        )
        if (
            isinstance(field.default, int)
            and not isinstance(field.default, bool)
            and low is not None
        ):
            descriptor.integer_range = [
                IntegerRange(
                    from_value=int(low), to_value=int(high if high is not None else 2**62)
                )
            ]
        elif isinstance(field.default, float) and low is not None:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(low), to_value=float(high if high is not None else 1e300)
                )
            ]
        if not node.has_parameter(name):
            try:
                default = field.default
                # An empty list has no type of its own; an empty string says the same.
                node.declare_parameter(name, '' if default == () else default, descriptor)
            except rclpy.exceptions.ParameterException as error:
                raise ConfigError(
                    f'parameter {name} is refused: {error} ({descriptor.description})'
                ) from error
        values[field.name] = typed(name, field.default, node.get_parameter(name).value)
    settings = kind(**values)
    if apply is not None:
        if not hasattr(node, '_follower'):
            node._follower = _Follower(node)  # type: ignore[attr-defined]
        node._follower.followed[prefix] = _Followed(settings, apply)  # type: ignore[attr-defined]
    return settings


@dataclass
class _Followed:
    """Settings whose parameters may be set at run time."""

    settings: Any
    apply: Callable[[Any], None]


class _Follower:
    """
    The one callback of a node for parameters that are set at run time.

    All settings are checked before any is applied: of a call that sets several parameters at once,
    none counts when one does not fit.
    """

    def __init__(self, node: Node) -> None:
        self.followed: dict[str, _Followed] = {}  # by prefix
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        new: dict[str, Any] = {}
        try:
            for parameter in parameters:
                prefix, _, name = parameter.name.rpartition('.')
                followed = self.followed.get(prefix)
                if followed is not None and hasattr(followed.settings, name):
                    settings = new.get(prefix, followed.settings)
                    value = typed(parameter.name, getattr(settings, name), parameter.value)
                    new[prefix] = replace(settings, **{name: value})
            for prefix, settings in new.items():
                self.followed[prefix].apply(settings)
                self.followed[prefix].settings = settings
        except EtunerError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)
