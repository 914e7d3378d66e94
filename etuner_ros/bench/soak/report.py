# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a soak found, kept after each phase; phases of the same commit are put together."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
import json
from pathlib import Path
from typing import Any

from etuner_ros import __version__
from etuner_ros.bench.provenance import git, machine, ROOT, uncommitted
from etuner_ros.core.files import replace_file

FILE = 'soak.json'
SUMS = (
    *('kills', 'damaged_files', 'power_cuts', 'swaps', 'predictions'),
    *('labels_sent', 'labels_accepted', 'labels_lost', 'stores_unloadable', 'orphans'),
    *('not_resumed', 'temporary_files', 'minutes'),
)


def commit() -> str:
    """Return what is checked out; with a digest of what is not committed, results aside."""
    if git('rev-parse', '--show-toplevel') != str(ROOT):
        return f'version {__version__}'
    changed = uncommitted(['.', ':!results'])
    return git('log', '-1', '--format=%h') + (f'+{changed}' if changed else '')


class Report:
    """
    The results of all phases, in a file.

    :param output: folder of the file; phases that it has of the same commit stay
    """

    def __init__(self, output: Path) -> None:
        self._file, self.commit = output / FILE, commit()
        self.phases: dict[str, dict[str, Any]] = {}
        with suppress(OSError, ValueError):
            before = json.loads(self._file.read_text())
            if before.get('commit') == self.commit:
                self.phases = before['phases']

    def add(self, name: str, found: Mapping[str, Any]) -> None:
        """Keep what a phase found, in place of what it had found before."""
        self.phases[name] = dict(found)
        replace_file(self._file, (json.dumps(self.as_dict(), indent=1) + '\n').encode())

    def as_dict(self) -> dict[str, Any]:
        """Return everything, with the sums over all phases."""
        rows = self.phases.values()
        sums = {key: sum(row[key] for row in rows if key in row) for key in SUMS}
        return {
            **machine(),
            'commit': self.commit,
            **{k: round(v, 1) if isinstance(v, float) else v for k, v in sums.items()},
            'broken': self.broken,
            'skipped': self.skipped,
            'phases': self.phases,
        }

    @property
    def broken(self) -> list[str]:
        """What was promised and not kept."""
        return [f'{name}: {text}' for name, row in self.phases.items() for text in row['broken']]

    @property
    def skipped(self) -> list[str]:
        """What could not be tried here, and why."""
        return [f'{n}: {row["skipped"]}' for n, row in self.phases.items() if 'skipped' in row]


def line(name: str, found: Mapping[str, Any]) -> str:
    """Return what a phase found in one line."""
    if 'skipped' in found:
        return f'{name}: skipped: {found["skipped"]}'
    words = [
        f'{key.replace("_", " ")} {value}'
        for key, value in found.items()
        if isinstance(value, (int, float, str)) and value
    ]
    if 'resume_s' in found:
        resume = found['resume_s']
        words.append(f'resumed in {resume["median"]} s (most {resume["max"]})')
    verdict = '; '.join(found['broken']) or 'all as promised'
    return f'{name}: {verdict} ({", ".join(words)})'


def summary(report: Report) -> str:
    """Return the result in a few lines."""
    lines = [line(name, found) for name, found in report.phases.items()]
    count = len(report.broken)
    lines.append(f'{count} promises broken' if count else 'no promise broken')
    return '\n'.join([f'commit {report.commit}', *lines])
