# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`tuner`: the ETuner manager. Decides when a round starts, has its worker process run it, proposes
new weights.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
import math
from pathlib import Path
import queue
import resource
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.task import Future
from sensor_msgs.msg import BatteryState
from std_msgs.msg import Header

from etuner_ros.action import FineTune
from etuner_ros.core.config import (
    BudgetConfig,
    Checked,
    HeadConfig,
    LazyTuneConfig,
    ScenarioConfig,
    setting,
    SimFreezeConfig,
    TrainConfig,
)
from etuner_ros.core.decide.budget import Budget
from etuner_ros.core.decide.energy import EnergyLog, find_meter, temperature
from etuner_ros.core.decide.lazy_tune import LazyTune
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.models.weights import sha256
from etuner_ros.msg import (
    FrameFeature,
    LabelledBatch,
    LabelledSample,
    LabelReceipt,
    LayerStates,
    ModelCandidate,
    ModelUpdate,
    ModelVerdict,
    PredictedFrame,
    Prediction,
    ScenarioChange,
    TunerStatus,
    ValidationOutcome,
)
from etuner_ros.nodes.base_fetcher import BaseFetcher
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import short, stamp_ns, to_bytes
from etuner_ros.nodes.parameters import declare, ModelSettings
from etuner_ros.nodes.qos import LATCHED, reliable
from etuner_ros.nodes.running import run
from etuner_ros.srv import GetBatches
from etuner_ros.worker import WorkerClient

ANSWER_TIMEOUT_S = 10.0  # after this a collector that was asked is taken to be gone
# What may be set at run time.
LIVE = ('verdict_timeout_s', 'restart_delay_s', 'worker_memory_mb', 'silence_s')
UNLABELLED_PERIOD_S = 0.5
MOST_FEATURES = 2000  # of frames that may still be labelled: 5 MB at 1,280 values


@dataclass(frozen=True)
class TunerSettings(Checked):
    """Parameters of the tuner node itself."""

    verdict_timeout_s: float = setting(
        15.0, 'how long a candidate waits for its verdict, in s', 0.1, 3600.0
    )
    restart_delay_s: float = setting(
        2.0, 'pause before a dead worker is started again, in s', 0.0, 3600.0
    )
    silence_s: float = setting(
        10.0,
        'time without a prediction after which the likely cause is said, in s; 0 = never',
        0.0,
        1e6,
    )
    assumed_watts: float = setting(
        0.0,
        'power of training above idle, in W, for an estimate on boards without a meter; 0 = none',
        0.0,
        1e4,
    )
    worker_memory_mb: float = setting(
        0.0,
        'resident memory above which the worker is started anew with half the batch size, in MB; '
        '0 = no limit',
        0.0,
        1e7,
    )


@dataclass
class _Round:
    """The round that runs, or whose candidate waits."""

    number: int
    batches: int
    cursors: dict[str, int]
    candidate: dict[str, Any] | None = None
    sent: float = 0.0


class TunerNode(Node):
    """
    Tunes.

    Subscribes `labelled_batches` (LabelledBatch), `predictions` (Prediction), `frame_feature`
    (FrameFeature), `label_receipts` (LabelReceipt), `model` (ModelUpdate), `layers` (LayerStates),
    `verdicts` (ModelVerdict), `battery` (BatteryState), and with `train.unlabelled_weight` or
    `head.unlabelled_weight` `predicted_frame` (PredictedFrame). Publishes `candidate`
    (ModelCandidate), `scenario_changes` (ScenarioChange), `~/status` (TunerStatus, latched).
    Action `~/fine_tune` (FineTune).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('tuner', **options)
        self._settings = declare(self, '', TunerSettings, self._apply, LIVE)
        self._model = declare(self, 'model', ModelSettings)
        self._train = declare(self, 'train', TrainConfig)
        self._sim_freeze = declare(self, 'sim_freeze', SimFreezeConfig)
        self._head = declare(self, 'head', HeadConfig)
        self._budget = Budget()
        self._budget.configure(declare(self, 'budget', BudgetConfig, self._budget.configure))
        self._lazy = LazyTune(declare(self, 'lazy_tune', LazyTuneConfig, self._apply_lazy))
        self._scenarios = ScenarioLog(declare(self, 'scenario', ScenarioConfig))

        self._state, self._note = TunerStatus.STARTING, 'the worker loads the model'
        self._round: _Round | None = None
        self._rounds = self._refused = self._heads = 0
        self._next_unlabelled, self._seen_unlabelled = 0.0, 0
        self._unlabelled: dict[str, Any] | None = None  # a frame that waits for its feature
        self._head_parent = 0
        self._head_candidate = ''  # digest of the head that waits for its verdict
        self._frame_features: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._update: ModelUpdate | None = None
        self._layers: LayerStates | None = None
        self._base_sha256 = ''  # of the base weights that the worker has
        self._received: dict[str, int] = {}  # collector: last batch handed to the worker
        self._asking: dict[str, float] = {}  # collector: when it was asked
        # Accepted weights arrive later than their verdict; a round that started from the old ones
        # in between would be refused as stale.
        self._awaited: int | None = None
        self._awaited_since = 0.0
        self._loaded = -1  # version that the worker has
        self._forward_shares: dict[str, float] = {}  # by block, measured by the worker
        self._progress = self._last_round_s = self._tuning_s = 0.0
        self._before = self._after = math.nan
        self._goal: Any = None
        self._goal_done: Future | None = None
        self._restart_at = math.inf

        self.health = Health(self, self._diagnostics)
        self._predictions_come = self.health.expect(
            'prediction', self._settings.silence_s, self._why_silent
        )
        self.health.watch(
            lambda: self._note if self._state == TunerStatus.DOWN else '',
            'the worker was started again',
            DiagnosticStatus.ERROR,
        )
        self._energy = EnergyLog(find_meter(assumed_watts=self._settings.assumed_watts))
        self.create_subscription(
            BatteryState, 'battery', self._on_battery, qos_profile_sensor_data
        )
        self._candidates = self.create_publisher(ModelCandidate, 'candidate', reliable(2))
        self._changes = self.create_publisher(ScenarioChange, 'scenario_changes', reliable(10))
        self._statuses = self.create_publisher(TunerStatus, '~/status', LATCHED)
        self.create_subscription(LabelledBatch, 'labelled_batches', self._on_batch, LATCHED)
        self.create_subscription(Prediction, 'predictions', self._on_prediction, reliable(100))
        if self._head.enabled:
            self.create_subscription(FrameFeature, 'frame_feature', self._on_feature, reliable(30))
            self.create_subscription(
                LabelReceipt, 'label_receipts', self._on_receipt, reliable(100)
            )
        in_head = self._head.unlabelled_weight if self._head.enabled else 0.0
        if self._train.unlabelled_weight > 0 or in_head > 0:
            self.create_subscription(
                PredictedFrame, 'predicted_frame', self._on_frame, reliable(30)
            )
        self.create_subscription(ModelUpdate, 'model', self._on_model, LATCHED)
        self.create_subscription(LayerStates, 'layers', self._on_layers, LATCHED)
        self.create_subscription(ModelVerdict, 'verdicts', self._on_verdict, reliable(10))
        self._collectors: dict[str, Any] = {}
        self._fetcher = BaseFetcher(self, self._on_fetched)
        self._action = ActionServer(
            self,
            FineTune,
            '~/fine_tune',
            self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=self._on_cancel,
        )
        self._inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._arrived = self.create_guard_condition(self._on_worker)
        self.create_timer(0.5, self._on_tick)
        self._worker = self._start_worker('')

    def _apply(self, settings: TunerSettings) -> None:
        """Take settings that were changed at run time."""
        self._settings = settings
        self._predictions_come.limit_s = settings.silence_s

    def _apply_lazy(self, config: LazyTuneConfig) -> None:
        state = self._lazy.state_dict()
        self._lazy = LazyTune(config)
        self._lazy.load_state_dict(state)

    def _why_silent(self) -> str:
        if self.count_publishers('predictions') == 0:
            return 'no inference node is there, or it is in another namespace'
        return 'inference predicts nothing: is it active, and do images come?'

    # The worker

    def _start_worker(self, base_path: str) -> WorkerClient:
        self._base_sha256, self._restart_at = '', math.inf

        def receive(message: dict[str, Any]) -> None:
            self._inbox.put({**message, 'from': client})
            self._arrived.trigger()

        client = WorkerClient(self._train, self._sim_freeze, self._head, receive)
        client.send(
            {
                'op': 'open',
                'path': base_path,
                'architecture': self._model.architecture,
                'input_size': self._model.input_size,
                'weights': self._model.weights,
            }
        )
        return client

    def _restart_worker(self, base_path: str = '') -> None:
        self._worker.close()
        self._received.clear()  # its replay is empty again
        self._awaited, self._loaded = None, -1
        self._lazy.load_state_dict({**self._lazy.state_dict(), 'waiting': 0, 'errors': 0})
        self._say(TunerStatus.STARTING, 'the worker loads the model')
        self._worker = self._start_worker(base_path)

    @guarded
    def _on_worker(self) -> None:
        while not self._inbox.empty():
            message = self._inbox.get()
            if message['from'] is self._worker:  # an earlier one may still have said something
                getattr(self, f'_worker_{message["op"]}')(message)

    def _worker_ready(self, message: dict[str, Any]) -> None:
        self._base_sha256 = message['base_sha256']
        self._forward_shares = dict(zip(message['units'], message['forward_shares']))
        self.get_logger().info(
            f'worker ready: {message["architecture"]}, {len(message["units"])} blocks'
        )
        self._hand_over_model()

    def _hand_over_model(self) -> None:
        """
        Give the worker the live weights, once both are there; fetch other base weights if need be.
        """
        if self._update is None:
            self._say(TunerStatus.STARTING, 'no weights yet: is model_manager active?')
            return
        if not self._base_sha256:
            return
        if self._update.base_sha256 != self._base_sha256:
            self._fetcher.fetch(self._update.base_sha256)
            return
        update = self._update
        message = {
            'op': 'model',
            'version': update.version,
            'classes': list(update.classes),
            'weights': bytes(update.weights),
        }
        self._worker.send(message)
        self._hand_over_layers()

    def _hand_over_layers(self) -> None:
        if self._layers is not None:
            frozen, pinned = (
                [s.name for s in self._layers.layers if getattr(s, which)]
                for which in ('frozen', 'pinned')
            )
            self._worker.send({'op': 'layers', 'frozen': frozen, 'pinned': pinned})

    def _worker_model_loaded(self, message: dict[str, Any]) -> None:
        self._loaded = message['version']
        if self._state in (TunerStatus.STARTING, TunerStatus.DOWN):
            self._say(TunerStatus.WAITING, self._lazy.reason)
            for collector in list(self._collectors):
                self._ask_batches(collector)
        elif self._awaited is not None and message['version'] >= self._awaited:
            self._awaited = None
            self._say(TunerStatus.WAITING, self._lazy.reason)
        self._maybe_start_round()

    @guarded
    def _on_fetched(self, path: Path | None) -> None:
        if path is not None:
            self._restart_worker(str(path))

    def _worker_died(self, message: dict[str, Any]) -> None:
        self._end_round(FineTune.Result.FAILED, 'the worker died', give_back=True)
        self.health.problem(f'the worker died (exit code {message["code"]})')
        self.get_logger().error(
            f'the worker died (exit code {message["code"]}); it is started again'
        )
        self._say(TunerStatus.DOWN, 'the worker died and is being restarted')
        self._restart_at = time.monotonic() + self._settings.restart_delay_s

    def _worker_error(self, message: dict[str, Any]) -> None:
        self.health.problem(message['text'])
        self.get_logger().error(
            f'worker: {message["during"]}: {message["text"]}', throttle_duration_sec=2.0
        )
        if message['during'] == 'open':
            self._say(TunerStatus.DOWN, message['text'])
            self._restart_at = time.monotonic() + max(self._settings.restart_delay_s, 10.0)

    # Labels

    @guarded
    def _on_batch(self, message: LabelledBatch) -> None:
        """Take the next batch; one that was missed is asked for."""
        collector = message.collector
        if collector not in self._collectors:
            self._collectors[collector] = self.create_client(
                GetBatches, f'{collector}/get_batches'
            )
        if self._state in (TunerStatus.STARTING, TunerStatus.DOWN):
            return  # all of them are asked for when the worker is there
        if message.batch_id == self._received.get(collector, 0) + 1:
            self._take_batch(message)
        elif message.batch_id > self._received.get(collector, 0):
            self._ask_batches(collector)

    def _ask_batches(self, collector: str) -> None:
        if time.monotonic() - self._asking.get(collector, -math.inf) < ANSWER_TIMEOUT_S:
            return
        self._asking[collector] = time.monotonic()
        request = GetBatches.Request(from_batch_id=self._received.get(collector, 0) + 1, limit=32)

        def answered(future: Any) -> None:
            self._asking.pop(collector, None)
            answer = future.result()
            if answer is None or answer.error_code:
                self.health.problem(answer.error_msg if answer else f'{collector} did not answer')
                return
            for batch in answer.batches:
                if batch.batch_id == self._received.get(collector, 0) + 1:
                    self._take_batch(batch)
            if answer.batches and self._received.get(collector, 0) < answer.last_batch_id:
                self._ask_batches(collector)

        self._collectors[collector].call_async(request).add_done_callback(answered)

    def _take_batch(self, message: LabelledBatch) -> None:
        """Hand a batch to the worker; one that the live weights have learned is only replayed."""
        learned = (
            dict(zip(self._update.collectors, self._update.batch_ids)) if self._update else {}
        )
        new = message.batch_id > learned.get(message.collector, 0)
        samples = [
            {
                'id': self._sample_name(message, s),
                'label': s.label,
                'predicted': s.predicted_label,
                'image': bytes(s.image.data),
                'scenario': self._scenarios.at(s.source, stamp_ns(s.header)),
            }
            for s in message.samples
            if s.label
        ]
        self._worker.send(
            {
                'op': 'samples',
                'samples': samples,
                'new': new,
                'renamed': list(zip(message.renamed_from, message.renamed_to)),
                'withdrawn': [
                    self._sample_name(message, s) for s in message.samples if not s.label
                ],
            }
        )
        self._received[message.collector] = message.batch_id
        if new and samples:
            known = set(self._update.classes) if self._update else set()
            self._lazy.on_batch(
                new_classes=any(s['label'] not in known for s in samples),
                errors=sum(s['label'] != s['predicted'] for s in samples),
            )
            self._maybe_start_round()

    @staticmethod
    def _sample_name(batch: LabelledBatch, sample: LabelledSample) -> str:
        if sample.source:
            return frame_name(sample.source, sample.header)
        return f'{batch.collector}/{sample.sample_id}'

    @guarded
    def _on_feature(self, message: FrameFeature) -> None:
        """Keep the feature of a frame for when it is labelled."""
        name = frame_name(message.source, message.header)
        self._frame_features[name] = (message.model_version, bytes(message.feature))
        while len(self._frame_features) > MOST_FEATURES:
            self._frame_features.popitem(last=False)
        self._pass_on_unlabelled()

    @guarded
    def _on_receipt(self, message: LabelReceipt) -> None:
        """Have the instant head learn a label at once; its picture comes with a batch."""
        name = frame_name(message.source, message.header)
        kept = self._frame_features.get(name)
        ready = self._state not in (TunerStatus.STARTING, TunerStatus.DOWN)
        if message.code != LabelReceipt.ACCEPTED or not ready:
            return
        if not message.counting_label:  # taken back, or people disagree
            self._worker.send({'op': 'withdraw', 'ids': [name]})
        elif kept:
            version, feature = kept
            self._worker.send(
                {
                    'op': 'correction',
                    'id': name,
                    'label': message.counting_label,
                    'version': version,
                    'feature': feature,
                    'scenario': self._scenarios.at(message.source, stamp_ns(message.header)),
                }
            )

    @guarded
    def _on_frame(self, message: PredictedFrame) -> None:
        """Pass on frames for learning without labels, two a second."""
        if self._loaded < 0 or time.monotonic() < self._next_unlabelled:
            return
        self._next_unlabelled = time.monotonic() + UNLABELLED_PERIOD_S
        self._unlabelled = {
            'op': 'unlabelled',
            'id': frame_name(message.source, message.header),
            'image': bytes(message.image.data),
            'scenario': self._scenarios.at(message.source, stamp_ns(message.header)),
        }
        self._pass_on_unlabelled()

    def _pass_on_unlabelled(self) -> None:
        """Send the waiting frame to the worker; where there is a head, once its feature came."""
        frame = self._unlabelled
        if frame is None:
            return
        version, feature = self._frame_features.get(frame['id'], (0, b''))
        if feature or not self._head.enabled:
            self._worker.send({**frame, 'version': version, 'feature': feature})
            self._unlabelled = None
            self._seen_unlabelled += 1

    # When: requests, scenarios, rounds

    @guarded
    def _on_battery(self, message: BatteryState) -> None:
        """Note the charge; a battery that does not know it counts for nothing."""
        if 0.0 <= message.percentage <= 1.0:
            self._budget.on_battery(message.percentage)

    @guarded
    def _on_prediction(self, message: Prediction) -> None:
        self._predictions_come.heard()
        self._lazy.on_request()
        if self._scenarios.on_request(
            message.source, stamp_ns(message.header), message.appearance, message.model_version
        ):
            self._lazy.on_scenario_change()
            change = ScenarioChange(
                header=message.header,
                source=message.source,
                scenario=self._scenarios.current,
                score=self._scenarios.score,
            )
            self._changes.publish(change)
            self.get_logger().info(
                f'scenario {change.scenario}: {message.source} sees other surroundings (score '
                f'{change.score:.0f})'
            )
        self._maybe_start_round()

    def _maybe_start_round(self, forced: bool = False) -> bool:
        if self._state != TunerStatus.WAITING or not (forced or self._lazy.should_tune):
            return False
        if not forced and self._budget.refusal(time.monotonic()):
            return False
        self._rounds += 1
        self._round = _Round(self._rounds, self._lazy.on_round_start(), dict(self._received))
        self._progress = 0.0
        self._hand_over_layers()
        self._energy.begin()
        self._worker.send(
            {'op': 'round', 'id': self._round.number, 'scenario': self._scenarios.current}
        )
        self._say(
            TunerStatus.TUNING, f'round {self._round.number} on {self._round.batches} batches'
        )
        return True

    def _worker_progress(self, message: dict[str, Any]) -> None:
        self._progress = message['iteration'] / message['total']
        if self._goal is not None:
            self._goal.publish_feedback(
                FineTune.Feedback(
                    iteration=message['iteration'],
                    iterations=message['total'],
                    loss=message['loss'],
                )
            )

    def _worker_candidate(self, message: dict[str, Any]) -> None:
        if self._round is None or self._update is None:
            return
        self._round.candidate, self._round.sent = message, time.monotonic()
        self._propose(message, str(self._round.number), self._round.cursors)
        self._say(TunerStatus.PROPOSED, f'round {self._round.number} waits for its verdict')

    def _worker_head(self, message: dict[str, Any]) -> None:
        """Propose the instant head; what rounds have learned stays as it is."""
        if self._update is None:
            self._worker.send({'op': 'head_refused'})
            return
        self._head_candidate = sha256(message['weights'])[:12]
        self._head_parent = message['parent']
        cursors = dict(zip(self._update.collectors, self._update.batch_ids))
        self._propose(message, 'head', cursors)

    def _propose(self, message: dict[str, Any], name: str, cursors: Mapping[str, int]) -> None:
        """Publish a candidate of the worker."""
        assert self._update is not None
        weights = message['weights']
        layers = [s.name for s in self._layers.layers] if self._layers else list(message['cka'])
        digest = sha256(weights)
        self._candidates.publish(
            ModelCandidate(
                candidate_id=f'{self.get_fully_qualified_name()}/{name}/{digest[:12]}',
                parent=message['parent'],
                base_sha256=self._base_sha256,
                sha256=digest,
                architecture=self._update.architecture,
                classes=message['classes'],
                frozen_layers=message['frozen'],
                cka=[message['cka'].get(name, math.nan) for name in layers],
                layers=layers,
                forward_share=[self._forward_shares.get(name, math.nan) for name in layers],
                weights=to_bytes(weights),
                scenario=self._scenarios.current,
                seconds=message['seconds'],
                iterations=message['iterations'],
                new_samples=message['new_samples'],
                collectors=list(cursors),
                batch_ids=list(cursors.values()),
                outcomes=[
                    ValidationOutcome(
                        sample_id=i,
                        label=name,
                        scenario=scenario,
                        live_correct=live,
                        candidate_correct=candidate,
                    )
                    for i, name, scenario, live, candidate in message['outcomes']
                ],
            )
        )

    @guarded
    def _on_verdict(self, message: ModelVerdict) -> None:
        *node, kind, digest = message.candidate_id.split('/')
        accepted = message.code == ModelVerdict.ACCEPTED
        if '/'.join(node) != self.get_fully_qualified_name():
            return
        if kind == 'head':
            if digest == self._head_candidate:
                self._head_candidate = ''
                self._heads += accepted
                if accepted:
                    self._scenarios.on_version(message.version, self._head_parent, ())
                else:
                    self._worker.send({'op': 'head_refused'})
            return
        if self._round is None or self._round.candidate is None:
            return
        if digest != sha256(self._round.candidate['weights'])[:12]:
            return
        candidate = self._round.candidate
        self._before, self._after = (
            candidate['accuracy_before'],
            candidate['accuracy'] if accepted else candidate['accuracy_before'],
        )
        if message.code not in (ModelVerdict.ACCEPTED, ModelVerdict.WORSE):
            self.health.problem(message.reason)
        outcomes = candidate['outcomes']  # sample, label, scenario, live right, candidate right
        gained = sum(new and not old for *_, old, new in outcomes)
        lost = sum(old and not new for *_, old, new in outcomes)
        self._lazy.on_round_end(candidate['iterations'], self._after, gained, lost)
        if accepted:
            self._scenarios.on_version(
                message.version, candidate['parent'], candidate['appearance_move']
            )
            if self._loaded < message.version:
                self._awaited, self._awaited_since = message.version, time.monotonic()
            self._end_round(FineTune.Result.NONE, message.reason, version=message.version)
        else:
            self._refused += 1
            self._end_round(FineTune.Result.REFUSED, message.reason)
            self._hand_over_model()  # the worker goes back to what is live

    def _worker_shrunk(self, message: dict[str, Any]) -> None:
        self._shrink(message['batch_size'], message['text'])

    def _shrink(self, batch_size: int, why: str) -> None:
        """Note that batches are smaller from now on, and say so."""
        self._train = replace(self._train, batch_size=batch_size)
        text = f'memory ran out: training batches are of {batch_size} now ({short(why, 150)})'
        self.health.problem(text)
        self.get_logger().warning(text)

    def _watch_memory(self) -> None:
        """Start a worker anew that has grown over its limit, with half the batch size."""
        limit = self._settings.worker_memory_mb
        used = resident_mb(self._worker.process.pid) if limit else 0.0
        if used > limit > 0:
            self._end_round(FineTune.Result.FAILED, 'the worker took too much memory', True)
            self._shrink(
                max(2, self._train.batch_size // 2),
                f'the worker took {used:.0f} MB, worker_memory_mb is {limit:.0f}',
            )
            self._restart_worker()

    def _worker_nothing(self, message: dict[str, Any]) -> None:
        self._end_round(FineTune.Result.NOTHING_TO_LEARN, 'no labelled sample waits')

    def _worker_cancelled(self, message: dict[str, Any]) -> None:
        self._end_round(FineTune.Result.CANCELLED, 'cancelled', give_back=True)

    def _worker_failed(self, message: dict[str, Any]) -> None:
        self.health.problem(message['text'])
        self.get_logger().error(f'round {message["id"]} failed: {message["text"]}')
        # Its samples wait in the worker and are learned with the next batch; trying the same again
        # at once would fail the same.
        self._end_round(FineTune.Result.FAILED, message['text'])

    def _end_round(
        self, code: int, text: str, give_back: bool = False, version: int | None = None
    ) -> None:
        """
        Close the running round, whatever became of it, and answer the action if it asked for it.
        """
        if self._round is None:
            return
        if give_back:
            self._lazy.on_round_failed(self._round.batches)
        seconds = self._round.candidate['seconds'] if self._round.candidate else 0.0
        if seconds:
            self._last_round_s, self._tuning_s = seconds, self._tuning_s + seconds
        # One that was cancelled or failed has taken energy, too.
        self._budget.on_round(time.monotonic(), seconds, self._energy.end(seconds))
        self._round = None
        if self._goal_done is not None:
            live = self._update.version if self._update else 0
            result = FineTune.Result(
                error_code=code,
                error_msg=short(text, 300),
                version=live if version is None else version,
                seconds=seconds,
            )
            self._goal_done.set_result(result)
        waiting = self._awaited is None
        self._say(TunerStatus.WAITING if waiting else TunerStatus.PROPOSED, text)

    # The action

    def _on_cancel(self, _goal: Any) -> CancelResponse:
        self._worker.send({'op': 'cancel'})
        return CancelResponse.ACCEPT

    async def _execute(self, goal: Any) -> FineTune.Result:
        if self._state in (TunerStatus.TUNING, TunerStatus.PROPOSED):
            goal.abort()
            return FineTune.Result(error_code=FineTune.Result.BUSY, error_msg='a round is running')
        if not self._maybe_start_round(forced=True):
            goal.abort()
            return FineTune.Result(error_code=FineTune.Result.FAILED, error_msg=self._note)
        self._goal, self._goal_done = goal, Future()
        result: FineTune.Result = await self._goal_done
        self._goal = self._goal_done = None
        if goal.is_cancel_requested and result.error_code == FineTune.Result.CANCELLED:
            goal.canceled()
        elif result.error_code == FineTune.Result.NONE:
            goal.succeed()
        else:
            goal.abort()
        return result

    # State of others, and our own

    @guarded
    def _on_model(self, message: ModelUpdate) -> None:
        self._update = message
        self._hand_over_model()

    @guarded
    def _on_layers(self, message: LayerStates) -> None:
        self._layers = message
        if self._base_sha256:
            self._hand_over_layers()

    @guarded
    def _on_tick(self) -> None:
        if time.monotonic() >= self._restart_at:
            self._restart_worker()
        self._watch_memory()
        self._energy.tick()
        self._budget.on_temperature(temperature())
        waiting = self._round is not None and self._round.candidate is not None
        if waiting and time.monotonic() - self._round.sent > self._settings.verdict_timeout_s:  # type: ignore[union-attr]
            self.health.problem('no verdict: is model_manager running?')
            self.get_logger().warning('a candidate got no verdict; is model_manager running?')
            self._end_round(FineTune.Result.FAILED, 'no verdict: is model_manager running?')
            self._hand_over_model()
        late = time.monotonic() - self._awaited_since > self._settings.verdict_timeout_s
        if self._awaited is not None and late:
            self.health.problem('the accepted weights did not arrive on model')
            self._awaited = None
            self._say(TunerStatus.WAITING, self._lazy.reason)
            return
        waiting_now = self._state == TunerStatus.WAITING
        self._say(self._state, self._reason if waiting_now else self._note)
        self._maybe_start_round()

    @property
    def _reason(self) -> str:
        """Why no round runs."""
        refusal = self._budget.refusal(time.monotonic())
        return f'{self._lazy.reason}; {refusal}' if refusal else self._lazy.reason

    def _say(self, state: int, note: str) -> None:
        """Publish what the tuner is doing and why."""
        self._state, self._note = state, note
        layers = self._layers.layers if self._layers else []
        message = TunerStatus(
            state=state,
            reason=note,
            batches_waiting=self._lazy.waiting,
            batches_needed=self._lazy.batches_needed,
            scenario=self._scenarios.current,
            scenario_score=self._scenarios.score,
            layers_frozen=sum(s.frozen for s in layers),
            layers_total=len(layers),
            model_version=self._update.version if self._update else 0,
            rounds=self._rounds,
            refused=self._refused,
            heads=self._heads,
            progress=self._progress if state == TunerStatus.TUNING else 0.0,
            last_round_s=self._last_round_s,
            tuning_s=self._tuning_s,
            accuracy_before=self._before,
            accuracy_after=self._after,
            energy_j=self._energy.last_j,
            energy_source=self._energy.source,
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._statuses.publish(message)

    def _diagnostics(self) -> Mapping[str, object]:
        return {
            'state': self._note,
            'rounds': self._rounds,
            'refused': self._refused,
            'head updates': self._heads,
            'frames without a label seen': self._seen_unlabelled,
            'tuning s': self._tuning_s,
            'last round s': self._last_round_s,
            'accuracy before, after': f'{self._before:.3f}, {self._after:.3f}',
            'device': self._train.device,
            'scenario': self._scenarios.current,
            'energy source': self._energy.source,
            'energy of all rounds J': self._energy.total_j,
            'idle W': self._energy.idle_watts,
            'temperature': temperature(),
            'worker pid': self._worker.process.pid,
            'worker MB': resident_mb(self._worker.process.pid),
            'batch size': self._train.batch_size,
            'batches waiting': self._lazy.waiting,
            'batches needed': self._lazy.batches_needed,
        }

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB; 0 where there is no /proc, or no process."""
    try:
        pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * resource.getpagesize() / 1e6


def frame_name(source: str, header: Header) -> str:
    """Return what a frame is called in the worker."""
    return f'{source}/{stamp_ns(header)}/{header.frame_id}'


def main() -> int:
    """Run the node."""
    return run(TunerNode)
