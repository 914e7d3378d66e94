# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kinds of objects and places of the rendered streams, and how their floors and walls look."""

from __future__ import annotations

from dataclasses import dataclass, field
import math

import cv2
import numpy as np

Array = np.ndarray


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


def noise(rng: np.random.Generator, size: int, cells: int) -> Array:
    """Return smooth noise in [0, 1], (size, size)."""
    small = rng.random((cells, cells)).astype(np.float32)
    return np.clip(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def surface(name: str, rng: np.random.Generator, size: int = 512) -> Array:
    """Draw one procedural surface; RGB uint8 (size, size, 3)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    grain = 0.6 * noise(rng, size, 90) + 0.4 * noise(rng, size, 250)
    patches = noise(rng, size, 7)

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
