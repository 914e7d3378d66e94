# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Modules of ours in processes of their own."""

from __future__ import annotations

from pathlib import Path
import sys

# Python itself would look in the folder that a process is started in before all others: a
# `torch` or `numpy` that lies there would be imported. `-P` says so only from 3.11 on. This very
# package is the one that the parent has, wherever it found it.
START = """
import runpy, sys
if not getattr(sys.flags, 'safe_path', False):
    del sys.path[0]
del sys.argv[0]
sys.path.insert(0, sys.argv.pop(0))
import etuner_ros
del sys.path[0]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


def python_child(module: str, *arguments: str) -> list[str]:
    """
    Return the command that runs a module of this package, as `python -m` does.

    Nothing is imported from the folder that it is started in, unless PYTHONPATH names it.

    :param arguments: what the module finds in `sys.argv[1:]`
    """
    root = Path(__file__).absolute().parents[2]
    return [sys.executable, '-c', START, str(root), module, *arguments]
