# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Pictures of kept frames as the camera had them, while there is room."""

from __future__ import annotations

from collections import OrderedDict
import threading
from typing import Generic, TypeVar

Picture = TypeVar('Picture')


class FullPictures(Generic[Picture]):
    """
    Keeps the newest pictures, bounded in bytes; one thread adds while another one asks.

    :param most_bytes: the oldest make room when all take more; 0 = none is kept
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._pictures: OrderedDict[int, tuple[Picture, int]] = OrderedDict()  # with its bytes
        self._lock = threading.Lock()
        self.bytes = 0

    @property
    def most_bytes(self) -> int:
        """Bytes that all may take."""
        return self._most_bytes

    @most_bytes.setter
    def most_bytes(self, most_bytes: int) -> None:
        with self._lock:
            self._most_bytes = most_bytes
            self._make_room()

    def add(self, uid: int, picture: Picture, size: int) -> None:
        """
        Keep a picture; one that takes more than all may is not kept.

        :param uid: of its frame, not given before
        :param size: in bytes
        """
        with self._lock:
            if size > self._most_bytes:
                return  # it would push out all others for nothing
            self._pictures[uid] = picture, size
            self.bytes += size
            self._make_room()

    def get(self, uid: int) -> Picture | None:
        """Return the picture of a frame, or None when it was not kept or made room."""
        with self._lock:
            found = self._pictures.get(uid)
        return found[0] if found else None

    def _make_room(self) -> None:
        while self.bytes > self._most_bytes:
            _, (_, size) = self._pictures.popitem(last=False)
            self.bytes -= size
