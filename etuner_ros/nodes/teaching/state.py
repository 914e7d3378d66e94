# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the teaching page shows: written by the node's thread, read by the page's."""

from __future__ import annotations

from collections import deque, OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
import math
import threading
import time

from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.core.labels.frame_buffer import FrameKey
from etuner_ros.msg import LabelReceipt, LabelRequest, Objects, Prediction, TunerStatus
from etuner_ros.nodes.label_messages import box_of, key_of
from etuner_ros.nodes.messages import is_cut, short, tuner_state
from etuner_ros.nodes.teaching.scenes import Rectangle, Scenes

MOST_POINTS = 600  # of the timeline, all of which are drawn
MOST_CLASSES = 500
MOST_CAMERAS = 32
SILENT_S = 3.0  # without a prediction
STALE_S = 10.0  # of a live picture, after which it is no longer shown
UNDO_S = 30.0  # that an accepted card stays for, so that it can be taken back
RENAMED_S = 30.0  # after which what the robot still says is a name again
POINT_MIN = 1 / 60  # between two points of the timeline at first
LEAST_SCORE = 1e-6  # of a name that the robot may say
LAST_LABELS = 50  # of which it is shown how many the robot had right


@dataclass(frozen=True)
class Card:
    """A frame on the wall, or a thing in one."""

    name: str
    key: FrameKey
    box: Rectangle | None  # of the thing; None = the whole frame
    predicted: str
    confidence: float
    reason: str
    picture: bytes
    sent: str = ''  # label that was sent
    answer: str = ''  # of the receipt
    accepted: bool = False
    said_s: float = -math.inf  # when it was last spoken of


@dataclass(frozen=True)
class Point:
    """One moment of the timeline."""

    minutes: float
    accuracy: float  # in [0, 1]; NaN when unknown
    frozen: float  # share of the layers
    rounds: int
    scenario: tuple[str, int]  # camera whose surroundings changed last, and that it is in
    energy_j: float  # of all rounds that the page saw; NaN while none was measured


@dataclass(frozen=True)
class Overview:
    """What stands beside the wall."""

    seen: str  # the last prediction; empty when none comes
    doing: str  # what the tuner is doing and why
    line: str
    energy_source: str
    has_live: bool


class TeachingState:
    """
    Everything that is shown, behind one lock; what is handed out never changes afterwards.

    :param author: whose receipts are shown on the cards, as these have it
    :param most_cards: frames on the wall
    :param clock: returns seconds that only grow
    """

    def __init__(
        self, author: str, most_cards: int = 24, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._author, self._most_cards, self._clock = author, most_cards, clock
        self.scenes = Scenes(author, clock)  # has a lock of its own
        self._lock = threading.Lock()
        self._began = clock()
        self._cards: OrderedDict[str, Card] = OrderedDict()  # by name
        self._classes: set[str] = set()
        self._points: list[Point] = []
        self._newest: Point | None = None  # of the timeline, and where it ends
        self._apart_min = POINT_MIN  # between two points
        self._right: deque[bool] = deque(maxlen=LAST_LABELS)
        self._predictions: dict[str, tuple[Prediction, float]] = {}  # newest of each camera
        self._status: TunerStatus | None = None
        self._energy_j = math.nan
        self._accepted = 0
        self._live: dict[str, tuple[bytes, float]] = {}  # by camera, and when it came
        self._stored: frozenset[str] | None = None  # labels that counted last
        self._gone: dict[str, float] = {}  # labels that count no more, and since when

    # From the robot

    def on_request(self, message: LabelRequest) -> None:
        """
        Put a frame on the wall. Those that somebody spoke of make room first, once there was time
        to take that back; then the oldest of the others.
        """
        key, box = key_of(message), box_of(message.box)
        name = f'{key.stamp_ns}-{abs(hash((key, box)))}'
        reason = short(message.reason)
        picture = bytes(message.image.data)
        label = short(message.predicted_label)
        with self._lock:
            cards = self._cards
            if name in cards:
                cards[name] = replace(cards[name], reason=reason)
                return
            cards[name] = Card(name, key, box, label, message.confidence, reason, picture)
            while len(cards) > self._most_cards:
                del cards[self._makes_room()]

    def _makes_room(self) -> str:
        others = list(self._cards.items())[:-1]  # not the one that came now
        late = self._clock() - UNDO_S
        spoken = {name: card for name, card in others if card.sent or card.answer}
        done = (name for name, card in spoken.items() if card.said_s < late)
        untouched = (name for name, _ in others if name not in spoken)
        return next(done, None) or next(untouched, None) or next(iter(self._cards))

    def on_receipt(self, message: LabelReceipt) -> None:
        """Note what became of a label, of this page or of others."""
        key, box = key_of(message), box_of(message.box)
        self.scenes.on_receipt(message)
        accepted = message.code == LabelReceipt.ACCEPTED and bool(message.label)
        with self._lock:
            if accepted:
                self._accepted += 1
                self._right.append(message.label == message.predicted_label)
                self._gone.pop(message.label, None)
                self._know(message.label)
            for name, card in self._cards.items():
                about = box == card.box and _same(key, card.key)
                waits = card.said_s > -math.inf and not card.answer
                # Else one that was slow is about what was said before.
                last = not waits or message.label == short(card.sent.strip())
                if message.author == self._author and about and last:
                    sent = card.sent if message.label else ''
                    # The first answer was lost on the way: it is stored.
                    twice = message.code == LabelReceipt.DUPLICATE and message.label == card.sent
                    self._cards[name] = replace(
                        card,
                        sent=sent,
                        answer=message.message,
                        accepted=accepted or twice,
                        said_s=self._clock(),
                    )

    def on_prediction(self, message: Prediction) -> None:
        """Note what the robot sees."""
        with self._lock:
            source = short(message.source)
            self._predictions.pop(source, None)
            self._predictions[source] = message, self._clock()
            while len(self._predictions) > MOST_CAMERAS:
                del self._predictions[next(iter(self._predictions))]
            for label, score in zip(message.labels, message.scores):
                self._know_said(label, score)

    def on_objects(self, message: Objects) -> None:
        """Note what the robot sees in regions of a frame."""
        self.scenes.on_objects(message)
        with self._lock:
            for thing in message.objects:
                for label, score in zip(thing.labels, thing.scores):
                    self._know_said(label, score)

    def on_status(self, message: TunerStatus) -> None:
        """
        Note what the tuner does; a point of the timeline once a second.

        When there are too many, every second one goes: all of the time is shown, ever coarser.
        """
        with self._lock:
            before, self._status = self._status, message
            if (before is None or message.rounds != before.rounds) and message.energy_j >= 0:
                spent = 0.0 if math.isnan(self._energy_j) else self._energy_j
                self._energy_j = spent + message.energy_j
            minutes = round((self._clock() - self._began) / 60, 2)
            self._newest = Point(
                minutes,
                sum(self._right) / len(self._right) if self._right else math.nan,
                message.layers_frozen / max(message.layers_total, 1),
                message.rounds,
                (message.scenario_source, message.scenario),
                self._energy_j,
            )
            if self._points and minutes - self._points[-1].minutes <= self._apart_min:
                return
            self._points.append(self._newest)
            if len(self._points) > MOST_POINTS:
                del self._points[1::2]
                span_min = minutes - self._points[0].minutes
                self._apart_min = span_min / len(self._points)  # as they are now

    def on_live(self, picture: bytes, camera: str = '') -> None:
        """Take the newest annotated picture of a camera, as JPEG."""
        with self._lock:
            self._live[camera] = picture, self._clock()

    def on_labels(self, labels: Collection[str]) -> None:
        """Take the labels that count now; those that did before are offered no more."""
        with self._lock:
            now, stored = self._clock(), frozenset(labels)
            for label in (self._stored or frozenset()) - stored:
                self._gone[label] = now
                self._classes.discard(label)
            self._stored = stored
            for label in stored:
                self._gone.pop(label, None)
                self._know(label)

    def _know_said(self, label: str, score: float) -> None:
        """
        Know a name that the robot says: not one of no score, which its head has still but is to
        say no more, nor one that was renamed just now.
        """
        name = short(label)
        if score > LEAST_SCORE and self._clock() - self._gone.get(name, -math.inf) > RENAMED_S:
            self._gone.pop(name, None)
            self._know(name)

    def _know(self, label: str) -> None:
        is_name = label and label != BACKGROUND and not is_cut(label)
        if is_name and len(self._classes) < MOST_CLASSES:
            self._classes.add(label)

    # From the page

    def say(self, name: str, label: str) -> None:
        """
        Note that a person said something of a card, which may be gone.

        :param label: empty to take it back
        """
        with self._lock:
            card = self._cards.get(name)
            if card is not None:
                self._cards[name] = replace(
                    card, sent=label, answer='', accepted=False, said_s=self._clock()
                )

    def cards(self) -> list[Card]:
        """Return the wall, oldest first; what can not be meant is not offered."""
        with self._lock:
            return [
                card if self._offers(card.predicted) else replace(card, predicted='')
                for card in self._cards.values()
            ]

    def offers(self, label: str) -> bool:
        """Return whether a name of the robot's is one that counts, and is whole."""
        with self._lock:
            return self._offers(label)

    def _offers(self, label: str) -> bool:
        return label not in self._gone and not is_cut(label)

    def picture(self, name: str) -> bytes | None:
        """Return the picture of a card."""
        with self._lock:
            card = self._cards.get(name)
            return card.picture if card else None

    def key(self, name: str) -> FrameKey | None:
        """Return the frame of a card."""
        with self._lock:
            card = self._cards.get(name)
            return card.key if card else None

    def live(self, camera: str = '') -> bytes:
        """Return the newest annotated picture of a camera; empty while there is none."""
        with self._lock:
            return self._live.get(camera, (b'', 0.0))[0]

    def classes(self) -> list[str]:
        """Return the labels that are known, by name."""
        with self._lock:
            return sorted(self._classes)

    def points(self) -> list[Point]:
        """Return the timeline, up to now."""
        with self._lock:
            points = list(self._points)
            if self._newest is not None and self._newest.minutes > points[-1].minutes:
                points.append(self._newest)
            return points

    def overview(self, camera: str = '') -> Overview:
        """
        Return what stands beside the wall.

        :param camera: that is looked at; '' is the only one, or the one that spoke last
        """
        with self._lock:
            spoke = camera or next(reversed(self._predictions), '')
            seen, at = self._predictions.get(spoke, (None, -math.inf))
            status = self._status
            if self._clock() - at > SILENT_S:
                seen = None
            accepted, (_, came) = self._accepted, self._live.get(camera, (b'', -math.inf))
            has_live = self._clock() - came <= STALE_S
        words = doing = source = ''
        line = f'{accepted} labels · {status.rounds if status else 0} rounds'
        if seen is not None:
            best = seen.labels[0] if seen.labels else 'no class yet'
            words = f'{short(best)} · {seen.confidence:.0%} · version {seen.model_version}'
        if status is not None:
            name = tuner_state(status)
            known = status.reason.startswith(name)
            doing = status.reason if known else f'{name}: {status.reason}'
            line += f' · scenario {status.scenario}'
            source = status.energy_source
        return Overview(words, doing, line, source, has_live)

    def counts(self) -> tuple[int, int]:
        """Return how many frames are on the wall, and how many labels were accepted."""
        with self._lock:
            return len(self._cards), self._accepted


def _same(answered: FrameKey, asked: FrameKey) -> bool:
    """Return whether a receipt is about a card; its names may be shortened."""
    return answered.uid == asked.uid if answered.uid else answered.moment == asked.moment
