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
from etuner_ros.core.serve.graph_store import graph_path, KINDS


def travelling(base: BaseWeights, update: State) -> tuple[bytearray, str, str, bytearray]:
    """Return a version as it travels: head, its SHA-256, digest of the backbone, the backbone."""
    head, backbone = head_of(update), backbone_of(update)
    data = bytearray(pack(head)) if head else bytearray()
    digest = backbone_digest(base.sha256, backbone)
    return data, sha256(data), digest, bytearray(pack(backbone)) if backbone else bytearray()


def make_graphs(architecture: str, *sizes: int) -> None:
    """
    Make the graphs of an architecture here where no test has: in processes of their own, as robots
    have them made, each would load torch first.
    """
    from etuner_ros.core.serve import graph

    for size in sizes:
        if not all(graph_path(architecture, size, kind).exists() for kind in KINDS):
            graph.main(architecture, size)
