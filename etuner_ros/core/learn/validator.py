# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The evidence for the gate: which held-back samples are looked at, what was right before and after,
and what the best accepted version got right.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
import math

import numpy as np
import torch
from torch import Tensor

from etuner_ros.core.cost import counted_as, VALIDATION
from etuner_ros.core.decide.gate import Outcome
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.feature_bank import Compute, FeatureBank
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.sample_book import shares
from etuner_ros.core.learn.served_head import HeadRows

VALIDATION_WINDOW = 100  # held-back samples that are looked at
CURRENT_SHARE = 0.5  # of them, for the current scenarios; where one side has fewer, others come


# Labels of samples with features (n, D).
Answers = Callable[[Sequence[Sample], Tensor], list[str]]


@dataclass(frozen=True)
class Asked:
    """
    Something that predicts held-back samples.

    :ivar backbone: digest of what makes its features
    :ivar compute: those features, where they are not known
    """

    backbone: str
    compute: Compute
    answers: Answers


class Validator:
    """
    Compares a candidate with what is live, and remembers an anchor.

    The anchor is the best version that was accepted: of each sample, whether that was right. It is
    fixed until a better one is accepted, so many small steps down can not add up unnoticed.
    """

    def __init__(self, bank: FeatureBank) -> None:
        self._bank = bank
        self._anchor: dict[str, bool] = {}  # by sample id
        self._was: dict[str, bool] = {}  # the same of what is live

    def choose(self, held: Iterable[Sample], current: Collection[Scenario]) -> list[Sample]:
        """
        Return the samples to look at: half of the current scenarios, half of earlier ones, and of
        each side equally many of every scenario and class, the newest of each.
        """
        here: list[Sample] = []
        earlier: list[Sample] = []
        for sample in held:
            (here if sample.scenario in current else earlier).append(sample)
        near = max(round(CURRENT_SHARE * VALIDATION_WINDOW), VALIDATION_WINDOW - len(earlier))
        chosen = _stratified(here, near)
        return _stratified(earlier, VALIDATION_WINDOW - len(chosen)) + chosen

    def of_round(
        self,
        held: Iterable[Sample],
        current: Collection[Scenario],
        live: Asked,
        candidate: Asked,
    ) -> list[Outcome]:
        """
        Compare what a round made with what would be served without it, both without their prior,
        which favours some classes on purpose.

        A head that has learned a held-back sample is asked what it would say without.
        """
        asked = self._ask(held, current, live, candidate)
        return [self._outcome(sample, was, now) for sample, was, now in asked]

    def of_head(
        self,
        held: Iterable[Sample],
        current: Collection[Scenario],
        live: Asked,
        candidate: Asked,
    ) -> list[Outcome]:
        """
        Compare a head with the one that is served.

        :param live: the served head, which nobody can ask any more what it would say without a
            sample; so that is remembered from when it was accepted, and where it is not (a new
            sample, a restart), being right proves nothing: then it counts as the candidate does
        """
        asked = self._ask(held, current, live, candidate)
        return [
            self._outcome(sample, self._was.get(sample.sample_id, was and now), now)
            for sample, was, now in asked
        ]

    def _ask(
        self, held: Iterable[Sample], current: Collection[Scenario], live: Asked, candidate: Asked
    ) -> list[tuple[Sample, bool, bool]]:
        """Return the samples that are looked at, and whether live and candidate are right."""
        chosen = self.choose(held, current)
        if not chosen:
            return []
        with counted_as(VALIDATION):
            return list(zip(chosen, self._right(live, chosen), self._right(candidate, chosen)))

    def _right(self, asked: Asked, chosen: Sequence[Sample]) -> list[bool]:
        rows = torch.stack(self._bank.rows(asked.backbone, chosen, asked.compute))
        return [a == s.label for s, a in zip(chosen, asked.answers(chosen, rows))]

    def _outcome(self, sample: Sample, was: bool, now: bool) -> Outcome:
        anchor = self.anchor(sample)
        return Outcome(sample.sample_id, sample.label, sample.scenario, was, now, anchor)

    def anchor(self, sample: Sample) -> bool | None:
        """Return whether the anchor is right on a sample; None when it has not predicted it."""
        return self._anchor.get(sample.sample_id)

    def on_accepted(self, outcomes: Sequence[Outcome], held: Mapping[str, Sample]) -> None:
        """
        Note that the candidate of these outcomes is live: it becomes the anchor when it is at
        least as good as the one that was, on what both have predicted.

        :param held: the held-back samples as they are now
        """
        outcomes = [
            o for o in outcomes if o.sample_id in held and held[o.sample_id].label == o.label
        ]
        self._was = {o.sample_id: o.candidate_correct for o in outcomes}
        self._anchor = {key: right for key, right in self._anchor.items() if key in held}
        shared = [o for o in outcomes if o.anchor_correct is not None]
        lead = sum(o.candidate_correct - bool(o.anchor_correct) for o in shared)
        if lead >= 0:
            self._anchor = {o.sample_id: o.candidate_correct for o in outcomes}
            return
        for outcome in outcomes:  # new samples count as the first version does on them
            self._anchor.setdefault(outcome.sample_id, outcome.candidate_correct)

    def forget(self, sample_ids: Iterable[str]) -> None:
        """Forget samples: their label was taken back or is another one."""
        for sample_id in sample_ids:
            self._anchor.pop(sample_id, None)
            self._was.pop(sample_id, None)

    def on_other_head(self) -> None:
        """Forget what the live head was: another one was made live by hand."""
        self._was = {}

    def restart(self) -> None:
        """Forget the anchor: other weights were made live by hand."""
        self._anchor, self._was = {}, {}


def _stratified(samples: Sequence[Sample], count: int) -> list[Sample]:
    """Return at most so many samples, the newest of each scenario and class, in their order."""
    groups: dict[tuple[Scenario, str], list[int]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault((sample.scenario, sample.label), []).append(place)
    names = {repr(key): key for key in groups}
    quotas = shares({name: len(groups[key]) for name, key in names.items()}, max(count, 0))
    chosen = [
        place
        for name, key in names.items()
        for place in groups[key][len(groups[key]) - quotas[name] :]
    ]
    return [samples[place] for place in sorted(chosen)]


def by_rows(head: HeadRows, classes: Sequence[str]) -> Answers:
    """Return what gives the answers of a head without its prior; empty ones without classes."""

    def answers(samples: Sequence[Sample], features: Tensor) -> list[str]:
        if not len(classes):
            return [''] * len(samples)
        best = (features @ head.weight.T + head.bias).argmax(dim=1).tolist()
        return [classes[i] for i in best]

    return answers


def accuracies(
    outcomes: Sequence[Outcome], recent: Sequence[bool], current: Collection[Scenario]
) -> tuple[float, float]:
    """
    Return the accuracy of what is live in the current scenarios, and that of a candidate.

    Live: held-back samples and recent corrected frames, as they were predicted by the live
    backbone. Of those frames nobody knows what the candidate would have said before it learned
    them, so its accuracy is that of live, moved by what held-back samples say that has changed.

    :param recent: whether corrected frames were predicted right
    :return: in [0, 1]; NaN when nothing is known
    """
    here = [o for o in outcomes if o.scenario in current]
    known = [*(o.live_correct for o in here), *recent]
    if not known:
        return math.nan, math.nan
    before = float(np.mean(known))
    change = float(np.mean([o.candidate_correct - o.live_correct for o in here])) if here else 0.0
    return before, min(max(before + change, 0.0), 1.0)
