# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Weights as bytes: safetensors, cumulative deltas against the base weights, checksums. NumPy only.

Base weights are a safetensors file whose metadata holds a `ModelSpec` as JSON; they are named by
the SHA-256 of the file. An update carries the tensors that differ from the base, so one update is
enough for a receiver that has the base.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from etuner_ros.core.errors import WeightsError

State = dict[str, npt.NDArray[np.generic]]
EXEMPLARS = 'exemplars'  # name of the tensor that holds the JPEGs of the deployment's samples
HEAD_TENSORS = ('head.weight', 'head.bias')  # the only tensors whose first dimension may grow
# What of `head.bias` is the prior of the classes, (C,). Optional, and no part of the network: so a
# version can be compared without its prior.
HEAD_PRIOR = 'head.prior'
# How like what was taught of each class features are (`core/models/likeness.py`), (C, D) float16.
# Optional, and no part of the network either.
HEAD_LIKENESS = 'head.likeness'
HEAD_ALL = (*HEAD_TENSORS, HEAD_PRIOR, HEAD_LIKENESS)
# Begin of the name of the tensor that a quantised version carries: smallest and largest value of
# each activation, (n, 2). What follows names the list of activations. No part of the network
# either; it belongs to the backbone, as it changes what the features are.
RANGES = 'quantised.ranges.'


@dataclass(frozen=True)
class ModelSpec:
    """What has to be known to build the network that weights belong to."""

    architecture: str
    input_size: int
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def to_json(self) -> str:
        """Return the spec as JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> ModelSpec:
        """
        Read a spec.

        :raises WeightsError: when it is not one
        """
        try:
            raw = json.loads(text)
            mean, std = (tuple(float(v) for v in raw[key]) for key in ('mean', 'std'))
            if len(mean) != 3 or len(std) != 3:
                raise ValueError('mean and std need three values each')
            return ModelSpec(
                str(raw['architecture']),
                int(raw['input_size']),
                tuple(str(c) for c in raw['classes']),
                (mean[0], mean[1], mean[2]),
                (std[0], std[1], std[2]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f'the model description in the weights is damaged: {error}'
            ) from error


def sha256(data: bytes | bytearray | array[int]) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class BaseWeights:
    """Base weights in memory."""

    state: State
    spec: ModelSpec
    units: tuple[
        tuple[str, int], ...
    ]  # (name, number of parameters) of each freezable block, from input to output
    exemplars: tuple[
        tuple[str, bytes], ...
    ]  # (label, JPEG): samples of the deployment that rounds may replay
    sha256: str  # of the file


def pack_base(
    state: State,
    spec: ModelSpec,
    units: Sequence[tuple[str, int]],
    exemplars: Sequence[tuple[str, bytes]] = (),
) -> bytes:
    """
    Return base weights, and samples of what they were deployed with, as the bytes of their file.
    """
    tensors = {k: np.array(v, order='C') for k, v in state.items()}
    metadata = {'etuner': spec.to_json(), 'units': json.dumps(list(units))}
    if exemplars:
        tensors[EXEMPLARS] = np.frombuffer(b''.join(code for _, code in exemplars), np.uint8)
        metadata['exemplars'] = json.dumps([[label, len(code)] for label, code in exemplars])
    return bytes(save(tensors, metadata=metadata))


def read_base(path: Path) -> BaseWeights:
    """
    Read base weights.

    :raises WeightsError: when the file is missing, damaged, or holds something else
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f'the weights file {path} can not be read: {error.strerror or error}'
        ) from error
    state = unpack(data)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], 'little')])
        metadata = header.get('__metadata__', {})
        if 'etuner' not in metadata:
            raise WeightsError(
                f'{path} holds no model description; make base weights with `etuner deploy`'
            )
        spec = ModelSpec.from_json(metadata['etuner'])
        units = tuple((str(name), int(size)) for name, size in json.loads(metadata['units']))
        exemplars, start = [], 0
        packed = state.pop(EXEMPLARS, np.zeros(0, np.uint8)).tobytes()
        for label, length in json.loads(metadata.get('exemplars', '[]')):
            exemplars.append((str(label), packed[start : start + length]))
            start += length
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f'{path} is damaged: {error}') from error
    return BaseWeights(state, spec, units, tuple(exemplars), sha256(data))


def pack(state: State) -> bytes:
    """Return tensors as safetensors bytes."""
    return bytes(save({k: np.array(v, order='C') for k, v in state.items()}))


def unpack(data: bytes) -> State:
    """
    Read tensors from safetensors bytes.

    :raises WeightsError: when the bytes are damaged
    """
    try:
        return dict(load(data)) if data else {}
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f'the weights are damaged: {error}') from error


_KINDS = {'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'I64': 'i8', 'I32': 'i4', 'I16': 'i2', 'I8': 'i1'}
_KINDS.update({'U64': 'u8', 'U32': 'u4', 'U16': 'u2', 'U8': 'u1', 'BOOL': '?'})


def read_in_place(data: bytearray | array[int]) -> State:
    """
    Read tensors from safetensors bytes without copying them: the arrays are views of `data`.

    For where an interpreter's lock must not be held for as long as a copy of all weights takes.

    :raises WeightsError: when the bytes are damaged
    """
    buffer = memoryview(data).cast('B')
    state: State = {}
    try:
        size = int.from_bytes(buffer[:8], 'little')
        if len(buffer) < 8 or size > len(buffer) - 8:
            raise ValueError('its header is cut short')
        header = json.loads(bytes(buffer[8 : 8 + size]))
        header.pop('__metadata__', None)
        tensors = buffer[8 + size :]
        for name, entry in header.items():
            kind = np.dtype(_KINDS[entry['dtype']]).newbyteorder('<')
            begin, end = entry['data_offsets']
            shape = tuple(int(n) for n in entry['shape'])
            if not 0 <= begin <= end <= len(tensors):
                raise ValueError(f'tensor {name[:80]!r} lies outside the data')
            if end - begin != math.prod(shape) * kind.itemsize or min(shape, default=0) < 0:
                raise ValueError(f'tensor {name[:80]!r} has another size than its shape')
            state[name] = np.frombuffer(tensors[begin:end], kind).reshape(shape)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f'the weights are damaged: {error}') from error
    return state


def backbone_of(update: State) -> State:
    """Return the tensors of an update that are not the head's."""
    return {k: v for k, v in update.items() if k not in HEAD_ALL}


def backbone_digest(base_sha256: str, update: State) -> str:
    """
    Return what names a backbone: the SHA-256 of its base weights and of the tensors of an update
    that are not the head's. Equal for all versions whose heads alone differ.

    >>> backbone_digest('a', {}) == backbone_digest('a', {'head.bias': np.zeros(2)})
    True
    """
    digest = hashlib.sha256(base_sha256.encode())
    for name, values in sorted(backbone_of(update).items()):
        tensor = np.ascontiguousarray(values)
        digest.update(f'{name} {tensor.dtype.str} {tensor.shape}'.encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def difference(base: State, state: State) -> State:
    """Return the tensors of `state` that differ from `base` in shape or in any bit."""
    return {k: v for k, v in state.items() if k not in base or not same_bits(base[k], v)}


def same_bits(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic]) -> bool:
    """Return whether two arrays have the same shape, type and bits; NaN equals itself."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    one, other = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return bool(np.array_equal(one, other))


def check_update(base: State, update: State, classes: int) -> None:
    """
    Check that an update fits its base: known names, equal shapes and kinds, finite values, one
    head row per class.

    :param classes: number of classes that the update claims
    :raises WeightsError: naming the first tensor that does not fit
    """
    like = dict(base)
    if base.keys() >= set(HEAD_TENSORS):
        like[HEAD_PRIOR] = base[HEAD_TENSORS[1]]
        like[HEAD_LIKENESS] = base[HEAD_TENSORS[0]].astype(np.float16)
    for name, tensor in sorted(update.items()):
        if name.startswith(RANGES):
            _check_ranges(name, tensor)
            continue
        if name not in like:
            raise WeightsError(
                f"tensor '{name[:80]}' is not in the base weights: another architecture?"
            )
        expected = like[name].shape
        if name in HEAD_ALL:
            expected = (classes, *expected[1:])
        if tensor.shape != expected:
            raise WeightsError(f"tensor '{name}' has shape {tensor.shape}, expected {expected}")
        if tensor.dtype != like[name].dtype:
            raise WeightsError(f"tensor '{name}' is {tensor.dtype}, expected {like[name].dtype}")
        if tensor.dtype.kind == 'f' and not np.isfinite(tensor).all():
            raise WeightsError(f"tensor '{name}' holds values that are not finite")
    for name in HEAD_TENSORS:
        if name not in update and name in base and base[name].shape[0] != classes:
            raise WeightsError(f"{classes} classes need '{name}', which the update does not carry")


def _check_ranges(name: str, tensor: npt.NDArray[np.generic]) -> None:
    if tensor.dtype != np.float32 or tensor.ndim != 2 or tensor.shape[1] != 2:
        raise WeightsError(f"tensor '{name[:80]}' is {tensor.dtype} {tensor.shape}, not (n, 2)")
    ranges = np.asarray(tensor, np.float32)
    if not np.isfinite(ranges).all() or (ranges[:, 0] > ranges[:, 1]).any():
        raise WeightsError(f"tensor '{name[:80]}' holds ranges that are none")


def network_of(update: State) -> State:
    """Return the tensors of an update that are the network's."""
    apart = (HEAD_PRIOR, HEAD_LIKENESS)
    return {k: v for k, v in update.items() if k not in apart and not k.startswith(RANGES)}
