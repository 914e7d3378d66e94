# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The virtual clock, what waits at the end, and that mechanisms of methods fire."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from etuner_ros.bench import library as library_module
from etuner_ros.bench.datasets import Picture
from etuner_ros.bench.figures import new_kind_requests, on_return
from etuner_ros.bench.fronts import Fronts
from etuner_ros.bench.library import Library
from etuner_ros.bench.methods import ekya
from etuner_ros.bench.methods.base import Method, World
from etuner_ros.bench.methods.egeria import Egeria
from etuner_ros.bench.methods.ekya import Candidate, Ekya
from etuner_ros.bench.methods.frozen_features import Ridge
from etuner_ros.bench.methods.registry import entry, HELD, RIVAL
from etuner_ros.bench.methods.tuned import Recipe, Tuned
from etuner_ros.bench.provenance import Code
from etuner_ros.bench.simulate import Clock, Outcome, play
from etuner_ros.bench.streams import Event, make_stream, Setting, Stream
from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.cost import charge, CostMeter
from etuner_ros.core.identity import DEPLOYED
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.round import Round
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.networks import Classifier
from etuner_ros.core.models.weights import ModelSpec


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


class _Instant(_Resting):
    """What it learns of a batch is live at once."""

    def on_batch(self, samples: list[Sample]) -> None:
        self.updates += 1


class _Accepted(_Counting):
    """Each round goes live."""

    def finish_round(self) -> None:
        super().finish_round()
        self.updates += 1


class _Both(_Accepted):
    """Has an instant head and rounds."""

    def on_batch(self, samples: list[Sample]) -> None:
        super().on_batch(samples)
        self.updates += 1


def _ages(stream: Stream, live_after: float) -> float:
    """Return the mean age where each batch is live so many virtual seconds after it came."""
    batches = [e.time for e in stream.events if e.labelled]
    requests = [e.time for e in stream.events if not e.labelled]
    newest = [max([0.0, *(b for b in batches if b + live_after <= t)]) for t in requests]
    return float(np.mean(np.array(requests) - newest))


def test_what_is_learned_at_once_makes_the_live_weights_young() -> None:
    for kind, live_after in ((_Instant, 0.0), (_Both, 0.0), (_Accepted, 5.0), (_Resting, 1e9)):
        stream, outcome = _counted(kind)
        assert outcome.age == pytest.approx(_ages(stream, live_after)), kind.__name__


def test_a_round_that_is_refused_does_not_make_the_live_weights_younger() -> None:
    _, refused = _counted(_Counting)
    _, none = _counted(_Resting)
    assert refused.rounds == 2
    assert refused.age == none.age


def test_a_place_without_pictures_to_test_on_has_no_accuracy() -> None:
    pictures = _pictures(2, 2, 40)
    stream = make_stream(pictures, Setting('NI', batches=1, requests=30), 0)
    stream = replace(stream, tests=((), stream.tests[1]))
    library = _Names(pictures)
    clock = Clock(rate=10.0, fixed=1.0)
    outcome = play(stream, library, _Resting, clock, [], 0, (None, ()))  # type: ignore[arg-type]
    assert outcome.final_by_scenario == [0.0], 'that of the other place'


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


def _small() -> Classifier:
    torch.manual_seed(0)
    backbone = torch.nn.Sequential()
    for i in range(2):
        backbone.add_module(f'block{i}', torch.nn.Conv2d(16 if i else 3, 16, 3, 2, 1))
    backbone.add_module('pool', torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1)))
    return Classifier(ModelSpec('small', 16, (), (0.5,) * 3, (0.5,) * 3), backbone, 16).eval()


def _world(features: Callable[[Sequence[Sample]], torch.Tensor] | None = None) -> World:
    """Return a small network that knows no class; or what it makes of samples is given."""
    model = _small()

    def look(samples: Sequence[Sample]) -> torch.Tensor:
        with torch.no_grad():
            return model.features(model.tensor(s.image for s in samples))

    front = Fronts(model, 0, np.zeros(0, np.float16), {})
    return World(model, (), features or look, front, CostMeter(), 0)


@pytest.mark.parametrize(('iterations', 'most'), [(1, 0.25), (3, 0.75), (100, 1.0)])
def test_only_what_was_in_a_training_batch_was_trained_on(iterations: int, most: float) -> None:
    train = replace(RIVAL, batch_size=4, max_iterations=iterations)
    method = Tuned(_world(), Recipe(train))
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 16, 3), np.uint8)
    method.on_batch([Sample.of(f'{i}', f'{i % 2}', DEPLOYED, im) for i, im in enumerate(noise)])
    assert method.trained_share == 0.0
    for _ in method.round():
        pass
    method.make_candidate()
    method.finish_round()
    assert method.trained_share is not None
    assert 0.0 < method.trained_share <= most
    assert (method.trained_share == 1.0) == (most == 1.0)


def test_a_test_says_what_requests_would_be_told() -> None:
    """First of the kinds that were labelled lately, then of others, until these are likely."""
    rng = np.random.default_rng(1)
    centres, rows = rng.normal(size=(4, 16)), {}

    def make(name: str, kind: int) -> Sample:
        rows[name] = torch.tensor(centres[kind] + 1.5 * rng.normal(size=16)).float()
        return Sample(name, f'kind{kind}', DEPLOYED, b'')

    world = _world(lambda samples: torch.stack([rows[s.sample_id] for s in samples]))
    method = Tuned(world, Recipe(RIVAL, trigger=0, head=HeadConfig(prior=1.0)))
    for start in range(0, 32, 8):
        method.on_batch([make(f'all {i}', i % 4) for i in range(start, start + 8)])
    method.on_batch([make(f'late {i}', i % 2) for i in range(64)])
    asked = [make(f'asked {i}', i % 2 if i < 40 else 2 + i % 2) for i in range(120)]
    live = method.learner.version
    said, plain = method.examine(asked), method.predict(asked)
    assert method.learner.version == live, 'nothing of it lasts'
    told = []
    for sample in asked:
        told += method.predict([sample])
        method.on_request(replace(sample, label=''))
        if method.wants_refresh():
            method.refresh()
    assert method.learner.version > live
    assert plain != told, 'another prior went live on the way'
    assert said == told


@pytest.mark.parametrize('seed', [0, 1])
def test_ridge_after_many_batches_is_ridge_over_all_labels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres, kinds = rng.normal(size=(6, 100)), rng.integers(0, 6, 900)
    rows = torch.tensor(centres[kinds] + 3.0 * rng.normal(size=(900, 100))).float()
    shown = [Sample(f'{i}', f'kind{k}', DEPLOYED, b'') for i, k in enumerate(kinds)]

    def features(samples: Sequence[Sample]) -> torch.Tensor:
        return rows[[int(s.sample_id) for s in samples]]

    known = [s for s in shown[:40] if s.label in ('kind0', 'kind1')]
    base = SimpleNamespace(feature_size=100)
    world: Any = SimpleNamespace(base=base, exemplars=tuple(known), features=features)
    method = Ridge(world)
    told = [s for s in shown[:400] if s not in known]
    for start in range(0, len(told), 8):
        method.on_batch(told[start : start + 8])
    whole = InstantHead(100, HeadConfig())
    whole.rebuild(rows[:400], [s.label for s in shown[:400]])
    best = whole.logits(rows[400:]).argmax(dim=1).tolist()
    said = method.predict(shown[400:])
    assert sum(a == whole.classes[i] for a, i in zip(said, best)) > 0.95 * len(best)


def test_heads_that_learn_at_once_are_younger_than_one_that_never_learns() -> None:
    """Pictures without meaning: no head has said all the labels before."""
    pictures = _pictures(2, 3, 40)
    stream = make_stream(pictures, Setting('NI', batches=3, requests=20, batch_size=8), 0)
    draw = torch.Generator().manual_seed(0)
    rows = {p.name: torch.randn(16, generator=draw) for p in pictures}
    names = _Names(pictures)
    known = tuple(replace(names.samples[p.name], label=p.label) for p in stream.deployment)
    library = SimpleNamespace(
        samples=names.samples,
        features=lambda samples: torch.stack([rows[s.sample_id] for s in samples]),
        fronts=Fronts(_small(), 0, np.zeros(0, np.float16), {}),
    )
    ours = partial(Tuned, recipe=Recipe(RIVAL, trigger=0, head=HeadConfig()))
    clock = Clock(rate=1e9, fixed=0.1)
    for make, exemplars in ((Ridge, known), (ours, ())):
        deployed = (_small(), exemplars)
        outcome = play(stream, library, make, clock, [], 0, deployed)  # type: ignore[arg-type]
        assert outcome.age == pytest.approx(_ages(stream, 0.0))
    assert _ages(stream, 0.0) < 0.5 * _ages(stream, 1e9)


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


def test_features_that_other_code_made_are_not_taken(tmp_path: Path, monkeypatch) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), np.uint8)
    pictures = [
        replace(p, data=cv2.imencode('.png', im)[1].tobytes())
        for p, im in zip(_pictures(1, 2, 2), noise)
    ]

    def features(commit: str) -> torch.Tensor:
        made_by = Code(commit, '', ())
        monkeypatch.setattr('etuner_ros.bench.library.code', lambda: made_by, raising=False)
        return Library(pictures, 'mobilenet_v3_small', 32, folder=tmp_path).features_of(pictures)

    build = library_module.build
    monkeypatch.setattr(library_module, 'build', lambda spec, _weights: build(spec))
    torch.manual_seed(0)
    right = features('one')
    for file in tmp_path.glob('*.npz'):  # as if the other code had made all of it otherwise
        stored = dict(np.load(file))
        np.savez(file, **{**stored, 'features': stored['features'] + 1.0})
    torch.manual_seed(0)
    assert torch.equal(features('one'), right + 1.0), 'kept, as the same code made it'
    torch.manual_seed(0)
    assert torch.equal(features('two'), right)


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
