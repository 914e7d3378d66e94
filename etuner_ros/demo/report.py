# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's page: one HTML file with everything inside."""

from __future__ import annotations

import base64
from io import BytesIO
import math
from pathlib import Path
from typing import Any

import jinja2
import matplotlib
import numpy as np

from etuner_ros import __version__
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.demo.record import Deployed, Record
from etuner_ros.demo.score import Score

matplotlib.use('Agg')
from matplotlib import pyplot

TUNED, UNTUNED, NEAREST, SWAP = '#12805c', '#c0392b', '#7f8c8d', '#2d6cdf'


def svg(figure: Any) -> str:
    """Return a figure as SVG text, and close it."""
    stream = BytesIO()
    figure.savefig(stream, format='svg', bbox_inches='tight')
    pyplot.close(figure)
    text = stream.getvalue().decode()
    return text[text.index('<svg') :]


def _rolling(outcomes: list[bool], window: int = 50) -> np.ndarray:
    """Return the mean of the last `window` outcomes at each frame, in percent."""
    sums = np.cumsum(np.concatenate([[0.0], np.asarray(outcomes, float)]))
    ends = np.arange(1, len(outcomes) + 1)
    starts = np.maximum(ends - window, 0)
    return 100 * (sums[ends] - sums[starts]) / (ends - starts)


def _borders(record: Record) -> list[tuple[float, str]]:
    """Return where each scenario begins, in s."""
    borders: list[tuple[float, str]] = []
    for shot in record.shots:
        if not borders or borders[-1][1] != shot.scenario:
            borders.append((shot.seconds, shot.scenario))
    return borders


def _mark_scenarios(axes: Any, record: Record) -> None:
    for i, (begin, name) in enumerate(_borders(record)):
        if i:
            axes.axvline(begin, color='black', linewidth=1)
        axes.text(begin + 1, 1.01, name, transform=axes.get_xaxis_transform(), fontsize=9)
    axes.set_xlim(0, record.seconds)
    axes.set_xlabel('time (s)')


def accuracy_plot(deployed: Deployed, record: Record, nearest: list[str]) -> str:
    """Accuracy over time, with scenario borders, declared changes and swaps; SVG."""
    figure, axes = pyplot.subplots(figsize=(11, 4))
    time = [s.seconds for s in record.shots]
    axes.plot(
        time,
        _rolling([s.predicted == s.truth for s in record.shots]),
        color=TUNED,
        linewidth=2,
        label='the robot, tuning',
    )
    axes.plot(
        time,
        _rolling([n == s.truth for n, s in zip(nearest, record.shots)]),
        color=NEAREST,
        linewidth=1,
        label='nearest class mean, same labels',
    )
    axes.plot(
        time,
        _rolling([deployed.untuned[s.index] == s.truth for s in record.shots]),
        color=UNTUNED,
        linewidth=1.5,
        label='left untuned',
    )
    for i, (when, _) in enumerate(record.swaps):
        axes.axvline(
            when,
            ymax=0.04,
            color=SWAP,
            linewidth=1.5,
            label='new weights live' if i == 0 else None,
        )
    axes.plot(
        record.changes,
        [101] * len(record.changes),
        'v',
        color='black',
        markersize=7,
        clip_on=False,
        label='change noticed',
    )
    _mark_scenarios(axes, record)
    axes.set_ylim(0, 102)
    axes.set_ylabel('accuracy of the last 50 frames (%)')
    axes.legend(loc='lower left', fontsize=8, ncol=2)
    return svg(figure)


def tuning_plot(record: Record) -> str:
    """Layers frozen and time spent tuning, over time; SVG."""
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(11, 4.4), sharex=True)
    frozen = [*record.frozen, (record.seconds, record.frozen[-1][1] if record.frozen else 0)]
    above.step(
        [t for t, _ in frozen], [n for _, n in frozen], where='post', color='#0e7490', linewidth=2
    )
    above.set_ylim(0, max(record.layers, 1))
    above.set_ylabel('layers frozen')
    below.bar(
        [t - s for t, s in record.rounds],
        [s for _, s in record.rounds],
        width=[s for _, s in record.rounds],
        align='edge',
        color='#b7791f',
    )
    below.set_ylabel('length of the round (s)')
    twin = below.twinx()
    ends = np.array([0.0, *[t for t, _ in record.rounds], record.seconds])
    spent = np.array(
        [0.0, *np.cumsum([s for _, s in record.rounds]), sum(s for _, s in record.rounds)]
    )
    twin.step(ends, spent, where='post', color='#444444', linewidth=1)
    twin.set_ylabel('tuning so far (s)')
    _mark_scenarios(above, record)
    _mark_scenarios(below, record)
    above.set_xlabel('')
    return svg(figure)


def _samples(deployed: Deployed, record: Record) -> list[dict[str, Any]]:
    """
    Choose frames of each scenario's last third on which the two models differ most often, and some
    where they agree.
    """
    chosen = []
    for _, scenario in _borders(record):
        mine = [s for s in record.shots if s.scenario == scenario]
        late = mine[len(mine) * 2 // 3 :]
        step = max(len(late) // 8, 1)
        for shot in late[::step][:8]:  # evenly spaced, not picked by outcome
            picture = base64.b64encode(encode_jpeg(deployed.frames[shot.index].image, 85)).decode()
            before = deployed.untuned[shot.index]
            chosen.append(
                {
                    'scenario': scenario,
                    'picture': picture,
                    'truth': shot.truth,
                    'before': before,
                    'before_right': before == shot.truth,
                    'after': shot.predicted or '(none)',
                    'after_right': shot.predicted == shot.truth,
                    'version': shot.version,
                }
            )
    return chosen


def write_page(
    path: Path, deployed: Deployed, record: Record, scores: list[Score], nearest: list[str]
) -> None:
    """Write the page."""
    template = jinja2.Environment(autoescape=True).from_string(
        (Path(__file__).parent.parent / 'templates' / 'demo.html').read_text()
    )
    samples = _samples(deployed, record)
    path.write_text(
        template.render(
            version=__version__,
            accuracy=jinja2_safe(accuracy_plot(deployed, record, nearest)),
            tuning=jinja2_safe(tuning_plot(record)),
            deployed=deployed,
            record=record,
            scores=scores,
            isnan=math.isnan,
            gain=float(np.mean([s.tuned - s.untuned for s in scores[1:]]))
            if len(scores) > 1
            else math.nan,
            scenarios=[
                (name, [s for s in samples if s['scenario'] == name])
                for _, name in _borders(record)
            ],
        )
    )


def jinja2_safe(svg: str) -> Any:
    """Mark our own SVG as safe to put into the page."""
    from markupsafe import Markup

    return Markup(svg)
