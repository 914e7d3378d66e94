# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whether a model store holds learned weights, by a look at names only: nothing is read whole."""

from __future__ import annotations

from pathlib import Path


def learned_version(root: Path, base_sha256: str) -> int:
    """
    Return the version that is live in the store of some base weights; 0 when nothing was learned,
    when the base weights were made live again, or when there is no store.

    :param root: folder of all stores, see `ModelStore`
    """
    folder = root / base_sha256[:16]
    numbers = [path.name[1:] for path in folder.glob('v*')]
    versions = {int(number) for number in numbers if number.isdigit()}
    try:
        live = int((folder / 'live').read_text())
    except (OSError, ValueError):  # missing or damaged: the store takes its newest version
        live = max(versions, default=0)
    return max((v for v in versions if v <= live), default=0)
