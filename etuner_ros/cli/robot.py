# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner doctor`, `models`, `watch`, `healthy` and `fetch-proposer`: for who runs a robot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from etuner_ros.cli.numbers import positive, whole
from etuner_ros.shared.answers import answer

MOST_VERSION = 2**32 - 1  # uint32 in the services


def add(commands: Any) -> None:
    """Add the commands."""
    doctor = commands.add_parser('doctor', help='find what usually goes wrong; 1 = something is')
    doctor.add_argument('--image-topic', default='image_raw', help="the camera's topic")
    doctor.add_argument('--namespace', default='', help='namespace of the robot')
    doctor.add_argument('--offline', action='store_true', help='leave the running graph out')
    doctor.add_argument(
        '--clean',
        action='store_true',
        help='remove what DDS left in shared memory: files of this user that no process maps',
    )
    doctor.set_defaults(run=_doctor)

    models = commands.add_parser('models', help='list, swap, pin or export versions of weights')
    steps = models.add_subparsers(required=True, dest='action', metavar='ACTION')
    steps.add_parser('list', help='the stored versions')
    steps.add_parser('roll-back', help='make the parent of the live version live')
    for name, text in (
        ('swap', 'make a version live'),
        ('pin', 'keep a version for ever'),
        ('unpin', 'keep a version no longer than others'),
    ):
        steps.add_parser(name, help=text).add_argument('version', type=_version)
    write = steps.add_parser('export', help='write a version for other programs')
    write.add_argument('version', type=_version)
    write.add_argument('path', type=Path)
    write.add_argument('--format', default='torch', choices=('torch', 'onnx'))
    write.add_argument('--folder', type=Path, help='store; default: that of the running robot')
    for name, text in (('freeze', 'freeze layers'), ('thaw', 'thaw layers')):
        layers = steps.add_parser(name, help=text)
        layers.add_argument('names', nargs='+', help='names or patterns such as block1*')
        layers.add_argument('--pin', action='store_true', help='SimFreeze may not change them')
    for step in steps.choices.values():
        step.add_argument('--node', default='/model_manager', help='name of the node')
    models.set_defaults(run=_models)

    fetch = commands.add_parser(
        'fetch-proposer', help='fetch the SSD that says where things may be (npm, 32 MB)'
    )
    fetch.set_defaults(run=_fetch_proposer)

    watch = commands.add_parser('watch', help='a live view of a running robot')
    watch.add_argument('--namespace', default='', help='namespace of the robot')
    watch.add_argument(
        '--count', type=whole(0), default=0, help='stop after so many seconds; 0 = never'
    )
    watch.set_defaults(run=_watch)

    healthy = commands.add_parser(
        'healthy', help='is inference alive, for programs that start it anew; 1 = it is not'
    )
    healthy.add_argument('--namespace', default='', help='namespace of the robot')
    healthy.add_argument('--node', default='inference', help='name of the node')
    healthy.add_argument('--timeout-s', type=positive, default=10.0, help='wait so long, in s')
    healthy.set_defaults(run=_healthy)


def _version(text: str) -> int:
    """Read the number of a version, as messages have room for it."""
    if not (text.isascii() and text.isdigit() and int(text) <= MOST_VERSION):
        raise argparse.ArgumentTypeError(
            f"a version is a number from 0 to {MOST_VERSION}, not '{text}'"
        )
    return int(text)


def _doctor(arguments: argparse.Namespace) -> int:
    import json
    import os

    from etuner_ros.cli import doctor
    from etuner_ros.shared.shared_memory import clean

    removed = clean(os.getuid()) if arguments.clean else []
    found = doctor.examine(arguments.image_topic, not arguments.offline, arguments.namespace)
    if arguments.json:
        rows = [vars(f) for f in found]
        print(json.dumps({'findings': rows, 'removed': [str(p) for p in removed]}, indent=1))
    else:
        marks = {doctor.OK: '✔', doctor.WARNING: '!', doctor.ERROR: '✘', doctor.SKIPPED: '-'}
        if arguments.clean:
            print(f'{len(removed)} segments of shared memory removed')
        for finding in found:
            print(f'{marks[finding.state]} {finding.check}: {finding.text}')
            if finding.advice:
                print(f'    {finding.advice}')
    return int(any(f.state == doctor.ERROR for f in found))


def _models(arguments: argparse.Namespace) -> int:
    from etuner_ros.cli.remote import models

    return models(arguments)


def _watch(arguments: argparse.Namespace) -> int:
    from etuner_ros.cli.remote import watch

    return watch(arguments.namespace, arguments.json, arguments.count)


def _healthy(arguments: argparse.Namespace) -> int:
    from etuner_ros.cli.healthy import healthy

    return healthy(arguments.namespace, arguments.node, arguments.timeout_s, arguments.json)


def _fetch_proposer(arguments: argparse.Namespace) -> int:
    from etuner_ros.core.boxes.ssd_file import fetch

    path = fetch()
    answer(arguments.json, f'the proposer ssd lies in {path}', {'file': path})
    return 0
