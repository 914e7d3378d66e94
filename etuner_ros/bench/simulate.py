# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Play a stream to a method on a virtual clock (etuner.md section 7).

A round lasts a fixed part plus its operations divided by a rate, in virtual time. Requests that
arrive meanwhile are served by the old weights; batches queue. Measured seconds are reported and
never fed back, so the outcome does not depend on the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import copy
from dataclasses import dataclass, field, replace
import hashlib
import math
import os
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
import torch
from torch import Tensor

from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.methods.base import Method, World
from etuner_ros.bench.streams import BATCH_GAP_S, Stream
from etuner_ros.core.config import ScenarioConfig, TrainConfig
from etuner_ros.core.cost import CostMeter, OTHER
from etuner_ros.core.decide.scenario import ScenarioDetector
from etuner_ros.core.identity import DEPLOYED
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.trainer import planned_iterations
from etuner_ros.core.models.deploy import fit_head
from etuner_ros.core.models.networks import build, Classifier, pretrained_spec

LOAD = 0.5  # share of the stream's time that `immediate` is busy
FIXED_SHARE = 0.1  # of an immediate round's time that is its fixed part
TESTED = 30  # scored pictures of each scenario that it is tested on at each border
EXEMPLARS = 10  # deployment pictures of a class that replay knows


class Library:
    """
    The pictures of a data set as the network takes them, with what the deployed backbone makes of
    them; computed once and kept in a file.

    :param weights: state-dict file of a torchvision network; empty for pretrained ones
    """

    def __init__(
        self,
        pictures: Sequence[Picture],
        architecture: str,
        size: int,
        weights: str = '',
        folder: Path | None = None,
        progress: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.pictures = list(pictures)
        self.architecture, self.size, self.weights = architecture, size, weights
        self.model = build(pretrained_spec(architecture, size), weights or 'pretrained')
        self.samples = {
            p.name: Sample.of(p.name, p.label, DEPLOYED, p.image(size)) for p in self.pictures
        }
        digest = hashlib.sha256(f'{architecture} {size}'.encode())
        for tensor in self.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        for name, sample in self.samples.items():
            digest.update(name.encode() + sample.jpeg)
        folder = folder or Path(tempfile.gettempdir()) / f'etuner_bench_{os.getuid()}'
        file = folder / f'{digest.hexdigest()[:24]}.npz'
        if not file.exists():
            features, appearance = self._look(progress)
            folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(f'.{os.getpid()}.npz')
            np.savez(part, features=features, appearance=appearance)
            part.replace(file)
        stored = np.load(file)
        rows = torch.from_numpy(stored['features'])
        self._features = {p.name: rows[i] for i, p in enumerate(self.pictures)}
        self.appearance = {
            p.name: stored['appearance'][i].astype(np.float64) for i, p in enumerate(self.pictures)
        }

    def _look(self, progress: Callable[[str], None]) -> tuple[Any, Any]:
        features, appearance = [], []
        for start in range(0, len(self.pictures), 32):
            images = [self.samples[p.name].image for p in self.pictures[start : start + 32]]
            if start % 320 == 0:
                progress(f'features of the deployed network: {start} of {len(self.pictures)}')
            model = self.model
            if not model.classes:
                model.add_class('')
            _, rows, seen = model.examine(model.tensor(images))
            features.append(rows.numpy())
            appearance.append(seen.numpy())
        return np.concatenate(features), np.concatenate(appearance)

    def features(self, samples: Sequence[Sample]) -> Tensor:
        """Return features (n, D) of the deployed backbone."""
        return torch.stack([self._features[s.sample_id] for s in samples])

    def deploy(self, pictures: Sequence[Picture]) -> tuple[Classifier, tuple[Sample, ...]]:
        """Return a model whose head is fitted to pictures, and the exemplars it travels with."""
        model = build(pretrained_spec(self.architecture, self.size), self.weights or 'pretrained')
        samples = [self.samples[p.name] for p in pictures]
        fit_head(model, [s.image for s in samples], [s.label for s in samples])
        chosen: list[Sample] = []
        counts: dict[str, int] = {}
        for sample in samples:
            counts[sample.label] = counts.get(sample.label, 0) + 1
            if counts[sample.label] <= EXEMPLARS:
                chosen.append(sample)
        return model.eval(), tuple(chosen)


@dataclass(frozen=True)
class Clock:
    """How long a round lasts in virtual time."""

    rate: float  # operations a virtual second
    fixed: float  # virtual seconds of a round, whatever it does

    def duration(self, flops: float) -> float:
        """Return virtual seconds."""
        return self.fixed + flops / self.rate


def calibrate(model: Classifier, train: TrainConfig, batch_size: int, load: float = LOAD) -> Clock:
    """
    Return the clock on which `immediate` is busy for a share of the stream.

    :param train: its recipe; the operations of its round are counted on one training batch
    """
    busy = load * BATCH_GAP_S
    flops = planned_iterations(batch_size, train) * _batch_flops(model, train.batch_size)
    return Clock(rate=flops / (busy * (1.0 - FIXED_SHARE)), fixed=busy * FIXED_SHARE)


def _batch_flops(model: Classifier, count: int) -> float:
    """Return the operations of one training batch with nothing frozen."""
    copied = copy.deepcopy(model)
    copied.train()
    size = copied.spec.input_size
    optimiser = torch.optim.AdamW(copied.parameters(), lr=0.0)
    with CostMeter() as meter:
        logits = copied(torch.zeros(count, 3, size, size))
        logits.sum().backward()
        optimiser.step()
    return meter.total_flops


def detect(stream: Stream, library: Library, config: ScenarioConfig | None = None) -> list[float]:
    """
    Return when the detector declares changes, from the requests alone.

    It looks through the deployed model, so that its output is the same for every method.
    """
    detector = ScenarioDetector(config)
    return [
        event.time
        for event in stream.events
        if not event.labelled and detector.update(library.appearance[event.pictures[0].name])
    ]


@dataclass
class Outcome:
    """What a method did on a stream."""

    accuracy: float = math.nan  # average inference accuracy, in [0, 1]
    final: list[float] = field(default_factory=list)  # by scenario at the end
    best: list[float] = field(default_factory=list)  # by scenario, over all borders since it began
    rounds: int = 0
    refused: int = 0
    flops: dict[str, float] = field(default_factory=dict)  # by part
    seconds: dict[str, float] = field(default_factory=dict)
    fixed: float = 0.0  # virtual seconds of fixed parts
    busy: float = 0.0  # virtual seconds in rounds, fixed parts included
    age: float = math.nan  # mean virtual seconds since the newest sample the live weights know
    correct: list[bool] = field(default_factory=list)  # of each request
    round_times: list[tuple[float, float]] = field(default_factory=list)
    frozen: list[tuple[float, int]] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)  # declared by the detector

    @property
    def forgetting(self) -> float:
        """Mean drop from best to last on all scenarios but the newest, in [-1, 1]."""
        drops = [b - f for b, f in zip(self.best[:-1], self.final[:-1])]
        return sum(drops) / len(drops) if drops else 0.0


class Playing:
    """
    A method on its way over a stream; `step` plays one event.

    Several can take turns in one process, so that a machine that slows down slows all of them.
    """

    def __init__(
        self,
        stream: Stream,
        library: Library,
        make: Callable[[World], Method],
        clock: Clock,
        changes: Sequence[float],
        seed: int,
        deployed: tuple[Classifier, tuple[Sample, ...]],
    ) -> None:
        self._meter = CostMeter()
        world = World(deployed[0], deployed[1], library.features, self._meter, seed)
        # What happens before the first event is deployment, not tuning, and is not counted.
        self._run = _Run(stream, library, make(world), clock, changes, self._meter)
        self._events = self._run.run()

    def step(self) -> Outcome | None:
        """Play the next event; return the outcome after the last one."""
        with self._meter:
            try:
                next(self._events)
            except StopIteration:
                return self._run.outcome
        return None


def play(
    stream: Stream,
    library: Library,
    make: Callable[[World], Method],
    clock: Clock,
    changes: Sequence[float],
    seed: int,
    deployed: tuple[Classifier, tuple[Sample, ...]],
) -> Outcome:
    """Run a method over a stream."""
    playing = Playing(stream, library, make, clock, changes, seed, deployed)
    while (outcome := playing.step()) is None:
        pass
    return outcome


class _Run:
    def __init__(
        self,
        stream: Stream,
        library: Library,
        method: Method,
        clock: Clock,
        changes: Sequence[float],
        meter: CostMeter,
    ) -> None:
        self._stream, self._library, self._method = stream, library, method
        self._clock, self._meter = clock, meter
        self.outcome = Outcome(changes=list(changes))
        self._waiting: list[Sample] = []  # requests that the live weights have not answered yet
        self._phase = 'idle'  # or training, or proposed: the candidate is being made and judged
        self._until = self._began = 0.0  # of the phase, of the round
        self._newest = self._newest_taken = self._newest_live = 0.0  # batch: came, trained, live
        self._ages: list[float] = []
        self._best: list[float] = []
        self._last: list[float] = []

    def run(self) -> Iterator[None]:
        """Play all events; yields after each."""
        stream, outcome = self._stream, self.outcome
        marks = [(t, 0, 'true') for t in stream.borders]
        marks += [(t, 2, 'declared') for t in outcome.changes]
        marks.sort()
        for event in stream.events:
            while marks and marks[0][0] <= event.time:
                time, _, sort = marks.pop(0)
                self._advance(time)
                if sort == 'true':
                    self._test()
                self._method.on_change(sort == 'true')
            self._advance(event.time)
            if event.labelled:
                self._answer()
                self._newest = event.time
                with self._meter.counted_as(OTHER):
                    self._method.on_batch([self._library.samples[p.name] for p in event.pictures])
                outcome.frozen.append((event.time, self._method.frozen))
            else:
                request = self._library.samples[event.pictures[0].name]
                self._waiting.append(request)
                self._ages.append(event.time - self._newest_live)
                self._method.on_request(replace(request, label=''))
            self._maybe_start(event.time)
            yield
        self._answer()
        with self._meter.paused():
            self._test()
        outcome.final = self._last
        outcome.best = self._best
        outcome.accuracy = sum(outcome.correct) / len(outcome.correct)
        outcome.age = sum(self._ages) / len(self._ages)
        outcome.rounds, outcome.refused = self._method.rounds, self._method.refused
        outcome.flops, outcome.seconds = dict(self._meter.flops), dict(self._meter.seconds)

    def _maybe_start(self, time: float) -> None:
        """Train, when the method wants to; what it made goes live when its time has passed."""
        if self._phase == 'idle' and self._method.wants_round():
            before = self._meter.total_flops
            self._began, self._newest_taken = time, self._newest
            with self._meter.counted_as(OTHER):
                for _ in self._method.round():
                    pass
            self._phase = 'training'
            self._until = time + self._clock.duration(self._meter.total_flops - before)

    def _advance(self, time: float) -> None:
        """Let rounds end that end before a time."""
        while self._phase != 'idle' and self._until <= time:
            if self._phase == 'training':
                before = self._meter.total_flops
                with self._meter.counted_as(OTHER):
                    self._method.make_candidate()
                self._phase = 'proposed'
                self._until += (self._meter.total_flops - before) / self._clock.rate
                continue
            self._answer()
            with self._meter.counted_as(OTHER):
                self._method.finish_round()
            self._phase = 'idle'
            outcome = self.outcome
            outcome.round_times.append((self._began, self._until))
            outcome.busy += self._until - self._began
            outcome.fixed += self._clock.fixed
            outcome.frozen.append((self._until, self._method.frozen))
            self._newest_live = self._newest_taken
            self._maybe_start(self._until)

    def _answer(self) -> None:
        """Have the live weights answer the requests that came while they were live."""
        if self._waiting:
            with self._meter.paused():
                said = self._method.predict(self._waiting)
            self.outcome.correct += [a == s.label for a, s in zip(said, self._waiting)]
            self._waiting = []

    def _test(self) -> None:
        """Test all scenarios so far."""
        self._answer()
        seen = len(self._best) + 1
        self._last = []
        with self._meter.paused():
            for pictures in self._stream.tests[:seen]:
                samples = [self._library.samples[p.name] for p in pictures[-TESTED:]]
                said = self._method.predict(samples)
                right = sum(a == s.label for a, s in zip(said, samples))
                self._last.append(right / max(len(samples), 1))
        self._best = [max(a, b) for a, b in zip([*self._best, 0.0], self._last)]
