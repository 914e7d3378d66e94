# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The tuner's worker process: trains where no node is disturbed, and can be cancelled, crash or be
killed at any moment.

The two ends talk over a socket pair in msgpack; nothing is pickled. When the parent goes away, the
process ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import contextlib
import ctypes
from dataclasses import asdict
from multiprocessing.connection import Connection
import os
from pathlib import Path
import queue
import socket
import subprocess
import sys
import threading
import time
import traceback
from typing import Any

import msgpack

from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.errors import EtunerError

Message = dict[str, Any]

HEAD_TICK_S = 0.1  # how often an idle worker looks whether its head may be proposed
ANSWER_TIMEOUT_S = 10.0  # after this a head without a verdict is taken to be lost


# What an allocation that fails says: torch on CPU and CUDA, cuBLAS and cuDNN, and the memory that
# a Jetson's GPU shares with its CPU (NvMap), which torch reports as an internal error.
_OUT_OF_MEMORY = (
    'out of memory',
    "can't allocate memory",
    'cannot allocate memory',
    'std::bad_alloc',
    'cublas_status_alloc_failed',
    'cudnn_status_alloc_failed',
    'cudaerrormemoryallocation',
    'nvmapmemalloc',
    'nvml_success == r internal assert failed',
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, in any of the forms that it takes."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)
    )


def give_back_memory() -> None:
    """
    Give freed memory back to the system.

    Rounds allocate and free blocks of many sizes; glibc keeps them, a sixth of the process after
    some 30 rounds.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


class WorkerClient:
    """
    Starts a worker process and talks to it.

    :param on_message: called in a thread with each message; {'op': 'died', ...} is the last one
    """

    def __init__(
        self,
        train: TrainConfig,
        sim_freeze: SimFreezeConfig,
        head: HeadConfig,
        on_message: Callable[[Message], None],
    ) -> None:
        ours, theirs = socket.socketpair()
        threads = str(train.threads)
        environment = {**os.environ, 'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads}
        with theirs:
            command = [sys.executable, '-m', 'etuner_ros.worker', str(theirs.fileno())]
            self.process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment
            )
        self._connection = Connection(ours.detach())
        self._on_message = on_message
        self._outbox: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self.send(
            {
                'op': 'configure',
                'train': asdict(train),
                'sim_freeze': asdict(sim_freeze),
                'head': asdict(head),
            }
        )
        # Writing has a thread of its own: a worker in the middle of a batch reads late, and no
        # node may wait for it.
        for name, target in (('worker-reader', self._read), ('worker-writer', self._write)):
            threading.Thread(target=target, name=name, daemon=True).start()

    def send(self, message: Message) -> None:
        """Queue a message for the worker; lost when it is dead, which a 'died' message tells."""
        self._outbox.put(message)

    def _write(self) -> None:
        try:
            while (message := self._outbox.get()) is not None:
                self._connection.send_bytes(msgpack.packb(message))
        except OSError:
            pass  # the reader notices, too, and tells

    def _read(self) -> None:
        try:
            while True:
                self._on_message(msgpack.unpackb(self._connection.recv_bytes()))
        except (EOFError, OSError):
            pass
        self._on_message({'op': 'died', 'code': self.process.wait()})

    def close(self) -> None:
        """End the process, now; nothing is heard of it any more."""
        self._on_message = lambda _message: None
        self._outbox.put(None)
        self.process.kill()
        self.process.wait()


class Worker:
    """The process's side: a reader thread fills a queue, the main thread works it off."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancelled = threading.Event()
        self._configs = (TrainConfig(), SimFreezeConfig(), HeadConfig())
        self._learner: Any = None
        self._deferred: deque[Message] = deque()  # came in a round and had to wait for its end
        self._head_sent: float | None = None  # when the head was proposed that has no verdict yet
        self._next_head = 0.0

    def run(self) -> None:
        """Work until the parent goes away."""
        threading.Thread(target=self._read, name='reader', daemon=True).start()
        while True:
            message = self._next()
            if message is not None:
                self._handle(message)
            self._propose_head()

    def _next(self) -> Message | None:
        """Return the next message, or None when it is time to look at the head again."""
        if self._deferred:
            return self._deferred.popleft()
        try:
            return self._inbox.get(timeout=HEAD_TICK_S if self._learner is not None else None)
        except queue.Empty:
            return None

    def _handle(self, message: Message) -> None:
        try:
            getattr(self, f'_on_{message["op"]}')(message)
        except EtunerError as error:
            self._reply(op='error', during=message['op'], text=str(error))
        except Exception as error:  # the next command may work; the parent is told
            traceback.print_exc()
            self._reply(op='error', during=message['op'], text=f'{type(error).__name__}: {error}')

    def _read(self) -> None:
        try:
            while True:
                message = msgpack.unpackb(self._connection.recv_bytes())
                if message['op'] == 'cancel':
                    self._cancelled.set()
                else:
                    self._inbox.put(message)
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone; nothing here is worth keeping

    def _reply(self, **message: Any) -> None:
        self._connection.send_bytes(msgpack.packb(message))

    def _on_configure(self, message: Message) -> None:
        self._configs = (
            TrainConfig(**message['train']),
            SimFreezeConfig(**message['sim_freeze']),
            HeadConfig(**message['head']),
        )
        os.nice(self._configs[0].niceness)

    def _on_open(self, message: Message) -> None:
        """Load base weights: those of a file, or those that the model settings name."""
        import torch

        from etuner_ros.core.images.codec import decode, resize_square
        from etuner_ros.core.learn.learner import Learner
        from etuner_ros.core.learn.sample import Sample
        from etuner_ros.core.models.base_weights import prepare
        from etuner_ros.core.models.networks import choose_device, forward_shares, from_base
        from etuner_ros.core.models.weights import read_base

        train, sim_freeze, head = self._configs
        torch.set_num_threads(train.threads)
        torch.manual_seed(train.seed)
        path = message['path'] or prepare(
            message['architecture'], message['input_size'], message['weights']
        )
        base = read_base(Path(path))
        model = from_base(base.state, base.spec).to(choose_device(train.device))
        self._learner = Learner(model, train, sim_freeze, head)
        size = base.spec.input_size
        self._learner.add_exemplars(
            [
                Sample.of(f'deployed/{i}', label, -1, resize_square(decode(code), size))
                for i, (label, code) in enumerate(base.exemplars)
            ]
        )
        self._reply(
            op='ready',
            base_sha256=base.sha256,
            architecture=base.spec.architecture,
            units=self._learner.live.unit_names,
            forward_shares=forward_shares(self._learner.live),
        )

    def _on_model(self, message: Message) -> None:
        from etuner_ros.core.models.weights import unpack

        self._learner.set_live(
            unpack(message['weights']), tuple(message['classes']), message['version']
        )
        self._head_sent = None
        self._reply(op='model_loaded', version=message['version'])

    def _on_correction(self, message: Message) -> None:
        """Learn a correction from the feature of its frame; its picture comes with a batch."""
        import torch

        feature = torch.frombuffer(bytearray(message['feature']), dtype=torch.float16).float()
        self._learner.correct(
            message['id'], message['label'], feature, message['version'], message['scenario']
        )

    def _on_withdraw(self, message: Message) -> None:
        self._learner.withdraw(message['ids'])

    def _on_head_refused(self, _message: Message) -> None:
        self._head_sent = None

    def _propose_head(self) -> None:
        """
        Send the instant head as a candidate when it has learned something.

        One at a time, not while a round's candidate waits for its verdict, and not more often than
        `head.interval_s`.
        """
        now = time.monotonic()
        learner = self._learner
        if learner is None or learner.waits_for_verdict or now < self._next_head:
            return
        if self._head_sent is not None and now - self._head_sent < ANSWER_TIMEOUT_S:
            return
        result = learner.propose_head()
        if result is None:
            return
        self._head_sent, self._next_head = now, now + self._configs[2].interval_s
        self._reply_candidate('head', 0, result)

    def _reply_candidate(self, op: str, number: int, result: Any) -> None:
        from etuner_ros.core.models.weights import pack

        facts = {k: v for k, v in vars(result).items() if k not in ('update', 'outcomes')}
        outcomes = [list(vars(o).values()) for o in result.outcomes]
        self._reply(op=op, id=number, weights=pack(result.update), outcomes=outcomes, **facts)

    def _on_samples(self, message: Message) -> None:
        from etuner_ros.core.images.codec import decode, resize_square
        from etuner_ros.core.learn.sample import Sample

        for label, new_label in message['renamed']:
            self._learner.rename(label, new_label)
        self._learner.withdraw(message['withdrawn'])
        samples = []
        for raw in message['samples']:
            try:
                image = resize_square(decode(raw['image']), self._learner.input_size)
            except EtunerError as error:
                self._reply(
                    op='error', during='samples', text=f'sample {raw["id"]} is left out: {error}'
                )
                continue
            samples.append(
                Sample.of(raw['id'], raw['label'], raw['scenario'], image, raw['predicted'])
            )
        self._learner.add_samples(samples, message['new'])

    def _on_unlabelled(self, message: Message) -> None:
        """Take a frame that nobody labelled, with its feature where that is known."""
        import torch

        from etuner_ros.core.images.codec import decode, resize_square
        from etuner_ros.core.learn.sample import Sample

        image = resize_square(decode(message['image']), self._learner.input_size)
        sample = Sample.of(message['id'], '', message['scenario'], image)
        features = {}
        if message['feature']:
            row = torch.frombuffer(bytearray(message['feature']), dtype=torch.float16)
            features[sample.sample_id] = row.float()
        self._learner.add_unlabelled([sample], features, message['version'])

    def _on_layers(self, message: Message) -> None:
        self._learner.sim_freeze.set_layers(message['frozen'], message['pinned'])

    def _on_round(self, message: Message) -> None:
        self._cancelled.clear()
        self._learner.set_scenario(message['scenario'])
        if not self._learner.pending:
            self._reply(op='nothing', id=message['id'])
            return
        try:
            while not self._run_round(message['id']):
                pass
        except (
            Exception
        ) as error:  # the round failed, its samples still wait; the process lives on
            traceback.print_exc()
            self._reply(op='failed', id=message['id'], text=f'{type(error).__name__}: {error}')
        give_back_memory()

    def _run_round(self, number: int) -> bool:
        """Run a round; return False when memory ran out and it should be tried in halves."""
        from etuner_ros.core.learn.round import RoundCancelled
        from etuner_ros.core.learn.trainer import Step

        try:
            for item in self._learner.run_round(self._cancelled.is_set):
                if not isinstance(item, Step):
                    self._reply_candidate('candidate', number, item)
                    continue
                self._reply(
                    op='progress',
                    id=number,
                    iteration=item.iteration,
                    total=item.total,
                    loss=item.loss,
                )
                self._between_steps(item.iteration == item.total)
        except RoundCancelled:
            self._reply(op='cancelled', id=number)
        except Exception as error:
            if not (is_out_of_memory(error) and self._learner.halve_batches()):
                raise
            self._reply(op='shrunk', batch_size=self._learner.batch_size, text=str(error)[:300])
            return False
        return True

    def _between_steps(self, last: bool) -> None:
        """
        Learn corrections while a round runs, so that nobody waits for its end to be understood.

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
            if op in ('correction', 'head_refused') or (
                op == 'model' and self._is_head_only(message)
            ):
                self._handle(message)
            else:
                self._deferred.append(message)
                if op == 'model':  # the candidate would be stale
                    self._cancelled.set()
                    break
        if not last:
            self._propose_head()

    def _is_head_only(self, message: Message) -> bool:
        from etuner_ros.core.models.weights import unpack

        return bool(self._learner.is_head_only(unpack(message['weights'])))


def main() -> None:
    """Run the worker on the socket whose descriptor is the first argument."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        Worker(Connection(int(sys.argv[1]))).run()


if __name__ == '__main__':
    main()
