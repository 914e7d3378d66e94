# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Large things go out in pieces, at a rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from etuner_ros.core.computer import this_computer
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.models.base_download import PIECE
from etuner_ros.core.rate_limit import RateLimit
from etuner_ros.nodes.messages import answered, to_bytes
from etuner_ros.nodes.timers import steady_timer
from etuner_ros.srv import GetModel


async def turn(node: Node, limit: RateLimit, size: int) -> None:
    """
    Wait until something may be sent.

    For services in a reentrant group: the node goes on meanwhile.

    :param size: of what is sent, in bytes
    """
    wait = limit.spend(size)
    if wait <= 0:
        return
    future: Future = Future()

    def now() -> None:
        timer.cancel()
        future.set_result(None)

    timer = steady_timer(node, wait, now)
    await future
    node.destroy_timer(timer)


@dataclass(frozen=True)
class Source:
    """Bytes that somebody may ask for."""

    size: int
    read: Callable[[int, int], bytes]  # so many bytes at most from an offset on

    @staticmethod
    def of(data: bytes) -> Source:
        """Return bytes in memory as a source."""
        return Source(len(data), lambda offset, length: data[offset : offset + length])


class PieceServer:
    """
    Answers a GetModel service.

    :param find: returns the source of what a digest names, and whether it is asked for from
        another computer; raises EtunerError or OSError when it is not there
    """

    def __init__(
        self, node: Node, name: str, limit: RateLimit, find: Callable[[str, bool], Source]
    ) -> None:
        self._node, self._limit, self._find = node, limit, find
        # In a group of its own: an answer that waits would keep all other callbacks waiting.
        group = ReentrantCallbackGroup()
        self.service = node.create_service(GetModel, name, self._on_get, callback_group=group)

    async def _on_get(self, request: GetModel.Request, response: GetModel.Response) -> Any:
        far = not request.computer or request.computer != this_computer()
        most = min(request.length or PIECE, PIECE)
        try:
            source = self._find(request.sha256, far)
            if not 0 <= request.offset < source.size:
                text = f'there are {source.size} bytes'
                return answered(response, response.BAD_RANGE, text)
            data = source.read(request.offset, self._limit.piece(most) if far else most)
        except (EtunerError, OSError) as error:
            return answered(response, response.UNKNOWN, str(error))
        if far:
            await turn(self._node, self._limit, len(data))
        response.size, response.data = source.size, to_bytes(data)
        return response
