# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How cost grows: with images in replay, classes of the head, and depth of the model."""

from __future__ import annotations

from collections.abc import Callable
import json
from pathlib import Path
import statistics
import time
from typing import Any

import matplotlib
import numpy as np
import torch

from etuner_ros.bench.table import machine
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.instant_head import InstantHead
from etuner_ros.core.learner import unit_grams
from etuner_ros.core.models import build
from etuner_ros.core.models import pretrained_spec
from etuner_ros.core.replay import Replay
from etuner_ros.core.replay import Sample

matplotlib.use('Agg')
from matplotlib import pyplot

FEATURES = 1904
ARCHITECTURES = ('resnet18', 'resnet34', 'resnet50', 'resnet101')
SIZE = 112


def _milliseconds(way: Callable[[], object], turns: int) -> float:
    """Return the median of several turns after one to warm up."""
    way()
    times = []
    for _ in range(turns):
        began = time.perf_counter()
        way()
        times.append(time.perf_counter() - began)
    return 1e3 * statistics.median(times)


def replay_growth() -> dict[str, list[tuple[int, float]]]:
    """Return ms to draw a batch of 16, and to add a sample to a full store, by images kept."""
    draw, add = [], []
    for exponent in (2, 3, 4, 5, 6):
        count = 10**exponent
        replay = Replay(count)  # of one byte each, so that the bookkeeping alone is measured
        for i in range(count):
            replay.add(Sample(str(i), f'class {i % 100}', i % 10, b'x'))
        rng = np.random.default_rng(0)
        numbers = iter(range(10**9))
        draw.append((count, _milliseconds(lambda r=replay, g=rng: r.draw(16, g, 3, 0.5), 20)))  # type: ignore[misc]
        add.append(
            (
                count,
                _milliseconds(
                    lambda r=replay, n=numbers: r.add(
                        Sample(f'new {next(n)}', 'class 0', 3, b'x')
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
        rebuild.append((classes, _milliseconds(lambda: head.rebuild(features, labels), turns)))  # noqa: B023
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


def measure(output: Path) -> dict[str, Any]:
    """Measure on one thread; write `growth.json` and `growth.png`."""
    torch.set_num_threads(1)
    found = {
        'images in replay': replay_growth(),
        'classes': head_growth(),
        'blocks (ResNet-18 to -101)': depth_growth(),
    }
    output.mkdir(parents=True, exist_ok=True)
    figure, panes = pyplot.subplots(1, len(found), figsize=(14, 4))
    for axes, (title, lines) in zip(panes, found.items()):
        for label, points in lines.items():
            axes.plot(*zip(*points), marker='o', label=label)
        axes.set_xscale('log')
        axes.set_yscale('log')
        axes.set_xlabel(title)
        axes.set_ylabel('ms')
        axes.grid(alpha=0.2)
        axes.legend(fontsize=8)
    figure.savefig(output / 'growth.png', dpi=100, bbox_inches='tight')
    pyplot.close(figure)
    answer = {'ms': found, 'machine': machine()}
    (output / 'growth.json').write_text(json.dumps(answer, indent=1) + '\n')
    return answer


def table(answer: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = ['| by | what | ms |', '|---|---|---|']
    for title, ways in answer['ms'].items():
        for label, points in ways.items():
            values = ', '.join(f'{n}: {ms:.3g}' for n, ms in points)
            lines.append(f'| {title} | {label} | {values} |')
    return '\n'.join(lines)
