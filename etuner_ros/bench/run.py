# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner bench`: from the command line to runs, and from runs to the report."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
import json
import os
from pathlib import Path
import sys
import time

from etuner_ros.bench.methods.registry import entries, variants
from etuner_ros.bench.report import markdown, write
from etuner_ros.bench.streams import Setting
from etuner_ros.bench.table import (
    Job,
    load_runs,
    machine,
    MAIN,
    run_all,
    Source,
    STATIC,
    summarise,
    time_side_by_side,
    TIMED,
)
from etuner_ros.core.errors import ConfigError
from etuner_ros.shared.answers import answer

ALL = 1000  # more batches and requests than any stream has
VIDEO_DEPLOYED = 0.75  # of a video's first visit, which has few scenes
QUICK = ('never', 'ncm', 'ridge', 'immediate', 'etuner', 'full')


def sources(arguments: argparse.Namespace) -> list[Source]:
    """Return the streams that the command line asks for."""
    setting = Setting('NI', arrivals=arguments.arrivals)
    if arguments.quick:
        setting = replace(setting, batches=2, requests=40)
    if arguments.batches:
        setting = replace(setting, batches=arguments.batches)
    if arguments.requests:
        setting = replace(setting, requests=arguments.requests)
    again = replace(setting, visits=2)
    long = replace(again, batches=arguments.batches or ALL, requests=arguments.requests or ALL)
    video = Setting('NI', order='video', batch_size=8, wrong=0.03, deployed=VIDEO_DEPLOYED)
    found: list[Source] = []

    def add(name: str, reader: str, path: Path, wanted: Setting) -> None:
        found.append(Source(name, reader, str(path.resolve()), wanted, arguments.load))

    def add_both(name: str, reader: str, path: Path, kind: str) -> None:
        add(name, reader, path, replace(setting, kind=kind))
        add(f'{name}_again', reader, path, replace(again, kind=kind))

    for name in ('images', 'core50', 'openloris'):
        path = getattr(arguments, name)
        if path is not None:
            kind = arguments.kind if name == 'images' else 'NI'
            add_both(f'{name}_{kind.lower()}', name, path, kind)
    if arguments.grocery is not None:
        reader = 'grocery_search' if arguments.search else 'grocery'
        for kind in ('NC', 'NIC'):
            add_both(f'{reader}_{kind.lower()}', reader, arguments.grocery, kind)
        add(f'{reader}_nc_long', reader, arguments.grocery, replace(long, kind='NC'))
    if arguments.recording is not None:
        name = 'sim_search' if arguments.search else 'recording'
        add_both(name, 'recording', arguments.recording, 'NI')
    elif not arguments.search and not any(s.name.startswith('images') for s in found):
        from etuner_ros.demo.run import recorded_stream

        add_both('sim_ni', 'recording', Path(recorded_stream()), 'NI')
    if arguments.long is not None:
        name, ending = ('sim_search', '_search') if arguments.search else ('sim_ni', '')
        there = len(found)
        for sort, wanted in (('long', long), ('video', video)):
            path = arguments.long / f'{sort}{ending}'
            if path.exists():
                add(f'{name}_{sort}', 'recording', path, wanted)
        if len(found) == there:
            raise ConfigError(
                f"'{arguments.long}' holds no long{ending} and no video{ending}; "
                f'`make stream-long` renders them into recordings/'
            )
    if arguments.streams:
        unknown = set(arguments.streams) - {s.name for s in found}
        if unknown:
            raise ConfigError(
                f'no stream is called {", ".join(sorted(unknown))}; there are: '
                f'{", ".join(s.name for s in found)}'
            )
        return [s for s in found if s.name in arguments.streams]
    if arguments.quick:  # in three minutes
        return [s for s in found if s.setting == replace(setting, kind=s.setting.kind)]
    return found


def plan(
    streams: Sequence[Source], names: Sequence[str], arguments: argparse.Namespace
) -> list[Job]:
    """Return all runs, the most important first: main methods with all seeds, then rivals."""
    seeds = 1 if arguments.quick else arguments.seeds
    few = min(seeds, arguments.rival_seeds)

    def job(stream: Source, method: str, seed: int) -> Job:
        return Job(stream, arguments.model, arguments.input_size, method, seed, arguments.weights)

    main = [n for n in names if n in MAIN]
    static = [n for n in names if n in STATIC]
    rest = [n for n in names if n not in MAIN and n not in STATIC]
    jobs = [job(s, m, seed) for seed in range(seeds) for m in main for s in streams]
    for other in arguments.also:
        model, _, weights = other.partition('=')
        jobs += [
            Job(s, model, arguments.input_size, m, 0, weights)
            for s in streams
            if s.reader == 'recording'
            for m in main
        ]
    jobs += [job(s, m, 0) for m in [*static, *rest] for s in streams]
    for seed in range(1, few):
        jobs += [job(s, m, seed) for m in [*static, *rest] for s in streams]
    jobs += [job(s, m, seed) for seed in range(few, seeds) for m in static for s in streams]
    return jobs


def run_table(arguments: argparse.Namespace) -> int:
    """Run what is missing and write the report."""
    streams = sources(arguments)
    known = [*entries(), *variants()]
    names = arguments.methods or (list(QUICK) if arguments.quick else list(entries()))
    unknown = [n for n in names if n not in known]
    if unknown:
        raise ConfigError(
            f'no method is called {", ".join(unknown)}; there are: {", ".join(known)}'
        )
    began = time.monotonic()

    def say(line: str) -> None:
        print(f'{(time.monotonic() - began) / 60:5.1f} min  {line}', file=sys.stderr, flush=True)

    folder = arguments.output
    jobs = plan(streams, names, arguments)
    processes = arguments.processes or os.cpu_count() or 1
    runs = run_all(jobs, folder / 'runs.jsonl', processes, 60 * arguments.budget_min, say)
    timing = folder / 'seconds.jsonl'
    if arguments.time:
        for stream in streams:
            timed_jobs = [j for j in jobs if j.source == stream and j.seed == 0]
            timed_jobs = [
                j for j in timed_jobs if j.method in TIMED and j.model == arguments.model
            ]
            with timing.open('a') as out:
                for run in time_side_by_side(timed_jobs, say):
                    out.write(json.dumps(asdict(run)) + '\n')
    wanted_keys = {job.key for job in jobs}
    timed = [run for key, run in load_runs(timing).items() if key in wanted_keys]
    rows = summarise(list(runs.values()), timed, jobs)
    # Single choices of ours changed, for the sensitivity: as far as they were run.
    stored = load_runs(folder / 'runs.jsonl')
    changed = [
        stored[j.key] for j in plan(streams, list(variants()), arguments) if j.key in stored
    ]
    facts = {'command': 'etuner ' + ' '.join(_command()), **machine()}
    write(folder, rows, list(runs.values()), timed, facts, changed)
    lines = [f'\n{s.name}\n{markdown(rows, s.name, arguments.model)}' for s in streams]
    answer(arguments.json, '\n'.join([*lines, f'\nreport: {folder / "report.html"}']), rows)
    return 0


def _command() -> list[str]:
    """Return the arguments that were given, without paths of this machine."""
    return [Path(a).name if '/' in a else a for a in sys.argv[1:]]
