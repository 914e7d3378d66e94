# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the benchmark's report."""

from __future__ import annotations

from collections.abc import Sequence
import math
import statistics
from typing import Any

import matplotlib
import numpy as np

from etuner_ros.bench.runs import Run
from etuner_ros.core.cost import PARTS

matplotlib.use('Agg')
from matplotlib import pyplot

OURS, STRONG, CHEAP, RIVAL = '#12805c', '#c0392b', '#2d6cdf', '#7f8c8d'
# In the curves over a stream, with their colours.
SHOWN = {
    'head': '#2d6cdf',
    'every-4+head': '#8e44ad',
    'immediate+head': '#c0392b',
    'shipped': '#12805c',
    'ridge': '#7f8c8d',
}
WINDOW = 60  # requests that a point of the accuracy curve is the mean of


def _colour(method: str) -> str:
    if method.startswith('shipped'):
        return OURS
    if method.startswith('immediate'):
        return STRONG
    return CHEAP if method.split(',')[0] in ('never', 'ncm', 'ridge', 'head') else RIVAL


def pareto(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the methods that no other beats in accuracy at the same or fewer operations."""
    ranked = sorted(rows, key=lambda r: (r['flops_vs_immediate'] or 0.0, -r['accuracy']))
    front, best = [], -1.0
    for row in ranked:
        if row['accuracy'] > best:
            best = row['accuracy']
            front.append(row['method'])
    return front


def pareto_figure(rows: Sequence[dict[str, Any]], stream: str) -> Any:
    """Draw accuracy against operations, and against seconds where they were measured."""
    mine = [r for r in rows if r['stream'] == stream and r['seeds']]
    figure, panes = pyplot.subplots(1, 2, figsize=(13, 5), sharey=True)
    for axes, key, label in (
        (panes[0], 'flops_vs_immediate', 'operations, share of immediate'),
        (panes[1], 'time_vs_immediate', 'seconds of tuning, share of immediate'),
    ):
        points = [r for r in mine if r[key] is not None]
        front = set(pareto(points)) if key == 'flops_vs_immediate' else set()
        # Names of points that lie on each other can not be read: the main ones are said.
        points.sort(key=lambda r: (r['method'] not in SHOWN, r['method'] not in front))
        named: list[tuple[float, float]] = []
        for row in points:
            x = max(row[key], 1e-4)
            axes.errorbar(
                x,
                row['accuracy'],
                yerr=row['accuracy_ci95'],
                fmt='o',
                color=_colour(row['method']),
                alpha=0.9,
                markersize=7 if row['method'] == 'shipped' else 5,
                elinewidth=0.6,
            )
            if any(abs(math.log(x / u)) < 0.9 and abs(row['accuracy'] - v) < 2 for u, v in named):
                continue
            named.append((x, row['accuracy']))
            axes.annotate(
                row['method'],
                (x, row['accuracy']),
                textcoords='offset points',
                xytext=(5, 4),
                fontsize=8,
            )
        if front:
            line = sorted(
                (max(r[key], 1e-4), r['accuracy']) for r in points if r['method'] in front
            )
            axes.step([x for x, _ in line], [y for _, y in line], where='post', color=OURS, lw=0.8)
        axes.set_xscale('log')
        axes.set_xlabel(label)
        axes.grid(alpha=0.2)
    panes[0].set_ylabel('average inference accuracy, %')
    heights = [r['accuracy'] for r in mine]
    panes[0].set_ylim(min(heights) - 5, max(heights) + 5)  # two seeds have intervals beyond 100 %
    figure.suptitle(stream)
    return figure


def curve_figure(runs: Sequence[Run], stream: str, model: str) -> Any:
    """
    Draw accuracy over a stream with its visits and rounds, and frozen blocks below; one seed.
    """
    mine = [r for r in runs if (r.stream, r.model, r.repeat) == (stream, model, 0)]
    seed = min(r.seed for r in mine)
    found = {r.method: r for r in mine if r.seed == seed}
    names = [n for n in SHOWN if n in found] or list(found)[: len(SHOWN)]
    palette = {**dict(zip(names, SHOWN.values())), **SHOWN}
    figure, panes = pyplot.subplots(
        2, 1, figsize=(13, 6), sharex=True, gridspec_kw={'height_ratios': (3, 1)}
    )
    for name in names:
        run, colour = found[name], palette[name]
        right = np.array([c == '1' for c in run.outcome['correct']], float)
        times = np.asarray(run.facts['request_times'])
        sums = np.cumsum(np.concatenate([[0.0], right]))
        ends = np.arange(1, len(right) + 1)
        starts = np.maximum(ends - WINDOW, 0)
        means = 100 * (sums[ends] - sums[starts]) / (ends - starts)
        panes[0].plot(times, means, color=colour, label=name)
        if name == 'shipped':
            for began, ended in run.outcome['round_times']:
                panes[0].axvspan(began, ended, color=OURS, alpha=0.15)
        if run.outcome['frozen']:
            panes[1].step(*zip(*run.outcome['frozen']), where='post', color=colour)
    first = found[names[0]]
    _mark_visits(panes, first.facts)
    for change in first.outcome['changes']:
        panes[0].axvline(change, color='black', lw=0.6, ls=':')
    panes[0].set_ylabel(f'accuracy, last {WINDOW} requests, %')
    panes[0].legend(fontsize=8, ncol=5, loc='lower right')
    panes[1].set_ylabel(f'frozen of {first.facts["blocks"]}')
    panes[1].set_xlabel('virtual seconds')
    figure.suptitle(f'{stream}, seed {seed}: declared changes dotted, rounds of shipped green')
    return figure


def _mark_visits(panes: Sequence[Any], facts: dict[str, Any]) -> None:
    """Draw where visits begin, with the name of the place; those that return are shaded."""
    visits, starts = facts['visits'], facts['starts']
    ends = [*starts[1:], facts['end']]
    for visit, (place, start, end) in enumerate(zip(visits, starts, ends)):
        returns = place in visits[:visit]
        name = facts['scenarios'][place] + (' again' if returns else '')
        panes[0].text(start, 1.01, f' {name}', fontsize=8, transform=_over(panes[0]))
        for axes in panes:
            axes.axvline(start, color='black', lw=0.8)
            if returns:
                axes.axvspan(start, end, color='black', alpha=0.04, lw=0)
    for axes in panes:
        axes.grid(alpha=0.2)


def _over(axes: Any) -> Any:
    """Return coordinates: time across, the share of the height upwards."""
    return axes.get_xaxis_transform()


def cost_figure(runs: Sequence[Run], stream: str, model: str, unit: str) -> Any:
    """Draw what each method's cost is made of: operations, or measured seconds."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if (run.stream, run.model, run.repeat) == (stream, model, 0) and run.outcome[unit]:
            groups.setdefault(run.method, []).append(run)
    scale = 1e9 if unit == 'flops' else 1.0
    names = sorted(groups, key=lambda n: _mean_total(groups[n], unit))
    figure, axes = pyplot.subplots(figsize=(13, 0.32 * len(names) + 1.2))
    left = np.zeros(len(names))
    colours = pyplot.get_cmap('tab10')
    for number, name in enumerate(PARTS):
        values = np.array(
            [statistics.mean(r.outcome[unit].get(name, 0.0) for r in groups[n]) for n in names]
        )
        values = values / scale
        if values.sum() > 0:
            axes.barh(names, values, left=left, label=name, color=colours(number))
            left = left + values
    axes.set_xlabel('GFLOP' if unit == 'flops' else 'seconds, taking turns on one thread')
    axes.legend(fontsize=8, ncol=5, loc='lower right')
    axes.set_title(stream)
    return figure


def _mean_total(runs: Sequence[Run], unit: str) -> float:
    return statistics.mean(sum(r.outcome[unit].values()) for r in runs)
