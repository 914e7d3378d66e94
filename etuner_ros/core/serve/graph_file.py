# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Graphs of a network in ONNX, as templates: what is computed is fixed, the weights are written into
the bytes of the file. So another version of the weights needs no export. NumPy only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from etuner_ros.core.errors import EngineError
from etuner_ros.core.models.weights import RANGES, State

FORMAT = 2  # of templates; one of another format is made anew
RECIPE = 'etuner'  # key of the metadata that says what is written where
Array = npt.NDArray[np.generic]
Floats = npt.NDArray[np.float32]

EIGHT_BITS, SEVEN_BITS = 127, 64  # largest weights
_KINDS = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 10: np.float16}


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _fields(data: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """
    Walk over the fields of a protobuf message (protobuf.dev, "Encoding").

    :return: number, first byte and end of each that has a length; number, value, -1 of a varint
    """
    at = begin
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value, -1
        elif wire == 2:
            size, at = _varint(data, at)
            yield number, at, at + size
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f'wire type {wire}')
    if at != end:
        raise ValueError('a field is cut short')


@dataclass(frozen=True)
class Layer:
    """A convolution or another linear layer, and the BatchNorm behind it that is folded in."""

    weight: str  # tensor of the network
    bias: str  # the same; empty when it has none
    norm: str  # prefix of the tensors of its BatchNorm; empty when it has none
    eps: float
    weight_to: str  # initializer of the graph
    bias_to: str  # empty when it has none
    input: int = -1  # row of the ranges of its input; -1 when it is not quantised


class GraphFile:
    """
    A template in memory.

    :param data: the bytes of an ONNX file that `graph.make` wrote
    :raises EngineError: when it is damaged
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._places: dict[str, tuple[int, int, Any]] = {}  # by initializer: begin, end, kind
        try:
            self._read(memoryview(data))
            recipe = json.loads(self._recipe)
            self.kind: str = recipe['kind']  # fp32, int8, observer
            self.layers = [Layer(**raw) for raw in recipe['layers']]
            self.copied: list[tuple[str, str]] = [(a, b) for a, b in recipe['copied']]
            self.ranged: list[tuple[str, str, str]] = [(a, b, c) for a, b, c in recipe['ranged']]
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise EngineError(f'the graph is damaged: {error}') from error

    def _read(self, data: memoryview) -> None:
        self._recipe = ''
        for number, begin, end in _fields(data, 0, len(data)):
            if number == 7 and end >= 0:  # ModelProto.graph
                for inner, first, last in _fields(data, begin, end):
                    if inner == 5:  # GraphProto.initializer
                        self._read_tensor(data, first, last)
            elif number == 14 and end >= 0:  # ModelProto.metadata_props
                entry = {n: bytes(data[a:b]) for n, a, b in _fields(data, begin, end)}
                if entry.get(1) == RECIPE.encode():
                    self._recipe = entry[2].decode()

    def _read_tensor(self, data: memoryview, begin: int, end: int) -> None:
        name, kind, place = '', 0, (0, 0)
        for number, first, last in _fields(data, begin, end):
            if number == 8:  # TensorProto.name
                name = bytes(data[first:last]).decode()
            elif number == 2:  # data_type
                kind = first
            elif number == 9:  # raw_data
                place = (first, last)
        if kind in _KINDS:
            self._places[name] = (*place, np.dtype(_KINDS[kind]))

    @property
    def layout(self) -> str:
        """
        Return what names the list of activations that have a range: 12 hexadecimal digits.

        Ranges are only of use for a graph of the same layout.
        """
        names = json.dumps([name for name, _, _ in self.ranged])
        return hashlib.sha256(names.encode()).hexdigest()[:12]

    def filled(self, state: State, ranges: Floats | None = None) -> bytes:
        """
        Return the graph with the weights of a version.

        :param state: all tensors of the network
        :param ranges: smallest and largest value of each activation, (n, 2), for int8
        :raises EngineError: when they do not fit
        """
        data = bytearray(self._data)
        steps: Floats | None = None
        if self.kind == 'int8':
            steps = self._write_ranges(data, ranges)
        try:
            for layer in self.layers:
                weight, bias = folded(layer, state)
                if steps is None or layer.input < 0:
                    self._write(data, layer.weight_to, weight)
                    if layer.bias_to:
                        self._write(data, layer.bias_to, bias)
                else:
                    self._write_quantised(data, layer, weight, bias, float(steps[layer.input]))
            for source, target in self.copied:
                self._write(data, target, state[source])
        except KeyError as error:
            raise EngineError(f'the weights lack {error}, which the graph needs') from error
        return bytes(data)

    def _write(self, data: bytearray, name: str, value: Array) -> None:
        begin, end, kind = self._places[name]
        raw = np.ascontiguousarray(value, kind).reshape(-1)
        if raw.nbytes != end - begin:
            raise EngineError(
                f'{name} takes {(end - begin) // kind.itemsize} values, {raw.size} came: the '
                f'graph is of another network'
            )
        np.frombuffer(data, kind, raw.size, begin)[:] = raw

    def _write_ranges(self, data: bytearray, ranges: Floats | None) -> Floats:
        """Write scale and zero point of each activation; return the scales."""
        if ranges is None or ranges.shape != (len(self.ranged), 2):
            found = 'none' if ranges is None else str(ranges.shape)
            raise EngineError(f'{len(self.ranged)} ranges of activations are needed, not {found}')
        scales, zeros = affine(ranges)
        for (_, scale, zero), step, shift in zip(self.ranged, scales, zeros):
            self._write(data, scale, step)
            self._write(data, zero, shift)
        return scales

    def _write_quantised(
        self, data: bytearray, layer: Layer, weight: Floats, bias: Floats, step: float
    ) -> None:
        most = SEVEN_BITS if saturates(processor_flags()) else EIGHT_BITS
        codes, scales = symmetric(weight, least_steps(bias, step), most)
        self._write(data, f'{layer.weight_to}_quantized', codes)
        self._write(data, f'{layer.weight_to}_scale', scales)
        if not layer.bias_to:
            return
        steps = np.float32(step) * scales
        whole = np.clip(np.rint(bias.astype(np.float64) / steps), -(2**31), 2**31 - 1)
        self._write(data, f'{layer.bias_to}_quantized', whole.astype(np.int32))
        self._write(data, f'{layer.bias_to}_quantized_scale', steps)


def folded(layer: Layer, state: State) -> tuple[Floats, Floats]:
    """
    Return weight (C, ...) and bias (C,) of a layer with its BatchNorm folded in.

    :raises KeyError: when the state lacks a tensor
    """
    weight = np.asarray(state[layer.weight], np.float32)
    bias = np.zeros(len(weight), np.float32)
    if layer.bias:
        bias = np.asarray(state[layer.bias], np.float32)
    if layer.norm:
        variance = np.asarray(state[f'{layer.norm}.running_var'], np.float32)
        gain = np.asarray(state[f'{layer.norm}.weight'], np.float32) / np.sqrt(
            variance + np.float32(layer.eps)
        )
        mean = np.asarray(state[f'{layer.norm}.running_mean'], np.float32)
        weight = weight * gain.reshape(-1, *[1] * (weight.ndim - 1))
        bias = np.asarray(state[f'{layer.norm}.bias'], np.float32) + (bias - mean) * gain
    return weight, bias


def affine(ranges: Floats) -> tuple[Floats, npt.NDArray[np.uint8]]:
    """
    Return scale and zero point for unsigned 8 bit of ranges (n, 2) that are made to include 0.

    >>> [v.tolist() for v in affine(np.array([[-1.0, 1.55]], np.float32))]
    [[0.009999999776482582], [100]]
    """
    low, high = np.minimum(ranges[:, 0], 0.0), np.maximum(ranges[:, 1], 0.0)
    spread = (high - low).astype(np.float32)
    scales = np.where(spread > 0, spread / np.float32(255.0), np.float32(1.0)).astype(np.float32)
    zeros = np.clip(np.rint(-low / scales), 0, 255).astype(np.uint8)
    return scales, zeros


def least_steps(bias: Floats, step: float) -> Floats:
    """
    Return the smallest scale of the weights of each channel (C,) at which its bias (C,) still fits
    into 32 bit, in which sums are: of a channel whose weights are nearly 0 it would not.

    :param step: scale of the input
    """
    return np.asarray(1.0001 * 2.0 * np.abs(bias) / (2.0**32 - 1) / step, np.float32)


@lru_cache(maxsize=1)
def processor_flags() -> frozenset[str]:
    """Return what this processor can do, as Linux names it; empty where it does not tell."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        return frozenset()
    told = next((line for line in lines if line.startswith('flags')), '')
    return frozenset(told.partition(':')[2].split())


def saturates(flags: Collection[str]) -> bool:
    """
    Return whether products of 8 bit are too large for a processor: x86 without VNNI adds two of
    them in 16 bit, and what does not fit is cut off (onnxruntime calls the remedy `reduce_range`).
    """
    return 'avx2' in flags and not {'avx512_vnni', 'avx_vnni'} & set(flags)


def symmetric(
    weight: Floats, least: Floats | None = None, most: int = EIGHT_BITS
) -> tuple[npt.NDArray[np.int8], Floats]:
    """
    Return weights (C, ...) as signed 8 bit and the scale (C,) of each output channel.

    :param least: smallest scale (C,)
    :param most: largest value
    """
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = np.where(largest > 0, largest / np.float32(most), np.float32(1.0))
    scales = np.maximum(scales, 0.0 if least is None else least).astype(np.float32)
    rounded = np.rint(weight / scales.reshape(-1, *[1] * (weight.ndim - 1)))
    return np.clip(rounded, -most, most).astype(np.int8), scales


def ranges_of(update: State) -> tuple[str, Floats] | None:
    """Return layout and ranges that a version was calibrated with; None when it is not."""
    for name, value in update.items():
        if name.startswith(RANGES):
            return name[len(RANGES) :], np.asarray(value, np.float32)
    return None


def read_graph(path: Path) -> GraphFile:
    """
    Read a template.

    :raises EngineError: when it can not be read
    """
    try:
        return GraphFile(path.read_bytes())
    except OSError as error:
        raise EngineError(f'{path} can not be read: {error.strerror or error}') from error
