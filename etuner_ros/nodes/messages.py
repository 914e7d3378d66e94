# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Small things about messages that every node needs."""

from __future__ import annotations

from array import array
from typing import Any

from std_msgs.msg import Header

from etuner_ros.core.models.weights import sha256
from etuner_ros.core.names import is_printable
from etuner_ros.msg import ModelCandidate, TunerStatus

PROTOCOL = int(TunerStatus().protocol)  # of the messages between the nodes
LONGEST_SHOWN = 100  # characters of a text in a log or an echo
LONGEST_NAME = 256  # characters of a source, frame_id or label that is received
TUNER_STATES = {
    TunerStatus.STARTING: 'starting',
    TunerStatus.WAITING: 'waiting',
    TunerStatus.TUNING: 'tuning',
    TunerStatus.PROPOSED: 'proposed',
    TunerStatus.DOWN: 'down',
}


def tuner_state(status: TunerStatus) -> str:
    """Return what the tuner is doing, in a word; 'unknown' when a newer one says something new."""
    return TUNER_STATES.get(status.state, 'unknown')


def stamp_ns(header: Header) -> int:
    """Return the stamp of a header in ns."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def to_bytes(data: bytes | bytearray | array[int]) -> array[int]:
    """Return bytes in the one form that rclpy copies fast."""
    return array('B', bytes(data))


def short(text: str, length: int = LONGEST_SHOWN) -> str:
    """Return text that is safe to log and to echo."""
    clean = ''.join(c if is_printable(c) else '?' for c in text[: length + 1])
    return clean if len(text) <= length else clean[: length - 3] + '...'


def is_cut(text: str) -> bool:
    """Return whether `short` made a text of a longer one."""
    return len(text) == LONGEST_SHOWN and text.endswith('...')


def comes_in_pieces(message: ModelCandidate) -> bool:
    """Return whether the weights of a candidate have to be asked for."""
    return not message.weights and message.sha256 != sha256(b'')


def answered(response: Any, code: int, text: str) -> Any:
    """Return a service's response with its code and what it says."""
    response.error_code, response.error_msg = code, text
    return response
