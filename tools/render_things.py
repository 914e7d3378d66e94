#!/usr/bin/env python3
# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Render the recorded stream with many things in each picture (needs pybullet, `make stream-things`).

A camera drives by what lies about in four places, twice each; between the visits things are
moved and some exchanged. The result is a rosbag2 recording (sqlite3, 10 Hz) with
`image_raw/compressed`, `region_truth` (the box around what is visible of each thing, from the
renderer's mask; its score is the visible share) and `ground_truth` (the place, and the thing that
fills most of the picture), the same for the same seed.

`--second` makes a recording of other kinds in other places, which is not shipped: settings are
searched on it.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
import shutil
import sys
import tempfile
from typing import Any

import cv2
import numpy as np
from render_stream import REPOSITORY, START_NS, VIDEO_PERIOD_NS
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from stream_places import Array, KNOWN, NEW, SECOND, SECOND_NEW
from stream_things import Drive, FRAMES, MAIN_PLACES, SEARCH_PLACES, Seen, Shot

MAIN_SEED, SEARCH_SEED = 41, 43


def write_bag(path: Path, shots: list[Shot], codes: list[bytes]) -> None:
    """Write a rosbag2 recording that Humble and later can play."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name in ('Box', 'Region', 'Regions', 'GroundTruth'):
        definition = (REPOSITORY / 'msg' / f'{name}.msg').read_text()
        store.register(get_types_from_msg(definition, f'etuner_ros/msg/{name}'))
    types = store.types
    topics = {
        'region_truth': 'etuner_ros/msg/Regions',
        'ground_truth': 'etuner_ros/msg/GroundTruth',
        'image_raw/compressed': 'sensor_msgs/msg/CompressedImage',
    }
    shutil.rmtree(path, ignore_errors=True)
    with Writer(path, version=8, storage_plugin=StoragePlugin.SQLITE3) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in topics.items()
        }
        for index, (shot, code) in enumerate(zip(shots, codes, strict=True)):
            stamp = START_NS + index * VIDEO_PERIOD_NS
            time = types['builtin_interfaces/msg/Time'](sec=stamp // 10**9, nanosec=stamp % 10**9)
            header = types['std_msgs/msg/Header'](stamp=time, frame_id='camera_optical_frame')
            most = max(shot.seen, key=lambda s: s.box[2] * s.box[3] * s.share, default=None)
            messages: dict[str, dict[str, Any]] = {
                'region_truth': {
                    'source': '',
                    'regions': [_region(types, seen) for seen in shot.seen],
                },
                'ground_truth': {'label': most.kind if most else '', 'scenario': shot.place},
                'image_raw/compressed': {'format': 'jpeg', 'data': np.frombuffer(code, np.uint8)},
            }
            for topic, fields in messages.items():
                message = types[topics[topic]](header=header, **fields)
                writer.write(
                    connections[topic], stamp, store.serialize_cdr(message, topics[topic])
                )


def _region(types: Any, seen: Seen) -> Any:
    x, y, width, height = seen.box
    box = types['etuner_ros/msg/Box'](x=x, y=y, width=width, height=height)
    return types['etuner_ros/msg/Region'](box=box, score=seen.share, label=seen.kind)


def sheet(shots: list[Shot], columns: int = 4, rows: int = 6) -> Array:
    """Draw boxes and names into pictures from the whole of a recording; BGR uint8."""
    pictures = []
    for shot in shots[:: max(1, len(shots) // (columns * rows))][: columns * rows]:
        picture = cv2.resize(shot.image[..., ::-1], None, fx=1.5, fy=1.5)
        for seen in shot.seen:
            x, y, width, height = (round(1.5 * v) for v in seen.box)
            colour = (0, 255, 255) if seen.share >= 0.3 else (255, 0, 255)
            cv2.rectangle(picture, (x, y), (x + width - 1, y + height - 1), colour, 1)
            text = f'{seen.kind} {seen.share:.2f}'
            cv2.putText(picture, text, (x + 2, y + 11), cv2.FONT_HERSHEY_SIMPLEX, 0.35, colour, 1)
        pictures.append(picture)
    pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
    return np.vstack(
        [np.hstack(pictures[i : i + columns]) for i in range(0, len(pictures), columns)]
    )


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument(
        '--output',
        type=Path,
        help='folder of the recording; default: config/stream_things, or recordings/things_search',
    )
    parser.add_argument('--seed', type=int, help='default: another one for each recording')
    parser.add_argument('--quality', type=int, default=78, help='JPEG quality')
    parser.add_argument('--frames', type=int, default=FRAMES, help='of a visit')
    parser.add_argument('--sheet', type=Path, help='also write a picture of frames with boxes')
    parser.add_argument('--second', action='store_true', help='other kinds in other places')
    arguments = parser.parse_args()
    output = arguments.output or REPOSITORY / (
        'recordings/things_search' if arguments.second else 'config/stream_things'
    )
    seed = arguments.seed
    if seed is None:
        seed = SEARCH_SEED if arguments.second else MAIN_SEED
    kinds = (SECOND, SECOND_NEW) if arguments.second else (KNOWN, NEW)
    places = SEARCH_PLACES if arguments.second else MAIN_PLACES
    shots: list[Shot] = []
    with tempfile.TemporaryDirectory() as folder:
        drive = Drive(Path(folder), np.random.default_rng(seed), places, *kinds)
        for visit in drive.visits(arguments.frames):
            shots += visit
            print(f'{len(shots)} frames', file=sys.stderr)
        drive.close()
    codes = []
    for shot in shots:
        ok, code = cv2.imencode(
            '.jpg', shot.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, arguments.quality]
        )
        assert ok
        codes.append(code.tobytes())
    write_bag(output, shots, codes)
    if arguments.sheet:
        cv2.imwrite(str(arguments.sheet), sheet(shots))
    digest = hashlib.sha256()
    for shot, data in zip(shots, codes, strict=True):
        digest.update(data + repr(shot.seen).encode())
    things = [sum(seen.share >= 0.3 for seen in shot.seen) for shot in shots]
    print(
        f'{len(shots)} frames, {sum(things) / len(things):.1f} things a frame '
        f'({np.mean([3 <= n <= 6 for n in things]):.0%} of frames with 3 to 6), '
        f'{sum(map(len, codes)) / 1e6:.1f} MB of JPEG, sha256 {digest.hexdigest()[:16]}, '
        f'in {output}'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
