# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The picture of `etuner bench switching`: scores of all days, and three days as they went."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from etuner_ros.bench.switching_traces import COOL, Day, HOUR_S, STEP_S
from etuner_ros.core.serve.variants import Variant

matplotlib.use('Agg')
from matplotlib import pyplot

SHOWN = ('delivery day', 'hot afternoon', 'greenhouse')
COLOURS = {'policy': '#00796b', 'A2C': '#c2571a', 'fixed': '#9aa5ab', 'best': '#263238'}


def plot(
    path: Path,
    variants: Sequence[Variant],
    rows: Sequence[dict[str, Any]],
    stories: Sequence[tuple[Day, dict[str, list[float]]]],
) -> None:
    """Write the picture as PNG."""
    figure = pyplot.figure(figsize=(15, 10.5))
    grid = figure.add_gridspec(2, 3, height_ratios=(1.1, 1.0), hspace=0.5, wspace=0.3)
    _scores(figure.add_subplot(grid[0, :]), rows)
    shown = [next((s for s in stories if s[0].kind == kind), stories[0]) for kind in SHOWN]
    for number, (day, story) in enumerate(shown):
        below = grid[1, number].subgridspec(2, 1, hspace=0.12)
        top = figure.add_subplot(below[0])
        _served(top, variants, day, story)
        _limits(figure.add_subplot(below[1], sharex=top), day, story)
    figure.savefig(path, dpi=90, bbox_inches='tight')
    pyplot.close(figure)


def _scores(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the accuracy of every choice on every day, against the best fixed one."""
    names = list(rows[0]['fixed'])
    for x, row in enumerate(rows):
        best = row['best_fixed_score']
        for name in names:
            fixed = row['fixed'][name]
            axes.scatter(
                x,
                100 * (fixed['score'] - best),
                color=COLOURS['fixed'],
                marker='x' if fixed['violations'] else 'o',
                s=26,
                zorder=2,
            )
        for name, place, mark in (('A2C', 0.22, 's'), ('policy', -0.22, 'D')):
            if name in row:
                axes.scatter(
                    x + place,
                    100 * (row[name]['score'] - best),
                    facecolor='none' if row[name]['violations'] else COLOURS[name],
                    edgecolor=COLOURS[name],
                    marker=mark,
                    s=48,
                    zorder=3,
                )
    axes.axhline(0.0, color=COLOURS['best'], linewidth=1)
    lowest = min(
        min(row[n]['score'] for n in ('policy', 'A2C') if n in row) - row['best_fixed_score']
        for row in rows
    )
    axes.set_ylim(100 * min(lowest, -0.05) - 3, 100 * 0.09)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_xticks(range(len(rows)), [row['day'] for row in rows], rotation=35, ha='right')
    axes.set_ylabel('points above the best fixed choice')
    axes.set_title(
        'Expected accuracy of a frame (late and dropped ones count as wrong), against the best '
        'fixed choice that keeps all limits'
    )
    handles = [
        axes.scatter([], [], color=COLOURS['policy'], marker='D', label='policy'),
        axes.scatter([], [], color=COLOURS['fixed'], marker='o', label='fixed, keeps all limits'),
        axes.scatter([], [], color=COLOURS['fixed'], marker='x', label='fixed, over a limit'),
    ]
    if 'A2C' in rows[0]:
        square = {'edgecolor': COLOURS['A2C'], 'marker': 's'}
        handles.insert(1, axes.scatter([], [], facecolor=COLOURS['A2C'], **square, label='A2C'))
        handles.insert(
            2, axes.scatter([], [], facecolor='none', **square, label='A2C, over a limit')
        )
    axes.legend(handles=handles, fontsize=9, ncol=5, loc='lower right')
    axes.grid(axis='y', alpha=0.25)


def _served(
    axes: Any, variants: Sequence[Variant], day: Day, story: dict[str, list[float]]
) -> None:
    """Draw the share of time that each variant served, in minutes of five."""
    order = sorted(range(len(variants)), key=lambda i: variants[i].accuracy)
    chosen = np.asarray(story['variant'], int)
    piece = max(int(300 / STEP_S), 1)
    parts = [chosen[i : i + piece] for i in range(0, len(chosen), piece)]
    hours = [i * piece * STEP_S / HOUR_S for i in range(len(parts))]
    shares = [[float(np.mean(part == i)) for part in parts] for i in order]
    used = [k for k, share in enumerate(shares) if max(share) > 0]
    shades = pyplot.get_cmap('viridis_r')(np.linspace(0.05, 0.9, max(len(used), 1)))
    axes.stackplot(
        hours,
        [shares[k] for k in used],
        labels=[variants[order[k]].name for k in used],
        colors=shades,
        step='post',
    )
    axes.set_ylim(0, 1)
    axes.set_xlim(0, hours[-1])
    axes.tick_params(labelbottom=False)
    axes.set_ylabel('share of time')
    axes.set_title(day.name, fontsize=11)
    axes.legend(fontsize=7, loc='lower left', ncol=2, framealpha=0.85)


def _limits(axes: Any, day: Day, story: dict[str, list[float]]) -> None:
    """Draw charge and temperature with their limits."""
    hours = np.arange(len(story['charge'])) * STEP_S / HOUR_S
    axes.set_xlabel('hours')
    if day.max_temperature < COOL:
        axes.plot(hours, story['celsius'], color='#b71c1c', linewidth=0.8)
        axes.axhline(day.max_temperature, color='#b71c1c', linestyle='--', linewidth=1)
        axes.set_ylabel('degrees Celsius')
        axes.set_ylim(min(story['celsius']) - 2, day.max_temperature + 3)
        axes.text(0.02, 0.9, 'limit', transform=axes.transAxes, color='#b71c1c', fontsize=8)
    else:
        axes.plot(hours, 100 * np.asarray(story['charge']), color='#1a5fb4', linewidth=1)
        axes.axhline(100 * day.min_battery, color='#1a5fb4', linestyle='--', linewidth=1)
        axes.set_ylabel('charge, %')
        axes.set_ylim(0, 104)
    axes.grid(alpha=0.25)
