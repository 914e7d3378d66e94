# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Labels in SQLite: what was acknowledged survives a crash and power loss (WAL, synchronous=FULL).

Three tables. `frames` holds each labelled picture once, with the label that counts. `votes` holds
what each person said of it, in order; the last word of each counts. `items` is what goes out to
tuners, in numbered batches: a frame with its label at that time (empty when it must not be learned
from any more), or a label that is called otherwise from then on. A tuner that takes the batches in
order, each once, ends with what the store holds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
import os
from pathlib import Path
import sqlite3
import time

from etuner_ros.core.errors import StoreError
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey

VERSION = 3
SCHEMA = """
CREATE TABLE IF NOT EXISTS frames (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    source TEXT NOT NULL, stamp_ns INTEGER NOT NULL, frame_id TEXT NOT NULL,
    label TEXT NOT NULL,            -- that counts; empty: nobody says, or people disagree
    disputed INTEGER NOT NULL DEFAULT 0,
    predicted TEXT NOT NULL, confidence REAL NOT NULL DEFAULT 0,
    model_version INTEGER NOT NULL,
    scenario INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,          -- bytes of the image, 0 when evicted
    received_ns INTEGER NOT NULL,
    learned_by INTEGER,             -- first version that has learned it
    format TEXT NOT NULL,
    uid INTEGER NOT NULL DEFAULT 0, -- names the very picture; 0: not known
    image BLOB                      -- NULL: evicted; last, so that no query has to pass it
);
CREATE UNIQUE INDEX IF NOT EXISTS frames_by_key ON frames (source, stamp_ns, frame_id, uid);
-- Sizes and counts are read from this index alone: once a second, and with every label.
CREATE INDEX IF NOT EXISTS frames_by_label ON frames (label, size, learned_by);
CREATE INDEX IF NOT EXISTS frames_disputed ON frames (id) WHERE disputed;
CREATE TABLE IF NOT EXISTS votes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    frame INTEGER NOT NULL REFERENCES frames (id),
    author TEXT NOT NULL, label TEXT NOT NULL, received_ns INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS votes_by_frame ON votes (frame);
CREATE TABLE IF NOT EXISTS items (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    frame INTEGER, label TEXT NOT NULL, author TEXT NOT NULL,
    renamed_from TEXT,              -- a renaming when not NULL; then there is no frame
    batch INTEGER
);
CREATE INDEX IF NOT EXISTS items_by_batch ON items (batch);
CREATE INDEX IF NOT EXISTS items_by_frame ON items (frame);
"""
COLUMNS = (  # of a frame, without the picture
    'id, source, stamp_ns, frame_id, predicted, confidence, model_version, scenario, size, '
    'received_ns, learned_by, format, label, disputed'
)
MOVED_AT_ONCE = 50  # frames, when the schema changes: so little room on the disk suffices for it


@dataclass(frozen=True)
class StoredSample:
    """One labelled frame as it goes out."""

    sample_id: int
    source: str
    stamp_ns: int
    frame_id: str
    uid: int
    label: str  # empty: taken back, or disputed
    predicted: str
    author: str
    model_version: int
    image_format: str
    image: bytes
    scenario: int

    @property
    def key(self) -> FrameKey:
        """What names the frame."""
        return FrameKey(self.source, self.stamp_ns, self.frame_id, self.uid)


@dataclass(frozen=True)
class Replay:
    """Samples to learn from again."""

    total: int  # that there are
    renamed: list[tuple[str, str]]  # old name, new name, in order
    samples: list[StoredSample]  # the next ones


@dataclass(frozen=True)
class Batch:
    """What a tuner gets at once: first the renamings, then the samples."""

    samples: list[StoredSample]
    renamed: list[tuple[str, str]]  # old name, new name


@dataclass(frozen=True)
class Stored:
    """What became of a correction."""

    sample_id: int
    label: str  # that counts now; empty when people disagree or nobody says anything any more
    said: dict[str, str]  # the last word of each author


@dataclass(frozen=True)
class ClassStatistics:
    """What is stored of one class."""

    label: str
    frames: int
    confirmed: int
    learned: int
    image_bytes: int


class LabelStore:
    """
    Stores what people say of frames, and numbers batches of it from 1.

    Several processes may have one store open; SQLite keeps them apart.

    :param path: the database file; its folder is made
    :param budget_bytes: of pictures; pictures of the largest class make room. 0 = no limit
    :param set_aside: keep a damaged file under another name and begin anew
    :raises StoreError: when it can't be opened
    """

    def __init__(self, path: Path, budget_bytes: int = 0, set_aside: bool = True) -> None:
        self.path, self.budget_bytes = path, budget_bytes
        self.warnings: list[str] = []
        self.unreadable: set[int] = set()  # frames whose picture turned out to be damaged
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._open()
            except sqlite3.OperationalError:  # locked, full, not allowed: not the file's fault
                raise
            except sqlite3.DatabaseError as error:
                if not set_aside:
                    raise
                self._set_aside(error)
                self._open()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                f'the label store {path} can not be opened: {error}; check the parameter store'
            ) from error

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        """Keep a damaged file under another name: a robot must go on, and nothing is deleted."""
        self._database.close()
        aside = self.path.with_name(f'{self.path.name}.damaged-{time.time_ns()}')
        for suffix in ('', '-wal', '-shm'):
            file = self.path.with_name(self.path.name + suffix)
            if file.exists():
                os.replace(file, aside.with_name(aside.name + suffix))
        self.warnings.append(
            f'the label store was damaged ({error}); it is kept as {aside}, a new one is begun; '
            f'what can be read of it: sqlite3 {aside} .recover'
        )

    def _open(self) -> None:
        self._database = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=10.0
        )
        self._database.execute('PRAGMA journal_mode=WAL')
        self._database.execute('PRAGMA synchronous=FULL')
        found = int(self._database.execute('PRAGMA user_version').fetchone()[0])
        if found > VERSION:
            raise sqlite3.OperationalError(
                f'it was written by a later etuner_ros (schema {found}, this one knows {VERSION})'
            )
        self._check_all_but_pictures()
        if found < VERSION:
            self._migrate()
        else:
            self._database.executescript(SCHEMA)

    def _check_all_but_pictures(self) -> None:
        """
        Look at everything that is small; pictures are looked at when they are read, see `check`.

        :raises sqlite3.DatabaseError: when something is damaged
        """
        tables = self._database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table'"
        ).fetchall()
        for (table,) in tables:
            if table in ('votes', 'items'):
                (found,) = self._database.execute(f'PRAGMA quick_check({table})').fetchone()
                if found != 'ok':
                    raise sqlite3.DatabaseError(found)
        if ('sqlite_sequence',) in tables:
            self._one('SELECT MAX(seq) FROM sqlite_sequence')
        if ('frames',) in tables:
            # Every row up to its picture, and every index.
            self._database.execute('SELECT MAX(format) FROM frames NOT INDEXED').fetchone()
            indexes = self._database.execute(
                "SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = 'frames' AND "
                'sql IS NOT NULL'
            ).fetchall()
            for (index,) in indexes:
                where = 'WHERE disputed' if index == 'frames_disputed' else ''
                self._one(f'SELECT COUNT(id) FROM frames INDEXED BY {index} {where}')

    def check(self) -> str:
        """Read the whole file, pictures too; return what is damaged, nothing when all is well."""
        try:
            found = self._database.execute('PRAGMA integrity_check(3)').fetchall()
        except sqlite3.DatabaseError as error:
            return str(error)
        text = '; '.join(row[0] for row in found)
        return '' if text == 'ok' else text

    def _migrate(self) -> None:
        """Bring a file of an earlier release to this schema; goes on where a crash ended it."""
        self._database.execute('PRAGMA legacy_alter_table=ON')  # `votes` keeps naming `frames`
        if self._has_table('frames') and not self._has_table('old_frames'):
            columns = self._database.execute('PRAGMA table_info(frames)').fetchall()
            if 'uid' not in [column[1] for column in columns]:
                with self._transaction():
                    self._database.execute('DROP INDEX IF EXISTS frames_by_label')
                    self._database.execute('DROP INDEX IF EXISTS frames_disputed')
                    self._database.execute('ALTER TABLE frames RENAME TO old_frames')
        self._database.executescript(SCHEMA)
        if self._has_table('old_frames'):
            self._take_over_second_schema()
        with self._transaction():
            if self._has_table('samples'):
                self._take_over_first_schema()
            self._database.execute(f'PRAGMA user_version = {VERSION}')

    def _has_table(self, name: str) -> bool:
        query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._database.execute(query, (name,)).fetchone() is not None

    def _take_over_second_schema(self) -> None:
        """
        Version 2 knew a frame by its stamp alone; its table can't be altered to know more.

        Rows are moved a few at a time, so that they take no more room than before.
        """
        moved = f'(SELECT id FROM old_frames ORDER BY id LIMIT {MOVED_AT_ONCE})'
        while self._one('SELECT COUNT(*) FROM old_frames'):
            with self._transaction():
                self._database.execute(
                    f'INSERT INTO frames ({COLUMNS}, image) SELECT {COLUMNS}, image FROM '
                    f'old_frames WHERE id IN {moved}'
                )
                self._database.execute(f'DELETE FROM old_frames WHERE id IN {moved}')
        with self._transaction():
            self._database.execute('DROP TABLE old_frames')

    def _take_over_first_schema(self) -> None:
        """Version 0.1.0 had one row for each correction, in a table `samples`."""
        rows = self._database.execute(
            'SELECT source, stamp_ns, frame_id, label, predicted, author, model_version, format, '
            'image, received_ns, batch FROM samples ORDER BY id'
        )
        for *key, label, predicted, author, version, kind, image, received, batch in rows:
            frame = Frame(FrameKey(*key), image, kind, predicted, 0.0, 0.0, version)
            number = self._frame(frame, 0, received)
            self._vote(number, author, label, received)
            self._settle(number, author)
            self._database.execute(
                'UPDATE items SET batch = ? WHERE frame = ? AND batch IS NULL', (batch, number)
            )
        self._database.execute('DROP TABLE samples')

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Everything or nothing, on the disk when it ends."""
        try:
            self._database.execute('BEGIN IMMEDIATE')
            yield
            self._database.execute('COMMIT')
        except BaseException as error:
            if self._database.in_transaction:
                self._database.execute('ROLLBACK')
            if isinstance(error, sqlite3.Error):
                raise StoreError(f'the label could not be written: {error}') from error
            raise

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _one(self, query: str, *values: object) -> int:
        return int(self._database.execute(query, values).fetchone()[0] or 0)

    # What people say

    def find(self, key: FrameKey) -> Frame | None:
        """
        Return a stored frame, or None when there is none; its picture may have been evicted.

        Without a uid the newest frame of the moment is meant.
        """
        if key.uid:
            return self.exact(key)
        row = self._database.execute(
            'SELECT MAX(id), uid FROM frames WHERE source = ? AND stamp_ns = ? AND frame_id = ?',
            key.moment,
        ).fetchone()
        return None if row[0] is None else self.exact(replace(key, uid=_unsigned(row[1])))

    def exact(self, key: FrameKey) -> Frame | None:
        """Return the stored frame that has this very key, or None when there is none."""
        row = self._database.execute(
            'SELECT id, format, predicted, confidence, model_version FROM frames WHERE '
            'source = ? AND stamp_ns = ? AND frame_id = ? AND uid = ?',
            _values(key),
        ).fetchone()
        if row is None:
            return None
        number, kind, predicted, confidence, version = row
        image = self._picture(number) or b''
        return Frame(key, image, kind, predicted, confidence, 0.0, version)

    def _picture(self, number: int) -> bytes | None:
        """Return the picture of a frame; None when it was evicted or is damaged."""
        try:
            row = self._database.execute(
                'SELECT image FROM frames WHERE id = ?', (number,)
            ).fetchone()
        except sqlite3.OperationalError:  # locked, or the disk does not answer
            raise
        except sqlite3.DatabaseError:
            self.unreadable.add(number)
            return None
        return row[0] if row else None

    def said(self, key: FrameKey) -> dict[str, str]:
        """Return the last word of each author on the frame that has this very key."""
        rows = self._database.execute(
            'SELECT v.author, v.label FROM votes v JOIN frames f ON f.id = v.frame WHERE '
            'f.source = ? AND f.stamp_ns = ? AND f.frame_id = ? AND f.uid = ? ORDER BY v.id',
            _values(key),
        )
        return {author: label for author, label in dict(rows.fetchall()).items() if label}

    def is_duplicate(self, key: FrameKey, label: str, author: str) -> bool:
        """Return whether this author's last word on the frame was the same label."""
        return self.said(key).get(author) == label

    def add(
        self, frame: Frame, label: str, author: str, received_ns: int, scenario: int = 0
    ) -> Stored:
        """
        Store what an author says of a frame; when this returns, it is on the disk.

        The label that most authors say counts. As long as two are said equally often the frame is
        disputed, and goes out as one that must not be learned from.

        :param label: empty to take back what the author said before
        :raises StoreError: when it could not be written; nothing is changed then
        """
        with self._transaction():
            number = self._frame(frame, scenario, received_ns)
            self._vote(number, author, label, received_ns)
            counts = self._settle(number, author)
            self._make_room()
        return Stored(number, counts, self.said(frame.key))

    def _frame(self, frame: Frame, scenario: int, received_ns: int) -> int:
        key = _values(frame.key)
        self._database.execute(
            'INSERT OR IGNORE INTO frames (source, stamp_ns, frame_id, uid, label, predicted, '
            'confidence, model_version, scenario, format, image, size, received_ns) '
            "VALUES (?, ?, ?, ?, '', ?, ?, ?, ?, ?, ?, ?, ?)",
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
            ),
        )
        number = self._one(
            'SELECT id FROM frames WHERE source = ? AND stamp_ns = ? AND frame_id = ? AND uid = ?',
            *key,
        )
        if frame.image:  # a picture that was evicted, and is at hand once more
            self._database.execute(
                'UPDATE frames SET image = ?, size = ? WHERE image IS NULL AND id = ?',
                (frame.image, len(frame.image), number),
            )
        return number

    def _vote(self, number: int, author: str, label: str, received_ns: int) -> None:
        self._database.execute(
            'INSERT INTO votes (frame, author, label, received_ns) VALUES (?, ?, ?, ?)',
            (number, author, label, received_ns),
        )

    def _settle(self, number: int, author: str) -> str:
        """Set the label of a frame that counts; a change goes out with the next batch."""
        last = dict(
            self._database.execute(
                'SELECT author, label FROM votes WHERE frame = ? ORDER BY id', (number,)
            ).fetchall()
        )
        ranked = Counter(label for label in last.values() if label).most_common(2)
        disputed = len(ranked) == 2 and ranked[0][1] == ranked[1][1]
        label = ranked[0][0] if ranked and not disputed else ''
        self._database.execute(
            'UPDATE frames SET label = ?, disputed = ? WHERE id = ?', (label, disputed, number)
        )
        before = self._database.execute(
            'SELECT label FROM items WHERE frame = ? ORDER BY id DESC LIMIT 1', (number,)
        ).fetchone()
        if label != (before[0] if before else ''):
            self._database.execute(
                'INSERT INTO items (frame, label, author) VALUES (?, ?, ?)',
                (number, label, author),
            )
        return label

    def rename(self, label: str, new_label: str) -> int:
        """
        Call a label otherwise, in everything that was ever said; two of one name are merged.

        Goes out as one item, not as all pictures again.

        :return: the number of frames whose label changed
        :raises StoreError: when it could not be written
        """
        if label == new_label:
            return 0
        with self._transaction():
            changed = [
                row[0]
                for row in self._database.execute(
                    'SELECT DISTINCT frame FROM votes WHERE label = ?', (label,)
                )
            ]
            self._database.execute(
                'UPDATE votes SET label = ? WHERE label = ?', (new_label, label)
            )
            self._database.execute(
                'INSERT INTO items (label, author, renamed_from) VALUES (?, ?, ?)',
                (new_label, '', label),
            )
            # Numbered at once: its batch holds nothing else, so it comes before all later samples.
            self._database.execute(
                'UPDATE items SET batch = ? WHERE id = last_insert_rowid()',
                (self.last_batch() + 1,),
            )
            # What still waits goes out by its new name.
            self._database.execute(
                'UPDATE items SET label = ? WHERE label = ? AND batch IS NULL', (new_label, label)
            )
            for number in changed:
                self._settle_renamed(number, label, new_label)
        return len(changed)

    def _settle_renamed(self, number: int, label: str, new_label: str) -> None:
        """Set the label of a frame whose votes were renamed; a dispute may have ended by it."""
        row = self._database.execute(
            'SELECT label, author FROM items WHERE frame = ? ORDER BY id DESC LIMIT 1', (number,)
        ).fetchone()
        before, author = row if row else ('', '')
        if before == label:  # the receiver renames it by itself
            self._database.execute(
                'UPDATE frames SET label = ?, disputed = 0 WHERE id = ?', (new_label, number)
            )
        else:
            self._settle(number, author)

    def disputed(self, limit: int = 10) -> list[FrameKey]:
        """Return the newest frames that people disagree about and whose picture is kept."""
        rows = self._database.execute(
            'SELECT source, stamp_ns, frame_id, uid FROM frames WHERE disputed AND size > 0 '
            'ORDER BY id DESC LIMIT ?',
            (limit,),
        )
        return [FrameKey(s, stamp, frame, _unsigned(uid)) for s, stamp, frame, uid in rows]

    # Room on the disk

    @property
    def stored_bytes(self) -> int:
        """Bytes of all pictures."""
        return self._one('SELECT COALESCE(SUM(size), 0) FROM frames')

    def _make_room(self) -> None:
        """
        Evict pictures of the class that has most of them, those that were learned first, then the
        oldest; never one that has not gone out yet.
        """
        if not self.budget_bytes:
            return
        excess = self.stored_bytes - self.budget_bytes
        while excess > 0:
            size = self._evict()
            if not size:
                raise StoreError(
                    f'the label store is full ({self.budget_bytes / 1e6:.0f} MB) of labels that '
                    f'no tuner got yet; raise budget_mb, or lower batch_size'
                )
            excess -= size

    def _evict(self) -> int:
        """Evict one picture; return its bytes, 0 when there is none that may go."""
        labels = self._database.execute(
            'SELECT label FROM frames WHERE size > 0 GROUP BY label ORDER BY COUNT(*) DESC'
        ).fetchall()
        for (label,) in labels:
            row = self._database.execute(
                'SELECT id, size FROM frames f WHERE label = ? AND size > 0 AND NOT EXISTS '
                '(SELECT 1 FROM items i WHERE i.frame = f.id AND i.batch IS NULL) '
                'ORDER BY learned_by IS NULL, id LIMIT 1',
                (label,),
            ).fetchone()
            if row is not None:
                self._database.execute(
                    'UPDATE frames SET image = NULL, size = 0 WHERE id = ?', (row[0],)
                )
                return int(row[1])
        return 0

    # Batches

    def waiting(self) -> int:
        """Return how many items are in no batch yet."""
        return self._one('SELECT COUNT(*) FROM items WHERE batch IS NULL')

    def make_batch(self, size: int) -> int | None:
        """
        Number the oldest waiting items, at most `size`, as a batch; return its id, or None when
        none waits.

        :raises StoreError: when it could not be written
        """
        with self._transaction():
            batch = self.last_batch() + 1
            changed = self._database.execute(
                'UPDATE items SET batch = ? WHERE id IN (SELECT id FROM items WHERE batch IS '
                'NULL ORDER BY id LIMIT ?)',
                (batch, size),
            ).rowcount
        return batch if changed else None

    def last_batch(self) -> int:
        """Return the newest batch id; 0 without any."""
        return self._one('SELECT COALESCE(MAX(batch), 0) FROM items')

    def batch(self, batch_id: int) -> Batch:
        """Return a batch, in order; pictures that were evicted since are missing from it."""
        rows = self._database.execute(
            'SELECT i.frame, i.label, i.author FROM items i WHERE i.batch = ? AND i.frame IS NOT '
            'NULL ORDER BY i.id',
            (batch_id,),
        ).fetchall()
        samples = [s for row in rows if (s := self._sample(*row)) is not None]
        renamed = self._database.execute(
            'SELECT renamed_from, label FROM items WHERE batch = ? AND renamed_from IS NOT NULL '
            'ORDER BY id',
            (batch_id,),
        ).fetchall()
        return Batch(samples, renamed)

    def _sample(self, number: int, label: str, author: str | None = None) -> StoredSample | None:
        """
        Return a frame as it goes out with a label; None when its picture is not there any more.

        :param label: empty when it is taken back, which needs no picture
        :param author: None for the last one who says this label
        """
        image = self._picture(number) if label else b''
        if image is None:
            return None
        if author is None:
            row = self._database.execute(
                'SELECT author FROM votes WHERE frame = ? AND label = ? ORDER BY id DESC LIMIT 1',
                (number, label),
            ).fetchone()
            author = row[0] if row else ''
        source, stamp, frame_id, uid, predicted, version, kind, scenario = self._database.execute(
            'SELECT source, stamp_ns, frame_id, uid, predicted, model_version, format, scenario '
            'FROM frames WHERE id = ?',
            (number,),
        ).fetchone()
        uid = _unsigned(uid)
        moment = (number, source, stamp, frame_id, uid)
        return StoredSample(*moment, label, predicted, author, version, kind, image, scenario)

    def replay(self, up_to_batch: int, count: int, skip: int, most_bytes: int) -> Replay:
        """
        Return samples to fill a memory with: the newest of each class in turn, by the label that
        counts now.

        :param up_to_batch: only what was handed out up to this batch
        :param count: how many are wanted in all
        :param skip: how many of them were received already
        :param most_bytes: of pictures in this piece; it holds at least one sample
        """
        rows = self._database.execute(
            'SELECT id, label FROM (SELECT id, label, ROW_NUMBER() OVER (PARTITION BY label ORDER '
            "BY id DESC) AS turn FROM frames f WHERE label != '' AND size > 0 AND EXISTS "
            '(SELECT 1 FROM items i WHERE i.frame = f.id AND i.batch <= ?)) ORDER BY turn, label',
            (up_to_batch,),
        )
        wanted = [row for row in rows if row[0] not in self.unreadable][:count]
        samples: list[StoredSample] = []
        size = 0
        for number, label in wanted[skip:]:
            if (sample := self._sample(number, label)) is None:
                continue
            if samples and size + len(sample.image) > most_bytes:
                break
            samples.append(sample)
            size += len(sample.image)
        renamed = self._database.execute(
            'SELECT renamed_from, label FROM items WHERE batch <= ? AND renamed_from IS NOT NULL '
            'ORDER BY id',
            (up_to_batch,),
        ).fetchall()
        return Replay(len(wanted), renamed, samples)

    def note_learned(self, batch_id: int, version: int) -> None:
        """
        Note that a live version has learned all batches up to this one.

        :raises StoreError: when it could not be written
        """
        with self._transaction():
            self._database.execute(
                'UPDATE frames SET learned_by = ? WHERE learned_by IS NULL AND id IN (SELECT '
                'frame FROM items WHERE batch <= ?)',
                (version, batch_id),
            )

    # Looking

    def count(self) -> int:
        """Return the number of labelled frames, disputed ones and those taken back included."""
        return self._one('SELECT COUNT(*) FROM frames')

    def statistics(self) -> list[ClassStatistics]:
        """Return what is stored of each class, by name."""
        rows = self._database.execute(
            'SELECT label, COUNT(*), SUM(label = predicted), SUM(learned_by IS NOT NULL), '
            "SUM(size) FROM frames WHERE label != '' GROUP BY label ORDER BY label"
        )
        return [ClassStatistics(*row) for row in rows]

    def count_disputed(self) -> int:
        """Return how many frames people disagree about."""
        return self._one('SELECT COUNT(*) FROM frames WHERE disputed')

    def labelled(self) -> Iterator[StoredSample]:
        """Yield every frame whose label counts and whose picture is kept, oldest first."""
        numbers = self._database.execute(
            "SELECT id FROM frames WHERE label != '' AND size > 0 ORDER BY id"
        ).fetchall()
        for (number,) in numbers:
            row = self._database.execute(
                'SELECT label FROM frames WHERE id = ?', (number,)
            ).fetchone()
            if row[0] and (sample := self._sample(number, row[0])) is not None:
                yield sample


def _signed(uid: int) -> int:
    """Return a uint64 as SQLite keeps it."""
    return uid - (1 << 64) if uid >> 63 else uid


def _unsigned(uid: int) -> int:
    return uid + (1 << 64) if uid < 0 else uid


def _values(key: FrameKey) -> tuple[str, int, str, int]:
    return *key.moment, _signed(key.uid)
