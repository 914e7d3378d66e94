# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`etuner demo`: the recorded stream through the real nodes, a live view, and a page with what
happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
import importlib.util
import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
import yaml

from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError, ImageError
from etuner_ros.core.files import recorded_stream, replace_file, share
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.images.sources import Recording, SourceFrame
from etuner_ros.core.models.deploy import choose_exemplars, extract_features, fit_head
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.models.weights import pack_base
from etuner_ros.demo.record import Deployed, Record, Shot
from etuner_ros.demo.report import write_page
from etuner_ros.demo.score import nearest_mean_predictions, score, score_table
from etuner_ros.shared.answers import json_text
from etuner_ros.shared.supervisor import Supervisor

NODES = ('model_manager', 'inference', 'label_collector', 'tuner', 'operator', 'camera')
ROLLING = 50  # frames
MARK = '.etuner_demo'  # in a folder that a demo made and may empty
LEAST_FRAMES = 4  # of the first scenario, half of which the deployed model learns


@contextmanager
def reading(stream: Path) -> Iterator[None]:
    """Say in one line why a recording can't be read."""
    try:
        yield
    except EtunerError:
        raise
    except Exception as error:  # rosbags raises many kinds for damaged recordings
        why = ' '.join(str(error).split())
        raise ImageError(f'the recording {stream} can not be read: {why}') from error


def read(stream: Path) -> list[SourceFrame]:
    """
    Return the pictures of a recording that can be played.

    :raises ImageError: when it can't be read, or does not say what each picture shows
    """
    with reading(stream):
        frames = list(Recording(stream))
    without = sum(not frame.label for frame in frames)
    if not frames or without:
        raise ImageError(
            f'of the {len(frames)} pictures of the recording {stream} {without} have no ground '
            f'truth: the demo needs it of all'
        )
    if sum(frame.scenario == frames[0].scenario for frame in frames) < LEAST_FRAMES:
        raise ImageError(
            f'the recording {stream} has too few pictures of its first scenario to deploy a '
            f'model on: {LEAST_FRAMES} at least'
        )
    return frames


def deploy(frames: Sequence[SourceFrame], output: Path, console: Console) -> Deployed:
    """
    Fit the deployed model to the first half of the first scenario; check it on the second half.
    """
    first = [i for i, f in enumerate(frames) if f.scenario == frames[0].scenario]
    half = first[: len(first) // 2]
    images = [resize_square(f.image, INPUT_SIZE) for f in frames]
    labels = [f.label for f in frames]
    model = build(pretrained_spec('efficientnet_lite0', INPUT_SIZE), 'pretrained')
    fit_head(model, [images[i] for i in half], [labels[i] for i in half])
    features = extract_features(model, images)
    untuned = [model.classes[i] for i in model.head(features).argmax(dim=1).tolist()]
    rest = first[len(half) :]
    accuracy = float(np.mean([untuned[i] == labels[i] for i in rest]))
    exemplars = choose_exemplars([images[i] for i in half], [labels[i] for i in half])
    weights = output / 'deployed.safetensors'
    replace_file(weights, pack_base(model.state(), model.spec, model.unit_sizes, exemplars))
    console.print(
        f'[bold]deployed model[/]: EfficientNet-Lite0, head fitted to {len(half)} frames of '
        f'"{frames[0].scenario}", '
        f'{len(model.classes)} kinds; on the other half it reaches [bold]{100 * accuracy:.1f} '
        f'%[/]',
        soft_wrap=True,
    )
    return Deployed(
        weights, list(frames), len(half), model.classes, untuned, features.numpy(), accuracy
    )


def write_params(path: Path, deployed: Deployed, stream: Path, seed: int, rate: float) -> None:
    """Write what the demo sets beyond config/etuner.yaml."""
    parameters = {
        '/**': {'model': {'weights': str(deployed.weights.resolve()), 'input_size': INPUT_SIZE}},
        '/**/camera': {
            'source': str(stream),
            'skip': deployed.start,
            'rate_hz': rate,
            'autoplay': False,
        },
        '/**/inference': {'keep_rate_hz': 2 * rate},
        '/**/operator': {
            'rate_hz': 2.5,
            'share': 0.7,
            'delay_s': 0.8,
            'jitter_s': 1.0,
            'seed': seed,
        },
        '/**/tuner': {'train': {'seed': seed}},
    }
    path.write_text(
        yaml.safe_dump({name: {'ros__parameters': values} for name, values in parameters.items()})
    )


class _Launched:
    """The system under the real `ros2 launch`, with the face of a Supervisor."""

    def __init__(self, params: Path, source: str, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self._log = (logs / 'launch.log').open('ab')
        command = [
            'ros2',
            'launch',
            'etuner_ros',
            'etuner.launch.py',
            f'params_file:={params}',
            f'source:={source}',
            'operator:=true',
            'autoplay:=false',
        ]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.restarts = 0

    def check(self) -> list[str]:
        if self._process.poll() is not None:
            raise EtunerError(
                f'ros2 launch ended with exit code {self._process.returncode}; see '
                f'{self._log.name}'
            )
        return []

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._log.close()


class Observer:
    """Listens to the running system and draws it."""

    def __init__(self, deployed: Deployed, seed: int, rate: float) -> None:
        # ROS is imported here, after the domain was chosen.
        from diagnostic_msgs.msg import DiagnosticArray
        import rclpy
        from rclpy.signals import SignalHandlerOptions
        from std_msgs.msg import Bool
        from std_srvs.srv import SetBool

        from etuner_ros.msg import (
            GroundTruth,
            LabelReceipt,
            ModelUpdate,
            ModelVerdict,
            Prediction,
            ScenarioChange,
            TunerStatus,
        )
        from etuner_ros.nodes.messages import tuner_state
        from etuner_ros.nodes.qos import LATCHED, reliable

        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is ours to handle
        self._rclpy = rclpy
        self.node = rclpy.create_node('demo')
        self._deployed, self._rate = deployed, rate
        self.record = Record(seed)
        self._by_stamp: dict[tuple[int, int], Shot] = {}
        self._began = 0.0
        self.playing = self.finished = False
        self.status: Any = None
        self._verdict = ''
        self._recent: deque[tuple[bool, bool]] = deque(maxlen=ROLLING)
        self._version = 0
        self._state_of = tuner_state
        make = self.node.create_subscription
        make(GroundTruth, 'ground_truth', self._on_truth, reliable(200))
        make(Prediction, 'predictions', self._on_prediction, reliable(200))
        make(LabelReceipt, 'label_receipts', self._on_receipt, reliable(200))
        make(ModelUpdate, 'model', self._on_model, LATCHED)
        make(TunerStatus, 'tuner/status', self._on_status, LATCHED)
        make(
            ScenarioChange,
            'scenario_changes',
            lambda _: self.record.changes.append(self._now()),
            reliable(20),
        )
        make(ModelVerdict, 'verdicts', self._on_verdict, reliable(20))
        make(Bool, 'camera/playing', self._on_playing, LATCHED)
        make(DiagnosticArray, '/diagnostics', self._on_diagnostics, reliable(50))
        self._matched = False
        self._play = self.node.create_client(SetBool, 'camera/play')
        self._request = SetBool.Request(data=True)

    def _now(self) -> float:
        return time.monotonic() - self._began if self._began else 0.0

    def _on_diagnostics(self, message: Any) -> None:
        """Note when the camera's pictures have found their way to `inference`."""
        for status in message.status:
            if status.name.endswith('camera: etuner'):
                values = {item.key: item.value for item in status.values}
                self._matched = values.get('image subscribers', '0') != '0'

    def _on_truth(self, message: Any) -> None:
        index = self._deployed.start + len(self.record.shots)
        shot = Shot(index, message.scenario, message.label, self._now())
        self.record.shots.append(shot)
        self._by_stamp[message.header.stamp.sec, message.header.stamp.nanosec] = shot

    def _on_prediction(self, message: Any) -> None:
        shot = self._by_stamp.get((message.header.stamp.sec, message.header.stamp.nanosec))
        if shot is None:
            return
        shot.predicted, shot.version = (
            (message.labels[0] if message.labels else ''),
            message.model_version,
        )
        if message.model_version != self._version:
            self._version = message.model_version
            self.record.swaps.append((self._now(), message.model_version))
        self._recent.append(
            (shot.predicted == shot.truth, self._deployed.untuned[shot.index] == shot.truth)
        )

    def _on_receipt(self, message: Any) -> None:
        shot = self._by_stamp.get((message.header.stamp.sec, message.header.stamp.nanosec))
        if shot is not None and message.code == message.ACCEPTED:
            self.record.labels.append((self._now(), shot.index))

    def _on_model(self, message: Any) -> None:
        self.record.frozen.append((self._now(), len(message.frozen_layers)))

    def _on_status(self, message: Any) -> None:
        if message.tuning_s > self.record.tuning_s:
            self.record.rounds.append((self._now(), message.last_round_s))
        self.status, self.record.tuning_s = message, message.tuning_s
        self.record.refused, self.record.layers = message.refused, message.layers_total

    def _on_verdict(self, message: Any) -> None:
        self._verdict = message.reason

    def _on_playing(self, message: Any) -> None:
        if message.data:
            self.playing = True
        elif self.playing:
            self.finished = True

    @property
    def ready(self) -> bool:
        """Whether the whole loop is up."""
        if (
            self.status is None
            or self.status.state != self.status.WAITING
            or not self._play.service_is_ready()
        ):
            return False
        topics = ('predictions', 'label_receipts', 'ground_truth')
        return self._matched and all(self.node.count_publishers(topic) for topic in topics)

    def play(self) -> None:
        """Start the camera."""
        self._began = time.monotonic()
        self._play.call_async(self._request)

    def spin(self, seconds: float) -> None:
        """Handle messages for a while."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._rclpy.spin_once(self.node, timeout_sec=left)

    def close(self) -> None:
        """Leave ROS."""
        self.node.destroy_node()
        self._rclpy.shutdown()

    def line(self) -> str:
        """Return the state in one line, for a log."""
        mine, untuned = self._rolling()
        shots, status = self.record.shots, self.status
        where = shots[-1].scenario if shots else '-'
        return (
            f'{self._now():4.0f} s  {where:10s} accuracy {mine:3.0f} % (untuned {untuned:3.0f} '
            f'%)  version {self._version}  '
            f'batches {status.batches_waiting} of {status.batches_needed}  frozen '
            f'{status.layers_frozen} of {status.layers_total}  '
            f'{self._state_of(status)}'
        )

    def _rolling(self) -> tuple[float, float]:
        if not self._recent:
            return 0.0, 0.0
        mine, untuned = zip(*self._recent)
        return 100 * sum(mine) / len(mine), 100 * sum(untuned) / len(untuned)

    def panel(self) -> Panel:
        """Draw the state."""
        mine, untuned = self._rolling()
        status, shots = self.status, self.record.shots
        total = len(self._deployed.frames) - self._deployed.start
        table = Table.grid(padding=(0, 2))
        table.add_column(style='dim', justify='right')
        table.add_column()

        def bar(value: float, style: str) -> Group:
            return Group(
                Text(f'{value:3.0f} %', style=f'bold {style}'),
                ProgressBar(
                    total=100,
                    completed=value,
                    width=46,
                    complete_style=style,
                    finished_style=style,
                ),
            )

        scenario = shots[-1].scenario if shots else 'not started'
        found = f'  (changes noticed by the robot: {len(self.record.changes)})'
        table.add_row('scenario', Text.assemble((scenario, 'bold'), (found, 'dim')))
        table.add_row(f'accuracy, last {ROLLING} frames', bar(mine, 'green'))
        table.add_row('the same, left untuned', bar(untuned, 'red'))
        if status is not None:
            frozen = Text('■' * status.layers_frozen, style='cyan') + Text(
                '□' * (status.layers_total - status.layers_frozen), style='yellow'
            )
            table.add_row(
                'layers frozen', Text(f'{status.layers_frozen} of {status.layers_total} ') + frozen
            )
            waiting = f'{status.batches_waiting} waiting, {status.batches_needed} needed'
            table.add_row(
                'labelled batches', f'{waiting}   ({len(self.record.labels)} labels so far)'
            )
            state = self._state_of(status)
            reason = status.reason.removeprefix(f'{state}: ')[:66]
            done = f' {100 * status.progress:.0f} %' if status.progress else ''
            table.add_row('tuner', Text.assemble((state + done, 'bold'), (f'  {reason}', 'dim')))
            table.add_row(
                'last round',
                f'{status.last_round_s:.1f} s of {status.tuning_s:.0f} s in {status.rounds} '
                f'rounds, {status.refused} refused',
            )
        table.add_row(
            'weights',
            Text.assemble(
                (f'version {self._version}', 'bold'), (f'  {self._verdict[:54]}', 'dim')
            ),
        )
        if shots and shots[-1].predicted is not None:
            last = shots[-1]
            right = last.predicted == last.truth
            table.add_row(
                'sees',
                Text.assemble(
                    (last.predicted or '?', 'green' if right else 'red'),
                    '' if right else f'  (it is a {last.truth})',
                ),
            )
        progress = ProgressBar(total=total, completed=len(shots), width=60)
        left = (total - len(shots)) / self._rate
        head = Text(f'{len(shots)} of {total} frames, {left:.0f} s to go', style='dim')
        return Panel(
            Group(table, Text(), progress, head),
            title='etuner_ros: a robot that keeps learning',
            width=100,
        )


def play(
    deployed: Deployed, stream: Path, output: Path, seed: int, rate: float, console: Console
) -> Record:
    """Run the system over the stream once and return what happened."""
    params = output / 'params.yaml'
    write_params(params, deployed, stream, seed, rate)
    os.environ['ROS_HOME'] = str(output.resolve() / f'ros_home_{seed}')
    os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 100))
    if os.environ.get('ROS_DISTRO') == 'humble':
        os.environ['ROS_LOCALHOST_ONLY'] = '1'
    else:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    system: Supervisor | _Launched
    if shutil.which('ros2') and importlib.util.find_spec('launch_ros'):
        system = _Launched(params, str(stream), output / 'log')
    else:
        system = Supervisor([share() / 'config' / 'etuner.yaml', params], output / 'log')
    observer = Observer(deployed, seed, rate)
    try:
        if isinstance(system, Supervisor):
            for name in NODES:
                system.start(name)
        deadline = time.monotonic() + 90
        with console.status('starting the nodes') if console.is_terminal else console.capture():
            while not observer.ready:
                observer.spin(0.2)
                for died in system.check():
                    console.print(
                        f'[red]{died} ended; it is started again[/] (see {output / "log"})'
                    )
                if time.monotonic() > deadline:
                    raise EtunerError(
                        f'the nodes did not come up within 90 s; their logs are in '
                        f'{output / "log"}'
                    )
        observer.play()
        total = len(deployed.frames) - deployed.start
        limit = time.monotonic() + total / rate * 1.5 + 30
        if console.is_terminal:
            with Live(observer.panel(), console=console, refresh_per_second=4) as live:
                while not observer.finished and time.monotonic() < limit:
                    observer.spin(0.25)
                    system.check()
                    live.update(observer.panel())
        else:
            spoken = time.monotonic()
            while not observer.finished and time.monotonic() < limit:
                observer.spin(0.25)
                system.check()
                if time.monotonic() - spoken > 10:
                    spoken = time.monotonic()
                    console.print(observer.line(), highlight=False, soft_wrap=True)
        observer.spin(1.0)  # the last predictions
        observer.record.seconds = observer._now()
        observer.record.restarts = system.restarts
        return observer.record
    finally:
        observer.close()
        system.stop()


def keep_apart(stream: Path, output: Path) -> None:
    """
    Leave a recording alone that lies in the folder to empty.

    :raises EtunerError: when it does
    """
    if stream.resolve().is_relative_to(output.resolve()):
        raise EtunerError(f'{stream} lies in {output}, which a demo empties first')


def empty(output: Path) -> None:
    """
    Make a folder for a demo, or empty one that a demo has made before.

    :raises EtunerError: when there is something else in it
    """
    if output.exists() and any(output.iterdir()) and not (output / MARK).exists():
        raise EtunerError(
            f'{output} is not empty and not of an earlier demo; choose another folder with '
            f'--output'
        )
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    (output / MARK).touch()


def run_demo(
    output: Path, seeds: list[int], rate: float, stream: Path | None, as_json: bool = False
) -> int:
    """
    Run the demo for each seed; write the page of the first, the figures of all.

    :param as_json: print the figures, and all else on standard error
    """
    console = Console(stderr=as_json)
    stream = stream or recorded_stream()
    keep_apart(stream, output)
    frames = read(stream.resolve())  # before anything of an earlier demo goes
    empty(output)
    began = time.monotonic()
    deployed = deploy(frames, output, console)
    results, records = [], []
    for seed in seeds:
        record = play(deployed, stream.resolve(), output, seed, rate, console)
        records.append(record)
        results.append(score(record, deployed))
        missed = sum(s.predicted is None for s in record.shots)
        console.print(
            f'seed {seed}: {len(record.shots)} frames ({missed} without a prediction), '
            f'{len(record.labels)} labels, {len(record.rounds)} rounds '
            f'({record.refused} refused) in {record.tuning_s:.0f} s of {record.seconds:.0f} s, '
            f'{len(record.swaps)} swaps, '
            f'{len(record.changes)} scenario changes noticed',
            highlight=False,
            soft_wrap=True,
        )
        if len(record.shots) < len(deployed.frames) - deployed.start:
            console.print(f'[red]the run was cut short; the logs are in {output / "log"}[/]')
            return 1
    table, gain = score_table(results, seeds)
    console.print(table)
    console.print(
        f'gain on known kinds over the scenarios after the first: [bold]{gain:+.1f} points[/]'
    )
    page = output / 'index.html'
    write_page(
        page, deployed, records[0], results[0], nearest_mean_predictions(records[0], deployed)
    )
    figures = {
        'deployed_accuracy': deployed.accuracy,
        'gain_points': gain,
        'seeds': seeds,
        'scores': [[vars(s) for s in r] for r in results],
        'runs': [
            {
                'seed': r.seed,
                'labels': len(r.labels),
                'rounds': len(r.rounds),
                'refused': r.refused,
                'tuning_s': r.tuning_s,
                'seconds': r.seconds,
            }
            for r in records
        ],
    }
    (output / 'figures.json').write_text(json_text(figures))
    console.print(
        f'page: [bold]{page}[/]   all in {time.monotonic() - began:.0f} s', highlight=False
    )
    if as_json:
        print(json_text(figures))
    return 0


if __name__ == '__main__':
    sys.exit(run_demo(Path('demo_output'), [0], 7.0, None))
