# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things with their boxes to COCO and Label Studio, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from test_things import KEY, Office, picture, RED

from etuner_ros.core.images.codec import decode, encoded_size
from etuner_ros.core.labels.files import export, FORMATS, import_
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey, Place
from etuner_ros.core.labels.store import LabelStore

CORNER = (0.0, 180.4, 60.3, 59.6)  # not in whole px, at the border


def said(store: LabelStore) -> list[tuple[Any, ...]]:
    found = ((s.key, s.label, s.author, s.image) for s in store.labelled())
    return sorted(found, key=repr)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    """Return an office with two things in a frame that is stored at half its size, and more."""
    made = Office(tmp_path)
    made.say(RED, 'cup')
    made.say(CORNER, 'frames')  # a label that is called as a folder of ours
    made.store.add(
        Frame(FrameKey('camera', 1, 'eye', 6), picture(), 'jpeg', 'desk', 0.5, 0, 1),
        'desk',
        'ann',
        0,
    )
    return made


@pytest.mark.parametrize('kind', FORMATS)
def test_labels_boxes_and_pictures_are_the_same_after_export_and_import(office, tmp_path, kind):
    assert export(office.store, tmp_path / 'out', kind).pictures == 3
    other = LabelStore(tmp_path / 'other.db')
    assert import_(other, tmp_path / 'out', 'ann', 0).added == 3
    assert said(other) == said(office.store)
    assert import_(other, tmp_path / 'out', 'ann', 0).known == 3, 'nothing twice'
    if kind != 'folder':
        assert other.exact(KEY).image == office.store.exact(KEY).image


def test_coco_has_the_things_of_a_frame_in_one_image_in_its_own_px(office, tmp_path):
    export(office.store, tmp_path / 'out', 'coco')
    raw = json.loads((tmp_path / 'out' / 'annotations.json').read_text())
    assert len(raw['images']) == 2
    names = {c['id']: c['name'] for c in raw['categories']}
    found = {names[a['category_id']]: a for a in raw['annotations']}
    image = next(i for i in raw['images'] if i['id'] == found['cup']['image_id'])
    assert found['frames']['image_id'] == image['id']
    data = (tmp_path / 'out' / image['file_name']).read_bytes()
    assert encoded_size(data) == (image['width'], image['height']) == (160, 120)
    assert found['cup']['bbox'] == pytest.approx([v / 2 for v in RED])
    x, y, width, height = (round(v) for v in found['cup']['bbox'])
    inside = decode(data)[y : y + height, x : x + width].reshape(-1, 3).mean(axis=0)
    assert inside[0] > 180, 'where the thing is'
    assert found['desk']['bbox'] == [0, 0, 320, 240]


def test_two_things_in_one_place_are_said_and_the_first_counts(office, tmp_path):
    export(office.store, tmp_path / 'out', 'coco')
    path = tmp_path / 'out' / 'annotations.json'
    raw = json.loads(path.read_text())
    cup = next(c['id'] for c in raw['categories'] if c['name'] == 'cup')
    desk = next(c['id'] for c in raw['categories'] if c['name'] == 'desk')
    first = next(a for a in raw['annotations'] if a['category_id'] == cup)
    raw['annotations'].append({**first, 'id': 99, 'category_id': desk})
    path.write_text(json.dumps(raw))
    other = LabelStore(tmp_path / 'other.db')
    result = import_(other, tmp_path / 'out', 'ann', 0)
    assert result.added == 3
    assert "one place is called 'cup' and 'desk'" in result.problems[0]
    assert said(other) == said(office.store)
    again = import_(other, tmp_path / 'out', 'ann', 0)
    assert (again.added, again.known, len(again.problems)) == (0, 3, 1)
    assert said(other) == said(office.store)


def test_label_studio_has_boxes_in_percent(office, tmp_path):
    export(office.store, tmp_path / 'out', 'labelstudio')
    tasks = json.loads((tmp_path / 'out' / 'tasks.json').read_text())
    results = [r for t in tasks for a in t['annotations'] for r in a['result']]
    cup = next(r for r in results if r['value'].get('rectanglelabels') == ['cup'])
    assert cup['type'] == 'rectanglelabels'
    assert (cup['original_width'], cup['original_height']) == (160, 120)
    sides = [cup['value'][n] for n in ('x', 'y', 'width', 'height')]
    assert sides == pytest.approx([31.25, 25.0, 25.0, 100 / 6])
    assert [r['value']['choices'] for r in results if r['type'] == 'choices'] == [['desk']]
    assert tasks[0]['predictions'] or tasks[1]['predictions']
    project = ElementTree.parse(tmp_path / 'out' / 'labeling_config.xml').getroot()
    for result in results:
        (control,) = project.findall(f"*[@name='{result['from_name']}']")
        assert control.tag.lower() == result['type']
        assert control.get('toName') == result['to_name']
        said = next(v[0] for v in result['value'].values() if isinstance(v, list))
        assert said in [c.get('value') for c in control]


@pytest.mark.parametrize('kind', ['coco', 'labelstudio'])
def test_where_the_frame_made_room_what_was_cut_out_goes_alone(office, tmp_path, kind):
    office.store._database.execute(
        "UPDATE frames SET image = NULL, size = 0 WHERE place = '' AND label = ''"
    )
    assert export(office.store, tmp_path / 'out', kind).pictures == 3
    other = LabelStore(tmp_path / 'other.db')
    assert import_(other, tmp_path / 'out', 'ann', 0).added == 3
    assert said(other) == said(office.store)
    (tmp_path / 'out' / 'etuner.json').unlink()
    again = LabelStore(tmp_path / 'again.db')
    import_(again, tmp_path / 'out', 'ann', 0)
    assert said(again) == said(office.store), 'the names of the files say it, too'


def test_what_was_skipped_in_label_studio_is_no_label_and_what_is_rotated_is_said(tmp_path):
    for number in range(3):
        (tmp_path / f'{number}.jpg').write_bytes(picture())

    def result(label: str, angle: float) -> dict[str, Any]:
        box = {'x': 31.25, 'y': 25.0, 'width': 25.0, 'height': 100 / 6, 'rotation': angle}
        return {'type': 'rectanglelabels', 'value': {**box, 'rectanglelabels': [label]}}

    def task(number: int, *annotations: dict[str, Any]) -> dict[str, Any]:
        return {
            'data': {'image': f'/data/local-files/?d={number}.jpg'},
            'annotations': list(annotations),
        }

    skipped = {'was_cancelled': True, 'result': [result('skipped', 0)]}
    said = {'was_cancelled': False, 'result': [result('cup', 0), result('bowl', 30)]}
    tasks = [task(0, skipped, said), task(1, skipped), task(2, {'result': [result('vase', 360)]})]
    (tmp_path / 'tasks.json').write_text(json.dumps(tasks))
    store = LabelStore(tmp_path / 'labels.db')
    found = import_(store, tmp_path / 'tasks.json', 'ann', 0)
    assert [(s.label, s.place.box) for s in store.labelled()] == [('cup', RED), ('vase', RED)]
    assert found.problems == ['0.jpg: its rectangle is rotated by 30 degrees']


@pytest.mark.parametrize('size', [{}, {'width': 320}, {'width': 0, 'height': 0}])
def test_boxes_in_pictures_whose_size_is_not_said_become_things_too(tmp_path, size):
    (tmp_path / 'a.jpg').write_bytes(picture())
    (tmp_path / 'b.jpg').write_bytes(b'no picture')
    raw = {
        'images': [{'id': n, 'file_name': f'{n}.jpg', **size} for n in 'abc'],
        'categories': [{'id': 1, 'name': 'cup'}],
        'annotations': [
            {'image_id': n, 'category_id': 1, 'bbox': list(RED)} for n in ('a', 'b', 'c')
        ],
    }
    (tmp_path / 'annotations.json').write_text(json.dumps(raw))
    store = LabelStore(tmp_path / 'labels.db')
    found = import_(store, tmp_path / 'annotations.json', 'ann', 0)
    assert [(s.label, s.place) for s in store.labelled()] == [('cup', Place(*RED, 320, 240))]
    assert [p.partition(':')[0] for p in found.problems] == ['b.jpg', 'c.jpg']
    assert 'unknown format' in found.problems[0]


@pytest.mark.parametrize('kind', FORMATS)
def test_what_can_not_be_read_is_left_out_of_an_export_and_named(office, tmp_path, kind):
    key = FrameKey('camera', 2, 'eye', 7)
    office.store.add(Frame(key, b'no picture', 'jpeg', '', 0.5, 0, 1), 'desk', 'ann', 0)
    where = 'source = ? AND stamp_ns = ? AND frame_id = ?'
    office.store._database.execute(  # the frame that both things are in
        f"UPDATE frames SET image = ? WHERE place = '' AND {where}", (b'gone', *KEY.moment)
    )
    done = export(office.store, tmp_path / 'out', kind)
    assert done.pictures == 3, 'what was cut out is kept'
    named = [p.partition(':')[0] for p in done.problems]
    whole = f'camera~{KEY.stamp_ns}~eye~5.jpg'
    assert named == [*([] if kind == 'folder' else [whole]), 'camera~2~eye~7.jpg']
    assert all('unknown format' in p for p in done.problems)
    other = LabelStore(tmp_path / 'other.db')
    taken = import_(other, tmp_path / 'out', 'ann', 0)
    assert (taken.added, taken.problems) == (3, [])
    assert said(other) == [s for s in said(office.store) if s[0] != key]


def test_boxes_of_others_become_things(tmp_path):
    (tmp_path / 'a.jpg').write_bytes(picture())
    box = list(RED)
    raw = {
        'images': [{'id': 7, 'file_name': 'a.jpg', 'width': 320, 'height': 240}],
        'categories': [{'id': 1, 'name': 'cup'}, {'id': 2, 'name': 'desk'}],
        'annotations': [
            {'image_id': 7, 'category_id': 1, 'bbox': box},
            {'image_id': 7, 'category_id': 2, 'bbox': [0, 0, 320, 240]},
            {'image_id': 7, 'category_id': 1, 'bbox': [0, 0, 1, 1]},
            {'image_id': 7, 'category_id': 1, 'bbox': [float('nan'), 0, 90, 90]},
        ],
    }
    (tmp_path / 'annotations.json').write_text(json.dumps(raw))
    store = LabelStore(tmp_path / 'labels.db')
    found = import_(store, tmp_path / 'annotations.json', 'ann', 0)
    assert found.added == 2
    assert len(found.problems) == 2
    assert 'not finite' in found.problems[1]
    assert {(s.label, s.place) for s in store.labelled()} == {
        ('cup', Place(*RED, 320, 240)),
        ('desk', None),
    }
    thing = next(s for s in store.labelled() if s.place)
    middle = decode(thing.image)[40, 40].astype(int)
    assert np.abs(middle - (220, 20, 20)).max() < 30


def test_an_annotation_of_coco_that_is_none_is_named_and_the_others_are_taken(tmp_path):
    (tmp_path / '0.jpg').write_bytes(picture())
    image = {'id': 1, 'file_name': '0.jpg', 'width': 320, 'height': 240}
    box = [100, 60, 80, 40]
    annotations = [
        {'image_id': 1, 'category_id': 1, 'bbox': box[:3]},
        {'image_id': 7, 'category_id': 1, 'bbox': box},
        {'image_id': 1, 'category_id': 7, 'bbox': box},
        {'image_id': 1, 'category_id': 1, 'bbox': box},
    ]
    categories = [{'id': 1, 'name': 'cup'}]
    raw = {'images': [image], 'annotations': annotations, 'categories': categories}
    (tmp_path / 'annotations.json').write_text(json.dumps(raw))
    store = LabelStore(tmp_path / 'labels.db')
    found = import_(store, tmp_path / 'annotations.json', 'ann', 0)
    assert [s.label for s in store.labelled()] == ['cup']
    assert [problem.partition(':')[0] for problem in found.problems] == [
        'annotation 1',
        'annotation 2',
        'annotation 3',
    ]
