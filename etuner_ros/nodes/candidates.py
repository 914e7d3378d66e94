# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Candidates as messages carry them, as plain values."""

from __future__ import annotations

from etuner_ros.core.decide.gate import Outcome
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.models.candidate_check import Candidate, MOST_OUTCOMES
from etuner_ros.core.models.store import HEAD, ROUND
from etuner_ros.msg import HeadCandidate, ModelCandidate, ValidationOutcome


def to_candidate(message: ModelCandidate | HeadCandidate) -> Candidate:
    """Return a message of either kind as a candidate; nothing is checked."""
    tuned = isinstance(message, ModelCandidate)
    return Candidate(
        kind=ROUND if tuned else HEAD,
        parent=message.parent,
        base_sha256=message.base_sha256,
        backbone_sha256=message.backbone_sha256,
        sha256=message.sha256,
        classes=tuple(message.classes),
        weights=bytes(message.weights),
        # One more than is taken, so that too many are noticed.
        outcomes=tuple(map(to_outcome, message.outcomes[: MOST_OUTCOMES + 1])),
        scenario_sources=tuple(message.scenario_sources),
        scenarios=tuple(map(int, message.scenarios)),
        collectors=tuple(message.collectors),
        batch_ids=tuple(map(int, message.batch_ids)),
        seconds=float(message.seconds),
        new_samples=message.new_samples,
        iterations=message.iterations if tuned else 0,
        frozen_layers=tuple(message.frozen_layers) if tuned else (),
    )


def to_outcome(message: ValidationOutcome) -> Outcome:
    """Return what the gate looks at."""
    where = Scenario(message.source, message.scenario)
    return Outcome(
        message.sample_id,
        message.label,
        DEPLOYED if message.scenario == DEPLOYED.number else where,
        message.live_correct,
        message.candidate_correct,
        message.anchor_correct if message.anchored else None,
    )
