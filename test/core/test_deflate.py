# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is deflated comes back bit by bit, and what is damaged is said to be."""

from __future__ import annotations

import zlib

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.models.deflate import deflated, inflated, is_deflated, MAGIC
from etuner_ros.core.models.weights import pack, read_base

WORDS = st.lists(st.integers(0, 2**32 - 1), min_size=5, max_size=5)


def floats(words: list[int]) -> np.ndarray:
    return np.array(words, np.uint32).view(np.float32)


@given(WORDS, WORDS, st.binary(max_size=7))
def test_any_bits_come_back(origin, values, others):
    """NaN, both zeros, infinities: a weight may be anything."""
    base = {'a': floats(origin), 'c': floats(origin[:2])}
    update = {'a': floats(values), 'b': np.frombuffer(others, np.uint8), 'c': floats(values)}
    data = pack(update)
    small = deflated(data, base)
    assert is_deflated(small)
    assert inflated(bytearray(small), base) == data


def test_what_a_round_trains_is_much_smaller(deployed):
    base = read_base(deployed).state
    rng = np.random.default_rng(0)
    update = {
        k: v + np.float32(1e-3) * rng.normal(size=v.shape).astype(np.float32)
        for k, v in base.items()
        if v.dtype == np.float32 and v.ndim == 4
    }
    data = pack(update)
    small = deflated(data, base)
    assert len(small) < 0.9 * len(data)
    assert inflated(bytearray(small), base) == data


def test_what_is_not_deflated_is_left_alone(deployed):
    data = bytearray(pack({'a': np.zeros(3, np.float32)}))
    assert inflated(data, {}) is data


@pytest.mark.parametrize(
    'damage',
    [
        lambda d: d[:-4],
        lambda d: MAGIC + b'x' * 20,
        lambda d: MAGIC + zlib.compress(b'abc'),
        lambda d: MAGIC + zlib.compress(b'\xff' * 64),
        lambda d: MAGIC + zlib.compress((2).to_bytes(8, 'little') + b'[]'),
        lambda d: MAGIC + zlib.compress((9).to_bytes(8, 'little') + b'{"a": {}}'),
    ],
)
def test_damage_is_said(damage):
    base = {'a': floats([1, 2, 3])}
    data = deflated(pack({'a': floats([4, 5, 6])}), base)
    with pytest.raises(WeightsError, match='damaged'):
        inflated(bytearray(damage(data)), base)


def test_a_bomb_does_not_go_off():
    bomb = MAGIC + zlib.compress(bytes(100_000_000), 9)
    with pytest.raises(WeightsError, match='larger than'):
        inflated(bytearray(bomb), {})
