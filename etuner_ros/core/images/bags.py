# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Recordings of rosbag2 as they are opened: with what is known of their messages, which topic has the
pictures, and what is left of them when they are damaged.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from os.path import commonprefix
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
LOOK_AHEAD_NS = 10**9  # what is said so shortly behind a picture counts
REMEMBERED_NS = 5 * 10**9  # what was said, and stamps of pictures, so long before a picture
MOST_WAITING, MOST_WAITING_BYTES = 64, 128 * 2**20  # pictures that wait for what is said of them
T = TypeVar('T')
# A picture: connection, arrival in ns, content, and what is said of it, by topic.
Told = tuple['Connection', int, Any, dict[str, Any]]


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
    reader: AnyReader, topics: Collection[str], damage: Damage, counted: str = ''
) -> Iterator[tuple[Connection, int, Any]]:
    """
    Yield connection, arrival in ns and content of messages, as far as they can be read.

    :param damage: told of those that can not
    :param counted: topic whose newest message says how far a damaged one was read; '' = all
    """
    wanted = [c for c in reader.connections if c.topic in topics]
    if not wanted:  # which the reader would take for all
        return
    found, end = reader.messages(wanted), reader.start_time
    while True:
        try:
            connection, arrived, raw = next(found)
        except StopIteration:
            return
        except Exception as error:  # of the storage: a page, a chunk; what is behind it is lost
            seconds = (end - reader.start_time) / 1e9
            damage.end = (
                f'the recording is damaged, and was read up to {seconds:.1f} s of '
                f'{reader.duration / 1e9:.1f} s ({type(error).__name__}: {error})'
            )
            return
        end = arrived if connection.topic == (counted or connection.topic) else end
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
    """What was recorded of pictures, by their stamp: before a picture or behind it."""

    def __init__(self) -> None:
        self._said: dict[int, deque[tuple[int, T]]] = {}
        self._order: deque[tuple[int, int]] = deque()  # arrival and stamp of each

    def add(self, stamp_ns: int, arrived_ns: int, what: T) -> None:
        """Note what is said of the picture of a stamp; to be called in order of arrival."""
        self._said.setdefault(stamp_ns, deque()).append((arrived_ns, what))
        self._order.append((arrived_ns, stamp_ns))

    def before(self, stamp_ns: int, arrived_ns: int) -> bool:
        """Return whether something was said of a picture when it arrived."""
        said = self._said.get(stamp_ns)
        return said[0][0] <= arrived_ns if said else False

    def take(self, stamp_ns: int, arrived_ns: int, until_ns: int) -> T | None:
        """
        Return what is said of a picture, once: the newest before it, else the first behind it.

        :param until_ns: what arrived later is of another picture
        :return: None when nothing is
        """
        said = self._said.get(stamp_ns)
        if not said:
            return None
        while len(said) > 1 and said[1][0] <= arrived_ns:
            said.popleft()
        return said.popleft()[1] if said[0][0] <= until_ns else None

    def forget(self, before_ns: int) -> None:
        """Drop what arrived before a moment."""
        while self._order and self._order[0][0] < before_ns:
            _, stamp = self._order.popleft()
            said = self._said.get(stamp, deque())
            while said and said[0][0] < before_ns:
                said.popleft()
            if not said:
                self._said.pop(stamp, None)


class _Waiting:
    """
    Pictures that wait for what is said of them.

    Which of several pictures of one stamp is meant tells only the order: of those, what was said
    before counts, and not what came behind.

    :param topics: those that say something of pictures
    """

    def __init__(self, topics: Iterable[str]) -> None:
        self._said: dict[str, Said[Any]] = {topic: Said() for topic in topics}
        self._pictures: deque[tuple[Connection, int, Any]] = deque()
        self._stamps: Counter[int] = Counter()  # of pictures that wait, or came not long ago
        self._order: deque[tuple[int, int]] = deque()  # arrival and stamp of each of those
        self._newest, self._bytes = 0, 0

    def __bool__(self) -> bool:
        return bool(self._pictures)

    def add(self, connection: Connection, arrived: int, message: Any) -> None:
        """Take a picture, or what is said of one."""
        self._newest = max(self._newest, arrived)
        stamp = stamp_of(message)
        if connection.topic in self._said:
            self._said[connection.topic].add(stamp, arrived, message)
        else:
            self._pictures.append((connection, arrived, message))
            self._stamps[stamp] += 1
            self._order.append((arrived, stamp))
            self._bytes += len(message.data)
        if not self._pictures:
            self._forget(self._newest)

    @property
    def ready(self) -> bool:
        """Whether the next picture has nothing to wait for."""
        if not self._pictures:
            return False
        _, arrived, message = self._pictures[0]
        return (
            self._newest - arrived > LOOK_AHEAD_NS
            or len(self._pictures) > MOST_WAITING
            or self._bytes > MOST_WAITING_BYTES
            or not self._said
            or (
                self._newest > arrived
                and all(said.before(stamp_of(message), arrived) for said in self._said.values())
            )
        )

    def pop(self) -> Told:
        """Return the next picture with what is said of it, by topic."""
        connection, arrived, message = self._pictures.popleft()
        self._bytes -= len(message.data)
        self._forget(arrived)
        stamp = stamp_of(message)
        until = arrived + LOOK_AHEAD_NS * (self._stamps[stamp] == 1)
        found = {topic: said.take(stamp, arrived, until) for topic, said in self._said.items()}
        return connection, arrived, message, found

    def _forget(self, now_ns: int) -> None:
        """Drop what no picture from a moment on asks for, so that memory stays bounded."""
        old = now_ns - REMEMBERED_NS
        for said in self._said.values():
            said.forget(old)
        while self._order and self._order[0][0] < old:
            _, stamp = self._order.popleft()
            self._stamps[stamp] -= 1
            if not self._stamps[stamp]:
                del self._stamps[stamp]


def pictures(
    reader: AnyReader, topic: str, truths: Collection[str], damage: Damage
) -> Iterator[Told]:
    """
    Yield pictures with what is said of them, read in one pass, so that the first one comes soon.

    A truth may be recorded shortly behind its picture. So a picture is held back until something
    arrived more than a second later, too many wait, or all topics said something before it.

    :param truths: topics that say something of pictures, by their stamps
    :param damage: told of what can not be read
    """
    waiting = _Waiting(truths)
    for connection, arrived, message in messages(reader, (topic, *truths), damage, topic):
        waiting.add(connection, arrived, message)
        while waiting.ready:
            yield waiting.pop()
    while waiting:
        yield waiting.pop()


def truth_topic(reader: AnyReader, images: str, kind: str, ending: str = '') -> str:
    """
    Return the topic that says something of the pictures of another one; '' when none does.

    Of several cameras each may have its own, in its namespace. Their stamps may be the same, so
    what is said of the other camera's pictures must not be asked.

    :param images: topic of the pictures
    :param kind: of its messages
    :param ending: of its name
    """
    counts: Counter[str] = Counter()  # several nodes may have published on one topic
    for c in reader.connections:
        if str(c.msgtype).endswith(f'/{kind}') and c.topic.endswith(ending):
            counts[c.topic] += c.msgcount
    camera = camera_of(images).split('/')

    def strangeness(topic: str) -> tuple[bool, int, bool]:
        space = topic.strip('/').split('/')[:-1]
        shared = len(commonprefix([space, camera]))
        return not counts[topic], -shared, shared < len(space)

    return min(counts, key=strangeness, default='')


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
