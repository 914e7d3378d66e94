# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Measure one candidate in this process: time, memory, energy, a round, accuracy.

Run as a program it measures what a request file says and prints the result; so each candidate has
a process of its own, and memory is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import contextlib
from dataclasses import dataclass
import importlib
import json
import math
from pathlib import Path
import sys
import time
from typing import Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch

from etuner_ros.core.choose.accuracy import left_out
from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.choose.measured import hundredths, Measured, packed
from etuner_ros.core.choose.pictures import Labelled, spread
from etuner_ros.core.config import SimFreezeConfig, TrainConfig
from etuner_ros.core.decide.energy import Derived, find_meter, Meter
from etuner_ros.core.errors import EngineError, EtunerError
from etuner_ros.core.identity import DEPLOYED
from etuner_ros.core.images.codec import Image
from etuner_ros.core.learn.replay import Replay
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.trainer import planned_iterations, train_round
from etuner_ros.core.learn.training_state import TrainingState
from etuner_ros.core.models.networks import build, Classifier, pretrained_spec
from etuner_ros.core.models.weights import ModelSpec, State
from etuner_ros.core.serve.calibrate import calibrate
from etuner_ros.core.serve.engines import Engines, EngineSettings

CALIBRATED_ON = 100  # pictures
PREDICTIONS, LONGEST_S = 200, 6.0  # that a candidate is timed on, at most so long
LEAST_PREDICTIONS = 20
METER_EVERY = 10  # predictions
IDLE_S = 1.0  # how long the meter is watched before
NEW_LABELS = 32  # of the round that is measured: four batches of eight, as the defaults have them
STEPS, LONGEST_ROUND_S = 8, 8.0  # of that round that are timed, after one that warms up


class Served(Protocol):
    """A network behind an engine."""

    @property
    def name(self) -> str:
        """Engine and precision, such as onnxruntime-int8."""

    def look(
        self, images: Sequence[Image]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Map RGB uint8 (S, S, 3) to features (n, D) and appearance (n, 2A)."""


Serve = Callable[[Candidate, ModelSpec, State, Sequence[Image]], Served]


@dataclass(frozen=True)
class Conditions:
    """
    How everything is measured.

    :ivar engine: auto, torch or onnxruntime
    :ivar threads: of a prediction
    :ivar assumed_watts: power of a busy core, where there is no meter; 0 = energy is unavailable
    """

    engine: str = 'auto'
    threads: int = 1
    assumed_watts: float = 0.0

    def serve(
        self, candidate: Candidate, spec: ModelSpec, state: State, images: Sequence[Image]
    ) -> Served:
        """
        Make an engine ready, calibrated on pictures.

        :param images: RGB uint8 (S, S, 3)
        :raises EngineError: when it can not be done
        """
        settings = EngineSettings(engine=self.engine, precision=candidate.precision)
        engines = Engines(settings, threads=self.threads)
        try:
            ranges = (
                calibrate(spec, state, images, engines) if candidate.precision == 'int8' else None
            )
            served = engines.network(spec, state, ranges, wait=True)
            if not served.name.endswith(candidate.precision):
                raise EngineError(engines.why_not() or f'{served.name} would be served instead')
            return served
        finally:
            engines.close()


def measure(
    candidate: Candidate,
    labelled: Labelled,
    conditions: Conditions,
    serve: Serve | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Measured:
    """
    Measure a candidate here and now.

    :param serve: makes the engine; by default that of the conditions
    :raises EtunerError: when it can not be built, served or calibrated
    """
    torch.set_num_threads(conditions.threads)
    images = list(labelled.images(candidate.pixels))
    examples = [images[i] for i in spread(len(images), CALIBRATED_ON)]
    process = psutil.Process()
    before = process.memory_info().rss
    state, spec = _weights(candidate)
    served = (serve or conditions.serve)(candidate, spec, state, examples)
    head = np.zeros((served.look(examples[:1])[0].shape[1], len(set(labelled.labels))), np.float32)
    for image in examples[:5]:
        served.look([image])
    memory = process.memory_info().rss - before
    meter = find_meter(assumed_watts=conditions.assumed_watts)
    seconds, joules = _predict(served, examples, head, meter, clock)
    features = np.concatenate([served.look([image])[0] for image in images])
    unseen = left_out(features, labelled.labels)
    before = process.memory_info().rss
    round_s = _round_seconds(_built(candidate), labelled, images, clock)
    return Measured(
        candidate,
        served.name,
        1e3 * float(np.percentile(seconds, 50)),
        1e3 * float(np.percentile(seconds, 99)),
        memory / 1e6,
        joules,
        'unavailable' if meter is None or math.isnan(joules) else meter.source,
        round_s,
        (process.memory_info().rss - before) / 1e6,
        float(unseen.right.mean()),
        packed(unseen.right),
        hundredths(unseen.doubt),
    )


def _built(candidate: Candidate) -> Classifier:
    spec = pretrained_spec(candidate.network, candidate.pixels)
    return build(spec, candidate.weights or 'pretrained')


def _weights(candidate: Candidate) -> tuple[State, ModelSpec]:
    """Return the weights alone: the network that they came in is gone with this frame."""
    model = _built(candidate)
    return model.state(), model.spec


def _predict(
    served: Served,
    examples: Sequence[Image],
    head: npt.NDArray[np.float32],
    meter: Meter | None,
    clock: Callable[[], float],
) -> tuple[list[float], float]:
    """Return the seconds of predictions, and the joules of one above idle, NaN when unknown."""
    idle = math.nan
    if meter is not None and not isinstance(meter, Derived):
        began, first = clock(), meter.joules()
        time.sleep(IDLE_S)
        idle = (meter.joules() - first) / (clock() - began)
    seconds: list[float] = []
    began, first = clock(), meter.joules() if meter is not None else math.nan
    gaps = meter.gaps if meter is not None else 0
    while len(seconds) < PREDICTIONS:
        then = clock()
        features, _ = served.look([examples[len(seconds) % len(examples)]])
        features @ head
        seconds.append(clock() - then)
        if meter is not None and len(seconds) % METER_EVERY == 0:
            # A power is integrated over the times at which it is read, as far as it can be.
            meter.joules()
        if clock() - began > LONGEST_S and len(seconds) >= LEAST_PREDICTIONS:
            break
    if isinstance(meter, Derived):
        return seconds, meter.watts * float(np.mean(seconds))
    if meter is None:
        return seconds, math.nan
    spent = meter.joules() - first - idle * (clock() - began)
    if meter.gaps != gaps or math.isnan(spent):
        return seconds, math.nan
    return seconds, max(spent, 0.0) / len(seconds)


def _round_seconds(
    model: Classifier,
    labelled: Labelled,
    images: Sequence[Image],
    clock: Callable[[], float],
) -> float:
    """
    Return the seconds of a round over `NEW_LABELS`, with the tuner's own trainer and defaults.

    The blocks that no first round trains are frozen, and their activations cached. Some steps are
    timed; a round has as many as its plan says.
    """
    config, freezing = TrainConfig(early_stop=0.0, max_iterations=STEPS + 1), SimFreezeConfig()
    model.resize_head(tuple(dict.fromkeys(labelled.labels)))
    state = TrainingState(model, config, freezing)
    state.freeze(model.unit_names[: round(freezing.first_frozen_share * len(model.units))])
    samples = [
        Sample.of(str(i), labelled.labels[i], DEPLOYED, images[i])
        for i in spread(len(images), 4 * NEW_LABELS)
    ]
    new = samples[::4] if len(samples) >= 8 else samples
    replay = Replay(10**9)
    for sample in samples:
        replay.add(sample)
    steps: list[float] = []
    began = then = clock()
    for _ in train_round(
        state.model, state.optimiser, new, replay, (), config, state.rng, state.logits
    ):
        now = clock()
        steps.append(now - then)
        then = now
        if now - began > LONGEST_ROUND_S and len(steps) > 2:
            break
    return float(np.median(steps[1:] or steps)) * planned_iterations(NEW_LABELS, TrainConfig())


def main(request: Path) -> int:
    """Measure what a request file says; print the result, or why there is none."""
    raw = json.loads(request.read_text())
    for library in ('onnxruntime', 'torchvision'):
        with contextlib.suppress(Exception):  # so that their size is not counted as a network's
            importlib.import_module(library)
    try:
        found = measure(
            Candidate(**raw['candidate']),
            Labelled.read(Path(raw['pictures'])),
            Conditions(**raw['conditions']),
        )
    except EtunerError as error:
        print(json.dumps({'failed': str(error)}))
        return 1
    except (ImportError, MemoryError, RuntimeError) as error:
        line = (str(error).splitlines() or [type(error).__name__])[0]
        print(json.dumps({'failed': f'{type(error).__name__}: {line[:200]}'}))
        return 1
    print(json.dumps(found.to_json()))
    return 0


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1])))
