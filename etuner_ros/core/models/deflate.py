# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Weights made smaller for a radio, without loss: the same bytes come out again.

A round moves each weight a little, so that the distance to the base weights, in steps of float32,
is a small number: its upper bytes are mostly zero. They are put side by side and deflated.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
import json
import zlib

import numpy as np
import numpy.typing as npt

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.models.weights import State

MAGIC = b'ETUNERZ1'  # safetensors can not begin so: it would claim a header of 3.5 EB
SLACK_BYTES = 64_000_000  # of an update beyond its base: new classes, ranges, names

Words = npt.NDArray[np.int32]
Octets = npt.NDArray[np.uint8]


def deflated(weights: bytes, base: State) -> bytes:
    """
    Return safetensors bytes for the way to somebody who has the base weights.

    :param base: tensors of the base weights
    """
    data = np.frombuffer(bytearray(weights), np.uint8)
    head, body = _parts(data)
    _each_word(head, body, base, _distance)
    whole = len(body) // 4 * 4
    planes = np.ascontiguousarray(body[:whole].reshape(-1, 4).T).reshape(-1)
    return MAGIC + zlib.compress(b''.join((head, planes.data, body[whole:].data)), 6)


def is_deflated(data: bytes | bytearray | array[int]) -> bool:
    """Return whether bytes were `deflated`."""
    return memoryview(data).cast('B')[: len(MAGIC)] == MAGIC


def inflated(data: bytearray | array[int], base: State) -> bytearray | array[int]:
    """
    Return safetensors bytes as they were before `deflated`; what never was, as it is.

    :raises WeightsError: when they are damaged
    """
    if not is_deflated(data):
        return data
    raw = memoryview(data).cast('B')
    try:
        most = sum(v.nbytes for v in base.values()) + SLACK_BYTES
        stream = zlib.decompressobj()
        whole = np.frombuffer(bytearray(stream.decompress(raw[len(MAGIC) :], most)), np.uint8)
        if not stream.eof:
            raise ValueError(f'they are cut short, or larger than {most / 1e6:.0f} MB')
        head, body = _parts(whole)
        words = len(body) // 4
        body[: 4 * words] = body[: 4 * words].reshape(4, words).T.reshape(-1)
        _each_word(head, body, base, _at_distance)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise WeightsError(f'the deflated weights are damaged: {error}') from error
    return bytearray(whole.data)


def _parts(data: Octets) -> tuple[bytes, Octets]:
    """Return the header of safetensors with its length, and what follows as a view."""
    size = 8 + int.from_bytes(data[:8].tobytes(), 'little')
    if not 8 <= size <= len(data):
        raise ValueError('their header is cut short')
    return data[:size].tobytes(), data[size:]


def _each_word(
    head: bytes, body: Octets, base: State, change: Callable[[Words, Words], Words]
) -> None:
    """Change, in place, the float32 tensors that the base weights have too."""
    for name, entry in json.loads(head[8:]).items():
        origin = base.get(name)
        if origin is None or origin.dtype != np.float32 or entry['dtype'] != 'F32':
            continue
        begin, end = entry['data_offsets']
        if end - begin == origin.nbytes:
            words = body[begin:end].view(np.int32)
            words[:] = change(words, np.ascontiguousarray(origin).reshape(-1).view(np.int32))


def _ordered(words: Words) -> Words:
    """Return the bits of float32 as integers in the order of the numbers; its own inverse."""
    ordered: Words = words ^ ((words >> 31) & np.int32(0x7FFFFFFF))
    return ordered


def _distance(words: Words, origin: Words) -> Words:
    """Return how many steps away from the origin a number is; the sign in the lowest bit."""
    steps = _ordered(words) - _ordered(origin)
    return (steps << 1) ^ (steps >> 31)


def _at_distance(steps: Words, origin: Words) -> Words:
    """Undo `_distance`."""
    signed = ((steps >> 1) & np.int32(0x7FFFFFFF)) ^ -(steps & np.int32(1))
    return _ordered(signed + _ordered(origin))
