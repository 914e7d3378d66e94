# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nearest class mean on fixed features: the baseline that is hard to beat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.float32]


class NearestClassMean:
    """Predicts the class whose mean feature, both scaled to length 1, is most similar."""

    def __init__(self) -> None:
        self._sums: dict[str, Features] = {}

    def add(self, feature: Features, label: str) -> None:
        """Learn from one labelled feature (D,)."""
        scaled = feature / max(float(np.linalg.norm(feature)), 1e-9)
        self._sums[label] = self._sums.get(label, np.zeros_like(scaled)) + scaled

    def predict(self, feature: Features) -> str:
        """Return the nearest class of a feature (D,); empty before anything was learned."""
        if not self._sums:
            return ''
        return max(
            self._sums,
            key=lambda k: (
                float(self._sums[k] @ feature) / max(float(np.linalg.norm(self._sums[k])), 1e-9)
            ),
        )
