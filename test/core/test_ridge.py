# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ridge inverse: right in factors, in full and on the way between; updates copy nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from etuner_ros.core.cost import CostMeter
from etuner_ros.core.learn.ridge import RidgeInverse

SIZE = 24


@pytest.mark.parametrize('start', [0, 5, SIZE, SIZE + 6])
def test_it_is_the_inverse_after_any_number_of_updates(start):
    """Also while factors move into the full matrix, and where samples are taken away."""
    rng = np.random.default_rng(0)
    rows = torch.tensor(rng.normal(size=(start, SIZE)))
    penalty = torch.full((SIZE,), 0.5, dtype=torch.float64)
    inverse, moment = RidgeInverse(rows, penalty), torch.diag(penalty) + rows.T @ rows
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
    inverse = RidgeInverse(rows, torch.ones(SIZE, dtype=torch.float64))
    room, costs = inverse._factors.data_ptr(), []
    for _ in range(3 * SIZE):
        row = torch.tensor(rng.normal(size=SIZE))
        with CostMeter() as meter:
            gain = inverse.times(row)
            inverse.subtract(gain, 1.0 / (1.0 + float(row @ gain)))
        costs.append(meter.total_flops)
    assert inverse._factors.data_ptr() == room
    assert max(costs) <= 22 * SIZE**2
