# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a learner is doing, and what may follow what."""

from __future__ import annotations

from enum import Enum

from etuner_ros.core.errors import LearnerError


class Phase(Enum):
    """What a learner is doing."""

    IDLE = 'idle'
    IN_ROUND = 'in a round'
    PROPOSED = 'proposed'  # the candidate of a round waits for its verdict

    def to(self, phase: Phase) -> Phase:
        """
        Return the phase that comes next.

        :raises LearnerError: when it may not follow
        """
        if (self, phase) not in _MOVES:
            raise LearnerError(f'it is {self.value}, so it can not be {phase.value} next')
        return phase


# What may follow what; heads that go live in a round change nothing here.
_MOVES = {
    (Phase.IDLE, Phase.IN_ROUND),
    (Phase.IN_ROUND, Phase.PROPOSED),
    (Phase.IN_ROUND, Phase.IDLE),  # cancelled, or failed
    (Phase.PROPOSED, Phase.IDLE),  # accepted, refused, or given up
}
