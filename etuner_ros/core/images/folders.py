# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of labelled pictures: which ones they hold, and what these show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from etuner_ros.core.errors import ImageError

PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
INDEX_FILE = 'etuner.json'  # of `etuner labels export`


@dataclass(frozen=True)
class Found:
    """A picture of a folder."""

    file: Path
    label: str  # empty when unknown
    split: str  # the folders above that of its label, such as a scenario


def pictures_below(folder: Path) -> list[Found]:
    """
    Return the pictures of `<split>/<label>/*.jpg`, in the order of their names.

    Folders may be symbolic links; what is hidden (`.thumbnails`) is left out. Where `etuner labels
    export` wrote the folders of labels, its index has their names.

    :raises ImageError: when such an index is damaged
    """
    index_of = cache(_Index)
    found = []
    for file in sorted(_files(folder)):
        parts = file.relative_to(folder).parts[:-1]
        label, split = parts[-1] if parts else '', '/'.join(parts[:-1])
        if label:
            label = index_of(file.parent.parent).label(label, file.name)
        found.append(Found(file, label, split))
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Yield all pictures below a folder; of a link that leads to a folder above itself, none."""
    above: dict[str, frozenset[str]] = {}  # of each folder, what it lies in
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        chain = above.pop(place, frozenset()) | {real}
        folders[:] = [
            name
            for name in folders
            if not name.startswith('.')
            and os.path.realpath(os.path.join(place, name)) not in chain
        ]
        above |= {os.path.join(place, name): chain for name in folders}
        for name in files:
            if not name.startswith('.') and Path(name).suffix.lower() in PICTURES:
                yield Path(place, name)


class _Index:
    """What `etuner.json` says of the folders beside it; without it they are called as they are."""

    def __init__(self, folder: Path) -> None:
        self._labels: dict[str, Any] = {}
        self._frames: dict[str, Any] = {}  # whole frames of which things are labelled
        path = folder / INDEX_FILE
        self._ours = path.is_file()
        if self._ours:
            try:
                raw = json.loads(path.read_text())
                self._labels, self._frames = dict(raw['labels']), dict(raw.get('sizes', {}))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise ImageError(f'{path} is damaged: {error}; remove it to go on') from error

    def label(self, folder: str, file: str) -> str:
        """Return the label of a picture."""
        if f'{folder}/{file}' in self._frames:
            return ''
        return str(self._labels.get(folder, unquote(folder))) if self._ours else folder
