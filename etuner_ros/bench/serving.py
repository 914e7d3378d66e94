# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Serving under load: how long a prediction takes, from image stamp to the subscriber, at 640 x 480
and 30 Hz, while the robot idles, tunes and swaps, and with the whole graph beside it; and the
engines side by side, each with its swaps; `make bench-serving`.

The modes take turns, several times over; the median of a mode's repetitions counts. Beside the
real nodes stand the bare model (same resize, normalise and forward on an array in memory) and
tuning in a thread of the inference process, which is what this package does not do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
import json
from pathlib import Path
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

from etuner_ros.bench.head_commit import machine
from etuner_ros.bench.serving_engines import engine_table, engines_side_by_side
from etuner_ros.bench.serving_stage import (
    HEIGHT,
    inference,
    LABELLED,
    Measured,
    measured,
    PARTS,
    RATE_HZ,
    Stage,
    whole_graph,
    WIDTH,
)
from etuner_ros.bench.swapper import announcing
from etuner_ros.core.config import HeadConfig, INPUT_SIZE, SimFreezeConfig, TrainConfig
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.models.weights import (
    backbone_digest,
    read_base,
    sha256,
    unpack,
)
from etuner_ros.core.serve.engines import Engines
from etuner_ros.core.serve.graph_file import ranges_of
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.worker.client import WorkerClient

MODES = ('bare_model', 'idle', 'tuning', 'tuning_in_thread', 'swapping', 'whole_graph')
SWAP_PERIOD_S = 2.0


class Training:
    """
    The tuner's worker, kept busy: one round after the other on the same labelled pictures.

    :raises EtunerError: when it trains nothing
    """

    def __init__(self, stage: Stage) -> None:
        self.samples = 0
        self._round = 0
        self._ready, self._trains = threading.Event(), threading.Event()
        self._train = TrainConfig()
        # Nothing is frozen and every batch is as expensive as it can be: the hardest neighbour.
        freeze = SimFreezeConfig(enabled=False)
        self._client = WorkerClient(self._train, freeze, HeadConfig(), self._on_message)
        self._client.send(
            {
                'op': 'open',
                'path': str(stage.base),
                'architecture': 'efficientnet_lite0',
                'input_size': INPUT_SIZE,
                'weights': '',
            }
        )
        self._samples = [
            {
                'id': str(i),
                'label': f.label,
                'predicted': '',
                'image': encode_jpeg(f.image),
                'scenario': ['camera', 0],
            }
            for i, f in enumerate(stage.frames[:LABELLED])
        ]
        base = read_base(stage.base)
        self._model = {
            'op': 'model',
            'version': 0,
            'classes': list(base.spec.classes),
            'weights': b'',
            'backbone_sha256': backbone_digest(base.sha256, {}),
            'backbone': b'',
        }
        for happens, what in ((self._ready, 'load the model'), (self._trains, 'train')):
            if not happens.wait(60.0):
                self.close()
                raise EtunerError(f'the worker did not {what}')

    def _on_message(self, message: dict[str, Any]) -> None:
        if message['op'] == 'ready':
            self._client.send(self._model)
        elif message['op'] == 'model_loaded':
            self._next()
            self._ready.set()
        elif message['op'] == 'progress':
            self.samples += self._train.batch_size
            self._trains.set()
        elif message['op'] in ('candidate', 'nothing', 'failed'):
            self._client.send(self._model)  # back to what is live, and again

    def _next(self) -> None:
        self._round += 1
        # Other names each time: a sample is new once.
        samples = [{**s, 'id': f'{s["id"]}/{self._round}'} for s in self._samples]
        message = {'op': 'samples', 'samples': samples, 'new': True}
        self._client.send({**message, 'renamed': [], 'withdrawn': []})
        self._client.send(
            {
                'op': 'round',
                'id': self._round,
                'scenarios': {'camera': 0},
                'kind': RoundKind.TRAIN.value,
            }
        )

    def rate(self, run: Callable[[], Any]) -> tuple[float, Any]:
        """Return the samples trained a second while something runs, and what that returned."""
        before, began = self.samples, time.monotonic()
        value = run()
        return (self.samples - before) / (time.monotonic() - began), value

    def close(self) -> None:
        """End the worker."""
        self._client.close()


def bare_model(stage: Stage, frames: int) -> Measured:
    """Resize, normalise and run the model on arrays in memory, at the camera's rate."""
    import torch

    torch.set_num_threads(1)
    engines = Engines()
    base = read_base(stage.base)
    engines.network(base.spec, base.state, wait=True)  # the graph is there from now on
    live = LiveModel(base, engines)
    data = bytearray(stage.ranges.read_bytes())
    update = unpack(bytes(data))
    engines.network(base.spec, base.state, ranges_of(update), wait=True)
    backbone = backbone_digest(base.sha256, update)
    live.swap(live.prepare(1, base.spec.classes, bytearray(), sha256(b''), backbone, data))
    latencies = []
    begin = time.monotonic()
    for number in range(frames):
        time.sleep(max(0.0, begin + number / RATE_HZ - time.monotonic()))
        started = time.perf_counter()
        live.predict(stage.pictures[number % len(stage.pictures)], 3)
        latencies.append(time.perf_counter() - started)
    return measured(latencies, frames)


def run_mode(stage: Stage, mode: str, frames: int) -> Measured:
    """Run one repetition of a mode."""
    if mode == 'bare_model':
        return bare_model(stage, frames)
    if mode == 'whole_graph':
        with whole_graph(stage):
            return stage.stream(frames)
    if mode == 'tuning_in_thread':
        with inference(stage, train_in_thread=True) as counts:
            before, began = _count(counts), time.monotonic()
            result = stage.stream(frames)
            rate = (_count(counts) - before) / (time.monotonic() - began)
            result.train_samples_per_s = rate
            return result
    with inference(stage):
        if mode == 'tuning':
            training = Training(stage)
            try:
                rate, result = training.rate(lambda: stage.stream(frames))
            finally:
                training.close()
            result.train_samples_per_s = rate
            return result  # type: ignore[no-any-return]
        if mode == 'swapping':
            count = max(1, int(frames / RATE_HZ / SWAP_PERIOD_S))
            with announcing(stage.base, 2, count, SWAP_PERIOD_S, stage.ranges):
                return stage.stream(frames)
        return stage.stream(frames)


def _count(file: Path) -> int:
    return int(file.read_text() or 0) if file.exists() else 0


def unloaded(stage: Stage, seconds: float) -> float:
    """Return the samples the worker trains a second with nothing beside it."""
    training = Training(stage)
    try:
        rate, _ = training.rate(lambda: time.sleep(seconds))
    finally:
        training.close()
    return rate


def serve(stream: Path, output: Path, frames: int, repetitions: int, swaps: int) -> dict[str, Any]:
    """
    Measure all modes in turns, then the engines, and write `serving.json`.

    :param frames: of each mode, over all repetitions
    :param swaps: of each engine; 0 leaves them out
    """
    where = machine()  # before anything runs
    each = -(-frames // repetitions)
    found: dict[str, list[Measured]] = {mode: [] for mode in MODES}
    free: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(stream, Path(folder))
        try:
            for repetition in range(repetitions):
                for mode in MODES:
                    result = run_mode(stage, mode, each)
                    found[mode].append(result)
                    print(
                        f'{repetition + 1} of {repetitions}, {mode}: p50 {result.p50_ms:.1f}, '
                        f'p99 {result.p99_ms:.1f} ms, {result.dropped} of {each} dropped',
                        file=sys.stderr,
                        flush=True,
                    )
                free.append(unloaded(stage, each / RATE_HZ))
            engines = engines_side_by_side(stage, swaps, max(3 * repetitions, 3))
        finally:
            stage.close()
    modes = {mode: _median(results) for mode, results in found.items()}
    baseline = statistics.median(free)
    overheads = [
        i.p50_ms - b.p50_ms for i, b in zip(found['idle'], found['bare_model'], strict=True)
    ]
    answer = {
        'modes': modes,
        'engines': engines,
        'overhead_p50_ms': modes['idle']['p50_ms'] - modes['bare_model']['p50_ms'],
        'overhead_p50_range_ms': [min(overheads), max(overheads)],
        'parts_p50_ms': modes['idle']['parts_ms'],
        'unloaded_train_samples_per_s': baseline,
        'p99_tuning_vs_idle': modes['tuning']['p99_ms'] / modes['idle']['p99_ms'],
        'training_vs_unloaded': modes['tuning']['train_samples_per_s'] / baseline,
        'frames_per_repetition': each,
        'repetitions': {mode: [asdict(r) for r in results] for mode, results in found.items()},
        'setting': {
            'image': f'{WIDTH}x{HEIGHT} rgb8',
            'rate_hz': RATE_HZ,
            'model': 'efficientnet_lite0',
            'input_size': INPUT_SIZE,
            'threads': 1,
        },
        'machine': where,
        'commit': where['commit'],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / 'serving.json').write_text(json.dumps(answer, indent=1) + '\n')
    return answer


def _median(results: list[Measured]) -> dict[str, Any]:
    """Return the medians over repetitions; frames and drops are sums."""
    rates = [r.train_samples_per_s for r in results if r.train_samples_per_s is not None]
    return {
        **{
            key: statistics.median(getattr(r, key) for r in results)
            for key in ('p50_ms', 'p95_ms', 'p99_ms', 'max_ms')
        },
        'p50_range_ms': [min(r.p50_ms for r in results), max(r.p50_ms for r in results)],
        'p99_range_ms': [min(r.p99_ms for r in results), max(r.p99_ms for r in results)],
        'parts_ms': {
            name: statistics.median(r.parts_ms[name] for r in results if r.parts_ms)
            for name in PARTS
        }
        if results[0].parts_ms
        else None,
        'frames': sum(r.frames for r in results),
        'dropped': sum(r.dropped for r in results),
        'train_samples_per_s': statistics.median(rates) if rates else None,
        'versions': max(r.versions for r in results),
    }


def table(answer: dict[str, Any]) -> str:
    """Return the modes as a Markdown table, and the three figures that matter."""
    lines = [
        '| mode | p50, ms | p95, ms | p99, ms | longest, ms | frames | dropped | samples trained '
        'a second |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for mode, m in answer['modes'].items():
        rate = '-' if m['train_samples_per_s'] is None else f'{m["train_samples_per_s"]:.1f}'
        lines.append(
            f'| {mode} | {m["p50_ms"]:.1f} | {m["p95_ms"]:.1f} | {m["p99_ms"]:.1f} | '
            f'{m["max_ms"]:.1f} | {m["frames"]} | {m["dropped"]} | {rate} |'
        )
    return '\n'.join(lines) + (
        f'\n\np99 while tuning: {answer["p99_tuning_vs_idle"]:.2f} of idle, with '
        f'{100 * answer["training_vs_unloaded"]:.0f} % of the unloaded training throughput; ROS '
        f'and conversion: {answer["overhead_p50_ms"]:.1f} ms at p50, of a frame '
        + ', '.join(f'{name} {ms:.2f}' for name, ms in answer['parts_p50_ms'].items())
        + ' ms\n\n'
        + engine_table(answer['engines'])
    )
