# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The gate: may a candidate go live? Decides on paired outcomes of validation samples; no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
import math

from etuner_ros.core.config import GateConfig
from etuner_ros.core.identity import Scenario


@dataclass(frozen=True)
class Outcome:
    """
    One validation sample, predicted by the live weights and by the candidate.

    :param anchor_correct: whether the anchor, the best version that was accepted so far, was right
        on it; None when the anchor has not predicted it
    """

    sample_id: str
    label: str
    scenario: Scenario
    live_correct: bool
    candidate_correct: bool
    anchor_correct: bool | None = None


@dataclass(frozen=True)
class Verdict:
    """
    What the gate decided, and on which figures.

    Without validation samples `samples` is 0, the accuracies are NaN and `p_worse` is 1: accepted
    then only says that nothing is known against the candidate.
    """

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
    outcomes: Sequence[Outcome],
    config: GateConfig | None = None,
    current: Collection[Scenario] | None = None,
) -> Verdict:
    """
    Decide on a candidate.

    Refused when the exact McNemar test says worse than live, when a class with at least three
    samples falls to zero, or, with very few samples, when the mean drops. With few samples the
    test is stricter: below thirty even a loss of three against none is not significant at 5 %.
    Without validation samples there is nothing against the candidate.

    Small losses that chance explains could add up from version to version. So a candidate whose
    mean is below that of live is refused, too, when the same test says worse than the anchor, the
    best version so far. One that is as good as live, or better, may be below the anchor: this is
    the way back.

    :param current: the scenario of each camera; samples of these and those of earlier ones are
        then also tested apart from each other, so that what is won here can not hide what is lost
        there
    """
    config = config or GateConfig()
    n = len(outcomes)
    if n == 0:
        return Verdict(True, 'accepted: no validation samples yet', 0, math.nan, math.nan, 1.0)
    live = sum(o.live_correct for o in outcomes)
    candidate = sum(o.candidate_correct for o in outcomes)
    lost, won = _moved((o.live_correct, o.candidate_correct) for o in outcomes)
    p = mcnemar_worse(lost, won)
    shares = f'{100 * live / n:.0f} % live, {100 * candidate / n:.0f} % candidate'
    figures = f'{shares} on {n} samples, p = {p:.3f}'

    def verdict(accepted: bool, text: str) -> Verdict:
        return Verdict(accepted, f'{text} ({figures})', n, live / n, candidate / n, p)

    def level(samples: int) -> float:
        few = samples < config.few_samples
        return config.few_significance if few else config.significance

    if not config.enabled:
        return verdict(True, 'accepted: the gate is off')
    if p < level(n):
        return verdict(False, 'refused: worse by the paired test')
    for label in sorted({o.label for o in outcomes}):
        mine = [o for o in outcomes if o.label == label]
        if (
            len(mine) >= 3
            and sum(o.live_correct for o in mine) >= 2
            and not any(o.candidate_correct for o in mine)
        ):
            return verdict(False, f"refused: class '{label[:60]}' would be lost")
    if current is not None:
        here = [o for o in outcomes if o.scenario in current]
        earlier = [o for o in outcomes if o.scenario not in current]
        for name, mine in (('the current scenario', here), ('earlier scenarios', earlier)):
            gone, found = _moved((o.live_correct, o.candidate_correct) for o in mine)
            # Two tests on top of the one above: each at half its level (Bonferroni).
            if mcnemar_worse(gone, found) < config.significance / 2:
                text = f'refused: worse in {name}, {gone} of {len(mine)} samples lost, {found} won'
                return verdict(False, text)
    if n < config.very_few_samples:
        if (live - candidate) / n > config.tolerated_drop + 1e-9:
            return verdict(False, 'refused: the mean drops and there are very few samples')
        return verdict(True, 'accepted')
    pairs = [
        (o.anchor_correct, o.candidate_correct) for o in outcomes if o.anchor_correct is not None
    ]
    gone, found = _moved(pairs)
    if candidate < live and mcnemar_worse(gone, found) < level(len(pairs)):
        best = f'{100 * sum(a for a, _ in pairs) / len(pairs):.0f} % on {len(pairs)} samples'
        text = (
            f'refused: below live and worse than the best version so far, which had {best}, '
            f'{gone} of them lost, {found} won'
        )
        return verdict(False, text)
    return verdict(True, 'accepted')


def _moved(pairs: Iterable[tuple[bool, bool]]) -> tuple[int, int]:
    """Return how many of the (before, now) pairs went from right to wrong, and the other way."""
    changed = [now for before, now in pairs if before != now]
    return changed.count(False), changed.count(True)
