# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How good choices were: against the best in hindsight, under limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
import math
import statistics
from typing import Any

import numpy as np
import numpy.typing as npt

from etuner_ros.bench.choose_cases import Case
from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.choose.measured import Measured
from etuner_ros.core.choose.pick import choose, Limits, RULES

Bools = npt.NDArray[np.bool_]
CLOSE = 0.01  # of accuracy: a choice this near to the best in hindsight is a good one
# Limits, in times of the fastest candidate; the last is none.
LIMITS = (1.25, 1.75, 2.5, 3.5, 5.0, 7.0, math.inf)
# To compare with: the slowest candidate that fits, whatever the labels; and what half of the
# scored pictures would choose, judged by the other half: as near as anything comes to the best.
SLOWEST, HALF = 'slowest', 'half of hindsight'


@dataclass
class Row:
    """What a rule did on the streams of a sort."""

    rule: str
    cases: int = 0
    close: int = 0
    clear: int = 0  # losses that are more than a point by two standard errors of the difference
    losses: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)

    def add(self, best: Bools, chosen: Bools, ms: float) -> None:
        """Count a choice, by what is right of the scored pictures with it and with the best."""
        difference = best.astype(np.float64) - chosen
        loss = float(difference.mean())
        self.cases += 1
        self.close += loss <= CLOSE + 1e-9
        self.clear += loss - 2.0 * float(difference.std()) / math.sqrt(len(best)) > CLOSE
        self.losses.append(loss)
        self.ms.append(ms)

    def figures(self) -> dict[str, Any]:
        """Return what is said of it."""
        return {
            'rule': self.rule,
            'cases': self.cases,
            'within_one_point': self.close / self.cases,
            'clearly_worse': self.clear / self.cases,
            'mean_loss': statistics.fmean(self.losses),
            'largest_loss': max(self.losses),
            'mean_ms': statistics.fmean(self.ms),
        }


@dataclass(frozen=True)
class Decision:
    """
    Under one limit: what each rule takes, and what was best in hindsight.

    :ivar ms: the limit; NaN is none
    """

    ms: float
    chosen: dict[str, Measured]
    best: Measured


def decide(found: Sequence[Measured], truth: dict[Candidate, Bools]) -> Iterator[Decision]:
    """Yield each limit; one that admits a single candidate is no choice, and is left out."""
    fastest = min(m.p50_ms for m in found)
    for times in LIMITS:
        limits = Limits(math.nan if math.isinf(times) else times * fastest)
        fitting = [m for m in found if limits.admits(m)]
        if len(fitting) < 2:
            continue
        chosen = {rule: choose(found, limits, rule) for rule in RULES}
        chosen[SLOWEST] = max(fitting, key=lambda m: m.p50_ms)
        chosen[HALF] = max(fitting, key=lambda m: truth[m.candidate][::2].mean())
        best = max(fitting, key=lambda m: truth[m.candidate].mean())
        yield Decision(limits.ms, chosen, best)


def count(
    rows: dict[str, Row],
    decision: Decision,
    found: Sequence[Measured],
    truth: dict[Candidate, Bools],
) -> None:
    """Add a decision to the row of each rule."""
    limits = Limits(decision.ms)
    for rule, one in decision.chosen.items():
        right = truth
        best = decision.best
        if rule == HALF:
            right = {c: answers[1::2] for c, answers in truth.items()}
            fitting = [m for m in found if limits.admits(m)]
            best = max(fitting, key=lambda m: right[m.candidate].mean())
        row = rows.setdefault(rule, Row(rule))
        row.add(right[best.candidate], right[one.candidate], one.p50_ms)


def told(case: Case, decision: Decision, truth: dict[Candidate, Bools]) -> dict[str, Any]:
    """Return what is written of a decision."""

    def one_told(one: Measured) -> dict[str, Any]:
        return {
            'name': one.candidate.name,
            'left_out': round(one.accuracy, 4),
            'doubt': round(one.mean_doubt, 4),
            'scored': round(float(truth[one.candidate].mean()), 4),
        }

    return {
        'stream': case.stream,
        'seed': case.seed,
        'labels': len(case.labelled),
        'scored': len(case.scored),
        'limit_ms': None if math.isnan(decision.ms) else round(decision.ms, 3),
        'best_in_hindsight': one_told(decision.best),
        'chosen': one_told(decision.chosen[RULES[0]]),
        'others': {r: one.candidate.name for r, one in decision.chosen.items() if r != RULES[0]},
    }


def table(answer: dict[str, Any]) -> str:
    """Return the summary as a Markdown table."""
    lines = [
        '| streams | rule | cases | within one point | clearly worse | mean loss | largest | ms |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for name, rows in answer['summary'].items():
        for row in rows:
            lines.append(
                f'| {name} | {row["rule"]} | {row["cases"]} | {row["within_one_point"]:.1%} | '
                f'{row["clearly_worse"]:.1%} | '
                f'{100 * row["mean_loss"]:.2f} | {100 * row["largest_loss"]:.1f} | '
                f'{row["mean_ms"]:.2f} |'
            )
    return '\n'.join(lines)
