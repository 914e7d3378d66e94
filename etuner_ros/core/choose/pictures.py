# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The user's own labelled pictures: from the label store, a folder, or a recording. No torch."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
import hashlib
from pathlib import Path

import msgpack
import numpy as np

from etuner_ros.core.errors import EtunerError, ImageError, StoreError
from etuner_ros.core.files import home, replace_file
from etuner_ros.core.images.codec import decode, encode_jpeg, Image, resize_square
from etuner_ros.core.images.labelled import check_label, check_source
from etuner_ros.core.images.sources import FrameSource, ImageFolder, open_source
from etuner_ros.core.labels.store import LabelStore

STORE = '.db'  # how a label store ends; recordings end in .mcap and .db3
QUALITY = 95  # of pictures that come unencoded, from a recording
LEAST = 2  # pictures of a class without which leaving one out says nothing of it


@dataclass(frozen=True)
class Labelled:
    """
    Encoded pictures and their labels.

    :ivar said: what was left out, in one sentence; empty when nothing was
    """

    pictures: tuple[bytes, ...]
    labels: tuple[str, ...]
    said: str = ''

    @property
    def digest(self) -> str:
        """What names this set of pictures: the SHA-256 of all of it."""
        digest = hashlib.sha256()
        for picture, label in zip(self.pictures, self.labels):
            digest.update(hashlib.sha256(picture).digest() + label.encode() + b'\0')
        return digest.hexdigest()

    def images(self, pixels: int) -> Iterator[Image]:
        """Yield the centred squares as RGB uint8 (pixels, pixels, 3)."""
        for picture in self.pictures:
            yield resize_square(decode(picture), pixels)

    def write(self, path: Path) -> None:
        """Write it for another process."""
        replace_file(path, bytes(msgpack.packb([list(self.pictures), list(self.labels)])))

    @staticmethod
    def read(path: Path) -> Labelled:
        """Read what `write` has written."""
        pictures, labels = msgpack.unpackb(path.read_bytes())
        return Labelled(tuple(pictures), tuple(labels))


def read_labelled(source: str = '', most: int = 1000, image_topic: str = '') -> Labelled:
    """
    Read labelled pictures.

    :param source: a label store (`.db`), a folder `<label>/*.jpg` or `<scenario>/<label>/*.jpg`,
        or a recording with ground truth; empty for the label store of this robot
    :param most: more are thinned out evenly; 0 = all are taken
    :param image_topic: which images of a recording; '' takes `image_raw`, see `Recording`
    :raises EtunerError: when there are none, or too few to choose by
    """
    if source:
        check_source(source)
    path = Path(source).expanduser() if source else _own_store()
    if path.suffix == STORE and path.is_file():
        return checked(_stored(path), str(path), most)
    opened = open_source(str(path), image_topic)
    try:
        labelled = checked(_labelled(opened), str(path), most)
    except EtunerError as error:
        if opened.left_out:
            raise EtunerError(f'{error}; {opened.left_out}') from error
        raise
    said = '; '.join(filter(None, (labelled.said, opened.left_out)))
    return replace(labelled, said=said)


def checked(found: Iterable[tuple[bytes, str]], name: str, most: int = 0) -> Labelled:
    """
    Leave out what can not be used.

    :param found: encoded pictures and their labels
    :raises EtunerError: when too little is left
    """
    pairs = [(picture, label) for picture, label in found if label]
    counts = Counter(label for _, label in pairs)
    for label in counts:
        check_label(label, name)
    few = sorted(label for label, n in counts.items() if n < LEAST)
    pairs = [(picture, label) for picture, label in pairs if counts[label] >= LEAST]
    if not pairs:
        raise EtunerError(
            f"'{name}' holds no label with at least {LEAST} pictures; label some first, or give "
            f'a folder <label>/*.jpg with --source'
        )
    if len(counts) - len(few) < 2:
        raise EtunerError(
            f"'{name}' holds pictures of one label only, '{pairs[0][1]}'; with a single label "
            f'every network is right: label at least two kinds'
        )
    said = ''
    if few:
        more = f' and {len(few) - 5} more' if len(few) > 5 else ''
        said = f'left out, as they have a single picture: {", ".join(few[:5])}{more}'
    if most and len(pairs) > most:
        pairs = thinned(pairs, most)
    return Labelled(tuple(p for p, _ in pairs), tuple(label for _, label in pairs), said)


def thinned(pairs: Sequence[tuple[bytes, str]], most: int) -> list[tuple[bytes, str]]:
    """Return about `most` of the pictures: the same share of each label, evenly over its own."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, (_, label) in enumerate(pairs):
        places[label].append(i)
    kept: set[int] = set()
    for own in places.values():
        count = max(LEAST, round(len(own) * most / len(pairs)))
        kept.update(own[i] for i in spread(len(own), count))
    return [pairs[i] for i in sorted(kept)]


def spread(count: int, wanted: int) -> list[int]:
    """
    Return at most so many positions of `count`, evenly.

    >>> spread(10, 4)
    [0, 3, 6, 9]
    """
    steps = np.linspace(0, count - 1, min(wanted, count)).round().astype(int)
    return [int(i) for i in dict.fromkeys(steps.tolist())]


def _own_store() -> Path:
    found = sorted(home('labels').glob('*.db'))
    if len(found) != 1:
        names = ', '.join(map(str, found)) or f'none in {home("labels")}'
        raise StoreError(f'name the label store or a folder with --source; found: {names}')
    return found[0]


def _stored(path: Path) -> Iterator[tuple[bytes, str]]:
    store = LabelStore(path, set_aside=False)
    try:
        for sample in store.labelled():
            try:
                decode(sample.image)
            except ImageError:
                continue
            yield sample.image, sample.label
    finally:
        store.close()


def _labelled(opened: FrameSource) -> Iterator[tuple[bytes, str]]:
    """Yield encoded pictures; those of a folder as they are there."""
    if isinstance(opened, ImageFolder):
        yield from opened.encoded()
        return
    for frame in opened:
        if frame.label:
            yield encode_jpeg(frame.image, QUALITY), frame.label
