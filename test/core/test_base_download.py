# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Base weights that another node has: asked for until they are here."""

from __future__ import annotations

import pytest

from etuner_ros.core.models.base_download import (
    ANSWER_S,
    BaseDownload,
    FIRST_PAUSE_S,
    LARGEST,
    LEAST_PIECE,
    LONGEST_PAUSE_S,
    PIECE,
)
from etuner_ros.core.models.weights import sha256

WHOLE = b'weights' * 10


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_pieces_make_a_whole():
    download = BaseDownload(sha256(WHOLE), Clock())
    assert download.ask() == 0
    assert download.waits
    assert download.ask() is None, 'one question at a time'
    assert download.take(WHOLE[:30], len(WHOLE)) is None
    assert download.ask() == 30
    assert download.take(WHOLE[30:], len(WHOLE)) == WHOLE


def test_a_lost_answer_is_asked_for_again_where_it_was():
    clock = Clock()
    download = BaseDownload(sha256(WHOLE), clock)
    download.ask()
    download.take(WHOLE[:30], len(WHOLE))
    download.ask()
    clock.now += ANSWER_S
    assert not download.waits
    download.fail()
    assert download.ask() is None, 'there is a pause first'
    clock.now += FIRST_PAUSE_S
    assert download.ask() == 30


def test_pauses_grow_but_it_never_gives_up():
    clock = Clock()
    download = BaseDownload(sha256(WHOLE), clock)
    pauses = []
    for _ in range(12):
        assert download.ask() == 0
        download.fail()
        before = clock.now
        while download.ask() is None:
            clock.now += 0.5
        pauses.append(clock.now - before)
        clock.now += ANSWER_S  # no answer
        assert not download.waits
    assert pauses[0] == FIRST_PAUSE_S
    assert pauses[-1] == LONGEST_PAUSE_S
    assert download.ask() == 0
    assert download.take(WHOLE, len(WHOLE)) == WHOLE


@pytest.mark.parametrize('mbit_s', [0.1, 0.5, 2.0, 3.0, 100.0])
def test_over_a_slow_link_they_come_too_and_it_carries_little_else(mbit_s):
    clock, whole = Clock(), bytes(12_000_000)
    download = BaseDownload(sha256(whole), clock)
    rate, free, sent, had = mbit_s * 1e6 / 8, clock.now, 0, None
    while had is None:
        while (offset := download.ask()) is None:
            clock.now += 0.5
        piece = whole[offset : offset + download.length]
        free = max(free, clock.now) + len(piece) / rate  # also what nobody waits for any more
        sent += len(piece)
        assert sent < 2 * len(whole), 'most of what is sent is of use'
        if free - clock.now < ANSWER_S:
            clock.now = free
            had = download.take(piece, len(whole))
        else:
            clock.now += ANSWER_S
            download.fail()
        assert LEAST_PIECE <= download.length <= PIECE
    assert had == whole


def test_after_a_refusal_as_much_is_asked_for_as_before():
    clock = Clock()
    download = BaseDownload(sha256(WHOLE), clock)
    for _ in range(3):
        clock.now += LONGEST_PAUSE_S
        assert download.ask() == 0
        clock.now += 0.1
        download.fail()
    assert download.length == PIECE


@pytest.mark.parametrize(
    ('data', 'size'),
    [(b'other' * 14, 70), (b'', len(WHOLE)), (WHOLE, LARGEST + 1), (WHOLE + b'x', len(WHOLE))],
)
def test_what_can_not_be_them_is_refused_and_begun_anew(data, size):
    clock = Clock()
    download = BaseDownload(sha256(WHOLE), clock)
    download.ask()
    with pytest.raises(ValueError, match='checksum'):
        download.take(data, size)
    download.fail()
    clock.now += LONGEST_PAUSE_S
    assert download.ask() == 0
