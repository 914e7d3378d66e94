# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Work with torch that a process without torch has done by another one."""

from __future__ import annotations

import contextlib
import os
import runpy
import subprocess
import sys
import tempfile
import threading

from etuner_ros.core.python_child import python_child


class Child:
    """
    A module of ours that runs in a process of its own; it ends with this one.

    Whatever becomes of the thread that starts it: Linux would take that for the parent, so a pipe
    tells the child of its parent's end. What it says goes to a file: a pipe that nobody reads
    fills up, and the process stands still.

    :raises OSError: when it can not be started
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._said = tempfile.TemporaryFile('w+', errors='replace')  # noqa: SIM115
        self._process = subprocess.Popen(
            python_child(__name__, module, *arguments),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
        )
        self.pid = self._process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    @property
    def problem(self) -> str:
        """Why it failed, the last line that it said; empty when it did not, or still runs."""
        if not self._process.poll():
            return ''
        self._said.seek(0)
        return (self._said.read().strip().splitlines() or ['no reason given'])[-1]

    def close(self) -> None:
        """End it, when it still runs, and let go of what it said."""
        if not self.ended:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._said.close()


def _end_with_parent() -> None:
    """Wait for the end of the pipe that the parent holds."""
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    os._exit(1)


if __name__ == '__main__':
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
