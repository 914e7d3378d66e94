# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Work with torch that a process without torch has done by another one."""

from __future__ import annotations

import subprocess
import sys
import tempfile

from etuner_ros.core.processes import die_with_parent


class Child:
    """
    A module of ours that runs in a process of its own; it ends with its parent.

    What it says goes to a file: a pipe that nobody reads fills up, and the process stands still.

    :raises OSError: when it can not be started
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._said = tempfile.TemporaryFile('w+', errors='replace')  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, '-m', module, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            preexec_fn=die_with_parent,
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
        self._said.close()
