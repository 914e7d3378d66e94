# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings of rosbag2 as they are opened: with what is known of their messages."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, TYPE_CHECKING

from etuner_ros.core.files import share

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader


def reader_of(path: Path) -> AnyReader:
    """
    Return a reader of a recording, not opened yet; of Humble in sqlite3, too.

    Those do not say what their messages are.
    """
    from rosbags.highlevel import AnyReader

    return AnyReader([path], default_typestore=known_types())


@lru_cache(maxsize=1)
def known_types() -> Any:
    """Return what is known of messages: those of ROS, and ours."""
    from rosbags.typesys import get_types_from_msg, get_typestore, Stores

    store = get_typestore(Stores.ROS2_HUMBLE)
    ours: dict[str, Any] = {}
    for file in sorted(messages_folder().glob('*.msg')):
        ours |= get_types_from_msg(file.read_text(), f'etuner_ros/msg/{file.stem}')
    store.register(ours)
    return store


def messages_folder() -> Path:
    """Return the folder of message definitions."""
    return share() / 'msg'
