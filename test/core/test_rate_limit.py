# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A rate is held, whatever the sizes of what is sent."""

from __future__ import annotations

import pytest

from etuner_ros.core.rate_limit import LEAST_PIECE, RateLimit, TICK_S


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize('size', [1_000, 125_000, 3_000_000])
def test_over_any_time_the_rate_is_held(size):
    clock = Clock()
    limit = RateLimit(20.0, clock)
    sent = 0
    for _ in range(40):
        clock.now += limit.spend(size)
        sent += size
        assert (sent - size) * 8 <= 20e6 * (clock.now - 50.0) * (1 + 1e-9)
    assert clock.now - 50.0 == pytest.approx(39 * size * 8 / 20e6)


def test_a_pause_saves_nothing_up():
    clock = Clock()
    limit = RateLimit(8.0, clock)
    limit.spend(1_000_000)
    clock.now += 60.0
    assert limit.spend(1_000_000) == 0.0
    assert limit.spend(1) == pytest.approx(1.0)


def test_those_that_come_together_wait_one_after_the_other():
    limit = RateLimit(8.0, Clock())
    assert [limit.spend(1_000_000) for _ in range(3)] == pytest.approx([0.0, 1.0, 2.0])


def test_a_piece_takes_a_tick():
    limit = RateLimit(20.0)
    assert limit.piece(4_000_000) == int(20e6 / 8 * TICK_S)
    assert limit.piece(100) == 100
    limit.mbit_s = 0.01
    assert limit.piece(4_000_000) == LEAST_PIECE


def test_without_a_limit_nothing_waits():
    limit = RateLimit(0.0, Clock())
    assert [limit.spend(10**9) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limit.piece(4_000_000) == 4_000_000
    assert limit.wait_s == 0.0
