# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The process's end: a reader thread fills a queue, the main thread works it off."""

from __future__ import annotations

from collections import deque
import contextlib
from multiprocessing.connection import Connection
import os
import queue
import sys
import threading
import time
import traceback
from typing import Any

import msgpack

from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.errors import EtunerError
from etuner_ros.worker.commands import Commands, Message
from etuner_ros.worker.memory import give_back_memory, is_out_of_memory, kill_me_first

HEAD_TICK_S = 0.1  # how often an idle worker looks whether its head may be proposed
AGAIN_S = 5.0  # after which a head is offered again that nobody could judge; doubles each time
LONGEST_AGAIN_S = 60.0
CALIBRATION_TICK_S = 1.0  # how often it is looked whether what is live could be quantised
CALIBRATION_S = 60.0  # least time between two tries to quantise
ALIVE_S = 0.3  # least time between two messages that say nothing but that it goes on
ANSWER_TIMEOUT_S = 10.0  # after this a head without a verdict is taken to be lost


class Worker:
    """
    Works off messages; rounds let corrections, and what is taken back, through between two
    training batches.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._deferred: deque[Message] = deque()  # came in a round and had to wait for its end
        self._cancelled = 0  # number of the newest round that is not wanted
        self._stale = False  # the running round started from weights that are live no more
        self._head_sent: float | None = None  # when the head was proposed that has no verdict yet
        self._next_head = 0.0
        self._heard = True  # a message since it was found that there is no head to propose
        self._again_s = AGAIN_S
        self._next_calibration = 0.0  # when it may be said again that it could be quantised
        self._next_alive = 0.0
        self.commands = Commands(self._reply, self._say_alive)

    def run(self) -> None:
        """Work until the parent goes away."""
        threading.Thread(target=self._read, name='reader', daemon=True).start()
        while True:
            message = self._next()
            if message is not None:
                self.handle(message)
            self._propose_head()
            if message is None or self._inbox.empty():
                self._tell_prospects()
            self._ask_for_calibration()

    def _next(self) -> Message | None:
        """Return the next message, or None when it is time to look at the head again."""
        if self._deferred:
            return self._deferred.popleft()
        try:
            return self._inbox.get(timeout=HEAD_TICK_S if self.commands.ready else None)
        except queue.Empty:
            return None

    def _read(self) -> None:
        try:
            while True:
                self.receive(msgpack.unpackb(self._connection.recv_bytes()))
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone; nothing here is worth keeping

    def receive(self, message: Message) -> None:
        """
        Queue a message.

        A cancel names its round, so it counts whether it comes before the round, in it or after.
        """
        if message['op'] == 'cancel':
            self._cancelled = max(self._cancelled, message['id'])
        else:
            self._inbox.put(message)

    def _reply(self, **message: Any) -> None:
        self._connection.send_bytes(msgpack.packb(message))

    def _say_alive(self) -> None:
        """Give a sign of life: the node kills a worker that gives none for too long."""
        now = time.monotonic()
        if now >= self._next_alive:
            self._next_alive = now + ALIVE_S
            self._reply(op='alive')

    def handle(self, message: Message) -> None:
        """Work off a message; what goes wrong is told."""
        op = message['op']
        try:
            if op == 'round':
                self._round(message)
            else:
                self.commands.do(message)
            if op in ('model', 'head_refused'):
                self._head_sent = None
            if op == 'head_refused' and message.get('again'):
                self._next_head = time.monotonic() + self._again_s
                self._again_s = min(2 * self._again_s, LONGEST_AGAIN_S)
            elif op == 'model' and self._again_s > AGAIN_S:  # it can be judged again
                self._next_head, self._again_s = 0.0, AGAIN_S
        except EtunerError as error:
            self._reply(op='error', during=op, text=str(error))
        except Exception as error:  # the next message may work; the parent is told
            traceback.print_exc()
            self._reply(op='error', during=op, text=f'{type(error).__name__}: {error}')
        self._heard = True
        if 'serial' in message:
            self._reply(op='taken', serial=message['serial'])

    def _propose_head(self) -> None:
        """
        Propose the instant head when it has learned something.

        One at a time, not while a round's candidate waits for its verdict, not before all labels
        have come after a restart, and not more often than `head.interval_s`.
        """
        now = time.monotonic()
        if not (self._heard and self.commands.knows_labels) or now < self._next_head:
            return
        waits = self._head_sent is not None and now - self._head_sent < ANSWER_TIMEOUT_S
        if waits or self.commands.learner.waits_for_verdict:
            return
        try:
            proposed = self.commands.propose_head()
        except Exception as error:  # labels that come may mend it
            traceback.print_exc()
            self._reply(op='error', during='head', text=f'{type(error).__name__}: {error}')
            self._next_head = now + max(self.commands.head_interval_s, 1.0)
            return
        if proposed:
            self._head_sent, self._next_head = now, now + self.commands.head_interval_s
        else:  # to find that takes a while with many classes, and nothing changes by itself
            self._heard = False

    def _tell_prospects(self) -> None:
        """Tell what rounds bring, when that is new; what goes wrong is told, too."""
        try:
            self.commands.tell_prospects()
        except Exception as error:  # labels that come may mend it
            traceback.print_exc()
            self._reply(op='error', during='prospects', text=f'{type(error).__name__}: {error}')

    def _ask_for_calibration(self) -> None:
        """
        Tell that what is live could be quantised, now and then as long as that is so.

        Not while a head waits for its verdict: the candidate would be of an older version.
        """
        now = time.monotonic()
        if now < self._next_calibration or self._head_sent is not None:
            return
        self._next_calibration = now + CALIBRATION_TICK_S
        if self.commands.knows_labels and self.commands.learner.wants_calibration:
            self._next_calibration = now + CALIBRATION_S
            self._reply(op='could_quantise')

    def _round(self, message: Message) -> None:
        number, learner = message['id'], self.commands.learner
        self._stale = False
        learner.set_scenarios(dict(message['scenarios']))
        if number <= self._cancelled:
            self._reply(op='cancelled', id=number)
            return
        kind = RoundKind(message['kind'])
        if kind is not RoundKind.TRAIN:
            self._between_steps(last=True)  # no head may be on its way
        idle = kind is RoundKind.TRAIN and not learner.pending
        if idle or (kind is RoundKind.CALIBRATE and not learner.wants_calibration):
            self._reply(op='nothing', id=number)
            return
        try:
            while not self._try_round(number, kind, bool(message.get('deflate'))):
                pass
        except Exception as error:  # its samples still wait; the process lives on
            traceback.print_exc()
            if learner.waits_for_verdict:  # it is made, and could not be sent
                learner.go_back(learn_again=True)
            self._reply(op='failed', id=number, text=f'{type(error).__name__}: {error}')
        self.commands.on_news()
        give_back_memory()

    def _try_round(self, number: int, kind: RoundKind, deflate: bool) -> bool:
        """Run a round; return False when memory ran out and it should be tried in halves."""
        from etuner_ros.core.learn.round import NothingMade, RoundCancelled
        from etuner_ros.core.learn.trainer import Step

        learner = self.commands.learner

        def cancelled() -> bool:
            return self._stale or number <= self._cancelled

        try:
            for made in learner.run_round(cancelled, kind):
                if isinstance(made, Step):
                    step = {'iteration': made.iteration, 'total': made.total, 'loss': made.loss}
                    self._reply(op='progress', id=number, **step)
                    self._between_steps(made.iteration == made.total)
                elif cancelled():
                    learner.go_back(learn_again=True)
                    self._reply(op='cancelled', id=number)
                else:
                    self.commands.propose_round(number, made, deflate)
        except RoundCancelled:
            self._reply(op='cancelled', id=number)
        except NothingMade:
            self._reply(op='nothing', id=number)
            self.commands.tell_why_not()
        except Exception as error:
            if not (is_out_of_memory(error) and learner.halve_batches()):
                raise
            self._reply(op='shrunk', batch_size=learner.batch_size, text=str(error)[:300])
            return False
        return True

    def _between_steps(self, last: bool) -> None:
        """
        Learn corrections and forget what is taken back while a round runs, so that nobody waits
        for its end to be understood.

        The candidate is compared with what is live when the round ends: after the last step no
        head may be on its way.
        """
        while True:
            waiting = last and self._head_sent is not None
            try:
                message = self._inbox.get(timeout=ANSWER_TIMEOUT_S if waiting else 0.0)
            except queue.Empty:
                break
            op = message['op']
            at_once = op in ('correction', 'withdraw', 'head_refused')
            if at_once or (op == 'model' and self.commands.is_head_only(message)):
                self.handle(message)
                if op == 'withdraw':
                    self._leave_out(message['ids'])
            else:
                self._deferred.append(message)
                if op == 'model':  # the candidate would be stale
                    self._stale = True
                    break
        if not last:
            self._propose_head()

    def _leave_out(self, sample_ids: list[str]) -> None:
        """Take out of what waits for the round's end what was taken back after it came."""
        gone = set(sample_ids)
        for message in self._deferred:
            if message['op'] == 'samples':
                message['samples'] = [s for s in message['samples'] if s['id'] not in gone]


def main() -> None:
    """Run the worker on the socket whose descriptor is the first argument."""
    kill_me_first()
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        Worker(Connection(int(sys.argv[1]))).run()
