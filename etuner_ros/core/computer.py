# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which computer this is."""

from __future__ import annotations

from functools import lru_cache
import os
from pathlib import Path


@lru_cache(maxsize=1)
def this_computer() -> str:
    """
    Return what names this computer until it is booted again; empty when nothing does.

    A network namespace of its own is a computer of its own: what leaves it takes a network.
    """
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{boot} {os.readlink("/proc/self/ns/net")}'
    except OSError:
        return ''
