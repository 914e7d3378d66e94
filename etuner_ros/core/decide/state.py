# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Saved state of the decisions, read with care: its file may be damaged or old."""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from etuner_ros.core.errors import StateError

MOST_WHOLE = 2**63
MOST = 1e300  # finite, and a float


class Saved:
    """
    A mapping of plain values, as JSON gives it back; what does not fit is refused by name.

    >>> Saved('LazyTune', {'waiting': 3}).whole('waiting')
    3
    >>> Saved('LazyTune', {}).whole('waiting')
    Traceback (most recent call last):
    etuner_ros.core.errors.StateError: saved state of LazyTune: 'waiting' is missing
    """

    def __init__(self, owner: str, state: Any) -> None:
        self.owner = owner
        if not isinstance(state, Mapping):
            raise self.error(f'a mapping is needed, got {type(state).__name__}')
        self._state = state

    def error(self, text: str) -> StateError:
        """Return the error that says what is wrong."""
        return StateError(f'saved state of {self.owner}: {text}')

    def get(self, key: str) -> Any:
        """Return a value as it is."""
        if key not in self._state:
            raise self.error(f"'{key}' is missing")
        return self._state[key]

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        """Return a finite number within these bounds."""
        return self.as_number(self.get(key), key, low, high)

    def whole(self, key: str, low: int = 0, high: int = MOST_WHOLE) -> int:
        """Return a whole number within these bounds."""
        return self.as_whole(self.get(key), key, low, high)

    def flag(self, key: str) -> bool:
        """Return true or false."""
        value = self.get(key)
        if not isinstance(value, bool):
            raise self.error(f"'{key}' must be true or false, got {value!r:.60}")
        return value

    def rows(self, key: str, width: int | None = None) -> list[list[Any]]:
        """Return a list of lists, each of `width` values where that is given."""
        rows = self.get(key)
        good = isinstance(rows, list) and all(isinstance(r, (list, tuple)) for r in rows)
        if not good or (width is not None and any(len(r) != width for r in rows)):
            what = 'lists' if width is None else f'lists of {width} values'
            raise self.error(f"'{key}' must be a list of {what}, got {rows!r:.60}")
        return [list(r) for r in rows]

    def numbers(self, key: str) -> list[float]:
        """Return a list of finite numbers."""
        values = self.get(key)
        if not isinstance(values, list):
            raise self.error(f"'{key}' must be a list of numbers, got {values!r:.60}")
        return [self.as_number(v, key) for v in values]

    def as_number(
        self, value: Any, key: str, low: float = -math.inf, high: float = math.inf
    ) -> float:
        """Return this value if it is a finite number within the bounds."""
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not right or not abs(value) <= MOST or not low <= value <= high:
            raise self.error(f"'{key}' must be a number from {low} to {high}, got {value!r:.60}")
        return float(value)

    def as_whole(self, value: Any, key: str, low: int = 0, high: int = MOST_WHOLE) -> int:
        """Return this value if it is a whole number within the bounds."""
        right = isinstance(value, int) and not isinstance(value, bool)
        if not right or not low <= value <= high:
            text = f"'{key}' must be a whole number from {low} to {high}, got {value!r:.60}"
            raise self.error(text)
        return int(value)

    def as_name(self, value: Any, key: str) -> str:
        """Return this value if it is text."""
        if not isinstance(value, str):
            raise self.error(f"'{key}' must be text, got {value!r:.60}")
        return value
