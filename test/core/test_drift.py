# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where features go in a round, and what the head is solved from afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.cost import CostMeter
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.drift import Drift
from etuner_ros.core.learn.feature_bank import FeatureBank
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.served_head import MOST_COMPUTED, ServedHead
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames

HERE = Scenario('eye', 0)
PICTURE = np.zeros((8, 8, 3), np.uint8)


def moved(rows: torch.Tensor, seed: int) -> torch.Tensor:
    """Move features a lot, but alike: along few directions, and all by the same."""
    draw = torch.Generator().manual_seed(seed)
    size = rows.shape[1]
    away = torch.randn(size, generator=draw)
    along = torch.randn(size, 8, generator=draw) @ torch.randn(8, size, generator=draw) / size
    return rows + away + rows @ along


def test_what_moved_alike_is_foretold_and_what_stood_still_stays():
    rows = torch.randn(400, 60, generator=torch.Generator().manual_seed(0))
    after = moved(rows, 1)
    told = Drift(rows[:200], after[:200]).follow(rows[200:])
    left = (told - after[200:]).norm() / (rows[200:] - after[200:]).norm()
    assert left < 0.2
    assert torch.allclose(Drift(rows[:50], rows[:50]).follow(rows[50:]), rows[50:], atol=1e-5)


def test_one_sample_tells_of_a_common_step():
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Drift(rows[:1], rows[:1] + 2.0).follow(rows), rows + 2.0, atol=1e-5)


class Robot:
    """A served head, and networks that are a move of the features each."""

    def __init__(self, count: int) -> None:
        draw = torch.Generator().manual_seed(0)
        centres = torch.randn(4, 60, generator=draw)
        self.samples = [Sample.of(f'{i}', f'kind {i % 4}', HERE, PICTURE) for i in range(count)]
        self.rows = {
            s.sample_id: centres[i % 4] + 0.3 * torch.randn(60, generator=draw)
            for i, s in enumerate(self.samples)
        }
        self.computed: list[str] = []
        self.bank = FeatureBank(10_000_000)
        frames = UnlabelledFrames(2, 0)
        self.head = ServedHead(60, HeadConfig(), 'base', self.bank, frames, lambda row: '')
        self.head.learn(self.samples, self.compute(0))

    def compute(self, rounds: int):
        def features(samples):
            self.computed += [s.sample_id for s in samples]
            rows = torch.stack([self.rows[s.sample_id] for s in samples])
            for number in range(rounds):
                rows = moved(rows, number)
            return rows

        return features

    def round(self, number: int, anew: set[str] = frozenset()) -> list[str]:
        """Make a round's head, bring it live; return what was computed for it."""
        self.computed = []
        backbone = f'after {number}'
        self.head.fit_candidate(backbone, self.samples, self.compute(number), anew, False)
        self.head.on_accepted(backbone)
        return self.computed


def test_a_round_computes_a_bounded_number_of_features_however_many_labels_there_are():
    robot = Robot(400)
    new = {s.sample_id for s in robot.samples[-20:]}
    computed = robot.round(1, new)
    assert new <= set(computed)
    assert len(computed) == len(set(computed)) == len(new) + MOST_COMPUTED
    assert len(robot.head.learned) == 400, 'the others are known all the same'


def test_the_head_says_right_what_it_only_followed():
    robot = Robot(400)
    for number in (1, 2, 3):
        robot.round(number)
    classes = robot.head.classes()
    rows = robot.head.rows(classes)
    features = robot.compute(3)(robot.samples)
    said = [classes[int(i)] for i in (features @ rows.weight.T + rows.bias).argmax(dim=1)]
    assert sum(a == s.label for a, s in zip(said, robot.samples)) > 0.98 * len(said)


def test_those_whose_feature_is_oldest_have_their_turn_first():
    robot = Robot(3 * MOST_COMPUTED)
    seen = [robot.round(number) for number in (1, 2, 3)]
    assert set().union(*seen) == {s.sample_id for s in robot.samples}


def test_what_has_no_feature_of_before_is_computed():
    robot = Robot(200)
    late = replace(robot.samples[0], sample_id='late')
    robot.samples.append(late)
    robot.rows['late'] = robot.rows['0']
    assert 'late' in robot.round(1)


def test_evidence_of_labels_that_the_head_has_learned_is_honest():
    """With more features than labels a head says all that it learned right, noise as well."""
    robot = Robot(60)
    draw = torch.Generator().manual_seed(1)
    robot.rows = {i: torch.randn(60, generator=draw) for i in robot.rows}
    head = ServedHead(
        60,
        HeadConfig(ridge=1e-3),
        'base',
        FeatureBank(10**7),
        UnlabelledFrames(2, 0),
        lambda _: '',
    )
    head.learn(robot.samples, robot.compute(0))
    features = robot.compute(0)(robot.samples)
    classes = head.classes()
    rows = head.rows(classes)
    said = [classes[int(i)] for i in (features @ rows.weight.T + rows.bias).argmax(dim=1)]
    right = [s.label for s in robot.samples]
    assert sum(map(str.__eq__, said, right)) > 50
    assert sum(map(str.__eq__, head.answers(robot.samples, features), right)) < 35
    unknown = [replace(s, sample_id=f'new {s.sample_id}') for s in robot.samples]
    assert head.answers(unknown, features) == said, 'what it has not learned, as it is served'


def test_the_first_correction_of_a_new_head_waits_for_nothing():
    """What updates need is made with the head."""
    robot, costs = Robot(50), []
    robot.round(1)
    for number in range(2):
        with CostMeter() as meter:
            robot.head.teach(f'new {number}', 'kind 0', torch.randn(60), HERE)
        costs.append(meter.total_flops)
    assert costs[0] < 1.2 * costs[1]
