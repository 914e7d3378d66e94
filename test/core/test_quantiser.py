# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A learner that serves in 8 bit: calibrated on its own pictures, judged on what will be served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from versions import travelling

from etuner_ros.core.config import TrainConfig
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.errors import EngineError
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.learn.candidates import HeadCandidate, RoundCandidate
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.phase import Phase
from etuner_ros.core.learn.quantiser import features_by, Quantiser
from etuner_ros.core.learn.round import NothingMade
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.networks import from_base
from etuner_ros.core.models.weights import (
    backbone_digest,
    BaseWeights,
    RANGES,
    read_base,
)
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.graph_file import ranges_of
from etuner_ros.core.serve.live_model import LiveModel

HERE = Scenario('eye', 0)
QUICK = TrainConfig(batch_size=8, epochs=1.0, max_iterations=4, validation_share=0.2)


@pytest.fixture
def base(deployed: Path) -> BaseWeights:
    return read_base(deployed)


@pytest.fixture
def engines(ros_home: Path) -> Engines:
    made = Engines(EngineSettings(precision='int8'))
    yield made
    made.close()


def labelled(frames: list, count: int | None = None) -> list[Sample]:
    chosen = [f for f in frames if f.label][:count]
    return [
        Sample.of(str(i), f.label, HERE, resize_square(f.image, 64), 'mug')
        for i, f in enumerate(chosen)
    ]


def robot(base: BaseWeights, engines: Engines) -> Learner:
    model = from_base(base.state, base.spec)
    return Learner(model, QUICK, base_sha256=base.sha256, engines=engines)


def calibrated(learner: Learner) -> RoundCandidate:
    made = list(learner.run_round(kind=RoundKind.CALIBRATE))
    assert len(made) == 1
    assert isinstance(made[0], RoundCandidate)
    return made[0]


def go_live(learner: Learner, candidate: RoundCandidate | HeadCandidate) -> None:
    learner.set_live(candidate.live_update, candidate.classes, learner.version + 1)


def test_what_is_live_is_quantised_as_soon_as_there_are_pictures_enough(base, frames, engines):
    learner = robot(base, engines)
    assert not learner.wants_calibration
    learner.add_samples(labelled(frames, 20))
    assert not learner.wants_calibration, 'too few'
    learner.add_samples(labelled(frames))
    assert learner.wants_calibration
    waiting = len(learner.pending)
    candidate = calibrated(learner)
    assert candidate.iterations == candidate.new_samples == 0
    assert len(learner.pending) == waiting, 'nothing was trained, so all of it still waits'
    assert [k for k in candidate.update if not k.startswith(('head.', RANGES))] == []
    assert candidate.backbone == backbone_digest(base.sha256, candidate.update)
    assert candidate.backbone != learner.backbone
    assert len(candidate.outcomes) > 5
    assert not learner.wants_calibration, 'it waits for its verdict'
    go_live(learner, candidate)
    assert learner.backbone == candidate.backbone
    assert learner.phase is Phase.IDLE
    assert not learner.wants_calibration


def test_the_head_is_solved_on_the_features_that_inference_serves(base, frames, engines):
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    candidate = calibrated(learner)
    go_live(learner, candidate)
    live = LiveModel(base, engines)
    live.swap(live.prepare(1, candidate.classes, *travelling(base, candidate.update)))
    deadline = 2000
    while live.engine.startswith('torch') and deadline:
        live.renew()
        deadline -= 1
    assert live.engine == 'onnxruntime-int8'
    shown = labelled(frames)[:12]
    served = np.stack([live.predict(s.image, 1).features for s in shown])
    ours = learner._features(shown).numpy()
    assert np.array_equal(served, ours), 'the same network, to the last bit'
    plain = learner.live.features(learner.live.tensor([s.image for s in shown])).detach().numpy()
    assert np.abs(plain - ours).max() > 1e-3
    said = [live.predict(s.image, 1).labels[0] for s in shown]
    assert np.mean([a == s.label for a, s in zip(said, shown)]) > 0.8


def test_corrections_and_rounds_go_on_in_8_bit(base, frames, engines):
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    go_live(learner, calibrated(learner))
    before = learner.backbone
    feature = learner._features(labelled(frames)[:1])[0]
    assert learner.correct('new', 'a thing', feature, before, HERE)
    assert not learner.correct('late', 'thing', feature, backbone_digest(base.sha256, {}), HERE)
    head = learner.propose_head()
    assert head is not None
    assert (head.backbone, set(head.weights)) == (before, {'head.weight', 'head.bias'})
    assert ranges_of(head.live_update) is not None
    go_live(learner, head)
    assert learner.backbone == before
    candidate = list(learner.run_round())[-1]
    assert isinstance(candidate, RoundCandidate)
    assert candidate.iterations > 0
    assert ranges_of(candidate.update) is not None, 'what a round makes is quantised again'
    assert ranges_of(candidate.update)[1].shape == ranges_of(head.live_update)[1].shape
    assert candidate.backbone == backbone_digest(base.sha256, candidate.update)
    assert len(candidate.appearance_move) > 0
    go_live(learner, candidate)
    assert learner.backbone == candidate.backbone
    learner.set_live({}, base.spec.classes, 0)  # an operator rolls back
    assert learner.backbone == backbone_digest(base.sha256, {})
    shown = labelled(frames)[:3]
    plain = learner.live.features(learner.live.tensor([s.image for s in shown]))
    assert torch.allclose(learner._features(shown), plain.detach(), atol=1e-4)
    assert not learner.wants_calibration, 'somebody wants it in float'


def test_a_class_whose_pictures_are_still_on_their_way_puts_a_calibration_off(
    base, frames, engines
):
    """Its row would be lost with a head that never saw it."""
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    feature = learner._features(labelled(frames)[:1])[0]
    assert learner.correct('new', 'a thing', feature, learner.backbone, HERE)
    go_live(learner, learner.propose_head())
    with pytest.raises(NothingMade, match='still on their way'):
        calibrated(learner)
    assert learner.wants_calibration, 'later'
    picture = labelled(frames)[0]
    learner.add_samples([Sample.of('new', 'a thing', HERE, picture.image)])
    assert 'a thing' in calibrated(learner).classes


def test_pictures_of_the_deployment_are_not_what_the_robot_sees(base, frames, engines):
    learner = robot(base, engines)
    shown = labelled(frames)
    learner.add_exemplars(
        [Sample.of(f'd{s.sample_id}', s.label, DEPLOYED, s.image) for s in shown]
    )
    assert not learner.wants_calibration
    learner.add_samples(shown[:40])
    assert learner.wants_calibration


def test_a_worker_that_can_not_compute_what_is_served_brings_it_back_to_float(
    base, frames, engines
):
    """Such as one on another computer, without onnxruntime: it must not mix two kinds of features."""
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    candidate = calibrated(learner)
    other = robot(base, Engines(EngineSettings(engine='torch')))
    other.add_samples(labelled(frames))
    other.set_live(candidate.update, candidate.classes, 1)
    feature = other._features(labelled(frames)[:1])[0]
    assert not other.correct('x', 'mug', feature, other.backbone, HERE)
    assert other.wants_calibration
    back = calibrated(other)
    assert ranges_of(back.update) is None
    assert back.backbone == backbone_digest(base.sha256, {})
    go_live(other, back)
    assert not other.wants_calibration
    assert other.correct('y', 'mug', feature, other.backbone, HERE)


def test_of_many_pictures_only_those_that_are_looked_at_are_decoded(
    base, frames, engines, monkeypatch
):
    """The replay memory holds thousands, of 77 KB each once they are decoded."""
    decoded = []
    original = Sample.image.fget

    def image(sample: Sample) -> np.ndarray:
        decoded.append(sample.sample_id)
        return original(sample)

    many = [
        Sample.of(f'{n}/{s.sample_id}', s.label, HERE, s.image)
        for n in range(4)
        for s in labelled(frames)
    ]
    monkeypatch.setattr(Sample, 'image', property(image))
    Quantiser(engines, base.spec, base.state).quantise({}, many)
    assert len(many) > 300
    assert len(decoded) == len(set(decoded)) == 100


def test_a_calibration_is_no_training(base, frames, engines):
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    go_live(learner, calibrated(learner))
    assert not learner.sim_freeze.accepted, 'the first round still freezes as a first round'


def test_what_is_worse_in_8_bit_stays_in_float_and_the_figures_are_told(
    base, frames, engines, monkeypatch
):
    """The gate's own test, on held-back samples, between the two."""
    original = Quantiser.quantise

    def blind(self: Quantiser, update: dict, pictures: list[Sample]) -> tuple:
        """Return ranges in which nothing can be told apart."""
        made, _ = original(self, update, pictures)
        made = {
            k: np.full_like(v, 1e6) * np.float32([-1, 1]) if k.startswith(RANGES) else v
            for k, v in made.items()
        }
        network = self.network(made)
        assert network is not None
        return made, network

    monkeypatch.setattr(Quantiser, 'quantise', blind)
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    with pytest.raises(NothingMade, match='8 bit are worse than float: refused'):
        calibrated(learner)
    assert learner.phase is Phase.IDLE
    assert not learner.wants_calibration, 'not tried again with the same weights'
    candidate = list(learner.run_round())[-1]
    assert isinstance(candidate, RoundCandidate)
    assert ranges_of(candidate.update) is None
    assert sum(o.candidate_correct for o in candidate.outcomes) > 0.7 * len(candidate.outcomes)
    assert '% live' in learner.quantiser.why_not


def test_a_quantiser_that_fails_costs_no_round(base, frames, engines, monkeypatch):
    def fail(*_: object) -> None:
        raise EngineError('the graph can not be made: no space left on device')

    monkeypatch.setattr(Engines, 'observer', fail)
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    with pytest.raises(NothingMade, match='no space left'):
        calibrated(learner)
    candidate = list(learner.run_round())[-1]
    assert ranges_of(candidate.update) is None
    go_live(learner, candidate)
    assert learner.version == 1


@pytest.mark.parametrize(
    ('settings', 'wanted'),
    [
        (EngineSettings(precision='fp32'), False),
        (EngineSettings(engine='torch', precision='int8'), False),
        (EngineSettings(), True),
    ],
)
def test_whether_versions_are_quantised_is_the_users_choice(base, settings, wanted):
    assert Quantiser(Engines(settings), base.spec, base.state).wanted is wanted


def test_8_bit_that_are_no_faster_here_are_left_alone(base, frames, monkeypatch):
    """As on a processor without instructions for them."""
    engines = Engines()
    learner = robot(base, engines)
    learner.add_samples(labelled(frames))
    monkeypatch.setattr('etuner_ros.core.learn.quantiser.WORTH', 0.0)
    with pytest.raises(NothingMade, match='not worth it on this computer: .* ms in float'):
        calibrated(learner)
    assert not learner.quantiser.wanted
    engines.close()


def test_features_come_one_picture_at_a_time_as_they_are_served(base, frames, engines):
    network = engines.network(base.spec, base.state, wait=True)
    rows = features_by(network, labelled(frames)[:5])
    assert rows.shape == (5, 1904)
    assert rows.dtype == torch.float32
