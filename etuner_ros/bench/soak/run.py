# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A whole soak: one phase after the other, each result kept at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
import time
from typing import Any

from etuner_ros.bench.soak.apart import run_apart, why_not_apart
from etuner_ros.bench.soak.phases import NEED_NAMESPACES
from etuner_ros.bench.soak.report import line, Report
from etuner_ros.bench.soak.stage import deploy, Plan, Stage
from etuner_ros.core.errors import EtunerError


def soak(stream: Path, output: Path, folder: Path, plan: Plan, names: Sequence[str]) -> Report:
    """
    Run phases and write `soak.json` after each.

    A phase that ends with an error is broken; the others run.

    :param folder: for the files of the robots
    """
    report = Report(output)
    stage = Stage(folder / 'deployed.safetensors', stream, folder)
    deploy(stream, stage.base)
    for number, name in enumerate(names, 1):
        print(f'phase {number} of {len(names)}: {name}', flush=True)
        began = time.monotonic()
        if name in NEED_NAMESPACES and (why := why_not_apart()):
            found: dict[str, Any] = {'skipped': why, 'broken': []}
        else:
            try:
                found = run_apart(name, stage, plan)
            except EtunerError as error:
                found = {'broken': [str(error)]}
        found['minutes'] = round((time.monotonic() - began) / 60, 2)
        report.add(name, found)
        print(line(name, found), flush=True)
    return report
