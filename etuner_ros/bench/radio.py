# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A tuner on a base station, the rest on the robot, a slow radio between them.

Both are network namespaces of this computer (root is needed), joined by a link whose rate `tc`
limits in each direction. The robot sees pictures, people label them, rounds and heads come back.
Measured with and without `transfer_mbit_s`: how long the weights of a round take, whether all
labels arrive, and how late predictions are on the robot meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import numpy as np

from etuner_ros.bench.head_commit import head_commit
from etuner_ros.bench.soak.robot import Robot, shipped
from etuner_ros.bench.soak.stage import deploy
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.images.sources import open_source
from etuner_ros.msg import ModelVerdict, Prediction, TunerStatus
from etuner_ros.nodes.qos import LATCHED, reliable
from etuner_ros.shared.supervisor import Supervisor

RATE_HZ = 20.0  # of the camera
LIMIT_S = 600.0  # for all rounds of a run
ROBOT, BASE = 'robot', 'base'  # the two ends of the link
ON_ROBOT = ('model_manager', 'inference', 'label_collector')


@dataclass(frozen=True)
class Lateness:
    """From the stamp of a picture until its prediction was heard on the robot."""

    frames: int
    p50_ms: float
    p99_ms: float

    @staticmethod
    def of(seconds: list[float]) -> Lateness:
        """Return what times in s say."""
        if not seconds:
            return Lateness(0, float('nan'), float('nan'))
        p50, p99 = (1e3 * float(q) for q in np.percentile(seconds, [50, 99]))
        return Lateness(len(seconds), round(p50, 1), round(p99, 1))


@dataclass(frozen=True)
class Run:
    """What happened with one setting of `transfer_mbit_s`."""

    transfer_mbit_s: float
    radio_mbit_s: float
    rounds: int  # whose weights came and got a verdict
    accepted: int
    lost_rounds: int  # that got none
    seconds_to_verdict: list[float]  # from when a round was proposed
    head_versions: int  # that went live
    labels_accepted: int
    batches_made: int
    batches_received: int  # by the tuner
    calm: Lateness  # nothing large is on its way, no round trains
    moving: Lateness  # weights of a round are on their way to the robot
    mb_to_robot: float
    mb_to_base: float


@dataclass
class _Seen:
    """What the robot's side has seen so far."""

    calm: list[float] = field(default_factory=list)
    moving: list[float] = field(default_factory=list)
    to_verdict: list[float] = field(default_factory=list)
    accepted: int = 0
    lost: int = 0
    heads: int = 0
    state: int = TunerStatus.STARTING
    proposed_at: float | None = None
    made: int = 0
    received: int = 0


class RadioRobot(Robot):
    """The robot's nodes, a camera, people who label, and somebody who measures."""

    def __init__(self, pictures: list[Any], base: Path, home: Path, limit: float) -> None:
        limited = {
            f'/**/{name}': {'transfer_mbit_s': limit}
            for name in ('label_collector', 'tuner', 'model_manager')
        }
        super().__init__(pictures, base, home, RATE_HZ, values=limited)
        self.seen = _Seen()
        hear = self.node.create_subscription
        hear(Prediction, 'predictions', self._measure, reliable(100))
        hear(TunerStatus, 'tuner/status', self._on_status, LATCHED)
        hear(ModelVerdict, 'verdicts', self._on_verdict, reliable(10))
        hear(DiagnosticArray, '/diagnostics', self._on_diagnostics, reliable(50))

    def _measure(self, message: Prediction) -> None:
        stamp = message.header.stamp.sec + message.header.stamp.nanosec / 1e9
        if self.seen.proposed_at is not None:
            self.seen.moving.append(time.time() - stamp)
        elif self.seen.state == TunerStatus.WAITING:
            self.seen.calm.append(time.time() - stamp)

    def _on_status(self, message: TunerStatus) -> None:
        seen = self.seen
        if message.state == TunerStatus.PROPOSED and seen.state == TunerStatus.TUNING:
            seen.proposed_at = time.monotonic()
        elif message.state in (TunerStatus.WAITING, TunerStatus.TUNING) and seen.proposed_at:
            seen.proposed_at = None
            seen.lost += 1
        seen.state = message.state

    def _on_verdict(self, message: ModelVerdict) -> None:
        accepted = message.code == ModelVerdict.ACCEPTED
        if message.kind == ModelVerdict.HEAD:
            self.seen.heads += accepted
        elif self.seen.proposed_at is not None:
            self.seen.to_verdict.append(time.monotonic() - self.seen.proposed_at)
            self.seen.accepted += accepted
            self.seen.proposed_at = None

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            values = {v.key: v.value for v in status.values}
            if '/label_collector:' in status.name:
                self.seen.made = int(values['last batch'])
            elif '/tuner:' in status.name:
                last = values['batches received'].rpartition(' ')[2]
                self.seen.received = int(last or 0)


def on_robot(folder: Path, limit: float, rounds: int, stream: Path) -> None:
    """Be the robot's side; write `seen.json`."""
    frames = [f for f in open_source(str(stream)) if f.label][:288]
    robot = RadioRobot(
        [(f.image, f.label) for f in frames], folder / 'base.safetensors', folder / ROBOT, limit
    )
    seen = robot.seen
    try:
        robot.start(ON_ROBOT)
        (folder / 'up').touch()
        if not robot.until(lambda: len(seen.to_verdict) >= rounds, LIMIT_S):
            print(
                f'only {len(seen.to_verdict)} of {rounds} rounds in {LIMIT_S:.0f} s',
                file=sys.stderr,
            )
        robot.be_silent()
        made = seen.made
        robot.until(lambda: False, 12.0)  # what waits goes out as a smaller batch
        robot.until(lambda: seen.received >= seen.made > made, 30.0)
        found = {**asdict(seen), 'labels': len(robot.accepted)}
        (folder / 'seen.json').write_text(json.dumps(found))
    finally:
        robot.close()


def on_base(folder: Path) -> None:
    """Be the base station: the tuner, until somebody closes our standard input."""
    while not (folder / 'up').exists():
        time.sleep(0.1)
    os.environ['ROS_HOME'] = str(folder / BASE)
    supervisor = Supervisor([shipped(), folder / ROBOT / 'params.yaml'], folder / 'log')
    supervisor.start('tuner')
    try:
        sys.stdin.read()
    finally:
        supervisor.stop()


@contextmanager
def link(mbit_s: float) -> Iterator[dict[str, list[str]]]:
    """
    Join two network namespaces by a link of a rate; yield what to put before their commands.

    :raises EtunerError: where that is not allowed
    """
    missing = [t for t in ('unshare', 'nsenter', 'ip', 'tc') if shutil.which(t) is None]
    if missing or os.geteuid() != 0:
        what = f'the tools {", ".join(missing)} (iproute2, util-linux)' if missing else 'root'
        raise EtunerError(f'two network namespaces need {what}: run it in a container as root')
    keepers = {
        end: subprocess.Popen(['unshare', '--net', 'sleep', 'infinity']) for end in (ROBOT, BASE)
    }
    inside = {
        end: ['nsenter', '--net', '--target', str(keeper.pid)] for end, keeper in keepers.items()
    }
    try:
        own = os.readlink('/proc/self/ns/net')
        for keeper in keepers.values():
            while os.readlink(f'/proc/{keeper.pid}/ns/net') == own:
                time.sleep(0.01)
        pair = f'ip link add name radio type veth peer name radio netns {keepers[BASE].pid}'
        _do([*inside[ROBOT], *pair.split()])
        for number, end in enumerate((ROBOT, BASE), 1):
            for words in (
                'ip link set lo up',
                f'ip address add 10.93.0.{number}/24 dev radio',
                'ip link set radio up',
                f'tc qdisc add dev radio root tbf rate {mbit_s}mbit burst 32kb latency 200ms',
            ):
                _do([*inside[end], *words.split()])
        yield inside
    finally:
        for keeper in keepers.values():
            keeper.kill()
            keeper.wait()


def _do(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise EtunerError(f'{" ".join(command)}: {done.stderr.strip()}')
    return done.stdout


def run(stream: Path, mbit_s: float, limit: float, rounds: int) -> Run:
    """
    Let a robot learn over the radio.

    :param limit: `transfer_mbit_s` of all nodes
    :raises EtunerError: when the two sides can not be set up
    """
    with tempfile.TemporaryDirectory() as name, link(mbit_s) as inside:
        folder = Path(name)
        deploy(stream, folder / 'base.safetensors')
        # Shared memory would go round the radio: both sides are on one computer, after all.
        apart = {'FASTDDS_BUILTIN_TRANSPORTS': 'UDPv4', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET'}
        itself = [sys.executable, '-m', 'etuner_ros.bench.radio']
        words = [str(folder), str(limit), str(rounds), str(stream)]
        environment = {**os.environ, **apart}
        base = subprocess.Popen(
            [*inside[BASE], *itself, BASE, *words], stdin=subprocess.PIPE, env=environment
        )
        try:
            subprocess.run([*inside[ROBOT], *itself, ROBOT, *words], env=environment, check=True)
            sent = {end: _sent(command) for end, command in inside.items()}
        except subprocess.CalledProcessError as error:
            raise EtunerError(f'the robot failed (exit code {error.returncode})') from error
        finally:
            base.communicate()
        seen = json.loads((folder / 'seen.json').read_text())
    return Run(
        limit,
        mbit_s,
        len(seen['to_verdict']),
        seen['accepted'],
        seen['lost'],
        [round(s, 2) for s in seen['to_verdict']],
        seen['heads'],
        seen['labels'],
        seen['made'],
        seen['received'],
        Lateness.of(seen['calm']),
        Lateness.of(seen['moving']),
        round(sent[BASE] / 1e6, 1),
        round(sent[ROBOT] / 1e6, 1),
    )


def _sent(inside: list[str]) -> int:
    """Return the bytes that an end of the link has sent."""
    lines = _do([*inside, 'ip', '-json', '-statistics', 'link', 'show', 'dev', 'radio'])
    return int(json.loads(lines)[0]['stats64']['tx']['bytes'])


def measure(
    output: Path, stream: Path, mbit_s: float, limits: list[float], rounds: int
) -> list[Run]:
    """
    Compare settings of `transfer_mbit_s`; write `radio.json`.

    :raises EtunerError: when the two sides can not be set up
    """
    commit = head_commit()
    found = [run(stream, mbit_s, limit, rounds) for limit in limits]
    content = {'commit': commit, 'cores': os.cpu_count(), 'runs': [asdict(r) for r in found]}
    output.mkdir(parents=True, exist_ok=True)
    (output / 'radio.json').write_text(json.dumps(content, indent=1) + '\n')
    return found


def table(found: list[Run]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        f'radio of {found[0].radio_mbit_s:g} Mbit/s',
        '',
        '| `transfer_mbit_s` | rounds with a verdict, lost | s to the verdict | heads '
        '| batches made, received | p50, p99 ms calm | p50, p99 ms moving '
        '| MB to the robot, to the base |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for r in found:
        seconds = f'{np.median(r.seconds_to_verdict):.1f}' if r.seconds_to_verdict else '-'
        calm, moving = (f'{x.p50_ms:.0f}, {x.p99_ms:.0f}' for x in (r.calm, r.moving))
        lines.append(
            f'| {r.transfer_mbit_s:g} | {r.rounds}, {r.lost_rounds} | {seconds} | '
            f'{r.head_versions} | {r.batches_made}, {r.batches_received} | {calm} | {moving} | '
            f'{r.mb_to_robot:.1f}, {r.mb_to_base:.1f} |'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    side, place, rate, count, pictures = sys.argv[1:]
    if side == ROBOT:
        on_robot(Path(place), float(rate), int(count), Path(pictures))
    else:
        on_base(Path(place))
