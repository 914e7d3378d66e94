# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Numbers on the command line, refused in a sentence where they make no sense."""

from __future__ import annotations

import argparse
from collections.abc import Callable
import math


def whole(least: int) -> Callable[[str], int]:
    """Return what reads a whole number that is at least so large."""

    def read(text: str) -> int:
        if (number := int(text)) < least:
            raise argparse.ArgumentTypeError(f'at least {least}, got {text}')
        return number

    read.__name__ = 'whole number'  # what argparse calls it where it is none
    return read


def positive(text: str) -> float:
    """Return a number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f'above 0, got {text}')
    return number


positive.__name__ = 'number'
