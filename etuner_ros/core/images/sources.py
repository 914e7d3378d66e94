# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Where the camera node's pictures come from: a device, a video, a folder of images, or a rosbag2
recording.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
import threading
from typing import Any

import cv2
import numpy as np

from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.bags import (
    Damage,
    image_topics,
    IMAGES,
    is_storage,
    opened,
    pictures,
    rate_of,
    recording_folder,
    stamp_of,
    truth_topic,
)
from etuner_ros.core.images.codec import decode, Image
from etuner_ros.core.images.folders import PICTURES as PICTURES
from etuner_ros.core.images.folders import pictures_below

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 10.0  # before a lost camera is opened again


@dataclass(frozen=True)
class SourceFrame:
    """One picture, with what is known of it."""

    image: Image  # RGB uint8, (H, W, 3)
    label: str = ''  # the truth; empty when unknown
    scenario: str = ''


class ImageFolder:
    """
    Images in `<split>/<class>/*.jpg`, each split a scenario, in name order; the classes of a split
    take turns.

    A folder with images only, or with classes only (`<class>/*.jpg`), works too. Folders may be
    symbolic links, hidden ones are left out; what `etuner labels export` wrote has the names of
    its labels.
    """

    rate_hz = 5.0  # pictures carry no time

    def __init__(self, path: Path) -> None:
        self._found = pictures_below(path)
        self._files: list[tuple[Path, str, str]] = []
        self._damaged: list[Path] = []
        splits: dict[str, dict[str, list[Path]]] = {}
        for found in self._found:
            splits.setdefault(found.split, {}).setdefault(found.label, []).append(found.file)
        for split, classes in splits.items():
            for turn in range(max(len(files) for files in classes.values())):
                self._files += [
                    (files[turn], label, split)
                    for label, files in classes.items()
                    if turn < len(files)
                ]
        if not self._files:
            raise ImageError(f'the folder {path} holds no images; expected <class>/*.jpg')

    @property
    def left_out(self) -> str:
        """What could not be read, in a line; empty when all could."""
        if not self._damaged:
            return ''
        return f'{len(self._damaged)} pictures can not be read, the first: {self._damaged[0]}'

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the pictures; one that can't be decoded is left out."""
        self._damaged = []
        for file, label, split in self._files:
            try:
                image = decode(file.read_bytes())
            except (ImageError, OSError):
                self._damaged.append(file)
                continue
            yield SourceFrame(image, label, split)

    def encoded(self) -> Iterator[tuple[bytes, str]]:
        """Yield labelled pictures as they are in their files, with their labels, by name."""
        self._damaged = []
        for found in self._found:
            if not found.label:
                continue
            try:
                data = found.file.read_bytes()
                decode(data)
            except (ImageError, OSError):
                self._damaged.append(found.file)
                continue
            yield data, found.label


class VideoFile:
    """Any video that OpenCV can read."""

    left_out = ''

    def __init__(self, path: Path) -> None:
        self._path = path
        with closing(Capture(str(path))) as video:
            if not video.is_open:
                raise ImageError(
                    f'the video {path} can not be opened: damaged, or of an unknown format'
                )
            self.rate_hz = video.rate_hz or 30.0

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the pictures of the video."""
        with closing(Capture(str(self._path))) as video:
            while (image := video.read()) is not None:
                yield SourceFrame(image)


class Capture:
    """`cv2.VideoCapture` with a way to close it."""

    def __init__(self, source: str | int) -> None:
        self._capture = cv2.VideoCapture(source)

    @property
    def is_open(self) -> bool:
        """Whether it could be opened."""
        return bool(self._capture.isOpened())

    @property
    def rate_hz(self) -> float:
        """Pictures per second, as its header says."""
        return float(self._capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> Image | None:
        """Return the next picture; None when there is none."""
        try:
            ok, image = self._capture.read()
        except cv2.error:  # of a driver that goes away in the middle
            return None
        return np.ascontiguousarray(image[..., ::-1]) if ok else None

    def close(self) -> None:
        """Let go of it."""
        self._capture.release()


class Device:
    """
    A V4L2 camera; a thread reads it, so that the newest picture is always at hand and the driver's
    queue stays empty.

    When it gives no pictures any more (unplugged, say) it is opened again until it does: after a
    second, then after twice the time, at most every `LONGEST_PAUSE_S`.

    :param open_capture: opens the device
    :param pause: waits for so many seconds, or until the event is set
    :raises ImageError: when it can't be opened at the start
    """

    rate_hz = 30.0
    left_out = ''

    def __init__(
        self,
        device: str,
        open_capture: Callable[[str | int], Capture] | None = None,
        pause: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        number = device.removeprefix('/dev/video')
        self._device: str | int = int(number) if number.isdigit() else device
        self._open, self._pause = open_capture or Capture, pause
        capture = self._open(self._device)
        if not capture.is_open:
            raise ImageError(
                f'the camera {device} can not be opened; is it plugged in, and may this user '
                f'read it (group video)?'
            )
        self.lost = ''  # why no pictures come; empty while they do
        self._name = device
        self._newest: Image | None = None
        self._fresh = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(
            target=self._read, args=(capture,), name='camera', daemon=True
        )
        self._thread.start()

    def _read(self, capture: Capture) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closed.is_set():
            image = capture.read()
            if image is not None:
                pause_s = FIRST_PAUSE_S
                self._tell(image, '')
                continue
            capture.close()
            text = f'the camera {self._name} gives no pictures; it is opened again until it does'
            self._tell(None, text)
            self._pause(self._closed, pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            capture = self._open(self._device)
        capture.close()

    def _tell(self, image: Image | None, lost: str) -> None:
        with self._fresh:
            self._newest, self.lost = image, lost
            self._fresh.notify_all()

    def newest(self, wait_s: float = 1.0) -> SourceFrame | None:
        """
        Return the newest picture since the last call, when there is none yet the next one.

        :param wait_s: how long it may take
        :return: None when none came, at once when the camera is lost
        """
        with self._fresh:
            self._fresh.wait_for(
                lambda: self._newest is not None or self.lost or self._closed.is_set(), wait_s
            )
            image, self._newest = self._newest, None
        return SourceFrame(image) if image is not None else None

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the newest picture each time, until none comes."""
        while (frame := self.newest(5.0)) is not None:
            yield frame

    def close(self) -> None:
        """Let go of the device."""
        self._closed.set()
        self._thread.join(timeout=2.0)


class Recording:
    """
    A rosbag2 recording, mcap or sqlite3.

    :param image_topic: which images to play; empty takes `image_raw`, else the first ones in
        colour that `inference` did not draw
    :param skip: frames at the start that are left out
    :raises ImageError: in one sentence when it can't be opened, or holds no such images
    """

    def __init__(self, path: Path, image_topic: str = '', skip: int = 0) -> None:
        self._path = recording_folder(path)
        self._skip = skip
        self._damage = Damage()
        with opened(self._path) as reader:
            chosen = image_topics(reader, image_topic)
            if not chosen:
                names = sorted({c.topic for c in reader.connections if c.msgtype in IMAGES})
                where = f' on {image_topic!r}' if image_topic and names else ''
                kinds = ' but drawn ones, depth, or none at all' if names and not where else ''
                raise ImageError(
                    f'the recording {path} holds no images{where}{kinds}; image topics: {names}'
                )
            self._topic = chosen[0]
            self._truth = truth_topic(reader, self._topic, 'GroundTruth')
            self.rate_hz = rate_of(reader, self._topic)

    @property
    def left_out(self) -> str:
        """What could not be read, in a line; empty when all could."""
        return str(self._damage)

    def __iter__(self) -> Iterator[SourceFrame]:
        """Yield the recorded pictures with the truth of the same stamp."""
        for _, frame, _ in self._frames():
            yield frame

    def _frames(self, more: str = '') -> Iterator[tuple[int, SourceFrame, Any]]:
        """
        Yield pictures with their stamp in ns.

        :param more: topic whose message of the same stamp is wanted, too
        """
        from etuner_ros.core.images.raw import unpack

        self._damage.clear()
        topics = [topic for topic in (self._truth, more) if topic]
        with opened(self._path) as reader:
            found = pictures(reader, self._topic, topics, self._damage)
            for connection, _, message, said in islice(found, self._skip, None):
                try:
                    if connection.msgtype == IMAGES[1]:
                        image = decode(bytes(message.data))
                    else:
                        image = unpack(message)
                except Exception:  # a damaged picture must not end the recording
                    self._damage.messages[self._topic] += 1
                    continue
                truth = said.get(self._truth)
                label, scenario = (truth.label, truth.scenario) if truth else ('', '')
                yield stamp_of(message), SourceFrame(image, label, scenario), said.get(more)


FrameSource = ImageFolder | VideoFile | Device | Recording


def open_source(source: str, image_topic: str = '', skip: int = 0) -> FrameSource:
    """
    Open what a source setting names.

    :param source: `/dev/video0`, another name under /dev, or a number; a video file; a folder of
        images; or a rosbag2 recording (its folder or file)
    :raises ImageError: in one sentence when it can't be opened
    """
    if source.isdigit() or source.startswith('/dev/'):
        return Device(source)
    path = Path(source).expanduser()
    if not path.exists():
        raise ImageError(f"the source '{source}' does not exist ({path.absolute()})")
    if is_storage(path) or (path / 'metadata.yaml').exists():
        return Recording(path, image_topic, skip)
    if not path.is_dir():
        return VideoFile(path)
    try:
        return ImageFolder(path)
    except ImageError:
        if any(map(is_storage, path.iterdir())):
            recording_folder(path)  # says why it is none
        raise
