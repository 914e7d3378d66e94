# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One name, one spelling."""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """
    Return a name with letter and accent as one character where there is one, as keyboards type it.

    Names of files that macOS made have them as two, look the same, and are not equal.

    >>> composed('Tu\u0308r') == 'T\u00fcr'
    True
    """
    return unicodedata.normalize('NFC', name)


def decomposed(name: str) -> str:
    """Return a name with letter and accent as two characters."""
    return unicodedata.normalize('NFD', name)
