# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The gate: may a candidate go live? Decides on paired outcomes of validation samples; no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

from etuner_ros.core.config import GateConfig


@dataclass(frozen=True)
class Outcome:
    """One validation sample, predicted by the live weights and by the candidate."""

    sample_id: str
    label: str
    scenario: int
    live_correct: bool
    candidate_correct: bool


@dataclass(frozen=True)
class Verdict:
    """What the gate decided, and on which figures."""

    accepted: bool
    reason: str
    samples: int
    live_accuracy: float
    candidate_accuracy: float
    p_worse: float


def mcnemar_worse(lost: int, gained: int) -> float:
    """
    Return the one-sided exact McNemar p-value of "the candidate is worse".

    :param lost: samples that only the live weights get right
    :param gained: samples that only the candidate gets right

    >>> mcnemar_worse(0, 0), mcnemar_worse(5, 0), round(mcnemar_worse(3, 5), 3)
    (1.0, 0.03125, 0.855)
    """
    n = lost + gained
    return sum(math.comb(n, k) for k in range(lost, n + 1)) / 2**n if n else 1.0


def judge(
    outcomes: Sequence[Outcome], config: GateConfig | None = None, scenario: int | None = None
) -> Verdict:
    """
    Decide on a candidate (docs: architecture, "The gate").

    Refused when the exact McNemar test says worse, when a class with at least three samples falls
    to zero, or, with very few samples, when the mean drops. With few samples the test is stricter:
    below thirty even a loss of three against none is not significant at 5 %. Without validation
    samples there is nothing against the candidate.

    :param scenario: the current one; its samples and those of earlier ones are then also tested
        apart from each other, so that what is won here can not hide what is lost there
    """
    config = config or GateConfig()
    n = len(outcomes)
    if n == 0:
        return Verdict(True, 'accepted: no validation samples yet', 0, math.nan, math.nan, 1.0)
    live = sum(o.live_correct for o in outcomes)
    candidate = sum(o.candidate_correct for o in outcomes)
    lost = sum(o.live_correct and not o.candidate_correct for o in outcomes)
    p = mcnemar_worse(lost, candidate - live + lost)
    shares = f'{100 * live / n:.0f} % live, {100 * candidate / n:.0f} % candidate'
    figures = f'{shares} on {n} samples, p = {p:.3f}'

    def verdict(accepted: bool, text: str) -> Verdict:
        return Verdict(accepted, f'{text} ({figures})', n, live / n, candidate / n, p)

    if not config.enabled:
        return verdict(True, 'accepted: the gate is off')
    few = n < config.few_samples
    if p < (config.few_significance if few else config.significance):
        return verdict(False, 'refused: worse by the paired test')
    for label in sorted({o.label for o in outcomes}):
        mine = [o for o in outcomes if o.label == label]
        if (
            len(mine) >= 3
            and sum(o.live_correct for o in mine) >= 2
            and not any(o.candidate_correct for o in mine)
        ):
            return verdict(False, f"refused: class '{label[:60]}' would be lost")
    if scenario is not None:
        here = [o for o in outcomes if o.scenario == scenario]
        earlier = [o for o in outcomes if o.scenario != scenario]
        for name, mine in (('the current scenario', here), ('earlier scenarios', earlier)):
            gone = sum(o.live_correct and not o.candidate_correct for o in mine)
            won = sum(o.candidate_correct and not o.live_correct for o in mine)
            # Two tests on top of the one above: each at half its level (Bonferroni).
            if mcnemar_worse(gone, won) < config.significance / 2:
                text = f'refused: worse in {name}, {gone} of {len(mine)} samples lost, {won} won'
                return verdict(False, text)
    drop = (live - candidate) / n
    if n < config.very_few_samples and drop > config.tolerated_drop + 1e-9:
        return verdict(False, 'refused: the mean drops and there are very few samples')
    return verdict(True, 'accepted')
