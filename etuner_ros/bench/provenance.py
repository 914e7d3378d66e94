# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which code and which packages a figure is of, and on what machine it was made."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
import hashlib
import os
from pathlib import Path
import platform
import subprocess
import time
from typing import Any

from etuner_ros import __version__

ROOT = Path(__file__).resolve().parents[2]
# What results depend on: these, and what this module imports of the package, directly or not. A
# commit that changes something else leaves them as they are.
ALWAYS = ('config/etuner.yaml', 'etuner_ros/within_class')
MODULE = 'etuner_ros.bench.runs'
SHORT = 7  # characters of a commit; git's own choice depends on the clone


@dataclass(frozen=True)
class Code:
    """The code that makes a run."""

    commit: str  # the last one that changed what results depend on; else the package's version
    dirty: str  # digest of what is not committed of that; empty when all is
    versions: tuple[tuple[str, str], ...]  # of Python and of the packages that compute


def git(*arguments: str) -> str:
    """Return what git says of this source tree; nothing where there is none."""
    try:
        answer = subprocess.run(
            ['git', '-C', str(ROOT), *arguments], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError):
        return ''
    return answer.stdout.strip() if answer.returncode == 0 else ''


def sources(root: Path, module: str) -> list[str]:
    """
    Return the files that a module is made of: its own and those of all modules of the package that
    it imports, at the top or inside a function, in turn; relative to `root`, sorted.
    """
    found: dict[str, Path] = {}
    open_ = [module]
    while open_:
        name = open_.pop()
        base = root / name.replace('.', '/')
        path = base / '__init__.py' if base.is_dir() else base.with_suffix('.py')
        if name in found or not path.is_file():
            continue  # seen before, or a name in a module
        found[name] = path
        open_.append(name.rpartition('.')[0])  # its package runs first
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                open_ += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                open_ += [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
        open_ = [name for name in open_ if name.partition('.')[0] == module.partition('.')[0]]
    return sorted(path.relative_to(root).as_posix() for path in found.values())


def uncommitted(paths: Sequence[str]) -> str:
    """Return a digest of what is changed or new in some files; empty when nothing is."""
    changed = git('diff', 'HEAD', '--', *paths)
    new = git('ls-files', '--others', '--exclude-standard', '--', *paths).splitlines()
    if not changed and not new:
        return ''
    digest = hashlib.sha256(changed.encode())
    for name in sorted(new):
        digest.update(name.encode() + (ROOT / name).read_bytes())
    return digest.hexdigest()[:8]


@lru_cache(maxsize=1)
def code() -> Code:
    """Return what runs in this process; asked once, as early as possible."""
    import numpy
    import torch

    versions = (
        ('python', platform.python_version()),
        ('torch', torch.__version__),
        ('numpy', numpy.__version__),
    )
    # Installed below somebody else's repository, git would tell of that one.
    if git('rev-parse', '--show-toplevel') != str(ROOT):
        return Code(f'version {__version__}', '', versions)
    paths = [*ALWAYS, *sources(ROOT, MODULE)]
    commit = git('log', '-1', '--format=%H', '--', *paths)[:SHORT]
    if git('rev-parse', '--is-shallow-repository') == 'true':  # it knows no older commit
        commit = f'shallow {commit}'
    return Code(commit or f'version {__version__}', uncommitted(paths), versions)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        processor = next(x.split(':')[1].strip() for x in lines if x.startswith('model name'))
    except (OSError, StopIteration):
        pass
    made_by = code()
    return {
        'version': __version__,
        'commit': made_by.commit + ('+' if made_by.dirty else ''),
        **dict(made_by.versions),
        'processor': processor,
        'cores': os.cpu_count(),
        'date': time.strftime('%Y-%m-%d'),
    }
