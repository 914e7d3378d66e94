# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The table: what the runs of every method on every stream come to (etuner.md section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import math
import statistics
from typing import Any

from etuner_ros.bench.methods.registry import entries
from etuner_ros.bench.runs import Job, Run
from etuner_ros.core.cost import PARTS
from etuner_ros.core.errors import ConfigError

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

MAIN = ('head', 'every-4+head', 'immediate', 'immediate+head', 'ridge', 'shipped')
SIMPLE = ('head', 'every-4+head', 'immediate+head', 'ridge')  # the best of them is the measure
ADDED = ('every-4+head', 'immediate+head')  # whose rounds are compared with none at all
REFERENCE = 'immediate'

BySeed = Mapping[int, Run]


def interval(values: Sequence[float]) -> float | None:
    """Return the half-width of the 95 % interval of a mean, by Student's t; None for one value."""
    n = len(values)
    if n < 2:
        return None
    quantile = _T95[n - 2] if n - 2 < len(_T95) else 1.96 + 2.5 / (n - 1)
    return quantile * statistics.stdev(values) / math.sqrt(n)


def check_one_code(runs: Sequence[Run], allow_dirty: bool = False) -> None:
    """
    Refuse to compare runs of different code.

    :param allow_dirty: let runs pass whose code is not committed
    :raises ConfigError: naming the commits, or what else differs
    """
    for name, values in (
        ('commits', sorted({run.commit for run in runs})),
        ('input sizes', sorted({f'{run.of["pixels"]} px' for run in runs})),
        ('versions', sorted({str(run.of['versions']) for run in runs})),
        ('uncommitted changes', sorted({run.dirty for run in runs})),
    ):
        if len(values) > 1:
            found = ', '.join(value or 'none' for value in values)
            raise ConfigError(f'runs of different {name} are not compared: {found}')
    if not allow_dirty and any(run.dirty for run in runs):
        raise ConfigError(
            f'these runs are of {runs[0].commit} with changes that are not committed; commit '
            f'them, or look at the table with --allow-dirty'
        )


def summarise(
    runs: Sequence[Run],
    timed: Sequence[Run],
    jobs: Sequence[Job],
    allow_dirty: bool = False,
    by_clock: Mapping[tuple[str, str], Mapping[int, float]] | None = None,
) -> list[dict[str, Any]]:
    """
    Return the rows of the table.

    :param timed: runs in which methods took turns, for seconds
    :param jobs: all runs that were wanted; a method that has none is named as missing
    :param by_clock: operations of `immediate` by stream and model and by seed, as the clock of the
        stream has them; they count where it was not run on all seeds of a stream
    :raises ConfigError: see `check_one_code`
    """
    check_one_code([*runs, *timed], allow_dirty)
    groups, clocks = _groups(runs), _groups(timed)
    order = list(entries())
    wanted = sorted(
        {(j.source.name, j.model, j.method) for j in jobs},
        key=lambda w: (w[0], w[1] != jobs[0].model, w[1], order.index(w[2].split('@')[0]), w[2]),
    )
    usual = {
        pair: {} if _has_reference(groups.get(pair, {})) else operations
        for pair, operations in (by_clock or {}).items()
    }
    return [
        _row(w, groups.get(w[:2], {}), clocks.get(w[:2], {}), usual.get(w[:2], {})) for w in wanted
    ]


def _has_reference(methods: Mapping[str, BySeed]) -> bool:
    """Whether the reference was run on all seeds that any method has."""
    seeds = {seed for runs in methods.values() for seed in runs}
    return seeds <= set(methods.get(REFERENCE, {}))


def _groups(runs: Sequence[Run]) -> dict[tuple[str, str], dict[str, dict[int, Run]]]:
    """Return runs by stream and model, method, seed; repeats are left out."""
    groups: dict[tuple[str, str], dict[str, dict[int, Run]]] = {}
    for run in runs:
        if run.repeat == 0:
            methods = groups.setdefault((run.stream, run.model), {})
            methods.setdefault(run.method, {})[run.seed] = run
    return groups


def _row(
    name: tuple[str, str, str],
    methods: Mapping[str, BySeed],
    clocks: Mapping[str, BySeed],
    usual: Mapping[int, float],
) -> dict[str, Any]:
    row: dict[str, Any] = dict(zip(('stream', 'model', 'method'), name))
    mine = methods.get(name[2], {})
    if not mine:
        return {**row, 'seeds': 0, 'missing': 'not run within the budget'}
    reference = methods.get(REFERENCE, {})
    both = sorted(set(mine) & set(reference))
    differences = paired(mine, reference, 'accuracy')
    first = next(iter(mine.values()))
    accuracy = [100 * run.outcome['accuracy'] for run in mine.values()]
    whole = usual or {seed: _flops(run) for seed, run in reference.items()}
    shared = {seed: run for seed, run in mine.items() if seed in whole}
    operations = [(_flops(run), whole[seed]) for seed, run in shared.items()]
    by_part = {
        part: _ratio([(r.outcome['flops'].get(part, 0.0), whole[s]) for s, r in shared.items()])
        for part in PARTS
        if any(part in r.outcome['flops'] for r in shared.values())
    }
    # The clock knows no fixed parts: only where the reference was run on the same seeds.
    busy = [] if usual else [(_busy(mine[s]), _busy(reference[s])) for s in both]
    own, base = clocks.get(name[2], {}), clocks.get(REFERENCE, {})
    pairs = [(_seconds(own[s]), _seconds(base[s])) for s in sorted(set(own) & set(base))]
    return {
        **row,
        'seeds': len(mine),
        'accuracy': _mean(accuracy),
        'accuracy_ci95': interval(accuracy),
        'delta_vs_immediate': _mean(differences),
        'delta_ci95': interval(differences),
        'delta_seeds': len(differences),
        'final': _share(mine, 'final'),
        'final_accuracy': _mean(
            [100 * statistics.mean(r.outcome['final_by_scenario']) for r in mine.values()]
        ),
        'regret_accuracy': regret(name[2], methods, 'accuracy'),
        'regret_final': regret(name[2], methods, 'final'),
        'on_return': _share(mine, 'on_return'),
        'new_kind_requests': _number(mine, 'new_kind_requests'),
        'trained_share': _number(mine, 'trained_share'),
        'forgetting': _share(mine, 'forgetting'),
        'rounds': _number(mine, 'rounds'),
        'refused': _number(mine, 'refused'),
        'most_frozen': _mean(
            [max((n for _, n in r.outcome['frozen']), default=0) for r in mine.values()]
        ),
        'age_s': _number(mine, 'age'),
        'gflops': _mean([_flops(r) / 1e9 for r in mine.values()]),
        'flops_vs_immediate': _ratio(operations),
        'immediate_flops': ('by the clock' if usual else 'measured') if operations else None,
        'flops_by_part': by_part,
        'busy_with_fixed_vs_immediate': _ratio(busy),
        'seconds': _mean([_seconds(run) for run in own.values()]),
        'time_vs_immediate': _ratio(pairs),
        'timed_seeds': len(pairs),
        'energy_vs_immediate': None,  # no meter measured it
        'energy_source': 'unavailable',
        'pixels': first.of['pixels'],
        'commit': first.commit,
        'dirty': first.dirty,
    }


def paired(mine: BySeed, others: BySeed, figure: str) -> list[float]:
    """Return the differences of a figure in points, by the seeds that both have."""
    return [
        100 * (mine[s].outcome[figure] - others[s].outcome[figure])
        for s in sorted(set(mine) & set(others))
    ]


def regret(method: str, methods: Mapping[str, BySeed], figure: str) -> float | None:
    """
    Return how many points the best simple method is ahead, over the seeds that both have.

    A method that is simple itself stands against the others: beside itself it was never ahead.

    :param methods: runs of all methods on the stream
    :return: negative when it is ahead of all of them; None when they did not run
    """
    ahead = [
        0.0 - statistics.mean(differences)  # not -0.0
        for name in SIMPLE
        if name != method
        and (differences := paired(methods[method], methods.get(name, {}), figure))
    ]
    return max(ahead) if ahead else None


def what_rounds_add(runs: Sequence[Run], stream: str, model: str) -> list[str]:
    """Return, in words, what rounds add over the head alone on a stream, paired by seed."""
    methods = _groups(runs).get((stream, model), {})
    said = []
    for name in ADDED:
        points = paired(methods.get(name, {}), methods.get('head', {}), 'accuracy')
        final = paired(methods.get(name, {}), methods.get('head', {}), 'final')
        if points:
            said.append(
                f'{name} is at {_points(points)} points of accuracy against the head alone, '
                f'and at {_points(final)} of final accuracy ({len(points)} seeds)'
            )
    return said


def _points(values: Sequence[float]) -> str:
    half = interval(values)
    return f'{statistics.mean(values):+.1f}' + ('' if half is None else f' ± {half:.1f}')


def repeatability(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return how much runs of the same job differ: the variance that is left."""
    first = {(r.stream, r.model, r.method, r.seed): r for r in runs if r.repeat == 0}
    groups: dict[tuple[str, str], list[tuple[Run, Run]]] = {}
    for run in runs:
        base = first.get((run.stream, run.model, run.method, run.seed))
        if run.repeat and base is not None:
            groups.setdefault((run.stream, run.method), []).append((base, run))
    rows = []
    for (stream, method), pairs in groups.items():
        answers = sum(len(a.outcome['correct']) for a, _ in pairs)
        differ = sum(
            x != y for a, b in pairs for x, y in zip(a.outcome['correct'], b.outcome['correct'])
        )
        moves = [abs(_flops(b) - _flops(a)) / _flops(a) for a, b in pairs if _flops(a)]
        points = [100 * abs(b.outcome['accuracy'] - a.outcome['accuracy']) for a, b in pairs]
        rows.append(
            {
                'stream': stream,
                'method': method,
                'pairs': len(pairs),
                'answers': answers,
                'answers_differ': differ,
                'accuracy_differs': max(points),  # points, at most
                'operations_differ': max(moves, default=0.0),  # share, at most
            }
        )
    return rows


def _flops(run: Run) -> float:
    return float(sum(run.outcome['flops'].values()))


def _seconds(run: Run) -> float:
    return float(sum(run.outcome['seconds'].values()))


def _busy(run: Run) -> float:
    """Return virtual seconds of tuning: fixed parts of rounds, and all operations."""
    return float(run.outcome['fixed'] + _flops(run) / run.facts['rate_flops_per_s'])


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    below = sum(b for _, b in pairs)
    return sum(a for a, _ in pairs) / below if below else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def _number(mine: BySeed, figure: str) -> float | None:
    """Return the mean of a figure over the seeds that have one."""
    return _mean([v for r in mine.values() if (v := r.outcome[figure]) is not None])


def _share(mine: BySeed, figure: str) -> float | None:
    """Return the same in per cent."""
    value = _number(mine, figure)
    return None if value is None else 100 * value
