# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The tuner's worker process: started, watched, given weights and layers, and listened to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
import queue
import signal
from typing import Any

from rclpy.node import Node

from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.models.weights import backbone_digest, backbone_of, pack, unpack
from etuner_ros.core.serve.engines import EngineSettings
from etuner_ros.core.tune.round_keeper import RoundKeeper, State
from etuner_ros.msg import Backbone, LayerStates, ModelUpdate
from etuner_ros.nodes import tuning_messages as messages
from etuner_ros.nodes.base_fetcher import BaseFetcher, PieceFetcher
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import short, to_bytes
from etuner_ros.nodes.parameters import ModelSettings
from etuner_ros.nodes.tuning_labels import LabelSide
from etuner_ros.worker.client import WorkerClient
from etuner_ros.worker.link import WorkerLink
from etuner_ros.worker.memory import resident_mb

BYTES_PER_PIXEL = 0.5  # of a picture in the replay memory
LEAST_BATCH = 2  # training samples, to which batches are made smaller
IN_ROUND = (State.TUNING, State.PROPOSED, State.ACCEPTED)
GROSS = 1.3  # times its limit may a worker take while a round runs


class WorkerSide:
    """
    Keeps the worker with what is live.

    :param warn: tells of a problem
    :param loaded: called when the worker has taken over a version
    :param changed: called when the state that the tuner tells has changed
    :param others: takes what the worker says of rounds and heads
    """

    def __init__(
        self,
        node: Node,
        health: Health,
        link: WorkerLink,
        keeper: RoundKeeper,
        labels: LabelSide,
        configs: tuple[ModelSettings, TrainConfig, SimFreezeConfig, HeadConfig, EngineSettings],
        warn: Callable[[str], None],
        loaded: Callable[[], object],
        changed: Callable[[], None],
        others: Callable[[dict[str, Any]], None],
    ) -> None:
        self.health, self.get_logger = health, node.get_logger
        self._link, self._keeper, self._labels = link, keeper, labels
        self._model, self._train, self._sim_freeze, self._head, self._engine = configs
        self._warn, self._loaded = warn, loaded
        self._changed, self._others = changed, others
        self.update: ModelUpdate | None = None  # the version that is live
        self.backbone: Backbone | None = None  # the newest
        self._made = Backbone()  # of the newest candidate of a round: it need not travel back
        self._told = ''  # digest of the backbone that the worker was told last
        self._no_base = False  # the base weights of the settings could not be opened here
        self.layers: LayerStates | None = None
        self.ready: dict[str, Any] = {}  # what the worker said when it had loaded base weights
        self.memory_mb = 0.0  # over which it is started anew; 0 = no limit
        self._fitted = False  # this worker took less, once it was ready: it has grown
        self._least_mb = 0.0  # limit that the least batches were tried with
        self._fetcher = BaseFetcher(node, self._on_fetched)
        self._pieces = PieceFetcher(
            node, 'model_manager/get_model', 'backbone', self._on_backbone_fetched
        )
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._arrived = node.create_guard_condition(self._on_worker)

    @property
    def train(self) -> TrainConfig:
        """How rounds train; batches become smaller when memory runs out."""
        return self._train

    def start(self) -> WorkerClient:
        """Start a process."""

        def receive(message: dict[str, Any]) -> None:
            self._inbox.put({**message, 'from': client})
            self._arrived.trigger()

        self.ready = {}
        client = WorkerClient(self._train, self._sim_freeze, self._head, receive, self._engine)
        return client

    def opening(self, base_path: str) -> dict[str, Any]:
        """Return the message that opens base weights of a file; '' = those of the settings."""
        model = self._model
        return {
            'op': 'open',
            'path': base_path,
            'architecture': model.architecture,
            'input_size': model.input_size,
            'weights': model.weights,
        }

    def _restart_worker(self, base_path: str = '') -> None:
        self._labels.feed.stop()
        self._keeper.on_starting()
        self._link.start(base_path)

    def _worker_lost(self, text: str, least_delay_s: float = 0.0) -> None:
        self._warn(f'{text}; it is started again')
        self.ready = {}
        self._labels.feed.stop()
        self._keeper.on_down(text)
        self._link.died(least_delay_s)
        self._changed()

    @guarded
    def _on_worker(self) -> None:
        while not self._inbox.empty():
            message = self._inbox.get()
            if message['from'] is self._link.client:  # an earlier one may have said something
                self._link.heard(message)
                ours = getattr(self, f'_worker_{message["op"]}', None)
                (ours or self._others)(message)

    def _worker_taken(self, _message: dict[str, Any]) -> None:
        self._labels.ask()

    def _worker_alive(self, _message: dict[str, Any]) -> None:
        """The link has noted it."""

    def _worker_ready(self, message: dict[str, Any]) -> None:
        self.ready, self._no_base = message, False
        self._told = backbone_digest(message['base_sha256'], {})
        count = len(message['units'])
        self.get_logger().info(f'worker ready: {message["architecture"]}, {count} blocks')
        self.hand_over_model()

    def hand_over_model(self) -> None:
        """Give the worker the live weights once both are there; fetch their base if need be."""
        if self.update is None:
            self._keeper.on_starting('no weights yet: is model_manager active?')
        elif self._lacks(self.update.base_sha256):
            self._fetcher.fetch(self.update.base_sha256)
        elif self.ready:
            self._fetcher.stop()
            self._hand_over(self.update)

    def _lacks(self, base_sha256: str) -> bool:
        """Whether the worker has other base weights, or could open none of its own."""
        if self.ready:
            return bool(self.ready['base_sha256'] != base_sha256)
        return self._no_base and not self._link.base  # else fetched ones were tried

    def _hand_over(self, update: ModelUpdate) -> None:
        """Give the worker a version, with its backbone when that is another one than before."""
        name, backbone = messages.backbone_name(update), b''
        if self.awaited:  # it comes on a topic of its own
            if not self._keeper.ready:
                self._keeper.on_starting(self.why_not())
            return
        if self.backbone is not None and self.backbone.backbone_sha256 == name != self._told:
            backbone = bytes(self.backbone.weights)
        self._told = name
        self._link.send(messages.model_message(update, backbone))
        self.hand_over_layers()
        self.hand_over_scenarios()

    def note_candidate(self, backbone_sha256: str, weights: bytes) -> None:
        """Remember the backbone of a candidate, as it may go live."""
        tensors = pack(backbone_of(unpack(weights)))
        self._made = Backbone(backbone_sha256=backbone_sha256, weights=to_bytes(tensors))

    def take_backbone(self, message: Backbone) -> None:
        """Take the newest backbone, or ask for it; hand it over when it is waited for."""
        digest = message.backbone_sha256
        bare = backbone_digest(message.base_sha256, {})
        if not message.weights and digest != bare:
            if digest == self._made.backbone_sha256:
                message = self._made
            else:
                here = self.backbone is not None and self.backbone.backbone_sha256 == digest
                self._pieces.fetch('' if here else digest)
                return
        self._pieces.stop()
        awaited, self.backbone = self.awaited, message
        if awaited == digest:
            self.hand_over_model()

    def _on_backbone_fetched(self, digest: str, data: bytes) -> None:
        self.take_backbone(Backbone(backbone_sha256=digest, weights=to_bytes(data)))

    @property
    def awaited(self) -> str:
        """Digest of the backbone that the live version waits for; '' for none."""
        update = self.update
        if update is None or update.base_sha256 != self.ready.get('base_sha256'):
            return ''
        name = messages.backbone_name(update)
        here = self.backbone.backbone_sha256 if self.backbone is not None else ''
        bare = backbone_digest(update.base_sha256, {})
        return '' if name in (self._told, bare, here) else name

    def why_not(self) -> str:
        """Return why the worker has not got the live weights; nothing when it has."""
        if self.update is None or not self.awaited:
            return ''
        return (
            f'version {self.update.version} is for backbone {self.awaited[:12]}, which '
            f'model_manager has not sent yet: does topic `backbone` come through?'
        )

    def hand_over_scenarios(self) -> None:
        """Tell the worker where cameras are: its prior and what it keeps follow that."""
        self._link.send({'op': 'scenarios', 'scenarios': self._keeper.scenarios.current})

    def hand_over_layers(self) -> None:
        """Tell the worker which layers are frozen and pinned."""
        if self.layers is not None and self.ready:
            self._link.send(messages.layers_message(self.layers))

    @guarded
    def _on_fetched(self, path: Path | None) -> None:
        if path is not None:
            self._restart_worker(str(path))

    def _worker_model_loaded(self, message: dict[str, Any]) -> None:
        if self._keeper.on_loaded(message['version']):
            picture = BYTES_PER_PIXEL * self.ready['input_size'] ** 2
            room = int(self._train.replay_mb * 1e6 / picture)
            self._labels.begin(room)
            self._changed()
        self._loaded()

    def _worker_died(self, message: dict[str, Any]) -> None:
        killed = message['code'] == -signal.SIGKILL
        if killed and self._keeper.state is State.TUNING and self._train.batch_size > LEAST_BATCH:
            # By the kernel, most likely: the same again would end the same.
            half = max(LEAST_BATCH, self._train.batch_size // 2)
            self._shrink(half, 'the worker was killed in a round')
        self._worker_lost(f'the worker died (exit code {message["code"]})')

    def _worker_error(self, message: dict[str, Any]) -> None:
        if message['during'] == 'open':
            self._no_base = True
            self._worker_lost(message['text'], 10.0)
            if self.update is not None and self._lacks(self.update.base_sha256):
                self._fetcher.fetch(self.update.base_sha256)
        else:
            self._warn(f'worker: {message["during"]}: {message["text"]}')
            if message['during'] == 'model':  # without it nothing can be learned
                self._worker_lost('the worker could not take the live version', 10.0)
            elif message['during'] == 'round' and self._keeper.round is not None:
                self._keeper.on_failed(self._keeper.round.number, message['text'])

    def _worker_shrunk(self, message: dict[str, Any]) -> None:
        self._shrink(message['batch_size'], message['text'])

    def _shrink(self, batch_size: int, why: str) -> None:
        """Note that batches are smaller from now on, and say so."""
        self._train = replace(self._train, batch_size=batch_size)
        why = short(why, 150)
        self._warn(f'memory ran out: training batches are of {batch_size} now ({why})')

    def watch(self) -> None:
        """Start a worker anew that is dead, hangs, or has grown over its limit."""
        if self._link.hangs:
            self._worker_lost(f'the worker hangs: silent for {self._link.patience_s:.0f} s')
        if self._link.restart_if_due():
            self._keeper.on_starting()
        limit, used = self.memory_mb, resident_mb(self.pid)
        if not self.ready:
            self._fitted = False
        elif used <= limit:
            self._fitted = True
        elif limit > 0 and self._may_shrink(used):
            if self._train.batch_size <= LEAST_BATCH:
                self._least_mb = limit
            why = f'the worker took {used:.0f} MB, worker_memory_mb is {limit:.0f}'
            self._shrink(max(LEAST_BATCH, self._train.batch_size // 2), why)
            self._restart_worker(self._link.base)

    def _may_shrink(self, used: float) -> bool:
        """Whether a worker that is started anew may take less; no round is lost for a little."""
        limit, busy = self.memory_mb, self._keeper.state in IN_ROUND
        if busy and used <= GROSS * limit:
            return False
        return self._train.batch_size > LEAST_BATCH or (self._fitted and not self._is_least)

    @property
    def _is_least(self) -> bool:
        """Whether a worker with the least batches has outgrown this limit once already."""
        return self._least_mb == self.memory_mb and self._train.batch_size <= LEAST_BATCH

    def why_too_large(self) -> str:
        """Return that the worker takes more than it may and can not be made smaller."""
        limit, used = self.memory_mb, resident_mb(self.pid)
        unfit = not self._fitted or self._is_least
        small = self.ready and unfit and self._train.batch_size <= LEAST_BATCH
        if not (used > limit > 0 and small):
            return ''
        return (
            f'the worker takes {used:.0f} MB with training batches of {LEAST_BATCH}: '
            f'worker_memory_mb = {limit:.0f} is less than it needs'
        )

    @property
    def pid(self) -> int:
        """Of the process; 0 when none runs."""
        return self._link.client.process.pid if self._link.client else 0  # type: ignore[attr-defined]
