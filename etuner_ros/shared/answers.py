# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What commands answer, for people or for programs; how far they are, for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import asdict, is_dataclass
import json
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar('T')


def answer(as_json: bool, text: str, found: Any) -> None:
    """Print `text`, or what was found as JSON."""
    print(json_text(found) if as_json else text)


def json_text(found: Any, indent: int | None = 1) -> str:
    """
    Return what was found as JSON; NaN and infinities, of which it knows none, are null.

    :param indent: of what lies in something else; None = all in a line
    """
    text = json.dumps(found, default=_plain)
    return json.dumps(json.loads(text, parse_constant=lambda _: None), indent=indent)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    return value.tolist()  # of NumPy


def shown(items: Iterable[T], what: str, count: int | None = None) -> Iterator[T]:
    """Pass items on, with a progress bar on a terminal's standard error meanwhile."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    if count is None and isinstance(items, Sized):
        count = len(items)
    # The rich of Ubuntu 22.04 asks items for their number where none is given; 0 is unknown.
    yield from track(
        items,
        what,
        total=count or 0,
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
