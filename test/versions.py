# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Versions of weights for tests; no ROS."""

from __future__ import annotations

from etuner_ros.core.models.store import head_of
from etuner_ros.core.models.weights import (
    backbone_digest,
    backbone_of,
    BaseWeights,
    pack,
    sha256,
    State,
)


def travelling(base: BaseWeights, update: State) -> tuple[bytearray, str, str, bytearray]:
    """Return a version as it travels: head, its SHA-256, digest of the backbone, the backbone."""
    head, backbone = head_of(update), backbone_of(update)
    data = bytearray(pack(head)) if head else bytearray()
    digest = backbone_digest(base.sha256, backbone)
    return data, sha256(data), digest, bytearray(pack(backbone)) if backbone else bytearray()
