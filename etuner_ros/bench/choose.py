# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Is what `etuner choose` takes, by labels alone, close to the best in hindsight?

For every stream and limit the rules choose by leave-one-out on the labelled side; then the head is
solved on that side and asked for the scored one. Features are computed once for each candidate and
set of pictures, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
import json
import math
from pathlib import Path
import statistics
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from etuner_ros.bench.choose_cases import (
    Case,
    cases,
    DataSet,
    Features,
    FeatureStore,
    milliseconds,
)
from etuner_ros.bench.table import machine
from etuner_ros.core.choose.accuracy import right_left_out
from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.choose.measure import Conditions, Serve, Served
from etuner_ros.core.choose.measured import Failed, Measured, packed
from etuner_ros.core.choose.pick import choose, Limits, RULES
from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.files import home, replace_file
from etuner_ros.core.learn.instant_head import InstantHead

Bools = npt.NDArray[np.bool_]
CLOSE = 0.01  # of accuracy: a choice this near to the best in hindsight is a good one
# Limits, in times of the fastest candidate; the last is none.
LIMITS = (1.25, 1.75, 2.5, 3.5, 5.0, 7.0, math.inf)
LARGEST = 'slowest'  # a rule to compare with: the slowest candidate that fits, labels unseen


@dataclass
class Row:
    """What a rule did on the streams of a sort."""

    rule: str
    cases: int = 0
    close: int = 0
    losses: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)

    def add(self, loss: float, ms: float) -> None:
        """Count a choice."""
        self.cases += 1
        self.close += loss <= CLOSE + 1e-9
        self.losses.append(loss)
        self.ms.append(ms)

    def figures(self) -> dict[str, Any]:
        """Return what is said of it."""
        return {
            'rule': self.rule,
            'cases': self.cases,
            'within_one_point': self.close / self.cases,
            'mean_loss': statistics.fmean(self.losses),
            'largest_loss': max(self.losses),
            'mean_ms': statistics.fmean(self.ms),
        }


def judge(
    case: Case, store: FeatureStore, times: dict[Candidate, list[float]]
) -> tuple[list[Measured], dict[Candidate, float]]:
    """
    Return what is known before the choice, and the accuracy on the scored side afterwards.

    :return: a measurement of each candidate, of which only time and accuracy are set; accuracies
    """
    labels = [p.label for p in case.labelled]
    found, truth = [], {}
    for candidate, ms in times.items():
        known = store.rows(candidate, case.data, case.labelled)
        right = right_left_out(known, labels)
        figures = (float(np.median(ms)), float(np.percentile(ms, 99)))
        nothing = (math.nan, math.nan, 'unavailable', math.nan, math.nan)
        outcome = (float(right.mean()), packed(right), len(right))
        found.append(Measured(candidate, candidate.precision, *figures, *nothing, *outcome))
        truth[candidate] = float(_answers(known, labels, store, case, candidate).mean())
    return found, truth


def _answers(
    known: Features, labels: Sequence[str], store: FeatureStore, case: Case, candidate: Candidate
) -> Bools:
    """Return which scored pictures are named right by the head of the labelled ones."""
    head = InstantHead(known.shape[1])
    head.rebuild(torch.from_numpy(known), labels)
    asked = torch.from_numpy(store.rows(candidate, case.data, case.scored))
    said = head.logits(asked).argmax(dim=1).tolist()
    return np.array([head.classes[i] == p.label for i, p in zip(said, case.scored)])


def decide(
    found: Sequence[Measured], truth: dict[Candidate, float]
) -> Iterator[tuple[float, dict[str, Measured], Measured]]:
    """
    Yield each limit in ms with what every rule takes, and what was best in hindsight.

    A limit that admits one candidate only is no choice, and is left out.
    """
    fastest = min(m.p50_ms for m in found)
    for times in LIMITS:
        ms = math.nan if math.isinf(times) else times * fastest
        fitting = [m for m in found if math.isnan(ms) or m.p50_ms <= ms]
        if len(fitting) < 2:
            continue
        chosen = {rule: choose(found, Limits(ms), rule) for rule in RULES}
        chosen[LARGEST] = max(fitting, key=lambda m: m.p50_ms)
        yield ms, chosen, max(fitting, key=lambda m: truth[m.candidate])


def run(
    sets: Sequence[DataSet],
    candidates: Sequence[Candidate],
    output: Path,
    seeds: int = 5,
    folder: Path | None = None,
    serve: Serve | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """
    Play all cases and write `choose.json`.

    :param folder: where features are kept; by default under $ROS_HOME
    :raises ConfigError: when no candidate can be served
    """
    torch.set_num_threads(1)
    store = FeatureStore(serve or Conditions().serve, folder or home('bench') / 'choose')
    served: dict[Candidate, Served] = {}
    failed: list[Failed] = []
    for candidate in candidates:
        try:
            served[candidate] = store.served(candidate, sets[0])
            for data in sets:
                store.features(candidate, data)
            say(f'features of {candidate.name}')
        except EtunerError as error:
            failed.append(Failed(candidate, str(error)))
            say(f'{candidate.name} is left out: {error}')
    if not served:
        raise ConfigError(f'no candidate can be served: {failed[0].reason}')
    times = milliseconds(served)
    rows: dict[str, dict[str, Row]] = {}
    listed = []
    for case in cases(sets, seeds):
        found, truth = judge(case, store, times)
        for ms, chosen, best in decide(found, truth):
            sort = 'reported' if case.data.reported else 'search'
            for rule, one in chosen.items():
                loss = truth[best.candidate] - truth[one.candidate]
                for name in (sort, case.stream.partition(':')[0]):
                    row = rows.setdefault(name, {}).setdefault(rule, Row(rule))
                    row.add(loss, one.p50_ms)
            listed.append(_told(case, ms, chosen, best, truth))
        say(f'{case.stream}, seed {case.seed}: {len(case.labelled)} labels')
    answer = {
        'rule': RULES[0],
        'summary': {n: [r.figures() for r in by.values()] for n, by in rows.items()},
        'candidates': [
            {'name': c.name, 'p50_ms': float(np.median(ms))} for c, ms in times.items()
        ],
        'failed': [{'candidate': f.candidate.name, 'reason': f.reason} for f in failed],
        'cases': listed,
        'machine': machine(),
    }
    replace_file(output / 'choose.json', (json.dumps(answer, indent=1) + '\n').encode())
    return answer


def _told(
    case: Case,
    ms: float,
    chosen: dict[str, Measured],
    best: Measured,
    truth: dict[Candidate, float],
) -> dict[str, Any]:
    def told(one: Measured) -> dict[str, Any]:
        right = round(truth[one.candidate], 4)
        return {'name': one.candidate.name, 'left_out': round(one.accuracy, 4), 'scored': right}

    return {
        'stream': case.stream,
        'seed': case.seed,
        'labels': len(case.labelled),
        'scored': len(case.scored),
        'limit_ms': None if math.isnan(ms) else round(ms, 3),
        'best_in_hindsight': told(best),
        'chosen': {rule: told(one) for rule, one in chosen.items()},
    }


def table(answer: dict[str, Any]) -> str:
    """Return the summary as a Markdown table."""
    lines = [
        '| streams | rule | cases | within one point | mean loss, points | largest | mean ms |',
        '|---|---|---|---|---|---|---|',
    ]
    for name, rows in answer['summary'].items():
        for row in rows:
            lines.append(
                f'| {name} | {row["rule"]} | {row["cases"]} | {row["within_one_point"]:.1%} | '
                f'{100 * row["mean_loss"]:.2f} | {100 * row["largest_loss"]:.1f} | '
                f'{row["mean_ms"]:.2f} |'
            )
    return '\n'.join(lines)
