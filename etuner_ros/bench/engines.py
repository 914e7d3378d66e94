# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Engines side by side: how long a prediction takes by each, at several sizes, and what quantising
costs in accuracy; `etuner bench engines`.

Accuracy: the instant head, solved on the features that an engine gives of the labelled side of
each data set, asked for the scored side. Quantised networks are calibrated on labelled pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import json
import math
from pathlib import Path
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch

from etuner_ros.bench.datasets import grocery, Picture, recording
from etuner_ros.bench.head_commit import machine
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.images.codec import Image
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.models.weights import ModelSpec, State
from etuner_ros.core.serve.calibrate import calibrate
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.networks import Network

Say = Callable[[str], None]
ENGINES = ('torch-fp32', 'onnxruntime-fp32', 'onnxruntime-int8')
PREDICTIONS = 100  # of each engine in a turn


def networks_of(
    spec: ModelSpec, state: State, pictures: Sequence[Image], threads: int = 1
) -> dict[str, Network]:
    """
    Return a network for each engine.

    :param pictures: to calibrate with, of the network's size
    """
    by_torch = Engines(EngineSettings(engine='torch'), threads=threads)
    by_onnx = Engines(EngineSettings(engine='onnxruntime'), threads=threads)
    ranges = calibrate(spec, state, pictures, by_onnx)
    made = (
        by_torch.network(spec, state),
        by_onnx.network(spec, state, wait=True),
        by_onnx.network(spec, state, ranges, wait=True),
    )
    return {network.name: network for network in made}


def time_in_turns(
    networks: Mapping[str, Network], pictures: Mapping[str, Sequence[Image]], turns: int
) -> dict[str, dict[str, Any]]:
    """
    Return the milliseconds of a prediction by each network, which take turns.

    :param pictures: what each looks at, by the same names
    :return: p50 and p99 over all turns, and the lowest and highest p50 of a turn
    """
    times: dict[str, list[list[float]]] = {name: [] for name in networks}
    for _ in range(turns):
        for name, network in networks.items():
            shown, turn = pictures[name], []
            for number in range(PREDICTIONS):
                began = time.perf_counter()
                network.look([shown[number % len(shown)]])
                turn.append(1e3 * (time.perf_counter() - began))
            times[name].append(turn)
    return {
        name: {
            'p50_ms': float(np.percentile(np.concatenate(found), 50)),
            'p99_ms': float(np.percentile(np.concatenate(found), 99)),
            'p50_range_ms': [
                min(statistics.median(t) for t in found),
                max(statistics.median(t) for t in found),
            ],
        }
        for name, found in times.items()
    }


def features(network: Network, pictures: Sequence[Picture], size: int) -> torch.Tensor:
    """Return the features (n, D) of pictures."""
    return torch.from_numpy(np.concatenate([network.look([p.image(size)])[0] for p in pictures]))


def right(
    learned: torch.Tensor, labels: Sequence[str], asked: torch.Tensor, truth: Sequence[str]
) -> list[bool]:
    """Return which of the asked pictures the instant head names right."""
    head = InstantHead(learned.shape[1], HeadConfig())
    head.rebuild(learned, labels)
    best = head.logits(asked.double()).argmax(dim=1).tolist()
    return [head.classes[i] == t for i, t in zip(best, truth)]


def data_sets(stream: Path, photographs: Path | None) -> dict[str, list[Picture]]:
    """Return the pictures of the benchmark by name: those for searching, and those for reports."""
    sets = {'recording': recording(stream)}
    for place in sorted({p.scenario for p in sets['recording']}):
        sets[f'recording, {place}'] = [p for p in sets['recording'] if p.scenario == place]
    if photographs is not None:
        sets['photographs, search'] = grocery(photographs, reported=False)
        sets['photographs'] = grocery(photographs, reported=True)
    return sets


def accuracy(
    sets: Mapping[str, Sequence[Picture]], architecture: str, size: int, say: Say
) -> dict[str, dict[str, Any]]:
    """
    Return, by data set and engine, the accuracy of the instant head in percent.

    :return: also `int8_minus_fp32` in points, and its standard error over paired pictures
    """
    spec = pretrained_spec(architecture, size)
    state = build(spec, 'pretrained').state()
    found: dict[str, dict[str, Any]] = {}
    known: dict[tuple[str, str], torch.Tensor] = {}  # a picture may be in several sets
    for name, pictures in sets.items():
        learned = [p for p in pictures if p.labelled]
        asked = [p for p in pictures if not p.labelled]
        step = max(len(learned) // 100, 1)
        shown = [p.image(size) for p in learned[::step]]
        networks = networks_of(spec, state, shown)
        del networks['torch-fp32']
        hits: dict[str, list[bool]] = {}
        for engine, network in networks.items():
            group = f'{engine} {name if "int8" in engine else ""}'

            def rows(
                chosen: Sequence[Picture], group: str = group, network: Network = network
            ) -> torch.Tensor:
                for p in chosen:
                    if (group, p.name) not in known:
                        known[group, p.name] = features(network, [p], size)[0]
                return torch.stack([known[group, p.name] for p in chosen])

            hits[engine] = right(
                rows(learned), [p.label for p in learned], rows(asked), [p.label for p in asked]
            )
        plain, coded = (np.array(hits[e], float) for e in ENGINES[1:])
        moved = coded - plain
        found[name] = {
            'labels': len(learned),
            'asked': len(asked),
            **{engine: 100 * float(np.mean(h)) for engine, h in hits.items()},
            'int8_minus_fp32': 100 * float(moved.mean()),
            'standard_error': 100 * float(moved.std() / math.sqrt(len(moved))),
        }
        say(
            f'{size} px, {name}: fp32 {found[name][ENGINES[1]]:.1f} %, int8 minus fp32 '
            f'{found[name]["int8_minus_fp32"]:+.2f} points'
        )
    return found


def measure(
    stream: Path,
    photographs: Path | None,
    output: Path,
    sizes: Sequence[int],
    turns: int = 10,
    architecture: str = 'efficientnet_lite0',
) -> dict[str, Any]:
    """Measure and write `engines.json`."""
    where = machine()  # before anything runs
    torch.set_num_threads(1)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    sets = data_sets(stream, photographs)
    networks: dict[str, Network] = {}
    shown: dict[str, list[Image]] = {}
    for size in sizes:
        spec = pretrained_spec(architecture, size)
        pictures = [p.image(size) for p in sets['recording'][:60]]
        for name, network in networks_of(
            spec, build(spec, 'pretrained').state(), pictures
        ).items():
            networks[f'{name}@{size}'], shown[f'{name}@{size}'] = network, pictures
    times = time_in_turns(networks, shown, turns)
    for key, row in times.items():
        say(f'{key}: {row["p50_ms"]:.2f} ms')
    answer = {
        'times': times,
        'accuracy': {str(size): accuracy(sets, architecture, size, say) for size in sizes},
        'setting': {'architecture': architecture, 'threads': 1, 'turns': turns},
        'machine': where,
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / 'engines.json').write_text(json.dumps(answer, indent=1) + '\n')
    return answer


def table(answer: Mapping[str, Any]) -> str:
    """Return two tables in Markdown: times, and accuracies."""
    lines = [
        '| engine | px | p50, ms | over turns | p99, ms | torch / this |',
        '|---|---|---|---|---|---|',
    ]
    for key, row in answer['times'].items():
        name, _, size = key.partition('@')
        ratio = answer['times'][f'torch-fp32@{size}']['p50_ms'] / row['p50_ms']
        low, high = row['p50_range_ms']
        lines.append(
            f'| {name} | {size} | {row["p50_ms"]:.2f} | {low:.2f} to {high:.2f} | '
            f'{row["p99_ms"]:.2f} | {ratio:.1f} |'
        )
    lines += [
        '',
        '| pictures | px | labels | fp32, % | int8, % | difference, points |',
        '|---|---|---|---|---|---|',
    ]
    for size, sets in answer['accuracy'].items():
        for name, row in sets.items():
            lines.append(
                f'| {name} | {size} | {row["labels"]} | {row[ENGINES[1]]:.1f} | '
                f'{row[ENGINES[2]]:.1f} | {row["int8_minus_fp32"]:+.2f} ± '
                f'{row["standard_error"]:.2f} |'
            )
    return '\n'.join(lines)
