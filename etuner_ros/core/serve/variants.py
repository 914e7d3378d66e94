# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Variants of a version (pixels, precision) with what they were measured to cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import json
import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

from etuner_ros.core.errors import ConfigError

Z99 = NormalDist().inv_cdf(0.99)  # standard deviations that one in a hundred exceeds
NOT_MEASURED = (None, 'unavailable')


@dataclass(frozen=True)
class Variant:
    """
    One way to serve a version, as it was measured on this board with nothing beside it.

    :param pixels: side of the square input, in px
    :param precision: of the arithmetic: fp32, fp16, int8
    :param p50_ms: median of a prediction, in ms
    :param p99_ms: time that one prediction in a hundred takes longer than, in ms
    :param accuracy: share of right answers, in [0, 1]
    :param joules: of a prediction above idle, in J; None when it was not measured
    :raises ConfigError: naming the variant, the figure and what it must be
    """

    pixels: int
    precision: str
    p50_ms: float
    p99_ms: float
    accuracy: float
    joules: float | None = None

    def __post_init__(self) -> None:
        if not self.precision or not isinstance(self.precision, str):
            self._refuse('precision must be a name such as fp32 or int8', self.precision)
        if not _is_number(self.pixels) or self.pixels < 1 or self.pixels != int(self.pixels):
            self._refuse('pixels must be a whole number from 1', self.pixels)
        if not _is_number(self.p50_ms) or self.p50_ms <= 0:
            self._refuse('p50_ms must be more than 0', self.p50_ms)
        if not _is_number(self.p99_ms) or self.p99_ms < self.p50_ms:
            self._refuse(f'p99_ms must be at least p50_ms ({self.p50_ms:g})', self.p99_ms)
        if not _is_number(self.accuracy) or not 0 <= self.accuracy <= 1:
            self._refuse('accuracy must be between 0 and 1', self.accuracy)
        if self.joules is not None and (not _is_number(self.joules) or self.joules <= 0):
            self._refuse('joules must be more than 0, or null when not measured', self.joules)

    def _refuse(self, what: str, value: object) -> None:
        raise ConfigError(f'variant {self.pixels} px {self.precision}: {what}, got {value!r}')

    @property
    def name(self) -> str:
        """What it is called in status and tables."""
        return f'{self.pixels} px {self.precision}'

    @property
    def tail(self) -> float:
        """How many times longer than the median one prediction in a hundred takes, at least 1."""
        return self.p99_ms / self.p50_ms

    def late(self, deadline_ms: float, load: float = 1.0) -> float:
        """
        Return the share of predictions that take longer than so many ms, in [0, 1].

        Times are taken as log-normal through median and 99th percentile.

        :param load: how many times slower than the table they are
        """
        usual, spread = load * self.p50_ms, math.log(self.tail) / Z99
        if deadline_ms <= 0 or spread < 1e-6:
            return float(deadline_ms < usual)
        return 0.5 * math.erfc(math.log(deadline_ms / usual) / spread / math.sqrt(2.0))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def energies(variants: Sequence[Variant], busy_watts: float) -> dict[str, float]:
    """
    Return the J that a prediction of each variant takes above idle, by name.

    Measured where all were measured. Figures of two kinds can not be compared, so otherwise all
    are derived from the time that a core is busy.

    :param busy_watts: power of a busy core above idle, in W
    """
    if all(v.joules is not None for v in variants):
        return {v.name: float(v.joules or 0.0) for v in variants}
    return {v.name: busy_watts * v.p50_ms / 1e3 for v in variants}


def check_variants(variants: Sequence[Variant]) -> None:
    """
    Check that one can choose among these.

    :raises ConfigError: when there is none, or two of the same name
    """
    if not variants:
        raise ConfigError('there are no variants to choose from: measure a table first')
    names = [v.name for v in variants]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise ConfigError(f'{twice[0]} is there {names.count(twice[0])} times: name each one once')


def read_variants(path: Path, network: str = '') -> list[Variant]:
    """
    Read a measured table: JSON with a list of objects with the fields of `Variant`, under
    `variants`, or under `measured` as `etuner choose` writes it.

    Instead of `joules` there may be `watts`, the power above idle while it predicts. Other fields
    are left alone.

    :param network: whose variants are wanted, in a table of several networks
    :raises ConfigError: when it can not be read or a variant is not as it must be
    """
    try:
        found = json.loads(path.read_text('utf-8-sig'))
    except OSError as error:
        raise ConfigError(f"the table '{path}' can not be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"the table '{path}' is not JSON: {error}") from None
    return variants_of(found, f"the table '{path}'", network)


def variants_of(found: Any, source: str, network: str = '') -> list[Variant]:
    """
    Return the variants of a table that was read, as `read_variants`.

    :param source: what it is called in errors
    """
    rows = found
    if isinstance(found, dict):
        rows = found.get('variants', found.get('measured'))
    if not isinstance(rows, list):
        raise ConfigError(f"{source} has no list 'variants'")
    flat = [_flat(source, number, row) for number, row in enumerate(rows)]
    names = sorted({str(row['network']) for row in flat if 'network' in row})
    if network and network not in names:
        raise ConfigError(f'{source} has no {network}; it has {", ".join(names)}')
    if len(names) > 1 and not network:
        raise ConfigError(f'{source} has {", ".join(names)}: name one network')
    variants = [
        _variant(source, number, row)
        for number, row in enumerate(flat)
        if not network or row.get('network') == network
    ]
    check_variants(variants)
    return variants


def _flat(source: str, number: int, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError(f'{source}: variant {number} is not an object')
    candidate = row.get('candidate')
    return {**candidate, **row} if isinstance(candidate, dict) else row


def _variant(source: str, number: int, row: dict[str, Any]) -> Variant:
    needed = ('pixels', 'precision', 'p50_ms', 'p99_ms', 'accuracy')
    missing = [name for name in needed if name not in row]
    if missing:
        raise ConfigError(f"{source}: variant {number} has no '{missing[0]}'")
    joules, watts = (
        None if row.get(name) in NOT_MEASURED else row[name] for name in ('joules', 'watts')
    )
    if joules is None and _is_number(watts) and _is_number(row['p50_ms']):
        joules = watts * row['p50_ms'] / 1e3
    figures: dict[str, Any] = {name: row[name] for name in needed}
    return Variant(**figures, joules=joules)
