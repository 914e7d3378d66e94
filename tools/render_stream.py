#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Render the recorded stream that ships with the package (needs pybullet, see `make stream`).

Every frame is its own small scene: one object of a known kind on a floor before walls, lit,
cluttered, partly hidden and photographed as its scenario says. The mesh of a kind is one; variety
comes from anisotropic scale, joint angles, tint, surface pattern, pose and camera. The result is a
rosbag2 recording (sqlite3) with `image_raw/compressed` and `ground_truth`, the same for the same
seed.

`--long` makes a longer recording of other pictures, which is not shipped; `--video` one whose
frames follow each other as those of a camera do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
import hashlib
import math
from pathlib import Path
import shutil
import sys
import tempfile

import cv2
import numpy as np
import pybullet as bullet
import pybullet_data
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

Array = np.ndarray
Frame = tuple[str, str, bytes, Array]  # scenario, kind, JPEG, RGB uint8 (S, S, 3)
REPOSITORY = Path(__file__).resolve().parent.parent
RENDER_SIZE = 320  # px; halved before it is stored, because the renderer does not antialias
FRAME_PERIOD_NS = 500_000_000  # the robot looks at something new twice a second
VIDEO_PERIOD_NS = 100_000_000
LONG_FRAMES, VIDEO_FRAMES = 720, 480  # of a scenario; of one of its two visits
CLIP = 12  # frames of a video in which the camera glides over one scene
WIDER = 1.25  # how much wider than a still such a scene is rendered
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


@dataclass(frozen=True)
class Kind:
    """One kind of object: where its mesh is and how a person would see it stand."""

    name: str
    source: str  # an OBJ mesh, a URDF or an SDF of pybullet_data
    upright: tuple[float, float, float] = (0.0, 0.0, 0.0)  # roll, pitch, yaw in rad
    colours: tuple[tuple[float, float, float], ...] = ()  # tints; empty keeps the mesh's own
    tumble: float = 0.15  # rad; how far it may lean
    joints: float = 0.0  # rad; random joint angles around zero
    front: float | None = (
        None  # rad; azimuth of the side by which a person names it, None when any side will do
    )


CHEERFUL = (
    (0.95, 0.2, 0.2),
    (0.2, 0.45, 0.9),
    (0.2, 0.7, 0.3),
    (0.95, 0.8, 0.2),
    (0.95, 0.95, 0.95),
    (0.6, 0.3, 0.7),
)
BROWNS = (
    (0.75, 0.5, 0.3),
    (0.55, 0.35, 0.2),
    (0.9, 0.75, 0.55),
    (0.85, 0.45, 0.45),
    (0.8, 0.8, 0.78),
)
KNOWN = (
    Kind(
        'duck',
        'duck.obj',
        (math.pi / 2, 0, 0),
        ((1, 1, 1), (1, 0.8, 0.7), (0.8, 1, 0.7), (1, 0.95, 0.75)),
    ),
    Kind('teddy_bear', 'teddy2_VHACD_CHs.obj', (math.pi / 2, 0, 0), BROWNS),
    Kind('mug', 'objects/mug.obj', (0, 0, 0), CHEERFUL),
    Kind(
        'soccer_ball',
        'soccerball.obj',
        (0, 0, 0),
        ((1, 1, 1), (1, 0.9, 0.7), (0.8, 0.95, 1), (1, 0.75, 0.75)),
        3.1,
    ),
    Kind('lego_brick', 'lego/lego.obj', (math.pi / 2, 0, 0), CHEERFUL, 0.35),
    Kind('race_car', 'racecar/racecar.urdf', joints=0.3),
    Kind('r2d2', 'r2d2.urdf', joints=0.4),
    Kind(
        'domino',
        'domino/domino.obj',
        (0, 0, 0),
        ((1, 1, 1), (1, 0.9, 0.75), (0.8, 0.9, 1), (0.85, 1, 0.85)),
        0.3,
        front=-math.pi / 2,
    ),
    Kind(
        'tray',
        'tray/tray_textured.obj',
        (0, 0, 0),
        ((1, 1, 1), (1, 0.8, 0.6), (0.7, 0.85, 1), (0.8, 1, 0.8)),
        0.25,
    ),
    Kind(
        'table',
        'table/table.urdf',
        colours=((1, 1, 1), (0.75, 0.5, 0.35), (0.9, 0.9, 0.95), (0.6, 0.75, 0.6)),
        tumble=0.05,
    ),
    Kind('robot_arm', 'kuka_iiwa/model.urdf', tumble=0.05, joints=0.9),
    Kind(
        'shelf',
        'kiva_shelf/model.sdf',
        colours=((1, 1, 1), (0.6, 0.75, 0.95), (0.95, 0.6, 0.4), (0.8, 0.8, 0.8)),
        tumble=0.05,
    ),
)
NEW = (
    Kind('rover', 'husky/husky.urdf', joints=0.3),
    Kind(
        'rabbit',
        'bunny.obj',
        (math.pi / 2, 0, 0),
        ((0.95, 0.93, 0.9), (0.6, 0.45, 0.35), (0.75, 0.75, 0.78), (0.95, 0.8, 0.7)),
    ),
    Kind('robot_dog', 'aliengo/aliengo.urdf', joints=0.45),
)

# Other things, for a second stream that settings are searched on and that no report shows. Two
# of them join in each scenario after the first (NIC).
SECOND = (
    Kind('bicycle', 'bicycle/bike.urdf', tumble=0.05),
    Kind('temple', 'samurai.urdf', tumble=0.05),
    Kind(
        'jenga_block',
        'jenga/jenga.obj',
        colours=((1, 1, 1), (1, 0.9, 0.75), (0.8, 0.7, 0.6)),
        tumble=0.4,
    ),
    Kind('panda_arm', 'franka_panda/panda.urdf', tumble=0.05, joints=0.8),
    Kind('cheetah', 'mini_cheetah/mini_cheetah.urdf', joints=0.4),
    Kind('gripper', 'pr2_gripper.urdf', joints=0.4, tumble=0.5),
    *(Kind(f'thing_{i}', f'random_urdfs/{i}/{i}.urdf', tumble=0.3) for i in ('000', '007', '021')),
    Kind('square_table', 'table_square/table_square.urdf', tumble=0.05),
    Kind('humanoid', 'humanoid/humanoid.urdf', (math.pi / 2, 0, 0), joints=0.6),
)
SECOND_NEW = (
    Kind('laikago', 'laikago/laikago_toes_zup.urdf', joints=0.4),
    Kind('minitaur', 'quadruped/minitaur.urdf', joints=0.5),
    Kind('gear', 'differential/diff_ring.urdf', tumble=0.5),
    *(
        Kind(f'thing_{i}', f'random_urdfs/{i}/{i}.urdf', tumble=0.3)
        for i in ('104', '233', '377', '512', '640')
    ),
)


@dataclass(frozen=True)
class Scenario:
    """How one place looks: ranges are (low, high), drawn anew for each frame."""

    name: str
    floors: tuple[str, ...]
    walls: tuple[str, ...]
    ambient: tuple[float, float]
    diffuse: tuple[float, float]
    distance: tuple[float, float]  # of the camera, in object sizes
    clutter: tuple[int, int]  # other things in view
    occluders: tuple[int, int] = (0, 0)  # things before the object
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)  # colour
    sun: tuple[float, float] = (0.6, 1.3)  # elevation in rad
    gain: tuple[float, float] = (0.95, 1.1)
    noise: float = 0.008
    blur: tuple[float, float] = (0.0, 0.0)  # px of motion
    kinds: tuple[Kind, ...] = field(default=KNOWN)
    frames: int = 330


SCENARIOS = (
    Scenario(
        'workshop',
        ('planks', 'desk'),
        ('plaster',),
        (0.55, 0.65),
        (0.55, 0.7),
        (1.2, 1.5),
        (0, 1),
        frames=360,
    ),
    Scenario(
        'warehouse',
        ('concrete', 'pallets'),
        ('brick', 'crates'),
        (0.3, 0.4),
        (0.4, 0.6),
        (1.3, 1.75),
        (2, 4),
        (0, 1),
        light=(1.0, 0.8, 0.55),
        sun=(0.3, 0.7),
        gain=(1.0, 1.4),
        noise=0.03,
        blur=(0, 3),
    ),
    Scenario(
        'market',
        ('tiles', 'checks'),
        ('posters', 'fruit'),
        (0.6, 0.8),
        (0.5, 0.7),
        (1.2, 1.6),
        (5, 8),
        (0, 1),
        light=(1.0, 0.96, 1.0),
        gain=(0.75, 1.0),
        noise=0.015,
        kinds=KNOWN + NEW,
    ),
    Scenario(
        'garden',
        ('grass', 'gravel'),
        ('hedge', 'sky'),
        (0.35, 0.45),
        (0.9, 1.2),
        (1.4, 2.0),
        (1, 3),
        (1, 2),
        light=(1.0, 0.97, 0.82),
        sun=(0.35, 1.0),
        gain=(1.05, 1.4),
        noise=0.012,
        blur=(0, 2),
    ),
    Scenario(
        'night',
        ('carpet', 'asphalt'),
        ('neon', 'plaster'),
        (0.28, 0.4),
        (0.3, 0.5),
        (1.25, 1.8),
        (1, 4),
        (0, 1),
        light=(0.55, 0.7, 1.0),
        sun=(0.2, 0.6),
        gain=(0.85, 1.25),
        noise=0.045,
        blur=(0, 4),
    ),
)


def _noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Smooth noise in [0, 1], (size, size)."""
    small = rng.random((cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def surface(name: str, rng: np.random.Generator, size: int = 512) -> Array:
    """Draw one procedural surface; RGB uint8 (size, size, 3)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    grain = 0.6 * _noise(rng, size, 90) + 0.4 * _noise(rng, size, 250)
    patches = _noise(rng, size, 7)

    def mix(a: Array | tuple[float, ...], b: Array | tuple[float, ...], t: Array) -> Array:
        return (
            np.asarray(a, np.float32) * (1 - t[..., None])
            + np.asarray(b, np.float32) * t[..., None]
        )

    def shapes(
        count: int, low: int, high: int, ground: tuple[float, ...], round_only: bool = False
    ) -> Array:
        image = np.full((size, size, 3), ground, np.float32)
        for _ in range(count):
            colour = [float(c) for c in rng.uniform(0.1, 1.0, 3)]
            cx, cy, r = (
                int(v) for v in (rng.integers(size), rng.integers(size), rng.integers(low, high))
            )
            if round_only or rng.random() < 0.4:
                cv2.circle(image, (cx, cy), r, colour, -1, cv2.LINE_AA)
            else:
                cv2.rectangle(
                    image, (cx, cy), (cx + r * 2, cy + int(r * rng.uniform(0.5, 2.5))), colour, -1
                )
        return image

    k = rng.integers(5, 11)
    if name == 'planks':
        image = mix(
            (0.72, 0.55, 0.38), (0.6, 0.43, 0.27), 0.6 * grain + 0.4 * (np.floor(x * k) % 2)
        )
        image[(x * k) % 1 < 0.03] *= 0.5
    elif name == 'desk':
        image = mix((0.86, 0.84, 0.8), (0.78, 0.76, 0.72), grain)
    elif name == 'plaster':
        image = mix((0.83, 0.83, 0.82), (0.72, 0.72, 0.72), 0.5 * grain + 0.5 * patches)
    elif name == 'concrete':
        image = mix((0.58, 0.57, 0.55), (0.38, 0.37, 0.36), 0.4 * grain + 0.6 * patches)
    elif name == 'asphalt':
        image = mix((0.32, 0.32, 0.34), (0.16, 0.16, 0.18), grain)
    elif name == 'pallets':
        image = mix((0.7, 0.58, 0.4), (0.5, 0.38, 0.22), grain)
        image[(y * k) % 1 < 0.22] *= 0.35
    elif name == 'brick':
        row = np.floor(y * 2 * k)
        mortar = ((y * 2 * k) % 1 < 0.12) | ((x * k + 0.5 * (row % 2)) % 1 < 0.07)
        image = mix((0.68, 0.3, 0.22), (0.5, 0.22, 0.16), grain)
        image[mortar] = (0.72, 0.69, 0.65)
    elif name == 'crates':
        image = mix((0.66, 0.5, 0.3), (0.5, 0.36, 0.2), grain)
        image[((x * 4) % 1 < 0.08) | ((y * 4) % 1 < 0.08)] *= 0.4
        image[np.abs((x * 4) % 1 - (y * 4) % 1) < 0.06] *= 0.6
    elif name == 'tiles':
        a, b = rng.uniform(0.3, 1.0, 3), rng.uniform(0.5, 1.0, 3)
        image = mix(a, b, ((np.floor(x * k) + np.floor(y * k)) % 2).astype(np.float32))
        image[((x * k) % 1 < 0.04) | ((y * k) % 1 < 0.04)] = 0.9
    elif name == 'checks':
        a, b = rng.uniform(0.2, 1.0, 3), np.ones(3)
        image = mix(a, b, 0.5 * (np.floor(x * 2 * k) % 2) + 0.5 * (np.floor(y * 2 * k) % 2))
    elif name == 'posters':
        image = shapes(60, 12, 60, (0.9, 0.88, 0.8))
    elif name == 'fruit':
        image = shapes(260, 14, 34, (0.35, 0.25, 0.15), round_only=True)
    elif name == 'grass':
        blades = cv2.blur(rng.random((size, size)).astype(np.float32), (1, 9))
        image = mix(
            (0.2, 0.42, 0.12),
            (0.45, 0.66, 0.25),
            np.clip((blades - 0.3) * 2.2, 0, 1) * 0.7 + 0.3 * patches,
        )
    elif name == 'gravel':
        image = mix((0.75, 0.7, 0.62), (0.4, 0.37, 0.33), np.clip((grain - 0.3) * 2.5, 0, 1))
    elif name == 'hedge':
        image = mix((0.1, 0.26, 0.08), (0.36, 0.56, 0.2), np.clip((grain - 0.3) * 2.4, 0, 1))
    elif name == 'sky':
        image = mix((0.45, 0.66, 0.95), (0.97, 0.97, 0.98), np.clip(patches * 1.6 - 0.5, 0, 1))
    elif name == 'carpet':
        a, b = rng.uniform(0.15, 0.6, 3), rng.uniform(0.2, 0.7, 3)
        image = mix(
            a, b, 0.5 + 0.5 * np.sin(2 * np.pi * k * (x + 0.25 * np.sin(2 * np.pi * y * 3)))
        ) * (0.8 + 0.4 * grain[..., None])
    elif name == 'neon':
        image = np.full((size, size, 3), (0.12, 0.12, 0.16), np.float32)
        for _ in range(14):
            start, end = (tuple(int(v) for v in rng.integers(0, size, 2)) for _ in range(2))
            cv2.line(
                image,
                start,
                end,
                [float(c) for c in rng.choice([0.15, 1.0], 3)],
                int(rng.integers(4, 14)),
                cv2.LINE_AA,
            )
        image = cv2.GaussianBlur(image, (0, 0), 3)
    else:
        raise ValueError(f"no surface is called '{name}'")
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


class Studio:
    """A pybullet world in which one frame after the other is set up and photographed."""

    def __init__(self, folder: Path, rng: np.random.Generator) -> None:
        self._rng = rng
        self._client = bullet.connect(bullet.DIRECT)
        bullet.setAdditionalSearchPath(pybullet_data.getDataPath())
        quad = folder / 'quad.obj'
        quad.write_text(
            'v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvn 0 0 1\nf '
            '1/1/1 2/2/1 3/3/1\nf 1/1/1 3/3/1 4/4/1\n'
        )
        self._quad = str(quad)
        self._meshes: dict[str, Array] = {}
        self._textures: dict[str, list[int]] = {}
        for scenario in SCENARIOS:
            for name in scenario.floors + scenario.walls:
                if name not in self._textures:
                    self._textures[name] = [
                        self._texture(folder / f'{name}{i}.png', surface(name, rng))
                        for i in range(4)
                    ]

    @staticmethod
    def _texture(path: Path, image: Array) -> int:
        cv2.imwrite(str(path), image[..., ::-1])
        return int(bullet.loadTexture(str(path)))

    def close(self) -> None:
        """Free the world."""
        bullet.disconnect(self._client)

    def _uniform(self, bounds: tuple[float, float]) -> float:
        return float(self._rng.uniform(*bounds))

    def _object(self, kind: Kind, yaw: float) -> tuple[int, Array, Array]:
        """
        Load one object, turned by yaw (rad); return its body and the corners of its bounding box,
        (3,) each, in m.
        """
        rng = self._rng
        lean = rng.uniform(-kind.tumble, kind.tumble, 2)
        turned = bullet.getQuaternionFromEuler([lean[0], lean[1], yaw])
        pose = bullet.multiplyTransforms(
            [0, 0, 0], turned, [0, 0, 0], bullet.getQuaternionFromEuler(kind.upright)
        )[1]
        colour = (
            kind.colours[int(rng.integers(len(kind.colours)))] if kind.colours else (1.0, 1.0, 1.0)
        )
        tint = [*np.clip(np.asarray(colour) * rng.uniform(0.85, 1.15, 3), 0, 1), 1.0]
        if kind.source.endswith('.obj'):
            scale = rng.uniform(0.85, 1.18, 3) * 0.1
            if kind.name == 'soccer_ball':
                scale[:] = scale[0]
            shape = bullet.createVisualShape(
                bullet.GEOM_MESH, fileName=kind.source, meshScale=scale.tolist(), rgbaColor=tint
            )
            turn = np.asarray(bullet.getMatrixFromQuaternion(pose)).reshape(3, 3)
            points = (self._vertices(kind.source) * scale) @ turn.T
            return (
                int(bullet.createMultiBody(0, -1, shape, baseOrientation=pose)),
                points.min(axis=0),
                points.max(axis=0),
            )
        scaling = self._uniform((0.8, 1.2))
        if kind.source.endswith('.sdf'):
            body = bullet.loadSDF(kind.source, globalScaling=scaling)[0]
            bullet.resetBasePositionAndOrientation(body, [0, 0, 0], pose)
        else:
            body = bullet.loadURDF(
                kind.source, [0, 0, 0], pose, useFixedBase=True, globalScaling=scaling
            )
        for joint in range(bullet.getNumJoints(body)):
            if bullet.getJointInfo(body, joint)[2] in (
                bullet.JOINT_REVOLUTE,
                bullet.JOINT_PRISMATIC,
            ):
                reach = (
                    kind.joints
                    if bullet.getJointInfo(body, joint)[2] == bullet.JOINT_REVOLUTE
                    else 0.0
                )
                bullet.resetJointState(
                    body, joint, self._uniform((-reach, reach)) if reach else 0.0
                )
        for link, *_, own in [(s[1], s[7]) for s in bullet.getVisualShapeData(body)]:
            shade = np.asarray(own[:3]) * np.asarray(colour) * rng.uniform(0.75, 1.2, 3)
            bullet.changeVisualShape(body, link, rgbaColor=[*np.clip(shade, 0, 1), 1.0])
        corners = [
            np.asarray(bullet.getAABB(body, link)) for link in range(-1, bullet.getNumJoints(body))
        ]
        corners = [c for c in corners if np.all(np.isfinite(c)) and np.ptp(c) > 1e-4]
        corners.append(
            np.zeros((2, 3))
        )  # the feet of what stands on its origin are not always collision shapes
        return (
            int(body),
            np.min([c[0] for c in corners], axis=0),
            np.max([c[1] for c in corners], axis=0),
        )

    def _vertices(self, source: str) -> Array:
        """Return the vertices of an OBJ file, (n, 3), in its own unit."""
        if source not in self._meshes:
            lines = (
                (Path(pybullet_data.getDataPath()) / source)
                .read_text(errors='replace')
                .splitlines()
            )
            self._meshes[source] = np.asarray(
                [line.split()[1:4] for line in lines if line.startswith('v ')], np.float64
            )
        return self._meshes[source]

    def _sheet(
        self, texture: str, centre: Array, half: float, euler: tuple[float, float, float]
    ) -> int:
        shape = bullet.createVisualShape(
            bullet.GEOM_MESH, fileName=self._quad, meshScale=[half, half, 1]
        )
        body = bullet.createMultiBody(
            0,
            -1,
            shape,
            basePosition=centre.tolist(),
            baseOrientation=bullet.getQuaternionFromEuler(euler),
        )
        pool = self._textures[texture]
        bullet.changeVisualShape(
            body, -1, textureUniqueId=pool[int(self._rng.integers(len(pool)))]
        )
        return int(body)

    def _thing(self, centre: Array, size: float, flat: bool = False) -> int:
        """Put a nameless box, cylinder or ball into the scene."""
        rng = self._rng
        colour = [*rng.uniform(0.1, 0.95, 3), 1.0]
        which = 0 if flat else int(rng.integers(3))
        if which == 0:
            half = (rng.uniform(0.3, 1.0, 3) * size / 2).tolist()
            if flat:
                half = [size * 0.05, size * 0.05, size]
            shape = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=half, rgbaColor=colour)
        elif which == 1:
            shape = bullet.createVisualShape(
                bullet.GEOM_CYLINDER,
                radius=size * self._uniform((0.2, 0.4)),
                length=size * self._uniform((0.4, 1.1)),
                rgbaColor=colour,
            )
        else:
            shape = bullet.createVisualShape(
                bullet.GEOM_SPHERE, radius=size * self._uniform((0.25, 0.45)), rgbaColor=colour
            )
        turn = bullet.getQuaternionFromEuler(
            [0, self._uniform((-0.25, 0.25)) if flat else 0, self._uniform((0, 6.28))]
        )
        return int(
            bullet.createMultiBody(
                0, -1, shape, basePosition=centre.tolist(), baseOrientation=turn
            )
        )

    def frame(self, scenario: Scenario, kind: Kind) -> tuple[Array, float]:
        """
        Photograph one scene; return RGB uint8 (S, S, 3) and the object's share of the pixels in
        [0, 1].
        """
        image, mask = self._scene(scenario, kind)
        return self._expose(image, scenario, self._lens(scenario)), float(mask.mean())

    def clip(self, scenario: Scenario, kind: Kind) -> tuple[list[Array], float]:
        """
        Film one scene, rendered once and seen through a window that glides and zooms; return
        `CLIP` frames, RGB uint8 (S, S, 3), and the object's smallest share of their pixels in
        [0, 1].
        """
        image, mask = self._scene(scenario, kind, WIDER)
        lens, side = self._lens(scenario), image.shape[0]
        zoom = self._rng.uniform(0.9, 1.1, 2) * RENDER_SIZE  # of the first and the last window
        room = (side - zoom) / 2
        aim = self._rng.uniform(-0.9, 0.9, (2, 2)) * room[:, None]
        frames, shares = [], []
        for step in (1 - np.cos(np.linspace(0, math.pi, CLIP))) / 2:  # starts and stops gently
            width = zoom[0] + step * (zoom[1] - zoom[0])
            corner = side / 2 + aim[0] + step * (aim[1] - aim[0]) - width / 2
            window = np.array(
                [[width, 0, corner[0] * RENDER_SIZE], [0, width, corner[1] * RENDER_SIZE]]
            )
            window /= RENDER_SIZE
            seen, hit = (
                np.asarray(
                    cv2.warpAffine(
                        a.astype(np.float32),
                        window,
                        (RENDER_SIZE, RENDER_SIZE),
                        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                        borderMode=cv2.BORDER_REPLICATE,
                    )
                )
                for a in (image, mask)
            )
            frames.append(self._expose(seen, scenario, lens))
            shares.append(float(hit.mean()))
        return frames, min(shares)

    def _scene(self, scenario: Scenario, kind: Kind, wider: float = 1.0) -> tuple[Array, Array]:
        """
        Set up and render one scene; return RGB (n, n, 3) in [0, 1] and which pixels show the
        object, (n, n), n being `RENDER_SIZE` times `wider`.
        """
        rng = self._rng
        yaw, azimuth = rng.uniform(-math.pi, math.pi, 2)
        if kind.front is not None:
            azimuth = yaw + kind.front + self._uniform((-0.9, 0.9))
        body, low, high = self._object(kind, yaw)
        centre, size = (low + high) / 2, float(np.linalg.norm(high - low))
        elevation = self._uniform((0.22, 0.75))
        towards = np.array(
            [
                math.cos(azimuth) * math.cos(elevation),
                math.sin(azimuth) * math.cos(elevation),
                math.sin(elevation),
            ]
        )
        distance = size * self._uniform(scenario.distance)
        eye = centre + distance * towards
        aside = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        ground = np.array([centre[0], centre[1], low[2]])
        back = -np.array([math.cos(azimuth), math.sin(azimuth), 0.0])

        bodies = [
            body,
            self._sheet(
                self._pick(scenario.floors),
                ground - [0, 0, 0.004 * size],
                3.2 * size,
                (0, 0, azimuth),
            ),
        ]
        wall = ground + back * size * self._uniform((1.3, 2.2))
        bodies.append(
            self._sheet(self._pick(scenario.walls), wall, 3.2 * size, (0, math.pi / 2, azimuth))
        )
        for _ in range(int(rng.integers(scenario.clutter[0], scenario.clutter[1] + 1))):
            side = float(rng.choice([-1.0, 1.0])) * self._uniform((0.5, 1.3))
            spot = ground + size * (aside * side + back * self._uniform((-0.05, 1.0)))
            tall = size * self._uniform((0.2, 0.55))
            bodies.append(self._thing(spot + [0, 0, tall * 0.4], tall))
        for _ in range(int(rng.integers(scenario.occluders[0], scenario.occluders[1] + 1))):
            spot = (
                centre
                + towards * distance * self._uniform((0.3, 0.45))
                + aside * size * self._uniform((-0.33, 0.33))
            )
            bodies.append(self._thing(spot, size * 0.42, flat=True))

        look = centre + size * (
            aside * self._uniform((-0.12, 0.12)) + np.array([0, 0, self._uniform((-0.08, 0.08))])
        )
        up = np.array([0, 0, 1.0]) + aside * self._uniform((-0.12, 0.12))
        view = bullet.computeViewMatrix(eye.tolist(), look.tolist(), up.tolist())
        angle = 2 * math.degrees(math.atan(wider * math.tan(math.radians(23))))
        lens = bullet.computeProjectionMatrixFOV(angle, 1, size * 0.05, size * 12)
        pixels = round(RENDER_SIZE * wider)
        sun, around = self._uniform(scenario.sun), self._uniform((-1.4, 1.4)) + azimuth
        light = [math.cos(around) * math.cos(sun), math.sin(around) * math.cos(sun), math.sin(sun)]
        _, _, rgba, _, segments = bullet.getCameraImage(
            pixels,
            pixels,
            view,
            lens,
            shadow=1,
            renderer=bullet.ER_TINY_RENDERER,
            lightDirection=(np.asarray(light) * size * 10).tolist(),
            lightDistance=size * 10,
            lightColor=list(scenario.light),
            lightAmbientCoeff=self._uniform(scenario.ambient),
            lightDiffuseCoeff=self._uniform(scenario.diffuse),
            lightSpecularCoeff=self._uniform((0.0, 0.15)),
        )
        image = (
            np.asarray(rgba, np.uint8).reshape(pixels, pixels, 4)[..., :3].astype(np.float32) / 255
        )
        mask = np.asarray(segments).reshape(pixels, pixels) == body
        for other in bodies:
            bullet.removeBody(other)
        return self._wear(image, mask), mask

    def _pick(self, names: tuple[str, ...]) -> str:
        return names[int(self._rng.integers(len(names)))]

    def _wear(self, image: Array, mask: Array) -> Array:
        """Wear on the object's surface; image (n, n, 3) in [0, 1], mask (n, n)."""
        rng, side = self._rng, image.shape[0]
        wear = _noise(rng, side, int(rng.integers(4, 24))) - 0.5
        if rng.random() < 0.25:  # a printed pattern
            y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
            angle = self._uniform((0, math.pi))
            wear = (
                0.5
                * np.sign(
                    np.sin((x * math.cos(angle) + y * math.sin(angle)) * self._uniform((40, 110)))
                )
                * 0.7
            )
        return image * np.where(mask, 1 + wear * self._uniform((0.1, 0.5)), 1)[..., None]

    def _lens(self, scenario: Scenario) -> tuple[Array | None, Array]:
        """Return the kernel of motion, None for none, and the colour of the light (3,)."""
        kernel = None
        motion = int(round(self._uniform(scenario.blur)))
        if motion > 1:
            kernel = np.zeros((motion, motion), np.float32)
            kernel[motion // 2] = 1 / motion
            turn = cv2.getRotationMatrix2D(
                ((motion - 1) / 2, (motion - 1) / 2), self._uniform((0, 180)), 1
            )
            kernel = np.asarray(cv2.warpAffine(kernel, turn, (motion, motion)))
            kernel = kernel / max(kernel.sum(), 1e-6)
        balance = np.asarray(scenario.light) * self._rng.uniform(0.94, 1.06, 3)
        return kernel, balance * self._uniform(scenario.gain)

    def _expose(self, image: Array, scenario: Scenario, lens: tuple[Array | None, Array]) -> Array:
        """Return what lens and sensor make of (2 S, 2 S, 3) in [0, 1]; uint8 (S, S, 3)."""
        image = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        kernel, light = lens
        if kernel is not None:
            image = cv2.filter2D(image, -1, kernel)
        image = image * light
        image = image + self._rng.normal(0, scenario.noise, image.shape) * (
            0.5 + np.sqrt(np.clip(image, 0, 1))
        )
        return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def thumbnail(image: Array) -> Array:
    """Return a normalised 16 x 16 grey picture, by which near copies are found."""
    small: Array = (
        cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA)
        .astype(np.float32)
        .mean(axis=2)
        .ravel()
    )
    small = small - small.mean()
    return small / (np.linalg.norm(small) + 1e-6)


def render(
    seed: int,
    scenarios: tuple[Scenario, ...],
    quality: int,
    progress: Callable[[str], None],
    clips: bool = False,
) -> list[Frame]:
    """
    Return the frames of scenarios, one after the other.

    Kinds come in shuffled rounds, so each half of a scenario holds all of them.

    :param clips: `CLIP` frames of each scene, in which the camera glides, instead of one
    """
    rng = np.random.default_rng(seed)
    frames: list[Frame] = []
    seen: list[Array] = []
    each = CLIP if clips else 1
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Path(folder), rng)
        for scenario in scenarios:
            scenes = math.ceil(scenario.frames / each)
            order: list[Kind] = []
            while len(order) < scenes:
                order += [scenario.kinds[i] for i in rng.permutation(len(scenario.kinds))]
            for index, kind in enumerate(order[:scenes]):
                while True:
                    if clips:
                        images, share = studio.clip(scenario, kind)
                    else:
                        image, share = studio.frame(scenario, kind)
                        images = [image]
                    mark = thumbnail(images[len(images) // 2])
                    copied = bool(seen) and float(np.max(np.stack(seen) @ mark)) > 0.985
                    if share > 0.035 and not copied:
                        break
                seen.append(mark)
                for image in images[: scenario.frames - index * each]:
                    ok, code = cv2.imencode(
                        '.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality]
                    )
                    assert ok
                    frames.append((scenario.name, kind.name, code.tobytes(), image))
                if index % 30 == 29:
                    progress(f'{scenario.name}: {index + 1} of {scenes} scenes')
        studio.close()
    return frames


def write_bag(path: Path, frames: list[Frame], period_ns: int = FRAME_PERIOD_NS) -> None:
    """Write a rosbag2 recording that Humble and later can play."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    definition = (REPOSITORY / 'msg' / 'GroundTruth.msg').read_text()
    store.register(get_types_from_msg(definition, 'etuner_ros/msg/GroundTruth'))
    types = store.types
    if path.exists():
        shutil.rmtree(path)
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        images = writer.add_connection(
            'image_raw/compressed', 'sensor_msgs/msg/CompressedImage', typestore=store
        )
        truths = writer.add_connection(
            'ground_truth', 'etuner_ros/msg/GroundTruth', typestore=store
        )
        for index, (scenario, kind, code, _) in enumerate(frames):
            stamp = START_NS + index * period_ns
            time = types['builtin_interfaces/msg/Time'](sec=stamp // 10**9, nanosec=stamp % 10**9)
            header = types['std_msgs/msg/Header'](stamp=time, frame_id='camera_optical_frame')
            image = types['sensor_msgs/msg/CompressedImage'](
                header=header, format='jpeg', data=np.frombuffer(code, np.uint8)
            )
            truth = types['etuner_ros/msg/GroundTruth'](
                header=header, label=kind, scenario=scenario
            )
            writer.write(truths, stamp, store.serialize_cdr(truth, truths.msgtype))
            writer.write(images, stamp, store.serialize_cdr(image, images.msgtype))


def contact_sheet(path: Path, frames: list[Frame], per_kind: int = 1) -> None:
    """Write a picture with frames of each kind (columns) in each scenario (rows)."""
    rows = []
    for scenario in dict.fromkeys(f[0] for f in frames):
        for turn in range(per_kind):
            row = []
            for kind in dict.fromkeys(f[1] for f in frames):
                mine = [f[3] for f in frames if f[0] == scenario and f[1] == kind]
                picture = np.zeros_like(frames[0][3])
                if mine:
                    picture = mine[turn * len(mine) // per_kind].copy()
                cv2.putText(
                    picture,
                    kind,
                    (3, 12),
                    cv2.FONT_HERSHEY_SIMPLEX,
                    0.4,
                    (255, 255, 0),
                    1,
                    cv2.LINE_AA,
                )
                row.append(picture)
            rows.append(np.hstack(row))
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        '--output',
        type=Path,
        help='folder of the recording; default: config/stream, or recordings/<what it is>',
    )
    parser.add_argument('--seed', type=int, help='default: another one for each sort of recording')
    parser.add_argument('--quality', type=int, default=85, help='JPEG quality')
    parser.add_argument(
        '--frames',
        type=int,
        default=0,
        help='frames per scenario instead of the full number (for a look)',
    )
    parser.add_argument('--sheet', type=Path, help='also write a picture of sample frames')
    parser.add_argument(
        '--second', action='store_true', help='other kinds, two new ones in each later scenario'
    )
    sort = parser.add_mutually_exclusive_group()
    sort.add_argument(
        '--long', action='store_true', help=f'{LONG_FRAMES} frames a scenario of other scenes'
    )
    sort.add_argument(
        '--video',
        action='store_true',
        help=f'each place twice, {VIDEO_FRAMES} frames a visit, as a moving camera sees them',
    )
    arguments = parser.parse_args()
    name = 'long' if arguments.long else 'video' if arguments.video else ''
    output = arguments.output
    if output is None:
        parts = [p for p in (name, 'search' if arguments.second else '') if p]
        output = REPOSITORY / (f'recordings/{"_".join(parts)}' if parts else 'config/stream')
    seed = arguments.seed
    if seed is None:
        seed = {'': 7, 'long': 23, 'video': 31}[name] + (4 if arguments.second else 0)
    scenarios: tuple[Scenario, ...] = SCENARIOS
    if arguments.second:
        scenarios = tuple(
            Scenario(**{**vars(s), 'kinds': SECOND + SECOND_NEW[: 2 * i]})
            for i, s in enumerate(SCENARIOS)
        )
    frames_each = arguments.frames or {'': 0, 'long': LONG_FRAMES, 'video': VIDEO_FRAMES}[name]
    if frames_each:
        scenarios = tuple(Scenario(**{**vars(s), 'frames': frames_each}) for s in scenarios)
    if arguments.video:  # back to each place, in another order, never straight from itself
        scenarios += tuple(scenarios[i] for i in (2, 0, 3, 1, 4))
    frames = render(
        seed,
        scenarios,
        arguments.quality,
        lambda line: print(line, file=sys.stderr),
        arguments.video,
    )
    write_bag(output, frames, VIDEO_PERIOD_NS if arguments.video else FRAME_PERIOD_NS)
    if arguments.sheet:
        contact_sheet(arguments.sheet, frames, per_kind=2)
    size = sum(len(f[2]) for f in frames)
    digest = hashlib.sha256(b''.join(f[2] for f in frames)).hexdigest()
    print(f'{len(frames)} frames, {size / 1e6:.1f} MB of JPEG, sha256 {digest[:16]}, in {output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
