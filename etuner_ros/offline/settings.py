# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the nodes would be started with, read from their files of parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from etuner_ros.core.config import (
    GateConfig,
    HeadConfig,
    INPUT_SIZE,
    LazyTuneConfig,
    ScenarioConfig,
    SimFreezeConfig,
    TrainConfig,
)
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.images.labelled import check_input_size
from etuner_ros.core.labels.settings import CollectorSettings
from etuner_ros.core.typed import typed

C = TypeVar('C')


@dataclass(frozen=True)
class RobotSettings:
    """The settings of a robot that learns."""

    train: TrainConfig
    rounds: bool  # whether any start by themselves
    lazy: LazyTuneConfig
    sim_freeze: SimFreezeConfig
    head: HeadConfig
    scenario: ScenarioConfig
    gate: GateConfig
    collector: CollectorSettings
    architecture: str
    input_size: int
    weights: str  # base weights; '' = pretrained
    engine: str  # that predicts


def read_settings(files: Sequence[Path]) -> RobotSettings:
    """
    Read settings as `ros2 launch` hands them to the nodes; of what stands twice the last counts.

    :raises ConfigError: when a file can not be read, or a value does not fit
    """
    nodes = {n: _parameters(files, n) for n in ('tuner', 'label_collector', 'model_manager')}

    def section(node: str, kind: type[C], prefix: str) -> C:
        known = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
        values = {
            name: typed(f'{prefix}{name}', known[name], value)
            for name, value in _below(nodes[node], prefix).items()
            if name in known
        }
        return kind(**values)

    def text(name: str, default: str) -> str:
        return str(typed(name, default, nodes['tuner'].get(name, default)))

    named = 'model.input_size'
    size = int(typed(named, INPUT_SIZE, nodes['tuner'].get(named, INPUT_SIZE)))
    check_input_size(named, size)
    return RobotSettings(
        replace(section('tuner', TrainConfig, 'train.'), niceness=0),
        typed('rounds', True, nodes['tuner'].get('rounds', True)),
        section('tuner', LazyTuneConfig, 'lazy_tune.'),
        section('tuner', SimFreezeConfig, 'sim_freeze.'),
        section('tuner', HeadConfig, 'head.'),
        section('tuner', ScenarioConfig, 'scenario.'),
        section('model_manager', GateConfig, 'gate.'),
        section('label_collector', CollectorSettings, ''),
        text('model.architecture', 'efficientnet_lite0'),
        size,
        text('model.weights', ''),
        text('engine', 'auto'),
    )


def _parameters(files: Sequence[Path], node: str) -> dict[str, Any]:
    """Return the parameters of a node, by their dotted names."""
    found: dict[str, Any] = {}
    for file in files:
        try:
            sections = yaml.safe_load(file.expanduser().read_text('utf-8')) or {}
            for name, section in sections.items():
                if name.split('/')[-1] in (node, '**'):
                    found |= _flat(section.get('ros__parameters', {}))
        except (OSError, ValueError, yaml.YAMLError, AttributeError) as error:
            text = ' '.join(str(error).split())  # those of YAML have several lines
            raise ConfigError(f'{file} is no file of parameters: {text}') from error
    return found


def _flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f'{prefix}{name}.')
        else:
            found[prefix + name] = value
    return found


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
