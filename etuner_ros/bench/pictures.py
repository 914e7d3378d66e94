# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The pictures of the benchmark's report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import statistics
from typing import Any

import matplotlib
import numpy as np

from etuner_ros.bench.runs import Run
from etuner_ros.bench.table import interval, paired
from etuner_ros.core.cost import PARTS

matplotlib.use('Agg')
from matplotlib import pyplot
from matplotlib.transforms import Bbox

OURS, STRONG, CHEAP, RIVAL = '#12805c', '#c0392b', '#2d6cdf', '#7f8c8d'
# In the curves over a stream, with their colours.
SHOWN = {
    'head': '#2d6cdf',
    'every-4+head': '#8e44ad',
    'immediate+head': '#c0392b',
    'shipped': '#12805c',
    'ridge': '#7f8c8d',
}
LEAST_FOR_INTERVALS = 3  # seeds: that of two reaches beyond all points
# Where the name of a point may stand: points to the right, upwards, and which end is at the point.
PLACES = [
    (s * 7, dy, side)
    for dy in (7, -7, 16, -16, 25, -25, 34, -34, 43)
    for s, side in ((1, 'left'), (-1, 'right'))
]
WINDOW = 60  # requests that a point of the accuracy curve is the mean of


@dataclass(frozen=True)
class Point:
    """A method in the picture of gains and operations."""

    name: str
    operations: float  # share of `immediate`
    gain: float  # points
    half: float  # width of half an interval; 0 = none
    seeds: int


def _colour(method: str) -> str:
    if method.startswith('shipped'):
        return OURS
    if method.startswith('immediate'):
        return STRONG
    return CHEAP if method.split(',')[0] in ('never', 'ncm', 'ridge', 'head') else RIVAL


def pareto(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats at the same or fewer operations, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p.operations, -p.gain)):
        if not front or point.gain > front[-1].gain:
            front.append(point)
    return front


def pareto_figure(rows: Sequence[dict[str, Any]], runs: Sequence[Run], stream: str) -> Any:
    """
    Draw what methods gain over the head alone against their operations; None where the head or
    operations are missing.

    Gains are of the same seeds, as methods have different ones: a mean over others would move a
    point by more than most methods differ.

    :param rows: of the table, of one stream and network
    :param runs: of all
    """
    shares = {r['method']: r['flops_vs_immediate'] for r in rows if r['flops_vs_immediate']}
    methods: dict[str, dict[int, Run]] = {}
    for run in runs:
        same = rows and (run.stream, run.model) == (stream, rows[0]['model'])
        if same and run.repeat == 0 and run.method in shares:
            methods.setdefault(run.method, {})[run.seed] = run
    head = methods.get('head', {})
    if not head:
        return None
    figure, panes = pyplot.subplots(1, 2, figsize=(13, 5))
    for axes, key, title in (
        (panes[0], 'accuracy', 'accuracy over the stream'),
        (panes[1], 'final', 'final accuracy over all kinds'),
    ):
        points = []
        for name, mine in methods.items():
            if gains := paired(mine, head, key):
                half = interval(gains) if len(gains) >= LEAST_FOR_INTERVALS else None
                gain = statistics.mean(gains)
                points.append(Point(name, max(shares[name], 1e-4), gain, half or 0.0, len(gains)))
        _draw(axes, points)
        axes.set_title(title, fontsize=10)
    panes[0].set_ylabel('points over the head alone, same seeds')
    figure.suptitle(f'{stream}: what no other beats for its operations is joined')
    return figure


def _draw(axes: Any, points: Sequence[Point]) -> None:
    for point in points:
        axes.errorbar(
            point.operations,
            point.gain,
            yerr=point.half or None,
            fmt='o',
            color=_colour(point.name),
            alpha=0.9,
            markersize=7 if point.name == 'shipped' else 5,
            elinewidth=0.6,
        )
    front = pareto(points)
    line = [p.operations for p in front], [p.gain for p in front]
    axes.step(*line, where='post', color=OURS, lw=0.8)
    axes.axhline(0.0, color='black', lw=0.5)
    axes.set_xscale('log')
    axes.set_xlabel('operations, share of immediate')
    axes.grid(alpha=0.2)
    axes.margins(x=0.2, y=0.15)
    _name(axes, points)


def _name(axes: Any, points: Sequence[Point]) -> None:
    """Write names beside points, each where it lies on no other; the main ones first."""
    canvas = axes.figure.canvas
    # What lies below a point's name can not be read either.
    taken = [
        Bbox.from_extents(x - 5, y - 5, x + 5, y + 5)
        for x, y in axes.transData.transform([(p.operations, p.gain) for p in points])
    ]
    for point in sorted(points, key=lambda p: p.name not in SHOWN):
        label = point.name if point.seeds > 4 else f'{point.name} ({point.seeds})'
        for dx, dy, side in PLACES:
            text = axes.annotate(
                label,
                (point.operations, point.gain),
                textcoords='offset points',
                xytext=(dx, dy),
                ha=side,
                va='center',
                fontsize=8,
            )
            box = text.get_window_extent(canvas.get_renderer())
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


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
