# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Room on the disk: which pictures of labelled frames go when there are too many."""

from __future__ import annotations

from collections.abc import Iterator

from etuner_ros.core.errors import StoreError
from etuner_ros.core.labels.database import Database

# To find what may go takes a look at all pictures of a class, so room is made for some at once;
# and a label waits for no more than so many, so a lower budget is reached over some labels.
SPARE = 0.01  # of the budget
MOST_SPARE = 1_000_000  # bytes
MOST_AT_ONCE = 256  # pictures


def stored_bytes(database: Database) -> int:
    """Return the bytes of all pictures."""
    return database.one('SELECT COALESCE(SUM(size), 0) FROM frames')


def make_room(database: Database, budget_bytes: int) -> None:
    """
    Where there are too many, evict pictures of the class that has most of them, those that were
    learned first, then the oldest; never one that has not gone out yet.

    :raises StoreError: when too few may go
    """
    excess = stored_bytes(database) - budget_bytes if budget_bytes else 0
    if excess <= 0:
        return
    spare = min(int(SPARE * budget_bytes), MOST_SPARE)
    gone = []
    for number, size in _victims(database):
        gone.append(number)
        excess -= size
        if excess + spare <= 0 or len(gone) == MOST_AT_ONCE:
            break
    if excess > 0 and len(gone) < MOST_AT_ONCE:
        raise StoreError(
            f'the label store is full ({budget_bytes / 1e6:.0f} MB) of labels that '
            f'no tuner got yet; raise budget_mb, or lower batch_size'
        )
    for number in gone:
        database.execute('UPDATE frames SET image = NULL, size = 0 WHERE id = ?', (number,))


def _victims(database: Database) -> Iterator[tuple[int, int]]:
    """Yield the pictures to evict, as number and bytes, in order: `MOST_AT_ONCE` at most."""
    counts = dict(
        database.execute('SELECT label, COUNT(*) FROM frames WHERE size > 0 GROUP BY label')
    )
    going: dict[str, list[tuple[int, int]]] = {}  # of each class, the next one last
    while counts:
        label = max(counts, key=counts.__getitem__)
        if label not in going:
            rows = database.execute(
                'SELECT id, size FROM frames f WHERE label = ? AND size > 0 AND NOT EXISTS '
                '(SELECT 1 FROM items i WHERE i.frame = f.id AND i.batch IS NULL) '
                'ORDER BY learned_by IS NULL, id LIMIT ?',
                (label, MOST_AT_ONCE),
            )
            going[label] = rows.fetchall()[::-1]
        if going[label]:
            yield going[label].pop()
            counts[label] -= 1
        else:
            del counts[label]
