# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What `model_manager` serves about its versions: `~/swap`, `~/roll_back`, `~/list_versions`,
`~/pin_version`, `~/export_version`, `~/get_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future

from etuner_ros.core.errors import EtunerError, MessageError, WeightsError
from etuner_ros.core.models.export_queue import ExportQueue
from etuner_ros.core.models.live_backbone import LiveBackbone
from etuner_ros.core.models.store import HEAD, ModelStore
from etuner_ros.core.rate_limit import RateLimit
from etuner_ros.nodes.messages import answered, short
from etuner_ros.nodes.pieces import PieceServer, Source
from etuner_ros.srv import (
    ExportVersion,
    ListVersions,
    PinVersion,
    RollBack,
    SwapModel,
)

NOT_ACTIVE = 'model_manager is not active: weights and layers are pinned'


class VersionServices:
    """
    Serves the versions of a store.

    :param active: returns whether anything may be changed
    :param announce: tells everybody that another version is live, and why
    :param warn: says what went wrong
    :param limit: of what is sent to other computers
    :ivar entities: the services, to be destroyed by the node
    """

    def __init__(
        self,
        node: Node,
        store: ModelStore,
        exports: ExportQueue,
        active: Callable[[], bool],
        announce: Callable[[str], None],
        warn: Callable[..., None],
        limit: RateLimit,
    ) -> None:
        self._store, self._exports = store, exports
        self._active, self._announce, self._warn = active, announce, warn
        self._backbone = LiveBackbone(store)
        # In a group of its own: a call that waits would keep all others waiting.
        waiting = ReentrantCallbackGroup()
        serve = node.create_service
        self.entities: list[Any] = [
            serve(SwapModel, '~/swap', self._on_swap),
            serve(RollBack, '~/roll_back', self._on_roll_back),
            serve(ListVersions, '~/list_versions', self._on_list_versions),
            serve(PinVersion, '~/pin_version', self._on_pin),
            serve(ExportVersion, '~/export_version', self._on_export, callback_group=waiting),
            PieceServer(node, '~/get_model', limit, self._find).service,
        ]

    def _on_swap(
        self, request: SwapModel.Request, response: SwapModel.Response
    ) -> SwapModel.Response:
        if not self._active():
            return answered(response, response.NOT_ACTIVE, NOT_ACTIVE)
        if request.version not in self._store.manifests:
            return answered(response, response.UNKNOWN_VERSION, self._unknown(request.version))
        try:
            self._store.set_live(request.version)
            self._announce('swapped by hand')
        except (EtunerError, OSError) as error:
            self._warn(str(error))
            return answered(response, response.DAMAGED, str(error))
        return answered(response, response.NONE, f'version {self._store.live} is live')

    def _on_roll_back(
        self, request: RollBack.Request, response: RollBack.Response
    ) -> RollBack.Response:
        response.version = self._store.live
        if not self._active():
            return answered(response, response.NOT_ACTIVE, NOT_ACTIVE)
        if self._store.live == 0:
            text = 'the base weights are live, there is nothing before them'
            return answered(response, response.NO_PARENT, text)
        try:
            skipped = self._store.roll_back()
            self._warn(*skipped)
            self._announce('rolled back')
        except (EtunerError, OSError) as error:
            self._warn(str(error))
            return answered(response, response.DAMAGED, str(error))
        response.version = self._store.live
        text = '; '.join([*skipped, f'version {self._store.live} is live'])
        return answered(response, response.NONE, text)

    def _on_pin(
        self, request: PinVersion.Request, response: PinVersion.Response
    ) -> PinVersion.Response:
        if not self._active():
            return answered(response, response.NOT_ACTIVE, NOT_ACTIVE)
        if request.version not in self._store.manifests:
            return answered(response, response.UNKNOWN_VERSION, self._unknown(request.version))
        try:
            self._store.pin(request.version, request.pinned)
        except EtunerError as error:
            return answered(response, response.DISK, str(error))
        text = 'kept for ever' if request.pinned else 'free'
        return answered(response, response.NONE, f'version {request.version} is {text}')

    def _unknown(self, version: int) -> str:
        known = ', '.join(map(str, sorted(self._store.manifests)))
        return f'version {version} is not stored; stored: {known}'

    async def _on_export(
        self, request: ExportVersion.Request, response: ExportVersion.Response
    ) -> ExportVersion.Response:
        """Have a process with torch write the file; everything else goes on meanwhile."""
        version, store = request.version, self._store
        if version not in store.manifests:
            return answered(response, response.UNKNOWN_VERSION, self._unknown(version))
        future: Future = Future()
        try:
            wanted = (store.folder, version, short(request.format), request.path)
            path = self._exports.add(*wanted, future.set_result)
        except MessageError as error:
            return answered(response, response.BAD_REQUEST, str(error))
        failed = await future
        if failed:
            return answered(response, response.FAILED, short(str(failed), 300))
        response.path = str(path)
        return answered(response, response.NONE, f'version {version} is written')

    def _on_list_versions(
        self, request: ListVersions.Request, response: ListVersions.Response
    ) -> ListVersions.Response:
        store = self._store
        manifests = [store.manifests[v] for v in sorted(store.manifests)]
        response.live, response.base_sha256 = store.live, store.base.sha256
        response.versions = [m.version for m in manifests]
        response.parents = [m.parent for m in manifests]
        response.accuracies = [m.accuracy for m in manifests]
        response.reasons = [
            f'damaged: {store.damaged[m.version]}' if m.version in store.damaged else m.reason
            for m in manifests
        ]
        response.pinned = [m.version in store.pinned for m in manifests]
        response.head_only = [m.kind == HEAD for m in manifests]
        return response

    def _find(self, digest: str, far: bool) -> Source:
        """Return base weights or the live backbone; the latter deflated for other computers."""
        store = self._store
        if digest in ('', store.base.sha256):
            return Source(store.base_path.stat().st_size, self._read_base)
        data = self._backbone.get(digest, small=far)
        if data is None:
            raise WeightsError(
                f'{short(digest, 12)} is not here: only base weights {store.base.sha256} and the '
                f'live backbone {store.backbone(store.live)}'
            )
        return Source.of(data)

    def _read_base(self, offset: int, length: int) -> bytes:
        with self._store.base_path.open('rb') as stream:
            stream.seek(offset)
            return stream.read(length)
