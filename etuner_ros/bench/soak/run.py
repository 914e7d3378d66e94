# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A whole soak: one phase after the other, each result kept at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
import shutil
import time
from typing import Any

from etuner_ros.bench.soak.apart import run_apart, why_not_apart
from etuner_ros.bench.soak.phases import NEED_NAMESPACES
from etuner_ros.bench.soak.report import line, Report
from etuner_ros.bench.soak.stage import deploy, Plan, Stage
from etuner_ros.core.errors import EtunerError

LOGS = 'soak_logs'  # beside soak.json: those of broken phases


def soak(
    stream: Path,
    output: Path,
    folder: Path,
    plan: Plan,
    names: Sequence[str],
    say: Callable[[str], None],
) -> Report:
    """
    Run phases and write `soak.json` after each.

    A phase that ends with an error is broken; the others run. Logs of what is broken are kept.

    :param folder: for the files of the robots, which nobody needs afterwards
    :param say: is told how it gets on
    """
    report = Report(output)
    stage = Stage(folder / 'deployed.safetensors', stream, folder)
    deploy(stream, stage.base)
    for number, name in enumerate(names, 1):
        say(f'phase {number} of {len(names)}: {name}')
        began = time.monotonic()
        if name in NEED_NAMESPACES and (why := why_not_apart()):
            found: dict[str, Any] = {'skipped': why, 'broken': []}
        else:
            try:
                found = run_apart(name, stage, plan)
            except EtunerError as error:
                found = {'broken': [str(error)]}
        keep_logs(folder / name, output / LOGS / name, found)
        found['minutes'] = round((time.monotonic() - began) / 60, 2)
        report.add(name, found)
        say(line(name, found))
    return report


def keep_logs(home: Path, kept: Path, found: dict[str, Any]) -> None:
    """
    Keep the logs of a phase that is broken, as the folder of its robot goes; and say where.

    :param home: the robot's folder
    :param kept: where they go; those of an earlier run go
    :param found: by the phase; gets `logs`, and its words name what is kept
    """
    shutil.rmtree(kept, ignore_errors=True)
    if found['broken'] and (home / 'log').is_dir():
        shutil.copytree(home / 'log', kept)
        found['logs'] = f'{LOGS}/{kept.name}'
        found['broken'] = [
            text.replace(str(home / 'log'), f'{LOGS}/{kept.name}') for text in found['broken']
        ]
