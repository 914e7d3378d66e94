# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The map of the code: who imports whom is as docs/architecture.md says, and what it names is there."""

from __future__ import annotations

import ast
from pathlib import Path
import re
import runpy
from typing import Any
from xml.etree import ElementTree

import pytest


@pytest.fixture(scope='module')
def tool(repository: Path) -> dict[str, Any]:
    return runpy.run_path(str(repository / 'tools' / 'docs_map.py'))


@pytest.fixture(scope='module')
def page(repository: Path) -> str:
    return (repository / 'docs' / 'architecture.md').read_text()


def written(tool: dict[str, Any], folder: Path, files: dict[str, str]) -> dict[str, Any]:
    for name, text in files.items():
        path = folder / 'etuner_ros' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tool['modules'](folder)


def test_every_module_imports_only_what_its_room_may(tool):
    assert tool['offences'](tool['rooms'](), tool['modules']()) == []


def test_no_modules_import_each_other_in_a_circle(tool):
    parts = tool['modules']()
    graph = {name: part.at_top & parts.keys() for name, part in parts.items()}
    assert tool['circles'](graph) == []


def test_the_core_may_import_neither_nodes_nor_ros_nor_what_is_above_it(tool):
    rules = tool['rooms']()
    order = ['core', 'core/images', 'core/boxes', 'core/labels', 'core/decide', 'core/models']
    order += ['core/serve', 'core/learn']
    for place, room in enumerate(order):
        assert rules[room].may_import <= set(order[:place])
        assert 'ROS' not in rules[room].outside
    assert rules['core/tune'].may_import == {'core', 'core/labels', 'core/decide', 'core/boxes'}
    for room in ('core/labels', 'core/tune', 'core/images'):
        assert 'torch' not in rules[room].outside
    assert rules['core/decide'].outside == {'torch': {'cka.py'}}
    assert 'core/learn' not in rules['nodes'].may_import


def test_a_wrong_import_is_found_also_inside_a_function(tool, tmp_path):
    parts = written(
        tool,
        tmp_path,
        {
            'nodes/one.py': 'import rclpy\n',
            'core/labels/two.py': 'def f():\n    from etuner_ros.nodes import one\n',
            'core/decide/three.py': 'import torch\n',
            'core/decide/cka.py': 'import torch\n',
            'core/four.py': 'from std_msgs.msg import Header\n',
            'attic/five.py': '',
        },
    )
    found = tool['offences'](tool['rooms'](), parts)
    assert [line.split()[0].rstrip(':') for line in found] == [
        'etuner_ros.attic.five',
        'etuner_ros.core.decide.three',
        'etuner_ros.core.four',
        'etuner_ros.core.labels.two',
    ]


def test_a_circle_is_found_but_not_one_for_type_checkers_only(tool, tmp_path):
    parts = written(
        tool,
        tmp_path,
        {
            'core/a.py': 'import etuner_ros.core.b\n',
            'core/b.py': 'from etuner_ros.core import c\n',
            'core/c.py': 'from etuner_ros.core.a import x\n',
            'core/d.py': 'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n'
            '    import etuner_ros.core.e\n',
            'core/e.py': 'import etuner_ros.core.d\n',
        },
    )
    graph = {name: part.at_top & parts.keys() for name, part in parts.items()}
    assert tool['circles'](graph) == [[f'etuner_ros.core.{name}' for name in 'abc']]


def found_at(repository: Path, name: str) -> Path | None:
    places = (repository / name, repository / 'etuner_ros' / name)
    return next((place for place in places if place.exists()), None)


def test_every_file_that_the_page_names_is_there(repository, page):
    named = set(re.findall(r'`((?:[\w.]+/)+\w+\.(?:py|md|yaml))`', page))
    assert len(named) > 30
    assert [name for name in sorted(named) if found_at(repository, name) is None] == []


def test_every_class_that_the_page_names_is_in_the_file_before_it(repository, page):
    pairs = re.findall(r'`((?:\w+/)+\w+\.py)` `(\w+)(?:\.(\w+))?`', page)
    assert len(pairs) > 15
    for file, name, method in pairs:
        path = found_at(repository, file)
        assert path, file
        tree = ast.parse(path.read_text())
        kinds = {n.name: n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
        assert name in kinds, f'{file}: {name}'
        if method:
            assert method in {getattr(n, 'name', '') for n in ast.walk(kinds[name])}


def test_the_picture_shows_every_module_and_cuts_no_text(tool):
    parts = tool['modules']()
    svg = ElementTree.fromstring(tool['picture'](parts))
    left, top, width, height = map(float, svg.attrib['viewBox'].split())
    texts = [t for t in svg.iter() if t.tag.endswith('}text')]
    shown = [(t.text or '').strip() for t in texts]
    for part in parts.values():
        if part.short != '__init__':
            assert part.short in shown, part.name
    for text in texts:
        x, y = float(text.attrib['x']), float(text.attrib['y'])
        assert left <= x <= left + width
        assert top <= y <= top + height
    rects = [r.attrib for r in svg.iter() if r.tag.endswith('}rect')]
    assert all(float(r['x']) + float(r['width']) <= left + width for r in rects)
    assert all(float(r['y']) + float(r['height']) <= top + height for r in rects)


def test_the_site_gets_picture_and_parts(tool, page):
    text = tool['filled'](page)
    assert '<svg' in text
    assert '| | `gate.py` |' in text
    assert 'make docs` draws the picture' not in text
