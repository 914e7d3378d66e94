# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""SimFreeze, CKA and freezing."""

from __future__ import annotations

from hypothesis import given, strategies
import numpy as np
import pytest
import torch

from etuner_ros.core.config import SimFreezeConfig, TrainConfig
from etuner_ros.core.decide.cka import linear_cka
from etuner_ros.core.decide.sim_freeze import SimFreeze
from etuner_ros.core.learn.trainer import make_optimiser
from etuner_ros.core.models.freezing import apply_frozen, frozen_prefix
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.models.weights import ModelSpec

UNITS = [f'block{i}' for i in range(10)]
ALL_AT_ONCE = 10
# The rule of the paper alone; what we add has tests of its own.
PAPER = {'relative_move': 1.0, 'first_frozen_share': 1.0}


def cka_by_features(x: np.ndarray, y: np.ndarray) -> float:
    """CKA from the p x p cross-covariance, not from Gram matrices (Kornblith et al. 2019)."""
    x, y = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.norm(y.T @ x) ** 2
    return float(cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


def cka_debiased_by_sums(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased CKA with the terms of Song et al. 2012 written as sums over index pairs."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        pairs = sum(k[i, j] * m[i, j] for i in range(n) for j in range(n))
        totals = k.sum() * m.sum() / ((n - 1) * (n - 2))
        rows = sum(k[i].sum() * m[i].sum() for i in range(n)) * 2 / (n - 2)
        return (pairs + totals - rows) / (n * (n - 3))

    x, y = x - x.mean(0), y - y.mean(0)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    return float(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def stable(value: float) -> dict[str, float]:
    return dict.fromkeys(UNITS, value)


def test_cka_agrees_with_an_independent_implementation():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 30))
    y = x @ rng.normal(size=(30, 20)) + rng.normal(size=(16, 20))
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(
        cka_by_features(x, y), abs=1e-6
    )
    expected = cka_debiased_by_sums(x, y)
    assert linear_cka(torch.tensor(x), torch.tensor(y), debiased=True) == pytest.approx(
        expected, abs=1e-6
    )


def test_cka_ignores_rotation_and_scale_but_not_unrelated_data():
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.normal(size=(64, 8)))
    turned = x @ torch.linalg.qr(torch.tensor(rng.normal(size=(8, 8))))[0] * 3.0
    assert linear_cka(x, turned) == pytest.approx(1.0, abs=1e-9)
    assert linear_cka(x, torch.tensor(rng.normal(size=(64, 8))), debiased=True) < 0.2


def test_cka_needs_the_same_samples():
    with pytest.raises(ValueError, match='same samples'):
        linear_cka(torch.zeros(4, 2), torch.zeros(5, 2))


def test_a_layer_freezes_only_after_it_was_stable_for_the_whole_patience():
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=2, min_iterations=0, max_frozen_share=1.0
        ),
    )
    assert freeze.on_probe(stable(1.0), 8) == set()
    assert freeze.on_probe(stable(0.995), 8) == set()
    assert freeze.on_probe(stable(0.99), 8) == set(UNITS)


@pytest.mark.parametrize('between', ['it moves', 'the scenario changes'])
def test_a_layer_that_was_stable_before_it_moved_or_elsewhere_has_to_be_so_anew(
    between: str,
) -> None:
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=2, min_iterations=0, max_frozen_share=1.0
        ),
    )
    freeze.on_probe(stable(1.0), 8)
    freeze.on_probe(stable(1.0), 8)
    if between == 'it moves':
        freeze.on_probe(stable(0.5), 8)
    else:
        freeze.on_scenario_change()
        freeze.on_probe(stable(0.5), 0)
    assert freeze.on_probe(stable(0.5), 8) == set()
    assert freeze.on_probe(stable(0.5), 8) == set(UNITS)


def test_a_layer_that_moves_more_than_the_threshold_stays_trainable():
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=1, min_iterations=0, max_frozen_share=1.0
        ),
    )
    freeze.on_probe(stable(1.0), 8)
    moved = stable(1.0) | {'block3': 0.985}
    assert freeze.on_probe(moved, 8) == set(UNITS) - {'block3'}


def test_nothing_freezes_before_the_least_number_of_iterations():
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=1, min_iterations=24, max_frozen_share=1.0
        ),
    )
    for expected in (set(), set(), set(UNITS)):
        assert freeze.on_probe(stable(1.0), 8) == expected


def test_the_share_of_frozen_blocks_is_bounded_from_the_input_on():
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=1, min_iterations=0, max_frozen_share=0.6
        ),
    )
    freeze.on_probe(stable(1.0), 8)
    assert freeze.on_probe(stable(1.0), 8) == set(UNITS[:6])


def test_blocks_freeze_a_few_at_a_time_from_the_input_on():
    config = SimFreezeConfig(
        **PAPER, patience=1, min_iterations=0, max_frozen_share=0.8, max_new=3
    )
    freeze = SimFreeze(UNITS, config)
    freeze.on_probe(stable(1.0), 8)
    sizes = [3, 6, 8, 8]
    assert [freeze.on_probe(stable(1.0), 8) for _ in sizes] == [set(UNITS[:n]) for n in sizes]


def test_a_scenario_change_thaws_what_moved_and_freezes_nothing():
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=1, min_iterations=0, max_frozen_share=0.5
        ),
    )
    freeze.on_probe(stable(1.0), 8)
    freeze.on_probe(stable(1.0), 8)
    freeze.on_scenario_change()
    assert freeze.on_probe(stable(1.0) | {'block1': 0.9}, 0) == set(UNITS[:5]) - {'block1'}


def test_pinned_layers_are_left_alone():
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=1, min_iterations=0, max_frozen_share=1.0
        ),
    )
    freeze.set_layers(frozen=['block9'], pinned=['block9', 'block0'])
    freeze.on_probe(stable(1.0), 8)
    frozen = freeze.on_probe(stable(1.0), 8)
    assert 'block0' not in frozen
    freeze.on_scenario_change()
    assert 'block9' in freeze.on_probe(stable(0.2), 0)


@given(
    strategies.lists(
        strategies.lists(strategies.floats(0, 1), min_size=10, max_size=10),
        min_size=1,
        max_size=12,
    )
)
def test_the_frozen_set_only_shrinks_on_a_scenario_change(probes):
    freeze = SimFreeze(
        UNITS,
        SimFreezeConfig(
            **PAPER, max_new=ALL_AT_ONCE, patience=1, min_iterations=0, max_frozen_share=0.6
        ),
    )
    for i, values in enumerate(probes):
        before = set(freeze.frozen)
        if i % 3 == 2:
            freeze.on_scenario_change()
            assert freeze.on_probe(dict(zip(UNITS, values)), 0) <= before
        else:
            assert freeze.on_probe(dict(zip(UNITS, values)), 8) >= before


def test_a_restored_instance_decides_alike():
    freeze = SimFreeze(
        UNITS, SimFreezeConfig(**PAPER, max_new=ALL_AT_ONCE, patience=2, min_iterations=0)
    )
    freeze.on_probe(stable(1.0), 8)
    freeze.on_probe(stable(1.0), 8)
    other = SimFreeze(UNITS, freeze.config)
    other.load_state_dict(freeze.state_dict())
    assert other.on_probe(stable(0.999), 8) == freeze.on_probe(stable(0.999), 8) != set()


@pytest.mark.parametrize('architecture', ['efficientnet_lite0', 'mobilenet_v3_small', 'resnet18'])
def test_frozen_is_bitwise_still_through_train_mode_momentum_and_decay(architecture):
    torch.manual_seed(0)
    spec = pretrained_spec(architecture, 32)
    model = build(ModelSpec(spec.architecture, 32, ('a', 'b'), spec.mean, spec.std))
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    model.batchnorm_statistics = True
    optimiser = make_optimiser(model, TrainConfig(learning_rate=1e-2, weight_decay=0.1))

    def step() -> None:
        model.train()
        loss = torch.nn.functional.cross_entropy(
            model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 0, 1])
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    step()  # the optimiser has state for all before anything is frozen
    names = model.unit_names[:4]
    assert apply_frozen(model, [*names, 'no such block'], optimiser) == set(names)
    assert frozen_prefix(model) == 4
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(3):
        step()
    frozen = {f'backbone.{unit}.' for unit in names}
    moved = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert not {k for k in moved if any(k.startswith(prefix) for prefix in frozen)}
    assert {'head.weight', 'head.bias'} <= moved
    assert any('running_mean' in k for k in moved), (
        'BatchNorm of trainable blocks should have moved'
    )
    for unit in model.units[:4]:
        assert all(p.grad is None and p not in optimiser.state for p in unit.parameters())


def test_what_moves_as_much_as_anything_is_not_stable_however_little_that_is():
    """With a small step size all blocks move by less than 1 %; the later ones still learn."""
    moves = [0.00009 * (1 + i) ** 2 for i in range(10)]
    frozen = {}
    for relative in (1.0, 0.1):
        config = SimFreezeConfig(
            relative_move=relative,
            first_frozen_share=1.0,
            max_frozen_share=1.0,
            max_new=10,
            patience=2,
            min_iterations=0,
        )
        freeze = SimFreeze(UNITS, config)
        for step in range(5):
            result = freeze.on_probe({n: 1 - step * m for n, m in zip(UNITS, moves)}, 8)
        frozen[relative] = result
    assert max(moves) <= 0.01
    assert frozen[1.0] == set(UNITS)
    assert frozen[0.1] == set(UNITS[:3]), 'those that move by a tenth of the last one'


def test_the_largest_move_is_that_of_this_scenario():
    config = SimFreezeConfig(
        first_frozen_share=1.0, max_frozen_share=1.0, max_new=10, patience=1, min_iterations=0
    )
    freeze = SimFreeze(UNITS, config)
    freeze.on_probe(stable(1.0), 8)
    freeze.on_probe(stable(1.0) | {'block9': 0.8}, 8)
    assert freeze.frozen == set(UNITS) - {'block9'}
    freeze = SimFreeze(UNITS, config)
    freeze.on_probe(stable(1.0), 8)
    freeze.on_probe(stable(0.8), 8)
    freeze.on_scenario_change()
    freeze.on_probe(stable(0.8), 0)
    assert freeze.on_probe(stable(0.795), 8) == set(), 'small, but the largest seen here'


def test_little_freezes_before_the_first_version_that_was_trained_here():
    config = SimFreezeConfig(
        **PAPER | {'first_frozen_share': 0.2}, max_new=10, patience=1, min_iterations=0
    )
    freeze = SimFreeze(UNITS, config)
    freeze.on_probe(stable(1.0), 8)
    assert freeze.on_probe(stable(1.0), 8) == set(UNITS[:2])
    freeze.accepted = True
    assert freeze.on_probe(stable(1.0), 8) == set(UNITS[:6])


def test_the_front_can_be_frozen_from_the_start():
    config = SimFreezeConfig(start_frozen_share=0.5, max_frozen_share=0.5)
    freeze = SimFreeze(['a', 'b', 'c', 'd'], config)
    assert freeze.frozen == {'a', 'b'}
    freeze.set_layers((), ())  # nobody has been told yet
    assert freeze.frozen == {'a', 'b'}
    freeze.set_layers((), ('a',))  # pinned, and not frozen
    assert freeze.frozen == {'b'}
    freeze.accepted = True  # from then on the robot's state counts
    freeze.set_layers(('a',), ())
    assert freeze.frozen == {'a'}
    off = SimFreeze(['a', 'b'], SimFreezeConfig(enabled=False, start_frozen_share=0.5))
    assert not off.frozen


def test_starting_over_freezes_what_is_frozen_from_the_start_and_leaves_pinned_layers() -> None:
    config = SimFreezeConfig(
        **PAPER,
        start_frozen_share=0.3,
        max_frozen_share=1.0,
        max_new=ALL_AT_ONCE,
        patience=1,
        min_iterations=0,
    )
    freeze = SimFreeze(UNITS, config)
    freeze.accepted = True
    freeze.set_layers(frozen=['block5', 'block8'], pinned=['block0', 'block8'])
    freeze.on_probe(stable(1.0), 8)
    freeze.start_over()
    front = {'block1', 'block2', 'block8'}
    assert freeze.frozen == front
    assert not freeze.accepted
    assert freeze.on_probe(stable(1.0), 8) == front, 'there is none to compare it with'
    assert freeze.on_probe(stable(1.0), 8) == set(UNITS) - {'block0'}
