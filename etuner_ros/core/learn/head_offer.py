# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A head for what is live: from what the instant head has learned to a candidate."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
import time

from etuner_ros.core.decide.sim_freeze import SimFreeze
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.candidates import HeadCandidate
from etuner_ros.core.learn.live_state import LiveState
from etuner_ros.core.learn.sample_book import SampleBook
from etuner_ros.core.learn.served_head import Kept, ServedHead
from etuner_ros.core.learn.validator import accuracies, Asked, by_rows, Validator


def offer_head(
    head: ServedHead,
    book: SampleBook,
    validator: Validator,
    live: LiveState,
    sim_freeze: SimFreeze,
    current: Collection[Scenario],
    kept: Mapping[str, Kept],
    began: float,
) -> HeadCandidate:
    """
    Return the instant head as it is now as a candidate: new classes behind those that are live.

    :param kept: of live classes that the instant head has no sample of, by label
    :param began: `time.perf_counter` at the beginning of the work
    """
    known, had = head.classes(), live.model.classes
    classes = (*had, *(c for c in known if c not in had))
    rows = head.rows(classes, kept=kept)
    weights = {**rows.state(), **head.likeness(classes, kept=kept)}
    fitted = time.perf_counter()
    served = Asked(live.backbone, live.features, by_rows(live.head, had))
    outcomes = validator.of_head(
        book.held.values(),
        current,
        served,
        replace(served, answers=partial(head.answers, kept=kept)),
    )
    before, after = accuracies(outcomes, book.outcomes(current), current)
    ended = time.perf_counter()
    return HeadCandidate(
        classes=classes,
        parent=live.version,
        backbone=live.backbone,
        frozen=tuple(n for n in live.model.unit_names if n in sim_freeze.frozen),
        cka=dict(sim_freeze.cka),
        outcomes=outcomes,
        new_samples=len(book.pending),
        seconds=ended - began,
        head_seconds=fitted - began,
        validation_seconds=ended - fitted,
        accuracy=after,
        accuracy_before=before,
        weights=weights,
        live_update=live.with_head(weights),
    )
