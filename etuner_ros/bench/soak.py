# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A robot under fire: all nodes as processes, a camera, a person who labels; nodes are killed with
SIGKILL at random moments, versions on the disk are damaged, weights are swapped by the hundred.

Nothing that was promised may be lost; `make soak`, result in `results/soak.json`. The test suite
runs a short form of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
import gc
import json
import os
from pathlib import Path
import random
import time
from typing import Any

import cv2
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
import yaml

from etuner_ros.bench.swapper import announcing, PERIOD
from etuner_ros.bench.table import machine
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import replace_file
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.models.store import HEAD_FILE, ModelStore
from etuner_ros.core.models.weights import pack_base
from etuner_ros.msg import LabelCorrection, LabelReceipt, ModelUpdate, Prediction
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS, reliable
from etuner_ros.nodes.running import use_dds_profile
from etuner_ros.shared.shared_memory import stale_segments
from etuner_ros.shared.supervisor import Supervisor

NODES = ('model_manager', 'inference', 'label_collector', 'tuner')
INPUT_SIZE = 64
RESUME_LIMIT_S = 60.0
TRANSITIONS = {
    'configure': Transition.TRANSITION_CONFIGURE,
    'activate': Transition.TRANSITION_ACTIVATE,
    'deactivate': Transition.TRANSITION_DEACTIVATE,
    'cleanup': Transition.TRANSITION_CLEANUP,
}
MARK = 'ETUNER_SOAK'  # in the environment of every process of a soak


@dataclass
class Result:
    """What a soak found."""

    kills: int = 0
    kills_by_node: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NODES, 0))
    corruptions: int = 0
    predictions: int = 0
    labels_sent: int = 0
    labels_accepted: int = 0
    labels_lost: int = 0
    stores_unloadable: int = 0
    orphans: int = 0
    versions_made: int = 0
    not_resumed: int = 0
    resume_s: list[float] = field(default_factory=list)  # after inference was killed
    memory_mb: list[dict[str, float]] = field(default_factory=list)  # of all nodes, over time
    calm_minutes: float = 0.0  # nothing is killed
    calm_memory_mb: list[dict[str, float]] = field(default_factory=list)  # with `minutes`
    minutes: float = 0.0
    temporary_files: int = 0
    dds_shm_leftover: int = 0


def processes_with(mark: str) -> dict[int, str]:
    """Return the processes with a mark in their environment, and their command lines."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):
            if mark.encode() in (folder / 'environ').read_bytes():
                command = (folder / 'cmdline').read_bytes().replace(b'\0', b' ').decode()
                if int(folder.name) != os.getpid() and command:
                    found[int(folder.name)] = command
    return found


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for file in Path(f'/proc/{pid}/task').glob('*/children'):
        with suppress(OSError):
            found += [int(p) for p in file.read_text().split()]
    return found


def memory_mb(pid: int) -> float:
    """Return the proportional resident memory of a process in MB."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines()
        return int(next(line for line in lines if line.startswith('Pss:')).split()[1]) / 1e3
    return 0.0


def deploy(stream: Path, path: Path, count: int = 96) -> list[tuple[Image, str]]:
    """Make base weights of a small network; return labelled pictures."""
    import torch

    from etuner_ros.core.models.deploy import choose_exemplars, fit_head
    from etuner_ros.core.models.networks import build, pretrained_spec

    torch.set_num_threads(1)
    frames = [f for f in open_source(str(stream)) if f.label][: 3 * count]
    images = [resize_square(f.image, INPUT_SIZE) for f in frames[:count]]
    labels = [f.label for f in frames[:count]]
    model = build(pretrained_spec('efficientnet_lite0', INPUT_SIZE), 'pretrained')
    fit_head(model, images, labels)
    exemplars = choose_exemplars(images, labels, 3)
    replace_file(path, pack_base(model.state(), model.spec, model.unit_sizes, exemplars))
    return [(f.image, f.label) for f in frames]


class Outside:
    """
    A node beside the robot, whose nodes run as processes with their own `ROS_HOME`.

    :param values: parameters by node pattern, besides those of the network
    """

    def __init__(self, base: Path, home: Path, values: dict[str, dict[str, Any]]) -> None:
        self.base, self.home = base, home
        home.mkdir(parents=True, exist_ok=True)
        os.environ['ROS_HOME'] = os.environ[MARK] = str(home)
        model = {'model': {'weights': str(base), 'input_size': INPUT_SIZE}}
        params = {k: {'ros__parameters': v} for k, v in {'/**': model, **values}.items()}
        file = home / 'params.yaml'
        file.write_text(yaml.safe_dump(params))
        self.supervisor = Supervisor([file], home / 'log', restart_delay_s=0.5)
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node('soak', context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def close(self) -> None:
        """Stop everything."""
        self.supervisor.stop()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        os.environ.pop(MARK, None)


class Robot(Outside):
    """The nodes as processes, a camera, and a person who labels what the robot sees."""

    def __init__(
        self,
        pictures: list[tuple[Image, str]],
        base: Path,
        home: Path,
        rate: float,
        transfer_mbit_s: float = 0.0,
    ) -> None:
        values: dict[str, dict[str, Any]] = {
            '/**/label_collector': {'batch_size': 4, 'request_period_s': 0.0, 'authors': 'ann'},
            '/**/tuner': {'train': {'max_iterations': 8, 'batch_size': 8}},
            '/**/inference': {'autostart': True, 'keep_rate_hz': 1000.0},
            '/**/model_manager': {'autostart': True},
        }
        for name in ('label_collector', 'tuner', 'model_manager'):
            values[f'/**/{name}']['transfer_mbit_s'] = transfer_mbit_s
        super().__init__(base, home, values)
        self.pictures, self.rate = pictures, rate
        self.images = self.node.create_publisher(ImageMessage, 'image_raw', NEWEST_WINS)
        self.labels = self.node.create_publisher(LabelCorrection, 'labels', reliable(100))
        make = self.node.create_subscription
        make(Prediction, 'predictions', self._on_prediction, reliable(100))
        make(LabelReceipt, 'label_receipts', self._on_receipt, reliable(100))
        make(ModelUpdate, 'model', self._on_model, LATCHED)
        self.result = Result()
        self.accepted: dict[tuple[int, str], str] = {}  # stamp and frame_id: label
        self.versions: set[int] = set()
        self.last_prediction = 0.0
        self._shown: dict[int, str] = {}  # stamp: what the picture shows
        self._number, self._next = 0, 0.0
        self._label_next = 0.0
        self.labelling = True

    def start(self, names: tuple[str, ...] = NODES) -> None:
        """Start the nodes."""
        for name in names:
            self.supervisor.start(name)

    def _on_prediction(self, message: Prediction) -> None:
        self.result.predictions += 1
        self.last_prediction = time.monotonic()
        stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        label = self._shown.get(stamp)
        if self.labelling and label and message.kept and time.monotonic() >= self._label_next:
            self._label_next = time.monotonic() + 0.2
            self.result.labels_sent += 1
            self.labels.publish(
                LabelCorrection(
                    header=message.header, source=message.source, label=label, author='ann'
                )
            )

    def _on_receipt(self, message: LabelReceipt) -> None:
        if message.code == LabelReceipt.ACCEPTED:
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            self.accepted[stamp, message.header.frame_id] = message.label

    def _on_model(self, message: ModelUpdate) -> None:
        self.versions.add(message.version)

    def step(self) -> None:
        """Let the world go on for a moment: a picture when it is due, messages, restarts."""
        now = time.monotonic()
        if now >= self._next:
            self._next = max(self._next + 1.0 / self.rate, now)
            image, label = self.pictures[self._number % len(self.pictures)]
            self._number += 1
            stamp = time.time_ns()
            self._shown[stamp] = label
            for old in list(self._shown)[:-1000]:
                del self._shown[old]
            self.images.publish(picture_message(image, stamp))
        self.executor.spin_once(timeout_sec=max(0.0, min(self._next - time.monotonic(), 0.02)))
        self.supervisor.check()

    def until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Let the world go on until a condition holds."""
        end = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > end:
                return False
            self.step()
        return True


def picture_message(image: Image, stamp: int) -> ImageMessage:
    """Return an image message."""
    header = Header(frame_id='soak_camera')
    header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
    return array_to_image(image, header)


def damage(folder: Path, rng: random.Random) -> bool:
    """Damage the newest version on the disk in a random way; False when there is none."""
    versions = sorted(folder.glob('*/v*'))
    if not versions:
        return False
    manifest = versions[-1] / 'manifest.json'
    weights = rng.choice([versions[-1] / HEAD_FILE, *sorted(folder.glob('*/backbones/*'))])
    kind = rng.choice(['flip', 'cut', 'manifest', 'live', 'leftover'])
    try:
        if kind == 'flip':
            data = bytearray(weights.read_bytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            weights.write_bytes(bytes(data))
        elif kind == 'cut':
            os.truncate(weights, rng.randrange(weights.stat().st_size))
        elif kind == 'manifest':
            os.truncate(manifest, rng.randrange(manifest.stat().st_size))
        elif kind == 'live':
            (versions[-1].parent / 'live').write_bytes(b'\xff')
        else:  # what a crash in the middle of a write leaves
            aside = versions[-1].parent / '.v99999999.tmp'
            aside.mkdir(exist_ok=True)
            (aside / HEAD_FILE).write_bytes(b'half')
    except (OSError, ValueError):
        return False
    return True


def kill_nodes(robot: Robot, kills: int, minutes: float, seed: int, say: Any = print) -> None:
    """
    Kill random nodes at random moments, and damage versions, until both are used up.

    :param kills: at least so many
    :param minutes: at least so long
    """
    rng, result = random.Random(seed), robot.result
    if not robot.until(lambda: result.predictions > 10, RESUME_LIMIT_S):
        raise EtunerError(f'the nodes did not start; see {robot.home / "log"}')
    began, last_said = time.monotonic(), 0.0
    pause = max(60.0 * minutes / max(kills, 1), 2.0)
    while result.kills < kills or time.monotonic() - began < 60.0 * minutes:
        end = time.monotonic() + rng.uniform(0.3, 2.0 * pause - 0.3)
        robot.until(lambda end=end: time.monotonic() > end, 1e9)  # type: ignore[misc]
        name = rng.choice(NODES)
        pid = robot.supervisor.pid(name)
        if pid is None:
            continue
        children = children_of(pid)
        robot.supervisor.kill(name)
        result.kills, killed = result.kills + 1, time.monotonic()
        result.kills_by_node[name] += 1
        if name == 'model_manager' and rng.random() < 0.5:
            result.corruptions += damage(robot.home / 'etuner' / 'models', rng)
        for child in children:
            with_it = Path(f'/proc/{child}')
            if not robot.until(lambda p=with_it: not _alive(p), 5.0):  # type: ignore[misc]
                result.orphans += 1
        if name == 'inference':
            before = robot.last_prediction
            if robot.until(lambda b=before: robot.last_prediction > b, RESUME_LIMIT_S):  # type: ignore[misc]
                result.resume_s.append(robot.last_prediction - killed)
            else:
                result.not_resumed += 1
        result.memory_mb.append(memory_of(robot))
        if time.monotonic() - last_said > 20.0:
            last_said = time.monotonic()
            say(
                f'{(last_said - began) / 60:5.1f} min  {result.kills} kills, '
                f'{result.corruptions} corruptions, {len(robot.accepted)} labels accepted, '
                f'version {max(robot.versions, default=0)}'
            )
    if not robot.until(_resumed(robot), RESUME_LIMIT_S):
        result.not_resumed += 1
    result.minutes = (time.monotonic() - began) / 60


def _alive(process: Path) -> bool:
    """Return whether a process is there and is no zombie."""
    try:
        return (process / 'stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except (OSError, IndexError):
        return False


def _resumed(robot: Robot) -> Callable[[], bool]:
    count = robot.result.predictions
    return lambda: robot.result.predictions > count + 5


def memory_of(robot: Robot) -> dict[str, float]:
    """Return the memory of each node, in MB."""
    now = {}
    for name in NODES:
        pid = robot.supervisor.pid(name)
        if pid is not None:
            now[name] = memory_mb(pid)
            if name == 'tuner':
                now['worker'] = sum(memory_mb(c) for c in children_of(pid))
    return {k: round(v, 1) for k, v in now.items()}


def leave_alone(robot: Robot, minutes: float, say: Any = print) -> None:
    """Let the robot see, learn and swap without a kill; look at its memory twice a minute."""
    result = robot.result
    if not robot.until(lambda: result.predictions > 10, RESUME_LIMIT_S):
        raise EtunerError(f'the nodes did not start; see {robot.home / "log"}')
    began = time.monotonic()
    while (passed := time.monotonic() - began) < 60.0 * minutes:
        now = memory_of(robot)
        result.calm_memory_mb.append({'minutes': round(passed / 60, 1), **now})
        say(f'{passed / 60:5.1f} min  version {max(robot.versions, default=0)}, MB: {now}')
        end = min(began + 60.0 * minutes, time.monotonic() + 30.0)
        robot.until(lambda end=end: time.monotonic() >= end, 1e9)  # type: ignore[misc]
    result.calm_minutes = minutes


def verify(robot: Robot, base: Path) -> None:
    """Stop the robot and look whether everything that was promised is there."""
    result = robot.result
    mark = str(robot.home)
    result.versions_made = max(robot.versions, default=0)
    robot.close()
    deadline = time.monotonic() + 10.0
    while (left := processes_with(f'{MARK}={mark}')) and time.monotonic() < deadline:
        time.sleep(0.1)
    result.orphans += len(left)
    result.labels_accepted = len(robot.accepted)
    try:
        store = LabelStore(robot.home / 'etuner' / 'labels' / 'label_collector.db')
        result.stores_unloadable += len(store.warnings)
        stored = {(s.stamp_ns, s.frame_id): s.label for s in store.labelled()}
        result.labels_lost = sum(stored.get(k) != v for k, v in robot.accepted.items())
        store.close()
    except EtunerError:
        result.stores_unloadable += 1
        result.labels_lost = len(robot.accepted)
    try:
        models = ModelStore(robot.home / 'etuner' / 'models', base, read_only=True)
        models.update(models.live)
    except EtunerError:
        result.stores_unloadable += 1
    temporary = [p for p in (robot.home / 'etuner').rglob('*') if '.tmp' in p.name]
    result.temporary_files = len(temporary)


# Swaps


@dataclass
class Swaps:
    """What a camera run with swaps, beside one without, found."""

    frames: int = 0
    swaps: int = 0
    versions_seen: int = 0
    mixed_versions: int = 0
    answered_without: int = 0
    answered_with: int = 0
    frames_dropped_by_swaps: int = 0
    gap_p999_without_ms: float = 0.0
    gap_p999_with_ms: float = 0.0
    gap_max_without_ms: float = 0.0
    gap_max_with_ms: float = 0.0
    swap_gap_ratio: float = 0.0


def signature(message: Prediction) -> tuple[Any, ...]:
    """Return what shows the version in a prediction."""
    appearance = tuple(round(float(v), 3) for v in message.appearance[:6])
    return message.labels[0], round(float(message.scores[0]), 4), appearance


def published(message: Prediction) -> float:
    """Return when a prediction was published, in s, by the clock of `inference`."""
    stamp = message.header.stamp
    return stamp.sec + 1e-9 * stamp.nanosec + 1e-3 * float(message.latency_ms)


class SwapRun(Outside):
    """`inference` as a process, a camera, and `swapper` as another process."""

    def __init__(
        self,
        base: Path,
        image: Image,
        home: Path,
        rate: float,
        settings: dict[str, Any] | None = None,
        ranges: Path | None = None,
    ) -> None:
        values = {'autostart': True, 'keep_rate_hz': 0.0, **(settings or {})}
        super().__init__(base, home, {'/**/inference': values})
        self.image, self.rate, self.ranges = image, rate, ranges
        self.images = self.node.create_publisher(ImageMessage, 'image_raw', NEWEST_WINS)
        self.heard: list[Prediction] = []
        self.node.create_subscription(Prediction, 'predictions', self.heard.append, reliable(200))
        self.result = Swaps()
        self.seen: dict[int, set[tuple[Any, ...]]] = {}
        self.gaps: dict[bool, list[float]] = {False: [], True: []}

    def start(self) -> None:
        """Start `inference` and wait until it answers."""
        # The camera is played in this process: a full collection that looks through torch would
        # hold it up for 0.3 s, and the pictures of that time would come all at once.
        gc.collect()
        gc.freeze()
        self.supervisor.start('inference')
        end = time.monotonic() + RESUME_LIMIT_S
        while len(self.heard) < 20:
            if time.monotonic() > end:
                raise EtunerError(f'inference does not answer; see {self.home / "log"}')
            self.images.publish(picture_message(self.image, time.time_ns()))
            self.executor.spin_once(timeout_sec=0.1)

    def play(self, frames: int) -> None:
        """Play a camera; count what comes back and the gaps between predictions."""
        self.heard.clear()
        began = time.monotonic()
        for number in range(frames):
            due = began + number / self.rate
            while (left := due - time.monotonic()) > 0:
                self.executor.spin_once(timeout_sec=left)
            self.images.publish(picture_message(self.image, time.time_ns()))
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def without(self, frames: int) -> None:
        """Play without swaps."""
        self.play(frames)
        self.gaps[False] += list(np.diff([published(m) for m in self.heard]))
        self.result.frames += frames
        self.result.answered_without += len(self.heard)

    def with_swaps(self, frames: int, swaps: int) -> None:
        """Play with so many swaps."""
        first, period = self.result.swaps + 1, frames / self.rate / swaps
        with announcing(self.base, first, swaps, period, self.ranges):
            self.play(frames)
        self.result.swaps += swaps
        self.gaps[True] += list(np.diff([published(m) for m in self.heard]))
        self.result.answered_with += len(self.heard)
        for message in self.heard:
            if message.model_version:
                self.seen.setdefault(message.model_version, set()).add(signature(message))

    def finish(self) -> Swaps:
        """Return what was found."""
        result, expected = self.result, dict[int, set[tuple[Any, ...]]]()
        for version, signatures in self.seen.items():
            expected.setdefault(version % PERIOD, set()).update(signatures)
            result.mixed_versions += len(signatures) > 1
        # The same mark must come from the same version, also 70 versions later.
        result.mixed_versions += sum(len(s) > 1 for s in expected.values())
        result.versions_seen = len(self.seen)
        result.frames_dropped_by_swaps = max(0, result.answered_without - result.answered_with)
        for swapping, name in ((False, 'without'), (True, 'with')):
            values_ms = 1e3 * np.asarray(self.gaps[swapping])
            setattr(result, f'gap_p999_{name}_ms', float(np.percentile(values_ms, 99.9)))
            setattr(result, f'gap_max_{name}_ms', float(values_ms.max()))
        result.swap_gap_ratio = result.gap_p999_with_ms / result.gap_p999_without_ms
        return result


def swap_weights(
    base: Path,
    image: Image,
    home: Path,
    swaps: int,
    every: int,
    rate: float = 30.0,
    settings: dict[str, Any] | None = None,
    ranges: Path | None = None,
) -> Swaps:
    """
    Play the same camera without and with swaps, a part of each in turns.

    :param every: pictures between two swaps
    :param settings: parameters of inference, such as its engine
    :param ranges: of activations, in a safetensors file, when versions are quantised
    """
    run = SwapRun(base, image, home, rate, settings, ranges)
    try:
        run.start()
        left = swaps
        while left > 0:
            part = min(left, 50)
            run.without(part * every)
            run.with_swaps(part * every, part)
            left -= part
        return run.finish()
    finally:
        run.close()


def time_transitions(base: Path, home: Path) -> dict[str, dict[str, float]]:
    """Return how long each lifecycle transition takes under an external manager, in s."""
    outside = Outside(base, home, {})
    found: dict[str, dict[str, float]] = {}
    try:
        for name in ('model_manager', 'inference'):
            outside.supervisor.start(name)
            client = outside.node.create_client(ChangeState, f'{name}/change_state')
            while not client.wait_for_service(1.0):
                outside.supervisor.check()
            time.sleep(1.0)  # the base weights are looked for
            found[name] = {}
            for label, number in TRANSITIONS.items():
                request = ChangeState.Request()
                request.transition.id = number
                began = time.monotonic()
                future = client.call_async(request)
                outside.executor.spin_until_future_complete(future, timeout_sec=30.0)
                answer = future.result()
                if answer is None or not answer.success:
                    raise EtunerError(f'{name} does not {label}; see {home / "log"}')
                found[name][label] = round(time.monotonic() - began, 3)
    finally:
        outside.close()
    return found


def soak(
    stream: Path,
    output: Path,
    folder: Path,
    kills: int,
    minutes: float,
    calm_minutes: float,
    swaps: int,
    seed: int,
) -> dict[str, Any]:
    """
    Run all parts and write `soak.json`.

    :param minutes: how long nodes are killed
    :param calm_minutes: how long the same robot is left alone before, for its memory
    """
    base = folder / 'deployed.safetensors'
    use_dds_profile()
    pictures = deploy(stream, base)
    shm_before = set(stale_segments(os.getuid()))
    small = np.asarray(cv2.resize(pictures[0][0], (320, 240)), np.uint8)
    transitions = time_transitions(base, folder / 'transitions')
    swapped = swap_weights(base, small, folder / 'swaps', swaps, every=9)
    print(
        f'{swapped.swaps} swaps: gap p99.9 {swapped.gap_p999_with_ms:.1f} ms, '
        f'{swapped.swap_gap_ratio:.2f} of without; answered {swapped.answered_with} of '
        f'{swapped.frames}, without swaps {swapped.answered_without}',
        flush=True,
    )
    robot = Robot(pictures, base, folder / 'robot', rate=10.0)
    robot.start()
    try:
        leave_alone(robot, calm_minutes)
        kill_nodes(robot, kills, minutes, seed)
    finally:
        verify(robot, base)
    result = robot.result
    result.dds_shm_leftover = len(set(stale_segments(os.getuid())) - shm_before)
    found = {
        **asdict(result),
        **asdict(swapped),
        'resume_s': {
            'median': round(float(np.median(result.resume_s or [0.0])), 2),
            'max': round(max(result.resume_s, default=0.0), 2),
        },
        'transitions_s': transitions,
        'memory_mb': thinned(result.memory_mb),
        'calm_memory_mb': thinned(result.calm_memory_mb),
        'seed': seed,
        'machine': machine(),
    }
    replace_file(output / 'soak.json', json.dumps(found, indent=1).encode())
    return found


def thinned(rows: list[Any], count: int = 40) -> list[Any]:
    """Return at most `count` rows, evenly."""
    step = max(1, len(rows) // count)
    return rows[::step]


def growth(rows: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return the median memory of each process in each third of the time."""
    thirds = np.array_split(np.arange(len(rows)), 3)
    names = {name: None for row in rows for name in row if name != 'minutes'}
    return {
        name: [
            round(float(np.median([rows[i][name] for i in third if name in rows[i]] or [0.0])), 1)
            for third in thirds
        ]
        for name in names
    }


def summary(found: dict[str, Any]) -> str:
    """Return the result in a few lines."""
    return '\n'.join(
        [
            f'{found["kills"]} kills in {found["minutes"]:.0f} min, {found["corruptions"]} '
            f'corruptions: {found["labels_lost"]} of {found["labels_accepted"]} accepted labels '
            f'lost, {found["stores_unloadable"]} stores that do not open, {found["orphans"]} '
            f'orphans, {found["temporary_files"]} temporary files, {found["dds_shm_leftover"]} '
            f'segments of DDS left',
            f'predictions resume after {found["resume_s"]["median"]} s (median), '
            f'{found["resume_s"]["max"]} s (most); {found["not_resumed"]} times not at all',
            f'{found["calm_minutes"]:.0f} min without a kill: memory by thirds, MB '
            f'{growth(found["calm_memory_mb"])}',
            *(f'{name}: {times} s' for name, times in found['transitions_s'].items()),
            f'{found["swaps"]} swaps: {found["mixed_versions"]} mixed versions, '
            f'{found["frames_dropped_by_swaps"]} frames dropped by them, p99.9 of the gap '
            f'{found["swap_gap_ratio"]:.2f} of without swaps',
        ]
    )
