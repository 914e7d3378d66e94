# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Labels to and from files of other programs: image folder, COCO, Label Studio.

All three keep the pictures as they were stored, in `<label>/` below the folder, and the name of
each frame (source, stamp, frame_id, uid, place of a thing) in its file name, so that an export
can be imported again without making anything twice. What no file name can hold (too long, or
different only by upper and lower case) is shortened to a name of its own, and stands in full in
`etuner.json` beside them.

Things go to an image folder as they were cut out. COCO and Label Studio have them as boxes in
their whole frames, in `frames/`; where the frame made room for others, what was cut out is all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
import hashlib
import json
from pathlib import Path
import re
from typing import Any
from urllib.parse import unquote

from etuner_ros.core.boxes.crops import MARGIN
from etuner_ros.core.boxes.geometry import as_boxes, BoxError, squares
from etuner_ros.core.errors import ImageError, StoreError
from etuner_ros.core.files import replace_file
from etuner_ros.core.images.codec import decode, encoded_size
from etuner_ros.core.labels.annotation_files import (
    Annotated,
    covers,
    from_coco,
    from_studio,
    Mark,
    Shares,
    studio_config,
    to_coco,
    to_studio,
)
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey, LARGEST_SIDE, Place
from etuner_ros.core.labels.records import StoredSample
from etuner_ros.core.labels.spelling import composed
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.labels.things import Things
from etuner_ros.core.names import is_printable

FORMATS = ('folder', 'coco', 'labelstudio')
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
COCO_FILE, STUDIO_FILE = 'annotations.json', 'tasks.json'
STUDIO_CONFIG = 'labeling_config.xml'
FRAMES = 'frames'  # folder of whole frames with things, unless a label is called so
INDEX_FILE = 'etuner.json'  # names in full, of folders and of files
IMPORTED = 'import'  # source of frames that no camera of ours took
LONGEST_LABEL = 1000  # characters; no collector may be set to take longer ones
LONGEST_NAME = 120  # bytes of a label or a source in a file name; file systems take some 255
STAMPS = -(1 << 31) * 10**9, (1 << 31) * 10**9  # ns; seconds of a message have 32 bits
Watch = Callable[[Any], Iterable[Any]]
_OURS = re.compile(
    r'(?P<source>[^~]*)~(?P<stamp>-?\d+)~(?P<frame>[^~]*)(~(?P<uid>[0-9a-f]+))?'
    r'(~(?P<place>\d+(,\d+){5}))?\.\w+'
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


def _file_name(key: FrameKey, image_format: str) -> str:
    kind = 'png' if 'png' in image_format.lower() else 'jpg'
    source, frame_id = (_quoted(t, LONGEST_NAME // 2) for t in (key.source, key.frame_id))
    uid = f'~{key.uid:x}' if key.uid else ''
    place = f'~{key.place}' if key.place else ''
    return f'{source}~{key.stamp_ns}~{frame_id}{uid}{place}.{kind}'


class _Index:
    """What `etuner.json` of a folder says, and without it what the names say."""

    def __init__(self, folder: Path) -> None:
        self._labels: dict[str, str] = {}
        self._frames: dict[str, list[Any]] = {}
        self._sizes: dict[str, list[int]] = {}
        path = folder / INDEX_FILE
        if path.exists():
            try:
                raw = json.loads(path.read_text('utf-8'))
                self._labels, self._frames = dict(raw['labels']), dict(raw['frames'])
                self._sizes = dict(raw.get('sizes', {}))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(f'{path} is damaged: {error}; remove it to go on') from error

    def label(self, folder: str) -> str:
        """Return the label that a folder stands for."""
        return str(self._labels.get(folder, unquote(folder)))

    def key(self, file: Path, name: str, data: bytes) -> FrameKey:
        """
        Return what names the frame of a file; a picture of others by its path and content.

        :raises ImageError: when no frame can have that name
        """
        if file.name in self._frames:
            try:
                source, stamp, frame_id, uid, *place = self._frames[file.name]
                where = Place.of(str(place[0])) if place else None
                key = FrameKey(str(source), int(stamp), str(frame_id), int(uid), where)
            except (ValueError, TypeError, OverflowError) as error:
                raise ImageError(f'what {INDEX_FILE} says of it is damaged: {error}') from error
            return _checked(key)
        if match := _OURS.fullmatch(file.name):
            uid = int(match['uid'] or '0', 16)
            where = Place.of(match['place'] or '')
            source, frame_id = unquote(match['source']), unquote(match['frame'])
            return _checked(FrameKey(source, int(match['stamp']), frame_id, uid, where))
        uid = int.from_bytes(hashlib.sha256(data).digest()[:8], 'big')
        return FrameKey(IMPORTED, 0, name, uid)

    def size(self, name: str) -> tuple[int, int] | None:
        """
        Return how large the camera has a frame of which things are given, in px.

        :raises ImageError: when no image has that size
        """
        size = self._sizes.get(name)
        if not size:
            return None
        try:
            width, height = map(int, size)
        except (ValueError, TypeError, OverflowError) as error:
            raise ImageError(f'its size in {INDEX_FILE} is damaged: {error}') from error
        if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            raise ImageError(f'no image has the size in {INDEX_FILE}, {width} x {height} px')
        return width, height


def _checked(key: FrameKey) -> FrameKey:
    """
    Return what names a frame, when messages and the store can hold it.

    :raises ImageError: when they can not
    """
    if not STAMPS[0] <= key.stamp_ns < STAMPS[1]:
        raise ImageError(f'no message can have its stamp, {key.stamp_ns} ns')
    if not 0 <= key.uid < 1 << 64:
        raise ImageError(f'no frame can have its number, {key.uid:x}')
    if key.place and not key.place.is_sound:
        raise ImageError(f'its place {key.place} is no box in an image')
    return key


class _Writer:
    """
    Writes pictures, and keeps what is said of them.

    :param boxes: things are boxes in their frames, as far as these are kept
    """

    def __init__(self, store: LabelStore, folder: Path, boxes: bool) -> None:
        self._store, self._folder, self._boxes = store, folder, boxes
        self._labels, self._files = _Names(), _Names()
        self._frames: dict[str, list[Any]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._pictures: dict[FrameKey, Annotated | None] = {}  # whole frames; None: not kept
        self.pictures: list[Annotated] = []
        self.problems: list[str] = []

    def write(self, sample: StoredSample) -> bool:
        """Write a sample; return whether its picture is one."""
        key, place = sample.key, sample.place
        if place is not None and not place.is_sound:  # an earlier release took any
            name = _file_name(key, sample.image_format)
            self.problems.append(f'{name}: its place is no box in an image')
            return False
        if place is not None and self._boxes:
            whole = self._whole(key.whole, place)
            if whole is not None:
                whole.marks.append((sample, _shares(place)))
                return True
        folder = self._labels.of(sample.label, _quoted(sample.label))
        picture = self._put(folder, key, sample.image, sample.image_format)
        if picture is None:
            return False
        picture.marks.append((sample, _in_its_square(place) if place else None))
        return True

    def _whole(self, key: FrameKey, place: Place) -> Annotated | None:
        """Return the frame that a thing is in, which is written once; None when it is not kept."""
        if key not in self._pictures:
            frame = self._store.exact(key)
            self._pictures[key] = None
            if frame is not None and frame.image:
                folder = self._labels.of('', FRAMES)
                picture = self._put(folder, key, frame.image, frame.image_format)
                if picture is not None:
                    self._sizes[picture.name] = place.image_width, place.image_height
                self._pictures[key] = picture
        return self._pictures[key]

    def _put(self, folder: str, key: FrameKey, data: bytes, image_format: str) -> Annotated | None:
        """Write a picture; None where it can not be read."""
        try:
            size = encoded_size(data)
        except ImageError as error:
            self.problems.append(f'{_file_name(key, image_format)}: {error}')
            return None
        file = self._files.of(f'{folder}/{key!r}', _file_name(key, image_format))
        (self._folder / folder).mkdir(exist_ok=True)
        with (self._folder / folder / file).open('xb') as stream:  # nothing is overwritten
            stream.write(data)
        self._frames[file] = [key.source, key.stamp_ns, key.frame_id, key.uid]
        if key.place:
            self._frames[file].append(str(key.place))
        self.pictures.append(Annotated(f'{folder}/{file}', *size))
        return self.pictures[-1]

    def index(self) -> dict[str, Any]:
        """Return what stands in `etuner.json`."""
        labels = {name: label for label, name in self._labels.names.items() if label}
        return {'labels': labels, 'frames': self._frames, 'sizes': self._sizes}


def _shares(place: Place) -> Shares:
    """Return a box as shares of its image."""
    wide, high = place.image_width, place.image_height
    return place.x / wide, place.y / high, place.width / wide, place.height / high


def _in_its_square(place: Place) -> Shares:
    """Return a box as shares of the square that was cut out around it."""
    x, y, side, _ = map(float, squares(as_boxes([place.box]), MARGIN)[0])
    return (place.x - x) / side, (place.y - y) / side, place.width / side, place.height / side


@dataclass(frozen=True)
class Exported:
    """What an export did."""

    pictures: int  # and things
    problems: list[str]


def export(
    store: LabelStore, folder: Path, kind: str = 'folder', watch: Watch = lambda samples: samples
) -> Exported:
    """
    Write all labelled pictures and things that are kept.

    Pictures that can't be read are named and left out.

    :param kind: 'folder' (`<label>/<frame>.jpg`), 'coco' (and `annotations.json`, the box of what
        is said of a whole picture being all of it) or 'labelstudio' (and `tasks.json`,
        with `labeling_config.xml` for its project)
    :param watch: passes the samples on, to show how far it is
    :raises StoreError: when the folder can't be written or holds something already
    """
    if kind not in FORMATS:
        raise StoreError(f"the format '{kind}' is unknown; known: {', '.join(FORMATS)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StoreError(f'the folder {folder} is not empty; name one that is')
        count, writer = 0, _Writer(store, folder, boxes=kind != 'folder')
        for sample in watch(store.labelled()):
            count += writer.write(sample)
        replace_file(folder / INDEX_FILE, json.dumps(writer.index(), indent=1).encode())
        if kind == 'coco':
            raw: Any = to_coco(writer.pictures)
            replace_file(folder / COCO_FILE, json.dumps(raw, indent=1).encode())
        elif kind == 'labelstudio':
            raw = to_studio(writer.pictures)
            replace_file(folder / STUDIO_FILE, json.dumps(raw, indent=1).encode())
            replace_file(folder / STUDIO_CONFIG, studio_config(writer.pictures).encode())
    except OSError as error:
        raise StoreError(
            f'the export to {folder} failed: {error.strerror or error}; '
            f'what was written may be incomplete'
        ) from error
    return Exported(count, writer.problems)


@dataclass
class Imported:
    """What an import did."""

    added: int = 0
    known: int = 0  # the same label was there already
    disputed: dict[str, int] = field(default_factory=dict)  # by author: labels that contradict
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

    A box that is not the whole picture is a thing in it. Pictures that can't be read are named and
    left out; the rest is taken. A label that counts already gets no second vote.

    :param path: a folder, or the JSON file of the other two
    :param watch: passes the pictures on, to show how far it is
    :raises StoreError: when there is nothing to import, or the disk does not take it
    """
    if not path.exists():
        raise StoreError(f'{path} does not exist')
    result, problems = Imported(), []
    index = _Index(path if path.is_dir() else path.parent)
    things = Things(store)
    here: dict[FrameKey, str] = {}  # what this import says
    for file, mark in watch(list(_marks(path, index))):
        label, name = composed(mark.label.strip()), mark.name
        try:
            if mark.problem:
                raise ImageError(mark.problem)
            if not label or len(label) > longest_label or not is_printable(label):
                raise ImageError(f'its label {label[:40]!r} is empty, too long or not printable')
            data = file.read_bytes()
            height, width = decode(data).shape[:2]
            kind = 'png' if file.suffix.lower() == '.png' else 'jpeg'
            size = index.size(name)
            whole = Frame(
                index.key(file, name, data), data, kind, '', 0.0, 0.0, 0, size or (width, height)
            )
            if not _is_utf8(whole.key.source + whole.key.frame_id):
                raise ImageError('its name is not UTF-8')
            frame = whole
            # What was cut out is there as its picture; all that is given of our frames are things.
            if mark.box and not whole.key.place and (size or not covers(mark.box)):
                frame = _thing(things, whole, mark.box)
        except (OSError, ImageError, BoxError) as error:
            problems.append(f'{_shown(name)}: {error}')
            continue
        if (before := here.get(frame.key, label)) != label:
            problems.append(
                f'{_shown(name)}: one place is called {before!r} and {label!r}; the first one '
                f'counts'
            )
            continue
        here[frame.key] = label
        # A second vote for what counts already would outvote whoever corrects that later.
        kept = store.exact(frame.key)
        counts = label == store.label_of(frame.key)
        said = counts or store.is_duplicate(frame.key, label, author)
        if said and kept is not None and kept.image:  # else its picture comes back
            result.known += 1
            continue
        stored = store.add(frame, label, author, received_ns, 0, None if frame is whole else whole)
        result.added += 1
        if stored.label != label:
            for other in [name for name, said in stored.said.items() if said != label]:
                result.disputed[other] = result.disputed.get(other, 0) + 1
    result.problems = problems
    if not result.added and not result.known:
        reason = f'; first problem: {problems[0]}' if problems else ''
        raise StoreError(
            f'{path} holds no labelled picture: a folder <label>/*.jpg, a COCO or a Label Studio '
            f'JSON file is needed{reason}'
        )
    return result


def _is_utf8(text: str) -> bool:
    """Return whether a text can be stored; names of files in other encodings can not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(name: str) -> str:
    """Return the name of a picture as it can be shown on one line."""
    return name if is_printable(name) else ascii(name)[1:-1]


def _thing(things: Things, whole: Frame, box: Shares) -> Frame:
    """Return the thing in a frame that a box means, as nobody has said what it was taken for."""
    width, height = whole.size
    x, y, wide, high = box
    return things.of(whole, (x * width, y * height, wide * width, high * height))


def _file_of(path: Path, name: str) -> Path:
    """
    Return the picture that a file of annotations names.

    :raises StoreError: when it lies outside the folder of that file
    :raises ImageError: when no file can have that name
    """
    try:
        file = (path.parent / name).resolve()
    except ValueError as error:  # a NUL in it, or half of a character
        raise ImageError(f'no file can have that name: {error}') from error
    if not file.is_relative_to(path.parent.resolve()):
        raise StoreError(f"{path} names '{name[:100]}', which lies outside its folder")
    return file


def _measure(path: Path, name: str) -> tuple[int, int]:
    """
    Return width and height in px of a picture that a file of annotations names.

    :raises StoreError: when it lies outside the folder of that file
    :raises OSError, ImageError: when it can not be read
    """
    width, height = encoded_size(_file_of(path, name).read_bytes())
    if not (width and height):
        raise ImageError('it says that it has no pixels')
    return width, height


def _has_marks(file: Path) -> bool:
    """Return whether a file says of many pictures what they show, as COCO does."""
    try:
        raw = json.loads(file.read_text('utf-8-sig'))
    except (OSError, ValueError):
        return False
    if isinstance(raw, dict):
        return {'images', 'annotations'} <= set(raw)
    return isinstance(raw, list) and any(isinstance(r, dict) and 'annotations' in r for r in raw)


def _marks(path: Path, index: _Index) -> Iterator[tuple[Path, Mark]]:
    """Yield pictures and what is said of them."""
    if path.is_dir():
        for known in (COCO_FILE, STUDIO_FILE):
            if (path / known).exists():
                yield from _marks(path / known, index)
                return
        for other in sorted([*path.glob('*.json'), *path.glob('*/*.json')]):
            if _has_marks(other):  # `images` or `train` beside it is no class
                raise StoreError(
                    f'{path} holds {other.relative_to(path)}: import that file by its name, not '
                    f'the folder'
                )
        for file in sorted(path.glob('*/*')):
            if file.suffix.lower() in PICTURES:
                name = f'{file.parent.name}/{file.name}'
                yield file, Mark(name, index.label(file.parent.name))
        return
    try:
        raw = json.loads(path.read_text('utf-8-sig'))
        measured = cache(partial(_measure, path))
        marks = list(from_coco(raw, measured) if isinstance(raw, dict) else from_studio(raw))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f'{path} is neither COCO nor Label Studio JSON: {error}') from error
    labelled: set[str] = set()
    for mark in marks:
        if mark.problem:
            yield path, mark
            continue
        try:
            file, scaled = _file_of(path, mark.name), index.size(mark.name) is not None
        except ImageError as error:
            yield path, replace(mark, problem=str(error))
            continue
        if mark.box is None or (covers(mark.box) and not scaled):
            if mark.name in labelled:
                continue  # one label a picture: the first
            labelled.add(mark.name)
        yield file, mark
