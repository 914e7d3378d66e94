# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every method of the benchmark by name, with its settings and where it is from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import lru_cache, partial
from typing import Any

from etuner_ros.bench.methods.base import Method, World
from etuner_ros.bench.methods.egeria import Egeria
from etuner_ros.bench.methods.ekya import Ekya
from etuner_ros.bench.methods.frozen_features import NearestMean, Never, Ridge
from etuner_ros.bench.methods.latent_replay import LatentReplay
from etuner_ros.bench.methods.slimfit import SlimFit
from etuner_ros.bench.methods.tuned import Recipe, Tuned
from etuner_ros.bench.shipped import shipped
from etuner_ros.core.config import LazyTuneConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.errors import ConfigError

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
_TRUTH = {'true': True, 'false': False}
HELD = replace(RIVAL, validation_share=0.1)  # for those that need to measure themselves
PAPER_LAZY = LazyTuneConfig(max_batches=8, economy=0.0)
PAPER_FREEZE = SimFreezeConfig(start_frozen_share=0.0, max_frozen_share=0.6)

# What was tried for each, on pictures that are in no report; `entry` says how to try more.
SEARCHED = {
    'immediate': '4 passes at 1e-4 and 2e-4, 2 passes at 2e-4 and 5e-4',
    'head': 'prior 0 and 1, levels of features',
    'every-k+head': 'k = 2, 4, 8',
    'lazytune+head': 'none: the paper',
    'simfreeze+head': 'none: the paper',
    'etuner+head': 'none: the paper',
    'egeria+head': 'none: interval, window and tolerance fit the length of the streams',
    'slimfit+head': 'none: the paper',
    'ekya+head': 'none: the paper',
    'latent_replay+head': 'none: cut at 0.6 of the blocks',
    'shipped': 'step size 1e-4, 2e-4, 5e-4, falling over rounds; front 0.56, 0.67; BatchNorm '
    'alone; new share 0.5, 0.75; features of the last pass, of 32, 64, 128, 256 others or of all '
    'anew; when: labels unexplained, growing intervals, won against the deployed network',
    'ridge': 'none',
    'ncm': 'none',
}


@dataclass(frozen=True)
class Entry:
    """A method of the table."""

    make: Callable[[World], Method]
    source: str
    settings: Recipe | None = None


def _tuned(recipe: Recipe, source: str, kind: type[Tuned] = Tuned) -> Entry:
    return Entry(partial(kind, recipe=recipe), source, recipe)


@lru_cache(maxsize=1)
def entries() -> dict[str, Entry]:
    """Return all methods in the order of the table."""
    ours = shipped().recipe
    head = ours.head
    still = replace(ours, lazy=None, trigger=0)
    plain = Recipe(RIVAL)
    immediate = replace(plain, head=head)
    unlabelled, alike = replace(head, unlabelled_weight=0.0), replace(head, prior=0.0)
    latent = replace(immediate, train=replace(RIVAL, views=1, cache_mb=ours.train.cache_mb))
    found = {
        'never': Entry(Never, 'the deployed model, untouched'),
        'ncm': Entry(NearestMean, 'nearest class mean; Mensink et al., TPAMI 2013'),
        'ridge': Entry(Ridge, 'ridge regression on frozen features'),
        'head': _tuned(still, 'our head as shipped, and no round ever'),
        'head, no prior': _tuned(replace(still, head=alike), 'all classes equally likely'),
        'head, labels only': _tuned(
            replace(still, head=unlabelled), 'without frames that nobody labelled'
        ),
    }
    for k in (2, 4, 8):
        found[f'every-{k}+head'] = _tuned(
            replace(ours, lazy=None, trigger=k), f'our head, and our round for every {k} batches'
        )
    found |= {
        'latent_replay+head': _tuned(
            replace(latent, policy=LatentReplay), 'latent replay; Pellegrini et al., IROS 2020'
        ),
        'immediate': _tuned(plain, 'fine-tuning on every batch as it arrives'),
        'immediate+head': _tuned(immediate, 'the same, served by our head'),
    }
    for name, epochs in (('one pass', 1.0), ('two passes', 2.0)):
        found[f'immediate+head, {name}'] = _tuned(
            replace(immediate, train=replace(RIVAL, epochs=epochs)), f'the same, {name} a round'
        )
    return found | {
        'lazytune+head': _tuned(
            replace(immediate, train=HELD, lazy=PAPER_LAZY), 'LazyTune alone (arXiv 2401.16694)'
        ),
        'simfreeze+head': _tuned(
            replace(immediate, sim_freeze=PAPER_FREEZE), 'SimFreeze alone (arXiv 2401.16694)'
        ),
        'etuner+head': _tuned(
            replace(immediate, train=HELD, lazy=PAPER_LAZY, sim_freeze=PAPER_FREEZE),
            'ETuner: LazyTune and SimFreeze (arXiv 2401.16694)',
        ),
        'slimfit+head': _tuned(
            replace(immediate, policy=SlimFit), 'SlimFit; Ardakani et al., NAACL 2024'
        ),
        'egeria+head': _tuned(
            replace(immediate, policy=Egeria), 'Egeria; Wang et al., EuroSys 2023'
        ),
        'ekya+head': _tuned(
            replace(immediate, train=HELD, trigger=4), 'Ekya; Bhardwaj et al., NSDI 2022', Ekya
        ),
        'shipped': _tuned(ours, 'what `ros2 launch etuner_ros etuner.launch.py` starts'),
    }


def entry(name: str) -> Entry:
    """
    Return a method; behind `@` settings of it are changed.

    `shipped@0.25` has the economy 0.25, `immediate+head@train.epochs=2,train.learning_rate=2e-4`
    another recipe, `egeria+head@policy.interval=8` another policy.

    :raises ConfigError: when there is no such method or setting
    """
    base, at, changes = name.partition('@')
    known = entries()
    if base not in known:
        raise ConfigError(f'no method is called {name}; there are: {", ".join(known)}')
    found = known[base]
    if not at:
        return found
    if found.settings is None:
        raise ConfigError(f'{name}: {base} has no settings')
    recipe = found.settings
    for change in changes.split(','):
        key, equals, value = change.partition('=')
        if not equals:
            key, value = 'lazy.economy', change
        section, _, setting = key.rpartition('.')
        recipe = _changed(name, recipe, section, setting, value)
    make: Any = found.make
    return Entry(partial(make.func, recipe=recipe), f'{found.source}; {changes}', recipe)


def _changed(name: str, recipe: Recipe, section: str, setting: str, value: str) -> Recipe:
    """Return a recipe with another value of a setting, which is of the type that it had."""
    if section == 'policy':
        try:
            number = int(value) if value.isdecimal() else float(value)
            policy = partial(recipe.policy, **{setting: number})
            policy()
        except (TypeError, ValueError) as error:
            raise ConfigError(f'{name}: {error}') from error
        return replace(recipe, policy=policy)
    target: Any = getattr(recipe, section, None) if section else recipe
    if not is_dataclass(target) or setting not in {f.name for f in fields(target)}:
        raise ConfigError(f'{name}: there is no {section}.{setting} in this version')
    kind = type(getattr(target, setting))
    if kind not in (bool, int, float, str):
        raise ConfigError(f'{name}: {setting} is no single value; name one of its parts')
    try:
        read = _TRUTH[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError) as error:
        raise ConfigError(f'{name}: {setting} must be {kind.__name__}, got {value!r}') from error
    changed: Any = replace(target, **{setting: read})  # type: ignore[type-var]
    return replace(recipe, **{section: changed}) if section else changed


def describe(name: str) -> str:
    """Return the settings of a method as text, the same as long as they are."""
    found = entry(name)
    if found.settings is None:
        return f'{name}: {found.source}'
    return f'{name}: {asdict(found.settings)}'
