# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fetches base weights that this node does not have from `model_manager`, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import time
from typing import Any

from rclpy.node import Node

from etuner_ros.core.files import replace_file
from etuner_ros.core.models.base_weights import cached
from etuner_ros.core.models.weights import sha256
from etuner_ros.srv import GetModel

PIECE = 4 * 1024 * 1024  # bytes
ANSWER_TIMEOUT_S = 10.0
LARGEST = 4 * 1024**3  # bytes; a claim beyond this is not believed


class BaseFetcher:
    """
    Fetches into the cache; one fetch at a time.

    :param done: called in the executor with the file, or None when it failed
    """

    def __init__(self, node: Node, done: Callable[[Path | None], None]) -> None:
        self._node, self._done = node, done
        self._client = node.create_client(GetModel, 'model_manager/get_model')
        self._digest, self._data = '', bytearray()
        self._asked = 0.0
        self._future: Any = None

    @property
    def busy(self) -> bool:
        """Whether a fetch is under way; one that gets no answer counts for some seconds only."""
        return bool(self._digest) and time.monotonic() - self._asked < ANSWER_TIMEOUT_S

    def fetch(self, digest: str) -> None:
        """Fetch base weights, unless the cache has them."""
        if self.busy:
            return
        if cached(digest).exists():
            self._done(cached(digest))
            return
        self._node.get_logger().info(f'fetching base weights {digest[:12]} from model_manager')
        self._digest, self._data = digest, bytearray()
        self._ask()

    def _ask(self) -> None:
        request = GetModel.Request(base_sha256=self._digest, offset=len(self._data), length=PIECE)
        self._asked = time.monotonic()
        self._future = self._client.call_async(request)
        self._future.add_done_callback(self._on_piece)

    def _on_piece(self, future: Any) -> None:
        if future is not self._future:
            return  # of an attempt that was given up
        answer = future.result()
        if answer is None or answer.error_code or not answer.data or answer.size > LARGEST:
            self._finish(None, answer.error_msg if answer else 'model_manager did not answer')
            return
        self._data += bytes(answer.data)
        if len(self._data) < answer.size:
            self._ask()
            return
        data = bytes(self._data)
        if sha256(data) != self._digest:
            self._finish(None, 'the checksum of what arrived is wrong')
            return
        replace_file(cached(self._digest), data)
        self._finish(cached(self._digest), '')

    def _finish(self, path: Path | None, problem: str) -> None:
        self._digest, self._data = '', bytearray()
        if problem:
            self._node.get_logger().warning(f'base weights could not be fetched: {problem}')
        self._done(path)

    def close(self) -> None:
        """Let go of the client."""
        self._node.destroy_client(self._client)
