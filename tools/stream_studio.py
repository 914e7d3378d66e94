# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A place in pybullet in which one scene after the other is set up, photographed or filmed."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pybullet as bullet
import pybullet_data
from stream_places import Array, Kind, noise, Scenario, SCENARIOS, surface

RENDER_SIZE = 320  # px; halved before it is stored, because the renderer does not antialias
CLIP = 12  # frames of a video in which the camera glides over one scene
WIDER = 1.25  # how much wider than a still such a scene is rendered
VARIANTS = 4  # of each floor and wall
SCENES_A_WORLD = 50  # then a new one: pybullet keeps meshes of removed bodies, up to 40 MB each


class Studio:
    """A pybullet world in which one frame after the other is set up and photographed."""

    def __init__(
        self,
        folder: Path,
        rng: np.random.Generator,
        scenarios: tuple[Scenario, ...] = SCENARIOS,
    ) -> None:
        self._rng = rng
        self._folder, self._scenes = folder, 0
        (folder / 'quad.obj').write_text(
            'v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nvn 0 0 1\nf '
            '1/1/1 2/2/1 3/3/1\nf 1/1/1 3/3/1 4/4/1\n'
        )
        self._quad = str(folder / 'quad.obj')
        self._meshes: dict[str, Array] = {}
        self._surfaces = list(dict.fromkeys(n for s in scenarios for n in s.floors + s.walls))
        for name in self._surfaces:
            for i in range(VARIANTS):
                cv2.imwrite(str(folder / f'{name}{i}.png'), surface(name, rng)[..., ::-1])
        self._open()

    def _open(self) -> None:
        """Begin with an empty world."""
        self._client = bullet.connect(bullet.DIRECT)
        bullet.setAdditionalSearchPath(pybullet_data.getDataPath())
        self._textures = {
            name: [
                int(bullet.loadTexture(str(self._folder / f'{name}{i}.png')))
                for i in range(VARIANTS)
            ]
            for name in self._surfaces
        }

    def close(self) -> None:
        """Free the world."""
        bullet.disconnect(self._client)

    def _uniform(self, bounds: tuple[float, float]) -> float:
        return float(self._rng.uniform(*bounds))

    def _object(self, kind: Kind, yaw: float, scale: float = 1.0) -> tuple[int, Array, Array]:
        """
        Load one object, turned by yaw (rad); return its body and the corners of its bounding box,
        (3,) each, in m.

        :param scale: times the size that its mesh has
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
            stretch = rng.uniform(0.85, 1.18, 3) * 0.1 * scale
            if kind.name == 'soccer_ball':
                stretch[:] = stretch[0]
            shape = bullet.createVisualShape(
                bullet.GEOM_MESH, fileName=kind.source, meshScale=stretch.tolist(), rgbaColor=tint
            )
            turn = np.asarray(bullet.getMatrixFromQuaternion(pose)).reshape(3, 3)
            points = (self._vertices(kind.source) * stretch) @ turn.T
            return (
                int(bullet.createMultiBody(0, -1, shape, baseOrientation=pose)),
                points.min(axis=0),
                points.max(axis=0),
            )
        scaling = self._uniform((0.8, 1.2)) * scale
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

    def clip(
        self, scenario: Scenario, kind: Kind, closer: float = 1.0
    ) -> tuple[list[Array], float]:
        """
        Film one scene, rendered once and seen through a window that glides and zooms; return
        `CLIP` frames, RGB uint8 (S, S, 3), and the object's smallest share of their pixels in
        [0, 1].

        :param closer: factor on the side of the window, (0, 1]
        """
        image, mask = self._scene(scenario, kind, WIDER)
        lens, side = self._lens(scenario), image.shape[0]
        zoom = (
            closer * self._rng.uniform(0.9, 1.1, 2) * RENDER_SIZE
        )  # of the first and the last window
        room = (side - zoom) / 2
        aim = self._rng.uniform(-0.9, 0.9, (2, 2)) * np.minimum(room, 0.125 * side)[:, None]
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
        self._scenes += 1
        if self._scenes % SCENES_A_WORLD == 0:
            self.close()
            self._open()
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
        wear = noise(rng, side, int(rng.integers(4, 24))) - 0.5
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
