# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`etuner demo --things`: a robot that knows nothing is shown things one by one, by pointing, and
finds them again; a live view, and a page with what it found, missed and did not know.
"""

from __future__ import annotations

import base64
from collections import deque, OrderedDict
from dataclasses import dataclass, field
import io
import os
from pathlib import Path
import random
import time
from typing import Any

import cv2
import jinja2
from matplotlib.figure import Figure
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
import yaml

from etuner_ros import __version__
from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.boxes.recording import BoxRecording
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError, ImageError
from etuner_ros.core.files import share
from etuner_ros.core.images.codec import decode, encode_jpeg, Image
from etuner_ros.demo.run import empty, keep_apart, reading
from etuner_ros.demo.tapper import (
    Answers,
    FOUND,
    judge,
    Judged,
    MISSED,
    RIGHT,
    Tapper,
    Things,
    UNKNOWN,
    WRONG,
)
from etuner_ros.shared.answers import json_text
from etuner_ros.shared.supervisor import Supervisor

NODES = ('model_manager', 'inference', 'label_collector', 'tuner', 'proposer', 'camera')
OUTCOMES = ((RIGHT, '#12805c'), (UNKNOWN, '#f0aa3c'), (WRONG, '#c0392b'), (MISSED, '#9aa0a6'))
ROLLING = 20  # frames
EVERY_S = 3.5  # between two pictures of the page
MOST_FRAMES = 20  # kept ones that are remembered
START_LIMIT_S = 120.0


@dataclass
class Shot:
    """A frame whose objects were named."""

    at_s: float
    place: str
    judged: Judged
    version: int
    latency_ms: float  # from the stamp of the picture until its objects were published


@dataclass
class Story:
    """What happened."""

    shots: list[Shot] = field(default_factory=list)
    taps: list[tuple[float, str, bool]] = field(default_factory=list)  # when, label, drawn
    refused: int = 0
    answers: Answers = field(default_factory=Answers)
    rounds: int = 0
    versions: int = 0
    pictures: list[tuple[float, str, bytes]] = field(default_factory=list)  # when, place, JPEG
    seconds: float = 0.0


class Watcher:
    """Hears the robot and the truth, taps, and keeps the story."""

    def __init__(self, gap_s: float, seed: int) -> None:
        # ROS is imported here, after the domain was chosen.
        import rclpy
        from rclpy.signals import SignalHandlerOptions
        from std_msgs.msg import Bool
        from std_srvs.srv import SetBool

        from etuner_ros.msg import (
            GroundTruth,
            LabelCorrection,
            LabelReceipt,
            ModelUpdate,
            Objects,
            PredictedFrame,
            Regions,
            TunerStatus,
        )
        from etuner_ros.nodes.qos import LATCHED, reliable
        from etuner_ros.nodes.region_messages import box_message

        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is ours to handle
        self._rclpy, self._correction, self._box = rclpy, LabelCorrection, box_message
        self.node = rclpy.create_node('demo')
        self.story, self._tapper = Story(), Tapper(gap_s, seed=seed)
        self._truths: OrderedDict[tuple[int, int], Things] = OrderedDict()
        self._places: dict[tuple[int, int], str] = {}
        self._frames: OrderedDict[int, Any] = OrderedDict()  # kept ones, by uid
        self._shown_s = -np.inf
        self._recent: deque[Judged] = deque(maxlen=ROLLING)
        self._began = 0.0
        self._status: Any = None
        self.playing = self.finished = False
        hear = self.node.create_subscription
        hear(Regions, 'region_truth', self._on_truth, reliable(200))
        hear(GroundTruth, 'ground_truth', self._on_place, reliable(200))
        hear(Objects, 'objects', self._on_objects, reliable(50))
        hear(PredictedFrame, 'predicted_frame', self._on_frame, reliable(50))
        hear(LabelReceipt, 'label_receipts', self._on_receipt, reliable(100))
        hear(ModelUpdate, 'model', self._on_model, LATCHED)
        hear(TunerStatus, 'tuner/status', self._on_status, LATCHED)
        hear(Bool, 'camera/playing', self._on_playing, LATCHED)
        self._labels = self.node.create_publisher(LabelCorrection, 'labels', reliable(100))
        self._play = self.node.create_client(SetBool, 'camera/play')
        self._request = SetBool.Request(data=True)

    def _now(self) -> float:
        return time.monotonic() - self._began if self._began else 0.0

    def _on_truth(self, message: Any) -> None:
        found = message.regions
        boxes = [(b.x, b.y, b.width, b.height) for b in (r.box for r in found)]
        self._truths[_stamp(message)] = Things(
            as_boxes(boxes), [r.label for r in found], [r.score for r in found]
        )
        while len(self._truths) > 500:
            self._truths.popitem(last=False)

    def _on_place(self, message: Any) -> None:
        self._places[_stamp(message)] = message.scenario

    def _on_objects(self, message: Any) -> None:
        truth = self._truths.get(_stamp(message))
        if truth is None:
            return
        found = message.objects
        boxes = [(b.x, b.y, b.width, b.height) for b in (o.box for o in found)]
        names = [o.labels[0] if o.labels and not o.unknown else '' for o in found]
        said = Things(as_boxes(boxes), names)
        judged, now = judge(truth, said), self._now()
        place = self._places.get(_stamp(message), '')
        self.story.shots.append(
            Shot(now, place, judged, message.model_version, message.latency_ms)
        )
        self._recent.append(judged)
        for kind, outcome in zip(judged.kinds, judged.things):
            if outcome == RIGHT:
                self.story.answers.on_right(kind, now)
        if not message.kept:
            return
        frame = self._frames.get(message.frame_uid)
        if frame is not None and now - self._shown_s > EVERY_S:
            self._shown_s = now
            image = drawn(decode(bytes(frame.image.data)), frame.width, truth, said)
            self.story.pictures.append((now, place, encode_jpeg(image, 85)))
        tap = self._tapper.look(now, truth, said)
        if tap is not None:
            self.story.taps.append((now, tap.label, tap.drawn))
            self.story.answers.on_tap(tap.label, now)
            self._labels.publish(
                self._correction(
                    header=message.header,
                    source=message.source,
                    frame_uid=message.frame_uid,
                    box=self._box(np.array(tap.box, np.float32)),
                    label=tap.label,
                    author='operator',
                )
            )

    def _on_frame(self, message: Any) -> None:
        self._frames[message.frame_uid] = message
        while len(self._frames) > MOST_FRAMES:
            self._frames.popitem(last=False)

    def _on_receipt(self, message: Any) -> None:
        self.story.refused += message.code != message.ACCEPTED

    def _on_model(self, message: Any) -> None:
        self.story.versions += message.version > 0

    def _on_status(self, message: Any) -> None:
        self._status, self.story.rounds = message, message.rounds

    def _on_playing(self, message: Any) -> None:
        if message.data:
            self.playing = True
        elif self.playing:
            self.finished = True

    @property
    def ready(self) -> bool:
        """Whether the whole loop is up."""
        status = self._status
        up = status is not None and status.state == status.WAITING
        topics = ('regions', 'objects', 'region_truth', 'label_receipts')
        there = all(self.node.count_publishers(topic) for topic in topics)
        return up and there and bool(self._play.service_is_ready())

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
        self.story.seconds = self._now()
        self.node.destroy_node()
        self._rclpy.shutdown()

    def line(self) -> str:
        """Return the state in one line."""
        shots = self.story.shots
        things = max(sum(len(j.things) for j in self._recent), 1)
        parts = '  '.join(
            f'{name} {100 * sum(j.count(name) for j in self._recent) / things:3.0f} %'
            for name, _ in OUTCOMES
        )
        place = shots[-1].place if shots else '-'
        return (
            f'{self._now():4.0f} s  {place:12s} {parts}  {len(self.story.taps)} taps  '
            f'version {shots[-1].version if shots else 0}'
        )

    def panel(self) -> Panel:
        """Return the state for a terminal."""
        table = Table.grid(padding=(0, 2))
        things = max(sum(len(j.things) for j in self._recent), 1)
        for name, colour in OUTCOMES:
            part = sum(j.count(name) for j in self._recent) / things
            bar = f'[{colour}]{"█" * round(40 * part)}[/]'
            table.add_row(f'things {name}', f'{100 * part:3.0f} %', bar)
        table.add_row('', '', self.line())
        return Panel(table, title='etuner_ros: things taught by pointing')


def _stamp(message: Any) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def drawn(image: Image, width: int, truth: Things, said: Things) -> Image:
    """
    Return a picture with what is said, and in grey what was missed.

    :param width: of the image that boxes are measured in, in px
    """
    scale = 320.0 / image.shape[1]
    picture = cv2.resize(image, (320, round(image.shape[0] * scale)))
    scale = 320.0 / max(width, 1)
    judged = judge(truth, said)
    colours = dict(OUTCOMES)

    def frame(box: Any, colour: str, text: str) -> None:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        x, y, wide, high = (round(float(v) * scale) for v in box)
        cv2.rectangle(picture, (x, y), (x + wide, y + high), (red, green, blue), 2)
        place, font = (x + 2, max(y - 3, 9)), cv2.FONT_HERSHEY_SIMPLEX
        cv2.putText(picture, text, place, font, 0.36, (red, green, blue), 1, cv2.LINE_AA)

    fair = [i for i, part in enumerate(truth.shares) if part >= 0.3]
    for place, outcome in zip(fair, judged.things):
        if outcome == MISSED:
            frame(truth.boxes[place], colours[MISSED], truth.labels[place])
    for box, name in zip(said.boxes, said.labels):
        one = judge(truth, Things(as_boxes([box]), [name]))
        outcome = next((o for o in one.things if o != MISSED), UNKNOWN if not name else WRONG)
        frame(box, colours[outcome], name or '?')
    return np.asarray(picture, np.uint8)


def visits(story: Story) -> list[tuple[str, list[Shot]]]:
    """Return the shots of each visit to a place, in order."""
    found: list[tuple[str, list[Shot]]] = []
    for shot in story.shots:
        if not found or found[-1][0] != shot.place:
            found.append((shot.place, []))
        found[-1][1].append(shot)
    return found


def shares_of(shots: list[Shot]) -> dict[str, float]:
    """Return what share of the things had which outcome."""
    things = max(sum(len(s.judged.things) for s in shots), 1)
    return {name: sum(s.judged.count(name) for s in shots) / things for name, _ in OUTCOMES}


def plot(story: Story) -> str:
    """Return the outcomes over time as SVG."""
    figure = Figure(figsize=(11, 3.4))
    axes = figure.subplots()
    times = [s.at_s for s in story.shots]
    if times:
        kernel = np.ones(min(ROLLING, len(times)))
        things = np.array([len(s.judged.things) for s in story.shots], float)
        totals = np.maximum(np.convolve(things, kernel, 'same'), 1)
        stack = []
        for name, _ in OUTCOMES:
            counts = np.array([s.judged.count(name) for s in story.shots], float)
            stack.append(np.convolve(counts, kernel, 'same') / totals)
        axes.stackplot(
            times,
            [100 * row for row in stack],
            labels=[name for name, _ in OUTCOMES],
            colors=[colour for _, colour in OUTCOMES],
            alpha=0.85,
        )
        axes.legend(loc='lower left', fontsize=8, ncol=4)
    for place, shots in visits(story):
        axes.axvline(shots[0].at_s, color='#333', linewidth=0.8)
        axes.text(shots[0].at_s, 102, f' {place}', fontsize=8)
    for at, _, by_hand in story.taps:
        axes.plot([at], [2], marker='^' if by_hand else '.', color='black', markersize=4)
    axes.set_ylim(0, 100)
    axes.set_ylabel('things in view, %')
    axes.set_xlabel('s (dots: taps on a box; triangles: boxes drawn by hand)')
    text = io.StringIO()
    figure.savefig(text, format='svg', bbox_inches='tight')
    return text.getvalue()


def write_page(path: Path, story: Story) -> None:
    """Write the page."""
    from markupsafe import Markup

    template = jinja2.Environment(autoescape=True).from_string(
        (Path(__file__).parent.parent / 'templates' / 'things.html').read_text()
    )
    rows = [(place, len(shots), shares_of(shots)) for place, shots in visits(story)]
    path.write_text(
        template.render(
            version=__version__,
            story=story,
            rows=rows,
            outcomes=[name for name, _ in OUTCOMES],
            plot=Markup(plot(story)),  # our own SVG
            answer=story.answers.median_s,
            found=FOUND,
            pictures=[
                (at, place, base64.b64encode(code).decode()) for at, place, code in story.pictures
            ],
        )
    )


def figures_of(story: Story, seed: int) -> dict[str, Any]:
    """Return the figures of a run."""
    false = sum(s.judged.false_names for s in story.shots) / max(len(story.shots), 1)
    return {
        'seed': seed,
        'taps': len(story.taps),
        'drawn': sum(by_hand for _, _, by_hand in story.taps),
        'refused': story.refused,
        'rounds': story.rounds,
        'frames': len(story.shots),
        'false_names_per_frame': false,
        'latency_ms': float(np.median([s.latency_ms for s in story.shots]))
        if story.shots
        else None,
        'seconds_until_found': story.answers.median_s,
        'visits': [
            {'place': place, 'frames': len(shots), **shares_of(shots)}
            for place, shots in visits(story)
        ],
    }


def write_params(path: Path, stream: Path, seed: int, rate: float) -> None:
    """Write what the demo sets beyond config/etuner.yaml."""
    parameters = {
        '/**': {'model': {'input_size': INPUT_SIZE}},
        '/**/camera': {'source': str(stream), 'rate_hz': rate, 'autoplay': False},
        '/**/tuner': {'train': {'seed': seed}},
    }
    path.write_text(
        yaml.safe_dump({name: {'ros__parameters': values} for name, values in parameters.items()})
    )


def run_things(
    output: Path, seed: int, rate: float, gap_s: float, stream: Path | None, as_json: bool = False
) -> int:
    """
    Run the demo; write the page and the figures.

    :param rate: pictures per second
    :param gap_s: between two taps of the scripted person
    :param as_json: print the figures, and all else on standard error
    """
    console = Console(stderr=as_json)
    stream = (stream or share() / 'config' / 'stream_things').resolve()
    keep_apart(stream, output)
    # What does not say where things are is refused before anything of an earlier demo goes.
    with reading(stream):
        some = next(iter(BoxRecording(stream)), None)
    if some is None:
        raise ImageError(f'the recording {stream} holds no picture that can be read')
    empty(output)
    params = output / 'params.yaml'
    write_params(params, stream, seed, rate)
    os.environ['ROS_HOME'] = str(output.resolve() / 'ros_home')
    os.environ['ROS_DOMAIN_ID'] = str(random.randint(1, 100))
    if os.environ.get('ROS_DISTRO') == 'humble':
        os.environ['ROS_LOCALHOST_ONLY'] = '1'
    else:
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
    system = Supervisor([share() / 'config' / 'etuner.yaml', params], output / 'log')
    watcher = Watcher(gap_s, seed)
    try:
        for name in NODES:
            system.start(name)
        deadline = time.monotonic() + START_LIMIT_S
        with console.status('starting the nodes') if console.is_terminal else console.capture():
            while not watcher.ready:
                watcher.spin(0.2)
                system.check()
                if time.monotonic() > deadline:
                    raise EtunerError(
                        f'the nodes did not come up within {START_LIMIT_S:.0f} s; their logs are '
                        f'in {output / "log"}'
                    )
        watcher.play()
        if console.is_terminal:
            with Live(watcher.panel(), console=console, refresh_per_second=4) as live:
                while not watcher.finished:
                    watcher.spin(0.25)
                    system.check()
                    live.update(watcher.panel())
        else:
            spoken = time.monotonic()
            while not watcher.finished:
                watcher.spin(0.25)
                system.check()
                if time.monotonic() - spoken > 10:
                    spoken = time.monotonic()
                    console.print(watcher.line(), highlight=False, soft_wrap=True)
        watcher.spin(1.0)  # the last objects
    finally:
        watcher.close()
        system.stop()
    story = watcher.story
    figures = figures_of(story, seed)
    (output / 'figures.json').write_text(json_text(figures))
    table = Table(title='things in view, by visit')
    for column in ('place', 'frames', *(name for name, _ in OUTCOMES)):
        table.add_column(column, justify='left' if column == 'place' else 'right')
    for visit in figures['visits']:
        values = (f'{100 * visit[name]:.1f} %' for name, _ in OUTCOMES)
        table.add_row(visit['place'], str(visit['frames']), *values)
    console.print(table)
    write_page(output / 'index.html', story)
    found = figures['seconds_until_found']
    console.print(
        f'{figures["taps"]} taps ({figures["drawn"]} boxes drawn by hand, {story.refused} '
        f'refused), {story.rounds} rounds; a kind is found {found or float("nan"):.1f} s after '
        f'it was first named (median); {figures["false_names_per_frame"]:.2f} names on nothing '
        f'a frame\npage: [bold]{output / "index.html"}[/]',
        highlight=False,
    )
    if as_json:
        print(json_text(figures))
    return 0
