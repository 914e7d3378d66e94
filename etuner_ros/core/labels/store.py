# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Labels in SQLite: what was acknowledged survives a crash and power loss.

What its tables hold is said in `schema`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
import sqlite3

from etuner_ros.core.errors import StoreError
from etuner_ros.core.labels.database import unsigned
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey, Place
from etuner_ros.core.labels.records import Batch, ClassStatistics, Replay, Stored, StoredSample
from etuner_ros.core.labels.room import make_room, stored_bytes
from etuner_ros.core.labels.schema import open_database
from etuner_ros.core.labels.spelling import composed
from etuner_ros.core.labels.voting import (
    key_values,
    put_frame,
    put_vote,
    settle,
    settle_renamed,
    THIS,
)


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
        self.budget_bytes = budget_bytes
        self.unreadable: set[int] = set()  # frames whose picture turned out to be damaged
        self._database, self.warnings = open_database(path, set_aside)
        self._compose_labels()

    def _compose_labels(self) -> None:
        """Spell labels as they come in now; to earlier releases two spellings were two classes."""
        try:
            for (label,) in self._database.execute('SELECT DISTINCT label FROM votes').fetchall():
                self.rename(label, composed(label))
        except (StoreError, sqlite3.Error) as error:  # a full disk: nobody is kept from looking
            self.warnings.append(f'a label that is spelled in two ways stays two: {error}')

    def check(self) -> str:
        """Read the whole file, pictures too; return what is damaged, nothing when all is well."""
        return self._database.damage()

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    # What people say

    def find(self, key: FrameKey) -> Frame | None:
        """
        Return a stored frame, or None when there is none; its picture may have been evicted.

        Without a uid the newest frame of the moment is meant.
        """
        if key.uid:
            return self.exact(key)
        row = self._database.execute(
            'SELECT MAX(id), uid FROM frames WHERE source = ? AND stamp_ns = ? AND frame_id = ? '
            'AND place = ?',
            (*key.moment, str(key.place or '')),
        ).fetchone()
        return None if row[0] is None else self.exact(replace(key, uid=unsigned(row[1])))

    def exact(self, key: FrameKey) -> Frame | None:
        """Return the stored frame that has this very key, or None when there is none."""
        row = self._database.execute(
            f'SELECT id, format, predicted, confidence, model_version FROM frames WHERE {THIS}',
            key_values(key),
        ).fetchone()
        if row is None:
            return None
        number, kind, predicted, confidence, version = row
        image, size = self._picture(number) or b'', (0, 0)
        if number not in self.unreadable:  # the size comes after the picture
            size = self._database.execute(
                'SELECT image_width, image_height FROM frames WHERE id = ?', (number,)
            ).fetchone()
        return Frame(key, image, kind, predicted, confidence, 0.0, version, size)

    def things(self, key: FrameKey) -> list[FrameKey]:
        """Return the things in a frame that somebody named, oldest first."""
        rows = self._database.execute(
            'SELECT place FROM frames WHERE source = ? AND stamp_ns = ? AND frame_id = ? AND '
            "uid = ? AND place != '' ORDER BY id",
            key_values(key.whole)[:-1],
        )
        return [replace(key, place=Place.of(text)) for (text,) in rows]

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
            'SELECT author, label FROM votes WHERE frame IN (SELECT id FROM frames WHERE '
            f'{THIS}) ORDER BY id',
            key_values(key),
        )
        return {author: label for author, label in dict(rows.fetchall()).items() if label}

    def label_of(self, key: FrameKey) -> str:
        """Return the label that counts of the frame with this very key; empty while none does."""
        rows = self._database.execute(f'SELECT label FROM frames WHERE {THIS}', key_values(key))
        row = rows.fetchone()
        return row[0] if row else ''

    def is_duplicate(self, key: FrameKey, label: str, author: str) -> bool:
        """Return whether this author's last word on the frame was the same label."""
        return self.said(key).get(author) == label

    def add(
        self,
        frame: Frame,
        label: str,
        author: str,
        received_ns: int,
        scenario: int = 0,
        whole: Frame | None = None,
        overrule: bool = False,
    ) -> Stored:
        """
        Store what an author says of a frame; when this returns, it is on the disk.

        The label that most authors say counts. As long as two are said equally often the frame is
        disputed, and goes out as one that must not be learned from.

        :param frame: or a thing in one
        :param label: empty to take back what the author said before
        :param whole: of a thing, the frame that it is in; kept without a label
        :param overrule: what others said is taken back: the label is what came of all of it
        :raises StoreError: when it could not be written; nothing is changed then
        """
        others = [a for a in self.said(frame.key) if a != author] if overrule else []
        with self._database.transaction():
            if whole is not None:
                put_frame(self._database, whole, scenario, received_ns)
            number = put_frame(self._database, frame, scenario, received_ns)
            for other in others:
                put_vote(self._database, number, other, '', received_ns)
            put_vote(self._database, number, author, label, received_ns)
            counts = settle(self._database, number, author)
            make_room(self._database, self.budget_bytes)
        return Stored(number, counts, self.said(frame.key))

    def rename(self, label: str, new_label: str) -> int:
        """
        Call a label otherwise, in everything that was ever said; two of one name are merged.

        Goes out as one item, not as all pictures again.

        :return: the number of frames whose label changed
        :raises StoreError: when it could not be written
        """
        if label == new_label:
            return 0
        with self._database.transaction():
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
                settle_renamed(self._database, number, label, new_label)
        return len(changed)

    def labels(self) -> list[str]:
        """Return every label that is somebody's last word on a frame, by name."""
        rows = self._database.execute(
            'SELECT DISTINCT label FROM votes WHERE id IN (SELECT MAX(id) FROM votes GROUP BY '
            "frame, author) AND label != '' ORDER BY label"
        )
        return [label for (label,) in rows]

    def disputed(self) -> list[FrameKey]:
        """Return the frames that people disagree about and whose picture is kept, newest first."""
        rows = self._database.execute(
            'SELECT source, stamp_ns, frame_id, uid, place FROM frames WHERE disputed AND '
            'size > 0 ORDER BY id DESC'
        )
        return [
            FrameKey(source, stamp, frame_id, unsigned(uid), Place.of(place))
            for source, stamp, frame_id, uid, place in rows
        ]

    # Room on the disk
    @property
    def stored_bytes(self) -> int:
        """Bytes of all pictures."""
        return stored_bytes(self._database)

    # Batches

    def waiting(self) -> int:
        """Return how many items are in no batch yet."""
        return self._database.one('SELECT COUNT(*) FROM items WHERE batch IS NULL')

    def make_batch(self, size: int) -> int | None:
        """
        Number the oldest waiting items, at most `size`, as a batch; return its id, or None when
        none waits.

        :raises StoreError: when it could not be written
        """
        with self._database.transaction():
            batch = self.last_batch() + 1
            changed = self._database.execute(
                'UPDATE items SET batch = ? WHERE id IN (SELECT id FROM items WHERE batch IS '
                'NULL ORDER BY id LIMIT ?)',
                (batch, size),
            ).rowcount
        return batch if changed else None

    def last_batch(self) -> int:
        """Return the newest batch id; 0 without any."""
        return self._database.one('SELECT COALESCE(MAX(batch), 0) FROM items')

    def batch(self, batch_id: int) -> Batch:
        """
        Return a batch, in order, of each frame what was said last; pictures that were evicted
        since are missing from it.
        """
        rows = self._database.execute(
            'SELECT i.frame, i.label, i.author FROM items i WHERE i.batch = ? AND i.frame IS NOT '
            'NULL ORDER BY i.id DESC',
            (batch_id,),
        ).fetchall()
        # Receivers take back first, then learn: of a frame that is in it twice the last word
        # counts, or the one before, that it is taken back, where the picture is gone.
        last: dict[int, StoredSample] = {}
        for number, label, author in rows:
            if number not in last and (sample := self._sample(number, label, author)) is not None:
                last[number] = sample
        samples = list(last.values())[::-1]
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
        source, stamp, frame_id, uid, predicted, version, kind, scenario, place = (
            self._database.execute(
                'SELECT source, stamp_ns, frame_id, uid, predicted, model_version, format, '
                'scenario, place FROM frames WHERE id = ?',
                (number,),
            ).fetchone()
        )
        moment = (number, source, stamp, frame_id, unsigned(uid))
        said = (label, predicted, author, version)
        return StoredSample(*moment, *said, kind, image, scenario, Place.of(place))

    def replay(
        self, up_to_batch: int, count: int, skip: int, most_bytes: int, since_batch: int = 0
    ) -> Replay:
        """
        Return samples to fill a memory with: the newest of each class in turn, by the label that
        counted when this batch was handed out; later batches say what has changed since.

        First, without a label, those of which the receiver has another one, and gets none here.

        :param up_to_batch: only what was handed out up to this batch
        :param count: how many are wanted in all
        :param skip: how many of them were received already
        :param most_bytes: of pictures in this piece; it holds at least one sample
        :param since_batch: the receiver has all batches up to this one
        """
        renamings = self._database.execute(
            'SELECT batch, renamed_from, label FROM items WHERE batch <= ? AND renamed_from IS '
            'NOT NULL ORDER BY id',
            (up_to_batch,),
        ).fetchall()
        wanted = [
            row for row in self._in_turn(up_to_batch, renamings) if row[0] not in self.unreadable
        ][:count]
        if since_batch:
            chosen = {number for number, *_ in wanted}
            stale = [n for n in self._stale(since_batch, up_to_batch) if n not in chosen]
            wanted = [*((number, '', '') for number in stale), *wanted]
        samples: list[StoredSample] = []
        size = 0
        for row in wanted[skip:]:
            if (sample := self._sample(*row)) is None:
                continue
            if samples and size + len(sample.image) > most_bytes:
                break
            samples.append(sample)
            size += len(sample.image)
        renamed = [(old, new) for batch, old, new in renamings if batch > since_batch]
        return Replay(len(wanted), renamed, samples)

    def _stale(self, since_batch: int, up_to_batch: int) -> list[int]:
        """Return frames that were handed out up to one batch and again up to another one."""
        rows = self._database.execute(
            'SELECT DISTINCT frame FROM items i WHERE batch > ? AND batch <= ? AND EXISTS (SELECT '
            '1 FROM items WHERE frame = i.frame AND batch <= ?) ORDER BY frame',
            (since_batch, up_to_batch, since_batch),
        )
        return [number for (number,) in rows]

    def _in_turn(
        self, up_to_batch: int, renamings: list[tuple[int, str, str]]
    ) -> list[tuple[int, str, str]]:
        """
        Return number, label and author of each picture that a receiver of all batches up to one
        has labelled: the newest of each class in turn.

        :param renamings: batch, old name and new name of those that went out up to then, in order
        """
        rows = self._database.execute(
            'SELECT f.id, i.label, i.author, i.batch FROM frames f INDEXED BY frames_counted JOIN '
            'items i ON i.id = (SELECT MAX(id) FROM items WHERE frame = f.id AND batch <= ?) '
            "WHERE f.size > 0 AND i.label != '' ORDER BY f.id DESC",
            (up_to_batch,),
        )
        turns: Counter[str] = Counter()
        found: list[tuple[int, str, int, str]] = []
        for number, label, author, batch in rows:
            # What waited when a label was renamed went out later, by its new name.
            for renamed_in, old, new in renamings:
                if renamed_in > batch and label == old:
                    label = new
            turns[label] += 1
            found.append((turns[label], label, number, author))
        return [(number, label, author) for _, label, number, author in sorted(found)]

    def note_learned(self, batch_id: int, version: int) -> None:
        """
        Note that a live version has learned all batches up to this one.

        What was said of a frame later than that it has not learned.

        :raises StoreError: when it could not be written
        """
        with self._database.transaction():
            self._database.execute(
                'UPDATE frames SET learned_by = ? WHERE id IN (SELECT id FROM frames f INDEXED BY '
                "frames_to_learn WHERE learned_by IS NULL AND label != '' AND (SELECT i.batch "
                'FROM items i WHERE i.frame = f.id ORDER BY i.id DESC LIMIT 1) <= ?)',
                (version, batch_id),
            )

    # Looking

    def count(self) -> int:
        """Return the number of labelled frames, disputed ones and those taken back included."""
        return self._database.one('SELECT COUNT(DISTINCT frame) FROM votes')

    def statistics(self) -> list[ClassStatistics]:
        """Return what is stored of each class, by name."""
        rows = self._database.execute(
            'SELECT label, COUNT(*), SUM(label = predicted), SUM(learned_by IS NOT NULL), '
            "SUM(size) FROM frames WHERE label != '' GROUP BY label ORDER BY label"
        )
        return [ClassStatistics(*row) for row in rows]

    def count_disputed(self) -> int:
        """Return how many frames people disagree about."""
        return self._database.one('SELECT COUNT(*) FROM frames WHERE disputed')

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
