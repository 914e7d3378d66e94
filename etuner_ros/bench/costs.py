# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the parts of a round cost, as ratios measured side by side in one run.

The ways that are compared take turns, and the median of all turns counts, so a machine that slows
down in between slows all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import copy
from dataclasses import dataclass
from pathlib import Path
import statistics
import time

import torch
from torch import Tensor

from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.identity import DEPLOYED
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.learn.activation_cache import ActivationCache
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.prober import unit_grams
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.trainer import view
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.deploy import extract_features, fit_head
from etuner_ros.core.models.freezing import apply_frozen
from etuner_ros.core.models.networks import build, Classifier, pretrained_spec

BATCH = 16
FITTED = 200  # pictures that the head is fitted to
FROZEN = 10  # leading blocks that are frozen: where SimFreeze ends up on the recorded stream


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    value: float
    unit: str
    note: str = ''


def side_by_side(ways: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """Return the median seconds of each way; they take turns after one warm-up each."""
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(turns + 1):
        for way, times in zip(ways, seconds):
            began = time.perf_counter()
            way()
            if turn:
                times.append(time.perf_counter() - began)
    return [statistics.median(times) for times in seconds]


def measure(
    stream: Path, architecture: str = 'efficientnet_lite0', size: int = INPUT_SIZE, turns: int = 15
) -> list[Row]:
    """
    Measure on one thread.

    :param stream: recording or folder with labelled pictures
    :param size: input side, in px
    :raises ConfigError: when there are too few: `FITTED`, and a batch more of the same kinds
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    frames = [f for f in open_source(str(stream)) if f.label][:400]
    images = [resize_square(f.image, size) for f in frames]
    labels = [f.label for f in frames]
    # Pictures that the head is not fitted to: their loss is large enough to differ.
    unseen = [i for i in range(FITTED, len(labels)) if labels[i] in labels[:FITTED]][:BATCH]
    if len(unseen) < BATCH:
        raise ConfigError(
            f"'{stream}' holds {len(labels)} labelled pictures, {len(unseen)} of them behind the "
            f'first {FITTED} and of their kinds: {FITTED} and {BATCH} are needed at least'
        )
    model = build(pretrained_spec(architecture, size), 'pretrained')
    fit_head(model, images[:FITTED], labels[:FITTED])
    model.eval()
    return [
        *_probe(model, images, turns),
        *_layout(model, images, labels, turns),
        *_cache(model, [images[i] for i in unseen], [labels[i] for i in unseen], turns),
        *_head(model, images, labels, turns),
    ]


def _probe(model: Classifier, images: Sequence, turns: int) -> list[Row]:
    rows = []
    fast = copy.deepcopy(model).channels_last()
    cuts = Cuts(fast.backbone, fast.units)
    for count in (32, 64):
        batch = fast.tensor(images[:count]).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            behind = cuts.run(batch, 0, FROZEN)

        def forward(x: Tensor = batch) -> None:
            with torch.inference_mode():
                fast.features(x)

        plain, probe, rest = side_by_side(
            [
                forward,
                lambda x=batch: unit_grams(fast, fast.features, x),  # type: ignore[misc]
                lambda x=behind: unit_grams(fast, lambda y: cuts.run(y, FROZEN), x),  # type: ignore[misc]
            ],
            turns,
        )
        blocks = len(model.units)
        rows += [
            Row(f'probe of all {blocks} blocks, {count} images', probe / plain, 'forward passes'),
            Row(
                f'probe behind {FROZEN} frozen blocks, {count} images',
                rest / plain,
                'forward passes',
                'activations from the cache',
            ),
        ]
    return rows


def _training_step(
    model: Classifier, batch: Callable[[], Tensor], run: Callable[[Tensor], Tensor], target: Tensor
) -> Callable[[], float]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=0.0)

    def step() -> float:
        loss = torch.nn.functional.cross_entropy(model.head(run(batch()).flatten(1)), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return float(loss.detach())

    return step


def _target(model: Classifier, labels: Sequence[str]) -> Tensor:
    return torch.tensor([model.classes.index(label) for label in labels])


def _layout(model: Classifier, images: Sequence, labels: Sequence[str], turns: int) -> list[Row]:
    steps = []
    for layout in (torch.contiguous_format, torch.channels_last):
        copied = copy.deepcopy(model)
        if layout == torch.channels_last:
            copied.channels_last()
        copied.train()
        batch = copied.tensor(images[:BATCH]).contiguous(memory_format=layout)
        steps.append(
            _training_step(
                copied,
                lambda b=batch: b,  # type: ignore[misc]
                copied.features,
                _target(model, labels[:BATCH]),
            )
        )
    plain, last = side_by_side(steps, turns)
    return [Row('training batch in channels-last layout', last / plain, 'of the plain layout')]


def _cache(model: Classifier, images: Sequence, labels: Sequence[str], turns: int) -> list[Row]:
    samples = [
        Sample.of(str(i), label, DEPLOYED, image)
        for i, (image, label) in enumerate(zip(images, labels))
    ]
    target = _target(model, labels)
    keys = [(s.sample_id, 1) for s in samples]
    steps, rows, caches = [], [], {}

    def prepared(frozen: int) -> tuple[Classifier, Cuts, Callable[[Sequence[int]], Tensor]]:
        copied = copy.deepcopy(model).channels_last()
        apply_frozen(copied, copied.unit_names[:frozen])
        copied.train()

        def load(positions: Sequence[int]) -> Tensor:
            batch = copied.tensor(view(samples[p], 1, 0) for p in positions)
            return batch.contiguous(memory_format=torch.channels_last)

        return copied, Cuts(copied.backbone, copied.units), load

    for frozen in (0, FROZEN):
        copied, _, load = prepared(frozen)
        steps.append(
            _training_step(
                copied,
                lambda f=load: f(range(BATCH)),  # type: ignore[misc]
                copied.features,
                target,
            )
        )
    for precision in ('float32', 'float16', 'uint8'):
        copied, cuts, load = prepared(FROZEN)
        cache = ActivationCache(copied, cuts, 10**9, precision)
        cache.follow()
        caches[precision] = cache
        steps.append(
            _training_step(
                copied,
                lambda c=cache, f=load: c.fetch(keys, f),  # type: ignore[misc]
                lambda x, c=cuts: c.run(x, FROZEN),  # type: ignore[misc]
                target,
            )
        )
    full, frozen_only, *cached = side_by_side(steps, turns)
    rows.append(
        Row(f'training batch, {FROZEN} blocks frozen', frozen_only / full, 'of nothing frozen')
    )
    exact = steps[1]()
    for (precision, cache), seconds, step in zip(caches.items(), cached, steps[2:]):
        rows += [
            Row(f'training batch, and {precision} cache', seconds / full, 'of nothing frozen'),
            Row(f'loss with {precision} cache', abs(step() / exact - 1), 'relative difference'),
            Row(f'{precision} activation of a sample', cache.bytes / BATCH / 1e3, 'KB'),
        ]
    return rows


def _head(model: Classifier, images: Sequence, labels: Sequence[str], turns: int) -> list[Row]:
    features = extract_features(model, images)
    head = InstantHead(model.feature_size)
    count = len(labels)

    def rebuild() -> None:
        head.rebuild(features, labels)
        head.prepare()

    (rebuilt,) = side_by_side([rebuild], max(turns // 3, 3))
    position = iter(range(10**9))
    learn, forget, export = side_by_side(
        [
            lambda: head.learn(features[next(position) % count], labels[0]),
            lambda: head.unlearn(features[next(position) % count], labels[0], 1e-3),
            lambda: head.linear(head.classes),
        ],
        5 * turns,
    )
    size = f'{model.feature_size} features, {len(set(labels))} classes'
    return [
        Row('instant head learns a correction', 1e3 * learn, 'ms', size),
        Row('instant head forgets one', 1e3 * forget, 'ms'),
        Row('instant head as weights', 1e3 * export, 'ms'),
        Row(f'instant head rebuilt from {count} samples', 1e3 * rebuilt, 'ms'),
    ]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ['| what | figure | unit |', '|---|---|---|']
    for row in rows:
        note = f' ({row.note})' if row.note else ''
        lines.append(f'| {row.name}{note} | {row.value:.3g} | {row.unit} |')
    return '\n'.join(lines)
