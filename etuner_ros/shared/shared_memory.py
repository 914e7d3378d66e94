# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What DDS leaves in shared memory after SIGKILL.

Fast DDS keeps segments in /dev/shm (`fastrtps_*`, `sem.fastrtps_*`) and removes them when a
process ends in order. After SIGKILL they stay until somebody clears them.
"""

from __future__ import annotations

from pathlib import Path

SHM = Path('/dev/shm')
NAMES = ('fastrtps_*', 'sem.fastrtps_*', 'fastdds_*', 'sem.fastdds_*')


def mapped_names() -> set[str]:
    """Return the names of all files in /dev/shm that a process maps or has open."""
    found: set[str] = set()
    for process in Path('/proc').glob('[0-9]*'):
        try:
            for line in (process / 'maps').read_text(errors='replace').splitlines():
                place = line.find('/dev/shm/')
                if place >= 0:
                    found.add(line[place + 9 :].removesuffix(' (deleted)'))
            for link in (process / 'fd').iterdir():
                target = str(link.readlink())
                if target.startswith('/dev/shm/'):
                    found.add(target[9:].removesuffix(' (deleted)'))
        except OSError:  # it ended, or belongs to somebody else
            continue
    return found


def group(name: str) -> str:
    """
    Return what a file belongs to: a port or a segment has its memory, a lock and a semaphore.

    >>> group('fastrtps_port7411_el'), group('sem.fastrtps_port7411_mutex')
    ('fastrtps_port7411', 'fastrtps_port7411')
    """
    return name.removeprefix('sem.').removesuffix('_mutex').removesuffix('_el').removesuffix('_sl')


def stale_segments(uid: int) -> list[Path]:
    """
    Return segments of DDS that belong to a user and that no process maps.

    What belongs together stays together: the lock and the semaphore of a port are closed between
    uses, but a process that sends to it and finds them gone is never heard again by the next one
    that listens there.
    """
    if not SHM.is_dir():
        return []
    files = {path: group(path.name) for pattern in NAMES for path in SHM.glob(pattern)}
    # After the listing: a file that is made meanwhile is not in it, one that is opened is in use.
    in_use = {group(name) for name in mapped_names()}
    found = []
    for path, of in files.items():
        try:
            if path.stat().st_uid == uid and of not in in_use:
                found.append(path)
        except OSError:
            continue
    return sorted(found)


def clean(uid: int) -> list[Path]:
    """Remove them; return what was removed."""
    removed = []
    for path in stale_segments(uid):
        try:
            path.unlink()
            removed.append(path)
        except OSError:
            continue
    return removed
