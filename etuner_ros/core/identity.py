# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What things are called that several parts talk about."""

from __future__ import annotations

from typing import NamedTuple


class Scenario(NamedTuple):
    """
    The surroundings of one camera: they are counted from 0 for each camera.

    >>> Scenario('front', 2) in {Scenario('front', 2), Scenario('rear', 0)}
    True
    """

    camera: str  # name of the pipeline, `source` in messages
    number: int


DEPLOYED = Scenario('', -1)  # of the samples that a model was deployed with
