# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command line `etuner`."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys

from etuner_ros import __version__
from etuner_ros.core.errors import EtunerError


def _deploy(arguments: argparse.Namespace) -> int:
    from etuner_ros.core.deploy import choose_exemplars
    from etuner_ros.core.deploy import fit_head
    from etuner_ros.core.files import replace_file
    from etuner_ros.core.frame_sources import open_source
    from etuner_ros.core.images import Image
    from etuner_ros.core.images import resize_square
    from etuner_ros.core.models import build
    from etuner_ros.core.models import pretrained_spec
    from etuner_ros.core.weights import pack_base

    model = build(
        pretrained_spec(arguments.architecture, arguments.input_size),
        arguments.weights or 'pretrained',
    )
    images: list[Image] = []
    labels: list[str] = []
    for frame in open_source(arguments.source):
        if frame.label and not (arguments.count and len(images) >= arguments.count):
            images.append(resize_square(frame.image, arguments.input_size))
            labels.append(frame.label)
    if len(set(labels)) < 2:
        raise EtunerError(
            f"'{arguments.source}' holds {len(set(labels))} labelled classes, at least 2 are "
            f'needed: <split>/<class>/*.jpg'
        )
    accuracy = fit_head(model, images, labels)
    exemplars = choose_exemplars(images, labels, arguments.exemplars)
    replace_file(
        arguments.output, pack_base(model.state(), model.spec, model.unit_sizes, exemplars)
    )
    print(
        f'{arguments.output}: {len(model.classes)} classes from {len(images)} images, '
        f'{100 * accuracy:.1f} % of them right'
    )
    print(f'use it with the parameter model.weights: {arguments.output.resolve()}')
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from etuner_ros.demo import run_demo

    return run_demo(
        arguments.output, arguments.seeds or [arguments.seed], arguments.rate, arguments.stream
    )


def _bench_costs(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.costs import measure
    from etuner_ros.bench.costs import table
    from etuner_ros.demo import recorded_stream

    stream = arguments.stream or recorded_stream()
    print(table(measure(stream, arguments.architecture, arguments.input_size, arguments.turns)))
    return 0


def _bench_scenarios(arguments: argparse.Namespace) -> int:
    from etuner_ros.bench.scenarios import HEADER
    from etuner_ros.bench.scenarios import measure
    from etuner_ros.demo import recorded_stream

    found = measure(arguments.stream or recorded_stream(), arguments.input_size, arguments.seeds)
    print(HEADER, *found, sep='\n')
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='etuner', description='Perception that keeps learning on the robot.'
    )
    parser.add_argument('--version', action='version', version=f'etuner_ros {__version__}')
    commands = parser.add_subparsers(required=True, metavar='COMMAND')

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
    demo.add_argument('--rate', type=float, default=7.0, help='pictures per second')
    demo.add_argument(
        '--stream',
        type=Path,
        help='another recording with ground truth; default: the one that comes with the package',
    )
    demo.set_defaults(run=_demo)

    deploy = commands.add_parser(
        'deploy',
        help='make base weights: a pretrained network with a head fitted to labelled images',
    )
    deploy.add_argument(
        '--source',
        required=True,
        help='folder <split>/<class>/*.jpg, or a recording with ground truth',
    )
    deploy.add_argument(
        '--output', type=Path, default=Path('base.safetensors'), help='file to write'
    )
    deploy.add_argument(
        '--architecture',
        default='efficientnet_lite0',
        help="efficientnet_lite0 or a torchvision classification model's name",
    )
    deploy.add_argument(
        '--input-size', type=int, default=128, help='side of the square input, in px'
    )
    deploy.add_argument(
        '--weights',
        default='',
        help='state-dict file of the architecture instead of its pretrained weights',
    )
    deploy.add_argument(
        '--count', type=int, default=0, help='use the first so many images only; 0 = all'
    )
    deploy.add_argument(
        '--exemplars',
        type=int,
        default=10,
        help='images per class that travel with the weights for replay',
    )
    deploy.set_defaults(run=_deploy)

    bench = commands.add_parser('bench', help='measure the core, without ROS')
    benches = bench.add_subparsers(required=True, metavar='WHAT')
    costs = benches.add_parser(
        'costs', help='what probes, cache and instant head cost, side by side on one thread'
    )
    costs.add_argument(
        '--stream',
        type=Path,
        help='recording or folder of labelled pictures; default: the recording of the package',
    )
    costs.add_argument(
        '--architecture',
        default='efficientnet_lite0',
        help="efficientnet_lite0 or a torchvision classification model's name",
    )
    costs.add_argument(
        '--input-size', type=int, default=128, help='side of the square input, in px'
    )
    costs.add_argument('--turns', type=int, default=15, help='turns that the median is taken of')
    costs.set_defaults(run=_bench_costs)

    scenarios = benches.add_parser(
        'scenarios', help='how soon changes of scenario are found, and how often there is none'
    )
    scenarios.add_argument(
        '--stream',
        type=Path,
        help='recording, or folder <scenario>/<kind>/*.jpg; default: the recording of the package',
    )
    scenarios.add_argument(
        '--input-size', type=int, default=128, help='side of the square input, in px'
    )
    scenarios.add_argument('--seeds', type=int, default=5, help='orders of the frames')
    scenarios.set_defaults(run=_bench_scenarios)

    parsed = parser.parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except EtunerError as error:
        print(f'etuner: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
