# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every method of the benchmark by name, with its settings and where it is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from etuner_ros.bench.methods.autofreeze import AutoFreeze
from etuner_ros.bench.methods.base import Method, World
from etuner_ros.bench.methods.egeria import Egeria
from etuner_ros.bench.methods.ekya import Ekya
from etuner_ros.bench.methods.frozen_features import DeepSLDA, NearestMean, Never, Ridge
from etuner_ros.bench.methods.latent_replay import LatentReplay
from etuner_ros.bench.methods.rigl import RigL
from etuner_ros.bench.methods.slimfit import SlimFit
from etuner_ros.bench.methods.tuned import Recipe, Tuned
from etuner_ros.core.config import (
    GateConfig,
    HeadConfig,
    LazyTuneConfig,
    SimFreezeConfig,
    TrainConfig,
)

# How every rival trains: new views each time, no early stop, every label is learned from. Step
# size and epochs are the best of the search for `immediate`.
RIVAL = TrainConfig(
    learning_rate=1e-4,
    epochs=4.0,
    batch_size=16,
    max_iterations=100000,
    early_stop=0.0,
    views=0,
    flip=False,
    cache_mb=0.0,
    validation_share=0.0,
    unlabelled_frames=100,
    device='cpu',
)
HELD = replace(RIVAL, validation_share=0.1)  # for those that need to measure themselves
PAPER_FREEZE = SimFreezeConfig(start_frozen_share=0.0, max_frozen_share=0.6)
# The whole system, as it runs on the robot with config/thrifty.yaml.
OURS = TrainConfig(
    learning_rate=5e-4,
    epochs=1.0,
    max_iterations=100000,
    batch_size=8,
    views=1,
    flip=True,
    unlabelled_frames=100,
    device='cpu',
)
OUR_LAZY = LazyTuneConfig(min_batches=4, max_batches=8, pays=True)
OUR_FREEZE = SimFreezeConfig(start_frozen_share=0.56, max_frozen_share=0.56)
OUR_HEAD = HeadConfig(
    prior=1.0, prior_memory=48.0, max_samples=200, reuse=True, unlabelled_weight=0.0
)


@dataclass(frozen=True)
class Entry:
    """A method of the table."""

    make: Callable[[World], Method]
    source: str
    settings: Any = None


def _tuned(recipe: Recipe, source: str, kind: type[Tuned] = Tuned) -> Entry:
    return Entry(partial(kind, recipe=recipe), source, recipe)


def entries() -> dict[str, Entry]:
    """Return all methods in the order of the table."""
    immediate = Recipe(RIVAL)
    head, gate = OUR_HEAD, GateConfig()
    lazy = LazyTuneConfig(max_batches=OUR_LAZY.max_batches)
    etuner = Recipe(HELD, lazy=lazy, sim_freeze=PAPER_FREEZE)
    cached = replace(HELD, views=OURS.views, flip=OURS.flip, cache_mb=OURS.cache_mb)
    seeing = replace(head, unlabelled_weight=0.5)
    full = Recipe(OURS, lazy=OUR_LAZY, sim_freeze=OUR_FREEZE, head=seeing, gate=gate)
    mensink = 'nearest class mean; Mensink et al., TPAMI 2013'
    found = {
        'never': Entry(Never, 'the deployed model, untouched'),
        'ncm': Entry(NearestMean, mensink),
        'slda': Entry(DeepSLDA, 'Deep SLDA; Hayes & Kanan, CVPRW 2020'),
        'ridge': Entry(Ridge, 'ridge regression on frozen features'),
        'immediate': _tuned(immediate, 'fine-tuning on every batch as it arrives'),
        'immediate+head': _tuned(
            replace(immediate, head=head), 'the same, served by our instant head'
        ),
        'immediate+head+unlabelled': _tuned(
            replace(immediate, head=seeing), 'the same, which learns from unlabelled frames, too'
        ),
    }
    for k in (1, 2, 4, 8, 16):
        found[f's{k}'] = _tuned(replace(immediate, trigger=k), f'a round for every {k} batches')
    found.update(
        {
            'oracle': _tuned(
                replace(immediate, oracle=True), 'one round at each true change of scenario'
            ),
            'egeria': _tuned(
                replace(immediate, policy=Egeria), 'Egeria; Wang et al., EuroSys 2023'
            ),
            'slimfit': _tuned(
                replace(immediate, policy=SlimFit), 'SlimFit; Ardakani et al., NAACL 2024'
            ),
            'autofreeze': _tuned(
                replace(immediate, policy=AutoFreeze), 'AutoFreeze; Liu et al. 2021'
            ),
            'rigl': _tuned(replace(immediate, policy=RigL), 'RigL; Evci et al., ICML 2020'),
            'ekya': _tuned(
                replace(immediate, train=HELD, trigger=4), 'Ekya; Bhardwaj et al., NSDI 2022', Ekya
            ),
            'latent_replay': _tuned(
                replace(
                    immediate,
                    train=replace(RIVAL, views=1, cache_mb=OURS.cache_mb),
                    policy=LatentReplay,
                ),
                'latent replay; Pellegrini et al., IROS 2020',
            ),
            'lazytune': _tuned(replace(immediate, train=HELD, lazy=lazy), 'LazyTune alone'),
            'simfreeze': _tuned(
                replace(immediate, sim_freeze=PAPER_FREEZE), 'SimFreeze alone, on every batch'
            ),
            'etuner': _tuned(etuner, 'ETuner: LazyTune and SimFreeze (arXiv 2401.16694)'),
            'etuner+cache': _tuned(replace(etuner, train=cached), 'with the activation cache'),
            'etuner+head': _tuned(replace(etuner, head=head), 'with the instant head'),
            'etuner+gate': _tuned(replace(etuner, gate=gate), 'with the gate'),
            'etuner+front': _tuned(
                replace(etuner, sim_freeze=OUR_FREEZE), 'with the front frozen from the start'
            ),
            'etuner+pays': _tuned(
                replace(etuner, lazy=OUR_LAZY, head=head),
                'with the instant head, and rounds only where they pay',
            ),
            'full': _tuned(full, 'all of it, as on the robot'),
        }
    )
    return found


def variants() -> dict[str, Entry]:
    """Return the whole system, on labels only, with one of its choices changed."""
    full = entries()['full'].settings
    full = replace(full, head=replace(full.head, unlabelled_weight=0.0))
    train, lazy, freeze, head = full.train, full.lazy, full.sim_freeze, full.head
    open_ = replace(freeze, start_frozen_share=0.39, max_frozen_share=0.39)
    shut = replace(freeze, start_frozen_share=0.67, max_frozen_share=0.67)
    changed = {
        'labels only': full,  # what the others are compared with
        'no prior': replace(full, head=replace(head, prior=0.0)),
        'features computed anew': replace(full, head=replace(head, reuse=False)),
        'half the step size': replace(full, train=replace(train, learning_rate=2.5e-4)),
        'two passes': replace(full, train=replace(train, epochs=2.0)),
        'batches of 16': replace(full, train=replace(train, batch_size=16)),
        'no flips': replace(full, train=replace(train, flip=False)),
        'front third frozen': replace(full, sim_freeze=open_),
        'front two thirds frozen': replace(full, sim_freeze=shut),
        'rounds of 2 batches': replace(full, lazy=replace(lazy, min_batches=2)),
        'never asks whether it pays': replace(full, lazy=replace(lazy, pays=False)),
        'no gate': replace(full, gate=GateConfig(enabled=False)),
    }
    return {f'full, {name}': _tuned(recipe, name) for name, recipe in changed.items()}


def methods() -> dict[str, Callable[[World], Method]]:
    """Return what makes each method, by name."""
    return {name: entry.make for name, entry in {**entries(), **variants()}.items()}


def describe(name: str) -> str:
    """Return the settings of a method as text, the same as long as they are."""
    entry = {**entries(), **variants()}[name]
    settings = entry.settings
    if settings is None:
        return f'{name}: {entry.source}'
    values = {**asdict(settings), 'policy': settings.policy.__name__}
    return f'{name}: {values}'
