# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Runs are taken for what they are only, and the table says what they come to."""

from __future__ import annotations

import contextlib
from dataclasses import asdict, replace
import json
import math
import os
from pathlib import Path
import select
import signal
import subprocess
import sys
from typing import Any

import cv2
import numpy as np
import pytest

from etuner_ros.bench import provenance, runs
from etuner_ros.bench.datasets import READERS
from etuner_ros.bench.pictures import pareto, pareto_figure, Point
from etuner_ros.bench.provenance import Code
from etuner_ros.bench.report import markdown, regret_text, Tables
from etuner_ros.bench.runs import execute, Job, load_runs, Run, save_run, Source
from etuner_ros.bench.streams import Setting
from etuner_ros.bench.table import interval, repeatability, summarise, what_rounds_add
from etuner_ros.cli.main import main
from etuner_ros.core.errors import ConfigError

CODE = Code('abc1234', '', (('python', '3.10'), ('torch', '2'), ('numpy', '2')))


@pytest.fixture(autouse=True)
def nothing(monkeypatch) -> None:
    """Add a reader of data sets without pictures: most of what is tested here needs none."""
    monkeypatch.setitem(READERS, 'nothing', lambda _path: [])


def _job(method: str, seed: int = 0, **changes: Any) -> Job:
    job = Job(Source('s', 'nothing', 'x', Setting('NI')), 'm', 8, method, seed, code=CODE)
    return replace(job, **changes)


def _run(method: str, seed: int, accuracy: float, flops: float, **changes: Any) -> Run:
    outcome = {
        'accuracy': accuracy,
        'final': accuracy - 0.1,
        'final_by_scenario': [accuracy - 0.1],
        'on_return': None,
        'new_kind_requests': 2.0,
        'trained_share': 1.0,
        'forgetting': 0.0,
        'rounds': 1,
        'refused': 0,
        'age': 1.0,
        'flops': {'forward': flops},
        'seconds': {'forward': flops},
        'frozen': [[0.0, 3], [1.0, 2]],
        'correct': '1100',
        'fixed': 1.0,
    }
    return Run(_job(method, seed, **changes).of, outcome, {'rate_flops_per_s': 1.0})


def test_interval_is_students() -> None:
    assert interval([1.0]) is None
    # Five values: t = 2.776, deviation sqrt(2.5).
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2.776 * math.sqrt(2.5 / 5))


def test_a_run_is_another_one_when_anything_differs_that_it_depends_on() -> None:
    job = _job('ridge')
    others = [
        replace(job, code=replace(CODE, commit='fff0000')),
        replace(job, code=replace(CODE, dirty='12')),
        replace(job, code=replace(CODE, versions=(('torch', '3'),))),
        replace(job, size=16),
        replace(job, method='ncm'),
        replace(job, seed=1),
        replace(job, repeat=1),
        replace(job, source=replace(job.source, load=0.1)),
        replace(job, source=replace(job.source, setting=Setting('NI', visits=2))),
    ]
    assert len({job.key, *(other.key for other in others)}) == 1 + len(others)
    assert {'commit', 'dirty', 'pixels', 'versions', 'settings', 'load'} <= set(job.of)


def _place(folder: Path, value: int) -> Path:
    """Make a data set of four pictures; one of them shows the value."""
    for number in range(4):
        path = folder / 'a' / 'cup' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = value if number == 2 else number
        cv2.imwrite(str(path), np.full((4, 4, 3), shown, np.uint8))
    return folder


def _key(job: Job) -> str:
    """Return the key of a job as a process that starts now makes it."""
    for found in vars(runs).values():
        if hasattr(found, 'cache_clear') and found.__module__ == runs.__name__:
            found.cache_clear()
    return job.key


def _of(folder: Path) -> Job:
    return _job('ridge', source=Source('s', 'images', str(folder), Setting('NI')))


def test_other_pictures_at_the_same_place_are_another_run(tmp_path: Path) -> None:
    job = _of(_place(tmp_path / 'pictures', 2))
    before = _key(job)
    assert _key(job) == before
    _place(tmp_path / 'pictures', 9)
    assert _key(job) != before


def test_the_same_pictures_may_lie_elsewhere(tmp_path: Path) -> None:
    key = _key(_of(_place(tmp_path / 'pictures', 2)))
    (tmp_path / 'pictures').rename(tmp_path / 'photographs')
    assert _key(_of(tmp_path / 'photographs')) == key


def test_another_trace_of_arrivals_in_the_same_file_is_another_run(tmp_path: Path) -> None:
    trace = tmp_path / 'trace'
    source = Source('s', 'nothing', 'x', Setting('NI', arrivals=str(trace)))
    keys = []
    for times in ('1 2 9', '1 8 9', '1 2 9'):
        trace.write_text(times.replace(' ', '\n'))
        keys.append(_key(_job('ridge', source=source)))
    assert keys[0] == keys[2] != keys[1]


def test_a_run_behind_a_line_that_was_cut_short_is_kept(tmp_path: Path) -> None:
    file = tmp_path / 'runs.jsonl'
    first, second = _run('ridge', 0, 0.6, 10.0), _run('ncm', 0, 0.5, 9.0)
    save_run(file, first)
    with file.open('a') as out:
        out.write(json.dumps(asdict(second))[:50])
    save_run(file, second)
    save_run(file, replace(second, of={**second.of, 'seed': 1}))
    keys = {run.key: run for run in (first, second)}
    assert load_runs(file, keys) == keys
    assert len(file.read_text().splitlines()) == 4


def test_only_the_very_runs_that_are_wanted_are_taken_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / 'runs.jsonl'
    mine, old = (
        _run('ridge', 0, 0.6, 10.0),
        _run('ridge', 0, 0.9, 1.0, code=replace(CODE, commit='old')),
    )
    for run in (old, mine):
        save_run(file, run)
    line = json.dumps(asdict(mine))
    with file.open('a') as out:  # of an older format, and cut short by an interruption
        out.write(json.dumps({'key': mine.key, 'method': 'ridge', 'outcome': {}}) + '\n')
        out.write(line[: len(line) // 2])
    assert load_runs(file, {_job('ridge').key}) == {mine.key: mine}
    assert load_runs(file, {_job('ncm').key}) == {}
    assert load_runs(tmp_path / 'none', {mine.key}) == {}


def test_a_run_that_is_told_another_key_is_not_taken(tmp_path: Path) -> None:
    """The key is made from what is stored, so there is none to be changed."""
    old = _run('ridge', 0, 0.9, 1.0, code=replace(CODE, commit='old'))
    (tmp_path / 'runs').write_text(json.dumps({**asdict(old), 'key': _job('ridge').key}))
    assert load_runs(tmp_path / 'runs', {_job('ridge').key}) == {}


def test_a_job_that_was_planned_with_other_code_does_not_run() -> None:
    with pytest.raises(ConfigError, match='abc1234'):
        execute(_job('ridge'))


ENDLESS = """
import os, signal, sys, time
from pathlib import Path
from etuner_ros.bench import datasets, runs
from etuner_ros.bench.streams import Setting

def endless(job):
    print(os.getpid(), flush=True)
    time.sleep(3600)

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)  # off in a shell's background
    runs.execute = endless
    datasets.READERS['nothing'] = lambda path: []
    source = runs.Source('s', 'nothing', 'none', Setting('NI'))
    runs.run_all([runs.Job(source)], Path(sys.argv[1]), 1, say=lambda text: None)
"""


@pytest.mark.skipif(not hasattr(os, 'pidfd_open'), reason='needs Linux')
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_runs_end_with_the_process_that_wants_them(tmp_path: Path, number: int) -> None:
    script = tmp_path / 'endless.py'
    script.write_text(ENDLESS)
    command = [sys.executable, str(script), str(tmp_path / 'runs.jsonl')]
    path = os.pathsep.join(p for p in sys.path if p)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, 'PYTHONPATH': path},
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        handle = os.pidfd_open(child)
        try:
            parent.send_signal(number)
            gone = select.poll()
            gone.register(handle, select.POLLIN)
            assert gone.poll(30_000), 'it runs on'
            assert parent.wait(30) != 0
        finally:
            parent.kill()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)


def test_what_is_not_committed_is_told_apart(tmp_path: Path, monkeypatch) -> None:
    def git(*arguments: str) -> None:
        import subprocess

        names = ['-c', 'user.name=a', '-c', 'user.email=a@b']
        subprocess.run(['git', '-C', str(tmp_path), *names, *arguments], check=True)

    monkeypatch.setattr(provenance, 'ROOT', tmp_path)
    core, bench = tmp_path / 'etuner_ros' / 'core', tmp_path / 'etuner_ros' / 'bench'
    for folder in (core, bench):
        folder.mkdir(parents=True)
        (folder / '__init__.py').touch()
    (bench / 'runs.py').write_text('def run():\n    from etuner_ros.core.a import rule\n')
    (core / 'a.py').write_text('import etuner_ros.core.b')
    (core / 'b.py').write_text('1')
    (core / 'label.py').write_text('import etuner_ros.core.a')
    git('init', '-q')
    git('add', '.')
    git('commit', '-qm', 'one')
    one = provenance.code.__wrapped__()
    assert not one.dirty
    (tmp_path / 'README').write_text('docs change nothing')
    (core / 'label.py').write_text('nor does what no run takes')
    git('add', '.')
    git('commit', '-qm', 'two')
    assert provenance.code.__wrapped__() == one
    (core / 'b.py').write_text('2')
    changed = provenance.code.__wrapped__()
    (core / 'a.py').write_text('import etuner_ros.core.new')
    (core / 'new.py').write_text('3')
    more = provenance.code.__wrapped__()
    assert len({'', changed.dirty, more.dirty}) == 3
    assert changed.commit == more.commit == one.commit
    monkeypatch.setattr(provenance, 'ROOT', core)  # installed inside somebody's repository
    assert provenance.code.__wrapped__().commit.startswith('version ')


def test_summary_pairs_by_seed_and_names_what_is_missing() -> None:
    names = ('immediate', 'shipped', 'ridge', 'head', 'every-8+head')
    jobs = [_job(name, seed) for name in names for seed in (0, 1)]
    runs = [
        _run('immediate', 0, 0.5, 100.0),
        _run('immediate', 1, 0.7, 100.0),
        _run('shipped', 0, 0.6, 10.0),
        _run('shipped', 1, 0.8, 20.0),
        _run('ridge', 0, 0.5, 0.0),
        _run('ridge', 1, 0.6, 0.0),
        _run('head', 0, 0.66, 0.0),
    ]
    timed = [_run('immediate', 0, 0, 4.0), _run('head', 0, 0, 1.0)]
    rows = {r['method']: r for r in summarise(runs, timed, jobs)}
    ours = rows['shipped']
    assert ours['delta_vs_immediate'] == pytest.approx(10.0)
    assert ours['delta_ci95'] == pytest.approx(0.0, abs=1e-9)
    assert ours['flops_vs_immediate'] == pytest.approx(0.15)
    assert ours['flops_by_part'] == {'forward': pytest.approx(0.15)}
    # Against head: 6 points behind by the seed that both have; against ridge 15 ahead.
    assert ours['regret_accuracy'] == pytest.approx(6.0)
    # A simple method stands against the others: head is 16 ahead of ridge, and no 0 behind itself.
    assert rows['head']['regret_accuracy'] == pytest.approx(-16.0)
    assert rows['ridge']['regret_accuracy'] == pytest.approx(16.0)
    assert ours['final'] == pytest.approx(60.0)
    assert ours['on_return'] is None
    assert ours['most_frozen'] == 3
    assert ours['time_vs_immediate'] is None
    assert (ours['energy_vs_immediate'], ours['energy_source']) == (None, 'unavailable')
    assert (ours['pixels'], ours['commit']) == (8, 'abc1234')
    assert rows['every-8+head']['seeds'] == 0
    assert rows['every-8+head']['missing']
    assert rows['head']['time_vs_immediate'] == pytest.approx(0.25)
    tables = Tables(list(rows.values()), runs, (), 2)
    text = markdown(tables, 's', 'm')
    assert 'fewer than 2 seeds: head (1 seeds), every-8+head (0 seeds)' in text
    assert '| **shipped** | 2 |' in text
    assert '| head |' not in text


def test_where_immediate_was_not_run_the_clock_tells_what_it_takes() -> None:
    runs = [_run('ridge', seed, 0.5, cost) for seed, cost in ((0, 10.0), (1, 30.0))]
    jobs = [_job('ridge', seed) for seed in (0, 1)]
    (row,) = summarise(runs, [], jobs, by_clock={('s', 'm'): {0: 100.0, 1: 300.0}})
    assert row['flops_vs_immediate'] == pytest.approx(0.1)
    assert row['immediate_flops'] == 'by the clock'
    (row,) = summarise(runs, [], jobs)
    assert (row['flops_vs_immediate'], row['immediate_flops']) == (None, None)


@pytest.mark.parametrize(
    ('seeds', 'share', 'how'), [(1, 0.1, 'by the clock'), (2, 0.2, 'measured')]
)
def test_operations_are_shares_of_immediate_where_that_has_all_seeds_of_a_stream(
    seeds: int, share: float, how: str
) -> None:
    runs = [_run('ridge', seed, 0.5, 10.0) for seed in (0, 1)]
    runs += [_run('immediate', seed, 0.5, 50.0) for seed in range(seeds)]
    jobs = [_job(name, seed) for name in ('ridge', 'immediate') for seed in (0, 1)]
    clock = {('s', 'm'): {0: 100.0, 1: 100.0}}
    rows = summarise(runs, [], jobs, by_clock=clock)
    row = next(r for r in rows if r['method'] == 'ridge')
    assert row['flops_vs_immediate'] == pytest.approx(share)
    assert row['immediate_flops'] == how


def test_the_front_is_what_no_other_beats_for_its_operations() -> None:
    points = [
        Point('dear', 1.0, 3.0, 0.0, 5),
        Point('worse for more', 0.5, 1.0, 0.0, 5),
        Point('cheap', 0.01, 2.0, 0.0, 5),
        Point('worse for as much', 0.01, 1.5, 0.0, 5),
    ]
    assert [p.name for p in pareto(points)] == ['cheap', 'dear']


def test_the_picture_of_gains_pairs_seeds_with_the_head_alone() -> None:
    runs = [_run('head', seed, right, 1.0) for seed, right in ((0, 0.5), (1, 0.9))]
    runs.append(_run('immediate+head', 1, 0.95, 100.0))
    jobs = [_job('head', 0), _job('head', 1), _job('immediate+head', 1)]
    rows = summarise(runs, [], jobs, by_clock={('s', 'm'): {0: 100.0, 1: 100.0}})
    figure = pareto_figure(rows, runs, 's')
    for axes in figure.axes:  # not 25 points, as the means of all seeds would say
        front = axes.lines[-2].get_ydata()
        assert list(front) == pytest.approx([0.0, 5.0])
        assert [t.get_text() for t in axes.texts] == ['head (2)', 'immediate+head (1)']
    assert pareto_figure(rows, [r for r in runs if r.method != 'head'], 's') is None
    assert pareto_figure([], runs, 's') is None


def test_a_report_without_any_simple_method_says_so() -> None:
    runs = [_run('immediate', seed, 0.5, 10.0) for seed in (0, 1)]
    rows = summarise(runs, [], [_job('immediate', seed) for seed in (0, 1)])
    text = regret_text(Tables(rows, runs, (), 1))
    assert 'the best of the simple methods is ahead' in text
    rows = summarise([*runs, _run('head', 0, 0.5, 1.0)], [], [_job('immediate'), _job('head')])
    assert 'the best of head is ahead' in regret_text(Tables(rows, runs, (), 1))
    assert [r['regret_accuracy'] for r in rows if r['method'] == 'head'] == [None]


def test_rows_of_other_networks_are_shown_with_the_one_seed_that_they_have() -> None:
    other = _run('head', 0, 0.4, 1.0, model='other')
    runs = [*(_run('head', seed, 0.5, 1.0) for seed in (0, 1)), _run('ridge', 0, 0.5, 1.0), other]
    jobs = [_job('head'), _job('ridge'), _job('head', model='other')]
    tables = Tables(summarise(runs, [], jobs), runs, (), 2, 'm')
    assert [r['method'] for r in tables.shown('s', 'm')] == ['head']
    assert [r['method'] for r in tables.shown('s', 'other')] == ['head']
    assert '| head | 1 |' in markdown(tables, 's', 'other')


def test_runs_of_different_code_are_not_compared() -> None:
    jobs = [_job('ridge')]
    runs = [
        _run('ridge', 0, 0.5, 1.0),
        _run('ridge', 1, 0.5, 1.0, code=replace(CODE, commit='9f')),
    ]
    with pytest.raises(ConfigError, match='commits are not compared: 9f, abc1234'):
        summarise(runs, [], jobs)
    dirty = [_run('ridge', 0, 0.5, 1.0, code=replace(CODE, dirty='77'))]
    with pytest.raises(ConfigError, match='abc1234 with changes that are not committed'):
        summarise(dirty, [], jobs)
    rows = summarise(dirty, [], jobs, allow_dirty=True)
    assert 'not committed' in Tables(rows, dirty).note
    with pytest.raises(ConfigError, match='input sizes'):
        summarise([runs[0], _run('ridge', 1, 0.5, 1.0, size=16)], [], jobs)


def test_what_rounds_add_is_said_first_and_paired_by_seed() -> None:
    runs = [
        _run('head', 0, 0.5, 0.0),
        _run('head', 1, 0.7, 0.0),
        _run('every-4+head', 0, 0.52, 5.0),
        _run('every-4+head', 1, 0.72, 5.0),
        _run('every-4+head', 2, 0.99, 5.0),
    ]
    (said,) = what_rounds_add(runs, 's', 'm')
    assert said.startswith('every-4+head is at +2.0 ± 0.0 points of accuracy against the head')
    assert '(2 seeds)' in said
    assert what_rounds_add(runs, 'other', 'm') == []


def test_the_same_run_again_says_what_varies() -> None:
    again = _run('ridge', 0, 0.75, 110.0, repeat=1)
    again.outcome['correct'] = '1110'
    runs = [_run('ridge', 0, 0.5, 100.0), again, _run('ridge', 1, 0.1, 7.0)]
    (row,) = repeatability(runs)
    assert (row['answers'], row['answers_differ'], row['pairs']) == (4, 1, 1)
    assert row['operations_differ'] == pytest.approx(0.1)
    assert row['accuracy_differs'] == pytest.approx(25.0)
    # A repeated run is no further seed.
    assert summarise(runs, [], [_job('ridge')])[0]['seeds'] == 2


def _pictures(folder: Path) -> None:
    for s in ('a', 'b'):
        for c in range(3):
            for i in range(6):
                path = folder / s / f'c{c}' / f'{i}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                values = np.random.default_rng(100 * c + i).integers(0, 255, (24, 24, 3))
                cv2.imwrite(str(path), values.astype(np.uint8))


def test_bench_on_a_folder_of_pictures(tmp_path: Path, capsys, monkeypatch) -> None:
    """The command from pictures to the report, and again without a second run."""
    _pictures(tmp_path / 'pictures')
    arguments = ['bench', '--images', str(tmp_path / 'pictures'), '--output', str(tmp_path / 'r')]
    names = ['never', 'ridge', 'head', 'immediate', 'immediate+head']
    monkeypatch.setattr('etuner_ros.bench.run.TIMED', ('head', 'immediate'))
    arguments += ['--methods', *names, '--seeds', '1', '--main-seeds', '1', '--allow-dirty']
    arguments += ['--input-size', '32', '--batches', '1', '--requests', '6', '--processes', '1']
    arguments += ['--streams', 'images_ni_again', '--time', '--time-seeds', '1']
    assert main(arguments) == 0
    rows = json.loads((tmp_path / 'r' / 'summary.json').read_text())
    assert [r['method'] for r in rows] == names
    assert all(0.0 <= r['accuracy'] <= 100.0 and 0.0 <= r['final'] <= 100.0 for r in rows)
    found = {r['method']: r for r in rows}
    assert found['never']['flops_vs_immediate'] == 0.0
    assert found['never']['trained_share'] is None
    assert found['immediate+head']['flops_vs_immediate'] > 0.0
    assert [r['method'] for r in rows if r['time_vs_immediate'] is not None] == [
        'head',
        'immediate',
    ], 'those that were timed'
    assert found['immediate']['trained_share'] == 1.0
    assert found['head']['rounds'] == 0
    assert found['head']['trained_share'] is None
    assert found['head']['on_return'] is not None
    assert found['head']['pixels'] == 32
    page = (tmp_path / 'r' / 'report.html').read_text()
    assert '<svg' in page
    assert 'against the head alone' in page
    for outside in ('src="http', '<link', '<script src'):
        assert outside not in page
    table = (tmp_path / 'r' / 'table.md').read_text()
    assert table.index('against the head alone') < table.index('## Regret')
    capsys.readouterr()
    drawn = []
    monkeypatch.setattr('etuner_ros.bench.run.write', lambda *given: drawn.append(given))
    assert main(arguments) == 0
    assert [r['method'] for r in drawn[0][1].rows] == names
    assert '5 of them there already' in capsys.readouterr().err
    assert main([*arguments[:3], '--methods', 'magic']) == 1
    assert 'magic' in capsys.readouterr().err
