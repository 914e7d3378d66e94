# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The commit that a figure is of, for benchmarks that run everything there is."""

from __future__ import annotations

from etuner_ros.bench.provenance import git


def head_commit() -> str:
    """Return the commit of this source tree; with a plus when something is not committed."""
    return git('log', '-1', '--format=%h') + ('+' if git('status', '--porcelain', '-uno') else '')
