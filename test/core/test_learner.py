# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The learner: heads and rounds, with real pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from etuner_ros.bench.foresight import Foresight
from etuner_ros.bench.fronts import Fronts
from etuner_ros.bench.methods.base import World
from etuner_ros.core.boxes.crops import cut
from etuner_ros.core.boxes.recording import BoxRecording
from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.cost import CostMeter, PROBE
from etuner_ros.core.decide.scenario import compressed
from etuner_ros.core.errors import LearnerError, WeightsError
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.learn.candidates import HeadCandidate, RoundCandidate
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.live_state import predictions
from etuner_ros.core.learn.phase import Phase
from etuner_ros.core.learn.round import APPEARANCE_SAMPLES, RoundCancelled
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.trainer import grow_optimiser, make_optimiser, planned_iterations
from etuner_ros.core.learn.within_class import shipped
from etuner_ros.core.models.deploy import extract_features
from etuner_ros.core.models.networks import build, Classifier, from_base, pretrained_spec
from etuner_ros.core.models.weights import (
    backbone_digest,
    check_update,
    difference,
    HEAD_LIKENESS,
    pack,
    read_base,
)

QUICK = TrainConfig(batch_size=8, epochs=2.0, validation_share=0.0)


@pytest.fixture
def model(deployed: Path) -> Classifier:
    base = read_base(deployed)
    return from_base(base.state, base.spec)


HERE, THERE = Scenario('eye', 0), Scenario('eye', 1)
BASE = backbone_digest('', {})  # of the deployed backbone


def samples(frames: list, labels: tuple[str, ...], scenario: Scenario = HERE) -> list[Sample]:
    chosen = [f for f in frames if f.label in labels]
    return [
        Sample.of(str(i), f.label, scenario, resize_square(f.image, 64))
        for i, f in enumerate(chosen)
    ]


def unlabelled(frames: list, label: str, scenario: Scenario = HERE) -> list[Sample]:
    """Frames of a kind, without saying so."""
    return [
        replace(s, sample_id=f'seen {s.sample_id}', label='')
        for s in samples(frames, (label,), scenario)
    ]


def finish(learner: Learner) -> RoundCandidate:
    result = list(learner.run_round())[-1]
    assert isinstance(result, RoundCandidate)
    return result


def test_a_round_teaches_a_new_class(model, frames):
    learner = Learner(model, QUICK)
    new = samples(frames, ('race_car',))
    learner.add_samples(new)
    result = finish(learner)
    assert result.classes == (*model.classes, 'race_car')
    assert result.update['head.weight'].shape == (5, model.feature_size)
    right = predictions(learner.training, new)
    assert right.count('race_car') >= 0.75 * len(new)
    assert learner.live.classes == model.classes, 'the live model waits for the verdict'


KNOWN = ('duck', 'mug', 'soccer_ball', 'table')


def deployed_learner(model: Classifier, frames: list, **train: object) -> Learner:
    """Return a learner with samples of what the model was deployed for, as the worker has it."""
    learner = Learner(model, TrainConfig(**{'validation_share': 0.0, 'batch_size': 8, **train}))
    shown = [
        Sample.of(f'deployed/{i}', f.label, DEPLOYED, resize_square(f.image, 64))
        for i, f in enumerate([f for f in frames if f.label in KNOWN][:20])
    ]
    learner.add_exemplars(shown)
    return learner


def test_a_head_update_teaches_a_new_class_without_a_round_and_forgets_nothing(model, frames):
    learner = deployed_learner(model, frames)
    assert learner.propose_head() is None, 'nothing was learned yet'
    new = samples(frames, ('race_car',))
    learner.add_samples(new[:1])
    assert learner.head.instant.classes[-1] == 'race_car'
    learner.add_samples(new[1:3])
    result = learner.propose_head()
    assert result is not None
    assert result.classes == (*model.classes, 'race_car')
    assert set(result.weights) == {'head.weight', 'head.bias'}, 'only the head changes'
    assert isinstance(result, HeadCandidate)
    assert result.parent == 0
    learner.set_live(result.live_update, result.classes, 1)
    said = predictions(learner.live, new)
    assert said[0] == 'race_car'
    assert said.count('race_car') >= 0.5 * len(new)
    old = samples(frames, KNOWN)
    right = [p == s.label for p, s in zip(predictions(learner.live, old), old)]
    assert np.mean(right) > 0.8
    assert learner.propose_head() is None
    assert learner.pending == new[:3], 'the next round still learns it'


def test_a_confirmation_is_learned_but_makes_no_new_version(model, frames):
    learner = deployed_learner(model, frames)
    learner.add_samples(
        [Sample.of('new', 'duck', HERE, samples(frames, ('duck',))[-1].image, predicted='duck')]
    )
    assert learner.head.instant.counts['duck'] > sum(
        s.label == 'duck' for s in learner.book.replay.samples
    )
    assert learner.propose_head() is None


def test_a_correction_is_learned_from_the_feature_of_its_frame_and_once_only(model, frames):
    learner = deployed_learner(model, frames)
    new = samples(frames, ('race_car',))[:2]
    features = extract_features(model, [s.image for s in new])
    for sample, feature in zip(new, features):
        assert learner.correct(sample.sample_id, 'race_car', feature, BASE, HERE)
    before = learner.head.instant.linear(learner.head.instant.classes)[0]
    learner.add_samples(new)  # the pictures of the same corrections come later, in a batch
    assert torch.equal(learner.head.instant.linear(learner.head.instant.classes)[0], before)
    assert learner.head.instant.counts['race_car'] == 2
    learner.correct(new[0].sample_id, 'duck', features[0], BASE, HERE)  # a change of mind
    assert learner.head.instant.counts['race_car'] == 1


def test_a_robot_that_learns_for_months_without_a_round_keeps_its_size(model, frames, monkeypatch):
    monkeypatch.setattr('etuner_ros.core.learn.served_head.MOST_LEARNED', 20)
    learner = deployed_learner(model, frames, validation_share=0.1)
    picture = samples(frames, ('race_car',))[0]
    feature = extract_features(model, [picture.image])[0]
    known = [n for n in range(200) if learner.correct(f'n{n}', 'race_car', feature, BASE, HERE)]
    assert len(known) > 150
    assert len(learner.head.learned) == 20
    assert learner.head.instant.knows('duck'), 'the largest class makes room'
    assert learner.correct(f'n{known[0]}', 'duck', feature, BASE, HERE), 'an old one, anew'
    assert learner.correct(f'n{known[-1]}', 'duck', feature, BASE, HERE), 'a new one, corrected'


def test_a_feature_of_another_backbone_or_length_is_not_learned_from(model, frames):
    learner = deployed_learner(model, frames, epochs=1.0)
    new = samples(frames, ('race_car',))
    feature = extract_features(model, [new[0].image])[0]
    assert not learner.correct('x', 'race_car', feature[:-1], BASE, HERE)
    assert not learner.correct('x', 'race_car', feature * float('nan'), BASE, HERE)
    assert not learner.correct('x', 'race_car', feature, 'another', HERE)
    learner.add_samples(new)
    result = finish(learner)
    learner.set_live(result.live_update, result.classes, 1)
    assert not learner.correct('x', 'race_car', feature, BASE, HERE), 'the round changed features'
    now = extract_features(learner.live, [new[0].image])[0]
    backbone = learner.backbone
    assert backbone == result.backbone != BASE
    assert learner.correct('x', 'duck', now, backbone, HERE)
    head = learner.propose_head()
    learner.set_live(head.live_update, head.classes, 2)
    assert learner.backbone == backbone
    assert learner.correct('y', 'race_car', now, backbone, HERE), (
        'a new head keeps the features valid'
    )


def test_what_pictures_of_one_kind_differ_in_is_counted_less_unless_it_is_switched_off(model):
    assert Learner(model).head.instant.within is not None
    assert Learner(model, head=HeadConfig(within_class=False)).head.instant.within is None


def test_a_thing_that_was_pointed_at_looks_known_from_then_on_and_after_a_round(model, frames):
    learner = deployed_learner(model, frames, epochs=1.0)
    car = samples(frames, ('race_car',))[0]
    feature = extract_features(model, [car.image])[0]

    def go_live(version: int) -> None:
        head = learner.propose_head()
        check_update(model.state(), head.weights, len(head.classes))
        learner.set_live(head.live_update, head.classes, version)

    assert learner.correct('image', 'race_car', feature, BASE, HERE)
    go_live(1)
    assert HEAD_LIKENESS not in learner._live.update, 'nobody has pointed at anything'
    assert learner.correct('thing', 'race_car', feature, BASE, HERE, thing=True)
    go_live(2)  # although the name was right before
    assert learner._live.knows('race_car', feature)
    assert not learner._live.knows('lego_brick')
    strange = torch.roll(feature, 300)
    assert not learner._live.knows('race_car', strange)
    name = learner._live.says(strange)
    assert learner.correct('strange', name, strange, BASE, HERE, thing=True)
    go_live(3)  # it had this name, but looked unknown
    assert learner.correct('ground', 'background', -feature, BASE, HERE, thing=True)
    go_live(4)
    assert learner._live.says(-feature) == 'background'
    assert learner.correct('more', 'background', -feature, BASE, HERE, thing=True)
    assert learner.propose_head() is None, 'what is no thing need not look known'
    learner.add_samples([replace(car, sample_id='thing', label='race_car', thing=True)])
    learner.add_samples(samples(frames, ('tray',)))
    result = finish(learner)
    assert result.update[HEAD_LIKENESS].shape == (len(result.classes), model.feature_size)
    learner.set_live(result.live_update, result.classes, 5)
    now = extract_features(learner.live, [car.image])[0]
    assert learner._live.knows('race_car', now)


def test_things_that_come_again_after_a_start_make_a_head_where_the_live_one_knows_none(
    model, frames
):
    """As with weights of an earlier release; but those that are odd for good make none."""
    cars = [replace(s, thing=True) for s in samples(frames, ('race_car',))[:6]]
    learner = deployed_learner(model, frames)
    learner.add_samples(cars)
    first = learner.propose_head()
    plain = {k: v for k, v in first.live_update.items() if k != HEAD_LIKENESS}
    for update, wanted in ((plain, True), (first.live_update, False)):
        again = deployed_learner(model, frames)
        again.set_live(update, first.classes, 7)
        again.add_samples(cars, new=False)
        again.knows_all_labels = True
        assert (again.propose_head() is not None) == wanted


def test_after_a_round_the_head_is_the_one_for_the_new_features(model, frames):
    learner = deployed_learner(model, frames)
    learner.add_samples(samples(frames, ('race_car', 'tray')))
    result = finish(learner)
    learner.set_live(result.live_update, result.classes, 1)
    everything = learner.book.replay.samples
    features = extract_features(learner.live, [s.image for s in everything])
    within = shipped(model.spec.architecture, model.state())
    assert within is not None
    fresh = InstantHead(model.feature_size, within=within)
    fresh.rebuild(features, [s.label for s in everything])
    weight, _ = fresh.linear(result.classes)
    assert torch.allclose(learner.live.head.weight, weight, rtol=0.05, atol=0.02)
    assert learner.propose_head() is None


def test_heads_go_live_while_a_round_runs_and_the_round_ends_on_top_of_them(model, frames):
    learner = deployed_learner(model, frames, epochs=2.0, validation_share=0.3)
    learner.add_samples(samples(frames, ('duck', 'tray')))
    assert learner.book.held
    car = samples(frames, ('race_car',))[0]
    feature = extract_features(model, [car.image])[0]
    steps = learner.run_round()
    next(steps)
    backbone = {k: v for k, v in learner.training.state().items() if k.startswith('backbone')}
    assert learner.correct('car', 'race_car', feature, BASE, HERE)
    head = learner.propose_head()
    assert head is not None
    assert len(head.outcomes) == len(learner.book.held)
    learner.set_live(head.live_update, head.classes, 1)
    assert not difference(
        backbone,
        {k: v for k, v in learner.training.state().items() if k.startswith('backbone')},
    ), 'the round is not disturbed'
    with pytest.raises(LearnerError, match='while a round runs'):
        learner.set_live(
            {'backbone.stem.0.weight': backbone['backbone.stem.0.weight'] + 1}, model.classes, 9
        )
    result = list(steps)[-1]
    assert isinstance(result, RoundCandidate)
    assert result.parent == 1
    live = {o.sample_id: o.live_correct for o in result.outcomes}
    held = list(learner.book.held.values())
    said = predictions(learner.live, held)
    assert live == {s.sample_id: p == s.label for s, p in zip(held, said)}
    learner.set_live(result.live_update, result.classes, 2)
    assert learner.live.classes[-1] == 'race_car', 'what was said in between is not lost'
    learner.add_samples([Sample.of('car', 'race_car', HERE, car.image)])
    assert learner.head.instant.counts['race_car'] == 1, (
        'and is learned anew when its picture comes'
    )
    again = learner.propose_head()
    if again is not None:
        learner.set_live(again.live_update, again.classes, 3)
    assert predictions(learner.live, [car]) == ['race_car']


def test_features_for_samples_that_come_while_a_candidate_waits_are_those_of_what_goes_live(
    model, frames
):
    learner = deployed_learner(model, frames, epochs=1.0)
    learner.add_samples(samples(frames, ('tray',)))
    finish(learner)
    late = [Sample.of('late', 'race_car', HERE, samples(frames, ('race_car',))[0].image)]
    learner.add_samples(late)
    learner.go_back()  # refused: the old backbone stays
    assert 'race_car' in learner.head.instant.classes
    got = learner.head._live.learned['late'].row
    assert torch.allclose(got, extract_features(model, [late[0].image])[0], atol=1e-3)


def test_a_refused_round_leaves_no_activation_of_its_weights_in_the_cache(model, frames):
    eager = SimFreezeConfig(
        threshold=1.0,
        relative_move=1.0,
        first_frozen_share=0.6,
        freeze_interval=2,
        patience=1,
        min_iterations=2,
        probe_size=8,
        max_new=18,
    )
    train = TrainConfig(
        batch_size=8, epochs=3.0, views=1, validation_share=0.0, learning_rate=1e-2
    )
    learner = Learner(model, train, eager)
    shown = samples(frames, ('duck', 'tray', 'mug'))
    learner.add_samples(shown)
    finish(learner)
    assert learner.state.cache.border > 0
    learner.go_back()
    got = learner.state.features(shown)
    assert torch.allclose(got, extract_features(model, [s.image for s in shown]), atol=1e-2)


def test_a_change_of_mind_takes_back_exactly_what_was_learned(model, frames):
    learner = deployed_learner(model, frames)
    before = learner.head.instant.linear(learner.head.instant.classes)[0].clone()
    picture = samples(frames, ('tray',))[0]
    learner.add_samples([Sample.of('x', 'duck', HERE, picture.image)])
    other = learner.head._live.learned['x'].row + 0.1  # as another decoding of the frame gives
    learner.correct('x', 'mug', other, BASE, HERE)
    learner.withdraw(['x'])
    assert torch.allclose(
        learner.head.instant.linear(learner.head.instant.classes)[0], before, atol=1e-5
    )


def test_a_model_without_samples_of_its_classes_keeps_its_trained_head(model, frames):
    """Without exemplars the instant head does not know what the old classes look like."""
    learner = Learner(model, QUICK)
    learner.add_samples(samples(frames, ('duck',)))
    assert learner.propose_head() is None
    result = finish(learner)
    assert np.array_equal(result.update['head.weight'], learner.training.state()['head.weight'])


def test_batchnorm_statistics_move_only_when_that_is_asked_for(model, frames):
    moved = {}
    for wanted in (False, True):
        learner = Learner(
            model, TrainConfig(batch_size=8, epochs=1.0, batchnorm_statistics=wanted)
        )
        learner.add_samples(samples(frames, ('duck', 'tray')))
        moved[wanted] = any('running_mean' in k for k in finish(learner).update)
    assert moved == {False: False, True: True}


def test_a_round_ends_early_when_its_loss_no_longer_falls(model, frames):
    lengths = {}
    for share in (0.0, 1.0):
        learner = Learner(
            model, TrainConfig(batch_size=8, epochs=12.0, max_iterations=30, early_stop=share)
        )
        learner.add_samples(samples(frames, ('duck',))[:5])
        *steps, result = learner.run_round()
        assert steps[-1].iteration == steps[-1].total == result.iterations
        lengths[share] = result.iterations
    assert lengths == {0.0: 15, 1.0: 12}


def test_frames_without_labels_train_the_backbone_when_that_is_switched_on(model, frames):
    states = []
    for weight in (0.0, 1.0):
        learner = Learner(model, TrainConfig(batch_size=8, epochs=1.0, unlabelled_weight=weight))
        learner.add_unlabelled(unlabelled(frames, 'table'))
        learner.add_samples(samples(frames, ('duck',)))
        result = finish(learner)
        assert not any('projector' in name for name in result.update)
        states.append(pack(result.update))
    assert states[0] != states[1]


def test_the_head_learns_from_frames_without_labels_too(model, frames):
    kinds = ('tray', 'race_car', 'duck')
    right, heads = {}, []
    for weight in (0.0, 0.5):
        config = HeadConfig(unlabelled_weight=weight)
        learner = Learner(model, QUICK, head=config)
        learner.add_exemplars(samples(frames, KNOWN, DEPLOYED))
        for kind in kinds:
            learner.add_unlabelled(unlabelled(frames, kind, THERE))
        assert learner.propose_head() is None, 'they are learned from when labels come'
        one_each = [samples(frames, (kind,), THERE)[0] for kind in kinds]
        learner.add_samples([replace(s, sample_id=s.label) for s in one_each])
        result = learner.propose_head()
        assert result is not None
        learner.set_live(result.live_update, result.classes, 1)
        others = samples(frames, kinds)
        said = predictions(learner.live, others)
        right[weight] = sum(a == s.label for a, s in zip(said, others)) / len(others)
        heads.append(result.weights['head.weight'])
    assert right[0.5] >= right[0.0]
    assert not np.allclose(heads[0], heads[1], rtol=0.05)


def test_a_frame_that_is_labelled_is_not_guessed_any_more(model, frames):
    heads = []
    for again in (False, True):
        learner = Learner(model, QUICK)
        learner.add_exemplars(samples(frames, KNOWN, DEPLOYED))
        labelled = [replace(s, sample_id='x') for s in samples(frames, ('tray',), THERE)[:1]]
        if again:
            learner.add_unlabelled([replace(labelled[0], label='')])
        learner.add_samples(labelled)
        learner.add_unlabelled([replace(labelled[0], label='')] if again else [])
        learner.add_samples(
            [replace(s, sample_id='y') for s in samples(frames, ('duck',), THERE)[:1]]
        )
        heads.append(learner.head.instant.linear(learner.head.instant.classes)[0])
    assert torch.equal(heads[0], heads[1])


def test_features_of_another_backbone_are_not_learned_from(model, frames):
    heads = []
    for backbone in (BASE, 'another'):
        learner = Learner(model, QUICK)
        learner.add_exemplars(samples(frames, KNOWN, DEPLOYED))
        shown = unlabelled(frames, 'tray', THERE)
        true = dict(zip([s.sample_id for s in shown], learner.state.features(shown)))
        wrong = {key: row + 1.0 for key, row in true.items()}
        learner.add_unlabelled(shown, true if backbone == BASE else wrong, backbone)
        learner.add_samples(
            [replace(s, sample_id='x') for s in samples(frames, ('mug',), THERE)[:1]]
        )
        heads.append(learner.head.instant.linear(learner.head.instant.classes)[0])
    assert torch.allclose(heads[0], heads[1], atol=1e-5), 'they are computed where they do not fit'


def test_a_class_that_lost_its_labels_does_not_stop_the_head_from_learning(model, frames):
    learner = Learner(model, QUICK)
    learner.add_exemplars(samples(frames, KNOWN, DEPLOYED))
    learner.add_unlabelled(unlabelled(frames, 'tray', THERE))
    car, tray = (samples(frames, (kind,), THERE)[0] for kind in ('race_car', 'tray'))
    learner.add_samples([replace(car, sample_id='car')])
    result = learner.propose_head()
    assert result is not None
    learner.set_live(result.live_update, result.classes, 1)
    learner.withdraw(['car'])
    learner.add_samples([replace(tray, sample_id='tray')])
    result = learner.propose_head()
    assert result is not None
    assert result.classes == (*model.classes, 'race_car', 'tray')
    learner.set_live(result.live_update, result.classes, 2)
    assert predictions(learner.live, [car, tray])[1] == 'tray'
    assert predictions(learner.live, [car])[0] != 'race_car', 'it has no label any more'


def test_memory_for_frames_without_labels_is_bounded(model, frames):
    learner = Learner(model, replace(QUICK, unlabelled_frames=5))
    learner.add_exemplars(samples(frames, KNOWN, DEPLOYED))
    known = len(learner._bank)
    for number in range(4):
        shown = [
            replace(s, sample_id=f'{number}{s.sample_id}') for s in unlabelled(frames, 'tray')
        ]
        learner.add_unlabelled(shown, dict.fromkeys([s.sample_id for s in shown], torch.zeros(1)))
        learner.add_samples(samples(frames, ('duck',))[number : number + 1])
    assert len(learner._bank) <= known + 5 + 4


def test_a_round_is_deterministic_with_a_seed(model, frames):
    results = []
    for _ in range(2):
        learner = Learner(model, QUICK)
        learner.add_samples(samples(frames, ('duck', 'tray')))
        results.append(pack(finish(learner).update))
    assert results[0] == results[1]


def test_a_cancelled_round_leaves_everything_as_it_was(model, frames):
    learner = Learner(model, QUICK)
    learner.add_samples(samples(frames, ('duck', 'tray')))
    waiting = len(learner.pending)
    steps = 0

    def cancelled() -> bool:
        return steps >= 1

    with pytest.raises(RoundCancelled):  # noqa: PT012 - the iterator is what raises
        for _ in learner.run_round(cancelled):
            steps += 1
    assert steps == 1, 'it ends within one training batch'
    assert len(learner.pending) == waiting
    assert learner.training.classes == model.classes
    assert pack(learner.training.state()) == pack(model.state())
    assert finish(learner).new_samples == waiting


@pytest.mark.parametrize('head', [False, True])
def test_a_refused_round_goes_back_to_the_live_weights_and_loses_no_sample(model, frames, head):
    """What only the round had learned is new again; what the instant head knows is replayed."""
    learner = Learner(model, QUICK, head=HeadConfig(enabled=head))
    learner.add_samples(samples(frames, ('duck', 'tray')))
    waiting = len(learner.pending)
    finish(learner)
    assert not learner.pending
    learner.go_back()
    assert pack(learner.training.state()) == pack(model.state())
    assert len(learner.pending) == (0 if head else waiting)
    assert len(learner.pending) + len(learner.book.replay) == waiting


@pytest.mark.parametrize('again', [False, True])
def test_what_a_round_learned_that_nobody_judged_is_learned_by_the_next(model, frames, again):
    learner = Learner(model, QUICK, head=HeadConfig())
    learner.add_samples(samples(frames, ('duck', 'tray')))
    waiting = len(learner.pending)
    finish(learner)
    learner.go_back(learn_again=again)
    assert pack(learner.training.state()) == pack(model.state())
    assert (len(learner.pending), len(learner.book.replay)) == (
        (waiting, 0) if again else (0, waiting)
    )


def test_a_candidate_waits_on_while_the_version_before_it_is_told_again(model, frames):
    """As `model_manager` does when it is started anew."""
    learner = Learner(model, QUICK, head=HeadConfig())
    learner.add_samples(samples(frames, ('duck', 'tray')))
    result = finish(learner)
    learner.set_live({}, model.classes, 0)
    assert learner.waits_for_verdict
    learner.set_live(result.live_update, result.classes, 1)
    assert not learner.waits_for_verdict
    assert pack(learner.training.state()) != pack(model.state()), 'it is built upon'


def test_what_a_candidate_learned_that_another_version_overtook_is_learned_again(model, frames):
    learner = Learner(model, QUICK, head=HeadConfig())
    learner.add_samples(samples(frames, ('duck', 'tray')))
    waiting = len(learner.pending)
    finish(learner)
    learner.set_live({}, (*model.classes[:-1], 'a name'), 1)  # by hand
    assert (len(learner.pending), len(learner.book.replay)) == (waiting, 0)


def test_weights_that_do_not_fit_change_nothing(model, frames):
    learner = deployed_learner(model, frames, epochs=1.0)
    learner.add_samples(samples(frames, ('tray',)))
    finish(learner)
    with pytest.raises(WeightsError):
        learner.set_live({'head.weight': np.zeros((9, 9), np.float32)}, model.classes, 1)
    assert learner.phase is Phase.PROPOSED
    assert (learner.version, learner.live.classes) == (0, model.classes)


def test_after_a_roll_back_a_class_that_only_the_replay_knows_comes_back(model, frames):
    learner = Learner(model, QUICK)
    learner.add_samples(samples(frames, ('race_car',)))
    result = finish(learner)
    learner.set_live(result.live_update, result.classes, 1)
    learner.set_live({}, model.classes, 0)
    more = [
        Sample.of(f'x{s.sample_id}', s.label, HERE, s.image) for s in samples(frames, ('duck',))
    ]
    learner.add_samples(more)
    assert finish(learner).classes == (*model.classes, 'race_car')


def test_an_accepted_round_is_built_upon(model, frames):
    learner = Learner(model, QUICK)
    learner.add_samples(samples(frames, ('duck', 'tray')))
    result = finish(learner)
    optimiser = learner.state.optimiser
    learner.set_live(result.live_update, result.classes, 1)
    assert pack(learner.live.state()) == pack(learner.training.state())
    assert learner.state.optimiser is optimiser, 'its moments are kept'
    assert not learner.pending


def test_validation_samples_are_two_of_a_class_with_six_and_never_trained_on(model, frames):
    learner = Learner(model, TrainConfig(batch_size=8, epochs=1.0))
    new = samples(frames, ('duck',))[:6]
    learner.add_samples(new[:5])
    assert not learner.book.held
    learner.add_samples(new[5:])
    assert len(learner.book.held) == 1
    more = [Sample.of(f'more{i}', 'duck', HERE, s.image) for i, s in enumerate(new)]
    learner.add_samples(more)
    held = set(learner.book.held)
    assert len(held) == 2
    result = finish(learner)
    assert {o.sample_id for o in result.outcomes} == held
    assert not held & {s.sample_id for s in learner.book.replay.samples}


def test_exemplars_are_replayed_but_are_no_evidence(model, frames):
    learner = Learner(model, TrainConfig())
    learner.add_exemplars(samples(frames, ('duck', 'mug')))
    assert len(learner.book.replay) > 6
    assert not learner.book.held
    assert not learner.pending


def test_no_layer_freezes_before_its_interval_is_over(model, frames):
    never = SimFreezeConfig(
        relative_move=1.0,
        first_frozen_share=0.6,
        freeze_interval=1000,
        patience=1,
        min_iterations=2,
        threshold=1.0,
        probe_size=8,
        max_new=18,
    )
    learner = Learner(model, QUICK, never)
    learner.add_samples(samples(frames, ('duck', 'tray', 'mug')))
    assert finish(learner).frozen == ()


def test_layers_freeze_in_a_round_and_stay_bitwise_equal(model, frames):
    learner = Learner(
        model,
        QUICK,
        SimFreezeConfig(
            relative_move=1.0,
            first_frozen_share=0.6,
            freeze_interval=2,
            patience=1,
            min_iterations=2,
            threshold=1.0,
            probe_size=8,
            max_new=18,
        ),
    )
    learner.add_samples(samples(frames, ('duck', 'tray', 'mug')))
    first = finish(learner)
    assert len(first.frozen) == int(0.6 * 18)
    assert first.frozen[0] == 'stem'
    assert set(first.cka) == set(model.unit_names)
    assert all(0.0 <= v <= 1.0 + 1e-9 for v in first.cka.values())
    before = learner.training.state()
    learner.set_live(first.live_update, first.classes, 1)
    learner.add_samples(
        [
            Sample.of(f'x{s.sample_id}', s.label, HERE, s.image)
            for s in samples(frames, ('duck', 'tray'))
        ]
    )
    finish(learner)
    after = learner.training.state()
    assert not any(
        k.startswith('backbone.stem.') and not np.array_equal(before[k], after[k]) for k in before
    )
    assert not np.array_equal(before['backbone.top.0.weight'], after['backbone.top.0.weight'])


@pytest.mark.parametrize(('samples_', 'expected'), [(1, 2), (8, 10), (9, 12), (1000, 40)])
def test_a_round_is_as_long_as_its_new_samples_ask(samples_, expected):
    assert (
        planned_iterations(samples_, TrainConfig(batch_size=16, epochs=10.0, max_iterations=40))
        == expected
    )


def test_what_was_predicted_right_takes_part_of_a_pass_as_the_forecast_knows(model, frames):
    train = replace(QUICK, epochs=1.0, easy_share=0.5)
    iterations, passes = [], []
    for right in (False, True):
        learner = Learner(model, train)
        new = samples(frames, ('tray', 'race_car'))
        learner.add_samples([replace(s, predicted=s.label if right else 'duck') for s in new])
        passes.append(learner.weigh_rounds().passes)
        iterations.append(finish(learner).iterations)
    assert iterations[1] < 0.7 * iterations[0]
    saved = iterations[0] - iterations[1]
    assert passes[0] - passes[1] == 3 * saved * train.batch_size


def test_a_grown_head_keeps_its_moments(model):
    optimiser = make_optimiser(model, TrainConfig())
    model.head(torch.randn(3, 1904)).sum().backward()
    optimiser.step()
    old = optimiser.state[model.head.weight]['exp_avg'].clone()
    model.add_class('new')
    grow_optimiser(optimiser, model)
    new = optimiser.state[model.head.weight]['exp_avg']
    assert torch.equal(new[:4], old)
    assert not new[4].any()
    assert optimiser.param_groups[1]['params'] == list(model.head.parameters())


def test_a_round_says_how_far_it_moved_the_appearance_of_frames(model, frames):
    learner = Learner(model, QUICK)
    shown = samples(frames, ('duck', 'tray'))
    learner.add_samples(shown)
    result = finish(learner)
    batch = model.tensor(s.image for s in shown)
    old, new = (
        compressed(m.appearance(batch).double().numpy()).mean(axis=0)
        for m in (model, learner.training)
    )
    assert np.allclose(result.appearance_move, new - old, atol=1e-4)
    assert np.abs(result.appearance_move).max() > 0
    learner.set_live(result.live_update, result.classes, 1)
    learner.sim_freeze.set_layers(model.unit_names[:10], [])
    learner.add_samples([Sample.of('one more', 'duck', HERE, shown[0].image)])
    assert finish(learner).appearance_move == (), 'all blocks up to the middle were frozen'


def test_how_far_it_moved_is_told_of_where_the_robot_is(model, frames):
    learner = Learner(model, replace(QUICK, epochs=0.5))
    learner.set_scenarios({'eye': 0})
    here = samples(frames, tuple({f.label for f in frames}))[:APPEARANCE_SAMPLES]
    assert len(here) == APPEARANCE_SAMPLES
    learner.add_samples(here)
    learner.add_samples(
        [Sample.of(f'dark {s.sample_id}', s.label, THERE, s.image // 8) for s in here[:20]]
    )
    result = finish(learner)
    batch = model.tensor(s.image for s in here)
    old, new = (
        compressed(m.appearance(batch).double().numpy()).mean(axis=0)
        for m in (model, learner.training)
    )
    assert np.allclose(result.appearance_move, new - old, atol=1e-4)


def test_the_network_starts_without_classes_and_learns_its_first_one(frames):
    model = build(pretrained_spec('efficientnet_lite0', 64), 'pretrained')
    learner = Learner(model, QUICK)
    learner.add_samples(samples(frames, ('duck', 'mug')))
    result = finish(learner)
    assert set(result.classes) == {'duck', 'mug'}
    new = samples(frames, ('duck', 'mug'))
    right = [p == s.label for p, s in zip(predictions(learner.training, new), new)]
    assert np.mean(right) > 0.9


THRIFTY = SimFreezeConfig(start_frozen_share=0.56, max_frozen_share=0.56)


def foresight(learner: Learner, model: Classifier) -> Foresight:
    """Return one that knows features of the deployed model and no activations."""

    def features(some: Sequence[Sample]) -> torch.Tensor:
        return extract_features(model, [s.image for s in some])

    fronts = Fronts(model, 0, np.zeros(0, np.float16), {})
    return Foresight(learner, World(model, (), features, fronts, CostMeter(), 0))


def test_what_prediction_computed_is_not_computed_again(model, frames):
    """Neither the feature nor the activation at the frozen border of a frame that was seen."""
    learner = Learner(model, TrainConfig(validation_share=0.0, views=1, epochs=1.0), THRIFTY)
    seen = samples(frames, ('duck', 'tray'))[:12]
    said, features = foresight(learner, model).look(seen)
    assert said == predictions(learner.live, seen)
    expected = extract_features(model, [s.image for s in seen])
    for sample, row in zip(seen, expected):
        assert torch.allclose(features[sample.sample_id], row, rtol=1e-3, atol=1e-4)
        assert learner.correct(
            sample.sample_id, sample.label, features[sample.sample_id], learner.backbone, HERE
        )
    with CostMeter() as meter:
        learner.add_samples(seen)
        finish(learner)
    assert learner.state.cache.uses['offered'] == 12
    assert not learner.state.cache.uses['misses']
    assert PROBE not in meter.flops, 'nothing else may freeze, so nothing is probed'


def test_other_front_weights_are_not_taken_for_the_same(model, frames):
    learner = Learner(model, TrainConfig(validation_share=0.0, views=1), THRIFTY)
    other = {k: v for k, v in model.state().items() if k.startswith('backbone.stem')}
    other = {k: v * 1.01 if v.dtype == np.float32 else v for k, v in other.items()}
    learner.live.load_state(other, model.classes)
    foresight(learner, model).look(samples(frames, ('duck',))[:3])
    assert len(learner.state.cache) == 0


def test_the_prior_is_served_and_left_out_of_the_comparison(model, frames):
    """Many labels of one class, among others, move what is said, not how it is judged."""
    head = HeadConfig(prior=1.0, prior_memory=20.0)
    learner = Learner(model, TrainConfig(views=1, validation_share=0.3), head=head)
    learner.add_exemplars(samples(frames, model.classes))
    others = [samples(frames, (kind,)) for kind in ('mug', 'tray', 'table')]
    pairs = zip(samples(frames, ('duck',)), (s for three in zip(*others) for s in three))
    again = [Sample(f'new {s.sample_id}', s.label, HERE, s.jpeg) for pair in pairs for s in pair]
    learner.add_samples(again)
    result = learner.propose_head()
    if result is None:  # the live head says all of it already
        learner.head.is_new = True
        result = learner.propose_head()
    learner.set_live(result.live_update, result.classes, 1)
    classes = list(result.classes)
    _, plain = learner.head.instant.linear(classes)
    moved = torch.from_numpy(result.weights['head.bias']) - plain
    assert moved[classes.index('duck')] == moved.max() > 0
    learner.head.is_new = True
    same = learner.propose_head()
    assert all(o.live_correct == o.candidate_correct for o in same.outcomes)


def test_a_sample_that_is_taken_back_is_forgotten_everywhere(model, frames):
    learner = deployed_learner(model, frames)
    trays = samples(frames, ('tray',))[:3]
    before, _ = learner.head.instant.linear(model.classes)
    learner.add_samples(trays)
    learner.withdraw([s.sample_id for s in trays])
    assert not learner.pending
    assert not any(s.label == 'tray' for s in learner.book.replay.samples)
    after, _ = learner.head.instant.linear(model.classes)
    assert torch.allclose(before, after, atol=1e-4), 'exactly what was learned is unlearned'
    result = learner.propose_head()
    learner.set_live(result.live_update, result.classes, 1)
    assert 'tray' not in predictions(learner.live, trays), 'a class without samples'


def test_a_renamed_label_is_said_by_its_new_name_and_never_by_the_old(model, frames):
    learner = deployed_learner(model, frames)
    ducks = samples(frames, ('duck',))
    learner.rename('duck', 'bird')
    assert 'duck' not in learner.book.replay.counts()
    result = learner.propose_head()
    learner.set_live(result.live_update, result.classes, 1)
    said = predictions(learner.live, ducks)
    assert said.count('bird') >= 0.8 * len(ducks)
    assert 'duck' not in said


def test_merged_labels_are_one_class(model, frames):
    learner = deployed_learner(model, frames)
    learner.rename('mug', 'duck')
    result = learner.propose_head()
    learner.set_live(result.live_update, result.classes, 1)
    said = predictions(learner.live, samples(frames, ('duck', 'mug')))
    assert said.count('duck') >= 0.8 * len(said)
    assert 'mug' not in said


def test_half_the_batch_is_trained_on_after_memory_ran_out(model, frames):
    learner = Learner(model, QUICK)
    learner.add_samples(samples(frames, ('race_car',)))
    assert learner.halve_batches()
    assert learner.batch_size == 4
    waiting = len(learner.pending)
    assert finish(learner).new_samples == waiting
    while learner.halve_batches():
        pass
    assert learner.batch_size == 2, 'one new sample beside one that is replayed'


def test_things_that_were_never_taught_do_not_all_look_known_after_a_round(repository):
    """A round makes all pictures more alike; what a name needs follows that."""
    model = build(pretrained_spec('efficientnet_lite0', 96), 'pretrained')
    seen = []
    for frame in islice(BoxRecording(repository / 'config' / 'stream_things'), 0, 320, 10):
        for box, label in zip(frame.boxes[frame.fair()], np.array(frame.labels)[frame.fair()]):
            picture = cut(frame.image, box[None], 96)[0]
            seen.append(Sample.of(str(len(seen)), str(label), HERE, picture, thing=True))
    kinds = sorted({s.label for s in seen})
    known = [s for s in seen if s.label in kinds[::2]]
    others = [s for s in seen if s.label in kinds[1::2]]
    learner = Learner(model, replace(QUICK, epochs=2.0, learning_rate=5e-4))

    def named(some: list[Sample]) -> float:
        rows = extract_features(learner.live, [s.image for s in some])
        return float(np.mean([learner._live.knows(learner._live.says(r), r) for r in rows]))

    learner.add_samples(known[::2])
    head = learner.propose_head()
    learner.set_live(head.live_update, head.classes, 1)
    before = named(others)
    assert before < 0.85 < named(known[1::2])
    result = finish(learner)
    learner.set_live(result.live_update, result.classes, 2)
    assert named(others) < before + 0.1
    assert named(known[1::2]) > 0.85
    assert learner.head._by_deployed.keys() == {s.sample_id for s in known[::2]}
    learner.withdraw([s.sample_id for s in known])
    assert not learner.head._by_deployed, 'what is taken back leaves no trace'
