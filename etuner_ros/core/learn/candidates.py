# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What is proposed to go live: a new head, or what a round has made. Two kinds, never mixed."""

from __future__ import annotations

from dataclasses import dataclass, field

from etuner_ros.core.decide.gate import Outcome
from etuner_ros.core.models.weights import State


@dataclass(frozen=True)
class _Candidate:
    classes: tuple[str, ...]
    parent: int  # version that is live and was compared with
    backbone: str  # digest of the backbone that it has
    frozen: tuple[str, ...]
    cka: dict[str, float]
    outcomes: list[Outcome]
    new_samples: int  # that a round trained on; of a head: that no round has trained on yet
    seconds: float  # all that it took
    head_seconds: float  # features and instant head
    validation_seconds: float
    accuracy: float  # estimate for the current scenarios, in [0, 1]; NaN when nothing is known
    accuracy_before: float  # the same of what is live


@dataclass(frozen=True)
class HeadCandidate(_Candidate):
    """The instant head as it is now, for the backbone that is live."""

    # head.weight, head.bias; head.prior and head.likeness where there are such
    weights: State = field(repr=False)
    live_update: State = field(
        repr=False
    )  # the same with the live backbone: what `set_live` takes


@dataclass(frozen=True)
class RoundCandidate(_Candidate):
    """What a round has made."""

    update: State = field(repr=False)  # tensors that differ from the base weights
    iterations: int
    loss: float
    probe_seconds: float
    appearance_move: tuple[float, ...] = ()  # from the parent's; empty when there is none

    @property
    def live_update(self) -> State:
        """What `set_live` takes when it is accepted."""
        return self.update


Candidate = HeadCandidate | RoundCandidate
