# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which characters names may have."""

from __future__ import annotations

# Within words of Persian and of several Indic scripts, and of emoji that are made of others; to
# Python they are not printable, as they have no form of their own.
JOINERS = '\u200c\u200d'


def is_printable(text: str) -> bool:
    """Return whether a text can be shown on one line."""
    return all(c.isprintable() or c in JOINERS for c in text)
