# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Labelled samples in SQLite: what was acknowledged survives a crash and power loss (WAL,
synchronous=FULL).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
import sqlite3

from etuner_ros.core.errors import StoreError
from etuner_ros.core.frame_buffer import Frame

SCHEMA = """
CREATE TABLE IF NOT EXISTS samples (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, stamp_ns INTEGER NOT NULL, frame_id TEXT NOT NULL,
    label TEXT NOT NULL, predicted TEXT NOT NULL, author TEXT NOT NULL,
    model_version INTEGER NOT NULL,
    format TEXT NOT NULL, image BLOB NOT NULL, received_ns INTEGER NOT NULL,
    batch INTEGER
);
CREATE INDEX IF NOT EXISTS samples_by_frame ON samples (source, stamp_ns, frame_id);
CREATE INDEX IF NOT EXISTS samples_by_batch ON samples (batch);
"""
COLUMNS = (
    'id, source, stamp_ns, frame_id, label, predicted, author, model_version, format, image, batch'
)


@dataclass(frozen=True)
class StoredSample:
    """One labelled frame as it is stored."""

    sample_id: int
    source: str
    stamp_ns: int
    frame_id: str
    label: str
    predicted: str
    author: str
    model_version: int
    image_format: str
    image: bytes
    batch: int | None


class LabelStore:
    """
    Stores corrections and numbers batches of them from 1.

    :param path: the database file; its folder is made
    :raises StoreError: when it can't be opened
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute('PRAGMA journal_mode=WAL')
            self._database.execute('PRAGMA synchronous=FULL')
            self._database.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f'the label store {path} can not be opened: {error}; check store.path'
            ) from error

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def is_duplicate(self, frame: Frame, label: str, author: str) -> bool:
        """Return whether this author's last word on the frame was the same label."""
        row = self._database.execute(
            'SELECT label FROM samples WHERE source = ? AND stamp_ns = ? AND frame_id = ? AND '
            'author = ? ORDER BY id DESC LIMIT 1',
            (frame.key.source, frame.key.stamp_ns, frame.key.frame_id, author),
        ).fetchone()
        return row is not None and row[0] == label

    def add(self, frame: Frame, label: str, author: str, received_ns: int) -> int:
        """
        Store a correction; when this returns, it is on the disk.

        :return: the number of the sample
        :raises StoreError: when it could not be written
        """
        try:
            cursor = self._database.execute(
                'INSERT INTO samples (source, stamp_ns, frame_id, label, predicted, author, '
                'model_version, format, image, received_ns) '
                'VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)',
                (
                    frame.key.source,
                    frame.key.stamp_ns,
                    frame.key.frame_id,
                    label,
                    frame.label,
                    author,
                    frame.model_version,
                    frame.image_format,
                    frame.image,
                    received_ns,
                ),
            )
        except sqlite3.Error as error:
            raise StoreError(f'the label could not be written: {error}') from error
        return int(cursor.lastrowid or 0)

    def waiting(self) -> int:
        """Return how many samples are in no batch yet."""
        return int(
            self._database.execute('SELECT COUNT(*) FROM samples WHERE batch IS NULL').fetchone()[
                0
            ]
        )

    def make_batch(self, size: int) -> int | None:
        """
        Number the oldest waiting samples, at most `size`, as a batch; return its id, or None when
        none waits.
        """
        batch = self.last_batch() + 1
        changed = self._database.execute(
            'UPDATE samples SET batch = ? WHERE id IN (SELECT id FROM samples WHERE batch IS '
            'NULL ORDER BY id LIMIT ?)',
            (batch, size),
        ).rowcount
        return batch if changed else None

    def last_batch(self) -> int:
        """Return the newest batch id; 0 without any."""
        return int(
            self._database.execute('SELECT COALESCE(MAX(batch), 0) FROM samples').fetchone()[0]
        )

    def batch(self, batch_id: int) -> list[StoredSample]:
        """Return the samples of a batch, in order."""
        rows = self._database.execute(
            f'SELECT {COLUMNS} FROM samples WHERE batch = ? ORDER BY id', (batch_id,)
        )
        return [StoredSample(*row) for row in rows]

    def count(self) -> int:
        """Return the number of samples."""
        return int(self._database.execute('SELECT COUNT(*) FROM samples').fetchone()[0])
