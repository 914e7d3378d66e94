# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benches run on the recording and say what they measured; how long things take is not tested."""

from __future__ import annotations

import pytest

from etuner_ros.bench import costs, scenarios
from etuner_ros.cli.main import parser
from etuner_ros.core.errors import ConfigError


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
