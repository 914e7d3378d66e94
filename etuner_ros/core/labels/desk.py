# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a correction: it is stored or refused, and what the receipt says of it."""

from __future__ import annotations

from collections import Counter, deque, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
import sqlite3
import time

from etuner_ros.core.boxes.geometry import BoxError
from etuner_ros.core.errors import ImageError, StoreError
from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey
from etuner_ros.core.labels.records import Stored
from etuner_ros.core.labels.settings import DeskRules
from etuner_ros.core.labels.spelling import composed
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.labels.things import Things, UnknownSizeError
from etuner_ros.core.names import is_printable

AHEAD_NS = 10**9  # by which a stamp may lie in the future
BURST = 20  # corrections that an author may send at once
LONGEST_AUTHOR = 200
MOST_AUTHORS = 1000  # whose rate is watched
GONE_S = 60.0  # so long it is remembered that a correction did not find its frame
MANY_GONE = 3  # of them are worth a warning


class Code(IntEnum):
    """What a receipt says; the constants of LabelReceipt."""

    ACCEPTED = 0
    UNKNOWN_FRAME = 1
    TOO_OLD = 2
    EMPTY_LABEL = 3
    INVALID_LABEL = 4
    DUPLICATE = 5
    DISK_FULL = 6
    NOT_ALLOWED = 7
    FUTURE_STAMP = 8
    TOO_MANY = 9
    NOTHING_TO_WITHDRAW = 10
    INVALID_BOX = 11


GONE = (Code.UNKNOWN_FRAME, Code.TOO_OLD, Code.FUTURE_STAMP)  # the frame is not there


@dataclass(frozen=True)
class Correction:
    """What somebody says of a frame."""

    key: FrameKey
    label: str  # empty to withdraw
    author: str
    withdraw: bool = False
    box: tuple[float, ...] | None = None  # of a thing in it: x, y, width, height; unchecked

    @staticmethod
    def of(
        key: FrameKey,
        label: str,
        author: str,
        withdraw: bool,
        box: tuple[float, ...] | None = None,
    ) -> Correction:
        """Make one of what was received."""
        name = '' if withdraw else composed(label.strip())
        return Correction(key, name, author.strip(), withdraw, box)


@dataclass(frozen=True)
class Receipt:
    """The answer to a correction."""

    code: Code
    text: str
    frame: Frame | None = None  # that it is about
    stored: Stored | None = None  # what became of it, when it was accepted


class LabelDesk:
    """
    Takes corrections: checks them, finds their frame, stores them.

    :param clock: returns seconds that only grow
    :param things: finds the thing that a box means
    """

    def __init__(
        self,
        store: LabelStore,
        buffer: FrameBuffer,
        rules: DeskRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        things: Things | None = None,
    ) -> None:
        self._store, self._buffer, self._clock = store, buffer, clock
        self._things = things or Things(store)
        self.rules = rules or DeskRules()
        self._allowance: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._gone: deque[tuple[float, Code]] = deque(maxlen=50)  # when
        self.accepted = self.refused = 0

    def find(self, key: FrameKey) -> Frame | None:
        """Return a frame that is kept in memory or, once it was labelled, in the store."""
        return self._buffer.get(key) or self._store.find(key)

    def answer(
        self, correction: Correction, now_ns: int, scenario_of: Callable[[FrameKey], int]
    ) -> Receipt:
        """
        Store a correction or refuse it; what is accepted is on the disk.

        :param now_ns: on the clock that stamps frames; 0 = it has not started yet
        :param scenario_of: returns the scenario in which a frame was taken
        """
        receipt = self._decide(correction, now_ns, scenario_of)
        if receipt.code is Code.ACCEPTED:
            self.accepted += 1
            self._gone.clear()
        else:
            self.refused += 1
            if receipt.code in GONE and receipt.frame is None:
                self._gone.append((self._clock(), receipt.code))
        return receipt

    def trouble(self) -> str:
        """Return why corrections do not find their frames; nothing when they do."""
        while self._gone and self._clock() - self._gone[0][0] > GONE_S:
            self._gone.popleft()
        if len(self._gone) < MANY_GONE:
            return ''
        code = Counter(code for _, code in self._gone).most_common(1)[0][0]
        cause = {
            Code.TOO_OLD: f'they come later than keep_s ({self.rules.keep_s:.0f} s), or keep_mb '
            f'({self.rules.keep_mb:.0f} MB) is too little',
            Code.FUTURE_STAMP: 'the clocks are apart, or the stamps are wrong',
        }.get(
            code,
            'stamp, frame_id and source have to be those of a Prediction, or Objects, that '
            'says `kept`; is '
            'keep_rate_hz of inference too low?',
        )
        return f'{len(self._gone)} corrections in a row are for frames that are not there: {cause}'

    def _decide(
        self, correction: Correction, now_ns: int, scenario_of: Callable[[FrameKey], int]
    ) -> Receipt:
        refusal = self._refusal(correction)
        try:
            frame = self.find(correction.key)
            if refusal is not None:
                return Receipt(*refusal, frame)
            if frame is None:
                return Receipt(*self._why_gone(correction.key, now_ns))
            if correction.box is None:
                return self._store_it(correction, frame, now_ns, scenario_of)
            thing = self._things.of(frame, correction.box)
            return self._store_it(correction, thing, now_ns, scenario_of, frame)
        except BoxError as error:
            return Receipt(Code.INVALID_BOX, str(error), frame)
        except UnknownSizeError as error:
            return Receipt(Code.TOO_OLD, str(error), frame)
        except ImageError as error:
            return Receipt(Code.UNKNOWN_FRAME, f'the frame can not be read: {error}', frame)
        except (StoreError, sqlite3.Error) as error:
            return Receipt(Code.DISK_FULL, str(error))

    def _store_it(
        self,
        correction: Correction,
        frame: Frame,
        now_ns: int,
        scenario_of: Callable[[FrameKey], int],
        whole: Frame | None = None,
    ) -> Receipt:
        """
        Store what is said.

        :param frame: or a thing in one
        :param whole: of a thing, the frame that it is in
        """
        label, author = correction.label, correction.author
        if not (frame.image or correction.withdraw or self._buffer.get(frame.key)):
            text = 'the picture of this frame made room for others, so nothing can be learned'
            return Receipt(Code.TOO_OLD, text, frame)
        said = self._store.said(frame.key).get(author)
        if correction.withdraw and said is None:
            text = 'this author had said nothing of this frame'
            return Receipt(Code.NOTHING_TO_WITHDRAW, text, frame)
        if said == label:
            return Receipt(Code.DUPLICATE, 'this frame has this label already', frame)
        scenario = scenario_of(frame.key)
        stored = self._store.add(frame, label, author, now_ns, scenario, whole)
        return Receipt(Code.ACCEPTED, outcome(stored, label, frame), frame, stored)

    def _refusal(self, correction: Correction) -> tuple[Code, str] | None:
        """Return why a correction is not taken, whatever its frame; None when it is."""
        label, author, rules = correction.label, correction.author, self.rules
        if not label and not correction.withdraw:
            return Code.EMPTY_LABEL, 'the label is empty'
        if len(label) > rules.longest_label:
            return (
                Code.INVALID_LABEL,
                f'the label has {len(label)} characters, at most {rules.longest_label} are '
                f'allowed',
            )
        if not is_printable(label):
            return Code.INVALID_LABEL, 'the label holds control characters'
        if len(author) > LONGEST_AUTHOR or not is_printable(author):
            return (
                Code.INVALID_LABEL,
                f'the author is no printable name of at most {LONGEST_AUTHOR} characters',
            )
        if rules.authors and author not in rules.authors:
            return Code.NOT_ALLOWED, f"'{author[:100]}' may not label; see parameter authors"
        if not self._may_send(author):
            return (
                Code.TOO_MANY,
                f'more than {rules.author_rate_hz:g} corrections per second; see author_rate_hz',
            )
        return None

    def _may_send(self, author: str) -> bool:
        """
        Return whether an author keeps to the rate that is allowed (token bucket).

        What is refused takes no token: who sends a little too fast has a little refused, not all.
        """
        rate = self.rules.author_rate_hz
        if rate <= 0:
            return True
        now = self._clock()
        then, tokens = self._allowance.pop(author, (now, float(BURST)))
        tokens = min(float(BURST), tokens + rate * (now - then))
        granted = tokens >= 1.0
        self._allowance[author] = (now, tokens - 1.0 if granted else tokens)
        while len(self._allowance) > MOST_AUTHORS:
            self._allowance.popitem(last=False)
        return granted

    def _why_gone(self, key: FrameKey, now_ns: int) -> tuple[Code, str]:
        """Return why a frame is not there."""
        ahead_ns = key.stamp_ns - now_ns
        if now_ns > 0 and ahead_ns > AHEAD_NS:
            return (
                Code.FUTURE_STAMP,
                f'the stamp lies {ahead_ns / 1e9:.1f} s in the future: clocks apart, or a wrong '
                f'stamp',
            )
        if self._buffer.made_room(key):
            return (
                Code.TOO_OLD,
                f'the frame made room for newer ones: the memory for frames (keep_mb, '
                f'{self.rules.keep_mb:g} MB) does not last for {self.rules.keep_s:.0f} s',
            )
        if self._buffer.forgotten(key):
            return (
                Code.TOO_OLD,
                f'the frame is no longer kept; frames are kept for {self.rules.keep_s:.0f} s',
            )
        return (
            Code.UNKNOWN_FRAME,
            f'no frame of this stamp was kept for source {key.source[:100]!r}, frame_id '
            f'{key.frame_id[:100]!r}; copy them from its Prediction',
        )


def outcome(stored: Stored, label: str, frame: Frame) -> str:
    """Return what a receipt says of an accepted correction."""
    kind = 'confirmed' if label == frame.label else 'corrected'
    if not label:
        kind = 'withdrawn'
    if not stored.label and stored.said:
        said = ' or '.join(sorted(set(stored.said.values())))
        return f'{kind}; disputed: {said[:100]}; not learned until one is said more often'
    if label and stored.label != label:
        return f"{kind}; most say '{stored.label}', which counts"
    return kind
