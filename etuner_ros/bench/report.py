# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark's report: one self-contained HTML page, a Markdown table, and JSON."""

from __future__ import annotations

from collections.abc import Sequence
import json
import math
from pathlib import Path
import statistics
from typing import Any

import jinja2
import matplotlib
import numpy as np

from etuner_ros.bench.table import Run
from etuner_ros.core.cost import PARTS
from etuner_ros.demo.report import svg

matplotlib.use('Agg')
from matplotlib import pyplot

OURS, STRONG, CHEAP, RIVAL = '#12805c', '#c0392b', '#2d6cdf', '#7f8c8d'
SHOWN = ('immediate', 'immediate+head', 'etuner', 'ridge', 'full')  # in the curves over a stream
LABELS_ONLY = 'full, labels only'  # what changed choices are compared with
WINDOW = 60  # requests that a point of the accuracy curve is the mean of


def _colour(method: str) -> str:
    if method == 'full' or method.startswith('etuner+'):
        return OURS
    if method.startswith('immediate'):
        return STRONG
    return CHEAP if method in ('never', 'ncm', 'slda', 'ridge') else RIVAL


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
    mine = [r for r in rows if r['stream'] == stream and r['seeds'] and r['method'] != 's1']
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
                markersize=7 if row['method'] == 'full' else 5,
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
        axes.axvline(0.15, color='black', lw=0.6, ls=':')
        axes.set_xscale('log')
        axes.set_xlabel(label)
        axes.grid(alpha=0.2)
    panes[0].set_ylabel('average inference accuracy, %')
    heights = [r['accuracy'] for r in mine]
    panes[0].set_ylim(min(heights) - 5, max(heights) + 5)  # two seeds have intervals beyond 100 %
    figure.suptitle(stream)
    return figure


def curve_figure(runs: Sequence[Run], stream: str, model: str) -> Any:
    """Draw accuracy over a stream with rounds and borders, and frozen blocks below; one seed."""
    mine = [r for r in runs if r.stream == stream and r.model == model]
    seed = min(r.seed for r in mine)
    found = {r.method: r for r in mine if r.seed == seed}
    names = [n for n in SHOWN if n in found] or list(found)[: len(SHOWN)]
    chosen = {name: found[name] for name in names}
    figure, panes = pyplot.subplots(
        2, 1, figsize=(13, 6), sharex=True, gridspec_kw={'height_ratios': (3, 1)}
    )
    shades = ('#c0392b', '#e08e79', '#7f8c8d', '#2d6cdf', '#12805c')
    palette = dict(zip(SHOWN if set(names) & set(SHOWN) else names, shades))
    for name, run in chosen.items():
        right = np.array([c == '1' for c in run.outcome['correct']], float)
        times = np.asarray(run.facts['request_times'])
        sums = np.cumsum(np.concatenate([[0.0], right]))
        ends = np.arange(1, len(right) + 1)
        starts = np.maximum(ends - WINDOW, 0)
        panes[0].plot(
            times,
            100 * (sums[ends] - sums[starts]) / (ends - starts),
            color=palette[name],
            label=name,
        )
        if name == 'full':
            for began, ended in run.outcome['round_times']:
                panes[0].axvspan(began, ended, color=OURS, alpha=0.15)
        if run.outcome['frozen']:
            panes[1].step(*zip(*run.outcome['frozen']), where='post', color=palette[name])
    facts = next(iter(chosen.values())).facts
    for axes in panes:
        for border in facts['borders']:
            axes.axvline(border, color='black', lw=0.8)
        axes.grid(alpha=0.2)
    for change in next(iter(chosen.values())).outcome['changes']:
        panes[0].axvline(change, color='black', lw=0.6, ls=':')
    panes[0].set_ylabel(f'accuracy, last {WINDOW} requests, %')
    panes[0].legend(fontsize=8, ncol=5)
    panes[1].set_ylabel(f'frozen of {facts["blocks"]}')
    panes[1].set_xlabel('virtual seconds')
    figure.suptitle(
        f'{stream}, seed {seed}: borders, declared changes (dotted), rounds of full (green)'
    )
    return figure


def cost_figure(runs: Sequence[Run], stream: str, model: str, unit: str) -> Any:
    """Draw what each method's cost is made of: operations, or measured seconds."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.stream == stream and run.model == model and run.outcome[unit]:
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


def sensitivities(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """
    Return what each changed choice of ours makes of accuracy and operations, seed by seed, against
    the system that learns from labels only; learning from others is `full` itself.
    """
    by_method: dict[str, dict[tuple[str, str, int], Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, {})[run.stream, run.model, run.seed] = run
    base, rows = by_method.get(LABELS_ONLY, {}), []
    for method, mine in by_method.items():
        both = [key for key in mine if key in base]
        if not method.startswith('full') or method == LABELS_ONLY or not both:
            continue
        points = [mine[k].outcome['accuracy'] - base[k].outcome['accuracy'] for k in both]
        ours, theirs = (
            sum(sum(group[k].outcome['flops'].values()) for k in both) for group in (mine, base)
        )
        name = 'unlabelled frames, too' if method == 'full' else method.removeprefix('full, ')
        choice = f'{name} ({len(both)} runs)'
        rows.append(
            {'choice': choice, 'accuracy': 100 * statistics.mean(points), 'flops': ours / theirs}
        )
    return rows


def sensitivity_figure(rows: Sequence[dict[str, Any]]) -> Any:
    """Draw the change of accuracy and of operations when one of our choices is another."""
    names = [r['choice'] for r in rows]
    figure, panes = pyplot.subplots(1, 2, figsize=(13, 0.34 * len(rows) + 1.2), sharey=True)
    panes[0].barh(names, [r['accuracy'] for r in rows], color=OURS)
    panes[0].set_xlabel('points of accuracy against the system on labels only')
    panes[1].barh(names, [r['flops'] for r in rows], color=CHEAP)
    panes[1].axvline(1.0, color='black', lw=0.6)
    panes[1].set_xlabel('operations, share of those')
    for axes in panes:
        axes.grid(alpha=0.2)
    return figure


def _sensitivity(folder: Path, rows: Sequence[dict[str, Any]]) -> str:
    """Write the figure of sensitivities, if there are any; return it as SVG."""
    if not rows:
        return ''
    figure = sensitivity_figure(rows)
    figure.savefig(folder / 'sensitivity.png', dpi=100, bbox_inches='tight')
    return svg(figure)


def _number(value: Any, digits: int = 1, sign: bool = False) -> str:
    if value is None:
        return '-'
    return f'{value:+.{digits}f}' if sign else f'{value:.{digits}f}'


def markdown(rows: Sequence[dict[str, Any]], stream: str, model: str) -> str:
    """Return the table of a stream; methods without runs are named."""
    lines = [
        '| method | seeds | accuracy, % | against immediate | final, % | forgetting | rounds | '
        'operations | time | energy |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for row in rows:
        if (row['stream'], row['model']) != (stream, model):
            continue
        name = f'**{row["method"]}**' if row['method'] == 'full' else row['method']
        if not row['seeds']:
            lines.append(f'| {name} | missing: {row["missing"]} | | | | | | | | |')
            continue
        spread = '' if row['accuracy_ci95'] is None else f' ± {row["accuracy_ci95"]:.1f}'
        against = _number(row['delta_vs_immediate'], sign=True)
        if row['delta_ci95'] is not None:
            against += f' ± {row["delta_ci95"]:.1f}'
        lines.append(
            f'| {name} | {row["seeds"]} | {row["accuracy"]:.1f}{spread} | {against} | '
            f'{_number(row["final_accuracy"])} | {_number(row["forgetting"])} | '
            f'{_number(row["rounds"])} | {_number(row["flops_vs_immediate"], 3)} | '
            f'{_number(row["time_vs_immediate"], 3)} | {_number(row["energy_vs_immediate"], 3)} |'
        )
    return '\n'.join(lines)


def write(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    runs: Sequence[Run],
    timed: Sequence[Run],
    facts: dict[str, Any],
    changed: Sequence[Run] = (),
) -> None:
    """
    Write summary.json, table.md, figures as PNG and report.html.

    :param facts: command, commit, versions, machine; printed on the page
    :param changed: runs of the whole system with one choice changed
    """
    folder.mkdir(parents=True, exist_ok=True)
    pairs = list(dict.fromkeys((r['stream'], r['model']) for r in rows if r['seeds']))
    tables = {f'{s}, {m}': markdown(rows, s, m) for s, m in pairs}
    (folder / 'summary.json').write_text(json.dumps(list(rows), indent=1) + '\n')
    (folder / 'machine.json').write_text(json.dumps(facts, indent=1) + '\n')
    text = [f'{k}: {v}' for k, v in facts.items()]
    (folder / 'table.md').write_text(
        '\n\n'.join(['<!-- ' + '; '.join(text) + ' -->'])
        + '\n\n'
        + '\n\n'.join(f'## {title}\n\n{table}' for title, table in tables.items())
        + '\n'
    )
    sections = []
    for stream, model in pairs:
        own = [r for r in rows if (r['stream'], r['model']) == (stream, model)]
        figures, drawn = [], {}
        if len([r for r in own if r['seeds']]) > 2:
            drawn['pareto'] = pareto_figure(own, stream)
        drawn['stream'] = curve_figure(runs, stream, model)
        drawn['cost'] = cost_figure(runs, stream, model, 'flops')
        for name, figure in drawn.items():
            file = folder / f'{name}_{stream}_{model}.png'
            figure.savefig(file, dpi=100, bbox_inches='tight')
            figures.append(svg(figure))
        if any((r.stream, r.model) == (stream, model) for r in timed):
            figures.append(svg(cost_figure(timed, stream, model, 'seconds')))
        sections.append({'title': f'{stream}, {model}', 'rows': own, 'figures': figures})
    sensitivity = sensitivities([*runs, *changed])
    template = Path(__file__).resolve().parent.parent / 'templates' / 'bench.html'
    page = jinja2.Template(template.read_text(), autoescape=True).render(
        sections=sections,
        facts=facts,
        sensitivity=_sensitivity(folder, sensitivity),
        number=_number,
    )
    (folder / 'report.html').write_text(page)
