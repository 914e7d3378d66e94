# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `ros2 launch` starts, as a recipe of the benchmark: read from the very file."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from etuner_ros.bench.methods.tuned import Recipe
from etuner_ros.core.config import (
    GateConfig,
    HeadConfig,
    LazyTuneConfig,
    ScenarioConfig,
    SimFreezeConfig,
    TrainConfig,
)
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.files import share
from etuner_ros.core.labels.settings import CollectorSettings

C = TypeVar('C')
SECTIONS = ('train', 'lazy_tune', 'sim_freeze', 'head', 'gate', 'scenario')
# Parameters of the tuner that change nothing of what is learned.
ELSE = ('engine', 'precision', 'budget')


@dataclass(frozen=True)
class Shipped:
    """What a robot runs without settings of its own."""

    recipe: Recipe
    scenario: ScenarioConfig  # of the detector of changes
    batch_size: int  # labelled samples that the label collector hands on together


def parameters_file() -> Path:
    """Return the file of parameters that `ros2 launch` starts with."""
    return share() / 'config' / 'etuner.yaml'


def shipped_recipe(file: Path | None = None) -> Shipped:
    """
    Read the settings that `ros2 launch` starts with.

    :param file: parameters of the nodes; None for the shipped ones
    :raises ConfigError: when it names what the benchmark does not know
    """
    file = file or parameters_file()
    nodes = yaml.safe_load(file.read_text())
    tuner = nodes.get('/**/tuner', {}).get('ros__parameters', {})
    collector = nodes.get('/**/label_collector', {}).get('ros__parameters', {})
    for name in tuner:
        if name not in (*SECTIONS, *ELSE):
            raise ConfigError(f"{file.name}: the benchmark does not know the tuner's '{name}'")

    def read(kind: type[C], section: str) -> C:
        values: dict[str, Any] = tuner.get(section, {})
        known = {f.name for f in fields(kind)}  # type: ignore[arg-type]
        unknown = ', '.join(f'{section}.{name}' for name in values if name not in known)
        if unknown:
            raise ConfigError(f'{file.name}: the benchmark does not know {unknown}')
        return kind(**values)

    batch_size = int(collector.get('batch_size', CollectorSettings().batch_size))
    recipe = Recipe(
        train=replace(read(TrainConfig, 'train'), device='cpu', threads=1, niceness=0),
        lazy=read(LazyTuneConfig, 'lazy_tune'),
        sim_freeze=read(SimFreezeConfig, 'sim_freeze'),
        head=read(HeadConfig, 'head'),
        gate=read(GateConfig, 'gate'),
        collected=batch_size,
    )
    return Shipped(recipe, read(ScenarioConfig, 'scenario'), batch_size)


@lru_cache(maxsize=1)
def shipped() -> Shipped:
    """Return what this package ships; read once."""
    return shipped_recipe()
