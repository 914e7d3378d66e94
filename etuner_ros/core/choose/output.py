# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a survey found, for people and for the robot: table, JSON, parameter file. No torch."""

from __future__ import annotations

from collections.abc import Sequence
import json
import math
from pathlib import Path
from typing import Any

import yaml

from etuner_ros.core.choose.measured import Failed, Measured
from etuner_ros.core.choose.pick import front, Limits, paired_error
from etuner_ros.core.files import replace_file

HEADER = ('candidate', 'right', 'doubt', 'p50', 'p99', 'memory', 'energy', 'round', '')
UNITS = ('', '%', 'nats', 'ms', 'ms', 'MB', 'mJ', 's', '')
CHOSEN, FRONT = 'chosen', 'front'


def row(measured: Measured, best: Measured, mark: str = '') -> tuple[str, ...]:
    """Return one line of the table."""
    known = not math.isnan(measured.joules)
    error = 100 * paired_error(best, measured)
    behind = f' ({100 * (measured.accuracy - best.accuracy):+.1f} ± {error:.1f})'
    return (
        measured.candidate.name,
        f'{100 * measured.accuracy:.1f}' + ('' if measured is best else behind),
        f'{measured.mean_doubt:.3f}',
        f'{measured.p50_ms:.2f}',
        f'{measured.p99_ms:.2f}',
        f'{measured.memory_mb:.0f}',
        f'{1e3 * measured.joules:.1f}' if known else 'unavailable',
        f'{measured.round_s:.1f}',
        mark,
    )


def marks(found: Sequence[Measured], chosen: Measured | None) -> list[str]:
    """Return what stands beside each line: that it is chosen, or on the front."""
    on_front = front(found)
    return [
        CHOSEN if m is chosen else FRONT if any(m is f for f in on_front) else '' for m in found
    ]


def table(
    found: Sequence[Measured], chosen: Measured | None, failed: Sequence[Failed] = ()
) -> str:
    """Return the table as text, the fastest first; behind the best: difference and its error."""
    if not found:
        return '\n'.join(f'{f.candidate.name}: {f.reason}' for f in failed)
    ordered = sorted(found, key=lambda m: m.p50_ms)
    best = max(ordered, key=lambda m: (m.accuracy, -m.p50_ms))
    rows: list[tuple[str, ...]] = [HEADER, UNITS]
    rows += [row(m, best, mark) for m, mark in zip(ordered, marks(ordered, chosen))]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEADER))]
    lines = [
        '  '.join(
            cell.ljust(width) if i in (0, len(HEADER) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(r, widths))
        ).rstrip()
        for r in rows
    ]
    sources = dict.fromkeys(m.energy_source for m in ordered if not math.isnan(m.joules))
    lines += [f'energy: {source}' for source in sources]
    lines += [f'not measured: {f.candidate.name}: {f.reason}' for f in failed]
    return '\n'.join(lines)


def summary(
    found: Sequence[Measured],
    chosen: Measured | None,
    failed: Sequence[Failed],
    limits: Limits,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Return everything for programs."""
    return {
        **facts,
        'limits': {
            'ms': None if math.isnan(limits.ms) else limits.ms,
            'watts': None if math.isnan(limits.watts) else limits.watts,
            'rate_hz': limits.rate_hz,
        },
        'chosen': chosen.to_json() if chosen is not None else None,
        'front': [m.candidate.name for m in front(found)],
        'measured': [m.to_json() for m in found],
        'failed': [{'candidate': f.candidate.name, 'reason': f.reason} for f in failed],
    }


def parameters(chosen: Measured) -> dict[str, Any]:
    """Return the ROS parameters that serve and train a candidate."""
    candidate = chosen.candidate
    weights = str(Path(candidate.weights).expanduser().resolve()) if candidate.weights else ''
    model = {
        'architecture': candidate.network,
        'input_size': candidate.pixels,
        'weights': weights,
    }
    engine = {'engine': chosen.served.rpartition('-')[0], 'precision': candidate.precision}
    return {
        '/**/inference': {'ros__parameters': {'model': dict(model), **engine}},
        '/**/model_manager': {'ros__parameters': {'model': dict(model)}},
        '/**/tuner': {'ros__parameters': {'model': dict(model), **engine}},
    }


def parameter_file(chosen: Measured, wanted: str) -> str:
    """
    Return a parameter file with what it is and what is to be done with it.

    :param wanted: the limits, in words
    """
    energy = (
        f'{1e3 * chosen.joules:.1f} mJ ({chosen.energy_source})'
        if not math.isnan(chosen.joules)
        else 'energy unavailable'
    )
    said = (
        f'# Written by `etuner choose` for: {wanted}.\n'
        f'# {chosen.candidate.name} as {chosen.served}: {chosen.p50_ms:.2f} ms a prediction (p99 '
        f'{chosen.p99_ms:.2f}), {chosen.memory_mb:.0f} MB, {energy},\n'
        f'# a round over 32 labels {chosen.round_s:.1f} s; {100 * chosen.accuracy:.1f} % of '
        f'{chosen.samples} labels right when left out.\n'
        f'# Use: ros2 launch etuner_ros etuner.launch.py params_file:=<this file>\n'
        f'# without weights:= and model:=, which would win over it.\n'
        f'# A robot that was deployed with `etuner deploy` needs base weights of this network, '
        f'too:\n'
        f'# etuner deploy --architecture {chosen.candidate.network} --input-size '
        f'{chosen.candidate.pixels} ..., then name them in model.weights below, three times.\n'
    )
    return said + str(yaml.safe_dump(parameters(chosen), sort_keys=False))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write JSON in one step."""
    replace_file(path, (json.dumps(content, indent=1) + '\n').encode())
