# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the served head says of labels that it has learned, beside frames that nobody labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from test_familiar import LIGHT, One, told
import torch

from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.familiar import Familiar
from etuner_ros.core.learn.feature_bank import FeatureBank
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.served_head import Kept, ServedHead
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames

HERE = Scenario('eye', 0)
COUNT, SIZE = 24, 40
# Left out or not, the others weigh the same then, so that both ways are comparable.
CONFIG = HeadConfig(balance=0.0)


class Robot:
    """It has seen each thing three more times; its labels tell nothing of how things look."""

    def __init__(self, config: HeadConfig = CONFIG) -> None:
        draw = torch.Generator().manual_seed(0)
        self.rows = torch.randn(COUNT, SIZE, generator=draw)
        self.labels = [f'kind{i % 3}' for i in range(COUNT)]
        self.samples = [Sample(f'{i}', label, HERE, b'') for i, label in enumerate(self.labels)]
        self.head = ServedHead(
            SIZE, config, 'base', FeatureBank(10**7), UnlabelledFrames(1000), lambda _row: ''
        )
        self.again = {
            f'seen {i}/{number}': row + 0.01 * torch.randn(SIZE, generator=draw)
            for number in range(3)
            for i, row in enumerate(self.rows)
        }

    def features(self, samples: Sequence[Sample]) -> torch.Tensor:
        known = dict(zip([s.sample_id for s in self.samples], self.rows)) | self.again
        return torch.stack([known[s.sample_id] for s in samples])

    def see(self) -> None:
        for name, row in self.again.items():
            self.head.add_frame(Sample(name, '', HERE, b''), row)

    def learn(self) -> None:
        self.head.learn(self.samples, self.features)

    def said(self) -> list[str]:
        return self.head.answers(self.samples, self.rows)

    def without_it(self, which: int) -> str:
        """Return what the instant head says of a sample now had it learned all the others."""
        known = self.head.learned[f'{which}']
        return self.head.instant.without_each(known.row[None], [known.label], [known.weight])[0]


@pytest.fixture
def robot() -> Robot:
    made = Robot()
    made.see()
    made.learn()
    return made


def left_out(robot: Robot) -> list[str]:
    """Return what heads say of each sample that were never shown it, nor any frame."""
    said = []
    for i in range(COUNT):
        others = [j for j in range(COUNT) if j != i]
        head = InstantHead(SIZE, CONFIG)
        head.rebuild(robot.rows[others], [robot.labels[j] for j in others])
        said.append(head.classes[int(head.logits(robot.rows[i : i + 1]).argmax())])
    return said


@pytest.mark.parametrize('first', ['frames', 'labels'])
def test_frames_that_were_guessed_by_a_label_are_no_evidence_for_it(first):
    robot = Robot()
    if first == 'frames':
        robot.see()
    robot.learn()
    robot.see()
    robot.head.learn_unlabelled(robot.features)
    expected = left_out(robot)
    assert sum(a == b for a, b in zip(robot.said(), expected)) >= COUNT - 1
    right = sum(a == b for a, b in zip(robot.said(), robot.labels)) / COUNT
    assert right < 0.6, 'labels without meaning can not be foretold'


def test_a_renamed_label_is_said_by_its_new_name(robot):
    before = robot.said()
    assert 'kind1' in before
    robot.head.rename('kind1', 'cup')
    after = robot.said()
    assert 'kind1' not in after
    for said, was, label in zip(after, before, robot.labels):
        if label != 'kind1':
            assert said == ('cup' if was == 'kind1' else was)


def test_a_label_that_was_corrected_is_judged_by_what_is_known_now(robot):
    before, corrected = robot.said(), 0
    for i, label in enumerate(robot.labels[:4]):
        new = next(k for k in ('kind0', 'kind1', 'kind2') if k not in (label, before[i]))
        robot.head.teach(f'{i}', new, robot.rows[i], HERE)
        assert robot.said()[i] == robot.without_it(i)
        corrected += robot.said()[i] != before[i]
    assert corrected


def test_nothing_is_left_of_what_was_taken_back(robot):
    """The same name may come again, of another picture."""
    before = robot.said()
    robot.head.withdraw(['0'])
    other = next(i for i in range(1, COUNT) if robot.labels[i] != before[0])
    robot.rows[0] = robot.rows[other]
    robot.head.teach('0', 'kind0', robot.rows[0], HERE)
    assert robot.said()[0] == robot.labels[other], 'what looks the same was called so'


def test_a_kind_that_was_taken_back_is_not_said_of_any_label(robot):
    assert 'kind2' in robot.said()
    gone = {f'{i}' for i, label in enumerate(robot.labels) if label == 'kind2'}
    robot.head.withdraw(gone)
    left = [s for s in robot.samples if s.sample_id not in gone]
    assert 'kind2' not in robot.head.answers(left, robot.features(left))


def test_a_thing_that_does_not_look_known_makes_a_head_once_for_each_name():
    """The live head names it rightly; what it needs to know is what the thing looks like."""
    said, row = ['cup'], torch.ones(SIZE)
    head = ServedHead(
        SIZE,
        CONFIG,
        'base',
        FeatureBank(10**7),
        UnlabelledFrames(1000),
        lambda _row: said[0],
        knows=lambda _label, _thing: False,
    )

    def is_new(label: str, thing: bool = True) -> bool:
        said[0], head.is_new = label, False
        head.teach('a', label, row, HERE, thing)
        return head.is_new

    assert is_new('cup')
    assert not is_new('cup'), 'it comes again'
    assert is_new('mug')
    assert not is_new('cup', thing=False), 'a whole image need not look known'
    assert not is_new(BACKGROUND), 'nor what is no thing'


def test_a_class_that_is_kept_without_samples_is_said_where_it_is_the_likeliest(robot):
    before = robot.said()
    weight = torch.zeros(SIZE)

    def said(bias: float) -> list[str]:
        kept = {'kept': Kept(weight, torch.tensor(bias), None)}
        return robot.head.answers(robot.samples, robot.rows, kept=kept)

    assert said(-1e6) == before
    assert said(1e6) == ['kept'] * COUNT
    logits = robot.head.instant.logits(robot.rows).max(dim=1).values.sort().values
    middle = float(logits[COUNT // 2 - 1 : COUNT // 2 + 1].mean())
    assert said(middle).count('kept') == COUNT // 2


def test_a_label_that_was_taken_back_counts_as_likely_here_when_it_is_said_again():
    robot = Robot(replace(CONFIG, prior=1.0))
    robot.learn()
    kinds = ('kind0', 'kind1', 'kind2')
    for i in range(30):
        robot.head.note_label(f'{i}', f'kind{i % 2}', 'eye')
    shares = robot.head.prior.shares(kinds)
    for again in ('0', '1'):
        robot.head.note_label(again, f'kind{again}', 'eye')
    assert robot.head.prior.shares(kinds) == shares, 'told once'
    robot.head.withdraw(['0', '1'])
    for again in ('0', '1'):
        robot.head.note_label(again, f'kind{again}', 'eye')
    now = robot.head.prior.shares(kinds)
    assert now['kind2'] < shares['kind2']


def test_how_much_more_alike_rounds_have_made_things_is_told_from_the_deployed_network():
    """What was taught between two rounds it has never seen."""
    kinds, taught = ('cup', 'ball', 'hat'), told(24)
    head = ServedHead(
        24, CONFIG, 'base', FeatureBank(10**7), UnlabelledFrames(9), lambda _row: '', LIGHT
    )
    rows = {i: one.row for i, one in taught.items()}
    things = [Sample(i, one.label, HERE, b'', thing=True) for i, one in taught.items()]
    early, late = things[:36], things[36:]
    deployed = {s.sample_id: rows[s.sample_id] for s in early}
    more = torch.nn.functional.one_hot(torch.tensor(23), 24)  # all have it in common

    def features(samples: Sequence[Sample]) -> torch.Tensor:
        return torch.stack([rows[s.sample_id] for s in samples])

    def tune(name: str, samples: Sequence[Sample]) -> None:
        nonlocal rows
        rows = {i: row + more for i, row in rows.items()}
        head.fit_candidate(name, samples, features, set(rows), all_frames=False)
        head.on_accepted(name)

    head.learn(early, features)
    tune('first', early)
    head.learn(late, features)
    tune('second', things)
    after = {i: One(row, taught[i].label) for i, row in rows.items()}
    expected = Familiar(LIGHT, deployed).rows(after, kinds).half().numpy()
    assert np.allclose(head.likeness(kinds)['head.likeness'], expected, atol=2e-3)
