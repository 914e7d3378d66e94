# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where things may be in an image: what every proposer answers, and which ones there are."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from etuner_ros.core.boxes.geometry import as_boxes, Boxes, Floats
from etuner_ros.core.errors import EngineError
from etuner_ros.core.images.codec import Image

MOST = 20  # boxes of an image
KINDS = ('ssd', 'own')  # the one that is preferred first


class Proposals(NamedTuple):
    """Boxes in which things may be, n of them, the best first."""

    boxes: Boxes  # (n, 4), inside of the image
    scores: Floats  # (n,), in [0, 1]
    labels: tuple[str, ...]  # n, what the proposer takes them for; '' where it does not say


NONE = Proposals(as_boxes(()), np.zeros(0, np.float32), ())


class Proposer(Protocol):
    """Says where things may be."""

    name: str

    def propose(self, image: Image, most: int = MOST) -> Proposals:
        """
        Return at most so many boxes.

        :param image: RGB uint8, (H, W, 3)
        :raises EngineError: when what it runs on fails
        """
        ...


def available(own: Path) -> dict[str, str]:
    """
    Return which proposers there are, the best first, and why the others can't be used.

    :param own: the file that ships with the package
    :return: a reason for each name; empty when it can be used
    """
    found = {}
    for kind in KINDS:
        try:
            _make(kind, own, 1)
            found[kind] = ''
        except EngineError as error:
            found[kind] = str(error)
    return found


def make_proposer(kind: str, own: Path, threads: int = 1) -> Proposer:
    """
    Return a proposer.

    :param kind: one of `KINDS`, or auto: the first of them that can be used
    :param own: the file that ships with the package
    :raises EngineError: when it can't be used
    """
    if kind != 'auto':
        return _make(kind, own, threads)
    reasons = []
    for each in KINDS:
        try:
            return _make(each, own, threads)
        except EngineError as error:
            reasons.append(str(error))
    raise EngineError('; '.join(reasons))


def _make(kind: str, own: Path, threads: int) -> Proposer:
    if kind == 'ssd':
        from etuner_ros.core.boxes import ssd, ssd_file

        model, labels = ssd_file.read()
        return ssd.SsdProposer(model, labels, threads)
    if kind == 'own':
        from etuner_ros.core.boxes.dense import DenseProposer

        try:
            return DenseProposer(own.read_bytes(), threads)
        except OSError as error:
            raise EngineError(f'the file of the proposer own is missing: {own}') from error
    raise EngineError(f"there is no proposer '{kind}', only {', '.join(KINDS)}")
