# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the worker is sent of the labels that collectors hold, and in which order: first what the live
weights have learned, for replay, then what they have not, then what comes.

What no round has learned is new to each worker that is started. Where that is more than a worker
lets wait, which is so where rounds do not pay, the older part is only replayed: as the worker
would do itself, but without having been sent all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
import math
import time

ANSWER_TIMEOUT_S = 10.0  # after this an answer is taken to be lost
SLOW_ANSWER_TIMEOUT_S = 120.0  # the same where answers wait for their turn on a slow link
PATIENCE_S = 10.0  # as long a collector that does not answer keeps rounds from starting
LONGEST_DELAY_S = 60.0
MOST_COLLECTORS = 16
MOST_FAILURES = 6  # of a collector that has never answered, before it is forgotten
# So often a collector that answers may refuse the replay, or not have it; then the feed goes on
# without what is only replayed.
REPLAY_TRIES = 3
PIECE = 2  # batches in one answer
WAITING_SHARE = 0.5  # of the replay's room, for samples that wait, as in the worker's book


@dataclass(frozen=True)
class Ask:
    """Something to ask a collector for."""

    collector: str
    ticket: int
    replay: bool
    up_to: int = 0  # replay: of batches up to this one
    since: int = 0  # replay: the worker has all batches up to this one
    count: int = 0  # replay: wanted in all
    skip: int = 0  # replay: received already
    first: int = 0  # batches: first one wanted
    limit: int = PIECE


@dataclass
class _Collector:
    cursor: int  # last batch that the worker has
    replay: bool  # the replay is not complete yet
    since: float  # it is behind, or has answered last
    behind: bool = True
    whole: bool = False  # what the live weights have learned of it is there
    # That the live weights say they have learned of it, where its store is another one.
    stale: int = 0
    up_to: int = 0  # last batch that is replayed
    counted: bool = False  # whether more waits than the worker has room for was looked at
    skip: int = 0
    failures: int = 0
    missed: bool = False  # the last ask for the replay had no answer
    refused: int = 0  # asks for the replay in vain, of a collector that answers
    answered: bool = False
    next_at: float = -math.inf
    ask: Ask | None = None
    asked_at: float = 0.0


class BatchFeed:
    """
    Keeps a cursor for each collector and says what to ask for next.

    :param clock: monotonic time in s
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._collectors: dict[str, _Collector] = {}
        self._learned: dict[str, int] = {}
        self._tried: dict[str, int] = {}
        self._replay_count = 0
        self._tickets = 0
        self._open = False  # a worker is there
        self.answer_timeout_s = ANSWER_TIMEOUT_S

    @property
    def collectors(self) -> list[str]:
        """Those that are asked."""
        return list(self._collectors)

    @property
    def cursors(self) -> dict[str, int]:
        """Last batch that the worker has, by collector; without those of which it has none."""
        return {name: c.cursor for name, c in self._collectors.items() if c.cursor}

    @property
    def behind(self) -> list[str]:
        """Collectors whose labels are still on their way; one that does not answer is let go."""
        late = self._clock() - PATIENCE_S
        return [n for n, c in self._collectors.items() if c.behind and c.since > late]

    @property
    def complete(self) -> bool:
        """Whether the worker has all labels that the live weights have learned, and later ones."""
        here = self._collectors
        return all(name in here and here[name].whole for name in self._learned) and not any(
            c.behind for c in here.values()
        )

    def learned(self, told: Mapping[str, int]) -> dict[str, int]:
        """
        Return what of the labels that are there the live weights have learned.

        :param told: by collector, the last batch that they have learned, as their version says:
            where the store was begun anew since, or is an older one, that is of other labels
        """
        here = self._collectors
        return {
            name: last
            for name, last in told.items()
            if name not in here or last != here[name].stale
        }

    def was_tried(self, name: str, batch_id: int) -> bool:
        """Return whether an earlier worker has learned a batch in a round that was refused."""
        return batch_id <= self._tried.get(name, 0)

    def restart(
        self,
        learned: Mapping[str, int],
        replay_count: int,
        tried: Mapping[str, int] | None = None,
    ) -> None:
        """
        A worker that knows nothing is ready.

        :param learned: by collector, the last batch that the live weights have learned
        :param replay_count: samples that its replay memory has room for
        :param tried: by collector, the last batch of a round that was refused
        """
        self._tried = dict(tried or {})
        known = [*self._collectors, *(n for n in learned if n not in self._collectors)]
        self._learned, self._replay_count = dict(learned), replay_count
        answered = {n for n, c in self._collectors.items() if c.answered}
        self._collectors, self._open = {}, True
        for name in known[:MOST_COLLECTORS]:
            self._add(name).answered = name in answered

    def stop(self) -> None:
        """No worker is there."""
        self._open = False

    def _add(self, name: str) -> _Collector:
        cursor, now = self._learned.get(name, 0), self._clock()
        made = _Collector(cursor, cursor > 0 and self._replay_count > 0, now)
        made.whole, made.up_to = cursor == 0, cursor
        self._collectors[name] = made
        return made

    def on_batch(self, name: str, batch_id: int, has_credit: bool) -> bool:
        """
        A batch was published.

        :return: whether the worker gets it now; otherwise it is asked for later
        """
        if batch_id < self._tried.get(name, 0):  # of another store
            del self._tried[name]
        collector = self._collectors.get(name)
        if collector is None:
            if len(self._collectors) >= MOST_COLLECTORS and not self._make_room():
                return False
            collector = self._add(name)
        in_turn = batch_id == collector.cursor + 1
        ask_first = collector.replay or collector.ask is not None or not has_credit
        if self._open and in_turn and not ask_first:
            collector.cursor, collector.behind = batch_id, False
            return True
        # A lower number is not history: a store that was begun anew counts from 1.
        if batch_id != collector.cursor and not collector.behind:
            collector.behind, collector.since = True, self._clock()
        return False

    def _make_room(self) -> bool:
        """Forget the collector that has failed most; return False when all answer."""
        name = max(self._collectors, key=lambda n: self._collectors[n].failures)
        if not self._collectors[name].failures:
            return False
        self.forget(name)
        return True

    def forget(self, name: str) -> None:
        """Ask a collector no more, until it publishes a batch."""
        self._collectors.pop(name, None)

    def asks(self, has_credit: bool) -> list[Ask]:
        """Return what to ask for now; each must be answered by `on_...`, or its time runs out."""
        now, asks = self._clock(), []
        for name, collector in list(self._collectors.items()):
            if collector.ask is not None and now - collector.asked_at > self.answer_timeout_s:
                self.on_missing(collector.ask)
            idle = name in self._collectors and collector.ask is None
            due = collector.behind and now >= collector.next_at
            if self._open and idle and due:
                if has_credit:
                    asks.append(self._ask(name, collector))
                else:  # it is the worker that is late
                    collector.since = now
        return asks

    def _ask(self, name: str, collector: _Collector) -> Ask:
        self._tickets += 1
        if collector.replay and not collector.missed:
            # The first one makes up for what the live weights have learned: then it has nothing.
            since = collector.cursor if collector.cursor < collector.up_to else 0
            count, skip = self._replay_count, collector.skip
            ask = Ask(name, self._tickets, True, collector.up_to, since, count, skip)
        else:  # where a replay had no answer: is the collector there, and only that is not?
            limit = 1 if collector.replay else PIECE
            ask = Ask(name, self._tickets, False, first=collector.cursor + 1, limit=limit)
        collector.missed = False
        collector.ask, collector.asked_at = ask, self._clock()
        return ask

    def _answered(self, ask: Ask) -> _Collector | None:
        """Return the collector whose ask this is, unless it was given up."""
        collector = self._collectors.get(ask.collector)
        if collector is None or collector.ask != ask:
            return None
        collector.ask = None
        return collector

    def on_failure(self, ask: Ask) -> None:
        """The answer is an error: ask again later, but not for ever for a replay."""
        collector = self._answered(ask)
        if collector is None:
            return
        self._wait(ask.collector, collector)
        if ask.replay:
            self._refuse(collector)

    def on_missing(self, ask: Ask) -> None:
        """
        Nobody is there to answer, or not yet, or the answer is lost: ask again later.

        A replay is given up for that only where batches are answered meanwhile, as by a collector
        of a release that has no replay; one that starts late has all its time.
        """
        collector = self._answered(ask)
        if collector is None:
            return
        collector.missed = ask.replay
        self._wait(ask.collector, collector)

    @staticmethod
    def _refuse(collector: _Collector) -> None:
        collector.refused += 1
        collector.replay = collector.refused < REPLAY_TRIES
        if not collector.replay and collector.skip:  # a part of it came, as it was up to there
            collector.cursor = max(collector.cursor, collector.up_to)

    def _wait(self, name: str, collector: _Collector) -> None:
        """Ask a collector less and less often, and one that has never answered no more."""
        # Where batches are answered in between, `failures` begins anew each time.
        collector.failures = max(collector.failures, collector.refused) + 1
        delay = min(2.0 ** (collector.failures - 1), LONGEST_DELAY_S)
        collector.next_at = self._clock() + delay
        if not collector.answered and collector.failures >= MOST_FAILURES:
            self.forget(name)

    def on_replay(self, ask: Ask, samples: int, total: int, last: int | None = None) -> bool:
        """
        Take an answer with samples that the live weights have learned.

        :param last: newest batch that the collector has
        :return: whether they are for the worker; not when they came too late, or are others than
            those that were learned
        """
        collector = self._good(ask)
        if collector is None:
            return False
        if last is not None and last < collector.up_to:
            self._begin_anew(ask.collector, collector, last)
            return False
        collector.refused = 0
        collector.skip += samples
        collector.replay = samples > 0 and collector.skip < total
        collector.whole = not collector.replay
        if collector.whole:
            collector.cursor = max(collector.cursor, collector.up_to)
        return True

    def on_batches(self, ask: Ask, batch_ids: list[int], last: int, samples: int = 0) -> list[int]:
        """
        Take an answer with batches.

        :param last: newest batch that the collector has
        :param samples: in these batches
        :return: those that are for the worker
        """
        collector = self._good(ask)
        if collector is None:
            return []
        if collector.replay:  # it was only asked whether it is there
            self._refuse(collector)
            if collector.replay:
                return []
        if last < self._tried.get(ask.collector, 0):  # of another store
            del self._tried[ask.collector]
        if last < collector.cursor:
            self._begin_anew(ask.collector, collector, last)
            return []
        if not collector.counted and samples:
            collector.counted = True
            room = WAITING_SHARE * self._replay_count * len(batch_ids) / samples
            oldest = last - max(int(room), 1)
            if oldest > collector.cursor and room > 0:
                collector.replay, collector.up_to, collector.skip = True, oldest, 0
                collector.whole = False
                return []
        taken = []
        for batch_id in batch_ids:
            if batch_id > collector.cursor:
                collector.cursor = batch_id
                taken.append(batch_id)
        if not batch_ids:  # what is missing is gone for good
            collector.cursor = max(collector.cursor, last)
        collector.behind = collector.cursor < last
        return taken

    def _begin_anew(self, name: str, collector: _Collector, last: int) -> None:
        """Take all that a store has which is another one than that the cursor is of."""
        collector.stale, collector.whole = self._learned.get(name, 0), False
        collector.cursor, collector.replay, collector.counted = 0, False, False
        collector.behind = last > 0

    def _good(self, ask: Ask) -> _Collector | None:
        collector = self._answered(ask)
        if collector is not None:
            collector.answered, collector.failures = True, 0
            collector.since = self._clock()
        return collector
