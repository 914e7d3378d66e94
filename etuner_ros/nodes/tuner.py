# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`tuner`: the ETuner manager. Decides when a round starts, has its worker process run it, proposes
new weights and new heads.

| subscribes | |
|---|---|
| `labelled_batches` (LabelledBatch) | what to learn; what was missed is asked for |
| `predictions` (Prediction) | load, and changes of scenario |
| `frame_feature` (FrameFeature), `label_receipts` (LabelReceipt) | for the instant head |
| `predicted_frame` (PredictedFrame) | frames without a label, where they are learned from |
| `model` (ModelUpdate), `backbone` (Backbone), `layers` (LayerStates) | of `model_manager` |
| `verdicts` (ModelVerdict) | of `model_manager` |
| `battery` (BatteryState) | for the budget |

Publishes `candidate` (ModelCandidate), `head_candidate` (HeadCandidate), `scenario_changes`
(ScenarioChange), `~/status` (TunerStatus, latched). Action `~/fine_tune` (FineTune). Calls
`~/get_batches` and `~/get_replay` of each collector, `~/get_model` of `model_manager`. Serves
`~/get_candidate` where `transfer_mbit_s` is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import BatteryState

from etuner_ros.action import FineTune
from etuner_ros.core.config import (
    BudgetConfig,
    HeadConfig,
    LazyTuneConfig,
    ScenarioConfig,
    SimFreezeConfig,
    TrainConfig,
)
from etuner_ros.core.decide.budget import Budget
from etuner_ros.core.decide.energy import EnergyLog, find_meter, temperature
from etuner_ros.core.decide.lazy_tune import LazyTune, Prospects
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.files import home
from etuner_ros.core.rate_limit import RateLimit
from etuner_ros.core.serve.engines import EngineSettings
from etuner_ros.core.tune.batch_feed import ANSWER_TIMEOUT_S, SLOW_ANSWER_TIMEOUT_S
from etuner_ros.core.tune.round_keeper import End, RoundKeeper, State
from etuner_ros.core.tune.state_file import StateFile
from etuner_ros.msg import (
    Backbone,
    FrameFeature,
    HeadCandidate,
    LabelledBatch,
    LabelReceipt,
    LayerStates,
    ModelCandidate,
    ModelUpdate,
    ModelVerdict,
    PredictedFrame,
    Prediction,
    ScenarioChange,
    TunerStatus,
)
from etuner_ros.nodes import tuning_messages as messages
from etuner_ros.nodes.candidate_offer import CandidateOffer
from etuner_ros.nodes.fine_tune import FineTuneAction
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import stamp_ns
from etuner_ros.nodes.parameters import declare, ModelSettings
from etuner_ros.nodes.qos import adaptable, FEATURES, LATCHED, reliable
from etuner_ros.nodes.running import run
from etuner_ros.nodes.timers import steady_timer
from etuner_ros.nodes.tuner_settings import LIVE, TunerSettings
from etuner_ros.nodes.tuning_labels import LabelSide
from etuner_ros.nodes.tuning_messages import learned_of
from etuner_ros.nodes.tuning_worker import WorkerSide
from etuner_ros.worker.link import WorkerLink
from etuner_ros.worker.memory import resident_mb

BATTERY_S = 30.0  # from the start, in which the first charge should come
# Verdicts that say nothing of the candidate itself.
UNJUDGED = (ModelVerdict.PINNED, ModelVerdict.STALE, ModelVerdict.DISK)


class TunerNode(Node):
    """Tunes."""

    def __init__(self, **options: Any) -> None:
        super().__init__('tuner', **options)
        self._limit = RateLimit(0.0)  # of what is sent
        self._settings = declare(self, '', TunerSettings, self._apply, LIVE)
        self._model = declare(self, 'model', ModelSettings)
        self._train = declare(self, 'train', TrainConfig)
        self._sim_freeze = declare(self, 'sim_freeze', SimFreezeConfig)
        self._head = declare(self, 'head', HeadConfig)
        self._engine = declare(self, '', EngineSettings)
        self._why_float = ''
        self._budget, self._lazy = Budget(), LazyTune()
        self._budget.configure(declare(self, 'budget', BudgetConfig, self._budget.configure))
        self._lazy.configure(declare(self, 'lazy_tune', LazyTuneConfig, self._lazy.configure))
        self._scenarios = ScenarioLog(declare(self, 'scenario', ScenarioConfig))

        self._link = WorkerLink(
            lambda: self._worker.start(), lambda path: self._worker.opening(path)
        )
        self._keeper = RoundKeeper(
            self._lazy,
            self._budget,
            self._scenarios,
            EnergyLog(find_meter(assumed_watts=self._settings.assumed_watts)),
            self._link.send,
            self._on_round_end,
        )
        self.health = Health(self, self._diagnostics)
        self._predictions_come = self.health.expect(
            'prediction', self._settings.silence_s, self._why_silent
        )
        self.health.watch(
            lambda: self._keeper.note if self._keeper.state is State.DOWN else '',
            'the worker was started again',
            DiagnosticStatus.ERROR,
        )
        self.health.watch(
            lambda: self._worker.why_not(),
            'the worker has the live weights',
            DiagnosticStatus.WARN,
        )
        self.health.watch(
            lambda: self._worker.why_too_large(),
            'the worker takes less memory than it may',
            DiagnosticStatus.WARN,
        )
        self._began = time.monotonic()
        self._charge: float | None = None  # that the battery told last
        self.health.watch(
            self._why_no_charge, 'the charge of the battery is known', DiagnosticStatus.WARN
        )
        self._labels = LabelSide(
            self,
            self.health,
            self._link,
            self._keeper,
            self._scenarios,
            self._lazy,
            self._head.enabled,
            lambda: self._worker.update,
            self._maybe_start_round,
        )
        self._worker = WorkerSide(
            self,
            self.health,
            self._link,
            self._keeper,
            self._labels,
            (self._model, self._train, self._sim_freeze, self._head, self._engine),
            self._problem,
            self._maybe_start_round,
            self._say,
            self._on_worker,
        )
        path = (
            home('tuner') / f'{self.get_fully_qualified_name().strip("/").replace("/", ".")}.json'
        )
        self._file = StateFile(path, lambda: self._keeper.state_dict(time.time()))
        self._problem(self._file.load(lambda s: self._keeper.load_state_dict(s, time.time())))

        self._offer = CandidateOffer(self, self._limit, self._keeper.on_fetching)
        self._candidates = self.create_publisher(ModelCandidate, 'candidate', reliable(2))
        self._heads = self.create_publisher(HeadCandidate, 'head_candidate', reliable(2))
        publish, hear = adaptable(self.create_publisher), adaptable(self.create_subscription)
        self._changes = publish(ScenarioChange, 'scenario_changes', reliable(10))
        self._statuses = publish(TunerStatus, '~/status', LATCHED)
        battery = qos_profile_sensor_data
        self._battery = hear(BatteryState, 'battery', self._on_battery, battery)
        self.create_subscription(LabelledBatch, 'labelled_batches', self._labels.on_batch, LATCHED)
        hear(Prediction, 'predictions', self._on_prediction, reliable(100))
        if self._head.enabled:
            self.create_subscription(
                FrameFeature, 'frame_feature', self._labels.on_feature, reliable(FEATURES)
            )
            receipts = reliable(100)
            self.create_subscription(
                LabelReceipt, 'label_receipts', self._labels.on_receipt, receipts
            )
        in_head = self._head.unlabelled_weight if self._head.enabled else 0.0
        if self._train.unlabelled_weight > 0 or in_head > 0:
            frames = reliable(30)
            self.create_subscription(
                PredictedFrame, 'predicted_frame', self._labels.on_frame, frames
            )
        self.create_subscription(Backbone, 'backbone', self._on_backbone, LATCHED)
        self.create_subscription(ModelUpdate, 'model', self._on_model, LATCHED)
        self.create_subscription(LayerStates, 'layers', self._on_layers, LATCHED)
        self.create_subscription(ModelVerdict, 'verdicts', self._on_verdict, reliable(10))
        self._action = FineTuneAction(self, self._on_goal, self._on_cancel, self._version)
        steady_timer(self, 0.5, self._on_tick)
        self._apply(self._settings)
        try:
            self._link.start()
        except OSError as error:  # the next tick finds it due
            self._problem(f'no worker can be started: {error}')

    def _apply(self, settings: TunerSettings) -> None:
        """Take settings, at the start and when they were changed at run time."""
        self._settings = settings
        self._limit.mbit_s = settings.transfer_mbit_s
        if hasattr(self, '_worker'):
            self._worker.memory_mb = settings.worker_memory_mb
            slow = settings.transfer_mbit_s > 0
            timeout_s = SLOW_ANSWER_TIMEOUT_S if slow else ANSWER_TIMEOUT_S
            self._labels.feed.answer_timeout_s = timeout_s
            self._predictions_come.limit_s = settings.silence_s
            self._keeper.verdict_timeout_s = settings.verdict_timeout_s
            self._keeper.rounds = settings.rounds
            self._link.timeout_s = settings.worker_timeout_s
            self._link.delay_s = settings.restart_delay_s

    def _why_silent(self) -> str:
        if self.count_publishers('predictions') == 0:
            return 'no inference node is there, or it is in another namespace'
        return 'inference predicts nothing: is it active, and do images come?'

    def _version(self) -> int:
        return self._worker.update.version if self._worker.update else 0

    def _problem(self, text: str) -> None:
        """Tell of a problem, if there is one."""
        if text:
            self.health.problem(text)
            self.get_logger().warning(text, throttle_duration_sec=2.0)

    # When: requests, scenarios, rounds

    @guarded
    def _on_battery(self, message: BatteryState) -> None:
        """Note the charge; a battery that does not know it counts for nothing."""
        self._charge = message.percentage
        if 0.0 <= message.percentage <= 1.0:
            self._budget.on_battery(message.percentage)

    def _why_no_charge(self) -> str:
        """Return why `budget.min_battery` has no charge to go by."""
        charge = self._charge
        if self._budget.config.min_battery <= 0:
            return ''
        topic = self._battery.topic_name
        if charge is None and time.monotonic() - self._began > BATTERY_S:
            what = f'no sensor_msgs/BatteryState comes on {topic}'
        elif charge is not None and not 0.0 <= charge <= 1.0:
            what = f'percentage is {charge:g} on {topic}'
        else:
            return ''
        return f'budget.min_battery knows no charge, which has to be in [0, 1]: {what}'

    @guarded
    def _on_prediction(self, message: Prediction) -> None:
        self._predictions_come.heard()
        self._lazy.on_request()
        stamp = stamp_ns(message.header)
        version, appearance = message.model_version, message.appearance
        if self._scenarios.on_request(message.source, stamp, appearance, version):
            self._lazy.on_scenario_change()
            if self._keeper.ready:
                self._worker.hand_over_scenarios()
            change = ScenarioChange(
                header=message.header,
                source=message.source,
                scenario=self._scenarios.last.number,
                score=self._scenarios.score,
            )
            self._changes.publish(change)
            self.get_logger().info(
                f'scenario {change.scenario}: {message.source} sees other surroundings (score '
                f'{change.score:.0f})'
            )
            self._problem(self._file.save())
        self._maybe_start_round()

    def _maybe_start_round(self, forced: bool = False) -> bool:
        if self._labels.feed.behind or self._worker.awaited:
            return False
        update = self._worker.update
        backbone = messages.backbone_name(update) if update is not None else ''
        learned = self._labels.feed.learned(learned_of(update))
        started = None if forced else self._keeper.start_retreat(learned)
        if started is None:
            started = self._keeper.start(self._labels.feed.cursors, forced, backbone)
        if started is None and not forced:
            started = self._keeper.start_calibration(learned)
        if started is None:
            return False
        self._worker.hand_over_layers()
        self._link.send(
            {
                'op': 'round',
                'id': started.number,
                'scenarios': self._scenarios.current,
                'kind': started.kind.value,
                'deflate': self._limit.on,
            }
        )
        self._say()
        return True

    def _on_worker(self, message: dict[str, Any]) -> None:
        """Take what the worker says of rounds and heads."""
        getattr(self, f'_worker_{message["op"]}')(message)

    def _worker_progress(self, message: dict[str, Any]) -> None:
        iteration, total = message['iteration'], message['total']
        if self._keeper.on_step(message['id'], iteration, total):
            self._action.feedback(iteration, total, message['loss'])

    def _worker_candidate(self, message: dict[str, Any]) -> None:
        made = messages.proposal(message, f'{self.get_fully_qualified_name()}/{message["id"]}')
        running, update = self._keeper.round, self._worker.update
        if self._keeper.on_proposal(message['id'], made) and running and update:
            facts = (made.candidate_id, self._worker.ready['base_sha256'], running.cursors)
            shares = dict(zip(self._worker.ready['units'], self._worker.ready['forward_shares']))
            candidate = messages.model_candidate(
                message, update.architecture, self._worker.layers, shares, *facts, self._scenarios
            )
            self._worker.note_candidate(candidate.backbone_sha256, message['weights'])
            self._offer.hold(candidate, message['deflated'])
            self._candidates.publish(candidate)
            self._say()

    def _worker_head(self, message: dict[str, Any]) -> None:
        made = messages.proposal(message, f'{self.get_fully_qualified_name()}/head')
        self._keeper.on_head(made)
        facts = (
            made.candidate_id,
            self._worker.ready['base_sha256'],
            self._labels.feed.learned(learned_of(self._worker.update)),
        )
        self._heads.publish(messages.head_candidate(message, *facts, self._scenarios))

    @guarded
    def _on_verdict(self, message: ModelVerdict) -> None:
        accepted = message.code == ModelVerdict.ACCEPTED
        judged = message.code not in UNJUDGED
        ours = self._keeper.on_verdict(
            message.candidate_id, accepted, message.reason, message.version, judged
        )
        if ours and message.code not in (ModelVerdict.ACCEPTED, ModelVerdict.WORSE):
            self._problem(message.reason)
        if ours and message.code == ModelVerdict.PINNED:
            self._keeper.pinned = True  # until model_manager says what is live again

    def _worker_prospects(self, message: dict[str, Any]) -> None:
        facts = {f.name: message[f.name] for f in fields(Prospects)}
        told = Prospects(**facts)
        self._lazy.on_prospects(told)
        self._keeper.standing = told.standing if told.tuned else (0, 0, 0)
        self._maybe_start_round()

    def _worker_could_quantise(self, _message: dict[str, Any]) -> None:
        self._keeper.could_quantise = True
        self._maybe_start_round()

    def _worker_engine(self, message: dict[str, Any]) -> None:
        """The worker says why nothing is quantised; in words for people, and no fault."""
        self._why_float = message['text']
        if message['text']:
            self.get_logger().info(f'served in float: {message["text"]}')

    def _worker_nothing(self, message: dict[str, Any]) -> None:
        self._keeper.on_nothing(message['id'])

    def _worker_cancelled(self, message: dict[str, Any]) -> None:
        self._keeper.on_stopped(message['id'])

    def _worker_failed(self, message: dict[str, Any]) -> None:
        self._problem(f'round {message["id"]} failed: {message["text"]}')
        self._keeper.on_failed(message['id'], message['text'])

    def _on_round_end(self, end: End) -> None:
        self._action.ended(end)
        self._offer.drop()
        self._problem(self._file.save())
        self._say()

    def _on_goal(self) -> tuple[int, str]:
        if self._keeper.state in (State.TUNING, State.PROPOSED, State.ACCEPTED):
            return FineTune.Result.BUSY, 'a round is running'
        started = self._maybe_start_round(forced=True)
        return (0, '') if started else (FineTune.Result.FAILED, self._reason)

    def _on_cancel(self) -> bool:
        number = self._keeper.cancel()
        if number is not None:
            self._link.send({'op': 'cancel', 'id': number})
        return number is not None

    # State of others, and our own

    @guarded
    def _on_model(self, message: ModelUpdate) -> None:
        self._keeper.pinned = False
        self._worker.update = message
        self._worker.hand_over_model()

    @guarded
    def _on_backbone(self, message: Backbone) -> None:
        self._worker.take_backbone(message)

    @guarded
    def _on_layers(self, message: LayerStates) -> None:
        self._keeper.pinned = False
        self._worker.layers = message
        self._worker.hand_over_layers()

    @guarded
    def _on_tick(self) -> None:
        self._worker.watch()
        self._labels.ask()
        self._labels.pass_on_frame()
        self._keeper.energy.tick()
        self._budget.on_temperature(temperature())
        self._problem(self._keeper.tick())
        self._problem(self._file.save_if_due())
        self._maybe_start_round()
        self._say()

    @property
    def _reason(self) -> str:
        """What is done, or why no round runs."""
        if self._keeper.state is not State.WAITING:
            return self._keeper.note
        behind = ', '.join(self._labels.feed.behind)
        why = f'labels are still on their way from {behind}' if behind else self._keeper.refusal()
        return f'{self._lazy.reason}; {why}' if why else self._lazy.reason

    def _say(self) -> None:
        """Publish what the tuner is doing and why."""
        version, reason = self._version(), self._reason
        message = messages.status_message(self._keeper, reason, version, self._worker.layers)
        message.header.stamp = self.get_clock().now().to_msg()
        self._statuses.publish(message)

    def _diagnostics(self) -> Mapping[str, object]:
        keeper, energy = self._keeper, self._keeper.energy
        return {
            'state': self._reason,
            'rounds': keeper.completed,
            'refused': keeper.refused,
            'labels compared': keeper.standing[0],
            'labels won by rounds': keeper.standing[1],
            'labels lost by rounds': keeper.standing[2],
            'head updates': keeper.heads,
            'frames without a label seen': self._labels.features.passed_on,
            'tuning s': keeper.tuning_s,
            'last round s': keeper.last_round_s,
            'accuracy before, after': f'{keeper.before:.3f}, {keeper.after:.3f}',
            'device': self._worker.train.device,
            'scenarios': ', '.join(f'{c} {n}' for c, n in self._scenarios.current.items()),
            'energy source': energy.source,
            'energy of all rounds J': energy.total_j,
            'idle W': energy.idle_watts,
            'temperature': temperature(),
            'not quantised because': self._why_float or 'nothing speaks against it',
            'worker pid': self._worker.pid,
            'worker MB': resident_mb(self._worker.pid),
            'batch size': self._worker.train.batch_size,
            'batches waiting': self._lazy.waiting,
            'batches needed': self._lazy.batches_needed,
            'collectors': ', '.join(self._labels.feed.collectors),
            'batches received': ', '.join(
                f'{c} {n}' for c, n in self._labels.feed.cursors.items()
            ),
        }

    def close(self) -> None:
        """End the worker."""
        self._file.save()
        self._link.close()


def main() -> int:
    """Run the node."""
    return run(TunerNode)
