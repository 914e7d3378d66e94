# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Labels to and from files of other programs: image folder, COCO, Label Studio.

All three keep the pictures as they were stored, in `<label>/` below the folder, and the name of
each frame (source, stamp, frame_id, uid) in its file name, so that an export can be imported again
without making anything twice. What no file name can hold (too long, or different only by upper and
lower case) is shortened to a name of its own, and stands in full in `etuner.json` beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
import hashlib
import json
from pathlib import Path
import re
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlparse

from etuner_ros.core.errors import ImageError, StoreError
from etuner_ros.core.files import replace_file
from etuner_ros.core.images.codec import decode
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.records import StoredSample
from etuner_ros.core.labels.store import LabelStore

FORMATS = ('folder', 'coco', 'labelstudio')
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
COCO_FILE, STUDIO_FILE = 'annotations.json', 'tasks.json'
INDEX_FILE = 'etuner.json'  # names in full, of folders and of files
IMPORTED = 'import'  # source of frames that no camera of ours took
LONGEST_LABEL = 1000  # characters; no collector may be set to take longer ones
LONGEST_NAME = 120  # bytes of a label or a source in a file name; file systems take some 255
Watch = Callable[[Any], Iterable[Any]]
_OURS = re.compile(
    r'(?P<source>[^~]*)~(?P<stamp>-?\d+)~(?P<frame>[^~]*)(~(?P<uid>[0-9a-f]+))?\.\w+'
)


class _Names:
    """Names of files or of folders that differ also where upper and lower case do not."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # by what they stand for
        self._taken: set[str] = set()

    def of(self, text: str, wanted: str) -> str:
        """Return the name of a text: the wanted one, unless another text has it."""
        if text not in self.names:
            path = Path(wanted)
            name = (
                _marked(path.stem, text) + path.suffix
                if wanted.casefold() in self._taken
                else wanted
            )
            self._taken.add(name.casefold())
            self.names[text] = name
        return self.names[text]


def _quoted(text: str, longest: int = LONGEST_NAME) -> str:
    """Return text as a name, from which `unquote` makes it again unless it had to be shortened."""
    keep = lambda c: c.isalnum() or c in '()+,-_= '
    parts = [c if keep(c) else ''.join(f'%{b:02X}' for b in c.encode()) for c in text]
    if text[:1] == ' ' or text[-1:] == ' ':
        parts = [p.replace(' ', '%20') for p in parts]
    name = ''.join(parts)
    if len(name.encode()) <= longest:
        return name
    while len(''.join(parts).encode()) > longest - 18:  # room for the mark
        parts.pop()
    return _marked(''.join(parts), text)


def _marked(name: str, text: str) -> str:
    """Add what tells a name from all others; nothing that is quoted looks like it."""
    return f'{name}%-{hashlib.sha256(text.encode()).hexdigest()[:16]}'


def _file_name(sample: StoredSample) -> str:
    kind = 'png' if 'png' in sample.image_format.lower() else 'jpg'
    source, frame_id = (_quoted(t, LONGEST_NAME // 2) for t in (sample.source, sample.frame_id))
    uid = f'~{sample.uid:x}' if sample.uid else ''
    return f'{source}~{sample.stamp_ns}~{frame_id}{uid}.{kind}'


class _Index:
    """What `etuner.json` of a folder says, and without it what the names say."""

    def __init__(self, folder: Path) -> None:
        self._labels: dict[str, str] = {}
        self._frames: dict[str, list[Any]] = {}
        path = folder / INDEX_FILE
        if path.exists():
            try:
                raw = json.loads(path.read_text())
                self._labels, self._frames = dict(raw['labels']), dict(raw['frames'])
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(f'{path} is damaged: {error}; remove it to go on') from error

    def label(self, folder: str) -> str:
        """Return the label that a folder stands for."""
        return str(self._labels.get(folder, unquote(folder)))

    def key(self, file: Path, name: str, data: bytes) -> FrameKey:
        """Return what names the frame of a file; a picture of others by its path and content."""
        if file.name in self._frames:
            source, stamp, frame_id, uid = self._frames[file.name]
            return FrameKey(str(source), int(stamp), str(frame_id), int(uid))
        if match := _OURS.fullmatch(file.name):
            uid = int(match['uid'] or '0', 16)
            return FrameKey(
                unquote(match['source']), int(match['stamp']), unquote(match['frame']), uid
            )
        uid = int.from_bytes(hashlib.sha256(data).digest()[:8], 'big')
        return FrameKey(IMPORTED, 0, name, uid)


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
        labels, files = _Names(), _Names()
        frames: dict[str, list[Any]] = {}
        for sample in watch(store.labelled()):
            place = folder / labels.of(sample.label, _quoted(sample.label))
            file = files.of(repr(sample.key), _file_name(sample))
            place.mkdir(exist_ok=True)
            with (place / file).open('xb') as stream:  # nothing is overwritten
                stream.write(sample.image)
            frames[file] = [sample.source, sample.stamp_ns, sample.frame_id, sample.uid]
            written.append((sample, f'{place.name}/{file}'))
        index = {'labels': {n: label for label, n in labels.names.items()}, 'frames': frames}
        replace_file(folder / INDEX_FILE, json.dumps(index, indent=1).encode())
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
    longest_label: int = LONGEST_LABEL,
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
    index = _Index(path if path.is_dir() else path.parent)
    for file, label, name in watch(list(_pairs(path, index))):
        label = label.strip()
        try:
            if not label or len(label) > longest_label or not label.isprintable():
                raise ImageError(f'its label {label[:40]!r} is empty, too long or not printable')
            data = file.read_bytes()
            decode(data)
        except (OSError, ImageError) as error:
            problems.append(f'{name}: {error}')
            continue
        key = index.key(file, name, data)
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


def _pairs(path: Path, index: _Index) -> Iterator[tuple[Path, str, str]]:
    """Yield picture, label and name relative to the folder."""
    if path.is_dir():
        for known in (COCO_FILE, STUDIO_FILE):
            if (path / known).exists():
                yield from _pairs(path / known, index)
                return
        for file in sorted(path.glob('*/*')):
            if file.suffix.lower() in PICTURES:
                yield file, index.label(file.parent.name), f'{file.parent.name}/{file.name}'
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
