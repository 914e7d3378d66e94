# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner demo`: play a recording, and watch the robot learn."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add the command."""
    demo = commands.add_parser(
        'demo', help='play the recorded stream and watch the robot learn from corrections'
    )
    demo.add_argument(
        '--output',
        type=Path,
        default=Path('demo_output'),
        help='folder for the page, the logs and the stores; emptied first',
    )
    demo.add_argument(
        '--seed', type=int, default=0, help="seed of the operator's choices and of the training"
    )
    demo.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        help='several runs, one after the other, and a table over all',
    )
    demo.add_argument('--rate', type=float, default=0.0, help='pictures per second; 0 = 7, or 10')
    demo.add_argument(
        '--things', action='store_true', help='things in boxes, taught one by one by pointing'
    )
    demo.add_argument(
        '--gap-s', type=float, default=1.0, help='between two taps, with --things, in s'
    )
    demo.add_argument(
        '--stream',
        type=Path,
        help='another recording with ground truth; default: the one that comes with the package',
    )
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Play the recording, with scenarios or with things."""
    if arguments.things:
        from etuner_ros.demo.things import run_things

        rate = arguments.rate or 10.0
        shown = arguments.output, arguments.seed, rate, arguments.gap_s, arguments.stream
        return run_things(*shown, arguments.json)
    from etuner_ros.demo.run import run_demo

    return run_demo(
        arguments.output,
        arguments.seeds or [arguments.seed],
        arguments.rate or 7.0,
        arguments.stream,
        arguments.json,
    )
