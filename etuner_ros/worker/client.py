# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The node's end of the worker: its process, and the pipe to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
import os
import queue
import socket
import subprocess
import threading
from typing import Any

import msgpack

from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.python_child import python_child
from etuner_ros.core.serve.engines import EngineSettings

Message = dict[str, Any]


class WorkerClient:
    """
    Starts a worker process and talks to it.

    :param on_message: called in a thread with each message; {'op': 'died', ...} is the last one
    :param engine: that serves; None for torch
    """

    def __init__(
        self,
        train: TrainConfig,
        sim_freeze: SimFreezeConfig,
        head: HeadConfig,
        on_message: Callable[[Message], None],
        engine: EngineSettings | None = None,
    ) -> None:
        ours, theirs = socket.socketpair()
        threads = str(train.threads)
        environment = {**os.environ, 'OMP_NUM_THREADS': threads, 'MKL_NUM_THREADS': threads}
        with theirs:
            command = python_child('etuner_ros.worker', str(theirs.fileno()))
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
                'engine': asdict(engine or EngineSettings(engine='torch')),
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
