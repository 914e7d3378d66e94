# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import contextlib
import ctypes
import signal


def die_with_parent() -> None:
    """
    Ask Linux for SIGTERM when the parent is gone, even by SIGKILL; elsewhere do nothing.

    To be called in the child, as `preexec_fn` of `subprocess.Popen` or first of all in a process
    of `multiprocessing`. To Linux the parent is the thread that started the child.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
