# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every method of the benchmark by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from etuner_ros.bench.methods.base import Method
from etuner_ros.bench.methods.base import World
from etuner_ros.bench.methods.frozen_features import DeepSLDA
from etuner_ros.bench.methods.frozen_features import NearestMean
from etuner_ros.bench.methods.frozen_features import Never
from etuner_ros.bench.methods.frozen_features import Ridge
from etuner_ros.bench.methods.tuned import Recipe
from etuner_ros.bench.methods.tuned import Tuned
from etuner_ros.core.config import GateConfig
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.config import LazyTuneConfig
from etuner_ros.core.config import SimFreezeConfig
from etuner_ros.core.config import TrainConfig

# The recipe of every rival that trains: new views each time, no early stop, all labels are learned
# from.
RIVAL = TrainConfig(
    epochs=2.0,
    max_iterations=100000,
    early_stop=0.0,
    views=0,
    cache_mb=0.0,
    validation_share=0.0,
    device='cpu',
)
OURS = TrainConfig(device='cpu')


def recipes() -> dict[str, Recipe]:
    immediate = Recipe(RIVAL)
    lazy = LazyTuneConfig()
    held = replace(RIVAL, validation_share=0.1)
    etuner = replace(immediate, train=held, lazy=lazy, sim_freeze=SimFreezeConfig())
    head = HeadConfig()
    return {
        'immediate': immediate,
        'immediate+head': replace(immediate, head=head),
        **{f's{k}': replace(immediate, trigger=k) for k in (1, 2, 4, 8, 16)},
        'oracle': replace(immediate, oracle=True),
        'lazytune': replace(immediate, train=held, lazy=lazy),
        'simfreeze': replace(immediate, sim_freeze=SimFreezeConfig()),
        'etuner': etuner,
        'etuner+head': replace(etuner, head=head),
        'full': Recipe(OURS, lazy=lazy, sim_freeze=SimFreezeConfig(), head=head, gate=GateConfig()),
    }


def methods() -> dict[str, Callable[[World], Method]]:
    found: dict[str, Callable[[World], Method]] = {
        'never': Never, 'slda': DeepSLDA, 'ncm': NearestMean, 'ridge': Ridge}
    for name, recipe in recipes().items():
        found[name] = partial(Tuned, recipe=recipe)
    return found
