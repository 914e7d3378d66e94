# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Labelled pictures to make streams of, each on one of two sides: `labelled` ones are learned from,
`scored` ones are asked for as inference requests. No picture is ever on both.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
import hashlib
from pathlib import Path
import tarfile

from etuner_ros.core.errors import ConfigError, ImageError
from etuner_ros.core.images.codec import decode, encode_jpeg, Image, resize_square
from etuner_ros.core.images.sources import open_source, PICTURES

CORE50_HELD_OUT = ('s3', 's7', 's10')  # sessions of the published test set


@dataclass(frozen=True)
class Picture:
    """One labelled picture."""

    name: str  # unique in its data set
    label: str
    scenario: str
    labelled: bool  # side: learned from, or asked for
    data: bytes | Path  # encoded
    product: str = ''  # finer than the label; empty when there is no such thing

    @property
    def encoded(self) -> bytes:
        """The file that it is."""
        return self.data if isinstance(self.data, bytes) else self.data.read_bytes()

    def image(self, size: int) -> Image:
        """
        Return the centred square as RGB uint8 (size, size, 3).

        :raises ImageError: naming the picture, when it can not be decoded
        """
        try:
            return resize_square(decode(self.encoded), size)
        except ImageError as error:
            raise ImageError(f'{self.name}: {error}') from error


def split(pictures: Iterable[Picture]) -> list[Picture]:
    """
    Put half of each class of each scenario on either side.

    By the SHA-256 of the name, so the choice is the same everywhere and hardly changes when
    pictures are added.
    """
    groups: dict[tuple[str, str], list[Picture]] = defaultdict(list)
    for picture in pictures:
        groups[picture.scenario, picture.label].append(picture)
    result = []
    for group in groups.values():
        ranked = sorted(group, key=lambda p: hashlib.sha256(p.name.encode()).digest())
        half = len(ranked) // 2
        result += [replace(p, labelled=i >= half) for i, p in enumerate(ranked)]
    return sorted(result, key=lambda p: p.name)


def recording(path: Path) -> list[Picture]:
    """Read a rosbag2 recording with ground truth."""
    found = [
        Picture(f'{i:06}', f.label, f.scenario, True, encode_jpeg(f.image, 95))
        for i, f in enumerate(open_source(str(path)))
        if f.label
    ]
    if not found:
        raise ConfigError(f"the recording '{path}' holds no frames with ground truth")
    return split(found)


def image_folder(path: Path) -> list[Picture]:
    """
    Read `<scenario>/<class>/*.jpg`, at any depth below the class.

    :raises ConfigError: when there is nothing of that layout
    """
    found = []
    for file in sorted(path.rglob('*')):
        parts = file.relative_to(path).parts
        if file.suffix.lower() in PICTURES and len(parts) >= 3:
            found.append(Picture('/'.join(parts), parts[1], parts[0], True, file))
    if not found:
        raise ConfigError(f"'{path}' holds no images; expected <scenario>/<class>/*.jpg")
    return split(found)


def grocery(path: Path, reported: bool = True) -> list[Picture]:
    """
    Read the grocery store photographs, `{train,test}/<kind>/<product>_<split>_<name>.jpg` in a tar
    file (Klasson, Zhang, Kjellstrom, WACV 2019); train is labelled, test is scored.

    Every third kind is for searching settings; the others are for reports.
    """
    try:
        with tarfile.open(path) as archive:
            found = list(_photographs(archive))
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"'{path}' is no whole tar file: {error}") from error
    kinds = sorted({p.label for p in found})
    chosen = {k for i, k in enumerate(kinds) if (i % 3 != 0) == reported}
    if not chosen:
        raise ConfigError(f"'{path}' holds no photographs in {{train,test}}/<kind>/")
    return sorted((p for p in found if p.label in chosen), key=lambda p: p.name)


def _photographs(archive: tarfile.TarFile) -> Iterator[Picture]:
    """Return what lies at `{train,test}/<kind>/` of an archive."""
    for member in archive:
        parts = Path(member.name).parts
        file = archive.extractfile(member) if member.isfile() else None
        if file is None or len(parts) < 3 or parts[-3] not in ('train', 'test'):
            continue
        product = parts[-1].split('_')[0]
        yield Picture(
            '/'.join(parts[-3:]),
            parts[-2],
            'shops',
            parts[-3] == 'train',
            file.read(),
            f'{parts[-2]}/{product}',
        )


def core50(path: Path) -> list[Picture]:
    """
    Read CORe50 (Lomonaco & Maltoni, CoRL 2017): `s<session>/o<object>/C_<s>_<o>_<frame>.png`.

    Each training session is a scenario and each object a class. Neighbouring frames of a video are
    nearly equal, so the last third of each video is scored and the rest labelled. Sessions 3, 7
    and 10 are the published test set and are left out.
    """
    found = []
    for session in sorted(path.glob('s*'), key=lambda p: _number(p.name)):
        if session.name in CORE50_HELD_OUT or not session.is_dir():
            continue
        for thing in sorted(session.glob('o*'), key=lambda p: _number(p.name)):
            files = sorted(f for f in thing.iterdir() if f.suffix.lower() in PICTURES)
            border = len(files) - len(files) // 3
            found += [
                Picture(
                    f'{session.name}/{thing.name}/{file.name}',
                    thing.name,
                    f's{_number(session.name):02}',
                    i < border,
                    file,
                )
                for i, file in enumerate(files)
            ]
    if not found:
        raise ConfigError(f"'{path}' is not CORe50: expected s1/o1/C_01_01_000.png and so on")
    return found


def openloris(path: Path) -> list[Picture]:
    """
    Read OpenLORIS-Object (She et al., ICRA 2020): `{train,test}/<task>/<object>/*.jpg`; tasks are
    scenarios. `train` is labelled, `test` is scored, `validation` is left out.
    """
    found = []
    for side in ('train', 'test'):
        for file in sorted((path / side).rglob('*')):
            parts = file.relative_to(path / side).parts
            if file.suffix.lower() in PICTURES and len(parts) >= 3:
                place = '/'.join(parts[:-2])
                found.append(Picture(f'{side}/{"/".join(parts)}', parts[-2], place, False, file))
                found[-1] = replace(found[-1], labelled=side == 'train')
    if not found:
        raise ConfigError(
            f"'{path}' is not OpenLORIS-Object: expected train/<task>/<object>/*.jpg and test/..."
        )
    return found


def grocery_products(path: Path) -> list[Picture]:
    """
    Read the grocery photographs for searching settings, told apart by product instead of kind:
    as many labels as the reported kinds are.
    """
    return [replace(p, label=p.product) for p in grocery(path, reported=False)]


READERS: dict[str, Callable[[Path], list[Picture]]] = {
    'recording': recording,
    'images': image_folder,
    'grocery': grocery,
    'grocery_search': partial(grocery, reported=False),
    'grocery_products': grocery_products,
    'core50': core50,
    'openloris': openloris,
}


def _number(name: str) -> int:
    digits = ''.join(c for c in name if c.isdigit())
    return int(digits) if digits else 0
