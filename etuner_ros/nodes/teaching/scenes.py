# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames with the things in them, and what was said of these on the teaching page."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
import threading
import time

import numpy as np

from etuner_ros.core.boxes.geometry import as_boxes, overlaps, usable
from etuner_ros.core.labels.frame_buffer import FrameKey
from etuner_ros.core.labels.things import SAME
from etuner_ros.msg import LabelReceipt, Objects, PredictedFrame
from etuner_ros.nodes.label_messages import box_of, key_of
from etuner_ros.nodes.messages import short

SILENT_S = 10.0  # without objects: then the view is as without a detector
LONGEST_WAIT_S = 12.0  # of a frame for its objects: inference waits 10 s for regions at most
MOST_WAITING = 500  # objects whose frame has not come
MOST_WAITING_BYTES = 64_000_000  # of pictures whose objects have not come
MOST_SCENES = 64  # that can still be spoken of
MOST_THINGS = 256  # that are shown of a frame
MOST_WORDS = 200  # that can be taken back; the newest are shown
FINGER = 0.03  # of the width of a picture: so far beside a box a finger may come down
Rectangle = tuple[float, float, float, float]  # x, y, width, height in px


@dataclass(frozen=True)
class Thing:
    """What the robot takes a region of a frame for."""

    box: Rectangle
    label: str  # empty while the robot knows no class
    confidence: float
    unknown: bool
    track: int  # 0 = none


@dataclass(frozen=True)
class Scene:
    """A frame with its things."""

    key: FrameKey
    width: int  # of the image as the camera has it, in px: what boxes are measured in
    height: int
    picture: bytes  # encoded; may have fewer px
    things: tuple[Thing, ...]

    def at(self, x: float, y: float) -> Thing | None:
        """Return the thing that a finger at a point (in px) means: the smallest, the nearest."""
        reach = FINGER * self.width
        found = []
        for thing in self.things:
            left, top, width, height = thing.box
            beside = max(left - x, x - left - width, top - y, y - top - height, 0.0)
            if beside <= reach:
                found.append((beside, width * height, thing))
        return min(found, key=lambda one: one[:2])[2] if found else None

    def inside(self, box: Rectangle) -> Rectangle | None:
        """Return the part of a box that lies in the image; None where it shows nothing."""
        x, y = max(box[0], 0.0), max(box[1], 0.0)
        width = min(box[0] + box[2], float(self.width)) - x
        height = min(box[1] + box[3], float(self.height)) - y
        part = (x, y, width, height)
        return part if usable(as_boxes([part]), self.width, self.height)[0] else None


@dataclass(frozen=True)
class Word:
    """What was said of a thing on this page."""

    number: int
    key: FrameKey
    box: Rectangle
    track: int  # of the thing; 0 where none was seen
    label: str  # empty: taken back
    answer: str = ''  # of the receipt
    accepted: bool = False
    awaits: str | None = None  # label that the receipt is awaited of; '' = that it is taken back


class Scenes:
    """
    Joins frames with their objects; keeps what was said until it is answered and seen.

    Written by the node's thread, read by the page's; what is handed out never changes afterwards.

    :param author: whose receipts count, as these have it
    :param clock: returns seconds that only grow
    """

    def __init__(self, author: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._author, self._clock = author, clock
        self._lock = threading.Lock()
        # By uid, and when they came: frames without objects.
        self._frames: OrderedDict[int, tuple[PredictedFrame, float]] = OrderedDict()
        self._waiting_bytes = 0  # of their pictures
        self._objects: OrderedDict[int, Objects] = OrderedDict()  # by uid, without their frame
        self._scenes: OrderedDict[int, Scene] = OrderedDict()  # by uid
        self._newest: OrderedDict[str, tuple[Scene, float]] = OrderedDict()  # by camera, and when
        self._words: OrderedDict[int, Word] = OrderedDict()  # by number
        self._count = 0

    # From the robot

    def on_frame(self, message: PredictedFrame) -> None:
        """Take the picture of a frame."""
        with self._lock:
            objects = self._objects.pop(message.frame_uid, None)
            if objects is None:
                self._wait(message)
            else:
                self._join(message, objects)

    def on_objects(self, message: Objects) -> None:
        """Take what is in a frame."""
        if not message.kept:
            return  # nobody could speak of it
        with self._lock:
            frame = self._take_waiting(message.frame_uid)
            if frame is None:
                _put(self._objects, message.frame_uid, message, MOST_WAITING)
            else:
                self._join(frame, message)

    def _wait(self, frame: PredictedFrame) -> None:
        """Keep a frame until its objects come; old ones make room."""
        now, uid = self._clock(), frame.frame_uid
        self._take_waiting(uid)
        self._frames[uid] = frame, now
        self._waiting_bytes += len(frame.image.data)
        for oldest, (_, came) in list(self._frames.items()):
            late = now - came > LONGEST_WAIT_S
            if not late and self._waiting_bytes <= MOST_WAITING_BYTES:
                break
            self._take_waiting(oldest)

    def _take_waiting(self, uid: int) -> PredictedFrame | None:
        found = self._frames.pop(uid, None)
        if found is None:
            return None
        self._waiting_bytes -= len(found[0].image.data)
        return found[0]

    def _join(self, frame: PredictedFrame, objects: Objects) -> None:
        width, height = objects.width, objects.height
        key = key_of(objects)
        if not (width and height and frame.image.data) or key != key_of(frame):
            return
        found = objects.objects[:MOST_THINGS]
        boxes = as_boxes([box_of(o.box) or (0.0, 0.0, 0.0, 0.0) for o in found])
        things = tuple(
            Thing(
                (o.box.x, o.box.y, o.box.width, o.box.height),
                short(o.labels[0]) if o.labels else '',
                o.confidence if o.confidence == o.confidence else 0.0,
                o.unknown,
                o.track,
            )
            for o, fits in zip(found, usable(boxes, width, height))
            if fits
        )
        scene = Scene(key, width, height, bytes(frame.image.data), things)
        _put(self._scenes, key.uid, scene, MOST_SCENES)
        shown = self._newest.get(key.source)
        # The upper half of a uid names the run, the lower half counts.
        run = shown is not None and shown[0].key.uid >> 32 == key.uid >> 32
        if shown is None or not run or shown[0].key.uid < key.uid:
            _put(self._newest, key.source, (scene, self._clock()), MOST_SCENES)

    def on_receipt(self, message: LabelReceipt) -> None:
        """Note what became of what was said."""
        box = box_of(message.box)
        if box is None or message.author != self._author:
            return
        with self._lock:
            for number, word in reversed(self._words.items()):
                same = word.key.uid == message.frame_uid or (
                    not message.frame_uid and word.key.moment == key_of(message).moment
                )
                if same and (word.box == box or _overlap(word.box, box) >= SAME):
                    if word.awaits not in (None, message.label):
                        return  # it was slow: something else was said since
                    refused = not _stands(message, word)
                    self._words[number] = replace(
                        word,
                        # A withdrawal that was refused has taken nothing back.
                        label=word.label if refused else message.label,
                        answer=message.message,
                        accepted=not refused,
                        awaits=None,
                    )
                    return

    # From the page

    def newest(self, camera: str = '') -> Scene | None:
        """
        Return the newest frame with its things; None while no objects come.

        :param camera: '' is the only one, or the one that spoke last
        """
        with self._lock:
            spoke = camera or next(reversed(self._newest), '')
            scene, at = self._newest.get(spoke, (None, 0.0))
            return scene if self._clock() - at <= SILENT_S else None

    def get(self, uid: int) -> Scene | None:
        """Return a frame that was shown; None when it is gone."""
        with self._lock:
            return self._scenes.get(uid)

    def say(self, scene: Scene, box: Rectangle, label: str) -> Word:
        """Note that a person said something of a thing; the frame stays as long as it is shown."""
        thing = next((t for t in scene.things if _overlap(t.box, box) >= SAME), None)
        awaits = short(label.strip())  # as receipts have it
        with self._lock:
            for number, word in self._words.items():
                if word.key == scene.key and _overlap(word.box, box) >= SAME:
                    said = replace(word, label=label, answer='', accepted=False, awaits=awaits)
                    self._words[number] = said
                    return said
            self._count += 1
            track = thing.track if thing else 0
            said = Word(self._count, scene.key, box, track, label, awaits=awaits)
            _put(self._words, said.number, said, MOST_WORDS)
            return said

    def take_back(self, number: int) -> Word | None:
        """Return what was said, to be withdrawn; None when it is gone or taken back already."""
        with self._lock:
            word = self._words.get(number)
            if word is None or not word.label:
                return None
            self._words[number] = replace(word, answer='', accepted=False, awaits='')
            return word

    def words(self) -> list[Word]:
        """Return what was said last, newest first."""
        with self._lock:
            return list(reversed(self._words.values()))

    def word_of(self, scene: Scene, box: Rectangle, track: int) -> Word | None:
        """
        Return what was said of a thing, in this frame or in an earlier one of its track.

        :param track: 0 where no thing was seen
        """
        key = scene.key
        for word in self.words():
            here = word.key == key and _overlap(word.box, box) >= SAME
            run = (word.key.source, word.key.uid >> 32) == (key.source, key.uid >> 32)
            if word.label and (here or (run and track > 0 and word.track == track)):
                return word
        return None


def _put(kept: OrderedDict, name: object, value: object, most: int) -> None:
    """Keep a value as the newest; the oldest ones make room."""
    kept.pop(name, None)
    kept[name] = value
    while len(kept) > most:
        kept.popitem(last=False)


def _overlap(one: Rectangle, other: Rectangle) -> float:
    with np.errstate(all='ignore'):
        value = float(overlaps(as_boxes([one]), as_boxes([other]))[0, 0])
    return value if value == value else 0.0


def _stands(message: LabelReceipt, word: Word) -> bool:
    """Return whether a word counts; one that is said again, as its receipt was lost, does."""
    if message.code == LabelReceipt.DUPLICATE:
        return bool(message.label == short(word.label.strip()))
    if message.code == LabelReceipt.NOTHING_TO_WITHDRAW:
        return not message.label
    return bool(message.code == LabelReceipt.ACCEPTED)
