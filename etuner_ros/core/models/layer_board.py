# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which blocks of the network are frozen, which are pinned, and what is known of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
import fnmatch
import json
import math
from pathlib import Path

from etuner_ros.core.errors import MessageError
from etuner_ros.core.files import replace_file


@dataclass(frozen=True)
class Layer:
    """One block."""

    name: str
    frozen: bool
    pinned: bool  # set by an operator: SimFreeze leaves it as it is
    cka: float
    parameters: int
    forward_share: float


class LayerBoard:
    """
    The frozen state of every block, kept in a file.

    :param file: where it is kept
    :param units: (name, number of parameters) of each block, from input to output
    :param frozen: blocks that are frozen when the file does not say
    :ivar problem: why the file could not be read; empty when it could, or is not there yet
    """

    def __init__(
        self, file: Path, units: Sequence[tuple[str, int]], frozen: Collection[str]
    ) -> None:
        self._file, self._units = file, units
        self._names = [name for name, _ in units]
        self._frozen, self._pinned = set(frozen) & set(self._names), set[str]()
        self._cka: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._stored = ''
        self.problem = ''
        try:
            raw = json.loads(file.read_text())
            self._frozen, self._pinned = (
                {str(name) for name in raw[key]} & set(self._names) for key in ('frozen', 'pinned')
            )
            self._stored = self._text()
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.problem = (
                f'the frozen layers could not be read and are those of the live version: {error}'
            )

    def layers(self) -> list[Layer]:
        """Return all blocks, from input to output."""
        return [
            Layer(
                name,
                name in self._frozen,
                name in self._pinned,
                self._cka.get(name, math.nan),
                size,
                self._shares.get(name, math.nan),
            )
            for name, size in self._units
        ]

    def set(self, patterns: Sequence[str], frozen: bool, pinned: bool) -> list[str]:
        """
        Do what an operator wants.

        :param patterns: names of blocks, or shell patterns
        :return: the blocks that changed
        :raises MessageError: when a pattern matches none; then nothing is changed
        """
        matches = {wanted: fnmatch.filter(self._names, wanted) for wanted in patterns}
        unknown = [wanted[:60] for wanted, found in matches.items() if not found]
        if unknown or not matches:
            wanted = ', '.join(unknown) or 'an empty list'
            raise MessageError(f'no layer matches {wanted}; layers: {", ".join(self._names)}')
        chosen = {name for found in matches.values() for name in found}
        before = self._frozen, self._pinned
        self._frozen = self._frozen | chosen if frozen else self._frozen - chosen
        self._pinned = self._pinned | chosen if pinned else self._pinned - chosen
        changed = (before[0] ^ self._frozen) | (before[1] ^ self._pinned)
        return [name for name in self._names if name in changed]

    def take(
        self, frozen: Collection[str], cka: Mapping[str, float], shares: Mapping[str, float]
    ) -> None:
        """Take over what a round found; pinned blocks stay as they are."""
        free = set(self._names) - self._pinned
        self._frozen = (self._frozen & self._pinned) | (set(frozen) & free)
        self._cka, self._shares = dict(cka), dict(shares)

    @property
    def unsaved(self) -> bool:
        """Whether the file says something else."""
        return self._stored != self._text()

    def save(self) -> str:
        """Write the file when it says something else; return why it could not be written."""
        if not self.unsaved:
            return ''
        try:
            replace_file(self._file, self._text().encode())
        except OSError as error:
            return f'the frozen layers could not be stored: {error.strerror or error}'
        self._stored = self._text()
        return ''

    def _text(self) -> str:
        return json.dumps({'frozen': sorted(self._frozen), 'pinned': sorted(self._pinned)})
