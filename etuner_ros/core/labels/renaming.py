# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Calling a label otherwise: what is allowed, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from etuner_ros.core.labels.spelling import composed, decomposed
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.names import is_printable


class RenameCode(IntEnum):
    """What came of it; constants of the service RenameLabel."""

    NONE = 0
    UNKNOWN_LABEL = 1
    INVALID_LABEL = 2


@dataclass(frozen=True)
class Renamed:
    """What came of renaming a label."""

    code: RenameCode
    text: str
    changed: int = 0  # frames


def rename(store: LabelStore, label: str, new_label: str, longest_label: int) -> Renamed:
    """
    Rename a label; one that exists is merged with it.

    :raises StoreError: when it could not be written
    """
    old, new = composed(label.strip()), composed(new_label.strip())
    if not new or len(new) > longest_label or not is_printable(new):
        text = f'the new label must be printable, of 1 to {longest_label} characters'
        return Renamed(RenameCode.INVALID_LABEL, text)
    known = store.labels()
    if old not in known:
        text = f'no frame is labelled {old[:60]!r}; labels: {", ".join(known)}'
        return Renamed(RenameCode.UNKNOWN_LABEL, text)
    # A model of an earlier release may have it in the other spelling, which looks the same.
    changed = sum(store.rename(name, new) for name in sorted({old, decomposed(old)}))
    deed = 'merged with' if new in known else 'renamed to'
    return Renamed(RenameCode.NONE, f"'{old}' {deed} '{new}' in {changed} frames", changed)
