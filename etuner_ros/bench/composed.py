# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The nodes in one process (`robot`) and in a process each, in turns: memory of all, and how long a
prediction takes, from image stamp to the subscriber, at 640 x 480 and 30 Hz while labels come and
rounds run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
import json
import os
from pathlib import Path
import shutil
import statistics
import tempfile
from typing import Any

from etuner_ros.bench.head_commit import machine
from etuner_ros.bench.serving_stage import RATE_HZ, SEPARATE, Stage, whole_graph
from etuner_ros.bench.soak.processes import children_of, memory_mb
from etuner_ros.worker.memory import resident_mb

WAYS = {'separate': SEPARATE, 'composed': ('robot',)}


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process, without what it started, in s."""
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')


def memory(pids: list[int]) -> dict[str, Any]:
    """
    Return MB of processes and all that they started: of the whole (PSS: what several share counts
    once), and of each apart (RSS), by kind.
    """
    found: dict[str, float] = {'pss_mb': 0.0, 'rss_mb': 0.0, 'worker_pss_mb': 0.0}
    below = [child for pid in pids for child in children_of(pid)]
    for pid in (*pids, *below):
        found['pss_mb'] += memory_mb(pid)
        found['rss_mb'] += resident_mb(pid)
    found['worker_pss_mb'] = sum(map(memory_mb, below))
    return {**found, 'processes': len(pids) + len(below)}


def turn(stage: Stage, executables: Sequence[str], frames: int) -> dict[str, Any]:
    """Run the nodes, whose stores begin anew, and measure them while frames come."""
    with whole_graph(stage, executables) as pids:
        before = sum(map(cpu_s, pids))
        served = asdict(stage.stream(frames))
        used = sum(map(cpu_s, pids)) - before
        found = {**served, **memory(pids), 'cpu_ms_per_frame': 1e3 * used / frames}
        found['load'] = os.getloadavg()[0]  # of the machine, what ran beside included
    shutil.rmtree(stage.folder / 'graph')
    return found


def measure(
    stream: Path,
    output: Path,
    frames: int,
    repetitions: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """
    Measure both ways in turns and write `composed.json`.

    :param frames: of each repetition
    """
    turns: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    where = machine()  # of the code that is about to run
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(stream, Path(folder))
        try:
            for number, (way, executables) in product(range(repetitions), WAYS.items()):
                turns[way].append(turn(stage, executables, frames))
                last = turns[way][-1]
                say(
                    f'{number + 1} of {repetitions}, {way}: {last["pss_mb"]:.0f} MB, p50 '
                    f'{last["p50_ms"]:.1f}, p99 {last["p99_ms"]:.1f} ms, CPU '
                    f'{last["cpu_ms_per_frame"]:.1f} ms a frame'
                )
        finally:
            stage.close()
    keys = ['pss_mb', 'rss_mb', 'worker_pss_mb', 'processes', 'cpu_ms_per_frame']
    keys += ['p50_ms', 'p95_ms', 'p99_ms', 'load']
    answer = {
        'ways': {
            way: {
                **{key: statistics.median(turn[key] for turn in found) for key in keys},
                'p99_range_ms': [
                    min(t['p99_ms'] for t in found),
                    max(t['p99_ms'] for t in found),
                ],
                'frames': sum(turn['frames'] for turn in found),
                'dropped': sum(turn['dropped'] for turn in found),
            }
            for way, found in turns.items()
        },
        'repetitions': turns,
        'setting': {'image': '640x480 rgb8', 'rate_hz': RATE_HZ, 'frames_per_turn': frames},
        'machine': where,
        'commit': where['commit'],
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / 'composed.json').write_text(json.dumps(answer, indent=1) + '\n')
    return answer


def table(answer: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        '| nodes | processes | memory, MB (PSS) | of it the worker | sum of RSS, MB | p50, ms | '
        'p99, ms | dropped | CPU of the nodes, ms a frame | load |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for way, row in answer['ways'].items():
        lines.append(
            f'| {way} | {row["processes"]:.0f} | {row["pss_mb"]:.0f} | '
            f'{row["worker_pss_mb"]:.0f} | {row["rss_mb"]:.0f} | {row["p50_ms"]:.1f} | '
            f'{row["p99_ms"]:.1f} | {row["dropped"]} of {row["frames"]} | '
            f'{row["cpu_ms_per_frame"]:.1f} | {row["load"]:.1f} |'
        )
    return '\n'.join(lines)
