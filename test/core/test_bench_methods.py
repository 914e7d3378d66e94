# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Each rival's rule against a step that was computed by hand."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
import math
from pathlib import Path

import pytest
import torch
import yaml

from etuner_ros.bench.methods.egeria import similarity_loss, slope
from etuner_ros.bench.methods.ekya import Candidate, thief, window_accuracy
from etuner_ros.bench.methods.registry import describe, entries, entry
from etuner_ros.bench.methods.slimfit import relative_change, to_freeze
from etuner_ros.bench.methods.tuned import Trigger
from etuner_ros.bench.shipped import shipped_recipe
from etuner_ros.bench.table import MAIN, SIMPLE
from etuner_ros.core.config import LazyTuneConfig
from etuner_ros.core.errors import ConfigError


def test_egeria_similarity_loss_and_slope() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # Gram matrices: identity, and all ones, whose rows normalise to 1/sqrt(2).
    r = 1 / math.sqrt(2)
    expected = (2 * (1 - r) ** 2 + 2 * r**2) / 4
    assert similarity_loss(one, other) == pytest.approx(expected)
    assert similarity_loss(one, one) == pytest.approx(0.0)
    assert slope([1.0, 3.0, 5.0]) == pytest.approx(2.0)


def test_slimfit_change_and_choice() -> None:
    before, after = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.1, 1.0, 5.0])
    # A tenth, a half; the zero weight does not count.
    assert relative_change(before, after) == pytest.approx(0.3)
    assert to_freeze({'a': 0.3, 'b': 0.1, 'c': 0.2, 'd': 0.4}, 0.5) == ['b', 'c']


def test_ekya_steals_for_training_while_the_mean_rises() -> None:
    gain = Candidate(0.0, 4.0, cost=0.2, accuracy=0.9)
    # A fifth of a window at half of the compute: done after 40 % of it.
    assert window_accuracy(0.5, gain, 0.5, 0.5) == pytest.approx(0.4 * 0.5 + 0.6 * 0.9)
    # Serving needs half; a training share of 0.6 leaves 0.4, so a fifth of requests is late.
    assert window_accuracy(0.5, None, 0.0, 0.5) == 0.5
    assert window_accuracy(0.5, gain, 0.6, 0.5) == pytest.approx(0.8 * (1 / 3 * 0.5 + 2 / 3 * 0.9))
    chosen, share, value = thief(0.5, [gain], 0.5)
    assert (chosen, share) == (gain, 0.5)
    assert value == pytest.approx(0.74)
    worse = Candidate(0.0, 4.0, cost=0.2, accuracy=0.4)
    assert thief(0.5, [worse], 0.5)[0] is None


def test_triggers() -> None:
    every = Trigger(2)
    every.on_batch(0, False)
    assert not every.due
    every.on_batch(0, False)
    assert every.due
    assert every.wants_last_round()
    never = Trigger(0)
    never.on_batch(3, True)
    assert not never.due
    assert not never.wants_last_round()


def test_every_method_says_where_it_is_from_and_has_a_stable_description() -> None:
    for name, found in entries().items():
        assert found.source
        assert describe(name) == describe(name)
    assert len({describe(n) for n in entries()}) == len(entries())
    assert set(MAIN) | set(SIMPLE) <= set(entries())
    with pytest.raises(ConfigError, match='no method is called magic'):
        entry('magic')


def test_all_heads_are_the_shipped_one() -> None:
    head = shipped_recipe().recipe.head
    for name, found in entries().items():
        if '+head' in name:
            assert found.settings is not None
            assert found.settings.head == head
    every = entry('every-4+head').settings
    assert every == replace(shipped_recipe().recipe, lazy=None, trigger=4)


def test_settings_can_be_changed_in_the_name() -> None:
    """For searches: each change is a row, and a run of its own."""
    changed = entry('immediate+head@train.epochs=2,trigger=3,head.enabled=false')
    plain = entry('immediate+head').settings
    assert plain is not None
    head = replace(plain.head, enabled=False)
    train = replace(plain.train, epochs=2.0)
    assert changed.settings == replace(plain, train=train, trigger=3, head=head)
    names = ('egeria+head', 'egeria+head@policy.interval=8', 'egeria+head@policy.window=4')
    assert len({describe(name) for name in names}) == 3
    for name, problem in (
        ('ridge@0.5', 'ridge has no settings'),
        ('head@0.5', 'no lazy.economy'),
        ('immediate@train.epoch=2', 'no train.epoch in'),
        ('immediate@train.epochs=two', 'epochs must be float'),
        ('immediate@train.epochs=-1', 'epochs must be between'),
        ('egeria+head@policy.sorcery=1', 'sorcery'),
    ):
        with pytest.raises(ConfigError, match=problem):
            entry(name)


@pytest.mark.parametrize('said', ['true', 'True', 'false', 'False'])
def test_a_switch_is_on_or_off_however_that_is_written(said: str) -> None:
    changed = entry(f'head@head.within_class={said}').settings
    plain = entry('head').settings
    assert plain is not None
    head = replace(plain.head, within_class=said.lower() == 'true')
    assert changed == replace(plain, head=head)


@pytest.mark.parametrize(
    ('name', 'problem'),
    [
        ('head@head.within_class=yes', "within_class must be bool, got 'yes'"),
        ('head@head.within_class=', 'within_class must be bool'),
        ('shipped@head=3', 'head is no single value'),
        ('shipped@lazy=3', 'lazy is no single value'),
        ('immediate@policy=3', 'policy is no single value'),
    ],
)
def test_what_is_no_value_of_a_setting_is_refused(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        entry(name)


def test_a_number_behind_the_name_is_the_economy() -> None:
    if 'economy' not in {f.name for f in fields(LazyTuneConfig)}:
        with pytest.raises(ConfigError, match='no lazy.economy in this version'):
            entry('shipped@0.25')
        return
    recipe = entry('shipped@0.25').settings
    assert recipe is not None
    assert recipe.lazy is not None
    assert asdict(recipe.lazy)['economy'] == 0.25
    assert describe('shipped@0.25') != describe('shipped@0.5')


def test_shipped_is_what_launch_starts(repository: Path, tmp_path: Path) -> None:
    """Nothing is measured that `ros2 launch` does not start."""
    wanted = yaml.safe_load((repository / 'config' / 'etuner.yaml').read_text())
    found = shipped_recipe()
    assert found == shipped_recipe(repository / 'config' / 'etuner.yaml')
    collector = wanted['/**/label_collector']['ros__parameters']
    assert found.batch_size == found.recipe.collected == collector['batch_size']
    tuner = wanted['/**/tuner']['ros__parameters']
    given = tmp_path / 'mine.yaml'
    tuner['train'] = {'epochs': 3.0, 'niceness': 5}
    tuner['scenario'] = {'patience': 9}
    given.write_text(yaml.safe_dump(wanted))
    changed = shipped_recipe(given)
    assert changed.recipe.train.epochs == 3.0
    assert changed.recipe.train.device == 'cpu'
    assert changed.scenario.patience == 9
    for section, value in (('train', {'epoch': 3.0}), ('sorcery', {'on': True})):
        other = {**tuner, section: value}
        given.write_text(yaml.safe_dump({'/**/tuner': {'ros__parameters': other}}))
        with pytest.raises(ConfigError, match='mine.yaml: .*(train.epoch|sorcery)'):
            shipped_recipe(given)
