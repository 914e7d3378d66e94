# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A robot that stands still looks no second time, and notices what changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_frame_buffer import Clock
from versions import travelling

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.boxes.region_memory import RegionMemory
from etuner_ros.core.images.codec import Image
from etuner_ros.core.images.stillness import LONGEST_S, Stillness
from etuner_ros.core.models.weights import read_base
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.networks import TorchNetwork

LEFT, RIGHT = (20, 30, 90, 80), (180, 60, 70, 120)


@pytest.fixture
def table() -> Image:
    """Return a picture of 320 x 240 px with two things in it."""
    rng = np.random.default_rng(0)
    image = np.full((240, 320, 3), 120, np.uint8)
    for x, y, width, height in (LEFT, RIGHT):
        image[y : y + height, x : x + width] = rng.integers(0, 255, (1, width, 3))
    return image


def noisy(image: Image, seed: int) -> Image:
    """Return a picture as a sensor sees it once more."""
    noise = np.random.default_rng(seed).normal(0.0, 3.0, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_noise_is_nothing_new_and_a_small_thing_is(table):
    clock = Clock()
    still = Stillness(clock)
    assert not still.is_same(noisy(table, 0))
    assert all(still.is_same(noisy(table, seed)) for seed in range(1, 20))
    table[200:212, 140:152] = 170
    assert not still.is_same(noisy(table, 20))
    assert still.is_same(noisy(table, 21)), 'from now on it is known'
    assert not still.is_same(noisy(np.roll(table, 4, axis=1), 22)), 'the robot has moved'
    clock.now += LONGEST_S
    assert not still.is_same(noisy(np.roll(table, 4, axis=1), 23)), 'now and then it looks'


def test_what_changes_slowly_is_noticed(table):
    still = Stillness(Clock())
    dusk = [np.clip(table.astype(int) - step, 0, 255).astype(np.uint8) for step in range(0, 30, 2)]
    said = [still.is_same(image) for image in dusk]
    assert said.count(False) > 3


class Robot:
    """A live model that counts the regions that its network looks at."""

    def __init__(self, deployed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.base, self.clock = read_base(deployed), Clock()
        self.live, self.memory = LiveModel(self.base), RegionMemory(self.clock)
        self._looked = 0
        look = TorchNetwork.look

        def counted(network: TorchNetwork, pictures: list) -> tuple:
            self._looked += len(pictures)
            return look(network, pictures)

        monkeypatch.setattr(TorchNetwork, 'look', counted)

    def looks(self, image: Image, *boxes: tuple[float, ...]) -> int:
        """Return how many regions needed a look; what is said of the others is as before."""
        before = self._looked
        seen = self.live.look_at(image, as_boxes(boxes), memory=self.memory)
        looked = self._looked - before
        alone = self.live.look_at(image, as_boxes(boxes)).features
        cosines = (seen.features * alone).sum(axis=1)
        cosines /= np.linalg.norm(seen.features, axis=1) * np.linalg.norm(alone, axis=1)
        assert cosines.min() > 0.9, 'features are of these regions, whoever looked'
        return looked


@pytest.fixture
def robot(deployed: Path, monkeypatch: pytest.MonkeyPatch) -> Robot:
    return Robot(deployed, monkeypatch)


def test_regions_that_look_as_before_are_not_looked_at_again(robot, table):
    assert robot.looks(noisy(table, 0), LEFT, RIGHT) == 2
    assert robot.looks(noisy(table, 1), RIGHT, LEFT) == 0
    assert robot.memory.recalled == 2
    x, y, width, height = LEFT
    assert robot.looks(noisy(table, 2), (x + 2, y + 1, width, height), RIGHT) == 0, 'a shaky box'
    assert robot.looks(noisy(table, 3), LEFT, RIGHT, (100, 120, 60, 60)) == 1, 'a new one'
    table[40:60, 40:60] = 255 - table[40:60, 40:60]
    assert robot.looks(noisy(table, 4), LEFT, RIGHT) == 1, 'one that has changed'
    robot.clock.now += LONGEST_S
    assert robot.looks(noisy(table, 5), LEFT, RIGHT) == 2, 'now and then all'


def test_a_box_that_shows_another_part_of_the_same_picture_is_looked_at(table):
    memory, features = RegionMemory(Clock()), np.eye(2, 4, dtype=np.float32)
    known = as_boxes([LEFT, RIGHT])
    memory.keep(table, known, features, memory.recall(table, known, 'network'))
    x, y, width, height = LEFT
    moved = as_boxes([RIGHT, (x + width / 8, y, width, height)])
    right, left = memory.recall(table, moved, 'network')
    assert right is not None
    assert right.feature.tolist() == features[1].tolist()
    assert left is None, 'it overlaps with what was seen, but is not the same'
    assert memory.recalled == 1


def test_a_moving_robot_looks_at_all(robot, table):
    for step in range(4):
        moved = np.roll(table, 5 * step, axis=1)
        boxes = [(x + 5 * step, y, width, height) for x, y, width, height in (LEFT, RIGHT)]
        assert robot.looks(moved, *boxes) == 2


@pytest.mark.parametrize('what', ['a new head', 'another backbone', 'a larger image'])
def test_what_another_network_saw_is_not_recalled(robot, table, what):
    assert robot.looks(table, LEFT, RIGHT) == 2
    update = {k: v for k, v in robot.base.state.items() if k.startswith('head.')}
    if what == 'another backbone':
        name = next(k for k, v in robot.base.state.items() if v.ndim == 4)
        update[name] = robot.base.state[name] * np.float32(1.01)
    if what == 'a larger image':
        table = np.concatenate([table, table[:16]])
    else:
        sent = travelling(robot.base, update)
        robot.live.swap(robot.live.prepare(1, robot.base.spec.classes, *sent))
    assert robot.looks(table, LEFT, RIGHT) == (0 if what == 'a new head' else 2)
