# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Ridge regression: its inverse is right in factors, in full and on the way between, and updates copy
nothing; what the others say of a sample is exact, in the dual, too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from etuner_ros.core.cost import CostMeter
from etuner_ros.core.learn.ridge import RidgeInverse, RidgeRegression, Samples, with_ones

SIZE = 24


def _factor(rows: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    return torch.linalg.cholesky(torch.eye(len(rows)) + (rows / penalty) @ rows.T)


@pytest.mark.parametrize('start', [0, 5, SIZE, SIZE + 6])
def test_it_is_the_inverse_after_any_number_of_updates(start):
    """Also while factors move into the full matrix, and where samples are taken away."""
    rng = np.random.default_rng(0)
    rows = torch.tensor(rng.normal(size=(start, SIZE)))
    penalty = torch.full((SIZE,), 0.5, dtype=torch.float64)
    inverse = RidgeInverse(rows, penalty, _factor(rows, penalty), rows.T @ rows)
    moment = torch.diag(penalty) + rows.T @ rows
    several = torch.tensor(rng.normal(size=(4, SIZE)))
    for step in range(3 * SIZE):
        row = torch.tensor(rng.normal(size=SIZE))
        for sign in (1.0, -1.0) if step % 3 == 0 else (1.0,):  # every third is taken back
            gain = inverse.times(row)
            inverse.subtract(gain, sign / (1.0 + sign * float(row @ gain)))
            moment += sign * torch.outer(row, row)
        exact = torch.linalg.inv(moment)
        assert torch.allclose(inverse.times(several.T), exact @ several.T, atol=1e-8)
        assert torch.allclose(inverse.times(row), exact @ row, atol=1e-8)
        quadratic = ((several @ exact) * several).sum(dim=1)
        assert torch.allclose(inverse.quadratic(several), quadratic, atol=1e-8)


def test_updates_take_no_memory_of_their_own_and_none_waits_for_all():
    rng = np.random.default_rng(1)
    rows = torch.tensor(rng.normal(size=(5, SIZE)))
    penalty = torch.ones(SIZE, dtype=torch.float64)
    inverse = RidgeInverse(rows, penalty, _factor(rows, penalty))
    room, costs = inverse._factors.data_ptr(), []
    for _ in range(3 * SIZE):
        row = torch.tensor(rng.normal(size=SIZE))
        with CostMeter() as meter:
            gain = inverse.times(row)
            inverse.subtract(gain, 1.0 / (1.0 + float(row @ gain)))
        costs.append(meter.total_flops)
    assert inverse._factors.data_ptr() == room
    assert max(costs) <= 22 * SIZE**2


@pytest.mark.parametrize('count', [2, 9, SIZE + 1, SIZE + 2, SIZE + 9])  # in the dual, and not
def test_what_the_others_say_is_what_they_say_when_they_are_solved_for(count):
    rng = np.random.default_rng(2)
    rows = with_ones(torch.tensor(rng.normal(size=(count, SIZE)) + 3.0))
    targets = torch.tensor(np.eye(3)[rng.integers(0, 3, count)])
    weight = torch.tensor(rng.uniform(0.2, 2.0, count))
    if count > 2:
        weight[0] = 0.0
    whole = RidgeRegression(SIZE, 0.3)
    said = whole.solve_and_leave_out(Samples(rows), targets, weight)
    penalty = torch.diag(whole._penalty(rows[:, :-1], weight, 3))
    for index in range(count):
        others = [i for i in range(count) if i != index]
        weighed = weight[others, None] * rows[others]
        exact = torch.linalg.solve(penalty + rows[others].T @ weighed, weighed.T @ targets[others])
        assert torch.allclose(said[index], rows[index] @ exact, atol=1e-6)
    again = whole.without_each(rows[:2], targets[:2], weight[:2])
    assert torch.allclose(again, said[:2], atol=1e-6)


@pytest.mark.parametrize('count', [SIZE - 4, SIZE + 9])
def test_others_behind_samples_are_as_if_all_had_come_together(count):
    """For less, where they are few."""
    rng = np.random.default_rng(3)
    rows = with_ones(torch.tensor(rng.normal(size=(count, SIZE))))
    targets = torch.tensor(np.eye(2)[rng.integers(0, 2, len(rows))])
    weight = torch.ones(len(rows), dtype=torch.float64)
    first = Samples(rows[:12])
    RidgeRegression(SIZE, 1.0).solve(first, targets[:12], weight[:12])
    together, apart = RidgeRegression(SIZE, 1.0), RidgeRegression(SIZE, 1.0)
    costs = []
    for ridge, samples in ((together, Samples(rows)), (apart, first.with_others(rows[12:]))):
        with CostMeter() as meter:
            ridge.solve(samples, targets, weight)
        costs.append(meter.total_flops)
    assert torch.allclose(together.weights, apart.weights, atol=1e-9)
    assert costs[1] < costs[0] or count > SIZE
    for ridge in (together, apart):
        ridge.update(rows[0], targets[0], 0.5)
    assert torch.allclose(together.weights, apart.weights, atol=1e-9)


def test_more_penalties_for_the_same_samples_cost_little():
    rng = np.random.default_rng(4)
    size, count = 400, 40
    rows = Samples(with_ones(torch.tensor(rng.normal(size=(count, size)))))
    targets, weight = torch.eye(count, 4).double(), torch.ones(count).double()
    ridge, costs = RidgeRegression(size, 1.0), []
    for penalty in (1.0, 0.3):
        ridge.ridge = penalty
        with CostMeter() as meter:
            ridge.solve_and_leave_out(rows, targets, weight)
        costs.append(meter.total_flops)
    assert costs[1] < 0.5 * costs[0]


def test_the_first_update_need_not_wait():
    rng = np.random.default_rng(5)
    rows = with_ones(torch.tensor(rng.normal(size=(SIZE, SIZE))))
    targets, weight = torch.eye(SIZE, 2).double(), torch.ones(SIZE).double()
    costs = []
    for ready in (False, True):
        ridge = RidgeRegression(SIZE, 1.0)
        ridge.solve(Samples(rows), targets, weight)
        if ready:
            ridge.prepare()
        with CostMeter() as meter:
            ridge.update(rows[0], targets[0], 1.0)
        costs.append(meter.total_flops)
    assert costs[1] < 0.5 * costs[0]
