# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights are swapped under a running camera, by the hundred: no frame dropped, no mixture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
import gc
from pathlib import Path
import time
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import Image as ImageMessage

from etuner_ros.bench.soak.robot import Outside, picture_message, RESUME_LIMIT_S
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.bench.swapper import announcing, PERIOD
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.images.codec import Image
from etuner_ros.msg import Prediction
from etuner_ros.nodes.qos import NEWEST_WINS, reliable

EVERY = 6  # pictures between two swaps


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


def swaps(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Swap all weights under a 30 Hz camera."""
    small = np.asarray(cv2.resize(stage.pictures()[0][0], (320, 240)), np.uint8)
    found = swap_weights(stage.base, small, stage.folder / 'swaps', plan.swaps, EVERY)
    broken = []
    if found.mixed_versions:
        broken.append(f'{found.mixed_versions} mixed versions')
    return {**asdict(found), 'broken': broken}
