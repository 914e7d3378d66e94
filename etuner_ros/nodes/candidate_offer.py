# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The weights of the candidate that waits for its verdict, for `model_manager` to fetch."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.rate_limit import RateLimit
from etuner_ros.msg import ModelCandidate
from etuner_ros.nodes.messages import to_bytes
from etuner_ros.nodes.pieces import PieceServer, Source


class CandidateOffer:
    """
    Takes weights out of a candidate that would fill a slow link, and serves them in pieces.

    Serves `~/get_candidate`.

    :param fetching: called with each piece that is asked for
    """

    def __init__(self, node: Node, limit: RateLimit, fetching: Callable[[], None]) -> None:
        self._fetching = fetching
        self.drop()
        PieceServer(node, '~/get_candidate', limit, self._find)

    def hold(self, candidate: ModelCandidate, deflated: bytes) -> None:
        """
        Have the weights of a candidate fetched.

        :param deflated: the same, smaller; empty to leave them in the message
        """
        if deflated:
            self._digest, self._whole = candidate.sha256, bytes(candidate.weights)
            self._deflated = deflated
            candidate.weights = to_bytes(b'')

    def drop(self) -> None:
        """Nobody will ask any longer."""
        self._digest, self._whole, self._deflated = '', b'', b''

    def _find(self, digest: str, far: bool) -> Source:
        if not digest or digest != self._digest:
            raise WeightsError(f'no candidate {digest[:12]} waits for its verdict')
        self._fetching()
        return Source.of(self._deflated if far else self._whole)
