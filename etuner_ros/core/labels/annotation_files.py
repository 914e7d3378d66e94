# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Annotations as COCO and Label Studio write them: labels of pictures, and of boxes in them.

Boxes are, in between, shares of the picture: x, y, width, height in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlparse
from xml.sax.saxutils import quoteattr

from etuner_ros.core.errors import ImageError
from etuner_ros.core.labels.records import StoredSample

Shares = tuple[float, float, float, float]
WHOLE = 1e-3  # of its side that a box may leave of a picture that it means as a whole


@dataclass(frozen=True)
class Annotated:
    """A picture that was written, and what is said of it."""

    name: str  # relative to the folder
    width: int  # px
    height: int
    marks: list[tuple[StoredSample, Shares | None]] = field(
        default_factory=list
    )  # None: of it all


@dataclass(frozen=True)
class Mark:
    """What a file says of a picture, or of a box in it."""

    name: str  # of the picture, relative to the folder
    label: str
    box: Shares | None = None  # None: no box is given
    problem: str = ''  # why it can not be taken


def covers(box: Shares) -> bool:
    """Return whether a box is the whole picture."""
    x, y, width, height = box
    return max(x, y) <= WHOLE and min(x + width, y + height) >= 1 - WHOLE


def to_coco(pictures: list[Annotated]) -> dict[str, Any]:
    """Return a COCO file; the box of a label of a whole picture is the whole picture."""
    labels = sorted({sample.label for p in pictures for sample, _ in p.marks})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, picture in enumerate(pictures, start=1):
        width, height = picture.width, picture.height
        images.append({'id': number, 'file_name': picture.name, 'width': width, 'height': height})
        for sample, box in picture.marks:
            x, y, wide, high = box or (0, 0, 1, 1)
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': number,
                    'category_id': labels.index(sample.label) + 1,
                    'bbox': [x * width, y * height, wide * width, high * height],
                    'area': wide * width * high * height,
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


def from_coco(raw: dict[str, Any], measured: Callable[[str], tuple[int, int]]) -> Iterator[Mark]:
    """
    Yield what a COCO file says.

    :param measured: returns width and height in px of a picture of which the file does not say
        them; raises OSError, ImageError
    :raises KeyError, TypeError, ValueError: when it is none
    """
    images = {i['id']: i for i in raw['images']}
    labels = {c['id']: str(c['name']) for c in raw['categories']}
    for number, annotation in enumerate(raw['annotations'], start=1):
        try:
            image = images[annotation['image_id']]
            label = labels[annotation['category_id']]
            yield _coco_mark(image, label, annotation.get('bbox'), measured)
        except (OSError, ImageError) as error:
            yield Mark(str(image['file_name']), label, problem=str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield Mark(f'annotation {number}', '', problem=f'it can not be read: {error!r}')


def _coco_mark(
    image: dict[str, Any], label: str, box: Any, measured: Callable[[str], tuple[int, int]]
) -> Mark:
    """
    Return what an annotation says.

    :raises OSError, ImageError: when nobody knows how large the picture is
    :raises KeyError, TypeError, ValueError: when it says nothing
    """
    name = str(image['file_name'])
    if not box:
        return Mark(name, label)
    width, height = image.get('width'), image.get('height')
    if not (width and height):
        width, height = measured(name)
    x, y, wide, high = map(float, box)
    return Mark(name, label, (x / width, y / height, wide / width, high / height))


def studio_config(pictures: list[Annotated]) -> str:
    """Return the set-up of a Label Studio project that tasks of `to_studio` fit."""
    labels = sorted({sample.label for picture in pictures for sample, _ in picture.marks})
    names = [quoteattr(label) for label in labels]
    lines = [
        '<View>',
        '  <Image name="image" value="$image"/>',
        '  <Choices name="label" toName="image" choice="single">',
        *(f'    <Choice value={name}/>' for name in names),
        '  </Choices>',
        '  <RectangleLabels name="box" toName="image" canRotate="false">',
        *(f'    <Label value={name}/>' for name in names),
        '  </RectangleLabels>',
        '</View>',
    ]
    return '\n'.join(lines) + '\n'


def to_studio(pictures: list[Annotated]) -> list[dict[str, Any]]:
    """Return tasks of Label Studio: `choices` for whole pictures, `rectanglelabels` for things."""

    def result(picture: Annotated, label: str, box: Shares | None) -> dict[str, Any]:
        if box is None:
            value: dict[str, Any] = {'choices': [label]}
            return {'from_name': 'label', 'to_name': 'image', 'type': 'choices', 'value': value}
        names = ('x', 'y', 'width', 'height')
        value = {name: 100 * share for name, share in zip(names, box)}
        return {
            'from_name': 'box',
            'to_name': 'image',
            'type': 'rectanglelabels',
            'original_width': picture.width,
            'original_height': picture.height,
            'value': {**value, 'rotation': 0, 'rectanglelabels': [label]},
        }

    tasks = []
    for picture in pictures:
        said = [result(picture, sample.label, box) for sample, box in picture.marks]
        predicted = [
            result(picture, sample.predicted, box)
            for sample, box in picture.marks
            if sample.predicted
        ]
        authors = sorted({sample.author for sample, _ in picture.marks})
        tasks.append(
            {
                'data': {'image': f'/data/local-files/?d={quote(picture.name)}'},
                'annotations': [{'result': said}],
                'predictions': [{'result': predicted}] if predicted else [],
                'meta': {'author': ', '.join(authors)},
            }
        )
    return tasks


def from_studio(raw: list[dict[str, Any]]) -> Iterator[Mark]:
    """
    Yield what tasks of Label Studio say; of several annotations of a task the first one counts.

    :raises KeyError, TypeError, ValueError, AttributeError: when it is no such file
    """
    for task in raw:
        url = urlparse(str(task['data']['image']))
        name = parse_qs(url.query).get('d', [unquote(url.path)])[0]
        for annotation in task.get('annotations', []):
            if annotation.get('was_cancelled'):  # the annotator skipped it
                continue
            marks = list(_studio_marks(name, annotation['result']))
            if marks:
                yield from marks
                break


def _studio_marks(name: str, results: list[dict[str, Any]]) -> Iterator[Mark]:
    for result in results:
        try:
            mark = _studio_mark(name, result)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            mark = Mark(name, '', problem=f'what is said of it can not be read: {error}')
        if mark is not None:
            yield mark


def _studio_mark(name: str, result: dict[str, Any]) -> Mark | None:
    """Return what a result says of a picture; None when it is no label."""
    value = result.get('value', {})
    if result.get('type') == 'choices':
        return Mark(name, str(value['choices'][0]))
    if result.get('type') != 'rectanglelabels' or not value['rectanglelabels']:
        return None
    x, y, width, height = (float(value[n]) / 100 for n in ('x', 'y', 'width', 'height'))
    label = str(value['rectanglelabels'][0])
    angle = float(value.get('rotation') or 0.0)
    problem = f'its rectangle is rotated by {angle:g} degrees' if angle % 360 else ''
    return Mark(name, label, (x, y, width, height), problem)
