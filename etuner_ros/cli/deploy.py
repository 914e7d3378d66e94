# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner deploy`: make base weights."""

from __future__ import annotations

import argparse
from pathlib import Path
import sys
from typing import Any

from etuner_ros.cli.numbers import whole
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import EtunerError
from etuner_ros.shared.answers import answer, shown


def add(commands: Any) -> None:
    """Add the command."""
    deploy = commands.add_parser(
        'deploy',
        help='make base weights: a pretrained network with a head fitted to labelled images',
    )
    deploy.add_argument(
        '--source',
        required=True,
        help='folder with one for each class, <class>/*.jpg, also below others such as rooms; or '
        'a recording with ground truth',
    )
    deploy.add_argument(
        '--image-topic', default='', help='of a recording; default: image_raw, else the first one'
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
        '--input-size', type=int, default=INPUT_SIZE, help='side of the square input, in px'
    )
    deploy.add_argument(
        '--weights',
        default='',
        help='state-dict file of the architecture instead of its pretrained weights',
    )
    deploy.add_argument(
        '--count', type=whole(0), default=0, help='use the first so many images only; 0 = all'
    )
    deploy.add_argument(
        '--exemplars',
        type=whole(0),
        default=10,
        help='images per class that travel with the weights for replay',
    )
    deploy.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Fit a head to labelled pictures, and write the base weights."""
    from etuner_ros.cli.targets import check_target
    from etuner_ros.core.images.codec import Image, resize_square
    from etuner_ros.core.images.labelled import check_input_size, check_label, check_source
    from etuner_ros.core.images.sources import open_source
    from etuner_ros.core.labels.spelling import composed
    from etuner_ros.core.models.base_weights import check_name, write_base
    from etuner_ros.core.models.deploy import choose_exemplars, fit_head
    from etuner_ros.core.models.networks import build, pretrained_spec
    from etuner_ros.core.models.weights import pack_base

    check_name(arguments.output)
    check_target(arguments.output)
    check_input_size('--input-size', arguments.input_size)
    check_source(arguments.source)
    source = open_source(arguments.source, arguments.image_topic)
    model = build(
        pretrained_spec(arguments.architecture, arguments.input_size),
        arguments.weights or 'pretrained',
    )
    images: list[Image] = []
    labels: list[str] = []
    for frame in shown(source, 'reading pictures'):
        if frame.label:
            check_label(frame.label, arguments.source)
        if frame.label and not (arguments.count and len(images) >= arguments.count):
            images.append(resize_square(frame.image, arguments.input_size))
            labels.append(composed(frame.label))
    if source.left_out:
        print(source.left_out, file=sys.stderr)
    if len(set(labels)) < 2:
        raise EtunerError(
            f"'{arguments.source}' holds {len(set(labels))} labelled classes, at least 2 are "
            f'needed: a folder for each, <class>/*.jpg'
        )
    accuracy = fit_head(model, images, labels)
    exemplars = choose_exemplars(images, labels, arguments.exemplars)
    write_base(arguments.output, pack_base(model.state(), model.spec, model.unit_sizes, exemplars))
    answer(
        arguments.json,
        f'{arguments.output}: {len(model.classes)} classes from {len(images)} images, '
        f'{100 * accuracy:.1f} % of them right (it was fitted to these: no measure of new ones)\n'
        f'use it with the parameter model.weights: {arguments.output.resolve()}',
        {'file': arguments.output, 'classes': model.classes, 'accuracy': accuracy},
    )
    return 0
