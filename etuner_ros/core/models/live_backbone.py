# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The bytes of the live backbone, for those who lack it."""

from __future__ import annotations

from etuner_ros.core.models.deflate import deflated
from etuner_ros.core.models.store import ModelStore
from etuner_ros.core.models.weights import backbone_of, pack


class LiveBackbone:
    """Makes them when they are asked for, and keeps those of one backbone."""

    def __init__(self, store: ModelStore) -> None:
        self._store = store
        self._digest = ''
        self._made: dict[bool, bytes] = {}  # by whether they are deflated

    def get(self, digest: str, small: bool) -> bytes | None:
        """
        Return safetensors bytes; None when another backbone is live.

        :param digest: that the backbone is named by
        :param small: deflated
        :raises WeightsError: when the live version can not be read
        """
        store = self._store
        if digest != store.backbone(store.live):
            return None
        if digest != self._digest:
            self._digest, self._made = digest, {}
        if small not in self._made:
            whole = pack(backbone_of(store.update(store.live)))
            self._made[small] = deflated(whole, store.base.state) if small else whole
        return self._made[small]
