# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Streams, data sets and the virtual clock of the benchmark."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
import tarfile

import cv2
import numpy as np
import pytest

from etuner_ros.bench.datasets import core50, grocery, image_folder, openloris, Picture
from etuner_ros.bench.streams import arrivals, make_stream, Setting, Stream
from etuner_ros.core.errors import ConfigError, ImageError


def _picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (24, 24, 3), np.uint8))


def _pictures(scenarios: int, classes: int, each: int) -> list[Picture]:
    return [
        Picture(f'{s}/{c}/{i}', f'class {c}', f'place {s}', i % 2 == 0, b'', f'{c}/{i % 3}')
        for s in range(scenarios)
        for c in range(classes)
        for i in range(each)
    ]


def test_image_folder_is_split_the_same_way_every_time(tmp_path: Path) -> None:
    for s in ('a', 'b'):
        for c in ('cup', 'ball'):
            for i in range(4):
                _picture(tmp_path / s / c / f'{i}.jpg', i)
    found = image_folder(tmp_path)
    assert found == image_folder(tmp_path)
    assert {(p.scenario, p.label) for p in found} == {
        (s, c) for s in 'ab' for c in ('cup', 'ball')
    }
    for group in {(p.scenario, p.label) for p in found}:
        sides = [p.labelled for p in found if (p.scenario, p.label) == group]
        assert sum(sides) == 2
    with pytest.raises(ConfigError, match='<scenario>/<class>'):
        image_folder(tmp_path / 'a' / 'cup')


def test_published_layouts(tmp_path: Path) -> None:
    for session in ('s1', 's2', 's3', 's11'):
        for frame in range(6):
            _picture(tmp_path / 'core' / session / 'o1' / f'C_{session}_01_{frame:03}.png', frame)
    found = core50(tmp_path / 'core')
    assert sorted({p.scenario for p in found}) == ['s01', 's02', 's11']  # s3 is held out
    first = [p for p in found if p.scenario == 's01']
    assert [p.labelled for p in first] == [True] * 4 + [False] * 2  # the end of the video
    for side in ('train', 'test', 'validation'):
        _picture(tmp_path / 'loris' / side / 'task1' / 'bottle' / '1.jpg', 1)
    sides = {p.labelled: p for p in openloris(tmp_path / 'loris')}
    assert sides[True].name == 'train/task1/bottle/1.jpg'
    assert sides[False].scenario == 'task1'
    with pytest.raises(ConfigError, match='OpenLORIS'):
        openloris(tmp_path / 'core')


def test_grocery_kinds_for_search_are_in_no_report(tmp_path: Path) -> None:
    for side in ('train', 'test'):
        for kind in 'ABCDEF':
            _picture(tmp_path / side / kind / f'Red_{side}_Red_001.jpg', 0)
    file = tmp_path / 'grocery.tar'
    with tarfile.open(file, 'w') as archive:
        for side in ('train', 'test'):
            archive.add(tmp_path / side, side)
    reported, searched = grocery(file), grocery(file, reported=False)
    assert {p.label for p in reported}.isdisjoint({p.label for p in searched})
    assert {p.label for p in reported} | {p.label for p in searched} == set('ABCDEF')
    assert all(p.labelled == p.name.startswith('train') for p in reported)
    assert reported[0].product.endswith('/Red')


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    for name in ('0', '1'):
        _picture(tmp_path / 'a' / 'cup' / f'{name}.jpg', 0)
    (tmp_path / 'a' / 'cup' / '1.jpg').write_bytes(b'not a picture')
    whole, damaged = image_folder(tmp_path)
    assert whole.image(8).shape == (8, 8, 3)
    with pytest.raises(ImageError, match=r'^a/cup/1\.jpg: '):
        damaged.image(8)


@pytest.mark.parametrize('cut', [0.0, 0.6])
def test_what_is_no_whole_tar_is_named(tmp_path: Path, cut: float) -> None:
    _picture(tmp_path / 'train' / 'A' / 'Red_train_Red_001.jpg', 0)
    file = tmp_path / 'grocery.tar'
    with tarfile.open(file, 'w') as archive:
        archive.add(tmp_path / 'train', 'train')
        end = archive.offset
    data = file.read_bytes()[: round(cut * end)]
    file.write_bytes(data or b'this is a text' * 100)
    with pytest.raises(ConfigError, match=r'grocery\.tar.* is no whole tar file'):
        grocery(file)


@pytest.mark.parametrize('kind', ['NI', 'NC'])
def test_a_stream_without_pictures_to_ask_for_is_refused(kind: str) -> None:
    pictures = _pictures(2 if kind == 'NI' else 1, 8, 10)
    setting = Setting(kind, scenarios=2)
    assert any(not e.labelled for e in make_stream(pictures, setting, 0).events)
    with pytest.raises(ConfigError, match='no pictures to ask for'):
        make_stream([p for p in pictures if p.labelled], setting, 0)


@pytest.mark.parametrize('sort', ['poisson', 'uniform', 'normal'])
def test_arrivals_are_ascending_and_inside(sort: str) -> None:
    times = arrivals(50, 10.0, 5.0, sort, np.random.default_rng(0))
    assert len(times) == 50
    assert np.all(np.diff(times) >= 0)
    assert times[0] >= 10.0
    assert times[-1] < 15.0


def test_arrivals_of_a_trace(tmp_path: Path) -> None:
    (tmp_path / 'trace').write_text('100\n101\n109\n110\n')
    times = arrivals(4, 0.0, 10.0, str(tmp_path / 'trace'), np.random.default_rng(0))
    assert times == pytest.approx([0.0, 0.999, 8.991, 9.99])
    with pytest.raises(ConfigError, match='poisson'):
        arrivals(4, 0.0, 10.0, 'sometimes', np.random.default_rng(0))


def test_streams_are_the_same_for_a_seed_and_never_score_what_is_learned() -> None:
    pictures = _pictures(3, 4, 40)
    setting = Setting('NI', batches=3, requests=20, batch_size=8)
    stream = make_stream(pictures, setting, 1)
    assert stream == make_stream(pictures, setting, 1)
    assert stream != make_stream(pictures, setting, 2)
    learned = {p.name for e in stream.events if e.labelled for p in e.pictures}
    asked = {p.name for e in stream.events if not e.labelled for p in e.pictures}
    tested = {p.name for group in stream.tests for p in group}
    deployed = {p.name for p in stream.deployment}
    assert learned.isdisjoint(asked | tested | deployed)
    assert deployed.isdisjoint(asked | tested)
    assert stream.batches == 9
    assert [e.time for e in stream.events] == sorted(e.time for e in stream.events)
    assert len(stream.starts) == 3


def _digest(stream: Stream) -> str:
    lines = [
        f'{e.time!r} {e.scenario} {e.labelled} ' + ' '.join(p.name for p in e.pictures)
        for e in stream.events
    ]
    lines += [repr(stream.starts[1:]), repr(stream.names)]
    lines += [' '.join(p.name for p in side) for side in (stream.deployment, *stream.tests)]
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ('kind', 'shape', 'seed', 'digest'),
    [
        ('NI', (3, 4, 40), 1, '492d40d89e4021e3'),
        ('NC', (1, 12, 24), 0, 'c68f0791636ead7d'),
        ('NIC', (1, 12, 24), 0, '57492ac22077a93c'),
    ],
)
def test_streams_of_single_visits_are_those_of_earlier_tables(
    kind: str, shape: tuple[int, int, int], seed: int, digest: str
) -> None:
    setting = Setting(kind, scenarios=3, batch_size=8, requests=20)
    assert _digest(make_stream(_pictures(*shape), setting, seed)) == digest


def test_repeated_visits_part_the_pictures() -> None:
    pictures = _pictures(3, 4, 40)
    setting = Setting('NI', batches=3, requests=20, batch_size=8, visits=2)
    stream = make_stream(pictures, setting, 1)
    assert stream == make_stream(pictures, setting, 1)
    assert stream.visits[:3] == (0, 1, 2)
    assert sorted(stream.visits[3:]) == [0, 1, 2]
    assert len(stream.tests) == 3
    used = [p.name for e in stream.events for p in e.pictures]
    assert len(used) == len(set(used))
    assert not set(used) & {p.name for p in stream.deployment}
    ends = [*stream.starts[1:], math.inf]
    for visit, scenario in enumerate(stream.visits):
        mine = [e for e in stream.events if e.visit == visit]
        assert {e.scenario for e in mine} == {scenario}
        assert all(stream.starts[visit] <= e.time < ends[visit] for e in mine)
        # 80 labelled pictures a place, half of those of the first deployed; two equal parts.
        assert sum(len(e.pictures) for e in mine if e.labelled) == (20 if scenario == 0 else 24)
        assert sum(not e.labelled for e in mine) == 20
    for seed in range(20):
        visits = make_stream(pictures, setting, seed).visits
        assert all(a != b for a, b in zip(visits, visits[1:]))


def test_wrong_labels_change_nothing_but_labels() -> None:
    pictures = _pictures(3, 4, 40)
    truth = {p.name: p.label for p in pictures}
    right = make_stream(pictures, Setting('NI'), 3)
    wrong = make_stream(pictures, Setting('NI', wrong=0.1), 3)
    assert _digest(wrong) == _digest(right)
    labels = [p for e in wrong.events if e.labelled for p in e.pictures]
    false = [p for p in labels if p.label != truth[p.name]]
    assert len(false) == round(0.1 * len(labels)) > 0
    assert {p.label for p in false} <= set(right.classes)
    others = [p for e in wrong.events if not e.labelled for p in e.pictures]
    others += [*wrong.deployment, *(p for group in wrong.tests for p in group)]
    assert all(p.label == truth[p.name] for p in others)


def test_new_classes_and_new_instances() -> None:
    pictures = list(_pictures(1, 12, 24))
    fresh = make_stream(pictures, Setting('NC', scenarios=3), 0)
    by_scenario = [
        {p.label for e in fresh.events if e.scenario == s for p in e.pictures} for s in range(3)
    ]
    assert not by_scenario[0] & by_scenario[1]
    mixed = make_stream(pictures, Setting('NIC', scenarios=3), 0)
    by_scenario = [
        {p.label for e in mixed.events if e.scenario == s for p in e.pictures} for s in range(3)
    ]
    assert by_scenario[0] & by_scenario[1]  # other products of the same kinds
    with pytest.raises(ConfigError, match='two'):
        make_stream(pictures, Setting('NC', scenarios=7), 0)
