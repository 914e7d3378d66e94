# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Starts the package's executables and starts again what dies: the part of `ros2 launch` that a
machine without it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import IO

from ament_index_python.packages import get_package_prefix

from etuner_ros.core.processes import die_with_parent


@dataclass
class _Child:
    name: str
    command: list[str]
    log: IO[bytes]
    process: subprocess.Popen[bytes]
    restart_at: float | None = None


@dataclass
class Supervisor:
    """
    Runs executables of this package, each with the same parameter files.

    :param params: parameter files, later ones win
    :param logs: folder for one log file per executable
    :param restart_delay_s: pause before what died is started again
    """

    params: list[Path]
    logs: Path
    restart_delay_s: float = 1.0
    restarts: int = 0
    _children: list[_Child] = field(default_factory=list)

    def start(
        self,
        name: str,
        namespace: str = '',
        node: str = '',
        remaps: Mapping[str, str] | None = None,
    ) -> None:
        """
        Start an executable.

        :param node: name of its node, and of the process here; empty = as the executable
        :param remaps: topics that are called otherwise
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        executable = Path(get_package_prefix('etuner_ros')) / 'lib' / 'etuner_ros' / name
        command = [sys.executable, str(executable), '--ros-args']
        for file in self.params:
            command += ['--params-file', str(file)]
        if namespace:
            command += ['-r', f'__ns:={namespace}']
        if node:
            command += ['-r', f'__node:={node}']
        for topic, other in (remaps or {}).items():
            command += ['-r', f'{topic}:={other}']
        name = node or name
        log = (self.logs / f'{name}.log').open('ab')
        self._children.append(_Child(name, command, log, self._spawn(command, log)))

    @staticmethod
    def _spawn(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches only us, and we stop the nodes in order.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    def pid(self, name: str) -> int | None:
        """Return the process of an executable; None while it is down."""
        for child in self._children:
            if child.name == name and child.process.poll() is None:
                return child.process.pid
        return None

    def kill(self, name: str) -> None:
        """End an executable with SIGKILL; `check` starts it again."""
        for child in self._children:
            if child.name == name and child.process.poll() is None:
                child.process.kill()
                child.process.wait()

    def check(self) -> list[str]:
        """Start again what has died; return what died since the last call."""
        died = []
        for child in self._children:
            if child.restart_at is None and child.process.poll() is not None:
                child.restart_at = time.monotonic() + self.restart_delay_s
                died.append(f'{child.name} (exit code {child.process.returncode})')
            elif child.restart_at is not None and time.monotonic() >= child.restart_at:
                child.process, child.restart_at = self._spawn(child.command, child.log), None
                self.restarts += 1
        return died

    def stop(self, patience_s: float = 8.0) -> None:
        """Ask all to end, and end those that do not."""
        for child in self._children:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + patience_s
        for child in self._children:
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.log.close()
        self._children.clear()
