# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Rows of the tables `frames`, `votes` and `items`: a frame is put there once, what each person says
of it is put beside it, and the label that counts follows from that.

All of it within a transaction of the caller.
"""

from __future__ import annotations

from collections import Counter

from etuner_ros.core.labels.database import Database, signed
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey

THIS = 'source = ? AND stamp_ns = ? AND frame_id = ? AND uid = ? AND place = ?'


def key_values(key: FrameKey) -> tuple[str, int, str, int, str]:
    """Return what names a frame as the columns of `THIS` hold it."""
    return *key.moment, signed(key.uid), str(key.place or '')


def put_frame(database: Database, frame: Frame, scenario: int, received_ns: int) -> int:
    """Put a frame there unless it is; return its number."""
    key = key_values(frame.key)
    database.execute(
        'INSERT INTO frames (source, stamp_ns, frame_id, uid, place, label, predicted, '
        'confidence, model_version, scenario, format, image, size, received_ns, image_width, '
        "image_height) VALUES (?, ?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        'ON CONFLICT DO NOTHING',
        (
            *key,
            frame.label,
            frame.confidence,
            frame.model_version,
            scenario,
            frame.image_format,
            frame.image,
            len(frame.image),
            received_ns,
            *frame.size,
        ),
    )
    number = database.one(f'SELECT id FROM frames WHERE {THIS}', *key)
    if frame.image:  # a picture that was evicted, and is at hand once more
        database.execute(
            'UPDATE frames SET image = ?, size = ? WHERE image IS NULL AND id = ?',
            (frame.image, len(frame.image), number),
        )
    if all(frame.size):  # what an earlier release did not note
        database.execute(
            'UPDATE frames SET image_width = ?, image_height = ? WHERE image_width = 0 AND id = ?',
            (*frame.size, number),
        )
    return number


def put_vote(database: Database, number: int, author: str, label: str, received_ns: int) -> None:
    """Add what somebody says of a frame."""
    database.execute(
        'INSERT INTO votes (frame, author, label, received_ns) VALUES (?, ?, ?, ?)',
        (number, author, label, received_ns),
    )


def settle(database: Database, number: int, author: str) -> str:
    """Set the label of a frame that counts; a change goes out with the next batch."""
    last = dict(
        database.execute(
            'SELECT author, label FROM votes WHERE frame = ? ORDER BY id', (number,)
        ).fetchall()
    )
    ranked = Counter(label for label in last.values() if label).most_common(2)
    disputed = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
    label = ranked[0][0] if ranked and not disputed else ''
    before = _label(database, number)
    # No version has learned a label that is another one than before.
    database.execute(
        'UPDATE frames SET label = ?, disputed = ?, learned_by = CASE WHEN label = ? THEN '
        'learned_by END WHERE id = ?',
        (label, disputed, label, number),
    )
    if label != before:
        database.execute(
            'INSERT INTO items (frame, label, author) VALUES (?, ?, ?)',
            (number, label, author),
        )
    return label


def settle_renamed(database: Database, number: int, label: str, new_label: str) -> None:
    """Set the label of a frame whose votes were renamed; a dispute may have ended by it."""
    if _label(database, number) == label:  # the receiver renames it by itself
        database.execute(
            'UPDATE frames SET label = ?, disputed = 0 WHERE id = ?', (new_label, number)
        )
        return
    row = database.execute(
        'SELECT author FROM items WHERE frame = ? ORDER BY id DESC LIMIT 1', (number,)
    ).fetchone()
    settle(database, number, row[0] if row else '')


def _label(database: Database, number: int) -> str:
    """
    Return the label of a frame that counts, which is what a receiver of all items has.

    That of its last item need not be: a renaming that went out since is an item of its own.
    """
    row = database.execute('SELECT label FROM frames WHERE id = ?', (number,)).fetchone()
    return str(row[0])
