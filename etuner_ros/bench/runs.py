# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Runs of the table: what each is known by, how it is made, and the file that they are kept in.

A run is known by a digest of all that it depends on: the code's last commit and what is not
committed, the packages, the pictures and how they are played, the settings of its method. So a
stored run is only ever taken for the very same one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import lru_cache
import hashlib
import json
import multiprocessing
import os
from pathlib import Path
import statistics
import time
from typing import Any

from etuner_ros.bench.methods.registry import describe, entry
from etuner_ros.bench.provenance import Code, code
from etuner_ros.bench.shipped import shipped
from etuner_ros.bench.streams import Setting
from etuner_ros.core.config import INPUT_SIZE
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.models.efficientnet_lite import LITES
from etuner_ros.core.processes import die_with_parent

KEPT_WORLDS = 12  # streams and deployed models of this process


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
    model: str = 'efficientnet_lite0'
    size: int = INPUT_SIZE
    method: str = 'shipped'
    seed: int = 0
    weights: str = ''
    repeat: int = 0  # the same again, to see what varies
    code: Code = field(default_factory=code)

    @property
    def of(self) -> dict[str, Any]:
        """What the run depends on, as it is stored with it."""
        source = self.source
        return {
            'stream': source.name,
            'reader': source.reader,
            'pictures': pictures_digest(source.reader, source.path),
            'setting': asdict(source.setting),
            'trace': file_digest(source.setting.trace),
            'load': source.load,
            'model': self.model,
            'weights': file_digest(self.weights or _pretrained(self.model)),
            'pixels': self.size,
            'method': self.method,
            'settings': describe(self.method),
            'seed': self.seed,
            'repeat': self.repeat,
            'commit': self.code.commit,
            'dirty': self.code.dirty,
            'versions': dict(self.code.versions),
        }

    @property
    def key(self) -> str:
        """What the run is known by; other code, another setting or recipe is another run."""
        return key_of(self.of)


@lru_cache
def file_digest(file: str) -> str:
    """Return a digest of what a file holds; empty for none."""
    return _digest(Path(file).read_bytes()) if file else ''


def _pretrained(model: str) -> str:
    """Return the file of the weights that come with a network; empty for torchvision's."""
    file = LITES[model].weights_file if model in LITES else None
    return str(file or '')


@lru_cache
def pictures_digest(reader: str, path: str) -> str:
    """Return a digest of the pictures of a data set: what they are, not where they lie."""
    from etuner_ros.bench.datasets import READERS

    digest = hashlib.sha256()
    for picture in READERS[reader](Path(path)):
        known = f'{picture.name} {picture.label} {picture.scenario} {picture.labelled} '
        digest.update(known.encode() + hashlib.sha256(picture.encoded).digest())
    return digest.hexdigest()[:16]


def key_of(of: dict[str, Any]) -> str:
    """Return the digest of what a run depends on."""
    return _digest(json.dumps(of, sort_keys=True, default=str).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@dataclass
class Run:
    """What a job gave."""

    of: dict[str, Any]  # what it depends on, see `Job.of`
    outcome: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)  # of the stream and its clock
    wall_s: float = 0.0

    @property
    def key(self) -> str:
        """The digest of what it depends on: computed, so it can not be another run's."""
        return key_of(self.of)

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return str(self.of['stream'])

    @property
    def model(self) -> str:
        """Name of the network."""
        return str(self.of['model'])

    @property
    def method(self) -> str:
        """Name of the method."""
        return str(self.of['method'])

    @property
    def seed(self) -> int:
        """Seed of stream and method."""
        return int(self.of['seed'])

    @property
    def repeat(self) -> int:
        """How many times the same was run before."""
        return int(self.of['repeat'])

    @property
    def commit(self) -> str:
        """The code's last commit that results depend on."""
        return str(self.of['commit'])

    @property
    def dirty(self) -> str:
        """Digest of what was not committed; empty when all was."""
        return str(self.of['dirty'])


_libraries: dict[tuple[str, ...], Any] = {}
_worlds: OrderedDict[tuple[Any, ...], tuple[Any, ...]] = OrderedDict()


def library_of(source: Source, model: str, size: int, weights: str = '') -> Any:
    """Return the pictures of a stream as a network sees them; kept in this process."""
    from etuner_ros.bench.datasets import READERS
    from etuner_ros.bench.library import Library

    key = (source.reader, source.path, model, str(size), weights)
    if key not in _libraries:
        pictures = READERS[source.reader](Path(source.path))
        _libraries[key] = Library(
            pictures, model, size, weights, frozen=shipped().recipe.sim_freeze
        )
    return _libraries[key]


def prepare(job: Job) -> tuple[Any, ...]:
    """
    Return stream, library, clock, declared changes and deployed model of a job.

    They are the same for all methods, so those of the last jobs are kept.
    """
    import torch

    torch.set_num_threads(1)
    key = (job.source, job.model, job.size, job.weights, job.seed)
    if key not in _worlds:
        torch.manual_seed(job.seed)
        _worlds[key] = _prepare(job)
        while len(_worlds) > KEPT_WORLDS:
            _worlds.popitem(last=False)
    _worlds.move_to_end(key)
    torch.manual_seed(job.seed)
    return _worlds[key]


def _prepare(job: Job) -> tuple[Any, ...]:
    from etuner_ros.bench.methods.registry import RIVAL
    from etuner_ros.bench.simulate import calibrate, detect
    from etuner_ros.bench.streams import make_stream, nearest_mean

    library = library_of(job.source, job.model, job.size, job.weights)
    reference = nearest_mean(lambda pictures: library.features_of(pictures).numpy())
    stream = make_stream(library.pictures, job.source.setting, job.seed, reference)
    deployed = library.deploy(stream.deployment)
    clock = calibrate(deployed[0], RIVAL, job.source.setting.batch_size, job.source.load)
    return stream, library, clock, detect(stream, library, shipped().scenario), deployed


def execute(job: Job) -> Run:
    """
    Run a job in this process.

    :raises ConfigError: when this process runs other code than the job was planned for
    """
    from etuner_ros.bench.simulate import play

    if job.code != code():
        raise ConfigError(
            f'the code changed between plan and run: {job.code.commit} {job.code.dirty}, '
            f'now {code().commit} {code().dirty}'
        )
    stream, library, clock, changes, deployed = prepare(job)
    began = time.perf_counter()
    outcome = play(stream, library, entry(job.method).make, clock, changes, job.seed, deployed)
    facts = {
        'batches': stream.batches,
        'requests': len(outcome.correct),
        'classes': len(stream.classes),
        'scenarios': list(stream.names),
        'visits': list(stream.visits),
        'starts': list(stream.starts),
        'end': stream.end,
        'rate_flops_per_s': clock.rate,
        'fixed_s': clock.fixed,
        'blocks': len(deployed[0].units),
        'request_times': [round(e.time, 3) for e in stream.events if not e.labelled],
    }
    stored = asdict(outcome)
    stored['correct'] = ''.join('01'[c] for c in outcome.correct)
    return Run(job.of, stored, facts, time.perf_counter() - began)


def _initialise() -> None:
    """Load all code at once, so that what is changed later is not mixed into it."""
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it was gone before that was asked for
        os._exit(1)
    os.environ['OMP_NUM_THREADS'] = '1'
    import torch

    from etuner_ros.bench import datasets, library, simulate  # noqa: F401

    code()
    torch.set_num_threads(1)


def load_runs(file: Path, keys: Iterable[str]) -> dict[str, Run]:
    """
    Return the runs of a file that have one of these keys.

    A line cut short by an interruption is left out, and so is what an older format wrote.
    """
    wanted, runs = set(keys), {}
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            run = Run(**json.loads(line))
            key = run.key
        except (ValueError, TypeError):
            continue
        if key in wanted:
            runs[key] = run
    return runs


def save_run(file: Path, run: Run) -> None:
    """Append a run to a file, in a line of its own: the last one may have been cut short."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('ab+') as out:
        start = b''
        if out.tell():
            out.seek(-1, os.SEEK_END)
            start = b'' if out.read(1) == b'\n' else b'\n'
        out.write(start + json.dumps(asdict(run)).encode() + b'\n')


def run_all(
    jobs: Sequence[Job],
    file: Path,
    processes: int,
    budget_s: float = float('inf'),
    say: Callable[[str], None] = print,
) -> dict[str, Run]:
    """
    Run all jobs that the file does not hold yet, in order, and add them to it.

    :param budget_s: no job starts after so long
    :return: all runs of these jobs that there are, by key
    """
    keys = {job.key: job for job in jobs}
    done = load_runs(file, keys)
    todo = [job for key, job in keys.items() if key not in done]
    say(f'{len(keys)} runs, {len(keys) - len(todo)} of them there already')
    began = time.monotonic()
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(processes, context, _initialise) as pool, _given_up():
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
                save_run(file, run)
                finished += 1
                left = _time_left(queue, list(waiting.values()), done.values(), processes)
                accuracy = 100 * run.outcome['accuracy']
                say(
                    f'[{finished}/{len(todo)}] {job.source.name} {job.method} seed {job.seed}: '
                    f'{accuracy:.1f} %, {run.wall_s:.0f} s; {left}'
                )
    return {key: done[key] for key in keys if key in done}


@contextmanager
def _given_up() -> Iterator[None]:
    """End the processes of runs that nobody waits for any more: Ctrl-C, or one of them failed."""
    try:
        yield
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise


def _time_left(
    queue: Sequence[Job], running: Sequence[Job], done: Iterable[Run], processes: int
) -> str:
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
    from etuner_ros.bench.simulate import Playing

    job = jobs[0]
    of = {j.method: j.of for j in jobs}
    stream, library, clock, changes, deployed = prepare(job)
    playing = {
        n: Playing(stream, library, entry(n).make, clock, changes, job.seed, deployed) for n in of
    }
    runs: list[Run] = []
    total, steps = len(stream.events) + 1, 0
    while playing:
        order = list(playing)
        first = steps % len(order)
        for name in order[first:] + order[:first]:
            outcome = playing[name].step()
            if outcome is not None:
                runs.append(Run(of[name], {**asdict(outcome), 'correct': ''}))
                del playing[name]
        steps += 1
        if steps % 100 == 0:
            say(f'{job.source.name}, seed {job.seed}: event {steps} of {total}')
    return runs
