# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a rosbag2 recording holds of a robot's learning: frames and what was said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
import struct
from typing import Any

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.bags import (
    Damage,
    image_topics,
    IMAGES,
    messages,
    opened,
    recording_folder,
    stamp_of,
)
from etuner_ros.core.images.codec import decode, encode_jpeg, Image
from etuner_ros.core.labels.desk import Correction
from etuner_ros.core.labels.frame_buffer import FrameKey

KEPT, LABELS, BATCHES, TRUTH = (
    f'etuner_ros/msg/{kind}'
    for kind in ('PredictedFrame', 'LabelCorrection', 'LabelledBatch', 'GroundTruth')
)
MOST_AMBIGUOUS = 0.1  # share of labels that may be left out, as stamps of images repeat
QUALITY = 90  # of raw pictures, as `jpeg_quality` of inference


@dataclass(frozen=True)
class Seen:
    """A frame, as the camera or `inference` published it."""

    key: FrameKey
    image: Image = field(repr=False)  # RGB uint8, (H, W, 3)
    format: str
    data: bytes = field(repr=False)  # encoded


@dataclass(frozen=True)
class Said:
    """What somebody says of a frame."""

    correction: Correction
    picture: tuple[str, bytes] | None = None  # format and bytes, of a labelled batch


@dataclass(frozen=True)
class Renaming:
    """A label that is called otherwise from then on."""

    label: str
    new_label: str


Event = tuple[float, Seen | Said | Renaming]  # seconds since the recording began


@dataclass(frozen=True)
class _Label:
    """
    What is to be known of a label before it is played.

    :ivar ours: of the camera pipeline that is played
    :ivar repeated: several images have the stamp of its own
    :ivar number: `frame_uid`; 0 = unknown
    """

    ours: bool
    repeated: bool
    number: int


class LearningBag:
    """
    A recording to learn from again, sqlite3 or mcap.

    Frames are those of an image topic, else those of `predicted_frame`. Labels are those of
    `labels`; from `labelled_batches` come those whose frame or label was not recorded, and what
    was renamed.

    :param image_topic: which images; '' takes `image_raw`, else the first ones in colour that
        `inference` did not draw
    :param source: name of the camera pipeline that frames of an image topic and labels without a
        source are of
    :param truth: the recorded truth plays the labels, instead of what people said
    :param every: of the truth, only of one frame in so many
    :param say: told what takes long before the first frame
    :ivar damage: pictures and messages that can not be read
    :ivar said: why the frames are others than were asked for, or labels are left out; empty when
        neither is
    :ivar boxes: labels of boxes, which are left out
    :ivar ambiguous: labels that are left out, as other images have the stamp of theirs
    :raises ImageError: in one sentence when there is nothing to learn from
    """

    def __init__(
        self,
        path: Path,
        image_topic: str = '',
        source: str = 'camera',
        truth: bool = False,
        every: int = 1,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        path = path.expanduser()
        if not path.exists():
            raise ImageError(f"the recording '{path}' does not exist ({path.absolute()})")
        self._path = recording_folder(path)
        self._source, self._truth, self._every = source, truth, every
        self.damage = Damage()
        self.said = ''
        self.boxes = self.ambiguous = 0
        self._left_out: set[tuple[int, bytes]] = set()  # stamp and frame_id of images
        with opened(self._path) as reader:
            kinds = {c.topic: c.msgtype or '' for c in reader.connections}
            counts = {t: n for t in kinds if (n := _count(reader, t))}
            self.seconds = reader.duration / 1e9 if counts else 0.0
            found = image_topics(reader, image_topic)
        if not counts:
            raise ImageError(f'the recording {path} holds no messages')
        self._kinds = {topic: kinds[topic] for topic in counts}
        listed = ', '.join(sorted(counts))
        kept = [t for t, kind in self._kinds.items() if kind == KEPT]
        self.images = self._choose(found or ([] if image_topic else kept), image_topic, listed)
        labels = (TRUTH,) if truth else (LABELS, BATCHES)
        self.labels = [t for t, kind in self._kinds.items() if kind in labels]
        if not self.labels:
            hint = (
                'it was not recorded with `ground_truth`'
                if truth
                else 'record `labels` too (config/record.txt), or have the recorded truth play '
                'them: --labels-from ground_truth'
            )
            raise ImageError(f'the recording {path} holds no labels: {hint}; topics: {listed}')
        if self.images in found:
            say('looking whether stamps of images repeat')
            self._part(kept)
        self.count = sum(counts[t] for t in (self.images, *self.labels))

    def _choose(self, found: list[str], wanted: str, listed: str) -> str:
        """
        Return the topic of frames.

        :param found: those that may be it
        """
        if found:
            return found[0]
        what = f"no images on '{wanted}'" if wanted else 'neither images nor predicted_frame'
        raise ImageError(f'the recording {self._path} holds {what}; topics: {listed}')

    def _part(self, kept: list[str]) -> None:
        """
        Leave out labels of images whose stamp others have, too; where they are many, take the
        frames that `inference` numbered.

        :param kept: topics of those
        :raises ImageError: when there are none
        """
        repeated = self._repeated()
        if not repeated:
            return
        labels = self._labels_of(repeated)
        ours = [label for label in labels if label.ours]
        # Where none is of these images, the numbered frames may be those that labels are of.
        numbers = [label.number for label in ours or labels if label.repeated]
        if len(numbers) > MOST_AMBIGUOUS * len(ours or labels):
            self._take_kept(kept if all(numbers) else [])
        elif ours and numbers:
            self._left_out, self.ambiguous = repeated, len(numbers)
            self.said = (
                f'{len(numbers)} of {len(ours)} labels are left out: stamps of {self.images} '
                f'repeat there, so that they do not say which image they are of'
            )

    def _repeated(self) -> set[tuple[int, bytes]]:
        """Return stamp and frame_id that several images have."""
        seen: set[tuple[int, bytes]] = set()
        repeated: set[tuple[int, bytes]] = set()
        with opened(self._path) as reader:
            images = [c for c in reader.connections if c.topic == self.images]
            try:
                for _, _, raw in reader.messages(images):
                    name = _header_of(raw)
                    (repeated if name in seen else seen).add(name)
            except Exception:  # where it is damaged it will end
                pass
        return repeated

    def _labels_of(self, repeated: set[tuple[int, bytes]]) -> list[_Label]:
        """
        Return the labels that would be played.

        :param repeated: stamp and frame_id that several images have
        """
        found: dict[tuple[Any, ...], _Label] = {}
        truths = 0
        with opened(self._path) as reader:
            for connection, _, message in messages(reader, self.labels, Damage()):
                if connection.msgtype == TRUTH:
                    truths += 1
                    if truths % self._every:
                        continue
                for one in getattr(message, 'samples', None) or [message]:
                    header = getattr(one, 'header', None)
                    if header is None or _has_box(one):
                        continue
                    name = stamp_of(one), header.frame_id.encode()
                    number = int(getattr(one, 'frame_uid', 0))
                    ours = getattr(one, 'source', '') in ('', self._source)
                    # One is said again until it is heard, and comes in a batch, too.
                    which = number or -1 - len(found)
                    key = (which, name, one.label, getattr(one, 'author', ''))
                    found[key] = _Label(ours, name in repeated, number)
        return list(found.values())

    def _take_kept(self, kept: list[str]) -> None:
        """
        Take the frames that `inference` numbered, as the stamps of images do not tell them apart.

        :param kept: topics of theirs; none when labels do not name those numbers
        :raises ImageError: when there are none
        """
        why = f'stamps of {self.images} repeat, so that labels do not say which image they are of'
        if not kept:
            raise ImageError(
                f'{why}; have the camera stamp its images, or record `predicted_frame` and '
                f'`labels` (config/record.txt)'
            )
        self.images, self.said = kept[0], f'{why}; played are the frames of {kept[0]}'

    def __iter__(self) -> Iterator[Event]:
        """Yield frames and what was said of them, in order of arrival."""
        self.damage.clear()
        self.boxes = truths = 0
        with opened(self._path) as reader:
            topics = (self.images, *self.labels)
            for connection, arrived, message in messages(reader, topics, self.damage):
                seconds = (arrived - reader.start_time) / 1e9
                topic, kind = connection.topic, str(connection.msgtype)
                try:
                    found = self._read(message, topic, kind)
                except Exception:  # what is damaged is counted, and must not end it
                    self.damage.messages[topic] += 1
                    continue
                if kind == TRUTH:
                    truths += 1
                    found = found if truths % self._every == 0 else []
                for item in found:
                    if not (isinstance(item, Said) and self._is_ambiguous(item.correction.key)):
                        yield seconds, item

    def _is_ambiguous(self, key: FrameKey) -> bool:
        """Return whether a label is left out, as several images have the stamp of its own."""
        name = key.stamp_ns, key.frame_id.encode()
        return key.source == self._source and name in self._left_out

    def _read(self, message: Any, topic: str, kind: str) -> list[Seen | Said | Renaming]:
        if kind in IMAGES:
            key = self._key(message)
            return [self._seen(key, message, kind == IMAGES[1])]
        if kind == KEPT:
            return [self._seen(self._key_of(message), message.image, True)]
        if kind == TRUTH:
            key = self._key(message)
            return [Said(Correction.of(key, message.label, 'ground_truth', False))]
        said = [message] if kind == LABELS else list(message.samples)
        whole = [m for m in said if not _has_box(m)]
        self.boxes += len(said) - len(whole)
        if kind == LABELS and whole:
            key = self._key_of(message)
            return [Said(Correction.of(key, message.label, message.author, message.withdraw))]
        readable = [m for m in whole if not m.label or _has_picture(m)]
        if damaged := len(whole) - len(readable):
            self.damage.messages[topic] += damaged
        return [
            *_renamings(message),
            *(
                Said(
                    Correction.of(self._key_of(s), s.label, s.author, not s.label),
                    (s.image.format, bytes(s.image.data)),
                )
                for s in readable
            ),
        ]

    @staticmethod
    def _seen(key: FrameKey, message: Any, compressed: bool) -> Seen:
        from etuner_ros.core.images.raw import unpack

        if compressed:
            data = bytes(message.data)
            return Seen(key, decode(data), message.format, data)
        image = unpack(message)
        return Seen(key, image, 'jpeg', encode_jpeg(image, QUALITY))

    def _key(self, message: Any, source: str = '', uid: int = 0) -> FrameKey:
        return FrameKey(source or self._source, stamp_of(message), message.header.frame_id, uid)

    def _key_of(self, message: Any) -> FrameKey:
        """Return what a message of ours is about; images of a camera know no uid."""
        uid = int(message.frame_uid) if self._kinds[self.images] == KEPT else 0
        return self._key(message, message.source, uid)


def _header_of(raw: bytes) -> tuple[int, bytes]:
    """Return stamp in ns and frame_id of a serialised message that begins with its header."""
    order = '<' if raw[1] & 1 else '>'
    sec, nanosec, length = struct.unpack_from(f'{order}iII', raw, 4)
    return sec * 10**9 + nanosec, bytes(raw[16 : 16 + length]).rstrip(b'\0')


def _count(reader: Any, topic: str) -> int:
    return sum(c.msgcount for c in reader.connections if c.topic == topic)


def _has_box(message: Any) -> bool:
    """Return whether a label is of a box; recordings of older packages know none."""
    box = getattr(message, 'box', None)
    return box is not None and box.width > 0


def _has_picture(sample: Any) -> bool:
    """Return whether the picture of a labelled sample can be decoded."""
    try:
        decode(bytes(sample.image.data))
    except ImageError:
        return False
    return True


def _renamings(batch: Any) -> list[Renaming]:
    """Return what a batch renames; recordings of version 0.1 know nothing of it."""
    names = getattr(batch, 'renamed_from', []), getattr(batch, 'renamed_to', [])
    return [Renaming(label, new_label) for label, new_label in zip(*names)]
