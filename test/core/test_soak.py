# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a soak makes of what it saw."""

from __future__ import annotations

import json

import pytest

from etuner_ros.bench.soak import __main__ as phase
from etuner_ros.bench.soak import apart, report, run
from etuner_ros.bench.soak.memory import by_thirds, grown, Look
from etuner_ros.bench.soak.phases import chosen, FAULTS, PHASES
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.core.errors import ConfigError, EtunerError


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


def test_logs_of_a_broken_phase_are_kept_where_the_words_say(tmp_path, monkeypatch, capfd):
    output, folder = tmp_path / 'out', tmp_path / 'robots'

    def run_apart(name: str, stage: object, plan: Plan) -> dict[str, object]:
        log = folder / name / 'log'
        log.mkdir(parents=True, exist_ok=True)
        (log / 'inference.log').write_text('the reason')
        broken = name in broken_phases
        return {'broken': [f'inference does not answer; see {log}'] if broken else []}

    monkeypatch.setattr(run, 'run_apart', run_apart)
    monkeypatch.setattr(run, 'deploy', lambda *_: None)
    broken_phases, said = {'swaps'}, []
    found = run.soak(tmp_path, output, folder, Plan(), ['swaps', 'kills'], said.append)
    assert found.broken == ['swaps: inference does not answer; see soak_logs/swaps']
    assert found.phases['swaps']['logs'] == 'soak_logs/swaps'
    assert (output / 'soak_logs/swaps/inference.log').read_text() == 'the reason'
    assert [p.name for p in (output / 'soak_logs').iterdir()] == ['swaps']
    assert len(said) == 4
    assert capfd.readouterr().out == '', 'it is no answer'
    broken_phases.clear()
    run.soak(tmp_path, output, folder, Plan(), ['swaps'], said.append)
    assert not (output / 'soak_logs/swaps').exists(), 'what is mended has none'


def test_a_phase_that_fails_tells_its_reason(tmp_path, monkeypatch):
    def fails(stage: object, plan: object) -> dict[str, object]:
        raise EtunerError('inference does not answer; see /here/log')

    answer = tmp_path / 'swaps.json'
    monkeypatch.setitem(PHASES, 'swaps', fails)
    told = {'phase': 'swaps', 'plan': Plan().as_dict(), 'answer': str(answer)}
    told |= dict.fromkeys(('base', 'stream', 'folder'), str(tmp_path))
    monkeypatch.setattr('sys.argv', ['soak', json.dumps(told)])
    monkeypatch.setattr(phase, 'use_dds_profile', lambda: None)
    assert phase.main() == 0
    assert json.loads(answer.read_text())['broken'] == ['inference does not answer; see /here/log']


def test_what_a_phase_says_on_its_way_is_not_on_standard_output(tmp_path, monkeypatch, capfd):
    talks = tmp_path / 'python'
    answer = tmp_path / 'robots' / 'swaps.json'
    talks.write_text(f'#!/bin/sh\necho 1.0 min\necho \'{{"broken": []}}\' > {answer}\n')
    talks.chmod(0o755)
    monkeypatch.setattr(apart, 'why_not_apart', lambda: 'not here')
    monkeypatch.setattr(apart.sys, 'executable', str(talks))
    stage = Stage(tmp_path, tmp_path, answer.parent)
    assert apart.run_apart('swaps', stage, Plan()) == {'broken': []}
    said = capfd.readouterr()
    assert said.out == ''
    assert said.err == '1.0 min\n'
