# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner bench`: from the command line to runs, and from runs to the report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
import os
from pathlib import Path
import sys
import time

from etuner_ros.bench.methods.registry import entries, entry
from etuner_ros.bench.provenance import code, machine
from etuner_ros.bench.report import markdown, repeated, Tables, write
from etuner_ros.bench.runs import (
    Job,
    load_runs,
    prepare,
    Run,
    run_all,
    save_run,
    Source,
    time_side_by_side,
)
from etuner_ros.bench.streams import Setting
from etuner_ros.bench.table import MAIN, summarise
from etuner_ros.core.errors import ConfigError
from etuner_ros.shared.answers import answer

ALL = 1000  # more batches and requests than any stream has
VIDEO_DEPLOYED = 0.75  # of a video's first visit, which has few scenes
QUICK = ('never', 'ncm', 'ridge', 'head', 'every-4+head', 'immediate', 'shipped')
TIMED = (*MAIN, 'ncm', 'etuner+head')
LEAST_SEEDS = 5

Say = Callable[[str], None]


def sources(arguments: argparse.Namespace) -> list[Source]:
    """Return the streams that the command line asks for."""
    setting = Setting('NI', arrivals=arguments.arrivals)
    if arguments.quick:
        setting = replace(setting, batches=2, requests=40)
    if arguments.batches is not None:
        setting = replace(setting, batches=arguments.batches)
    if arguments.requests is not None:
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
            if kind != 'NI':
                check_one_scenario(path, kind)
            add_both(f'{name}_{kind.lower()}', name, path, kind)
    if arguments.grocery is not None:
        reader = 'grocery_search' if arguments.search else 'grocery'
        for kind in ('NC', 'NIC'):
            add_both(f'{reader}_{kind.lower()}', reader, arguments.grocery, kind)
        add(f'{reader}_nc_long', reader, arguments.grocery, replace(long, kind='NC'))
        if arguments.search:
            add_both('grocery_products_nc', 'grocery_products', arguments.grocery, 'NC')
    if arguments.recording is not None:
        name = 'sim_search' if arguments.search else 'recording'
        add_both(name, 'recording', arguments.recording, 'NI')
    elif not arguments.search and not any(s.name.startswith('images') for s in found):
        from etuner_ros.core.files import recorded_stream

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
        if arguments.long is not None:
            raise ConfigError(
                'a --quick look takes no --long streams: leave one of the two out, or name the '
                'streams that are meant with --streams'
            )
        return [s for s in found if s.setting == replace(setting, kind=s.setting.kind)]
    return found


def check_one_scenario(path: Path, kind: str) -> None:
    """
    Refuse to part the pictures of a folder into scenarios that has some already.

    :param kind: NC or NIC
    :raises ConfigError: when it has several, or no pictures
    """
    from etuner_ros.bench.datasets import image_folder

    names = sorted({p.scenario for p in image_folder(path)})
    if len(names) > 1:
        raise ConfigError(
            f"'{path}' holds {len(names)} scenarios ({', '.join(names[:5])}), which are played as "
            f'they are, as NI: --kind {kind} is for a folder of one'
        )


def plan(
    streams: Sequence[Source], names: Sequence[str], arguments: argparse.Namespace
) -> list[Job]:
    """
    Return all runs, the most important first: main methods, the others, then more seeds of the
    main ones.
    """
    seeds = 1 if arguments.quick else arguments.seeds
    more = seeds if arguments.quick else max(seeds, arguments.main_seeds)

    def job(stream: Source, method: str, seed: int) -> Job:
        return Job(stream, arguments.model, arguments.input_size, method, seed, arguments.weights)

    main = [n for n in names if n in MAIN]
    rest = [n for n in names if n not in MAIN]
    jobs = [job(s, m, seed) for seed in range(seeds) for m in main for s in streams]
    for other in arguments.also:
        model, _, weights = other.partition('=')
        jobs += [
            Job(s, model, arguments.input_size, m, 0, weights)
            for s in streams
            if s.reader == 'recording'
            for m in main
        ]
    jobs += [job(s, m, seed) for seed in range(seeds) for m in rest for s in streams]
    jobs += [job(s, m, seed) for seed in range(seeds, more) for m in main for s in streams]
    return jobs + [
        replace(j, repeat=n) for n in range(1, arguments.repeat + 1) for j in jobs if j.seed == 0
    ]


def take_times(
    streams: Sequence[Source], jobs: Sequence[Job], file: Path, seeds: int, say: Say
) -> None:
    """Have the main methods take turns on each stream, for as many seeds; what is there stays."""
    for seed in range(seeds):
        for stream in streams:
            mine = [
                j
                for j in jobs
                if (j.source, j.seed, j.repeat) == (stream, seed, 0)
                and j.method in TIMED
                and j.model == jobs[0].model
            ]
            keys = {j.key for j in mine}
            if mine and set(load_runs(file, keys)) != keys:
                for run in time_side_by_side(mine, say):
                    save_run(file, run)


def by_clock(jobs: Sequence[Job]) -> dict[tuple[str, str], dict[int, float]]:
    """
    Return the operations of `immediate`, by stream and model and by seed, as the clock has them: a
    round for each batch, all layers.
    """
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.source.name, job.model), []).append(job)
    return {key: _immediate(mine) for key, mine in groups.items()}


def _immediate(jobs: Sequence[Job]) -> dict[int, float]:
    """Return the operations of `immediate` by seed, for jobs of one stream and model."""
    from etuner_ros.bench.simulate import FIXED_SHARE
    from etuner_ros.bench.streams import make_stream, nearest_mean

    _, library, clock, *_ = prepare(jobs[0])
    round_flops = clock.rate * clock.fixed * (1.0 - FIXED_SHARE) / FIXED_SHARE
    reference = nearest_mean(lambda pictures: library.features_of(pictures).numpy())
    setting, seeds = jobs[0].source.setting, {job.seed for job in jobs}
    streams = {seed: make_stream(library.pictures, setting, seed, reference) for seed in seeds}
    return {seed: stream.batches * round_flops for seed, stream in streams.items()}


def run_table(arguments: argparse.Namespace) -> int:
    """
    Run what is missing and write the report.

    :raises ConfigError: when the code is not committed and `--allow-dirty` is not given
    """
    began = time.monotonic()

    def say(line: str) -> None:
        print(f'{(time.monotonic() - began) / 60:5.1f} min  {line}', file=sys.stderr, flush=True)

    streams = sources(arguments)
    names = arguments.methods or (list(QUICK) if arguments.quick else list(entries()))
    for name in names:
        entry(name)
    if code().dirty and not arguments.allow_dirty:
        raise ConfigError(
            f'what results depend on differs from {code().commit}: commit it, or run with '
            f'--allow-dirty for a first look'
        )
    folder = arguments.output
    jobs = plan(streams, names, arguments)
    processes = arguments.processes or os.cpu_count() or 1
    found = run_all(jobs, folder / 'runs.jsonl', processes, 60 * arguments.budget_min, say)
    runs: list[Run] = list(found.values())
    timing = folder / 'seconds.jsonl'
    if arguments.time:
        take_times(streams, jobs, timing, arguments.time_seeds, say)
    timed = list(load_runs(timing, {job.key for job in jobs}).values())
    rows = summarise(runs, timed, jobs, arguments.allow_dirty, by_clock(jobs))
    least = arguments.least_seeds
    if least is None:
        least = 1 if arguments.quick else min(LEAST_SEEDS, arguments.seeds)
    facts = {'command': 'etuner ' + ' '.join(_command()), **machine()}
    tables = Tables(rows, runs, timed, least, arguments.model)
    write(folder, tables, facts)
    shown = [(s.name, arguments.model) for s in streams]
    shown += [pair for pair in tables.pairs if pair[1] != arguments.model]
    lines = [
        '\n' + (s if m == arguments.model else f'{s}, {m}') + f'\n{markdown(tables, s, m)}'
        for s, m in shown
    ]
    lines += ['', *repeated(runs)]
    answer(arguments.json, '\n'.join([*lines, f'\nreport: {folder / "report.html"}']), rows)
    return 0


def _command() -> list[str]:
    """Return the arguments that were given, without paths of this machine."""
    return [Path(a).name if '/' in a else a for a in sys.argv[1:]]
