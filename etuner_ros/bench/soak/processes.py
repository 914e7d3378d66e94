# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of a soak: which there are, what they start, what they take."""

from __future__ import annotations

from contextlib import suppress
import os
from pathlib import Path
import signal

MARK = 'ETUNER_SOAK'  # in the environment of every process of a soak


def processes_with(mark: str) -> dict[int, str]:
    """Return the processes with a mark in their environment, and their command lines."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):
            if mark.encode() in (folder / 'environ').read_bytes():
                command = (folder / 'cmdline').read_bytes().replace(b'\0', b' ').decode()
                if int(folder.name) != os.getpid() and command:
                    found[int(folder.name)] = command
    return found


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for file in Path(f'/proc/{pid}/task').glob('*/children'):
        with suppress(OSError):
            found += [int(p) for p in file.read_text().split()]
    return found


def alive(pid: int) -> bool:
    """Return whether a process is there and is no zombie."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (OSError, IndexError):
        return False


def kill_at_once(pids: list[int]) -> None:
    """End processes with SIGKILL, without a pause between them."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def memory_mb(pid: int) -> float:
    """Return the proportional resident memory of a process in MB."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
        return int(next(line for line in lines if line.startswith('Pss:')).split()[1]) / 1e3
    return 0.0
