# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Labels to and from files of other programs: image folder, COCO, Label Studio.

All three keep the pictures as they were stored, in `<label>/` below the folder, and the name of
each frame (source, stamp, frame_id) in its file name, so that an export can be imported again
without making anything twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
import json
from pathlib import Path
import re
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlparse

from etuner_ros.core.errors import ImageError, StoreError
from etuner_ros.core.files import replace_file
from etuner_ros.core.images.codec import decode
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.store import LabelStore, StoredSample

FORMATS = ('folder', 'coco', 'labelstudio')
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
COCO_FILE, STUDIO_FILE = 'annotations.json', 'tasks.json'
IMPORTED = 'import'  # source of frames that no camera of ours took
Watch = Callable[[Any], Iterable[Any]]
_OURS = re.compile(r'(?P<source>[^~]*)~(?P<stamp>\d+)~(?P<frame>[^~]*)\.\w+')


def _safe(text: str) -> str:
    """Return text as a name of a file or folder, from which `unquote` makes it again."""
    name = quote(text, safe=' ()+,-_=')  # a dot, a slash and a tilde are quoted
    return name.replace('.', '%2E').replace('~', '%7E')[:100]


def _file_name(sample: StoredSample) -> str:
    kind = 'png' if 'png' in sample.image_format.lower() else 'jpg'
    return f'{_safe(sample.source)}~{sample.stamp_ns}~{_safe(sample.frame_id)}.{kind}'


def _key(path: Path, name: str) -> FrameKey:
    match = _OURS.fullmatch(path.name)
    if match:
        return FrameKey(unquote(match['source']), int(match['stamp']), unquote(match['frame']))
    return FrameKey(IMPORTED, 0, name)


def export(
    store: LabelStore, folder: Path, kind: str = 'folder', watch: Watch = lambda samples: samples
) -> int:
    """
    Write all labelled pictures that are kept; return their number.

    :param kind: 'folder' (`<label>/<frame>.jpg`), 'coco' (and `annotations.json`, the box of each
        annotation being the whole picture) or 'labelstudio' (and `tasks.json`)
    :param watch: passes the samples on, to show how far it is
    :raises StoreError: when the folder can't be written or holds something already
    """
    if kind not in FORMATS:
        raise StoreError(f"the format '{kind}' is unknown; known: {', '.join(FORMATS)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f'the folder {folder} is not empty; name one that is')
        written: list[tuple[StoredSample, str]] = []
        for sample in watch(store.labelled()):
            name = f'{_safe(sample.label)}/{_file_name(sample)}'
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(sample.image)
            written.append((sample, name))
        if kind == 'coco':
            replace_file(folder / COCO_FILE, json.dumps(_coco(written), indent=1).encode())
        elif kind == 'labelstudio':
            replace_file(folder / STUDIO_FILE, json.dumps(_studio(written), indent=1).encode())
    except OSError as error:
        raise StoreError(
            f'the export to {folder} failed: {error.strerror or error}; '
            f'what was written may be incomplete'
        ) from error
    return len(written)


def _coco(written: list[tuple[StoredSample, str]]) -> dict[str, Any]:
    labels = sorted({sample.label for sample, _ in written})
    images, annotations = [], []
    for number, (sample, name) in enumerate(written, start=1):
        height, width = decode(sample.image).shape[:2]
        images.append({'id': number, 'file_name': name, 'width': width, 'height': height})
        annotations.append(
            {
                'id': number,
                'image_id': number,
                'category_id': labels.index(sample.label) + 1,
                'bbox': [0, 0, width, height],
                'area': width * height,
                'iscrowd': 0,
                'attributes': {'author': sample.author, 'predicted': sample.predicted},
            }
        )
    return {
        'info': {'description': 'labels of etuner_ros'},
        'images': images,
        'annotations': annotations,
        'categories': [{'id': i, 'name': label} for i, label in enumerate(labels, start=1)],
    }


def _studio(written: list[tuple[StoredSample, str]]) -> list[dict[str, Any]]:
    def choice(label: str) -> list[dict[str, Any]]:
        value = {'choices': [label]}
        return [{'from_name': 'label', 'to_name': 'image', 'type': 'choices', 'value': value}]

    return [
        {
            'data': {'image': f'/data/local-files/?d={quote(name)}'},
            'annotations': [{'result': choice(sample.label)}],
            'predictions': [{'result': choice(sample.predicted)}] if sample.predicted else [],
            'meta': {'author': sample.author},
        }
        for sample, name in written
    ]


@dataclass
class Imported:
    """What an import did."""

    added: int = 0
    known: int = 0  # the same label was there already
    problems: list[str] | None = None


def import_(
    store: LabelStore,
    path: Path,
    author: str,
    received_ns: int,
    longest_label: int = 64,
    watch: Watch = lambda pairs: pairs,
) -> Imported:
    """
    Take labels from an image folder `<label>/*.jpg`, a COCO file or a Label Studio file.

    Pictures that can't be read are named and left out; the rest is taken.

    :param path: a folder, or the JSON file of the other two
    :param watch: passes the pictures on, to show how far it is
    :raises StoreError: when there is nothing to import, or the disk does not take it
    """
    if not path.exists():
        raise StoreError(f'{path} does not exist')
    result, problems = Imported(), []
    for file, label, name in watch(list(_pairs(path))):
        label = label.strip()
        try:
            if not label or len(label) > longest_label or not label.isprintable():
                raise ImageError(f'its label {label[:40]!r} is empty, too long or not printable')
            data = file.read_bytes()
            decode(data)
        except (OSError, ImageError) as error:
            problems.append(f'{name}: {error}')
            continue
        key = _key(file, name)
        if store.is_duplicate(key, label, author):
            result.known += 1
            continue
        kind = 'png' if file.suffix.lower() == '.png' else 'jpeg'
        store.add(Frame(key, data, kind, '', 0.0, 0.0, 0), label, author, received_ns)
        result.added += 1
    result.problems = problems
    if not result.added and not result.known:
        reason = f'; first problem: {problems[0]}' if problems else ''
        raise StoreError(
            f'{path} holds no labelled picture: a folder <label>/*.jpg, a COCO or a Label Studio '
            f'JSON file is needed{reason}'
        )
    return result


def _pairs(path: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield picture, label and name relative to the folder."""
    if path.is_dir():
        for known in (COCO_FILE, STUDIO_FILE):
            if (path / known).exists():
                yield from _pairs(path / known)
                return
        for file in sorted(path.glob('*/*')):
            if file.suffix.lower() in PICTURES:
                yield file, unquote(file.parent.name), f'{file.parent.name}/{file.name}'
        return
    try:
        raw = json.loads(path.read_text())
        pairs = _coco_pairs(raw) if isinstance(raw, dict) else _studio_pairs(raw)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StoreError(f'{path} is neither COCO nor Label Studio JSON: {error}') from error
    for name, label in pairs:
        file = (path.parent / name).resolve()
        if not file.is_relative_to(path.parent.resolve()):
            raise StoreError(f"{path} names '{name[:100]}', which lies outside its folder")
        yield file, label, name


def _coco_pairs(raw: dict[str, Any]) -> list[tuple[str, str]]:
    names = {i['id']: str(i['file_name']) for i in raw['images']}
    labels = {c['id']: str(c['name']) for c in raw['categories']}
    first: dict[str, str] = {}  # one label a picture: the first
    for annotation in raw['annotations']:
        first.setdefault(names[annotation['image_id']], labels[annotation['category_id']])
    return list(first.items())


def _studio_pairs(raw: list[dict[str, Any]]) -> list[tuple[str, str]]:
    pairs = []
    for task in raw:
        url = urlparse(str(task['data']['image']))
        name = parse_qs(url.query).get('d', [unquote(url.path)])[0]
        for annotation in task.get('annotations', []):
            choices = [r for r in annotation['result'] if r.get('type') == 'choices']
            if choices:
                pairs.append((name, str(choices[0]['value']['choices'][0])))
                break
    return pairs
