# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Memory of the worker: is it gone, give it back, and who is to be killed for it."""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path
import resource

# What an allocation that fails says: torch on CPU and CUDA, cuBLAS and cuDNN, and the memory that
# a Jetson's GPU shares with its CPU (NvMap), which torch reports as an internal error.
_OUT_OF_MEMORY = (
    'out of memory',
    "can't allocate memory",
    'cannot allocate memory',
    'std::bad_alloc',
    'cublas_status_alloc_failed',
    'cudnn_status_alloc_failed',
    'cudaerrormemoryallocation',
    'nvmapmemalloc',
    'nvml_success == r internal assert failed',
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, in any of the forms that it takes."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY)
    )


def give_back_memory() -> None:
    """
    Give freed memory back to the system.

    Rounds allocate and free blocks of many sizes; glibc keeps them, a sixth of the process after
    some 30 rounds.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        ctypes.CDLL(None).malloc_trim(0)


def kill_me_first() -> None:
    """Have Linux end this process before `inference` when memory runs out."""
    with contextlib.suppress(OSError):  # no /proc, or not allowed
        Path('/proc/self/oom_score_adj').write_text('500')


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB; 0 where there is no /proc, or no process."""
    try:
        pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0
    return pages * resource.getpagesize() / 1e6
