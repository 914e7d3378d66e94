# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fetches weights that this node does not have from another one, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.node import Node

from etuner_ros.core.computer import this_computer
from etuner_ros.core.files import replace_file
from etuner_ros.core.models.base_download import BaseDownload
from etuner_ros.core.models.base_weights import cached
from etuner_ros.core.models.weights import sha256
from etuner_ros.nodes.timers import steady_timer
from etuner_ros.srv import GetModel


class PieceFetcher:
    """
    Fetches one thing at a time; tries until it has it or another one is wanted.

    :param service: of type GetModel, as `node/service`
    :param what: is fetched, in words
    :param take: called in the executor with the digest and the bytes; when it raises OSError (a
        full disk, say) it is called again later, after anything else all is fetched again
    :param failed: called each time that an attempt failed
    :param named: whether the digest is that of the bytes
    """

    def __init__(
        self,
        node: Node,
        service: str,
        what: str,
        take: Callable[[str, bytes], None],
        failed: Callable[[], None] = lambda: None,
        named: bool = False,
    ) -> None:
        self._node, self._what, self._take, self._on_failed = node, what, take, failed
        self._named, self._from = named, service.partition('/')[0]
        self._client = node.create_client(GetModel, service)
        self._timer = steady_timer(node, 0.5, self._go_on)
        self._timer.cancel()  # until something is fetched
        self._download: BaseDownload | None = None
        self._whole = b''  # what came and could not be taken yet
        self._future: Any = None

    @property
    def quiet_s(self) -> float:
        """How long nothing of what is fetched has come, in s; 0 when nothing is fetched."""
        return self._download.quiet_s if self._download is not None else 0.0

    def fetch(self, digest: str) -> None:
        """Fetch what a digest names, '' = nothing; goes on when it is fetched already."""
        if self._download is not None and self._download.digest == digest:
            return
        self.stop()
        if not digest:
            return
        self._node.get_logger().info(f'fetching {self._what} {digest[:12]} from {self._from}')
        self._download = BaseDownload(digest, named=self._named)
        self._timer.reset()
        self._go_on()

    def stop(self) -> None:
        """Fetch no more: it is not wanted any longer."""
        self._timer.cancel()
        self._download = self._future = None
        self._whole = b''

    def _go_on(self) -> None:
        """Ask for the next piece when it is time to."""
        download = self._download
        if download is None or download.waits:
            return
        if self._whole:
            if download.due:
                self._hand_over(download)
            return
        if self._future is not None:
            self._client.remove_pending_request(self._future)
            self._failed(download, f'{self._from} does not answer')
            return
        offset = download.ask() if self._client.service_is_ready() else None
        if offset is None:
            return
        request = GetModel.Request(
            sha256=download.digest,
            offset=offset,
            length=download.length,
            computer=this_computer(),
        )
        self._future = self._client.call_async(request)
        self._future.add_done_callback(self._on_piece)

    def _on_piece(self, future: Any) -> None:
        download = self._download
        if future is not self._future or download is None:
            return  # of a question that was given up
        self._future = None
        try:
            answer = future.result()
            if answer is None or answer.error_code:
                raise ValueError(answer.error_msg if answer else f'{self._from} is gone')
            whole = download.take(bytes(answer.data), answer.size)
            if whole is None:
                self._go_on()
                return
        except Exception as error:  # a lost answer, damage: all is tried again
            self._failed(download, str(error))
            return
        self._whole = whole
        self._hand_over(download)

    def _hand_over(self, download: BaseDownload) -> None:
        """Have what came taken."""
        try:
            self._take(download.digest, self._whole)
        except OSError as error:  # a full disk: it need not come over the link again
            self._failed(download, str(error), 'kept')
            return
        except Exception as error:
            self._whole = b''
            self._failed(download, str(error))
            return
        if self._download is download:
            self.stop()

    def _failed(self, download: BaseDownload, problem: str, step: str = 'fetched') -> None:
        self._future = None
        download.fail()
        self._node.get_logger().warning(
            f'{self._what} {download.digest[:12]} could not be {step} and are tried again: '
            f'{problem}'
        )
        self._on_failed()

    def close(self) -> None:
        """Let go of the client and the timer."""
        self.stop()
        self._node.destroy_timer(self._timer)
        self._node.destroy_client(self._client)


class BaseFetcher:
    """
    Fetches base weights into the cache.

    Calls the service `model_manager/get_model`.

    :param done: called in the executor with the file; with None each time that an attempt failed
    """

    def __init__(self, node: Node, done: Callable[[Path | None], None]) -> None:
        self._done = done
        self._pieces = PieceFetcher(
            node,
            'model_manager/get_model',
            'base weights',
            self._keep,
            lambda: done(None),
            named=True,
        )
        self.stop, self.close = self._pieces.stop, self._pieces.close

    def fetch(self, digest: str) -> None:
        """Fetch base weights, unless the cache has them; goes on when they are fetched already."""
        if intact(digest):
            self.stop()
            self._done(cached(digest))
            return
        self._pieces.fetch(digest)

    def _keep(self, digest: str, whole: bytes) -> None:
        replace_file(cached(digest), whole)
        self.stop()
        self._done(cached(digest))


def intact(digest: str) -> bool:
    """Return whether the cache has these base weights, whole."""
    try:
        return sha256(cached(digest).read_bytes()) == digest
    except OSError:
        return False
