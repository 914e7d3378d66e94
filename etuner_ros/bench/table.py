# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The table: every method on every stream (etuner.md section 7), in two passes.

The first takes accuracy and operations, for all methods and seeds, in parallel with one thread
each; it can be interrupted and goes on where it stopped. The second takes seconds: one seed, the
main methods only, in one process, taking turns event by event.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
import hashlib
import json
import math
import multiprocessing
import os
from pathlib import Path
import platform
import statistics
import subprocess
import time
from typing import Any

from etuner_ros import __version__
from etuner_ros.bench.methods.registry import entries, variants
from etuner_ros.bench.streams import Setting

# Two-sided 95 % quantiles of Student's t by degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

MAIN = (
    'immediate',
    'immediate+head',
    'full',
    'never',
    'ncm',
    'slda',
    'ridge',
)
STATIC = ('s2', 's4', 's8', 's16')
TIMED = ('immediate', 'immediate+head', 's4', 'etuner', 'full', 'slda', 'ncm', 'ridge')


@dataclass(frozen=True)
class Source:
    """A stream of the table: which pictures and how they are played."""

    name: str
    reader: str  # of `datasets.READERS`
    path: str
    setting: Setting
    load: float = 0.5  # share of the time that `immediate` is busy


@dataclass(frozen=True)
class Job:
    """One run: a method on a stream with a seed."""

    source: Source
    model: str
    size: int
    method: str
    seed: int
    weights: str = ''

    @property
    def key(self) -> str:
        """What the run is known by; another setting or recipe is another run."""
        from etuner_ros.bench.methods.registry import describe

        facts = asdict(self)
        facts['source']['path'] = Path(self.source.path).name  # the same pictures lie elsewhere
        text = json.dumps([facts, describe(self.method)], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class Run:
    """What a job gave."""

    stream: str
    model: str
    method: str
    seed: int
    key: str
    wall_s: float = 0.0
    outcome: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # of the stream and its clock
    load: float = 0.5


_libraries: dict[tuple[str, ...], Any] = {}


def library_of(source: Source, model: str, size: int, weights: str = '') -> Any:
    """Return the pictures of a stream as a network sees them; kept in this process."""
    from etuner_ros.bench.datasets import READERS
    from etuner_ros.bench.simulate import Library

    key = (source.reader, source.path, model, str(size), weights)
    if key not in _libraries:
        _libraries[key] = Library(READERS[source.reader](Path(source.path)), model, size, weights)
    return _libraries[key]


def prepare(job: Job) -> tuple[Any, ...]:
    """Return stream, library, clock, declared changes and deployed model of a job."""
    import torch

    from etuner_ros.bench.methods.registry import RIVAL
    from etuner_ros.bench.simulate import calibrate, detect
    from etuner_ros.bench.streams import make_stream

    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    library = library_of(job.source, job.model, job.size, job.weights)
    stream = make_stream(library.pictures, job.source.setting, job.seed)
    deployed = library.deploy(stream.deployment)
    clock = calibrate(deployed[0], RIVAL, job.source.setting.batch_size, job.source.load)
    return stream, library, clock, detect(stream, library), deployed


def execute(job: Job) -> Run:
    """Run a job in this process."""
    from etuner_ros.bench.methods.registry import methods
    from etuner_ros.bench.simulate import play

    stream, library, clock, changes, deployed = prepare(job)
    began = time.perf_counter()
    make = methods()[job.method]
    outcome = play(stream, library, make, clock, changes, job.seed, deployed)
    facts = {
        'batches': stream.batches,
        'requests': len(outcome.correct),
        'classes': len(stream.classes),
        'scenarios': list(stream.names),
        'borders': list(stream.borders),
        'end': stream.end,
        'rate_flops_per_s': clock.rate,
        'fixed_s': clock.fixed,
        'blocks': len(deployed[0].units),
        'request_times': [round(e.time, 3) for e in stream.events if not e.labelled],
    }
    stored = {**asdict(outcome), 'forgetting': outcome.forgetting}
    stored['correct'] = ''.join('01'[c] for c in outcome.correct)
    return Run(
        job.source.name,
        job.model,
        job.method,
        job.seed,
        job.key,
        time.perf_counter() - began,
        stored,
        facts,
        job.source.load,
    )


def _initialise() -> None:
    os.environ['OMP_NUM_THREADS'] = '1'
    import torch

    torch.set_num_threads(1)


def load_runs(file: Path) -> dict[str, Run]:
    """Return the runs of a file by key; a line cut short by an interruption is left out."""
    runs = {}
    if file.exists():
        for line in file.read_text().splitlines():
            try:
                run = Run(**json.loads(line))
            except (ValueError, TypeError):
                continue
            runs[run.key] = run
    return runs


def run_all(
    jobs: Sequence[Job],
    file: Path,
    processes: int,
    budget_s: float = math.inf,
    say: Callable[[str], None] = print,
) -> dict[str, Run]:
    """
    Run all jobs that the file does not hold yet, in order, and add them to it.

    :param budget_s: no job starts after so long
    :return: all runs of these jobs that there are
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    done = load_runs(file)
    todo = [job for job in jobs if job.key not in done]
    say(f'{len(jobs)} runs, {len(jobs) - len(todo)} of them there already')
    began = time.monotonic()
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, context, _initialise) as pool:
        waiting: dict[Future[Run], Job] = {}
        queue = list(todo)
        finished = 0
        while queue or waiting:
            while queue and len(waiting) < processes and time.monotonic() - began < budget_s:
                job = queue.pop(0)
                waiting[pool.submit(execute, job)] = job
            if not waiting:
                say(f'the budget is used up; {len(queue)} runs are left out')
                break
            ended, _ = wait(waiting, return_when='FIRST_COMPLETED')
            for future in ended:
                job = waiting.pop(future)
                run = future.result()
                done[run.key] = run
                with file.open('a') as out:
                    out.write(json.dumps(asdict(run)) + '\n')
                finished += 1
                left = _time_left(queue, list(waiting.values()), done.values(), processes)
                accuracy = 100 * run.outcome['accuracy']
                say(
                    f'[{finished}/{len(todo)}] {job.source.name} {job.method} seed {job.seed}: '
                    f'{accuracy:.1f} %, {run.wall_s:.0f} s; {left}'
                )
    wanted = {job.key for job in jobs}
    return {key: run for key, run in done.items() if key in wanted}


def _time_left(queue: Sequence[Job], running: Sequence[Job], done: Any, processes: int) -> str:
    by_method: dict[str, list[float]] = {}
    for run in done:
        by_method.setdefault(run.method, []).append(run.wall_s)
    overall = statistics.mean(s for times in by_method.values() for s in times)
    left = sum(statistics.mean(by_method.get(j.method, [overall])) for j in queue)
    left += 0.5 * sum(statistics.mean(by_method.get(j.method, [overall])) for j in running)
    return f'about {left / processes / 60:.0f} min left'


def time_side_by_side(jobs: Sequence[Job], say: Callable[[str], None]) -> list[Run]:
    """
    Play methods in turns, event by event, in this process on one thread.

    :param jobs: they differ in nothing but the method
    """
    from etuner_ros.bench.methods.registry import methods
    from etuner_ros.bench.simulate import Playing

    job, known = jobs[0], methods()
    keys = {j.method: j.key for j in jobs}
    stream, library, clock, changes, deployed = prepare(job)
    playing = {
        n: Playing(stream, library, known[n], clock, changes, job.seed, deployed) for n in keys
    }
    runs: list[Run] = []
    total, steps = len(stream.events) + 1, 0
    while playing:
        order = list(playing)
        first = steps % len(order)
        for name in order[first:] + order[:first]:
            outcome = playing[name].step()
            if outcome is not None:
                stored = {**asdict(outcome), 'correct': ''}
                runs.append(
                    Run(job.source.name, job.model, name, job.seed, keys[name], outcome=stored)
                )
                del playing[name]
        steps += 1
        if steps % 100 == 0:
            say(f'{job.source.name}: event {steps} of {total}')
    return runs


def interval(values: Sequence[float]) -> float | None:
    """Return the half-width of the 95 % interval of a mean, by Student's t; None for one value."""
    n = len(values)
    if n < 2:
        return None
    quantile = _T95[n - 2] if n - 2 < len(_T95) else 1.96 + 2.5 / (n - 1)
    return quantile * statistics.stdev(values) / math.sqrt(n)


def summarise(
    runs: Sequence[Run], timed: Sequence[Run], jobs: Sequence[Job]
) -> list[dict[str, Any]]:
    """
    Return the rows of the table.

    :param jobs: all runs that were wanted; a method that has none is named as missing
    """
    order = [*entries(), *variants()]
    wanted = sorted(
        {(j.source.name, j.model, j.method) for j in jobs},
        key=lambda w: (w[0], w[1] != jobs[0].model, w[1], order.index(w[2])),
    )
    groups: dict[tuple[str, str, str], dict[int, Run]] = {}
    for run in runs:
        groups.setdefault((run.stream, run.model, run.method), {})[run.seed] = run
    seconds = {(r.stream, r.model, r.method): sum(r.outcome['seconds'].values()) for r in timed}
    rows = []
    for stream, model, method in wanted:
        mine = groups.get((stream, model, method), {})
        row: dict[str, Any] = {'stream': stream, 'model': model, 'method': method}
        if not mine:
            rows.append({**row, 'seeds': 0, 'missing': 'not run within the budget'})
            continue
        reference = groups.get((stream, model, 'immediate'), {})
        paired = sorted(set(mine) & set(reference))
        accuracy = [100 * r.outcome['accuracy'] for r in mine.values()]
        differences = [
            100 * (mine[s].outcome['accuracy'] - reference[s].outcome['accuracy']) for s in paired
        ]
        flops = _ratio([(_flops(mine[s]), _flops(reference[s])) for s in paired])
        fixed = _ratio([(_busy(mine[s]), _busy(reference[s])) for s in paired])
        base = seconds.get((stream, model, 'immediate'))
        own = seconds.get((stream, model, method))
        timing = own / base if own is not None and base else None
        energy = timing if timing is not None else flops
        rows.append(
            {
                **row,
                'seeds': len(mine),
                'accuracy': _mean(accuracy),
                'accuracy_ci95': interval(accuracy),
                'delta_vs_immediate': _mean(differences),
                'delta_ci95': interval(differences),
                'final_accuracy': _mean(
                    [100 * statistics.mean(r.outcome['final']) for r in mine.values()]
                ),
                'forgetting': _mean([100 * r.outcome['forgetting'] for r in mine.values()]),
                'rounds': _mean([r.outcome['rounds'] for r in mine.values()]),
                'refused': _mean([r.outcome['refused'] for r in mine.values()]),
                'age_s': _mean([r.outcome['age'] for r in mine.values()]),
                'gflops': _mean([_flops(r) / 1e9 for r in mine.values()]),
                'time_vs_immediate': timing,
                'flops_vs_immediate': flops,
                'busy_with_fixed_vs_immediate': fixed,
                'energy_vs_immediate': energy,
                'energy_source': 'derived: time' if timing is not None else 'derived: flops',
            }
        )
    return rows


def _flops(run: Run) -> float:
    return float(sum(run.outcome['flops'].values()))


def _busy(run: Run) -> float:
    """Return virtual seconds of tuning: fixed parts of rounds, and all operations."""
    return run.outcome['fixed'] + _flops(run) / run.facts['rate_flops_per_s']


def _ratio(pairs: Sequence[tuple[float, float]]) -> float | None:
    below = sum(b for _, b in pairs)
    return sum(a for a, _ in pairs) / below if below else None


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    import torch

    def git(*arguments: str) -> str:
        try:
            answer = subprocess.run(
                ['git', '-C', str(Path(__file__).resolve().parent), *arguments],
                capture_output=True,
                text=True,
                timeout=5,
            )
            return answer.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return ''

    processor = platform.processor() or platform.machine()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        processor = next(x.split(':')[1].strip() for x in lines if x.startswith('model name'))
    except (OSError, StopIteration):
        pass
    return {
        'version': __version__,
        'commit': git('rev-parse', '--short', 'HEAD') + ('+' if git('status', '-s') else ''),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'processor': processor,
        'cores': os.cpu_count(),
        'date': time.strftime('%Y-%m-%d'),
    }
