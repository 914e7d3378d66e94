# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The prior: follows labels, is taken back where it is wrong, remembers places."""

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


def told(prior: PlacePrior, kinds: list[int], labels: int, seed: int = 0) -> None:
    """Label frames of some kinds, in random order."""
    for kind in np.random.default_rng(seed).choice(kinds, labels):
        prior.on_label(KINDS[kind], KINDS)


def watch(prior: PlacePrior, kinds: list[int], frames: int, seed: int = 0) -> None:
    """Show frames of some kinds, in random order."""
    for kind in np.random.default_rng(seed).choice(kinds, frames):
        prior.on_frame(seen(int(kind)), KINDS)


def share(prior: PlacePrior, kinds: list[int]) -> float:
    """Return how likely some kinds are together."""
    shares = prior.shares(KINDS)
    return sum(shares[KINDS[k]] for k in kinds)


def test_it_follows_labels() -> None:
    kitchen = prior()
    told(kitchen, [0, 1], 60)
    assert share(kitchen, [0, 1]) > 0.7
    assert kitchen.offsets(KINDS)[0] > 0 > kitchen.offsets(KINDS)[5]


def test_frames_alone_make_nothing_likely() -> None:
    mistaken = prior()
    watch(mistaken, [0, 1], 300)  # it may be the head that sees nothing else
    assert share(mistaken, [0, 1]) < 0.25


def test_it_is_near_even_where_every_kind_is_everywhere() -> None:
    market = prior()
    told(market, list(range(10)), 300)
    assert max(market.shares(KINDS).values()) < 0.2


def test_it_is_taken_back_when_other_kinds_are_seen() -> None:
    moved = prior()
    told(moved, [0, 1], 60)
    watch(moved, list(range(2, 10)), 30, seed=1)
    assert share(moved, [0, 1]) < 0.25


def test_a_place_that_the_robot_comes_back_to_is_known_from_a_few_frames() -> None:
    home, stranger = prior(), prior()
    told(home, [0, 1, 2], 60)
    home.on_scenario_change()
    for robot in (home, stranger):
        told(robot, [5, 6, 7], 60, seed=1)
        robot.on_scenario_change()
        watch(robot, [0, 1, 2], 6, seed=2)
    assert share(home, [0, 1, 2]) > share(stranger, [0, 1, 2])


def test_what_was_labelled_long_ago_counts_less_than_what_is_labelled_now() -> None:
    moved = prior()
    told(moved, [0, 1, 2], 300)
    told(moved, [5, 6, 7], 150, seed=1)
    assert share(moved, [5, 6, 7]) > 0.8


def test_after_a_change_a_few_labels_outweigh_what_was_there_before() -> None:
    moved, stays = prior(), prior()
    for robot in (moved, stays):
        told(robot, [0, 1], 60)
        if robot is moved:
            robot.on_scenario_change()
        for kind in (5, 6, 5, 6, 5, 6):
            robot.on_label(KINDS[kind], KINDS)
    assert share(moved, [5, 6]) > 0.35 > share(stays, [5, 6])


def test_rooms_that_few_labels_are_of_make_it_forget_no_place() -> None:
    home, stranger = prior(), prior()
    told(home, [0, 1, 2], 60)
    for robot in (home, stranger):
        for room in range(40):
            robot.on_scenario_change()
            robot.on_label(KINDS[5 + room % 2], KINDS)
        robot.on_scenario_change()
        watch(robot, [0, 1, 2], 6, seed=2)
    assert share(home, [0, 1, 2]) > share(stranger, [0, 1, 2]) + 0.05


def test_correcting_one_thing_again_and_again_makes_it_no_likelier() -> None:
    once, again = prior(), prior()
    for robot in (once, again):
        told(robot, list(range(10)), 30)
        robot.on_label(KINDS[3], KINDS)
    for _ in range(8):
        again.on_label(KINDS[3], KINDS)
    assert again.shares(KINDS) == once.shares(KINDS)
    again.on_label(KINDS[4], KINDS)
    again.on_label(KINDS[3], KINDS)
    assert share(again, [3]) > share(once, [3])


def test_what_a_video_shows_for_long_proves_nothing() -> None:
    moving, standing = prior(), prior()
    for robot in (moving, standing):
        told(robot, [0, 1], 60)
        watch(robot, [5], 1)
    trusted = share(standing, [0, 1])
    for _ in range(100):  # before something that the head takes for another kind
        standing.on_frame(seen(5), KINDS)
    assert share(standing, [0, 1]) > 0.9 * trusted
    watch(moving, [4, 6, 7, 8, 9], 100)
    assert share(moving, [0, 1]) < 0.5 * trusted


def test_each_camera_has_its_own_video() -> None:
    """Two cameras whose frames come in turns."""
    robot = prior()
    told(robot, [0, 1], 60)
    before = share(robot, [0, 1])
    for _ in range(50):
        for camera, kind in (('front', 5), ('rear', 6)):
            robot.on_frame(seen(kind), KINDS, camera)
    assert share(robot, [0, 1]) > 0.5 * before


def test_a_label_may_be_of_a_new_class() -> None:
    robot = prior()
    robot.on_label('new', [*KINDS, 'new'])
    assert robot.shares([*KINDS, 'new'])['new'] > 0.1


def test_a_renamed_label_keeps_its_share() -> None:
    renamed = prior()
    classes = ['cup', 'ball', 'box']
    for label in ['cup', 'ball', 'cup', 'box'] * 10:
        renamed.on_label(label, classes)
    before = renamed.shares(classes)['cup']
    assert before > 0.36
    renamed.rename('cup', 'mug')
    assert abs(renamed.shares(['mug', 'ball', 'box'])['mug'] - before) < 1e-6


def test_it_tells_how_far_it_has_moved_since_it_was_served() -> None:
    moving = prior()
    served = moving.shares(KINDS)
    assert moving.moved(served, KINDS) < 1e-6
    told(moving, [0, 1], 60)
    assert moving.moved(served, KINDS) > 0.3
    fresh = prior()
    assert fresh.moved(fresh.shares(KINDS), KINDS[:5]) < 1e-6, 'classes that are gone are no news'


def test_switched_off_it_says_nothing() -> None:
    off = PlacePrior(HeadConfig(prior=0.0))
    off.on_label('kind0', KINDS)
    assert not off.offsets(KINDS).any()
