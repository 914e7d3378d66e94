# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Each candidate in a process of its own, which ends with ours. No torch."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
import json
import os
from pathlib import Path
import platform
import subprocess
import tempfile
from typing import TYPE_CHECKING

from etuner_ros import __version__
from etuner_ros.core.choose.measured import Measured
from etuner_ros.core.choose.pictures import Labelled
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import replace_file
from etuner_ros.core.processes import die_with_parent
from etuner_ros.core.python_child import python_child
from etuner_ros.core.serve.graph_file import FORMAT

if TYPE_CHECKING:
    from etuner_ros.core.choose.candidates import Candidate
    from etuner_ros.core.choose.measure import Conditions

LIMIT_S = 1800.0  # of one candidate; only what hangs takes so long
DEVICE_TREE = Path('/proc/device-tree/model')  # what the board is called
MODULE = 'etuner_ros.core.choose.measure'


class InProcess:
    """
    Measures a candidate in a process of its own.

    :param labelled: the pictures; they are written once, for all candidates
    :param module: what is run; it takes a request file and prints JSON
    """

    def __init__(self, labelled: Labelled, conditions: Conditions, module: str = MODULE) -> None:
        self._conditions, self._module = conditions, module
        self._folder = tempfile.TemporaryDirectory(prefix='etuner_choose_')
        self._pictures = Path(self._folder.name) / 'pictures'
        labelled.write(self._pictures)

    def __call__(self, candidate: Candidate) -> Measured:
        """
        Measure it.

        :raises EtunerError: when it can not be measured, with the reason
        """
        request = Path(self._folder.name) / 'request.json'
        content = {
            'candidate': asdict(candidate),
            'pictures': str(self._pictures),
            'conditions': asdict(self._conditions),
        }
        replace_file(request, json.dumps(content).encode())
        try:
            done = subprocess.run(
                python_child(self._module, str(request)),
                capture_output=True,
                text=True,
                errors='replace',
                timeout=LIMIT_S,
                preexec_fn=die_with_parent,
            )
        except subprocess.TimeoutExpired as error:
            raise EtunerError(f'it was not done in {LIMIT_S / 60:.0f} minutes') from error
        return read_answer(done.stdout, done.stderr, done.returncode)

    def close(self) -> None:
        """Remove the pictures."""
        self._folder.cleanup()


def read_answer(said: str, complained: str, code: int) -> Measured:
    """
    Read what the process printed.

    :raises EtunerError: when it was no measurement
    """
    try:
        raw = json.loads(said.strip().splitlines()[-1])
        if 'failed' in raw:
            raise EtunerError(str(raw['failed']))
        return Measured.from_json(raw)
    except (IndexError, ValueError, TypeError, KeyError) as error:
        if code < 0:
            raise EtunerError(
                f'its process was ended by signal {-code}; when it was 9, memory was short'
            ) from error
        lines = complained.strip().splitlines() or [f'exit code {code}']
        raise EtunerError(f'its process failed: {lines[-1][:300]}') from error


def machine() -> str:
    """Return what of this computer a measurement depends on."""
    name = platform.machine()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    processor = f'{names[0] if names else name}, {os.cpu_count()} cores'
    try:  # boards with Arm cores, which have no name in cpuinfo
        board = DEVICE_TREE.read_bytes().rstrip(b'\0').decode(errors='replace').strip()
    except OSError:
        board = ''
    return f'{board}, {processor}' if board else processor


def versions() -> dict[str, str]:
    """Return the versions of what measures and serves; 'none' of what is not installed."""
    found = {'etuner_ros': __version__, 'graphs': str(FORMAT)}
    for package in ('torch', 'onnxruntime', 'numpy'):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = 'none'
    return found
