# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a source has to be for its pictures to be learned from: one that knows labels."""

from __future__ import annotations

from etuner_ros.core.errors import ConfigError, ImageError
from etuner_ros.core.names import is_printable

LEAST_PIXELS, MOST_PIXELS = 32, 1024  # of a network's input, as the parameter model.input_size


def check_source(source: str) -> None:
    """
    Look whether a source can know labels, before it is opened.

    :raises ImageError: when it is none, or a camera, whose pictures never end
    """
    wanted = 'a folder <label>/*.jpg or a recording with ground truth'
    if not source.strip():
        raise ImageError(f'the source is empty; give {wanted}')
    if source.isdigit() or source.startswith('/dev/'):
        raise ImageError(f"the camera '{source}' knows no labels; give {wanted}")


def check_label(label: str, source: str) -> None:
    """
    Look whether a label can be sent in a message and shown; names of folders need not.

    :raises ImageError: when it can not
    """
    if not is_printable(label):  # half a character is what Python makes of bytes that are no UTF-8
        kind = 'not UTF-8' if any('\ud800' <= c <= '\udfff' for c in label) else 'not printable'
        raise ImageError(
            f"'{source}' has a label or folder {ascii(label)}, whose name is {kind}, so that "
            f'nothing can be called so; rename it'
        )


def check_input_size(name: str, side: int) -> None:
    """
    Look whether a side of a network's square input is one that the nodes take.

    :param name: what the setting is called
    :raises ConfigError: when it is not
    """
    if not LEAST_PIXELS <= side <= MOST_PIXELS:
        raise ConfigError(f'{name} must be between {LEAST_PIXELS} and {MOST_PIXELS}, got {side}')
