# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The file of the proposer `ssd`: fetched once from a package of the npm registry by its own client,
checked, and kept. It is Apache-2.0 and no part of this package.
"""

from __future__ import annotations

from collections.abc import Callable
import hashlib
from pathlib import Path
import shutil
import subprocess
import tarfile
import tempfile

from etuner_ros.core.errors import EngineError
from etuner_ros.core.files import home, replace_file

NPM_PACKAGE = '@mediapipe/objectron@0.4.1675468480'
MEMBER = 'package/objectron_solution_packed_assets.data'
SHA256 = '470986ca5df183f41698da6de74b027d838fe289d77b5ab094497d350bee664e'  # of the member
LABELS, END = 184, 9987912  # bytes: the labels before the first, the model before the second
LIMIT_S = 300.0


def ssd_path() -> Path:
    """Return where the file lies once it has been fetched."""
    return home('proposer') / 'ssd_open_images.data'


def _npm_pack(folder: Path) -> None:
    """Let npm fetch the package into a folder."""
    npm = shutil.which('npm')
    if npm is None:
        raise EngineError('npm is not installed, and only it fetches the proposer ssd')
    command = [npm, 'pack', NPM_PACKAGE, '--pack-destination', str(folder)]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f'npm has not fetched {NPM_PACKAGE} in {LIMIT_S:.0f} s') from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ['no reason given']
        raise EngineError(f'npm can not fetch {NPM_PACKAGE}: {lines[0]}')


def fetch(path: Path | None = None, pack: Callable[[Path], None] = _npm_pack) -> Path:
    """
    Fetch the file, unless it is there.

    :param path: where to; None = `ssd_path`
    :param pack: puts the package (.tgz) into a folder
    :return: where it lies
    :raises EngineError: when it can't be fetched, or is not what was expected
    """
    path = path or ssd_path()
    if path.exists() and _digest(path.read_bytes()) == SHA256:
        return path
    with tempfile.TemporaryDirectory() as folder:
        pack(Path(folder))
        packed = next(Path(folder).glob('*.tgz'), None)
        if packed is None:
            raise EngineError(f'npm has left no file of {NPM_PACKAGE}')
        with tarfile.open(packed) as archive:
            try:
                member = archive.extractfile(MEMBER)
            except KeyError:
                member = None
            data = member.read() if member else b''
    if _digest(data) != SHA256:
        raise EngineError(f'{MEMBER} of {NPM_PACKAGE} has another checksum than it should have')
    replace_file(path, data)
    return path


def read(path: Path | None = None) -> tuple[bytes, tuple[str, ...]]:
    """
    Return the model and the labels of its classes, the background first.

    :param path: None = `ssd_path`
    :raises EngineError: when it is not there, or damaged
    """
    path = path or ssd_path()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(
            'the file of the proposer ssd is not there: etuner fetch-proposer'
        ) from error
    if _digest(data) != SHA256:
        raise EngineError(f'{path} is damaged; remove it, then: etuner fetch-proposer')
    return data[LABELS:END], tuple(data[:LABELS].decode().split('\n')[:24])


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
