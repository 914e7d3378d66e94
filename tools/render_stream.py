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
import hashlib
import itertools
import math
from pathlib import Path
import shutil
import sys
import tempfile

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from stream_places import Array, Kind, Scenario, SCENARIOS, SECOND, SECOND_NEW
from stream_studio import CLIP, Studio

Frame = tuple[str, str, bytes, Array]  # scenario, kind, JPEG, RGB uint8 (S, S, 3)
REPOSITORY = Path(__file__).resolve().parent.parent
FRAME_PERIOD_NS = 500_000_000  # the robot looks at something new twice a second
VIDEO_PERIOD_NS = 100_000_000
LONG_FRAMES, VIDEO_FRAMES = 720, 480  # of a scenario; of one of its two visits
STILL_SHARE, CLIP_SHARE = 0.035, 0.02  # of the pixels that have to show the object
START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z


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
                for tries in itertools.count():
                    if clips:  # what is small is looked at from nearer, or it would take for ever
                        images, share = studio.clip(scenario, kind, max(0.6, 0.96**tries))
                    else:
                        image, share = studio.frame(scenario, kind)
                        images = [image]
                    mark = thumbnail(images[len(images) // 2])
                    copied = bool(seen) and float(np.max(np.stack(seen) @ mark)) > 0.985
                    if share > (CLIP_SHARE if clips else STILL_SHARE) and not copied:
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
