# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The tables of the labels, and how a file of them is opened: looked at, brought to this schema, or
set aside when it is damaged.

Three tables. `frames` holds each labelled picture once, with the label that counts; of a thing in
a frame the square around it, and beside it the whole frame without a label. `votes` holds
what each person said of it, in order; the last word of each counts. `items` is what goes out to
tuners, in numbered batches: a frame with its label at that time (empty when it must not be learned
from any more), or a label that is called otherwise from then on. A tuner that takes the batches in
order, each once, ends with what the store holds.
"""

from __future__ import annotations

import os
from pathlib import Path
import sqlite3
import time

from etuner_ros.core.errors import StoreError
from etuner_ros.core.labels.database import Database
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.voting import put_frame, put_vote, settle

VERSION = 6
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
    learned_by INTEGER,             -- first version that has learned it with this label
    format TEXT NOT NULL,
    uid INTEGER NOT NULL DEFAULT 0, -- names the very picture; 0: not known
    image BLOB,                     -- NULL: evicted; after what queries read most often
    place TEXT NOT NULL DEFAULT '', -- of a thing: x,y,width,height,image width,image height in px
    image_width INTEGER NOT NULL DEFAULT 0,  -- as the camera has it, in px; 0: not known
    image_height INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX IF NOT EXISTS frames_by_key ON frames (source, stamp_ns, frame_id, uid, place);
-- Sizes and counts are read from this index alone: once a second, and with every label.
DROP INDEX IF EXISTS frames_by_label;  -- of earlier releases: the same without `predicted`
CREATE INDEX IF NOT EXISTS frames_counted ON frames (label, size, learned_by, predicted);
CREATE INDEX IF NOT EXISTS frames_disputed ON frames (id) WHERE disputed;
CREATE INDEX IF NOT EXISTS frames_to_learn ON frames (id) WHERE learned_by IS NULL AND label != '';
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
FRAMES = {'frames', 'old_frames', 'samples'}  # tables; the latter two of earlier releases
MOVED_AT_ONCE = 50  # frames, when the schema changes: so little room on the disk suffices for it


def open_database(path: Path, set_aside: bool = True) -> tuple[Database, list[str]]:
    """
    Open a file of labels; one of an earlier release is brought to this schema.

    :param set_aside: keep a damaged file under another name and begin anew
    :return: also what people should be told of it
    :raises StoreError: when it can't be opened
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return _opened(path), []
        except sqlite3.OperationalError:  # locked, full, not allowed: not the file's fault
            raise
        except sqlite3.DatabaseError as error:
            if not set_aside:
                raise
            aside = _set_aside(path)
            warning = (
                f'the label store was damaged ({error}); it is kept as {aside}, a new one is '
                f'begun; what can be read of it: sqlite3 {aside} .recover'
            )
            return _opened(path), [warning]
    except (OSError, sqlite3.Error) as error:
        own = isinstance(error, OSError | sqlite3.OperationalError)
        hint = 'is there room on the disk' if own else 'it is damaged, or none'
        raise StoreError(
            f'the label store {path} can not be opened: {error}; {hint}; is its path right '
            f'(parameter store, --store)?'
        ) from error


def _opened(path: Path) -> Database:
    """
    Open a file whose schema is known.

    :raises sqlite3.DatabaseError: when it is damaged
    :raises StoreError: when it is of another program; it is left as it is
    """
    database = Database(path)
    try:
        _check_ours(database, path)
        database.prepare()
        found = database.one('PRAGMA user_version')
        if found > VERSION:
            raise sqlite3.OperationalError(
                f'it was written by a later etuner_ros (schema {found}, this one knows {VERSION})'
            )
        _check_all_but_pictures(database)
        if found < VERSION:
            _migrate(database)
        else:
            database.script(SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _check_ours(database: Database, path: Path) -> None:
    """
    Look whether there is nothing in a file, or labels: those of another program are not ours to
    change.

    :raises StoreError: when there is something else
    """
    found = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    )
    tables = {name for (name,) in found}
    for table in FRAMES & tables:
        columns = {row[1] for row in database.execute(f'PRAGMA table_info({table})')}
        if columns >= {'source', 'stamp_ns', 'frame_id', 'label'}:
            return
    if tables:
        raise StoreError(
            f'{path} is no label store: it is a database of another program, and is left as it is'
        )


def _set_aside(path: Path) -> Path:
    """Keep a damaged file under another name: a robot must go on, and nothing is deleted."""
    aside = path.with_name(f'{path.name}.damaged-{time.time_ns()}')
    for suffix in ('', '-wal', '-shm'):
        file = path.with_name(path.name + suffix)
        if file.exists():
            os.replace(file, aside.with_name(aside.name + suffix))
    return aside


def _check_all_but_pictures(database: Database) -> None:
    """
    Look at everything that is small; pictures are looked at when they are read, see `damage`.

    :raises sqlite3.DatabaseError: when something is damaged
    """
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        if table in ('votes', 'items'):
            (found,) = database.execute(f'PRAGMA quick_check({table})').fetchone()
            if found != 'ok':
                raise sqlite3.DatabaseError(found)
    if ('sqlite_sequence',) in tables:
        database.one('SELECT MAX(seq) FROM sqlite_sequence')
    if ('frames',) in tables:
        # Every row up to its picture, and every index.
        database.execute('SELECT MAX(format) FROM frames NOT INDEXED').fetchone()
        indexes = database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'frames' AND "
            'sql IS NOT NULL'
        ).fetchall()
        for index, made_by in indexes:
            condition = made_by.partition(' WHERE ')[2] or 'TRUE'
            database.one(f'SELECT COUNT(id) FROM frames INDEXED BY {index} WHERE {condition}')


def _migrate(database: Database) -> None:
    """Bring a file of an earlier release to this schema; goes on where a crash ended it."""
    database.execute('PRAGMA legacy_alter_table=ON')  # `votes` keeps naming `frames`
    columns = [column[1] for column in database.execute('PRAGMA table_info(frames)').fetchall()]
    with database.transaction():
        if columns and 'uid' not in columns:
            database.execute('DROP INDEX IF EXISTS frames_by_label')
            database.execute('DROP INDEX IF EXISTS frames_disputed')
            database.execute('ALTER TABLE frames RENAME TO old_frames')
        if 'uid' in columns and 'place' not in columns:
            database.execute("ALTER TABLE frames ADD COLUMN place TEXT NOT NULL DEFAULT ''")
            database.execute('DROP INDEX IF EXISTS frames_by_key')
        # Also of one that a crash of an earlier release left half taken over.
        if 'uid' in columns and 'image_width' not in columns:
            _add_image_size(database)
    database.script(SCHEMA)
    if database.has_table('old_frames'):
        _take_over_second_schema(database)
    with database.transaction():
        if database.has_table('samples'):
            _take_over_first_schema(database)
        database.execute(f'PRAGMA user_version = {VERSION}')


def _add_image_size(database: Database) -> None:
    """Version 5 did not know how large the camera has a frame whose picture is scaled down."""
    for name in ('image_width', 'image_height'):
        database.execute(f'ALTER TABLE frames ADD COLUMN {name} INTEGER NOT NULL DEFAULT 0')


def _take_over_second_schema(database: Database) -> None:
    """
    Version 2 knew a frame by its stamp alone; its table can't be altered to know more.

    Rows are moved a few at a time, so that they take no more room than before.
    """
    moved = f'(SELECT id FROM old_frames ORDER BY id LIMIT {MOVED_AT_ONCE})'
    while database.one('SELECT COUNT(*) FROM old_frames'):
        with database.transaction():
            database.execute(
                f'INSERT INTO frames ({COLUMNS}, image) SELECT {COLUMNS}, image FROM '
                f'old_frames WHERE id IN {moved}'
            )
            database.execute(f'DELETE FROM old_frames WHERE id IN {moved}')
    with database.transaction():
        database.execute('DROP TABLE old_frames')


def _take_over_first_schema(database: Database) -> None:
    """Version 0.1.0 had one row for each correction, in a table `samples`."""
    rows = database.execute(
        'SELECT source, stamp_ns, frame_id, label, predicted, author, model_version, format, '
        'image, received_ns, batch FROM samples ORDER BY id'
    )
    for *key, label, predicted, author, version, kind, image, received, batch in rows:
        frame = Frame(FrameKey(*key), image, kind, predicted, 0.0, 0.0, version)
        number = put_frame(database, frame, 0, received)
        put_vote(database, number, author, label, received)
        settle(database, number, author)
        database.execute(
            'UPDATE items SET batch = ? WHERE frame = ? AND batch IS NULL', (batch, number)
        )
    database.execute('DROP TABLE samples')
