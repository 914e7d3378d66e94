# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Room on the disk: which pictures of labelled frames go when there are too many."""

from __future__ import annotations

from etuner_ros.core.errors import StoreError
from etuner_ros.core.labels.database import Database


def stored_bytes(database: Database) -> int:
    """Return the bytes of all pictures."""
    return database.one('SELECT COALESCE(SUM(size), 0) FROM frames')


def make_room(database: Database, budget_bytes: int) -> None:
    """
    Evict pictures of the class that has most of them, those that were learned first, then the
    oldest; never one that has not gone out yet.
    """
    if not budget_bytes:
        return
    excess = stored_bytes(database) - budget_bytes
    while excess > 0:
        size = _evict(database)
        if not size:
            raise StoreError(
                f'the label store is full ({budget_bytes / 1e6:.0f} MB) of labels that '
                f'no tuner got yet; raise budget_mb, or lower batch_size'
            )
        excess -= size


def _evict(database: Database) -> int:
    """Evict one picture; return its bytes, 0 when there is none that may go."""
    labels = database.execute(
        'SELECT label FROM frames WHERE size > 0 GROUP BY label ORDER BY COUNT(*) DESC'
    ).fetchall()
    for (label,) in labels:
        row = database.execute(
            'SELECT id, size FROM frames f WHERE label = ? AND size > 0 AND NOT EXISTS '
            '(SELECT 1 FROM items i WHERE i.frame = f.id AND i.batch IS NULL) '
            'ORDER BY learned_by IS NULL, id LIMIT 1',
            (label,),
        ).fetchone()
        if row is not None:
            database.execute('UPDATE frames SET image = NULL, size = 0 WHERE id = ?', (row[0],))
            return int(row[1])
    return 0
