# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table of metrics: names by the conventions, values from diagnostics as they come, bounds."""

from __future__ import annotations

import ast
import doctest
import json
from pathlib import Path
import re
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from hypothesis import given
from hypothesis import strategies as st
import pytest

from etuner_ros.core import metrics as module
from etuner_ros.core.metrics import AGE, FORGET_S, LEVEL, Metrics, MOST_NODES, number, TABLE, UP

NAMES = {m.name for m in (UP, LEVEL, AGE, *TABLE)}
# Keys of the four nodes that are no metrics: texts, and what follows from others.
LEFT_OUT = {
    'device', 'engine', 'preparing', 'frames per s', 'state', 'scenarios', 'energy source',
    'not quantised because', 'worker pid', 'collectors', 'last batch', 'batches received',
}  # fmt: skip


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def metrics(clock: Clock) -> Metrics:
    return Metrics(clock)


def array(
    node: str, values: dict[str, Any], level: bytes = DiagnosticStatus.OK
) -> DiagnosticArray:
    """As `Health` writes it."""
    pairs = [
        KeyValue(key=k, value=f'{v:.3f}' if isinstance(v, float) else str(v))
        for k, v in values.items()
    ]
    status = DiagnosticStatus(
        level=level, name=f'{node}: etuner', message='ok', hardware_id='etuner_ros', values=pairs
    )
    return DiagnosticArray(status=[status])


def hear(metrics: Metrics, message: DiagnosticArray) -> None:
    for s in message.status:
        metrics.hear(s.name, s.hardware_id, ord(s.level), ((v.key, v.value) for v in s.values))


def told(metrics: Metrics) -> dict[str, dict[tuple[str, str], float]]:
    return {f.metric.name: dict(f.values) for f in metrics.families() if f.values}


def test_names_follow_the_conventions():
    assert len(NAMES) == len(TABLE) + 3, 'no name twice'
    for metric in (UP, LEVEL, AGE, *TABLE):
        assert re.fullmatch(r'etuner(_[a-z]+)+', metric.name)
        assert metric.help
        assert not re.search(r'_(ms|mb|s|percent|count)(_|$)', metric.name), 'base units'
        unit = {1e-3: '_seconds', 1e6: '_bytes'}.get(metric.scale, '')
        assert metric.name.removesuffix('_total').endswith(unit)


def test_the_keys_are_those_that_the_nodes_use(repository: Path):
    said: dict[str, set[str]] = {}
    for name in ('camera', 'inference', 'tuner', 'label_collector', 'model_manager', 'health'):
        tree = ast.parse((repository / 'etuner_ros' / 'nodes' / f'{name}.py').read_text())
        said[name] = {
            key.value
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef)
            and function.name in ('diagnostics', '_diagnostics', '_publish')
            for dictionary in ast.walk(function)
            if isinstance(dictionary, ast.Dict)
            for key in dictionary.keys
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
        assert said[name], name
    assert {m.key for m in TABLE} <= set().union(*said.values())
    for metric in TABLE:
        users = [n for n, keys in said.items() if {metric.key, metric.beside} - {''} <= keys]
        assert len(users) == 1 or metric.key == 'active', f'{metric.name}: {users}'
    for name in ('inference', 'tuner', 'label_collector', 'model_manager'):
        assert said[name] <= {m.key for m in TABLE} | LEFT_OUT, (
            f'{name}: export it or leave it out'
        )


def test_values_become_base_units_and_what_is_no_number_is_left_out(metrics):
    values = {
        'frames': 12,
        'latency ms': 8.25,
        'full pictures MB': 1.5,
        'model version': 'none',
        'frame age ms': float('nan'),
        'active': True,
        'unreadable frames': -1,
        'device': 'cpu',
        'problems': 0,
    }
    hear(metrics, array('/robot/front/inference', values, DiagnosticStatus.WARN))
    node = ('/robot/front', 'inference')
    assert told(metrics) == {
        'etuner_node_up': {node: 1.0},
        'etuner_node_level': {node: 1.0},
        'etuner_node_diagnostics_age_seconds': {node: 0.0},
        'etuner_frames_total': {node: 12.0},
        'etuner_latency_seconds': {node: pytest.approx(0.00825)},
        'etuner_full_pictures_bytes': {node: 1.5e6},
        'etuner_active': {node: 1.0},
        'etuner_problems_total': {node: 0.0},
    }


def test_one_key_of_two_nodes_is_two_metrics_and_a_pair_is_two(metrics):
    tuner = {'rounds': 3, 'refused': 1, 'accuracy before, after': '0.750, 0.875'}
    hear(metrics, array('/tuner', tuner))
    hear(metrics, array('/model_manager', {'versions': 5, 'accepted': 4, 'refused': 2}))
    hear(metrics, array('/teacher', {'labels accepted': 9}))
    found = told(metrics)
    assert found['etuner_rounds_refused_total'] == {('/', 'tuner'): 1.0}
    assert found['etuner_candidates_refused_total'] == {('/', 'model_manager'): 2.0}
    assert found['etuner_accuracy_before_ratio'] == {('/', 'tuner'): 0.75}
    assert found['etuner_accuracy_after_ratio'] == {('/', 'tuner'): 0.875}
    assert 'etuner_labels_accepted_total' not in found, "the teacher's are the collector's, too"
    hear(metrics, array('/tuner', {'accuracy before, after': 'nan, nan'}))
    assert 'etuner_accuracy_after_ratio' not in told(metrics), 'no round yet'


def test_a_dead_node_is_seen_then_forgotten(metrics, clock):
    hear(metrics, array('/inference', {'frames': 12}))
    clock.now += 60.0
    hear(metrics, array('/tuner', {'rounds': 1}))
    found = told(metrics)
    dead, alive = ('/', 'inference'), ('/', 'tuner')
    assert found['etuner_node_up'] == {dead: 0.0, alive: 1.0}
    assert found['etuner_node_diagnostics_age_seconds'] == {dead: 60.0, alive: 0.0}
    assert 'etuner_frames_total' not in found, 'what it said is not so any more'
    assert found['etuner_node_level'] == {alive: 0.0}
    clock.now += FORGET_S
    assert told(metrics)['etuner_node_up'] == {alive: 0.0}


def test_what_others_say_is_left_out(metrics):
    message = array('/inference', {'frames': 1})
    status = message.status[0]
    for name in (
        '',
        'joystick',
        '/x',
        '/a b: etuner',
        '/a"}\n1: etuner',
        '/' + 'a' * 999 + ': etuner',
    ):
        status.name = name
        hear(metrics, message)
    status.name, status.hardware_id = '/inference: etuner', 'somebody else'
    hear(metrics, message)
    assert len(metrics) == 0


def test_memory_is_bounded(metrics):
    hear(metrics, array('/flood', {f'key {n}': n for n in range(5000)} | {'frames': '9' * 10**6}))
    assert not metrics._nodes['/', 'flood'].figures
    for n in range(10 * MOST_NODES):
        hear(metrics, array(f'/made_up_{n}', {'frames': n}))
    hear(metrics, array('/inference', {'frames': 7}))
    assert len(metrics) == MOST_NODES
    assert told(metrics)['etuner_frames_total']['/', 'inference'] == 7.0


@given(
    st.text(),
    st.text(),
    st.integers(0, 255),
    st.lists(st.tuples(st.sampled_from(sorted(module.KEYS)), st.text())),
)
def test_nothing_that_is_said_breaks_it(name, hardware, level, values):
    metrics = Metrics()
    metrics.hear(name, hardware, level, values)
    metrics.hear('/a/b: etuner', 'etuner_ros', level, values)
    for family in metrics.families():
        assert all(abs(value) < 1e40 for _, value in family.values)


@pytest.mark.parametrize(
    'text', ['', 'none', 'nan', 'inf', '-inf', '1_000', ' 1', '١', '1e9', '0x1', 'a, 1']
)
def test_no_number(text):
    assert number(text) is None


def test_the_examples_are_right():
    assert doctest.testmod(module) == (0, 1)


def test_the_dashboard_uses_names_of_the_table(repository: Path):
    board = json.loads((repository / 'config' / 'grafana.json').read_text())
    assert board['schemaVersion'] >= 38
    kinds = {v['name']: v['type'] for v in board['templating']['list']}
    assert kinds['datasource'] == 'datasource'
    used: set[str] = set()
    for panel in board['panels']:
        assert panel['targets'], panel['title']
        for target in panel['targets']:
            found = set(re.findall(r'\b[a-z]+(?:_[a-z]+)+\b', target['expr']))
            assert found, target['expr']
            used |= found
            counters = {n for n in found if n.endswith('_total')}
            rated = set(re.findall(r'(?:rate|increase)\((\w+)', target['expr']))
            assert rated <= counters, 'only counters have a rate'
        for thing in (panel, *panel['targets']):
            assert thing['datasource']['uid'] == '${datasource}'
    used |= set(re.findall(r'etuner_\w+', json.dumps(board['templating'])))
    assert used <= NAMES
    assert len(used) > 25
    places = [tuple(p['gridPos'].values()) for p in board['panels']]
    assert len(set(places)) == len(places)


def test_names_in_the_guide_are_those_of_the_table(repository: Path):
    text = (repository / 'docs' / 'howto.md').read_text()
    used = set(re.findall(r'\betuner_(?!ros)\w+', text))
    assert 'etuner_node_up' in used
    assert used <= NAMES
