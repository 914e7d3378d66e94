# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The commit that a figure is of, for benchmarks that run everything there is."""

from __future__ import annotations

from typing import Any

from etuner_ros import __version__
from etuner_ros.bench import provenance
from etuner_ros.bench.provenance import git


def head_commit() -> str:
    """
    Return the commit of this source tree; with a plus when something is not committed.

    What a benchmark before this one has written into `results` is no change of the code.
    """
    # Installed below somebody else's repository, git would tell of that one.
    if git('rev-parse', '--show-toplevel') != str(provenance.ROOT):
        return f'version {__version__}'
    changed = git('status', '--porcelain', '-uno', '--', '.', ':!results')
    return git('log', '-1', '--format=%h') + ('+' if changed else '')


def machine() -> dict[str, Any]:
    """
    Return what the figures depend on, as `provenance.machine`; but the commit is what is checked
    out, as that one follows only what the table of methods is made of.

    To be asked before anything runs: the code that is imported then makes the figures, whatever is
    edited or written meanwhile.
    """
    return {**provenance.machine(), 'commit': head_commit()}
