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
# Of an equal share for each class: so much of one stays while pictures of others may go. A worker
# that starts is sent what is stored, and a head needs samples of each class.
LEAST_SHARE = 0.5


def stored_bytes(database: Database) -> int:
    """Return the bytes of all pictures."""
    return database.one('SELECT COALESCE(SUM(size), 0) FROM frames')


def make_room(database: Database, budget_bytes: int) -> None:
    """
    Where there are too many, evict pictures, of the class that has most of them and the oldest
    first: those that were learned, as long as a class has some; then also those that have only
    been in a batch, whether a tuner took it or not; never one that waits for its batch.

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
            f'wait for their batch; raise budget_mb, or lower batch_size'
        )
    for number in gone:
        database.execute('UPDATE frames SET image = NULL, size = 0 WHERE id = ?', (number,))


def _victims(database: Database) -> Iterator[tuple[int, int]]:
    """Yield the pictures to evict, as number and bytes, in order: `MOST_AT_ONCE` at most."""
    counts = dict(
        database.execute('SELECT label, COUNT(*) FROM frames WHERE size > 0 GROUP BY label')
    )
    least = LEAST_SHARE * sum(counts.values()) / max(len(counts), 1)
    taken: set[int] = set()
    for only, stays in (('AND learned_by IS NOT NULL', least), ('', 0)):
        for number, size in _of_largest(database, counts, only, stays, taken):
            taken.add(number)
            yield number, size


def _of_largest(
    database: Database, counts: dict[str, int], only: str, stays: float, taken: set[int]
) -> Iterator[tuple[int, int]]:
    """
    Yield pictures that may go, each of the class that has most then; count them off.

    :param only: condition on them
    :param stays: as many of a class stay
    :param taken: numbers of those that were yielded before
    """
    classes = list(counts)
    going: dict[str, list[tuple[int, int]]] = {}  # of each class, the next one last
    while classes:
        label = max(classes, key=counts.__getitem__)
        if counts[label] <= stays:
            return
        if label not in going:
            rows = database.execute(
                f'SELECT id, size FROM frames f WHERE label = ? AND size > 0 {only} AND NOT '
                'EXISTS (SELECT 1 FROM items i WHERE i.frame = f.id AND i.batch IS NULL) '
                'ORDER BY learned_by IS NULL, id LIMIT ?',
                (label, MOST_AT_ONCE),
            )
            going[label] = [row for row in rows if row[0] not in taken][::-1]
        if going[label]:
            yield going[label].pop()
            counts[label] -= 1
        else:
            classes.remove(label)
