# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How cost grows: with images in replay, classes, depth of the model, camera rate, cameras."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
import json
from pathlib import Path
import statistics
import tempfile
import time
from typing import Any

import matplotlib
import numpy as np
import torch

from etuner_ros.bench.head_commit import machine
from etuner_ros.bench.serving_stage import inference, Measured, Stage
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.prober import unit_grams
from etuner_ros.core.learn.replay import Replay
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.networks import build, pretrained_spec

matplotlib.use('Agg')
from matplotlib import pyplot

FEATURES = 1904
ARCHITECTURES = ('resnet18', 'resnet34', 'resnet50', 'resnet101')
SIZE = 112
RATES_HZ = (10, 30, 45, 60, 90)
CAMERA_HZ, MOST_CAMERAS = 10.0, 6
SECONDS = 10.0  # of each camera run


def _milliseconds(way: Callable[[], object], turns: int) -> float:
    """Return the median of several turns after one to warm up."""
    way()
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        way()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


HERE = Scenario('', 3)


def replay_growth() -> dict[str, list[tuple[int, float]]]:
    """Return ms to draw a batch of 16, and to add a sample to a full store, by images kept."""
    draw, add = [], []
    for exponent in (2, 3, 4, 5, 6):
        count = 10**exponent
        replay = Replay(count)  # of one byte each, so that the bookkeeping alone is measured
        for i in range(count):
            replay.add(Sample(str(i), f'class {i % 100}', Scenario('', i % 10), b'x'))
        rng = np.random.default_rng(0)
        numbers = iter(range(10**9))
        draw.append((count, _milliseconds(lambda r=replay, g=rng: r.draw(16, g, [HERE], 0.5), 20)))  # type: ignore[misc]
        add.append(
            (
                count,
                _milliseconds(
                    lambda r=replay, n=numbers: r.add(
                        Sample(f'new {next(n)}', 'class 0', HERE, b'x')
                    ),  # type: ignore[misc]
                    20,
                ),
            )
        )
    return {'draw a batch of 16': draw, 'add to a full replay': add}


def head_growth() -> dict[str, list[tuple[int, float]]]:
    """Return ms of the instant head by classes, at 5 samples a class (at most 2,000)."""
    learn, rebuild, export = [], [], []
    generator = torch.Generator().manual_seed(0)
    for classes in (10, 100, 1000, 10000):
        count = min(5 * classes, 2000) if classes <= 400 else classes
        features = torch.randn(count, FEATURES, generator=generator)
        labels = [f'class {i % classes}' for i in range(count)]
        head = InstantHead(FEATURES, HeadConfig())
        turns = 3 if classes < 10000 else 1

        def make_anew() -> None:
            head.rebuild(features, labels)  # noqa: B023
            head.prepare()  # noqa: B023

        rebuild.append((classes, _milliseconds(make_anew, turns)))
        learn.append((classes, _milliseconds(lambda: head.learn(features[0], labels[0]), 5)))  # noqa: B023
        export.append((classes, _milliseconds(lambda: head.linear(head.classes), 3)))  # noqa: B023
    return {'rebuild': rebuild, 'learn a correction': learn, 'write as weights': export}


def depth_growth() -> dict[str, list[tuple[int, float]]]:
    """Return ms of a prediction, a training batch of 8 and a probe of 16, by blocks."""
    predict, train, probe = [], [], []
    for name in ARCHITECTURES:
        model = build(pretrained_spec(name, SIZE)).channels_last()
        model.add_class('a')
        blocks = len(model.units)
        one, eight, sixteen = (torch.zeros(n, 3, SIZE, SIZE) for n in (1, 8, 16))
        predict.append((blocks, _milliseconds(lambda: model.examine(one), 5)))  # noqa: B023
        probe.append(
            (blocks, _milliseconds(lambda: unit_grams(model, model.features, sixteen), 3))  # noqa: B023
        )
        train.append((blocks, _milliseconds(lambda: model(eight).sum().backward(), 3)))  # noqa: B023
    return {'predict one': predict, 'training batch of 8': train, 'probe of 16': probe}


def camera_growth(stream: Path) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """
    Return latency in ms and frames dropped in percent, at 640 x 480: by rate of one camera, and by
    cameras of 10 Hz that each have an inference process.
    """
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}

    def note(title: str, number: int, result: Measured) -> None:
        ways = found.setdefault(title, {})
        ways.setdefault('p50, ms', []).append((number, result.p50_ms))
        ways.setdefault('p99, ms', []).append((number, result.p99_ms))
        dropped = 100.0 * result.dropped / result.frames
        ways.setdefault('frames dropped, %', []).append((number, dropped))

    with tempfile.TemporaryDirectory() as folder, ExitStack() as processes:
        stage = Stage(stream, Path(folder))
        try:
            processes.enter_context(inference(stage))
            for rate in RATES_HZ:
                note('camera rate, Hz', rate, stage.stream(int(SECONDS * rate), rate))
            for count in range(1, MOST_CAMERAS + 1):
                if count > 1:
                    stage.add_camera(f'camera{count}')
                    processes.enter_context(inference(stage, namespace=f'camera{count}'))
                result = stage.stream(int(SECONDS * CAMERA_HZ), CAMERA_HZ)
                note(f'cameras, {CAMERA_HZ:.0f} Hz each', count, result)
        finally:
            processes.close()
            stage.close()
    return found


def measure(output: Path, stream: Path) -> dict[str, Any]:
    """
    Measure on one thread; write `growth.json` and `growth.png`.

    :param stream: labelled pictures, for the cameras
    """
    where = machine()  # before anything runs
    torch.set_num_threads(1)
    found = {
        **camera_growth(stream),
        'images in replay': replay_growth(),
        'classes': head_growth(),
        'blocks (ResNet-18 to -101)': depth_growth(),
    }
    output.mkdir(parents=True, exist_ok=True)
    figure, panes = pyplot.subplots(2, 3, figsize=(15, 8))
    for axes, (title, lines) in zip(panes.flat, found.items()):
        for label, points in lines.items():
            axes.plot(*zip(*points), marker='o', label=label)
        if 'camera' not in title:
            axes.set_xscale('log')
        axes.set_yscale('symlog' if 'camera' in title else 'log')
        axes.set_xlabel(title)
        axes.set_ylabel('ms' if 'camera' not in title else 'ms, and %')
        axes.grid(alpha=0.2)
        axes.legend(fontsize=8)
    for axes in panes.flat[len(found) :]:
        axes.axis('off')
    figure.savefig(output / 'growth.png', dpi=100, bbox_inches='tight')
    pyplot.close(figure)
    answer = {'ms': found, 'machine': where}
    (output / 'growth.json').write_text(json.dumps(answer, indent=1) + '\n')
    return answer


def table(answer: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = ['| by | what | ms (frames dropped: %) |', '|---|---|---|']
    for title, ways in answer['ms'].items():
        for label, points in ways.items():
            values = ', '.join(f'{n}: {ms:.3g}' for n, ms in points)
            lines.append(f'| {title} | {label} | {values} |')
    return '\n'.join(lines)
