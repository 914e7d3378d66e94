# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Who goes first where several want the processor."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

NICENESS = 5  # of what may come after the answer to a frame


def step_back(by: int = NICENESS) -> None:
    """
    Have other threads and processes go first; can not be undone, and adds up.

    Meant is this thread alone, with the threads and processes that it starts from now on. Where
    the system knows no niceness of a thread, or forbids to set it, nothing happens.
    """
    if sys.platform == 'linux':  # elsewhere this would be of a whole process
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            inherited = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, inherited + by)
