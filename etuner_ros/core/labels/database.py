# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The connection to the database of the labels: nothing else opens, ends or commits anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
import sqlite3

from etuner_ros.core.errors import StoreError


class Database:
    """
    An open SQLite file: what was committed after `prepare` survives a crash and power loss.

    :raises sqlite3.Error: when it can't be opened
    """

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10.0
        )

    def prepare(self) -> None:
        """
        Set how it is written, which a file remembers.

        :raises sqlite3.Error: when it is no database, or may not be written
        """
        self.execute('PRAGMA journal_mode=WAL')
        self.execute('PRAGMA synchronous=FULL')
        # Pictures that make room need not be written over: that is as much as they are.
        self.execute('PRAGMA secure_delete=OFF')

    def execute(self, query: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(query, values)

    def script(self, statements: str) -> None:
        """Run statements; each is committed by itself."""
        self._connection.executescript(statements)

    def one(self, query: str, *values: object) -> int:
        """Return the number that a query asks for; 0 for NULL."""
        return int(self.execute(query, values).fetchone()[0] or 0)

    def has_table(self, name: str) -> bool:
        """Return whether there is such a table."""
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self.execute(query, (name,)).fetchone() is not None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """
        Everything or nothing, on the disk when it ends.

        :raises StoreError: when it could not be written; nothing is changed then
        """
        try:
            self.execute('BEGIN IMMEDIATE')
            yield
            self.execute('COMMIT')
        except BaseException as error:
            if self._connection.in_transaction:
                self.execute('ROLLBACK')
            if isinstance(error, sqlite3.Error):
                raise StoreError(f'the label could not be written: {error}') from error
            raise

    def damage(self) -> str:
        """Read the whole file, pictures too; return what is damaged, nothing when all is well."""
        try:
            found = self.execute('PRAGMA integrity_check(3)').fetchall()
        except sqlite3.DatabaseError as error:
            return str(error)
        text = '; '.join(row[0] for row in found)
        return '' if text == 'ok' else text

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def signed(uid: int) -> int:
    """Return a uint64 as SQLite keeps it."""
    return uid - (1 << 64) if uid >> 63 else uid


def unsigned(uid: int) -> int:
    """Return the uint64 that SQLite kept."""
    return uid + (1 << 64) if uid < 0 else uid
