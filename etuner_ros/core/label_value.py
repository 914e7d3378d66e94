# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which frames are worth a label: stream submodular selection (Senzaki & Hamelain 2021, arXiv
2106.10836), with the one-pass exchange rule of Buchbinder et al. 2015.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from etuner_ros.core.config import LabelValueConfig

Feature = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pick:
    """A frame that was chosen."""

    key: Hashable
    uncertainty: float
    feature: Feature  # (D,), of length 1


class LabelValue:
    """
    Keeps the few frames that are uncertain and different from each other.

    The value of a set S is `sum of uncertainty + diversity * log det(I + K_S)`, K being the cosine
    similarities of the features: monotone and submodular. A newcomer takes the place of the frame
    whose exchange gains most, if that gain is at least `reluctance * value / count`: one pass, and
    memory for `count` frames.
    """

    def __init__(self, config: LabelValueConfig | None = None) -> None:
        self.config = config or LabelValueConfig()
        self.picks: list[Pick] = []
        self._inverse: Feature | None = None  # of I + K of the picks
        self._worth = 0.0  # value of the picks

    def offer(self, key: Hashable, confidence: float, feature: npt.ArrayLike) -> bool:
        """
        Look at a frame, once.

        :param confidence: of the prediction, in [0, 1]
        :param feature: (D,), of the same network for all frames
        :return: whether it is among the picks now
        :raises ValueError: for a feature of another length or one that is not finite
        """
        vector = np.asarray(feature, np.float64)
        if self.picks and vector.shape != self.picks[0].feature.shape:
            raise ValueError(
                f'a feature of shape {vector.shape} after {self.picks[0].feature.shape}; call '
                f'take() when the weights are swapped'
            )
        if vector.ndim != 1 or not np.isfinite(vector).all() or not 0.0 <= confidence <= 1.0:
            raise ValueError('a frame needs a finite feature (D,) and a confidence in [0, 1]')
        length = float(np.linalg.norm(vector))
        new = Pick(key, 1.0 - confidence, vector / length if length > 0 else vector)
        if len(self.picks) < self.config.count:
            self.picks.append(new)
            self._inverse = None
            return True
        gains = self._gains(new)
        best = int(gains.argmax())
        if gains[best] < self._worth / self.config.count * self.config.reluctance:
            return False
        self.picks = [*self.picks[:best], new, *self.picks[best + 1 :]]
        self._inverse = None
        return True

    def _gains(self, new: Pick) -> Feature:
        """
        Return what the value gains when a newcomer takes the place of each pick, (count,).

        With `A = (I + K_S)^-1`, leaving pick i out changes the log determinant by `log A_ii`, and
        adding the newcomer by the logarithm of its Schur complement: no determinant is computed.
        """
        rows = np.stack([p.feature for p in self.picks])
        if self._inverse is None:
            self._inverse = np.asarray(np.linalg.inv(np.eye(len(rows)) + rows @ rows.T))
            self._worth = self.value(self.picks)
        inverse = np.asarray(self._inverse)
        near = rows @ new.feature
        diagonal, reach = np.diag(inverse), inverse @ near
        whole = near @ reach - 2.0 * near * reach + near**2 * diagonal
        explained = whole - (reach - near * diagonal) ** 2 / diagonal
        own = 1.0 + float(new.feature @ new.feature) - explained
        logs = np.log(diagonal) + np.log(np.maximum(own, 1e-12))
        uncertain = np.array([p.uncertainty for p in self.picks])
        gains: Feature = new.uncertainty - uncertain + self.config.diversity * logs
        return gains

    def value(self, picks: list[Pick]) -> float:
        """Return the value of a set of frames; 0 for none."""
        if not picks:
            return 0.0
        rows = np.stack([p.feature for p in picks])
        _, log_det = np.linalg.slogdet(np.eye(len(picks)) + rows @ rows.T)
        return sum(p.uncertainty for p in picks) + self.config.diversity * float(log_det)

    def take(self) -> list[Pick]:
        """Return the picks, most uncertain first, and start anew."""
        taken = sorted(self.picks, key=lambda p: -p.uncertainty)
        self.picks, self._inverse = [], None
        return taken
