# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What keeps a node that answers every frame from being late."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.subscription import Subscription


class TakenByHand(CallbackGroup):
    """Keeps a subscription out of the executor's hands; the node takes its messages itself."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing to end."""


def take(subscription: Subscription) -> Any:
    """
    Return a message that has come to a subscription `TakenByHand`; None when there is none.

    Taking 13 MB from DDS holds the interpreter for 10 to 25 ms, so the node chooses the moment.
    """
    handle = subscription.handle
    with handle:
        taken = handle.take_message(subscription.msg_type, False)
    return None if taken is None else taken[0]


def keep_memory() -> None:
    """
    Have glibc keep large blocks instead of giving them back to the system.

    Images and weights that come or go need blocks of up to many MB each time. Fresh pages for
    weights cost more than half of the time that taking a message holds the interpreter.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 32 << 20), (-1, 256 << 20), (-2, 32 << 20)):
            libc.mallopt(option, value)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


def keep_what_was_imported() -> None:
    """
    Have the garbage collector leave alone what is there now.

    What torch brought is never garbage. A full collection that looks through it takes 0.1 s and
    more, and no prediction is made meanwhile.
    """
    gc.collect()
    gc.freeze()
