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
import math

import numpy as np
import torch

from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.figures import new_kind_requests, on_return
from etuner_ros.bench.library import Library
from etuner_ros.bench.methods.base import Method, World
from etuner_ros.bench.streams import BATCH_GAP_S, Stream
from etuner_ros.core.config import ScenarioConfig, TrainConfig
from etuner_ros.core.cost import CostMeter, OTHER
from etuner_ros.core.decide.scenario import ScenarioDetector
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.trainer import planned_iterations
from etuner_ros.core.models.networks import Classifier

LOAD = 0.5  # share of the stream's time that `immediate` is busy
FIXED_SHARE = 0.1  # of an immediate round's time that is its fixed part
TESTED_AT_END = 100  # scored pictures of each scenario that it is tested on, the least asked for
TESTED = 30  # of these at each border


@dataclass(frozen=True)
class Clock:
    """How long a round lasts in virtual time."""

    rate: float  # operations a virtual second
    fixed: float  # virtual seconds of a round, whatever it does

    def duration(self, flops: float, share: float = 1.0) -> float:
        """
        Return virtual seconds.

        :param share: of the compute that the round is given, in (0, 1]
        """
        return self.fixed + flops / (self.rate * share)


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
    final: float = math.nan  # of pictures of all scenarios at the end
    final_by_scenario: list[float] = field(default_factory=list)
    on_return: float | None = None  # see `figures`
    new_kind_requests: float | None = None
    forgetting: float = 0.0  # mean drop from best to last on all scenarios but the last visited
    rounds: int = 0
    refused: int = 0
    trained_share: float | None = None  # of the labels; None for methods without rounds
    flops: dict[str, float] = field(default_factory=dict)  # by part
    seconds: dict[str, float] = field(default_factory=dict)
    fixed: float = 0.0  # virtual seconds of fixed parts
    busy: float = 0.0  # virtual seconds in rounds, fixed parts included
    age: float = math.nan  # mean virtual seconds since the newest sample the live weights know
    correct: list[bool] = field(default_factory=list)  # of each request
    round_times: list[tuple[float, float]] = field(default_factory=list)
    frozen: list[tuple[float, int]] = field(default_factory=list)
    changes: list[float] = field(default_factory=list)  # declared by the detector


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
        model, exemplars = deployed
        world = World(model, exemplars, library.features, library.fronts, self._meter, seed)
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
        self._best: dict[int, float] = {}  # accuracy by scenario, of those that have been visited

    def run(self) -> Iterator[None]:
        """Play all events; yields after each."""
        stream, outcome = self._stream, self.outcome
        marks = [(t, 0, visit) for visit, t in enumerate(stream.starts) if visit]
        marks += [(t, 1, 0) for t in outcome.changes]
        marks.sort()
        for event in stream.events:
            while marks and marks[0][0] <= event.time:
                time, declared, visit = marks.pop(0)
                self._advance(time)
                if declared:
                    self._method.on_change()
                else:
                    self._test(stream.visits[:visit])
            self._advance(event.time)
            if event.labelled:
                self._answer()
                self._newest, before = event.time, self._method.updates
                with self._meter.counted_as(OTHER):
                    self._method.on_batch([self._sample(p, p.label) for p in event.pictures])
                if self._method.updates > before:
                    self._newest_live = self._newest
                outcome.frozen.append((event.time, self._method.frozen))
            else:
                request = self._sample(event.pictures[0], event.pictures[0].label)
                self._waiting.append(request)
                self._ages.append(event.time - self._newest_live)
                self._method.on_request(replace(request, label=''))
                if self._method.wants_refresh():
                    self._answer()
                    with self._meter.counted_as(OTHER):
                        self._method.refresh()
            self._maybe_start(event.time)
            yield
        self._finish()

    def _sample(self, picture: Picture, label: str) -> Sample:
        """Return a picture as the network takes it; a label may be a wrong one."""
        return replace(self._library.samples[picture.name], label=label)

    def _finish(self) -> None:
        """Train on what waits at the end, charged like all else; then test and add up."""
        stream, outcome, method = self._stream, self.outcome, self._method
        self._advance(math.inf)
        if method.wants_last_round():
            self._start(max(stream.end, self._until))
            self._advance(math.inf)
        self._answer()
        self._test(stream.visits, whole=True)
        others = [s for s in self._best if s != stream.visits[-1]]
        if others:
            drops = [self._best[s] - self._last[s] for s in others]
            outcome.forgetting = sum(drops) / len(drops)
        outcome.accuracy = sum(outcome.correct) / len(outcome.correct)
        outcome.on_return = on_return(stream, outcome.correct)
        outcome.new_kind_requests = new_kind_requests(stream, outcome.correct)
        outcome.age = sum(self._ages) / len(self._ages)
        outcome.rounds, outcome.refused = method.rounds, method.refused
        outcome.trained_share = method.trained_share
        outcome.flops, outcome.seconds = dict(self._meter.flops), dict(self._meter.seconds)

    def _maybe_start(self, time: float) -> None:
        """Train, when the method wants to."""
        if self._phase == 'idle' and self._method.wants_round():
            self._start(time)

    def _start(self, time: float) -> None:
        """Train; what it made goes live when its time has passed."""
        before = self._meter.total_flops
        self._began, self._newest_taken = time, self._newest
        with self._meter.counted_as(OTHER):
            for _ in self._method.round():
                pass
        self._phase = 'training'
        cost = self._meter.total_flops - before
        self._until = time + self._clock.duration(cost, self._method.compute_share)

    def _advance(self, time: float) -> None:
        """Let rounds end that end before a time."""
        while self._phase != 'idle' and self._until <= time:
            if self._phase == 'training':
                before = self._meter.total_flops
                with self._meter.counted_as(OTHER):
                    self._method.make_candidate()
                self._phase = 'proposed'
                cost = self._meter.total_flops - before
                self._until += cost / (self._clock.rate * self._method.compute_share)
                continue
            self._answer()
            before_it = self._method.updates
            with self._meter.counted_as(OTHER):
                self._method.finish_round()
            if self._method.updates > before_it:
                self._newest_live = max(self._newest_live, self._newest_taken)
            self._phase = 'idle'
            outcome = self.outcome
            outcome.round_times.append((self._began, self._until))
            outcome.busy += self._until - self._began
            outcome.fixed += self._clock.fixed
            outcome.frozen.append((self._until, self._method.frozen))
            self._maybe_start(self._until)

    def _answer(self) -> None:
        """Have the live weights answer the requests that came while they were live."""
        if self._waiting:
            with self._meter.paused():
                said = self._method.predict(self._waiting)
            self.outcome.correct += [a == s.label for a, s in zip(said, self._waiting)]
            self._waiting = []

    def _test(self, visits: Sequence[int], whole: bool = False) -> None:
        """
        Test all scenarios that have been visited; the last test says what is final.

        :param whole: on all test pictures, not only on those of borders
        """
        self._answer()
        self._last = {}
        asked: list[tuple[int, bool, Sample]] = []  # scenario, asked at borders, picture
        for scenario in sorted(set(visits)):
            pictures = self._stream.tests[scenario][-TESTED_AT_END:]
            some = set(spread(len(pictures), TESTED))
            asked += [
                (scenario, i in some, self._sample(picture, picture.label))
                for i, picture in enumerate(pictures)
                if whole or i in some
            ]
        # All kinds mixed, as a method may follow what it is asked.
        asked = [asked[i] for i in np.random.default_rng(0).permutation(len(asked))]
        with self._meter.paused():
            said = self._method.examine([sample for _, _, sample in asked])
        right = [a == sample.label for a, (_, _, sample) in zip(said, asked)]
        for scenario in sorted(set(visits)):
            mine = [ok for ok, (s, some_, _) in zip(right, asked) if s == scenario and some_]
            self._last[scenario] = sum(mine) / max(len(mine), 1)
            self._best[scenario] = max(self._best.get(scenario, 0.0), self._last[scenario])
        self.outcome.final = sum(right) / max(len(right), 1)
        self.outcome.final_by_scenario = [
            sum(found) / len(found)
            for scenario in sorted(set(visits))
            if (found := [ok for ok, (s, _, _) in zip(right, asked) if s == scenario])
        ]


def spread(count: int, most: int) -> list[int]:
    """
    Return at most so many positions out of `count`, evenly over all of them.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    taken = min(count, most)
    return [i * count // taken for i in range(taken)]
