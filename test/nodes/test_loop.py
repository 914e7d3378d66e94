# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The whole loop over real DDS: correction, receipt, batch, round, new version in predictions."""

from __future__ import annotations

from dataclasses import asdict, replace
import itertools
from multiprocessing.connection import Connection
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys

from ament_index_python.packages import get_package_prefix
from diagnostic_msgs.msg import DiagnosticArray
from helpers import Graph, header, image_message
import numpy as np
import psutil
import pytest
from rclpy.action import ActionClient
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
import torch

from etuner_ros.action import FineTune
from etuner_ros.bench.swapper import announcement
from etuner_ros.core.decide.lazy_tune import Prospects
from etuner_ros.core.models.base_weights import cached
from etuner_ros.core.models.networks import torchvision_models
from etuner_ros.core.models.weights import read_base
from etuner_ros.core.tune import batch_feed, frame_features
from etuner_ros.core.tune.batch_feed import MOST_COLLECTORS
from etuner_ros.msg import (
    Backbone,
    LabelCorrection,
    LabelledBatch,
    LabelReceipt,
    ModelCandidate,
    ModelUpdate,
    ModelVerdict,
    Prediction,
    ScenarioChange,
    TunerStatus,
)
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS
from etuner_ros.nodes.tuner import TunerNode
from etuner_ros.nodes.tuning_messages import status_message
from etuner_ros.srv import RenameLabel
from etuner_ros.worker.client import WorkerClient
from etuner_ros.worker.loop import Worker


class Robot:
    """All nodes that learn, a camera and a person."""

    def __init__(
        self, ros: Graph, deployed: Path | None, shared: dict | None = None, **tuner: object
    ) -> None:
        self.ros = ros
        shared = shared or {'model__weights': str(deployed)}
        self.manager = ros.add(ModelManagerNode, autostart=True, **shared)
        ros.until(lambda: self.manager.diagnostics()['active'], 'model_manager')
        self.inference = ros.add(InferenceNode, autostart=True, keep_rate_hz=1000.0, **shared)
        self.collector = ros.add(
            LabelCollectorNode,
            batch_size=4,
            batch_timeout_s=1000.0,
            request_period_s=0.0,
            author_rate_hz=0.0,
        )
        settings = {'train__batch_size': 8, 'train__epochs': 2.0, 'head__interval_s': 0.0}
        settings = {**settings, **shared, **tuner}
        self.tuner = ros.add(TunerNode, **settings)
        self.predictions = ros.listen(Prediction, 'predictions')
        self.receipts = ros.listen(LabelReceipt, 'label_receipts')
        self.batches = ros.listen(LabelledBatch, 'labelled_batches', LATCHED)
        self.statuses = ros.listen(TunerStatus, 'tuner/status', LATCHED)
        self.images = ros.speak(Image, 'image_raw', NEWEST_WINS)
        self.labels = ros.speak(LabelCorrection, 'labels')
        self._shown = 0
        ros.until(lambda: self.state == TunerStatus.WAITING, 'the tuner to be ready')

    @property
    def state(self) -> int:
        return self.statuses[-1].state if self.statuses else TunerStatus.STARTING

    def show(self, image: np.ndarray) -> Prediction:
        """Show a picture and return what the robot says; shown again when another one overtook it."""
        self._shown += 1
        head = header(self.ros.probe.get_clock().now().nanoseconds + self._shown)

        def seen() -> Prediction | None:
            self.images.publish(image_message(image, head))
            return next((p for p in self.predictions if p.header == head), None)

        return self.ros.until(seen, 'a prediction')

    def teach(self, image: np.ndarray, label: str) -> LabelReceipt:
        """Show a picture and say what it is."""
        seen, count = self.show(image), len(self.receipts)
        self.labels.publish(
            LabelCorrection(
                header=seen.header,
                source=seen.source,
                frame_uid=seen.frame_uid,
                label=label,
                author='ann',
            )
        )
        self.ros.until(lambda: len(self.receipts) > count, 'a receipt')
        return self.receipts[-1]


def pictures(frames: list, label: str) -> list[np.ndarray]:
    return [f.image for f in frames if f.label == label]


def test_corrections_end_in_a_new_version_that_knows_the_new_class(ros, deployed, frames):
    robot = Robot(ros, deployed)
    cars = pictures(frames, 'race_car')
    before = robot.show(cars[0])
    assert before.model_version == 0
    assert 'race_car' not in before.labels
    for image in cars[:4]:
        receipt = robot.teach(image, 'race_car')
        assert receipt.code == LabelReceipt.ACCEPTED
    # Of the first one only: the instant head may know the kind before the last is shown.
    assert robot.receipts[0].predicted_label != 'race_car'
    ros.until(lambda: robot.batches, 'a batch')
    assert [s.label for s in robot.batches[0].samples] == ['race_car'] * 4
    status = ros.until(
        lambda: robot.statuses[-1] if robot.statuses[-1].last_round_s > 0 else None, 'the round'
    )
    assert (status.rounds, status.refused) == (1, 0)
    ros.until(
        lambda: robot.manager._store.manifests[robot.show(cars[5]).model_version].learned,
        'the version that the round made in predictions',
    )
    assert robot.show(cars[5]).labels[0] == 'race_car'
    assert all(list(p.header.frame_id) for p in robot.predictions)


def test_a_robot_that_knows_nothing_learns_its_first_kinds(ros, frames, tmp_path):
    """From a torchvision network by name with weights from a file, without any class."""
    torch.manual_seed(0)
    network = torchvision_models().get_model('mobilenet_v3_small', weights=None)
    torch.save(network.state_dict(), tmp_path / 'net.pth')
    shared = {
        'model__architecture': 'mobilenet_v3_small',
        'model__weights': str(tmp_path / 'net.pth'),
        'model__input_size': 64,
    }
    robot = Robot(ros, None, shared=shared)
    ducks, balls = pictures(frames, 'duck'), pictures(frames, 'soccer_ball')
    assert list(robot.show(ducks[0]).labels) == []
    for duck, ball in zip(ducks[:2], balls[:2]):
        assert robot.teach(duck, 'duck').code == LabelReceipt.ACCEPTED
        assert robot.teach(ball, 'ball').code == LabelReceipt.ACCEPTED
    ros.until(lambda: set(robot.show(ducks[0]).labels) == {'duck', 'ball'}, 'both kinds')


def test_one_correction_shows_in_predictions_without_batch_or_round_and_so_does_a_new_name(
    ros, deployed, frames
):
    robot = Robot(ros, deployed)
    cars = pictures(frames, 'race_car')
    assert robot.teach(cars[0], 'race_car').code == LabelReceipt.ACCEPTED
    ros.until(lambda: robot.show(cars[0]).labels[0] == 'race_car', 'the correction to show')
    status = ros.until(lambda: next((s for s in robot.statuses if s.heads), None), 'the status')
    assert (status.rounds, status.batches_waiting) == (0, 0)
    assert not robot.batches
    assert robot.show(pictures(frames, 'duck')[0]).labels[0] == 'duck', 'nothing is forgotten'
    ros.call(RenameLabel, 'label_collector/rename_label', label='race_car', new_label='toy')
    ros.until(lambda: robot.show(cars[0]).labels[0] == 'toy', 'the new name')


def test_with_an_economy_the_first_round_is_a_trial_and_the_next_waits_for_what_it_brought(
    ros, deployed, frames, monkeypatch
):
    monkeypatch.setattr('etuner_ros.core.decide.lazy_tune.LEAST_TRIAL', 4)
    robot = Robot(ros, deployed, lazy_tune__economy=0.5)
    cars, trays = pictures(frames, 'race_car'), pictures(frames, 'tray')
    for car, tray in zip(cars[:2], trays[:2]):
        assert robot.teach(car, 'race_car').code == LabelReceipt.ACCEPTED
        assert robot.teach(tray, 'tray').code == LabelReceipt.ACCEPTED
    ros.until(lambda: robot.statuses[-1].rounds == 1, 'the trial')
    for car, tray in zip(cars[2:8], trays[2:8]):
        assert robot.teach(car, 'race_car').code == LabelReceipt.ACCEPTED
        assert robot.teach(tray, 'tray').code == LabelReceipt.ACCEPTED

    def reason() -> str:
        return robot.statuses[-1].reason

    ros.until(lambda: 'labels so far: too little' in reason(), 'the decision in words')
    assert robot.statuses[-1].rounds == 1


def test_the_status_says_what_rounds_have_brought(ros, deployed):
    robot = Robot(ros, deployed)
    told = Prospects(64, 480, True, compared=64, gained=4, lost=1, since_round=64)
    ros.until(lambda: robot.statuses, 'a first status')
    robot.tuner._worker_prospects(asdict(told))
    # At once: the worker, which has nothing to compare yet, may say so next.
    status = status_message(robot.tuner._keeper, '', 0, None)
    assert (status.labels_compared, status.labels_won, status.labels_lost) == (64, 4, 1)


def test_rounds_that_have_lost_are_taken_back_and_what_was_taught_stays(
    ros, deployed, frames, monkeypatch
):
    monkeypatch.setattr('etuner_ros.core.decide.lazy_tune.LEAST_TRIAL', 4)
    robot = Robot(ros, deployed, lazy_tune__economy=0.5)
    lazy = robot.tuner._lazy
    take = lazy.on_prospects

    def lost(told: Prospects) -> None:  # as where rounds do not pay
        bad = replace(told, compared=64, gained=0, lost=5, since_round=64)
        take(bad if told.tuned else told)

    monkeypatch.setattr(lazy, 'on_prospects', lost)
    updates = ros.listen(ModelUpdate, 'model', LATCHED)
    ros.until(lambda: updates, 'the deployed version')
    deployed_backbone = updates[0].backbone_sha256
    cars, trays = pictures(frames, 'race_car'), pictures(frames, 'tray')
    for car, tray in zip(cars[:2], trays[:2]):
        assert robot.teach(car, 'race_car').code == LabelReceipt.ACCEPTED
        assert robot.teach(tray, 'tray').code == LabelReceipt.ACCEPTED
    ros.until(
        lambda: any(u.backbone_sha256 != deployed_backbone for u in updates), 'the trial, live'
    )
    ros.until(
        lambda: updates[-1].backbone_sha256 == deployed_backbone, 'the deployed network, live'
    )
    assert {'race_car', 'tray'} <= set(updates[-1].classes)
    ros.until(lambda: robot.show(cars[3]).labels[0] == 'race_car', 'what was taught')
    assert robot.teach(cars[4], 'race_car').code == LabelReceipt.ACCEPTED
    for tray in trays[3:6]:
        assert robot.teach(tray, 'tray').code == LabelReceipt.ACCEPTED
    ros.until(
        lambda: 'another one with 400 new labels' in robot.statuses[-1].reason,
        'the decision in words',
    )


def test_frames_that_nobody_labels_reach_the_head(ros, deployed, frames, monkeypatch):
    """As the tuner sends them: the same labels make another head when such frames were seen."""
    monkeypatch.setattr(frame_features, 'UNLABELLED_PERIOD_S', 0.0)
    robot = Robot(ros, deployed, budget__min_battery=0.5)
    robot.tuner._budget.on_battery(0.1)  # no round starts
    sent, send = [], robot.tuner._link.client.send
    monkeypatch.setattr(robot.tuner._link.client, 'send', lambda m: (sent.append(m), send(m)))
    cars, trays = pictures(frames, 'race_car'), pictures(frames, 'tray')
    told = ros.listen(DiagnosticArray, '/diagnostics')

    def value(key: str) -> str:
        mine = [m.status[0] for m in told if 'tuner' in m.status[0].name]
        return next((v.value for s in mine[-1:] for v in s.values if v.key == key), '')

    others = itertools.cycle((*cars[4:], *trays[4:]))

    def enough() -> bool:
        """Show one more: features go out only when `inference` knows that somebody listens."""
        robot.show(next(others))
        return int(value('frames without a label seen') or 0) >= 5

    ros.until(enough, 'unlabelled frames')
    for car, tray in zip(cars[:2], trays[:2]):
        assert robot.teach(car, 'race_car').code == LabelReceipt.ACCEPTED
        assert robot.teach(tray, 'tray').code == LabelReceipt.ACCEPTED
    ros.until(lambda: {'samples', 'unlabelled'} <= {m['op'] for m in sent}, 'a batch')
    assert robot.statuses[-1].rounds == 0
    assert value('last problem') == ''

    heads = []
    ours, theirs = socket.socketpair()
    with ours, theirs, Connection(ours.detach()) as connection:
        for ops in (('samples',), ('unlabelled', 'samples')):
            worker = Worker(connection)
            worker.handle({'op': 'open', 'path': str(deployed)})
            for message in [m for m in sent if m['op'] in ops]:
                worker.handle(message)
            head = worker.commands.learner.head.instant
            heads.append(head.linear(head.classes)[0])
    assert heads[0].shape == heads[1].shape
    assert not torch.allclose(*heads, rtol=0.05)


def test_while_weights_are_pinned_no_head_goes_live_and_afterwards_it_does(ros, deployed, frames):
    robot = Robot(ros, deployed)
    verdicts = ros.listen(ModelVerdict, 'verdicts')
    robot.manager.trigger_deactivate()
    cars = pictures(frames, 'race_car')
    robot.teach(cars[0], 'race_car')
    ros.until(lambda: verdicts, 'the verdict')
    assert verdicts[0].code == ModelVerdict.PINNED
    assert robot.show(cars[0]).model_version == 0
    pinned = 'weights are pinned'
    ros.until(lambda: pinned in robot.statuses[-1].reason, 'why no round would start')
    robot.manager.trigger_activate()
    ros.until(lambda: pinned not in robot.statuses[-1].reason, 'the end of it')
    robot.teach(cars[1], 'race_car')
    ros.until(lambda: robot.show(cars[0]).labels[0] == 'race_car', 'both corrections to show')


def test_a_round_that_can_not_start_says_why_and_while_one_runs_a_correction_shows(
    ros, deployed, frames
):
    robot = Robot(ros, deployed, train__epochs=1000.0, train__max_iterations=100000)
    client = ActionClient(ros.probe, FineTune, 'tuner/fine_tune')
    ros.until(client.server_is_ready, 'the action server')

    def ask() -> object:
        handle = client.send_goal_async(FineTune.Goal())
        ros.until(handle.done, 'the goal to be taken')
        return handle.result()

    empty = ask().get_result_async()
    ros.until(empty.done, 'the answer without labels')
    assert empty.result().result.error_code == FineTune.Result.NOTHING_TO_LEARN
    for image in pictures(frames, 'tray')[:4]:
        robot.teach(image, 'tray')
    ros.until(
        lambda: robot.statuses[-1].state == TunerStatus.TUNING and robot.statuses[-1].progress > 0,
        'a round that runs for long',
    )
    number = robot.statuses[-1].reason.partition(' on ')[0]
    busy = ask().get_result_async()
    ros.until(busy.done, 'the answer while a round runs')
    assert busy.result().result.error_code == FineTune.Result.BUSY
    car = pictures(frames, 'race_car')[0]
    robot.teach(car, 'race_car')
    ros.until(lambda: robot.show(car).labels[0] == 'race_car', 'the correction to show')
    assert robot.state == TunerStatus.TUNING
    assert robot.statuses[-1].reason.startswith(f'{number} on '), 'the same round'


def test_the_action_reports_progress_and_is_cancelled_within_a_batch(ros, deployed, frames):
    robot = Robot(
        ros,
        deployed,
        train__epochs=1000.0,
        train__max_iterations=100000,
        lazy_tune__max_batches=50,
        scenario__warm_up=100000,
        head__enabled=False,
    )
    robot.tuner._lazy._chosen = 50.0  # nothing starts by itself
    for image in pictures(frames, 'mug')[:4]:
        robot.teach(image, 'duck')
    ros.until(lambda: robot.statuses[-1].batches_waiting == 1, 'a waiting batch')
    client = ActionClient(ros.probe, FineTune, 'tuner/fine_tune')
    ros.until(client.server_is_ready, 'the action server')
    feedback: list = []
    goal = client.send_goal_async(FineTune.Goal(), feedback_callback=feedback.append)
    ros.until(goal.done, 'the goal to be taken')
    result = goal.result().get_result_async()
    ros.until(lambda: len(feedback) >= 2, 'progress')
    goal.result().cancel_goal_async()
    ros.until(result.done, 'the cancelled result')
    assert result.result().result.error_code == FineTune.Result.CANCELLED
    assert feedback[0].feedback.iteration == 1
    assert feedback[0].feedback.iterations == 1000
    assert robot.show(pictures(frames, 'duck')[0]).model_version == 0


def test_a_hung_worker_is_noticed_and_its_round_ends(ros, deployed, frames):
    settings = {'train__epochs': 1000.0, 'train__max_iterations': 100000, 'head__enabled': False}
    robot = Robot(ros, deployed, restart_delay_s=0.1, **settings)
    for image in pictures(frames, 'tray')[:4]:
        robot.teach(image, 'tray')
    ros.until(lambda: robot.statuses[-1].progress > 0, 'a round')
    first = robot.tuner._worker.pid
    robot.tuner.set_parameters([Parameter('worker_timeout_s', value=2.0)])
    os.kill(first, signal.SIGSTOP)
    ros.until(lambda: any('hangs' in s.reason for s in robot.statuses), 'it to be noticed')
    robot.tuner.set_parameters([Parameter('worker_timeout_s', value=300.0)])
    ros.until(lambda: robot.state == TunerStatus.TUNING, 'the round of the next worker')
    assert robot.tuner._worker.pid != first
    assert not psutil.pid_exists(first)
    assert robot.statuses[-1].tuning_s > 0, 'the lost round has cost its time'


def test_while_a_killed_worker_starts_again_inference_goes_on_and_it_replays_what_was_learned(
    ros, deployed, frames, monkeypatch
):
    shared = {'model__weights': str(deployed), 'gate__enabled': False}
    robot = Robot(ros, deployed, shared, head__enabled=False, restart_delay_s=0.1)
    for image in pictures(frames, 'tray')[:4]:
        robot.teach(image, 'tray')
    ros.until(lambda: robot.inference.diagnostics()['model version'] == 1, 'version 1')
    ros.until(lambda: robot.state == TunerStatus.WAITING, 'the worker to follow')
    sent: list[dict] = []
    real = WorkerClient.send
    monkeypatch.setattr(WorkerClient, 'send', lambda c, m: (sent.append(m), real(c, m)))
    first = robot.tuner._worker.pid
    os.kill(first, signal.SIGKILL)
    down = TunerStatus.DOWN
    ros.until(lambda: any(s.state == down for s in robot.statuses), 'the death to be noticed')
    assert robot.show(pictures(frames, 'tray')[4]).labels[0] == 'tray', 'inference goes on'
    for image in pictures(frames, 'race_car')[:4]:  # while no worker is there
        robot.teach(image, 'race_car')
    ros.until(lambda: robot.inference.diagnostics()['model version'] == 2, 'version 2')
    assert robot.tuner._worker.pid != first
    told = [
        (m['op'], m.get('new'), sorted({s['label'] for s in m.get('samples', ())}))
        for m in sent
        if m['op'] in ('samples', 'round')
    ]
    assert told == [
        ('samples', False, ['tray']),
        ('samples', True, ['race_car']),
        ('round', None, []),
    ]


def test_a_worker_that_the_system_kills_in_a_round_tries_again_with_smaller_batches(
    ros, deployed, frames, monkeypatch
):
    shared = {'model__weights': str(deployed), 'gate__enabled': False}
    robot = Robot(ros, deployed, shared, head__enabled=False, restart_delay_s=0.1)
    logs = ros.logs()
    real, killed = WorkerClient.send, []

    def send(client: WorkerClient, message: dict) -> None:
        real(client, message)
        if message['op'] == 'round' and not killed:  # however fast the round were
            killed.append(robot.tuner._worker.pid)
            os.kill(killed[0], signal.SIGKILL)

    monkeypatch.setattr(WorkerClient, 'send', send)
    for image in pictures(frames, 'tray')[:4]:
        robot.teach(image, 'tray')
    ros.until(lambda: robot.inference.diagnostics()['model version'] == 1, 'the round, again')
    assert len(killed) == 1
    assert robot.tuner._worker.train.batch_size == 4, 'half of 8'
    why, now = 'the worker was killed in a round', 'training batches are of 4 now'
    ros.until(lambda: any(why in m.msg and now in m.msg for m in logs), 'it to say why')


def test_collectors_that_nobody_serves_do_not_pile_up_clients(ros, deployed):
    ros.add(ModelManagerNode, model__weights=str(deployed), autostart=True)
    tuner = ros.add(TunerNode, model__weights=str(deployed))
    batches = ros.speak(LabelledBatch, 'labelled_batches', LATCHED)
    ros.until(lambda: tuner._keeper.ready, 'the worker')
    others = len(list(tuner.clients))
    for number in range(60):
        batches.publish(LabelledBatch(collector=f'/x{number}', batch_id=2))
        ros.until(lambda n=number: f'/x{n}' in tuner._labels.feed.collectors, 'it to be heard')
    batches.publish(LabelledBatch(collector='no name!', batch_id=2))
    told = ros.listen(DiagnosticArray, '/diagnostics')
    ros.until(
        lambda: any(
            'no collector can be called' in v.value
            for m in told
            for v in m.status[0].values
            if v.key == 'last problem'
        ),
        'the name to be refused',
    )
    assert len(tuner._labels.feed.collectors) <= MOST_COLLECTORS
    assert len(list(tuner.clients)) <= others + 2 * MOST_COLLECTORS


def test_the_tuner_says_which_backbone_it_waits_for_and_goes_on_when_it_has_come(ros, deployed):
    """A bridge, or an old SROS2 policy, may let `model` through alone."""
    base = read_base(deployed)
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    update = {name: base.state[name] * np.float32(1.01)}
    head = {'head.bias': base.state['head.bias'] + 1}
    backbone, version = announcement(base, 1, base.spec.classes, update)
    _, next_version = announcement(base, 2, base.spec.classes, {**update, **head})
    # Nobody predicts here: where the worker is slow to start, that alone would be told.
    tuner = ros.add(TunerNode, model__weights=str(deployed), silence_s=0.0)
    models = ros.speak(ModelUpdate, 'model', LATCHED)
    backbones = ros.speak(Backbone, 'backbone', LATCHED)
    told = ros.listen(DiagnosticArray, '/diagnostics')
    statuses = ros.listen(TunerStatus, 'tuner/status', LATCHED)
    loaded: list[int] = []
    take = tuner._worker._worker_model_loaded
    tuner._worker._worker_model_loaded = lambda m: (loaded.append(m['version']), take(m))

    def waits() -> bool:
        words = f'is for backbone {backbone.backbone_sha256[:12]}, which'
        return any(words in s.message for m in told[-1:] for s in m.status)

    models.publish(version)
    ros.until(waits, 'what it waits for')
    assert statuses[-1].state == TunerStatus.STARTING
    assert loaded == []
    backbones.publish(backbone)
    ros.until(lambda: statuses[-1].state == TunerStatus.WAITING, 'the worker to have both')
    models.publish(next_version)
    ros.until(lambda: loaded == [1, 2], 'a head for the backbone that is there')
    ros.until(lambda: not waits(), 'the end of the waiting')


def test_the_tuner_remembers_how_it_tuned_over_a_restart(ros, deployed, ros_home):
    ros.add(ModelManagerNode, model__weights=str(deployed), autostart=True)
    first = ros.add(TunerNode, model__weights=str(deployed))
    first._lazy.on_round_end(10, 0.5)
    needed = first._lazy.batches_needed
    assert needed > 1
    ros.remove(first)
    files = list((ros_home / 'etuner' / 'tuner').iterdir())
    assert [f.suffix for f in files] == ['.json']
    again = ros.add(TunerNode, model__weights=str(deployed))
    assert again._lazy.batches_needed == needed
    ros.remove(again)
    files[0].write_text('{"lazy_tune"')
    fresh = ros.add(TunerNode, model__weights=str(deployed))
    assert fresh._lazy.batches_needed == 1
    assert 'is damaged' in fresh.health._problem


def test_a_tuner_that_starts_late_gets_the_batches_that_it_missed_once(ros, deployed, frames):
    # Which batches it gets is looked at, not whether a round of four samples is any good.
    shared = {'model__weights': str(deployed), 'gate__enabled': False}
    robot = Robot(ros, deployed, shared, head__enabled=False)
    trays = pictures(frames, 'tray')
    for image in trays[:4]:
        robot.teach(image, 'tray')
    ros.until(lambda: robot.inference.diagnostics()['model version'] == 1, 'version 1')
    ros.remove(robot.tuner)
    for image in trays[4:7]:
        robot.teach(image, 'tray')
    robot.teach(pictures(frames, 'race_car')[0], 'race_car')
    ros.until(lambda: len(robot.batches) == 2, 'the second batch')
    settings = {'train__batch_size': 8, 'train__epochs': 2.0, 'head__enabled': False}
    late = ros.add(TunerNode, model__weights=str(deployed), **settings)
    ros.until(lambda: robot.inference.diagnostics()['model version'] == 2, 'version 2')
    assert late._labels.feed.cursors == {robot.collector.get_fully_qualified_name(): 2}
    manifest = robot.manager._store.manifests[2]
    assert manifest.learned == {robot.collector.get_fully_qualified_name(): 2}
    assert late._keeper.started == 1, (
        'the first batch, which was learned already, started no round'
    )


def test_of_what_no_round_has_learned_a_late_tuner_sends_as_new_only_what_may_wait(
    ros, deployed, frames, monkeypatch
):
    monkeypatch.setattr(batch_feed, 'WAITING_SHARE', 1e-6)  # of the room: one batch at least
    robot = Robot(ros, deployed, head__enabled=False)
    ros.remove(robot.tuner)
    trays, cars = pictures(frames, 'tray'), pictures(frames, 'race_car')
    for image, label in [(i, 'tray') for i in trays[:8]] + [(i, 'race_car') for i in cars[:4]]:
        robot.teach(image, label)
    ros.until(lambda: len(robot.batches) == 3, 'three batches')
    sent: list[dict] = []
    real = WorkerClient.send
    monkeypatch.setattr(WorkerClient, 'send', lambda c, m: (sent.append(m), real(c, m)))
    settings = {'train__batch_size': 8, 'train__epochs': 2.0, 'head__enabled': False}
    late = ros.add(TunerNode, model__weights=str(deployed), **settings)
    ros.until(lambda: any(m['op'] == 'round' for m in sent), 'a round')
    told = [(m['new'], [s['label'] for s in m['samples']]) for m in sent if m['op'] == 'samples']
    assert told == [(False, ['tray'] * 8), (True, ['race_car'] * 4)]
    assert late._keeper.round is not None
    assert late._keeper.round.batches == 1
    assert list(late._keeper.round.cursors.values()) == [3]


def test_the_instant_head_learns_the_label_that_counts_and_forgets_what_is_taken_back(
    ros, deployed, frames
):
    robot = Robot(ros, deployed)
    car = pictures(frames, 'race_car')[0]

    def say(seen: Prediction, label: str, author: str) -> LabelReceipt:
        count = len(robot.receipts)
        robot.labels.publish(
            LabelCorrection(
                header=seen.header, frame_uid=seen.frame_uid, label=label, author=author
            )
        )
        ros.until(lambda: len(robot.receipts) > count, 'a receipt')
        return robot.receipts[-1]

    seen = robot.show(car)
    say(seen, 'race_car', 'ann')
    ros.until(lambda: robot.show(car).labels[0] == 'race_car', 'the correction to show')
    assert say(seen, 'truck', 'bob').counting_label == ''
    ros.until(lambda: robot.show(car).labels[0] != 'race_car', 'a disputed label to be forgotten')
    say(seen, 'race_car', 'eve')
    ros.until(lambda: robot.show(car).labels[0] == 'race_car', 'the label that most say')
    assert say(seen, 'bus', 'kim').counting_label == 'race_car'
    assert not robot.batches, 'all of it before any batch went out'
    version = robot.show(car).model_version
    say(robot.show(pictures(frames, 'tray')[0]), 'tray', 'ann')  # makes another version
    ros.until(lambda: robot.show(car).model_version > version, 'the next version')
    assert robot.show(car).labels[0] == 'race_car', 'who is outvoted is not learned from'


def test_a_worker_that_takes_too_much_memory_is_started_anew_with_smaller_batches(ros, deployed):
    logs = ros.logs()
    settings = {'train__batch_size': 4, 'worker_memory_mb': 10.0}
    ros.add(ModelManagerNode, autostart=True, model__weights=str(deployed))
    tuner = ros.add(TunerNode, model__weights=str(deployed), **settings)
    ros.until(lambda: tuner._worker.train.batch_size < 4, 'the smaller batch')
    ros.until(lambda: any('worker_memory_mb is 10' in m.msg for m in logs), 'the reason')
    ros.until(lambda: tuner._worker.ready, 'the worker, which can not be made smaller')
    pid = tuner._worker.pid
    ros.until(lambda: any('less than it needs' in m.msg for m in logs), 'that it says so')
    assert tuner._worker.pid == pid, 'and goes on'


FULL = """
import sys
from etuner_ros.core.learn.learner import Learner
import etuner_ros.worker.loop as loop

real = Learner.run_round
failures = [
    RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'),
    RuntimeError('NvMapMemAllocInternalTagged: 1075072515 error 12'),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator.cpp'),
    MemoryError(),
]

def run_round(self, *arguments):
    if failures:
        raise failures.pop()
    return real(self, *arguments)

Learner.run_round = run_round
loop.main()
"""


def test_lack_of_memory_halves_the_batch_and_the_round_goes_on(
    ros, deployed, frames, tmp_path, monkeypatch
):
    """As torch and the driver of a Jetson tell it, one after the other."""
    script = tmp_path / 'worker.py'
    script.write_text(FULL)
    real = subprocess.Popen

    def popen(command: list[str], **options: object) -> subprocess.Popen:
        if 'etuner_ros.worker' in command:
            command = [command[0], str(script), command[-1]]
        return real(command, **options)

    monkeypatch.setattr(subprocess, 'Popen', popen)
    robot = Robot(ros, deployed, head__enabled=False, train__batch_size=64)
    logs = ros.logs()
    for image in pictures(frames, 'tray')[:4]:
        robot.teach(image, 'tray')
    ros.until(lambda: robot.inference.diagnostics()['model version'] == 1, 'a new version')
    assert robot.tuner._worker.train.batch_size == 4
    ros.until(lambda: any('batches are of 32 now' in m.msg for m in logs), 'the warning')


def test_no_worker_outlives_a_tuner_that_is_killed(ros, deployed):
    executable = Path(get_package_prefix('etuner_ros')) / 'lib' / 'etuner_ros' / 'tuner'
    command = [sys.executable, str(executable), '--ros-args']
    command += ['-p', f'model.weights:={deployed}', '-r', f'__ns:={ros.namespace}']
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)}
    tuner = subprocess.Popen(command, env=environment)
    statuses = ros.listen(TunerStatus, 'tuner/status', LATCHED)
    ros.until(lambda: statuses, 'the tuner')
    workers = psutil.Process(tuner.pid).children(recursive=True)
    assert len(workers) == 1
    tuner.kill()
    tuner.wait()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive


def test_a_tuner_that_can_not_open_its_base_weights_fetches_those_of_the_manager(ros, deployed):
    """On another computer the file that the settings name is not there."""
    ros.add(ModelManagerNode, autostart=True, model__weights=str(deployed))
    tuner = ros.add(TunerNode, model__weights='/nowhere/base.safetensors')
    ros.until(lambda: tuner._keeper.ready, 'the tuner to be ready')
    assert tuner._link.base, 'by what it fetched'


def test_an_inference_node_without_the_base_weights_fetches_them(ros, deployed, ros_home):
    ros.add(ModelManagerNode, model__weights=str(deployed), autostart=True)
    node = ros.add(InferenceNode, autostart=True, model__input_size=64)
    ros.until(
        lambda: node.diagnostics()['classes'] == 4, 'the classes of the fetched base weights'
    )
    digest = read_base(deployed).sha256
    assert cached(digest).read_bytes() == deployed.read_bytes()


@pytest.mark.parametrize('namespace', ['/robot_a', '/robot_b'])
def test_nodes_work_in_any_namespace(ros, deployed, duck_image, namespace):
    ros.namespace = namespace
    probe = ros.add(lambda **options: __import__('rclpy.node').node.Node('probe', **options))
    ros.probe = probe
    ros.add(InferenceNode, model__weights=str(deployed), autostart=True)
    predictions = ros.listen(Prediction, f'{namespace}/predictions')
    images = ros.speak(Image, f'{namespace}/image_raw', NEWEST_WINS)

    def answered() -> bool:
        images.publish(image_message(duck_image, header(1)))
        return bool(predictions)

    ros.until(answered, 'a prediction in the namespace')


@pytest.fixture
def duck_image(frames: list) -> np.ndarray:
    return next(f.image for f in frames if f.label == 'duck')


def test_a_change_that_one_camera_sees_leaves_labels_of_another_current(ros, deployed, frames):
    """Scenarios were counted over all cameras, so labels of the other one counted as old."""
    # So long that the few frames of the other camera describe nothing yet.
    robot = Robot(ros, deployed, head__enabled=False, scenario__warm_up=250)
    changes = ros.listen(ScenarioChange, 'scenario_changes')
    candidates = ros.listen(ModelCandidate, 'candidate')
    requests = ros.speak(Prediction, 'predictions')
    rng = np.random.default_rng(0)
    topic = requests.topic_name
    ros.until(
        lambda: requests.get_subscription_count() == ros.probe.count_subscribers(topic),
        'all who hear predictions',
    )
    number = 0

    def look() -> None:
        nonlocal number
        if number > len(robot.predictions) + 20:  # queues lose what they can not hold
            return
        shift = 0.0 if number < 320 else 6.0
        appearance = [float(v) for v in 9.0 + rng.normal(size=40) + shift]
        requests.publish(Prediction(header=header(number), source='rear', appearance=appearance))
        number += 1

    ros.until(lambda: look() or changes, 'the rear camera to see other surroundings')
    assert [(c.source, c.scenario) for c in changes] == [('rear', 1)]
    for image in pictures(frames, 'tray')[:4]:
        robot.teach(image, 'tray')
    ros.until(lambda: robot.statuses[-1].last_round_s > 0, 'a round')
    made = candidates[0]
    assert dict(zip(made.scenario_sources, made.scenarios)) == {'camera': 0, 'rear': 1}
    assert robot.statuses[-1].accuracy_before == 0.0, 'all four were predicted wrong, just now'
    assert (robot.statuses[-1].scenario_source, robot.statuses[-1].scenario) == ('rear', 1)


def test_a_robot_calibrates_itself_and_serves_in_8_bit(ros, deployed, frames):
    """Frames that it kept give the ranges; corrections go on as before."""
    shared = {'model__weights': str(deployed), 'engine': 'onnxruntime', 'precision': 'int8'}
    robot = Robot(ros, deployed, shared, train__max_iterations=4)
    assert not robot.inference.diagnostics()['engine'].endswith('int8')
    shown = [f for f in frames if f.label in ('duck', 'mug', 'r2d2')]
    for frame in (shown * 2)[:34]:  # pictures of the deployment do not count
        assert robot.teach(frame.image, frame.label).code == LabelReceipt.ACCEPTED
    more = itertools.cycle(shown)

    def quantised() -> bool:
        # Of few labels the gate may refuse a version for one of them: then more are needed.
        if robot.state == TunerStatus.WAITING:
            frame = next(more)
            robot.teach(frame.image, frame.label)
        return robot.inference.diagnostics()['engine'] == 'onnxruntime-int8'

    ros.until(quantised, 'a version in 8 bit', 120.0)
    assert robot.tuner._diagnostics()['not quantised because'] == 'nothing speaks against it'
    cars = itertools.cycle(pictures(frames, 'race_car'))

    def learned() -> bool:  # with seven held-back samples the gate may refuse the first head
        car = next(cars)
        robot.teach(car, 'race_car')
        return robot.show(car).labels[0] == 'race_car'

    ros.until(learned, 'corrections to show', 60.0)
    assert robot.inference.diagnostics()['engine'] == 'onnxruntime-int8'


def test_on_torch_alone_all_works_too(ros, deployed, frames):
    robot = Robot(ros, deployed, {'model__weights': str(deployed), 'engine': 'torch'})
    duck = pictures(frames, 'duck')[0]
    assert robot.show(duck).labels[0] == 'duck'
    robot.teach(duck, 'toy')
    ros.until(lambda: robot.show(duck).labels[0] == 'toy', 'the correction to show')
    told = robot.inference.diagnostics()
    assert (told['engine'], told['warming up']) == ('torch-fp32', False)
