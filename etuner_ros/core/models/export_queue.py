# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Exports of stored versions: each in a process of its own, answered when it has ended."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from dataclasses import dataclass
from pathlib import Path
import time

from etuner_ros.core.errors import MessageError
from etuner_ros.core.models.child import Child
from etuner_ros.core.models.export import aside_of, FORMATS

MOST_EXPORTS = 4  # at a time
LONGEST_S = 600.0

Answer = Callable[[str], None]  # takes what went wrong; nothing when the file is written


@dataclass
class _Export:
    process: Child
    path: Path
    since: float
    answer: Answer


class ExportQueue:
    """
    Starts exports and answers each of them exactly once.

    :param root: the folder that may be written to
    :param start: runs `core.models.export` with its arguments
    :param now: monotonic seconds
    """

    def __init__(
        self,
        root: Path,
        start: Callable[..., Child] = Child,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root, self._start, self._now = root.resolve(), start, now
        self._running: list[_Export] = []

    def add(self, store: Path, version: int, kind: str, name: str, answer: Answer) -> Path:
        """
        Start an export.

        :param store: the folder of the model store, that of one set of base weights
        :param name: of the file to write, below the root
        :param answer: called by `poll` or `close`
        :return: the file
        :raises MessageError: when it can't be done as asked; then nothing is answered
        """
        path = (self._root / name).resolve()
        if kind not in FORMATS:
            raise MessageError(f"'{kind}' is none of {', '.join(FORMATS)}")
        if path == self._root or not path.is_relative_to(self._root):
            raise MessageError(f'the path must lie below {self._root}')
        if any(export.path == path for export in self._running):
            raise MessageError(f'{path} is being written already')
        if len(self._running) >= MOST_EXPORTS:
            raise MessageError('too many exports are under way; try again later')
        try:
            arguments = (str(store), str(version), kind, str(path))
            process = self._start('etuner_ros.core.models.export', *arguments)
        except OSError as error:
            raise MessageError(f'no process can be started: {error.strerror or error}') from error
        self._running.append(_Export(process, path, self._now(), answer))
        return path

    def poll(self) -> None:
        """Answer the exports that have ended; end those that take too long."""
        for export in list(self._running):
            if export.process.ended:
                self._finish(export, export.process.problem)
            elif self._now() - export.since > LONGEST_S:
                self._finish(export, f'it took longer than {LONGEST_S:.0f} s and was ended')

    def close(self, reason: str) -> None:
        """End and answer all."""
        for export in list(self._running):
            self._finish(export, reason)

    def _finish(self, export: _Export, problem: str) -> None:
        self._running.remove(export)
        export.process.close()
        with contextlib.suppress(OSError):  # where no file can be there is none
            aside_of(export.path, export.process.pid).unlink(missing_ok=True)
        export.answer(problem)
