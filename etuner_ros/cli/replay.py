# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner replay`: learn again from a recording, and say what that would have brought."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
import tempfile
import time
from typing import Any

from etuner_ros.shared.answers import answer, shown


def add(commands: Any) -> None:
    """Add the command."""
    replay = commands.add_parser(
        'replay',
        help='learn again from a recording of images and labels, without ROS and faster than real '
        'time; 1 = nothing could be learned',
    )
    option = replay.add_argument
    option('bag', type=Path, help='rosbag2 recording, its folder or file (config/record.txt)')
    option(
        '--labels-from',
        default='labels',
        choices=('labels', 'ground_truth'),
        help='what people said (labels, labelled_batches), or the recorded truth in their place',
    )
    option('--every', type=int, default=8, help='of the truth, one frame in so many is labelled')
    option('--image-topic', default='', help='default: image_raw, else the first one')
    option('--source', default='camera', help='name of the camera pipeline (`camera_name`)')
    option(
        '--params-file',
        type=Path,
        action='append',
        default=[],
        help="parameters that win over the package's config/etuner.yaml, as in the launch",
    )
    option(
        '--weights',
        default='',
        help='base weights (`etuner deploy`) to begin with; default: as the parameters say',
    )
    option('--input-size', type=int, help='side of the square input, of pretrained weights')
    option('--output', type=Path, help='write what was learned as base weights (.safetensors)')
    option('--picture', type=Path, help='write a picture of it (.png, .svg)')
    replay.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay; return 1 when no label could be learned."""
    from etuner_ros.bench.shipped import parameters_file
    from etuner_ros.cli.targets import check_target
    from etuner_ros.core.errors import ConfigError
    from etuner_ros.core.images.labelled import check_input_size
    from etuner_ros.core.models.base_weights import check_name, prepare, write_base
    from etuner_ros.core.models.weights import read_base
    from etuner_ros.offline.recording import LearningBag
    from etuner_ros.offline.report import check_picture, facts, picture, round_line, text
    from etuner_ros.offline.robot import OfflineRobot
    from etuner_ros.offline.settings import read_settings

    if arguments.output is not None:
        check_name(arguments.output)
        check_target(arguments.output)
    if arguments.picture is not None:
        check_picture(arguments.picture)
        check_target(arguments.picture)
    if arguments.every < 1:
        raise ConfigError(f'--every must be at least 1, got {arguments.every}')
    if arguments.input_size is not None:
        check_input_size('--input-size', arguments.input_size)

    def say(line: str) -> None:
        if not arguments.json:
            print(line, file=sys.stderr, flush=True)

    settings = read_settings([parameters_file(), *arguments.params_file])
    bag = LearningBag(
        arguments.bag,
        arguments.image_topic,
        arguments.source,
        arguments.labels_from == 'ground_truth',
        arguments.every,
        say,
    )
    base = prepare(
        settings.architecture,
        settings.input_size if arguments.input_size is None else arguments.input_size,
        arguments.weights or settings.weights,
    )
    say(f'{bag.seconds / 60:.1f} min of {bag.images}, labels of {", ".join(bag.labels)}')
    if bag.said:
        say(bag.said)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        robot = OfflineRobot(
            read_base(base), settings, Path(folder), lambda ended: say(round_line(ended))
        )
        try:
            for seconds, event in shown(bag, 'learning', bag.count):
                robot.take(seconds, event)
            robot.finish()
            found = facts(bag, robot, time.perf_counter() - began)
            try:
                if arguments.output is not None:
                    write_base(arguments.output, robot.weights())
                    found['weights'] = str(arguments.output.resolve())
            finally:  # it took hours to find
                answer(arguments.json, text(found), found)
            if arguments.picture is not None:
                picture(arguments.picture, robot.learned, bag.seconds)
        finally:
            robot.close()
    return 0 if found['labels'] else 1
