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


def stale_segments(uid: int) -> list[Path]:
    """Return segments of DDS that belong to a user and that no process maps."""
    if not SHM.is_dir():
        return []
    in_use = mapped_names()
    found = []
    for pattern in NAMES:
        for path in SHM.glob(pattern):
            try:
                if path.stat().st_uid == uid and path.name not in in_use:
                    found.append(path)
            except OSError:
                continue
    # A port is in use as long as the lock file beside it is open.
    locked = {name.removesuffix('_el') for name in in_use if name.endswith('_el')}
    return sorted(p for p in found if p.name.removesuffix('_el') not in locked)


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
