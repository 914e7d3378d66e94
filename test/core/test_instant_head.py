# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The instant head: close to a rebuild at any time, new classes at once, calibrated, checked."""

from __future__ import annotations

from dataclasses import replace
import math

from hypothesis import given, settings, strategies
import numpy as np
import pytest
import torch

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.scene_prior import ScenePrior
from etuner_ros.core.learn.self_training import Unlabelled

SIZE = 6


def clusters(seed: int, per_class: int, classes: int = 3) -> tuple[torch.Tensor, list[str]]:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, SIZE)) * 2
    rows = [centres[c] + rng.normal(size=SIZE) * 0.3 for c in range(classes)] * per_class
    rows = [r + rng.normal(size=SIZE) * 0.3 for r in rows]
    names = [f'kind{c}' for c in range(classes)] * per_class
    return torch.tensor(np.array(rows)), names


def solve(
    features: torch.Tensor, labels: list[str], weights: list[float], ridge: float, bias: float
) -> np.ndarray:
    """Weighted ridge by the normal equations, in NumPy, with its penalties given."""
    x = np.c_[features.numpy(), np.ones(len(labels))]
    classes = list(dict.fromkeys(labels))
    y = np.eye(len(classes))[[classes.index(n) for n in labels]]
    a = np.array(weights)[:, None]
    return np.linalg.solve(x.T @ (a * x) + np.diag([ridge] * SIZE + [bias]), x.T @ (a * y))


def penalties(head: InstantHead, features: torch.Tensor, weights: list[float]) -> tuple:
    a = np.array(weights)[:, None]
    x = features.numpy()
    mean = (a * x).sum(0) / a.sum()
    variance = (a * (x - mean) ** 2).sum() / (a.sum() * SIZE)
    ridge = head.config.ridge * len(head.classes) * variance
    return ridge, 1e-6 * a.sum()


@pytest.mark.parametrize('balance', [0.0, 0.5, 1.0])
def test_it_is_the_weighted_ridge_solution(balance):
    features, labels = clusters(0, 4)
    features, labels = features[:10], labels[:10]  # classes of unequal size
    head = InstantHead(SIZE, HeadConfig(balance=balance, ridge=0.5))
    weights = head.rebuild(features, labels)
    counts = {n: labels.count(n) for n in labels}
    assert weights == pytest.approx([counts[n] ** -balance for n in labels], rel=1e-4)
    expected = solve(features, labels, weights, *penalties(head, features, weights))
    weight, bias = head.linear(head.classes)
    assert weight.numpy() == pytest.approx(head.scale * expected[:-1].T, rel=1e-4, abs=1e-6)
    assert bias.numpy() == pytest.approx(head.scale * expected[-1], rel=1e-4, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    strategies.lists(
        strategies.tuples(strategies.integers(0, 29), strategies.booleans()), max_size=25
    )
)
def test_after_any_sequence_it_is_the_solution_for_the_weights_that_samples_were_given(steps):
    """Checked against the normal equations of the samples that it knows in the end."""
    features, labels = clusters(1, 10)
    head = InstantHead(SIZE, HeadConfig(balance=0.0))
    first = head.rebuild(features[:6], labels[:6])
    ridge, bias = penalties(head, features[:6], first)
    known = {i: (labels[i], 1.0) for i in range(6)}
    for i, forget in steps:
        if i in known and forget and len(known) > 1:
            head.unlearn(features[i], *known.pop(i))
        elif i not in known:
            known[i] = (labels[i], head.learn(features[i], labels[i]))
    rows = list(known)
    order = [*rows]
    expected = solve(
        features[order],
        [known[i][0] for i in order],
        [known[i][1] for i in order],
        ridge,
        bias,
    )
    names = list(dict.fromkeys(known[i][0] for i in order))
    weight, _ = head.linear(names)
    assert (weight / head.scale).numpy() == pytest.approx(expected[:-1].T, rel=1e-3, abs=1e-4)


def test_one_example_adds_a_class_and_leaves_the_others_recognised():
    features, labels = clusters(2, 8, classes=4)
    old = [i for i, n in enumerate(labels) if n != 'kind3']
    new = [i for i, n in enumerate(labels) if n == 'kind3']
    head = InstantHead(SIZE)
    head.rebuild(features[old], [labels[i] for i in old])
    assert 'kind3' not in head.classes
    head.learn(features[new[0]], 'kind3')
    said = [head.classes[i] for i in head.logits(features).argmax(dim=1)]
    assert [said[i] for i in new] == ['kind3'] * len(new)
    assert np.mean([said[i] == labels[i] for i in old]) > 0.9


def test_a_label_that_was_wrong_can_be_taken_back():
    features, labels = clusters(3, 5)
    head = InstantHead(SIZE)
    head.rebuild(features, labels)
    before, _ = head.linear(head.classes)
    weight = head.learn(features[0] + 1.0, 'kind2')
    assert not torch.allclose(head.linear(head.classes)[0], before, atol=1e-4)
    head.unlearn(features[0] + 1.0, 'kind2', weight)
    assert torch.allclose(head.linear(head.classes)[0], before, atol=1e-5)


def test_rare_classes_are_not_drowned():
    """With balance, one class with fifty times the samples does not swallow its neighbour."""
    rng = np.random.default_rng(4)
    common, rare = rng.normal(size=(500, SIZE)), rng.normal(size=(10, SIZE))
    rare[:, 0] += 2.0
    features = torch.tensor(np.r_[common, rare])
    labels = ['common'] * 500 + ['rare'] * 10
    found = {}
    for balance in (0.0, 1.0):
        head = InstantHead(SIZE, HeadConfig(balance=balance))
        head.rebuild(features, labels)
        said = head.logits(features[500:]).argmax(dim=1)
        found[balance] = int((said == head.classes.index('rare')).sum())
    assert found[0.0] <= 2
    assert found[1.0] >= 8


def test_it_knows_how_good_it_is_on_samples_it_has_not_seen():
    rng = np.random.default_rng(5)
    noise = torch.tensor(rng.normal(size=(60, SIZE)))
    head, labels = InstantHead(SIZE), [f'kind{i % 3}' for i in range(60)]

    def accuracy(head: InstantHead, labels: list[str]) -> float:
        return sum(a == b for a, b in zip(head.said_by_others, labels)) / len(labels)

    head.rebuild(noise, labels)
    assert accuracy(head, labels) < 0.5, 'labels without meaning can not be predicted'
    features, labels = clusters(6, 20)
    head.rebuild(features, labels)
    assert accuracy(head, labels) > 0.9
    left_out = InstantHead(SIZE, HeadConfig(balance=0.0))
    left_out.rebuild(features, labels)
    right = 0
    for i in range(len(labels)):
        keep = [j for j in range(len(labels)) if j != i]
        other = InstantHead(SIZE, HeadConfig(balance=0.0))
        other.rebuild(features[keep], [labels[j] for j in keep])
        right += other.classes[int(other.logits(features[i : i + 1]).argmax())] == labels[i]
    assert accuracy(left_out, labels) == pytest.approx(right / len(labels), abs=0.02)


def test_confidence_is_high_only_where_it_is_right():
    features, labels = clusters(7, 30)
    head = InstantHead(SIZE)
    head.rebuild(features, labels)
    sure = torch.softmax(head.logits(features), dim=1).max(dim=1).values.mean()
    noise = torch.tensor(np.random.default_rng(8).normal(size=(90, SIZE)))
    head.rebuild(noise, labels)
    unsure = torch.softmax(head.logits(noise), dim=1).max(dim=1).values.mean()
    assert sure > 0.9
    assert unsure < 0.6


@pytest.mark.parametrize(
    ('feature', 'text'),
    [
        (torch.zeros(SIZE + 1), r'must be \(n, 6\)'),
        (torch.full((SIZE,), float('nan')), 'finite'),
    ],
)
def test_a_feature_that_does_not_fit_is_refused_and_nothing_changes(feature, text):
    features, labels = clusters(9, 3)
    head = InstantHead(SIZE)
    head.rebuild(features, labels)
    before = head.linear(head.classes)[0].clone()
    with pytest.raises(ValueError, match=text):
        head.learn(feature, 'kind0')
    assert torch.equal(head.linear(head.classes)[0], before)
    with pytest.raises(ValueError, match='labels'):
        head.rebuild(features, labels[:-1])
    with pytest.raises(ValueError, match='n > 0'):
        head.rebuild(features[:0], [])


def scenes_of_kinds(seed: int, shared: bool) -> tuple:
    """Two scenes with 40 frames each of kinds that overlap; `shared`: all four kinds in both."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, SIZE)) * 0.9
    kinds, scenes = [], []
    for scene in (1, 2):
        here = range(4) if shared else (2 * scene - 2, 2 * scene - 1)
        for number in range(40):
            kinds.append(here[number % len(here)])
            scenes.append(scene)
    rows = torch.tensor(centres[kinds] + rng.normal(size=(80, SIZE)))
    return rows, [f'kind{k}' for k in kinds], scenes


def right(head: InstantHead, rows: torch.Tensor, labels: list[str]) -> float:
    said = [head.classes[i] for i in head.logits(rows).argmax(dim=1).tolist()]
    return float(np.mean([a == b for a, b in zip(said, labels)]))


def gain(seed: int, shared: bool) -> float:
    """Points that unlabelled frames add to what sixteen labels teach, in [-1, 1]."""
    rows, labels, scenes = scenes_of_kinds(seed, shared)
    told = [*range(8), *range(40, 48)]
    rest = [i for i in range(80) if i not in told]
    some, other = [labels[i] for i in told], [labels[i] for i in rest]
    alone, both = InstantHead(SIZE), InstantHead(SIZE, HeadConfig(unlabelled_weight=0.5))
    alone.rebuild(rows[told], some)
    unlabelled = Unlabelled(rows[rest], [scenes[i] for i in rest], [scenes[i] for i in told])
    weights = both.rebuild(rows[told], some, unlabelled=unlabelled)
    assert len(weights) == len(told), 'only labels can be taken back'
    return right(both, rows[rest], other) - right(alone, rows[rest], other)


def test_frames_without_a_label_make_few_labels_worth_more():
    """Most where scenes have kinds of their own; where they do not, they do little harm."""
    assert np.mean([gain(seed, shared=False) for seed in range(30)]) > 0.02
    assert np.mean([gain(seed, shared=True) for seed in range(30)]) > -0.02


def test_learning_again_makes_use_of_frames_that_came_since():
    gains = []
    for seed in range(30):
        rows, labels, scenes = scenes_of_kinds(seed, shared=False)
        told = [*range(8), *range(40, 48)]
        rest = [i for i in range(80) if i not in told]
        some, places = [labels[i] for i in told], [scenes[i] for i in told]
        few, head = [rest[0], rest[-1]], InstantHead(SIZE)
        head.rebuild(
            rows[told], some, unlabelled=Unlabelled(rows[few], [scenes[i] for i in few], places)
        )
        other = [labels[i] for i in rest]
        before = right(head, rows[rest], other)
        weights = head.relearn(
            rows[told], some, Unlabelled(rows[rest], [scenes[i] for i in rest], places)
        )
        assert len(weights) == len(told)
        gains.append(right(head, rows[rest], other) - before)
    assert np.mean(gains) > 0.01


def test_guesses_of_earlier_solves_do_not_confirm_themselves():
    rows, labels, scenes = scenes_of_kinds(0, shared=False)
    told = [*range(8), *range(40, 48)]
    rest = [i for i in range(80) if i not in told]
    some, frames = [labels[i] for i in told], [scenes[i] for i in rest]
    unlabelled = Unlabelled(rows[rest], frames, [scenes[i] for i in told])
    head, other = InstantHead(SIZE), InstantHead(SIZE)
    head.rebuild(rows[told], some, unlabelled=unlabelled)
    other.rebuild(rows[told], some, unlabelled=replace(unlabelled, features=-rows[rest]))
    for _ in range(3):
        other.relearn(rows[told], some, unlabelled)
    assert torch.allclose(head.logits(rows), other.logits(rows))


def test_guesses_are_no_surer_than_labels_of_their_scene_bear_out():
    """Right on all that it was deployed with, it meets a place where kinds look like others."""
    rng = np.random.default_rng(0)
    known, names = clusters(0, 30)
    here = torch.tensor(rng.normal(size=(90, SIZE)) * 2)
    told, rest = here[:12], here[12:]
    labels = [*names, *[f'kind{i}' for i in rng.integers(3, size=12)]]
    places = [*[0] * len(names), *[1] * 12]
    head, sure = InstantHead(SIZE), InstantHead(SIZE)
    rows = torch.cat([known, told])
    head.rebuild(rows, labels, unlabelled=Unlabelled(rest, [1] * len(rest), places))
    # Frames of a scene that no label is of: the head is as sure as of what it knows.
    sure.rebuild(rows, labels, unlabelled=Unlabelled(rest, [2] * len(rest), places))
    assert confidence(head, rest) < confidence(sure, rest) - 0.01


def test_the_first_label_of_a_kind_makes_no_guess_less_sure():
    known, names = clusters(0, 20, classes=4)
    rows, rest = torch.cat([known, known[:1] + 9.0]), known[40:]
    said = []
    for scene in (1, 2):  # the one of that label, and one that no label is of
        told = Unlabelled(rest, [scene] * 40, [*[0] * len(names), 1])
        head = InstantHead(SIZE)
        head.rebuild(rows, [*names, 'new'], unlabelled=told)
        said.append(confidence(head, rest))
    assert said[0] == pytest.approx(said[1], abs=0.01)


def confidence(head: InstantHead, rows: torch.Tensor) -> float:
    return float(torch.softmax(head.logits(rows), dim=1).amax(dim=1).mean())


def test_without_unlabelled_frames_nothing_changes():
    rows, labels, scenes = scenes_of_kinds(0, shared=False)
    plain, other = InstantHead(SIZE), InstantHead(SIZE)
    plain.rebuild(rows, labels)
    other.rebuild(rows, labels, unlabelled=Unlabelled(rows[:0], [], scenes))
    assert torch.equal(plain.logits(rows), other.logits(rows))


def test_a_label_can_be_taken_back_exactly_beside_unlabelled_frames():
    rows, labels, scenes = scenes_of_kinds(1, shared=False)
    head = InstantHead(SIZE)
    head.rebuild(rows[:8], labels[:8], unlabelled=Unlabelled(rows[8:], scenes[8:], scenes[:8]))
    before = head.logits(rows)
    given = head.learn(rows[0] + 0.1, 'new')
    assert not torch.allclose(head.logits(rows)[:, :2], before)
    head.unlearn(rows[0] + 0.1, 'new', given)
    assert torch.allclose(head.logits(rows)[:, :2], before, atol=1e-9)


def test_labels_of_a_scene_count_as_much_as_they_foretell_each_other():
    target = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
    know_nothing = torch.zeros(12, 4)
    told = ScenePrior(target, [t // 2 for t in target.tolist()], 4)
    told.fit(know_nothing, target < 4)
    assert told.unseen < 0.5, 'each scene has kinds of its own'
    here, there = told.offsets([0, 1])
    assert here[0] > here[2]
    assert there[2] > there[0]
    mixed = ScenePrior(target, [0, 1, 2] * 4, 4)
    mixed.fit(know_nothing, target < 4)
    assert mixed.unseen > 100, 'every kind is everywhere'
    assert mixed.offsets([0]).abs().max() < 0.1
    assert told.offsets([7]).abs().max() == 0, 'nothing is known of a scene without labels'


def test_a_class_that_it_has_no_sample_of_is_never_said():
    features, labels = clusters(10, 4)
    head = InstantHead(SIZE)
    head.rebuild(features, labels)
    weight = head.learn(features[0], 'typo')
    head.unlearn(features[0], 'typo', weight)
    names = ['kind0', 'typo', 'unheard of', 'kind1', 'kind2']
    assert [head.knows(n) for n in names] == [True, False, False, True, True]
    weight, bias = head.linear(names)
    assert not weight[1:3].any()
    assert bias[1:3].tolist() == [-30.0, -30.0]
    said = (features.float() @ weight.T + bias).argmax(dim=1)
    assert not {1, 2} & set(said.tolist())
    assert 'typo' not in {head.classes[i] for i in head.logits(-features).argmax(dim=1)}


def test_what_was_never_learned_can_not_be_taken_back():
    features, labels = clusters(10, 4)
    head = InstantHead(SIZE)
    head.rebuild(features, labels)
    before = head.logits(features)
    with pytest.raises(ValueError, match='no sample'):
        head.unlearn(features[0], 'unheard of', 1.0)
    with pytest.raises(ValueError, match='finite'):
        head.unlearn(features[0] * math.nan, 'kind0', 1.0)
    assert torch.equal(head.logits(features), before)
    assert head.counts['kind0'] == 4


def test_it_is_stale_when_labels_have_grown_by_half():
    features, labels = clusters(11, 20)
    head = InstantHead(SIZE)
    assert not head.is_stale
    head.rebuild(features[:8], labels[:8])
    assert head.solved == 8
    for i in range(8, 12):
        head.learn(features[i], labels[i])
    assert not head.is_stale
    head.learn(features[12], labels[12])
    assert head.is_stale
    head.rebuild(features[:13], labels[:13])
    assert not head.is_stale


def test_labels_that_replace_others_make_it_stale_too():
    features, labels = clusters(11, 4)
    head = InstantHead(SIZE)
    weights = head.rebuild(features, labels)
    for i in range(7):
        head.unlearn(features[i], labels[i], weights[i])
        head.learn(features[i], 'kind0')
    assert head.is_stale


def sureness(head: InstantHead, rows: torch.Tensor) -> float:
    return float(torch.softmax(head.logits(rows), dim=1).max(dim=1).values.mean())


def test_a_head_that_is_solved_again_when_stale_is_nearly_a_rebuild_on_all():
    """Without, it keeps the calibration of its first few labels."""
    rng = np.random.default_rng(12)
    kinds = rng.integers(0, 6, size=500)
    rows = torch.tensor(rng.normal(size=(6, SIZE))[kinds] * 1.5 + rng.normal(size=(500, SIZE)))
    labels = [f'kind{k}' for k in kinds]
    tests, names = rows[400:], labels[400:]
    whole, head = InstantHead(SIZE), InstantHead(SIZE)
    whole.rebuild(rows[:400], labels[:400])
    head.rebuild(rows[:8], labels[:8])
    solves = 0
    for i in range(8, 400):
        head.learn(rows[i], labels[i])
        if head.is_stale:
            head.rebuild(rows[: i + 1], labels[: i + 1])
            solves += 1
    assert solves < 12, 'solving again stays rare'
    assert right(head, tests, names) == pytest.approx(right(whole, tests, names), abs=0.04)
    assert sureness(head, tests) == pytest.approx(sureness(whole, tests), abs=0.07)


def test_between_solves_a_new_sample_is_worth_as_much_as_the_last_solve_gave_its_class():
    features, labels = clusters(13, 20)
    head = InstantHead(SIZE)
    (first, *_) = head.rebuild(features, labels)
    given = [head.learn(features[0], 'kind0') for _ in range(10)]
    assert given == pytest.approx([first] * 10)


def test_a_class_that_grows_a_lot_between_solves_does_not_drown_the_others():
    features, labels = clusters(13, 1)
    head = InstantHead(SIZE)
    head.rebuild(features, labels)
    given = [head.learn(features[0], 'kind0') for _ in range(1000)]
    assert 1 + sum(given) < 15, 'each other class weighs 1'
    assert given[-1] >= 1.5 / 1001 * 0.999


def test_new_labels_of_a_class_count_when_most_of_its_old_ones_were_taken_back():
    """Somebody calls a lot of kind0 kind3, takes that back, and names five of kind3."""
    features, labels = noisy(2, 50)
    places = [i for i, n in enumerate(labels) if n == 'kind3']
    known, wrong, new = places[:4], places[4:40], places[45:]
    shown = features.clone()
    shown[wrong] = features[[i - 3 for i in wrong]] + 0.1
    told = [i for i in range(len(labels)) if i not in places[40:]]
    head, anew = InstantHead(40), InstantHead(40)
    given = dict(zip(told, head.rebuild(shown[told], [labels[i] for i in told])))
    for i in wrong:
        head.unlearn(shown[i], 'kind3', given[i])
    for i in new:
        head.learn(features[i], 'kind3')
    kept = [i for i in range(len(labels)) if i in known + new or labels[i] != 'kind3']
    anew.rebuild(features[kept], [labels[i] for i in kept])
    others, truth = noisy(3, 200)
    mine = [i for i, n in enumerate(truth) if n == 'kind3']
    found, wanted = (right(h, others[mine], ['kind3'] * 200) for h in (head, anew))
    assert found == pytest.approx(wanted, abs=0.2)
    assert right(head, others, truth) == pytest.approx(right(anew, others, truth), abs=0.06)


@pytest.mark.parametrize('scale', [1e-6, 1.0, 1e6])
@pytest.mark.parametrize('noise', [0.0, 1e-7, 1e-4])
@pytest.mark.parametrize('count', [1, 2, 3, 5, 7, 11, 40])
@pytest.mark.parametrize('size', [SIZE, 200])
def test_equal_and_nearly_equal_frames_are_learned(scale, noise, count, size):
    """A lens cap, a simulator without noise."""
    rng = np.random.default_rng(14)
    frame = np.abs(rng.normal(size=size)) * scale
    rows = torch.tensor(frame * (1 + noise * rng.normal(size=(count, size))))
    head = InstantHead(size)
    head.rebuild(rows, ['cap'] * count)
    other = torch.tensor(np.abs(rng.normal(size=size)) * scale)
    given = head.learn(other, 'hand')
    weight, bias = head.linear(head.classes)
    assert bool(torch.isfinite(weight).all() and torch.isfinite(bias).all())
    assert head.classes[int(head.logits(rows[:1]).argmax())] == 'cap'
    assert head.classes[int(head.logits(other[None]).argmax())] == 'hand'
    head.unlearn(other, 'hand', given)
    assert float(head.logits(rows[:1])[0, 0]) == pytest.approx(head.scale, rel=0.01)


@pytest.mark.parametrize('balance', [0.0, 1.0])
@pytest.mark.parametrize('count', [3, 5, 11, 40])
def test_where_labels_of_equal_frames_contradict_each_other_the_majority_wins(count, balance):
    frame = torch.tensor(np.abs(np.random.default_rng(15).normal(size=50)))
    labels = ['door' if 3 * i < count else 'wall' for i in range(count)]
    head = InstantHead(50, HeadConfig(balance=balance))
    head.rebuild(frame.repeat(count, 1), labels)
    weight, bias = head.linear(head.classes)
    assert head.classes[int((weight @ frame.float() + bias).argmax())] == 'wall'


def test_frames_that_are_all_zero_are_learned():
    head = InstantHead(SIZE)
    head.rebuild(torch.zeros(3, SIZE), ['dark', 'dark', 'night'])
    assert head.classes[int(head.logits(torch.zeros(1, SIZE)).argmax())] == 'dark'


def test_a_rebuild_refuses_features_that_are_not_finite():
    features, labels = clusters(9, 3)
    features[2, 1] = math.inf
    with pytest.raises(ValueError, match='finite'):
        InstantHead(SIZE).rebuild(features, labels)


def noisy(seed: int, per_class: int, size: int = 40, classes: int = 4) -> tuple:
    """Return features whose classes overlap, and their labels."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, size))
    names = [f'kind{c}' for c in range(classes)] * per_class
    rows = [centres[int(n[-1])] + 2.5 * rng.normal(size=size) for n in names]
    return torch.tensor(np.array(rows)), names


def test_a_penalty_that_is_far_too_small_is_replaced_by_a_better_one():
    features, labels = noisy(0, 15)
    others, truth = noisy(1, 200)
    fixed = InstantHead(40, HeadConfig(ridge=0.001, choose_ridge=False))
    chosen = InstantHead(40, HeadConfig(ridge=0.001))
    for head in (fixed, chosen):
        head.rebuild(features, labels)
    assert fixed.ridge == 0.001 < chosen.ridge
    assert right(chosen, others, truth) > right(fixed, others, truth) + 0.02


def test_with_few_labels_the_penalty_stays():
    features, labels = noisy(0, 60)
    few = InstantHead(40, HeadConfig(ridge=1000.0))
    few.rebuild(features[:40], labels[:40])
    assert few.ridge == 1000.0


def test_without_a_sample_it_says_what_the_others_tell():
    features, labels = clusters(3, 8)
    head = InstantHead(SIZE)
    weights = head.rebuild(features, labels)
    assert head.without_each(features, labels, weights) == labels
    odd = features[0]  # of kind0, and somebody says kind1
    weights.append(head.learn(odd, 'kind1'))
    assert head.without_each(odd[None], ['kind1'], weights[-1:]) == ['kind0']
    head.unlearn(odd, 'kind1', weights[-1])
    only = head.learn(features[-1], 'kind9')
    assert head.without_each(features[-1:], ['kind9'], [only]) == ['kind2'], 'it knew no other'
