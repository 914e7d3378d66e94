# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benches run on the recording and say what they measured; how long things take is not tested."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
import subprocess

import numpy as np
import pytest

from etuner_ros.bench import costs, deflating, label_savings, provenance, scenarios
from etuner_ros.bench.datasets import recording
from etuner_ros.bench.head_commit import head_commit, machine
from etuner_ros.bench.provenance import Code
from etuner_ros.bench.shipped import shipped
from etuner_ros.cli.main import parser
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames


def test_changes_of_place_and_of_kinds_are_found_in_the_recording(stream):
    places, kinds = scenarios.measure(stream, size=48, seeds=1)
    assert (places.changes, kinds.changes) == (4, 4)
    assert len(places.delays) == 4
    assert len(kinds.delays) >= 3
    assert places.false_alarms + kinds.false_alarms <= 1
    assert str(places).startswith('| NI')


def test_a_stream_with_too_few_kinds_is_refused(tmp_path, frames):
    import cv2

    for label in ('duck', 'mug'):
        (tmp_path / 'here' / label).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'here' / label / '0.jpg'), frames[0].image)
    with pytest.raises(ConfigError, match='at least 10 are needed'):
        scenarios.measure(tmp_path)


@pytest.mark.parametrize(
    'command', ['bench', 'bench --quick', 'bench choose', 'bench serving', 'bench boxes', 'soak']
)
def test_a_look_writes_beside_what_is_published(repository, command):
    output = parser().parse_args(command.split()).output
    assert str(output) != 'results'
    for name in ('.gitignore', '.dockerignore'):
        listed = (repository / name).read_text().splitlines()
        assert str(output) in {line.strip('/') for line in listed}


def test_too_few_pictures_or_places_are_said(tmp_path, frames):
    import cv2

    for label in ('duck', 'mug'):
        (tmp_path / 'here' / label).mkdir(parents=True)
        for number in range(104):
            cv2.imwrite(str(tmp_path / 'here' / label / f'{number}.jpg'), np.zeros((8, 8, 3)))
    with pytest.raises(ConfigError, match=r'208 labelled pictures, 8 of them .* 200 and 16 are'):
        costs.measure(tmp_path, size=32)
    with pytest.raises(ConfigError, match='labelled pictures of 1 places, two are needed'):
        deflating.measure(tmp_path / 'out', tmp_path, 1)


def test_labels_are_saved_by_the_head_that_is_launched(stream, monkeypatch):
    recipe, heads, kept = shipped().recipe, [], []

    class Head(InstantHead):
        def __init__(self, *given):
            heads.append(given)
            super().__init__(*given)

    class Frames(UnlabelledFrames):
        def __init__(self, *given):
            kept.append(given)
            super().__init__(*given)

    monkeypatch.setattr(label_savings, 'InstantHead', Head)
    monkeypatch.setattr(label_savings, 'UnlabelledFrames', Frames)
    monkeypatch.setattr(label_savings, 'LABELS', (10,))
    assert signature(label_savings.measure).parameters['size'].default == INPUT_SIZE
    found = label_savings.measure(recording(stream)[::8], 'NI', 1, size=48)
    assert all(config == recipe.head and within is not None for _, config, within in heads)
    assert {most for most, _ in kept} == {recipe.train.unlabelled_frames}
    said = label_savings.table('recording', found)
    assert 'random  10' in said
    assert '±' not in said, 'one seed has no interval'


EVERYTHING = (
    *('cameras', 'choose', 'composed', 'engines', 'growth', 'objects', 'serving', 'switching'),
    'variant_table',
)


def test_benches_of_all_there_is_tell_what_is_checked_out(tmp_path, monkeypatch):
    def git(*arguments: str) -> str:
        names = ['-c', 'user.name=a', '-c', 'user.email=a@b']
        command = ['git', '-C', str(tmp_path), *names, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    monkeypatch.setattr(provenance, 'ROOT', tmp_path)
    monkeypatch.setattr(provenance, 'code', lambda: Code('abc1234', '', ()))
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results' / 'a.json').write_text('1')
    (tmp_path / 'node.py').write_text('1')
    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'one')
    commit = git('log', '-1', '--format=%h')
    assert head_commit() == machine()['commit'] == commit, 'not that of the table'
    (tmp_path / 'results' / 'a.json').write_text('2')
    assert head_commit() == commit, 'the bench before this one wrote it'
    (tmp_path / 'node.py').write_text('2')
    assert head_commit() == machine()['commit'] == f'{commit}+'
    for name in EVERYTHING:
        assert import_module(f'etuner_ros.bench.{name}').machine is machine
    monkeypatch.setattr(provenance, 'ROOT', tmp_path / 'results')  # in somebody's repository
    assert head_commit().startswith('version ')


def test_costs_compare_ways_that_give_the_same_loss(stream):
    rows = {row.name: row for row in costs.measure(stream, size=48, turns=1)}
    assert rows['loss with float32 cache'].value < 1e-5
    assert rows['loss with float16 cache'].value < 1e-3
    assert (
        rows['uint8 activation of a sample'].value
        < rows['float16 activation of a sample'].value
        < rows['float32 activation of a sample'].value
    )
    assert all(row.value >= 0 for row in rows.values())
    assert costs.table(list(rows.values())).count('\n') == len(rows) + 1
