# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Recordings of rosbag2 as they are opened: with what is known of their messages, which topic has the
pictures, and what is left of them when they are damaged.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TYPE_CHECKING, TypeVar

from etuner_ros.core.errors import ImageError
from etuner_ros.core.files import share

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader
    from rosbags.interfaces import Connection

STORAGES = ('.mcap', '.db3')
PACKED = '.zstd'  # behind the name of a file that is compressed as a whole
IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
OURS = ('/annotated', '/annotated/compressed')  # images that inference draws
DEPTH = ('16UC1', '32FC1')  # encodings of distances; `compressedDepth` packs them
T = TypeVar('T')


def is_storage(path: Path) -> bool:
    """Return whether a file is one of a recording, by its name."""
    return Path(path.name.removesuffix(PACKED)).suffix in STORAGES


def recording_folder(path: Path) -> Path:
    """
    Return the folder of a recording.

    :param path: that folder, or a file in it
    :raises ImageError: when it has no metadata.yaml, which says what to do
    """
    folder = path if path.is_dir() else path.parent
    if (folder / 'metadata.yaml').exists():
        return folder
    files = [path] if is_storage(path) else sorted(filter(is_storage, folder.iterdir()))
    if not files:
        raise ImageError(f'the folder {folder} holds no recording, neither *.mcap nor *.db3')
    unpacked = f'unpack {files[0].name} (`zstd -d --rm`), then ' * (files[0].suffix == PACKED)
    raise ImageError(
        f'the recording {path} was not closed, or its file stands alone: there is no '
        f'metadata.yaml beside {files[0].name}; {unpacked}`ros2 bag reindex {folder}` writes one'
    )


def reader_of(path: Path) -> AnyReader:
    """
    Return a reader of a recording, not opened yet; of Humble in sqlite3, too.

    Those do not say what their messages are.
    """
    from rosbags.highlevel import AnyReader

    return AnyReader([path], default_typestore=known_types())


@contextmanager
def opened(path: Path) -> Iterator[AnyReader]:
    """
    Open a recording.

    :param path: its folder
    :raises ImageError: in one sentence when it can't be opened
    """
    try:
        reader = reader_of(path)
        reader.open()
    except Exception as error:  # rosbags raises many kinds for damaged recordings
        raise ImageError(f'the recording {path} can not be read: {error}') from error
    try:
        yield reader
    finally:
        reader.close()


@dataclass
class Damage:
    """
    What of a recording can not be read.

    :ivar messages: how many, by topic
    :ivar end: why nothing behind some moment can be read; empty when all can
    """

    messages: Counter[str] = field(default_factory=Counter)
    end: str = ''

    def __str__(self) -> str:
        parts = [
            f'{count} messages of {topic} are damaged and left out'
            for topic, count in self.messages.items()
        ]
        return '; '.join(filter(None, [*parts, self.end]))

    def clear(self) -> None:
        """Forget it, before the recording is read again."""
        self.messages.clear()
        self.end = ''


def messages(
    reader: AnyReader, topics: Collection[str], damage: Damage
) -> Iterator[tuple[Connection, int, Any]]:
    """
    Yield connection, arrival in ns and content of messages, as far as they can be read.

    :param damage: told of those that can not
    """
    wanted = [c for c in reader.connections if c.topic in topics]
    if not wanted:  # which the reader would take for all
        return
    found, arrived = reader.messages(wanted), reader.start_time
    while True:
        try:
            connection, arrived, raw = next(found)
        except StopIteration:
            return
        except Exception as error:  # of the storage: a page, a chunk; what is behind it is lost
            seconds = (arrived - reader.start_time) / 1e9
            damage.end = (
                f'the recording is damaged, and was read up to {seconds:.1f} s of '
                f'{reader.duration / 1e9:.1f} s ({type(error).__name__}: {error})'
            )
            return
        try:
            message = reader.deserialize(raw, str(connection.msgtype))
        except Exception:  # one message
            damage.messages[connection.topic] += 1
            continue
        yield connection, arrived, message


def stamp_of(message: Any) -> int:
    """Return the stamp of a message in ns."""
    stamp = message.header.stamp
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


class Said(Generic[T]):
    """
    What was recorded of pictures, by their stamp: before a picture or behind it.

    Where a stamp repeats, which of its pictures is meant tells only the order.
    """

    def __init__(self) -> None:
        self._said: dict[int, deque[tuple[int, T]]] = {}
        self._repeated: set[int] = set()

    def add(self, stamp_ns: int, arrived_ns: int, what: T) -> None:
        """Note what is said of the picture of a stamp; to be called in order of arrival."""
        said = self._said.setdefault(stamp_ns, deque())
        said.append((arrived_ns, what))
        if len(said) > 1:
            self._repeated.add(stamp_ns)

    def take(self, stamp_ns: int, arrived_ns: int) -> T | None:
        """Return what is said of a picture, once; None when nothing is."""
        said = self._said.get(stamp_ns)
        if not said:
            return None
        while len(said) > 1 and said[1][0] <= arrived_ns:
            said.popleft()
        if stamp_ns in self._repeated and said[0][0] > arrived_ns:
            return None  # of a picture to come
        return said.popleft()[1]


def camera_of(topic: str) -> str:
    """Return the name of the camera's topic, of raw or compressed pictures."""
    return topic.strip('/').removesuffix('/compressed')


def image_topics(reader: AnyReader, wanted: str = '') -> list[str]:
    """
    Return the topics that pictures may be played from, the best one first.

    :param wanted: name of a topic, or of its camera; '' takes `image_raw`, else any in colour that
        we did not draw ourselves
    """
    kinds = {c.topic: c.msgtype for c in reader.connections if c.msgtype in IMAGES and c.msgcount}
    name = wanted.strip('/')
    if name:
        found = [t for t in kinds if name in (t.strip('/'), camera_of(t))]
    else:
        theirs = [t for t in kinds if not f'/{t.strip("/")}'.endswith(OURS)]
        theirs = [t for t in theirs if _is_colour(reader, t)]
        found = [t for t in theirs if camera_of(t).endswith('image_raw')] or theirs
    # A camera records raw or compressed pictures, or both; those are one and the same.
    return sorted(found, key=lambda t: (t.strip('/') != name, camera_of(t), kinds[t] == IMAGES[0]))


def _is_colour(reader: AnyReader, topic: str) -> bool:
    """Return whether a topic has pictures, and not distances."""
    for _, _, message in messages(reader, (topic,), Damage()):
        # Of compressed ones the format says it, as in '16UC1; compressedDepth png'.
        encoding = getattr(message, 'encoding', '') or getattr(message, 'format', '')
        return not (encoding.split(';')[0] in DEPTH or 'compressedDepth' in encoding)
    return True


def rate_of(reader: AnyReader, topic: str) -> float:
    """
    Return how many pictures a second came, from the first to the last one.

    Other topics may have been recorded for longer.

    :return: 0 when a single picture, or one moment, says nothing of it
    """
    wanted = [c for c in reader.connections if c.topic == topic]
    count = sum(c.msgcount for c in wanted)
    if count < 2:
        return 0.0
    try:
        first = next(iter(reader.messages(wanted)))[1]
        latest, end = first, reader.end_time
        while end - latest > 10**9:  # so that not all pictures have to be read
            middle = (latest + end) // 2
            later = next(iter(reader.messages(wanted, start=middle)), None)
            latest, end = (later[1], end) if later else (latest, middle)
        last = max(arrived for _, arrived, _ in reader.messages(wanted, start=latest))
        span_ns = last - first
    except Exception:  # damaged: what the recording says of all of it
        span_ns = reader.duration
    return (count - 1) / (span_ns / 1e9) if span_ns > 0 else 0.0


@lru_cache(maxsize=1)
def known_types() -> Any:
    """Return what is known of messages: those of ROS, and ours."""
    from rosbags.typesys import get_types_from_msg, get_typestore, Stores

    store = get_typestore(Stores.ROS2_HUMBLE)
    ours: dict[str, Any] = {}
    for file in sorted(messages_folder().glob('*.msg')):
        ours |= get_types_from_msg(file.read_text(), f'etuner_ros/msg/{file.stem}')
    store.register(ours)
    return store


def messages_folder() -> Path:
    """Return the folder of message definitions."""
    return share() / 'msg'
