# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a soak makes of what it saw."""

from __future__ import annotations

import json

import pytest

from etuner_ros.bench.soak import report
from etuner_ros.bench.soak.memory import by_thirds, grown, Look
from etuner_ros.bench.soak.phases import chosen, FAULTS, PHASES
from etuner_ros.core.errors import ConfigError


def looks(*mb: float) -> list[Look]:
    return [Look(minutes, {'worker': value}) for minutes, value in enumerate(mb)]


def test_memory_is_level_when_two_windows_have_the_same_median():
    assert grown(looks(300, 400, 500), 'worker') == float('inf'), 'too early to say'
    assert grown(looks(300, 400, 500, 600, 600, 600, 600), 'worker') == pytest.approx(0.2)
    full = looks(300, 500, 600, 601, 900, 600, 600, 601)
    assert abs(grown(full, 'worker')) < 0.01, 'a round that takes more for a moment is no growth'
    assert by_thirds(looks(1, 1, 2, 2, 3, 3)) == {'worker': [1.0, 2.0, 3.0]}


def test_phases_are_chosen_by_name_in_their_order():
    assert chosen('') == list(PHASES)
    assert chosen('kills, disk') == ['disk', 'kills']
    assert set(chosen('faults,kills')) == {*FAULTS, 'kills'}
    with pytest.raises(ConfigError, match='no phase diks; there are faults, transitions'):
        chosen('diks')


def test_phases_of_the_same_commit_are_put_together(tmp_path, monkeypatch):
    monkeypatch.setattr(report, 'commit', lambda: 'abc')
    report.Report(tmp_path).add('kills', {'kills': 5, 'labels_accepted': 7, 'broken': []})
    again = report.Report(tmp_path)
    again.add('power', {'labels_accepted': 3, 'broken': ['1 stores do not open']})
    found = json.loads((tmp_path / 'soak.json').read_text())
    assert (found['commit'], found['labels_accepted'], found['kills']) == ('abc', 10, 5)
    assert found['broken'] == ['power: 1 stores do not open']
    monkeypatch.setattr(report, 'commit', lambda: 'def')
    other = report.Report(tmp_path)
    other.add('disk', {'skipped': 'no namespaces', 'broken': []})
    assert set(other.phases) == {'disk'}, 'of other code'
    assert 'disk: skipped: no namespaces' in report.summary(other)
