# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A place in pybullet in which many things lie about, and a camera that drives by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pybullet as bullet
from stream_places import Array, Kind, Scenario, SCENARIOS
from stream_studio import Studio

WIDTH, HEIGHT = 320, 240  # px of a stored picture; rendered at twice that
FRAMES = 80  # of a visit
THINGS, NEWCOMERS = 21, 5  # in a place; of its second visit, in the stead of as many others
SPEED = 0.056  # m from frame to frame: 0.56 m/s at 10 Hz
LENS = 42.0  # degrees from the upper to the lower edge
LARGE = ('table', 'robot_arm', 'shelf', 'bicycle', 'temple', 'humanoid', 'panda_arm')
SUN_M = 7.0  # how far away the light stands
BESIDE_M = 1.0  # things lie beyond both ends of the way, too


@dataclass(frozen=True)
class Thing:
    """One thing of a place: its kind, and the seed of what makes it differ from its like."""

    kind: Kind
    seed: int
    size: float  # diagonal of its bounding box, m


class Placed(NamedTuple):
    """A thing and its spot."""

    thing: Thing
    yaw: float  # rad
    scale: float
    x: float  # m
    y: float


@dataclass(frozen=True)
class Seen:
    """A thing in a picture."""

    kind: str
    box: tuple[float, float, float, float]  # x, y, width, height of what is visible, px
    share: float  # of it that is visible, (0, 1]


@dataclass(frozen=True)
class Shot:
    """One picture of a drive."""

    place: str
    image: Array  # RGB uint8, (HEIGHT, WIDTH, 3)
    seen: tuple[Seen, ...]


_PLACES = {s.name: s for s in SCENARIOS}
MAIN_PLACES = (
    replace(_PLACES['workshop'], noise=0.005, clutter=(8, 10)),
    replace(_PLACES['warehouse'], noise=0.009, clutter=(12, 15), gain=(1.2, 1.5)),
    replace(_PLACES['market'], noise=0.006, clutter=(15, 18)),
    replace(_PLACES['garden'], noise=0.006, clutter=(10, 14), gain=(0.8, 1.0)),
)
SEARCH_PLACES = (
    replace(MAIN_PLACES[0], name='lounge', floors=('carpet',), walls=('posters',)),
    replace(MAIN_PLACES[1], name='street', floors=('asphalt',), walls=('brick', 'neon')),
    replace(MAIN_PLACES[2], name='canteen', floors=('checks',), walls=('fruit', 'crates')),
    replace(MAIN_PLACES[3], name='court', floors=('gravel',), walls=('sky', 'brick')),
)
BACK = (2, 0, 3, 1)  # the order of the second visits


class Drive(Studio):
    """
    Films drives past the things of a place.

    :param places: each is visited twice; the second time its things lie elsewhere, and some have
        been exchanged for ones of kinds that were not there before
    """

    def __init__(
        self,
        folder: Path,
        rng: np.random.Generator,
        places: tuple[Scenario, ...],
        known: tuple[Kind, ...],
        new: tuple[Kind, ...],
    ) -> None:
        super().__init__(folder, rng, places)
        self._places = places
        order = self._shuffled(known, THINGS * len(places))
        newcomers = self._shuffled(new, NEWCOMERS * len(places))
        self._things = [order[i * THINGS : (i + 1) * THINGS] for i in range(len(places))]
        self._newcomers = [
            newcomers[i * NEWCOMERS : (i + 1) * NEWCOMERS] for i in range(len(places))
        ]

    def _shuffled(self, kinds: tuple[Kind, ...], count: int) -> list[Thing]:
        """Return things of all kinds in shuffled rounds."""
        chosen: list[Kind] = []
        while len(chosen) < count:
            chosen += [kinds[i] for i in self._rng.permutation(len(kinds))]
        return [
            Thing(
                kind,
                int(self._rng.integers(2**31)),
                self._uniform((0.6, 0.78) if kind.name in LARGE else (0.38, 0.55)),
            )
            for kind in chosen[:count]
        ]

    def visits(self, frames: int) -> Iterator[list[Shot]]:
        """Yield the pictures of one visit after the other, so many each."""
        count = len(self._places)
        for number, place in enumerate((*range(count), *(p for p in BACK if p < count))):
            if number:
                self.close()
                self._open()
            things = list(self._things[place])
            if number >= count:
                for new in self._newcomers[place]:
                    things[int(self._rng.integers(len(things)))] = new
            yield self._visit(self._places[place], things, frames)

    def _visit(self, place: Scenario, things: list[Thing], frames: int) -> list[Shot]:
        """Lay things out anew and film them."""
        length = SPEED * frames
        path = self._path(frames, length)
        spots: list[tuple[float, float, float]] = []
        placed = [
            self._place(things[i], spots, length) for i in self._rng.permutation(len(things))
        ]
        whole = np.stack([self._whole(thing, path) for thing in placed], 1)
        lying = [self._lay(thing) for thing in placed]
        self._furnish(place, length)
        for _ in range(int(self._rng.integers(place.clutter[0], place.clutter[1] + 1))):
            size = self._uniform((0.12, 0.4))
            x, y = self._free(spots, size * 0.45, length, (-0.3, 1.2))
            self._thing(np.array([x, y, size * 0.3]), size)
        exposure, light = self._lens(place), self._light(place)
        shots = []
        for eye, sizes in zip(path, whole, strict=True):
            image, bodies = self._shoot(eye, 1.0, light)
            seen = [
                Seen(spot.thing.kind.name, box, min(1.0, count / max(size, 1.0)))
                for spot, body, size in zip(placed, lying, sizes, strict=True)
                for box, count in [_extent(bodies == body)]
                if count
            ]
            shots.append(Shot(place.name, self._expose(image, place, exposure), tuple(seen)))
        return shots

    def _furnish(self, place: Scenario, length: float) -> None:
        """Put floor and wall beside a way of so many metres, and flat things on the floor."""
        floor, wall = self._pick(place.floors), self._pick(place.walls)
        for x in np.arange(-length / 2 - 2, length / 2 + 3, 2.0):
            self._sheet(floor, np.array([x, 0.75, 0.0]), 1.0, (0, 0, 0))
            self._sheet(floor, np.array([x, -1.25, 0.0]), 1.0, (0, 0, 0))
            self._sheet(wall, np.array([x, 1.6, 1.0]), 1.0, (math.pi / 2, 0, 0))
        for number in range(5):  # mats and papers
            x, y = self._uniform((-length / 2, length / 2)), self._uniform((-0.3, 1.0))
            self._sheet(
                self._pick(tuple(self._surfaces)),
                np.array([x, y, 0.002 * (number + 1)]),
                self._uniform((0.1, 0.4)),
                (0, 0, self._uniform((0, math.pi))),
            )

    def _place(
        self, thing: Thing, spots: list[tuple[float, float, float]], length: float
    ) -> Placed:
        """Find a spot for a thing, which is added to spots."""
        yaw = self._uniform((-math.pi, math.pi))
        if thing.kind.front is not None:  # that side towards the camera
            yaw = -math.pi / 2 - thing.kind.front + self._uniform((-0.9, 0.9))
        body, low, high = self._made(thing, yaw, 1.0)
        bullet.removeBody(body)
        scale = thing.size / float(np.linalg.norm(high - low))
        x, y = self._free(spots, scale * float(max((high - low)[:2])) / 2, length, (-0.3, 0.95))
        return Placed(thing, yaw, scale, x, y)

    def _made(self, thing: Thing, yaw: float, scale: float) -> tuple[int, Array, Array]:
        """Load a thing as its seed has it; see `_object`."""
        chance, self._rng = self._rng, np.random.default_rng(thing.seed)
        try:
            return self._object(thing.kind, yaw, scale)
        finally:
            self._rng = chance

    def _lay(self, placed: Placed) -> int:
        """Put a thing into its spot; return its body."""
        body, low, high = self._made(placed.thing, placed.yaw, placed.scale)
        middle = (low + high) / 2
        base, turn = bullet.getBasePositionAndOrientation(body)
        base = np.asarray(base) + [placed.x - middle[0], placed.y - middle[1], -low[2]]
        bullet.resetBasePositionAndOrientation(body, base.tolist(), turn)
        return body

    def _whole(self, placed: Placed, path: list[Array]) -> Array:
        """
        Return how many pixels would show a thing were nothing before it and the picture large
        enough, for each picture; in an empty world, because what is in it costs time.
        """
        body = self._lay(placed)
        counts = [
            4 * np.count_nonzero(self._shoot(eye, 2.0)[1] == body)
            if abs(placed.x - eye[1, 0]) < 2.0
            else 0
            for eye in path
        ]
        bullet.removeBody(body)
        return np.asarray(counts, np.float64)

    def _free(
        self,
        spots: list[tuple[float, float, float]],
        radius: float,
        length: float,
        depth: tuple[float, float],
    ) -> tuple[float, float]:
        """Find a spot beside the others, and add it; things come closer when there is no room."""
        for tries in range(10_000):
            x = self._uniform((-length / 2 - BESIDE_M, length / 2 + BESIDE_M))
            y = self._uniform(depth)
            near = 0.999**tries
            if all(math.hypot(x - u, y - v) > near * (radius + r) for u, v, r in spots):
                spots.append((x, y, radius))
                return x, y
        raise RuntimeError('there is no room for another thing')

    def _path(self, frames: int, length: float) -> list[Array]:
        """Return where the camera is and what it looks at, (2, 3) each, m."""
        way = np.linspace(-length / 2, length / 2, frames) * self._rng.choice([-1.0, 1.0])
        distance, height = self._uniform((0.95, 1.2)), self._uniform((0.55, 0.95))
        time = np.arange(frames) / 10  # s

        def sway(reach: float) -> Array:
            return reach * np.sin(
                2 * math.pi * (time / self._uniform((3, 7)) + self._uniform((0, 1)))
            )

        eye = [way, -distance + sway(0.12), height + sway(0.06)]
        look = [way + sway(0.25), 0.3 + 0 * time, 0.12 + sway(0.05)]
        return list(np.stack([np.stack(eye, 1), np.stack(look, 1)], 1))

    def _light(self, place: Scenario) -> dict[str, object]:
        sun, around = self._uniform(place.sun), self._uniform((-2.6, -0.5))
        towards = (math.cos(around) * math.cos(sun), math.sin(around) * math.cos(sun))
        return {
            'shadow': 1,
            'lightDirection': [SUN_M * c for c in (*towards, math.sin(sun))],
            'lightDistance': SUN_M,
            'lightColor': list(place.light),
            'lightAmbientCoeff': self._uniform(place.ambient),
            'lightDiffuseCoeff': self._uniform(place.diffuse),
            'lightSpecularCoeff': self._uniform((0.0, 0.15)),
        }

    def _shoot(
        self, eye: Array, wider: float, light: dict[str, object] | None = None
    ) -> tuple[Array, Array]:
        """
        Photograph what is there.

        :param wider: how much wider than a picture
        :return: RGB (2 HEIGHT, 2 WIDTH, 3) in [0, 1], and the body that each pixel shows
        """
        angle = 2 * math.degrees(math.atan(wider * math.tan(math.radians(LENS / 2))))
        _, _, rgba, _, bodies = bullet.getCameraImage(
            2 * WIDTH,
            2 * HEIGHT,
            bullet.computeViewMatrix(eye[0].tolist(), eye[1].tolist(), [0, 0, 1]),
            bullet.computeProjectionMatrixFOV(angle, WIDTH / HEIGHT, 0.1, 12),
            renderer=bullet.ER_TINY_RENDERER,
            **(light or {'shadow': 0}),
        )
        shape = (2 * HEIGHT, 2 * WIDTH)
        image = np.asarray(rgba, np.uint8).reshape(*shape, 4)[..., :3].astype(np.float32) / 255
        return image, np.asarray(bodies).reshape(shape)


def _extent(mask: Array) -> tuple[tuple[float, float, float, float], int]:
    """
    Return the box around the pixels of a rendered mask, in px of a stored picture, and how
    many they are.
    """
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0), 0
    left, top = columns.min() / 2, rows.min() / 2
    width, height = (columns.max() + 1) / 2 - left, (rows.max() + 1) / 2 - top
    return (float(left), float(top), float(width), float(height)), len(rows)
