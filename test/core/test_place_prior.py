# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The prior: follows labels and frames, is taken back where it is wrong, remembers places."""

from __future__ import annotations

import numpy as np
import torch

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.learn.place_prior import PlacePrior

KINDS = [f'kind{i}' for i in range(10)]


def prior() -> PlacePrior:
    return PlacePrior(HeadConfig(prior=1.0, prior_memory=48.0))


def seen(kind: int, sureness: float = 4.0) -> torch.Tensor:
    """Return what a head makes of a frame of a kind, (C,) probabilities."""
    return torch.softmax(sureness * torch.nn.functional.one_hot(torch.tensor(kind), 10), dim=0)


def watch(prior: PlacePrior, kinds: list[int], frames: int, seed: int = 0) -> None:
    """Show frames of some kinds, in random order."""
    for kind in np.random.default_rng(seed).choice(kinds, frames):
        prior.on_frame(seen(int(kind)), KINDS)


def share(prior: PlacePrior, kinds: list[int]) -> float:
    """Return how likely some kinds are together."""
    shares = prior.shares(KINDS)
    return sum(shares[KINDS[k]] for k in kinds)


def test_it_follows_frames_that_nobody_labels() -> None:
    kitchen = prior()
    watch(kitchen, [0, 1], 60)
    assert share(kitchen, [0, 1]) > 0.7
    assert kitchen.offsets(KINDS)[0] > 0 > kitchen.offsets(KINDS)[5]


def test_it_is_near_even_where_every_kind_is_everywhere() -> None:
    market = prior()
    watch(market, list(range(10)), 300)
    assert max(market.shares(KINDS).values()) < 0.2


def test_it_is_taken_back_when_other_kinds_are_asked_for() -> None:
    moved = prior()
    watch(moved, [0, 1], 60)
    watch(moved, list(range(2, 10)), 30, seed=1)
    assert share(moved, [0, 1]) < 0.25


def test_a_place_that_the_robot_comes_back_to_is_known_from_a_few_frames() -> None:
    home, stranger = prior(), prior()
    watch(home, [0, 1, 2], 60)
    home.on_scenario_change()
    for robot in (home, stranger):
        watch(robot, [5, 6, 7], 60, seed=1)
        robot.on_scenario_change()
        watch(robot, [0, 1, 2], 6, seed=2)
    assert share(home, [0, 1, 2]) > share(stranger, [0, 1, 2])


def test_a_label_tells_more_than_a_frame_and_may_be_of_a_new_class() -> None:
    by_label, by_frame = prior(), prior()
    for _ in range(8):
        by_label.on_label('kind3', KINDS)
        by_frame.on_frame(seen(3, 2.0), KINDS)
    assert share(by_label, [3]) > share(by_frame, [3])
    by_label.on_label('new', [*KINDS, 'new'])
    assert by_label.shares([*KINDS, 'new'])['new'] > 0


def test_a_renamed_label_keeps_its_share() -> None:
    renamed = prior()
    for _ in range(20):
        renamed.on_label('cup', ['cup', 'ball'])
    before = renamed.shares(['cup', 'ball'])['cup']
    renamed.rename('cup', 'mug')
    assert abs(renamed.shares(['mug', 'ball'])['mug'] - before) < 1e-6


def test_it_tells_how_far_it_has_moved_since_it_was_served() -> None:
    moving = prior()
    told = moving.shares(KINDS)
    assert moving.moved(told, KINDS) < 1e-6
    watch(moving, [0], 60)
    assert moving.moved(told, KINDS) > 0.3
    fresh = prior()
    assert fresh.moved(fresh.shares(KINDS), KINDS[:5]) < 1e-6, 'classes that are gone are no news'


def test_switched_off_it_says_nothing() -> None:
    off = PlacePrior(HeadConfig(prior=0.0))
    off.on_label('kind0', KINDS)
    assert not off.offsets(KINDS).any()
