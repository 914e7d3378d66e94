# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The virtual clock, what waits at the end, and that mechanisms of methods fire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import copy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.figures import new_kind_requests, on_return
from etuner_ros.bench.fronts import Fronts
from etuner_ros.bench.library import Library
from etuner_ros.bench.methods import ekya
from etuner_ros.bench.methods.base import Method, World
from etuner_ros.bench.methods.egeria import Egeria
from etuner_ros.bench.methods.ekya import Candidate, Ekya
from etuner_ros.bench.methods.registry import entry, HELD, RIVAL
from etuner_ros.bench.methods.tuned import Recipe, Tuned
from etuner_ros.bench.simulate import Clock, Outcome, play
from etuner_ros.bench.streams import Event, make_stream, Setting, Stream
from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.cost import charge
from etuner_ros.core.identity import DEPLOYED
from etuner_ros.core.learn.round import Round
from etuner_ros.core.learn.sample import Sample


def _pictures(scenarios: int, classes: int, each: int) -> list[Picture]:
    return [
        Picture(f'{s}/{c}/{i}', f'class {c}', f'place {s}', i % 2 == 0, b'', f'{c}/{i % 3}')
        for s in range(scenarios)
        for c in range(classes)
        for i in range(each)
    ]


class _Counting(Method):
    """Answers with the number of rounds that are live; each round takes 30 operations."""

    frozen = 0
    least = 1  # batches that start a round
    last = True  # whether what waits at the end is trained

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.live = self.waiting = 0

    def on_batch(self, samples: list[Sample]) -> None:
        self.waiting += 1

    def wants_round(self) -> bool:
        return self.waiting >= self.least

    def wants_last_round(self) -> bool:
        return self.last and self.waiting > 0

    def round(self):
        self.rounds += 1
        self.waiting = 0
        charge(30.0)
        yield

    def make_candidate(self) -> None:
        charge(10.0)

    def finish_round(self) -> None:
        self.live += 1

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        charge(1e9)  # requests are not the method's cost
        return [str(self.live)] * len(samples)


class _Patient(_Counting):
    """Starts no round by itself."""

    least = 1000


class _Resting(_Patient):
    """Has found that rounds do not pay."""

    last = False


class _Sharing(_Counting):
    """Gives training a quarter of the compute."""

    compute_share = 0.25  # type: ignore[assignment]


class _Names:
    """A library of nothing but names."""

    fronts = None

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self.samples = {p.name: Sample(p.name, '', DEPLOYED, b'') for p in pictures}

    def features(self, samples: Sequence[Sample]) -> None:
        return None


def _counted(kind: Callable[[World], Method], label: str = '0') -> tuple[Stream, Outcome]:
    """Play a method over two places with one batch each; pictures are of the kind `label`."""
    pictures = _pictures(1, 2, 40) + _pictures(2, 2, 40)[80:]
    stream = make_stream(pictures, Setting('NI', batches=1, requests=30, arrivals='uniform'), 0)
    events = [
        replace(e, pictures=tuple(replace(p, label=label) for p in e.pictures))
        for e in stream.events
    ]
    tests = tuple(tuple(replace(p, label=label) for p in group) for group in stream.tests)
    stream = replace(stream, events=tuple(events), tests=tests)
    clock = Clock(rate=10.0, fixed=1.0)
    library = _Names(pictures)
    return stream, play(stream, library, kind, clock, [], 0, (None, ()))  # type: ignore[arg-type]


def test_requests_are_answered_by_the_weights_live_at_their_arrival() -> None:
    """A round over the first batch takes 1 + 30 / 10 s, its candidate 10 / 10 s more."""
    stream, outcome = _counted(_Counting)
    batches = [e.time for e in stream.events if e.labelled]
    assert outcome.round_times[0] == pytest.approx((batches[0], batches[0] + 5.0))
    requests = [e.time for e in stream.events if not e.labelled]
    before = [t for t in requests if t < batches[0] + 5.0]
    # 'Right' means that no round was live yet.
    assert outcome.correct == [t in before for t in requests]
    assert sum(outcome.flops.values()) == 40.0 * outcome.rounds
    assert outcome.rounds == len(outcome.round_times) == 2
    assert outcome.fixed == 2.0
    assert outcome.busy == pytest.approx(10.0)


def test_what_waits_at_the_end_is_trained_charged_and_then_tested() -> None:
    stream, outcome = _counted(_Patient, '1')
    assert outcome.rounds == 1
    assert sum(outcome.flops.values()) == 40.0
    assert outcome.round_times[0][0] >= stream.end
    assert outcome.final == 1.0  # the answers of the weights after that round
    assert outcome.accuracy == 0.0  # no request came after it
    assert outcome.final_by_scenario == [1.0, 1.0]


def test_a_method_that_rests_leaves_it() -> None:
    _, outcome = _counted(_Resting, '1')
    assert outcome.rounds == 0
    assert not outcome.flops
    assert outcome.final == 0.0


def test_a_round_with_a_share_of_the_compute_lasts_longer() -> None:
    _, outcome = _counted(_Sharing)
    began, ended = outcome.round_times[0]
    assert ended - began == pytest.approx(1.0 + 4 * 30 / 10 + 4 * 10 / 10)


class _Noting(_Counting):
    """Notes the labels that it is told, and those of requests."""

    told: list[str]
    asked: set[str]

    def on_batch(self, samples: list[Sample]) -> None:
        self.told = [*getattr(self, 'told', []), *(s.label for s in samples)]

    def on_request(self, sample: Sample) -> None:
        self.asked = {*getattr(self, 'asked', set()), sample.label}


def test_a_wrong_label_reaches_the_method_and_no_label_of_a_request_does() -> None:
    pictures = _pictures(2, 3, 40)
    stream = make_stream(pictures, Setting('NI', batches=2, requests=20, wrong=0.3), 0)
    made: list[_Noting] = []

    def make(world: World) -> Method:
        made.append(_Noting(world))
        return made[0]

    library = _Names(pictures)
    play(stream, library, make, Clock(10.0, 1.0), [], 0, (None, ()))  # type: ignore[arg-type]
    given = [p for e in stream.events if e.labelled for p in e.pictures]
    assert made[0].told == [p.label for p in given]
    assert any(p.label != f'class {p.name.split("/")[1]}' for p in given)
    assert made[0].asked == {''}


def _event(visit: int, kind: str, labelled: bool = False) -> Event:
    picture = Picture('p', kind, 'place', labelled, b'', '')
    return Event(float(visit), 0, (picture,), labelled, visit)


def test_answers_on_return_and_of_new_kinds() -> None:
    known = Picture('d', 'cup', 'place', True, b'', '')
    events = [
        _event(0, 'ball'),  # nobody has said yet what that is
        _event(0, 'ball', labelled=True),
        _event(0, 'ball'),
        _event(0, 'ball'),
        _event(1, 'ball'),
        _event(1, 'ball'),
        _event(2, 'cup'),
        _event(2, 'cup'),
        _event(2, 'hat', labelled=True),
        _event(2, 'hat'),
    ]
    correct = [False, False, True, False, True, True, False, False]
    stream = SimpleNamespace(events=events, visits=(0, 1, 0), deployment=(known,))
    assert on_return(stream, correct) == pytest.approx(1 / 3)  # type: ignore[arg-type]
    # The ball was wrong once before the first right answer; the hat is wrong to the end, once.
    assert new_kind_requests(stream, correct) == pytest.approx(1.0)  # type: ignore[arg-type]
    once = SimpleNamespace(events=events, visits=(0, 1, 2), deployment=())
    assert on_return(once, correct) is None  # type: ignore[arg-type]


@pytest.fixture(scope='module')
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Return pictures of two places at 32 px, with a front of a half of the blocks kept."""
    folder = tmp_path_factory.mktemp('library')
    pictures = []
    for number, picture in enumerate(_pictures(2, 3, 24)):
        rng = np.random.default_rng(number)
        colour = np.eye(3)[int(picture.label[-1])] * 120 + 40
        image = np.clip(colour + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
        data = cv2.imencode('.png', image)[1].tobytes()
        pictures.append(replace(picture, data=data))
    return Library(
        pictures,
        'efficientnet_lite0',
        32,
        folder=folder,
        frozen=SimFreezeConfig(start_frozen_share=0.5, max_frozen_share=0.6),
    )


def _play(
    library: Library, make: Callable[[World], Method], batches: int = 2
) -> tuple[Outcome, Method]:
    setting = Setting('NI', batches=batches, requests=12, batch_size=8)
    stream = make_stream(library.pictures, setting, 0)
    made: list[Method] = []

    def keep(world: World) -> Method:
        made.append(make(world))
        return made[0]

    deployed = library.deploy(stream.deployment)
    clock = Clock(rate=1e9, fixed=0.1)
    outcome = play(stream, library, keep, clock, [], 0, deployed)
    return outcome, made[0]


FEW = replace(RIVAL, epochs=1.0, batch_size=8)


def test_egeria_freezes_blocks_on_a_stream(library: Library) -> None:
    quick = partial(Egeria, interval=1, window=2, hits=1, tolerance=0.5)
    outcome, _ = _play(library, partial(Tuned, recipe=Recipe(FEW, policy=quick)))
    frozen = [count for _, count in outcome.frozen]
    assert frozen[0] == 0
    assert max(frozen) > 0


def test_ekya_gives_training_the_share_that_it_found(library: Library, monkeypatch) -> None:
    monkeypatch.setattr(ekya, 'PROFILE_EPOCHS', 2)
    monkeypatch.setattr(ekya, 'CANDIDATES', (Candidate(0.0, 1.0), Candidate(0.5, 1.0)))
    recipe = Recipe(replace(HELD, epochs=1.0), trigger=2)
    outcome, method = _play(library, partial(Ekya, recipe=recipe))
    assert 0.0 < method.compute_share < 1.0
    cost = sum(outcome.flops.values())
    # With all of the compute the rounds would have been done in fixed part and operations / rate.
    assert outcome.busy > outcome.fixed + 1.05 * cost / 1e9


class _Stems:
    """Counts how often images enter a network."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, module: torch.nn.Module, _inputs: object, _output: object) -> None:
        self.count += isinstance(module, torch.nn.Conv2d) and module.in_channels == 3


@contextmanager
def _counting_stems() -> Iterator[_Stems]:
    stems = _Stems()
    handle = torch.nn.modules.module.register_module_forward_hook(stems)
    try:
        yield stems
    finally:
        handle.remove()


def test_the_head_alone_never_runs_the_network(library: Library) -> None:
    with _counting_stems() as stems:

        def make(world: World) -> Method:
            method = entry('head').make(world)
            stems.count = 0  # what was before is deployment
            return method

        outcome, _ = _play(library, make)
    assert stems.count == 0
    assert outcome.rounds == 0
    assert outcome.trained_share is None
    assert outcome.accuracy > 0.5


def test_a_frozen_front_is_looked_up_and_changes_nothing(library: Library, monkeypatch) -> None:
    """Rounds of the rear: answers and operations are those of a library that keeps no front."""
    monkeypatch.setattr(Round, '_probe', lambda *_: None)  # probes look at whole images
    front = SimFreezeConfig(start_frozen_share=0.5, max_frozen_share=0.5)
    train = TrainConfig(epochs=1.0, batch_size=8, views=1, flip=True, device='cpu')
    recipe = Recipe(train, trigger=1, sim_freeze=front, head=HeadConfig())
    plain = copy.copy(library)
    plain.fronts = Fronts(library.model, 0, np.zeros(0, np.float16), {})
    assert library.fronts.border > 0
    found = []
    for one in (library, plain):
        with _counting_stems() as stems:

            def make(world: World) -> Method:
                method = Tuned(world, recipe)
                stems.count = 0
                return method

            outcome, method = _play(one, make, batches=1)
        found.append(outcome)
        assert isinstance(method, Tuned)
        assert method.learner.version > 0
        assert (stems.count == 0) == (one is library)
    assert found[0].rounds == found[1].rounds > 0
    assert found[0].flops == pytest.approx(found[1].flops)
    same = [a == b for a, b in zip(found[0].correct, found[1].correct)]
    assert sum(same) >= len(same) - 1
    assert found[0].trained_share == 1.0
