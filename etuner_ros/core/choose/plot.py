# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy against milliseconds, with the front and what was chosen. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
import math
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, NullFormatter

from etuner_ros.core.choose.measured import Measured
from etuner_ros.core.choose.pick import front, Limits
from etuner_ros.core.files import replace_file

COLOURS = ('#00796b', '#d1662b', '#5561b0', '#b0304f', '#7a6a2b', '#555555')
MARKERS = {'fp32': 'o', 'fp16': 's', 'int8': '^'}


def draw(
    path: Path, found: Sequence[Measured], chosen: Measured | None, limits: Limits, title: str
) -> None:
    """
    Write the picture as PNG.

    :param title: what it was measured on
    """
    figure, axes = pyplot.subplots(figsize=(9.5, 5.2))
    networks = list(dict.fromkeys(m.candidate.network for m in found))
    on_front = front(found)
    axes.plot(
        [m.p50_ms for m in on_front],
        [100 * m.accuracy for m in on_front],
        color='#999999',
        linewidth=1.2,
        zorder=1,
        label='front',
    )
    for one in found:
        colour = COLOURS[networks.index(one.candidate.network) % len(COLOURS)]
        ahead = any(one is f for f in on_front)
        axes.scatter(
            one.p50_ms,
            100 * one.accuracy,
            marker=MARKERS[one.candidate.precision],
            s=46,
            facecolor=colour if ahead else 'white',
            edgecolor=colour,
            zorder=3,
        )
        axes.annotate(
            str(one.candidate.pixels),
            (one.p50_ms, 100 * one.accuracy),
            textcoords='offset points',
            xytext=(0, 11 if one is chosen else 6 if ahead else -13),
            ha='center',
            fontsize=7.5,
            color=colour,
        )
    for network in networks:
        colour = COLOURS[networks.index(network) % len(COLOURS)]
        axes.scatter([], [], marker='s', s=70, color=colour, label=network)
    for precision in dict.fromkeys(m.candidate.precision for m in found):
        axes.scatter([], [], marker=MARKERS[precision], color='#444444', label=precision)
    if chosen is not None:
        axes.scatter(
            chosen.p50_ms,
            100 * chosen.accuracy,
            s=200,
            facecolor='none',
            edgecolor='black',
            linewidth=1.6,
            zorder=4,
            label='chosen',
        )
    if not math.isnan(limits.ms):
        axes.axvline(limits.ms, color='black', linestyle=':', label=f'limit {limits.ms:g} ms')
    axes.set_xscale('log')
    _ticks(axes, [m.p50_ms for m in found])
    axes.set_xlabel('milliseconds of a prediction (p50), log')
    axes.set_ylabel('right when left out, %')
    axes.set_title(title, fontsize=10)
    axes.margins(0.08, 0.12)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5), frameon=False)
    data = BytesIO()
    figure.savefig(data, format='png', dpi=110, bbox_inches='tight')
    pyplot.close(figure)
    replace_file(path, data.getvalue())


def _ticks(axes: pyplot.Axes, values: Sequence[float]) -> None:
    """Label a logarithmic axis with plain numbers, some even where it spans no power of ten."""
    steps = [m * 10.0**e for e in range(-2, 5) for m in (1, 1.5, 2, 3, 5, 7)]
    low, high = 0.8 * min(values), 1.25 * max(values)
    axes.set_xticks([s for s in steps if low <= s <= high])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.xaxis.set_minor_formatter(NullFormatter())
