# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Latent replay: everything below a fixed cut is frozen, and patterns are replayed as activations at
the cut (Pellegrini et al., IROS 2020, arXiv 1912.01100).
"""

from __future__ import annotations

from etuner_ros.bench.methods.tuned import Policy
from etuner_ros.core.learn.learner import Learner

CUT = 0.6  # share of the blocks below the cut
PATTERNS = 1500  # that are kept; the streams of the benchmark hold fewer labels


class LatentReplay(Policy):
    """Freezes below the cut once; the learner's cache holds the patterns."""

    def begin(self, learner: Learner) -> None:
        """Freeze before the first round."""
        names = learner.training.unit_names
        learner.state.freeze(names[: int(CUT * len(names))])
