# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The parts of the learner, each alone: samples, features, frames without labels, evidence."""

from __future__ import annotations

from collections import Counter
import math

import pytest
import torch

from etuner_ros.core.config import TrainConfig
from etuner_ros.core.decide.gate import Outcome
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn import sample_book
from etuner_ros.core.learn.feature_bank import FeatureBank
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.sample_book import MOST_HELD, SampleBook, shares
from etuner_ros.core.learn.unlabelled_frames import MOST_EARLIER, UnlabelledFrames
from etuner_ros.core.learn.validator import accuracies, VALIDATION_WINDOW, Validator

HERE, BEFORE = Scenario('eye', 3), Scenario('eye', 2)


def sample(
    name: str, label: str = 'cup', scenario: Scenario = HERE, size: int = 1000, said: str = ''
) -> Sample:
    return Sample(name, label, scenario, bytes(size), said)


# Samples


def test_a_sample_is_in_one_place_only_through_all_that_may_happen_to_it():
    book = SampleBook(TrainConfig(validation_share=0.0))
    book.add([sample('a'), sample('b')])
    assert [s.sample_id for s in book.pending] == ['a', 'b']
    book.on_trained(book.pending)
    assert (len(book.pending), len(book.replay)) == (0, 2)
    book.on_lost(learn_again=True)
    assert (len(book.pending), len(book.replay)) == (2, 0)
    book.on_trained(book.pending)
    book.on_lost(learn_again=False)
    assert (len(book.pending), len(book.replay)) == (0, 2)
    book.add([sample('a', 'mug')])  # corrected: it was trained on, so it is replayed
    assert book.replay.counts() == {'cup': 1, 'mug': 1}
    book.withdraw(['a', 'b', 'never seen'])
    assert book.bytes == 0
    assert book.find('a') is None


def test_samples_that_wait_count_in_the_one_budget_and_the_oldest_are_replayed():
    book = SampleBook(TrainConfig(replay_mb=1.0, validation_share=0.2))
    for number in range(5000):
        book.add([sample(f'{number}', f'kind {number % 5}')])
        assert book.bytes <= 1_000_000
    assert len(book.pending) == 500, 'half of the budget'
    assert book.pending[-1].sample_id == '4999' or '4999' in book.held
    assert len(book.replay) > 200
    assert set(book.replay.counts()) == {f'kind {i}' for i in range(5)}


def test_held_back_samples_are_bounded_and_the_largest_class_makes_room():
    book = SampleBook(TrainConfig(validation_share=0.5, replay_mb=1000.0))
    book.add([sample(f'rare {i}', 'rare', size=10) for i in range(12)])
    rare = sum(s.label == 'rare' for s in book.held.values())
    book.add([sample(f'{i}', size=10) for i in range(3 * MOST_HELD)])
    assert len(book.held) == MOST_HELD
    assert sum(s.label == 'rare' for s in book.held.values()) == rare > 0


def test_two_of_a_class_with_six_are_held_back_and_that_is_decided_once():
    book = SampleBook(TrainConfig(validation_share=0.1))
    book.add([sample(f'{i}') for i in range(5)])
    assert not book.held
    book.add([sample(f'{i}') for i in range(5, 30)])
    held = set(book.held)
    assert 2 <= len(held) <= 6
    book.add([sample(name) for name in held])
    assert set(book.held) == held
    assert not book.holds_back('0', 'cup')


FEW = TrainConfig(validation_share=1e-9)  # no name is chosen


def test_of_each_class_the_sixth_and_seventh_new_sample_are_held_back_where_no_name_is_chosen():
    book = SampleBook(FEW)
    book.add([sample(f'{kind} {i}', kind) for i in range(20) for kind in ('cup', 'mug')])
    assert list(book.held) == ['cup 5', 'mug 5', 'cup 6', 'mug 6']
    book.withdraw(['cup 5'])
    book.add([sample(f'cup {i}') for i in range(20, 30)])
    assert list(book.held) == ['mug 5', 'cup 6', 'mug 6', 'cup 20'], 'in its place'
    assert not SampleBook(TrainConfig(validation_share=0.0)).holds_back('a', 'cup')


def test_what_was_learned_in_an_earlier_life_is_held_back_by_its_name_alone():
    book = SampleBook(FEW)
    book.add([sample(f'{i}') for i in range(20)], new=False)
    assert not book.held
    book.add([sample('new')])
    assert list(book.held) == ['new'], 'the next one may be'


def test_samples_of_two_names_that_are_merged_are_counted_and_held_back_as_of_one():
    book = SampleBook(FEW)
    book.add([sample(f'mug {i}', 'mug') for i in range(5)])
    book.rename('mug', 'cup')
    book.add([sample('sixth')])
    assert list(book.held) == ['sixth']
    book.add([sample('seventh'), sample('eighth')])
    assert list(book.held) == ['sixth', 'seventh']
    book.rename('cup', 'bowl')
    book.add([sample(f'bowl {i}', 'bowl') for i in range(9)])
    assert list(book.held) == ['sixth', 'seventh'], 'it has two'


def test_what_waits_for_a_round_waits_on_when_it_comes_again_from_an_earlier_life():
    book = SampleBook(TrainConfig(validation_share=0.0))
    book.add([sample('a')])
    book.add([sample('a', 'mug'), sample('b')], new=False)
    assert [(s.sample_id, s.label) for s in book.pending] == [('a', 'mug')]
    assert book.replay.counts() == {'cup': 1}


def test_held_back_samples_take_a_quarter_of_the_budget_at_most_the_newest():
    roomy, small = (SampleBook(TrainConfig(replay_mb=mb, validation_share=0.5)) for mb in (9, 1))
    for book in (roomy, small):
        book.add([sample(f'{i}') for i in range(700)])
    assert len(roomy.held) > 250
    assert list(small.held) == list(roomy.held)[-250:]


def test_what_a_lost_round_trained_on_comes_before_what_came_meanwhile():
    book = SampleBook(TrainConfig(validation_share=0.0))
    book.add([sample('a'), sample('b'), sample('gone')])
    trained = book.pending
    book.withdraw(['gone'])  # while the round runs
    book.on_trained(trained)
    assert book.find('gone') is None
    book.add([sample('c')])
    book.on_lost(learn_again=True)
    assert [s.sample_id for s in book.pending] == ['a', 'b', 'c']


def test_a_held_back_sample_that_comes_again_after_very_many_is_in_one_place(monkeypatch):
    monkeypatch.setattr(sample_book, 'MOST_DECIDED', 40)
    book = SampleBook(TrainConfig(validation_share=0.1))
    book.add([sample(f'{i}') for i in range(30)])
    held = [*book.held.values()]
    assert held
    book.add([sample(f'later {i}', 'mug') for i in range(60)])
    book.add(held)
    places = Counter(s.sample_id for s in book.pictures)
    assert set(places.values()) == {1}
    assert len(places) == 90
    assert book.bytes == 90 * 1000
    book.withdraw([s.sample_id for s in held])
    assert not any(book.find(s.sample_id) for s in held)


def test_two_labels_of_one_name_are_merged_wherever_samples_are():
    book = SampleBook(TrainConfig(validation_share=0.0))
    book.add([sample('a', 'mug'), sample('b')])
    book.on_trained(book.pending)
    book.add([sample('c', 'mug')])
    book.rename('mug', 'cup')
    assert book.labels() == {'cup'}
    assert book.renamed == {'mug'}
    book.add([sample('d', 'mug')])
    assert not book.renamed, 'it is said again'


@pytest.mark.parametrize(
    ('sizes', 'limit', 'taken'),
    [
        ({'a': 20, 'b': 20, 'c': 3}, 23, {'a': 10, 'b': 10, 'c': 3}),
        ({'a': 800, 'b': 3}, 200, {'a': 197, 'b': 3}),
        ({'a': 2, 'b': 2}, 100, {'a': 2, 'b': 2}),
        ({'a': 1, 'b': 1, 'c': 1}, 2, {'a': 1, 'b': 1, 'c': 0}),
        ({}, 5, {}),
    ],
)
def test_what_small_classes_leave_goes_to_the_others(sizes, limit, taken):
    assert shares(sizes, limit) == taken


def test_a_head_is_rebuilt_from_as_many_samples_as_it_may_have():
    """110 classes of 20 samples were rebuilt from one each, where 200 were allowed."""
    book = SampleBook(TrainConfig(validation_share=0.0))
    for kind in range(110):
        book.add([sample(f'{kind}/{i}', f'kind {kind}', size=10) for i in range(20)])
    chosen = book.newest(200)
    assert len(chosen) == 200
    counts = Counter(s.label for s in chosen)
    assert (len(counts), max(counts.values())) == (110, 2)
    assert '0/19' in {s.sample_id for s in chosen}, 'the newest of each'


def test_a_head_is_rebuilt_from_one_of_each_class_where_there_are_more_than_it_may_have():
    book = SampleBook(TrainConfig(validation_share=0.0))
    for kind in range(30):
        book.add([sample(f'{kind}/{i}', f'kind {kind}', size=10) for i in range(3)])
    assert {s.sample_id for s in book.newest(20)} == {f'{kind}/2' for kind in range(30)}


def test_the_accuracy_before_a_round_counts_what_its_own_backbone_predicted():
    book = SampleBook(TrainConfig(validation_share=0.0))
    book.add([sample(f'{i}', said='mug') for i in range(8)])
    assert book.outcomes([HERE]) == [False] * 8
    assert book.outcomes([BEFORE]) == []
    book.on_accepted()
    book.add([sample(f'new {i}', said='cup') for i in range(4)])
    assert book.outcomes([HERE]) == [True] * 4


def test_the_newest_forty_frames_of_the_current_scenarios_tell_how_accurate_it_is():
    book = SampleBook(TrainConfig(validation_share=0.0))
    book.add([sample(f'{i}', said='mug') for i in range(30)])
    book.add([sample(f'new {i}', said='cup') for i in range(30)])
    book.add([sample(f'old {i}', scenario=BEFORE, said='mug') for i in range(50)])
    assert book.outcomes([HERE]) == [False] * 10 + [True] * 30
    assert book.outcomes([BEFORE]) == [False] * 40
    book.add([sample('25', 'mug', said='mug')])  # it was right after all
    assert book.outcomes([HERE]) == [False] * 9 + [True] * 31
    book.withdraw(['28', 'new 3'])
    assert book.outcomes([HERE]) == [False] * 10 + [True] * 30


# Features


def test_a_feature_of_another_backbone_is_never_found():
    bank = FeatureBank(1_000_000)
    bank.put('old', 'a', torch.ones(4))
    assert bank.get('new', 'a') is None
    made = bank.rows('new', [sample('a')], lambda missing: torch.zeros(len(missing), 4))
    assert not made[0].any()
    assert bank.get('old', 'a').all()
    bank.keep_only('new')
    assert bank.get('old', 'a') is None
    bank.discard(['a'])
    assert (len(bank), bank.bytes) == (0, 0)


def test_the_least_recently_used_features_go_first_and_all_asked_for_are_returned():
    bank = FeatureBank(10 * 16)
    asked = [sample(f'{i}') for i in range(30)]
    rows = bank.rows('b', asked, lambda missing: torch.arange(len(missing) * 4.0).reshape(-1, 4))
    assert [int(r[0]) for r in rows] == [4 * i for i in range(30)]
    assert (len(bank), bank.bytes) == (10, 160)
    assert bank.get('b', '20') is not None  # used: stays
    bank.put('b', 'one more', torch.zeros(4))
    assert bank.get('b', '20') is not None
    assert bank.get('b', '21') is None


# Frames without a label


def test_half_of_the_frames_are_of_the_current_scenario_however_many_came_before():
    """After 60 scenarios the current one kept 2 of 100."""
    kept = UnlabelledFrames(100)
    for number in range(60):
        kept.set_current([Scenario('eye', number)])
        for i in range(400):
            kept.add(sample(f'{number}/{i}', '', Scenario('eye', number)))
        counts = Counter(s.scenario.number for s in kept.samples)
        assert len(kept) == 100
        assert counts[number] >= 50
        assert len(counts) <= 1 + MOST_EARLIER
    assert min(counts.values()) >= 5, 'the earlier ones share evenly'


def test_two_cameras_share_the_half_that_is_for_now():
    kept = UnlabelledFrames(40)
    front, rear = Scenario('front', 7), Scenario('rear', 0)
    kept.set_current([front, rear])
    for i in range(100):
        kept.add(sample(f'f{i}', '', front))
        kept.add(sample(f'r{i}', '', rear))
    assert Counter(s.scenario for s in kept.samples) == {front: 20, rear: 20}


# Evidence


def test_earlier_scenarios_are_looked_at_however_many_samples_the_current_one_has():
    """250 current and 50 old samples gave no old outcome."""
    held = [sample(f'old {i}', scenario=BEFORE) for i in range(50)]
    held += [sample(f'new {i}', f'kind {i % 3}') for i in range(250)]
    chosen = Validator(FeatureBank(1)).choose(held, [HERE])
    assert len(chosen) == VALIDATION_WINDOW
    counts = Counter(s.scenario for s in chosen)
    assert counts == {BEFORE: 50, HERE: VALIDATION_WINDOW - 50}
    assert Counter(s.label for s in chosen if s.scenario == HERE).keys() == {
        'kind 0',
        'kind 1',
        'kind 2',
    }
    assert 'new 249' in {s.sample_id for s in chosen}


@pytest.mark.parametrize(
    ('old', 'new', 'chosen'),
    [(10, 250, (10, 90)), (250, 10, (90, 10)), (250, 250, (50, 50)), (20, 30, (20, 30))],
)
def test_what_one_side_has_too_few_of_is_looked_at_of_the_other(old, new, chosen):
    held = [sample(f'old {i}', scenario=BEFORE) for i in range(old)]
    held += [sample(f'new {i}') for i in range(new)]
    counts = Counter(s.scenario for s in Validator(FeatureBank(1)).choose(held, [HERE]))
    assert (counts[BEFORE], counts[HERE]) == chosen


def outcome(name: str, live: bool, candidate: bool, anchor: bool | None = None) -> Outcome:
    return Outcome(name, 'cup', HERE, live, candidate, anchor)


def test_the_anchor_is_the_best_version_that_was_accepted():
    validator = Validator(FeatureBank(1))
    held = {n: sample(n) for n in ('a', 'b', 'new')}
    assert validator.anchor(sample('a')) is None
    validator.on_accepted([outcome('a', True, True), outcome('b', False, True)], held)
    worse = [outcome(n, True, n == 'a', validator.anchor(sample(n))) for n in ('a', 'b', 'new')]
    validator.on_accepted(worse, held)
    assert [validator.anchor(sample(n)) for n in ('a', 'b', 'new')] == [True, True, False]
    as_good = [outcome(n, True, True, validator.anchor(sample(n))) for n in ('a', 'b', 'new')]
    validator.on_accepted(as_good, held)
    assert validator.anchor(sample('new'))
    validator.forget(['a'])
    assert validator.anchor(sample('a')) is None


@pytest.mark.parametrize(
    ('right', 'becomes'),
    [
        ({'a': True, 'b': False, 'c': False, 'new': False}, True),  # as many as the anchor
        ({'a': False, 'b': True, 'c': False, 'new': False}, True),  # others, as many
        ({'a': False, 'b': False, 'c': False, 'new': True}, False),  # fewer of what both know
        ({'a': True, 'b': True, 'c': False, 'new': False}, True),
    ],
)
def test_what_is_as_good_as_the_anchor_on_what_both_have_said_takes_its_place(right, becomes):
    validator = Validator(FeatureBank(1))
    held = {name: sample(name) for name in right}
    first = {'a': True, 'b': False, 'c': False}
    validator.on_accepted([outcome(n, False, ok) for n, ok in first.items()], held)
    # Whether live was right tells nothing: small steps down would add up.
    now = [outcome(n, False, ok, validator.anchor(sample(n))) for n, ok in right.items()]
    validator.on_accepted(now, held)
    expected = right if becomes else {**first, 'new': right['new']}
    assert {n: validator.anchor(sample(n)) for n in right} == expected


@pytest.mark.parametrize(
    ('live', 'candidate', 'recent', 'expected'),
    [
        (False, True, [True] * 8, (0.8, 1.0)),  # 1.8 is no accuracy
        (True, False, [False] * 8, (0.2, 0.0)),
        (True, False, [], (1.0, 0.0)),
    ],
)
def test_an_accuracy_is_one_of_a_share_however_few_samples_moved_it(
    live, candidate, recent, expected
):
    held = [outcome('a', live, candidate), outcome('b', live, candidate)]
    elsewhere = Outcome('c', 'cup', BEFORE, candidate, live, None)
    assert accuracies([*held, elsewhere], recent, [HERE]) == pytest.approx(expected)


def test_the_accuracy_of_a_candidate_is_that_of_live_moved_by_what_held_back_samples_say():
    held = [outcome('a', False, True), outcome('b', True, True)]
    before, after = accuracies(held, [True, False], [HERE])
    assert (before, after) == (0.5, 1.0)
    assert accuracies([], [True, False], [HERE]) == (0.5, 0.5)
    assert all(math.isnan(x) for x in accuracies(held, [], [BEFORE]))
