# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which frames are worth a label: those that stand for most of what the robot sees and no label
speaks for yet. Submodular selection (facility location, Wei, Iyer & Bilmes, ICML 2015) over a
uniform sample of the stream, so one pass and constant memory suffice (Badanidiyuru et al., KDD
2014).
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import numpy.typing as npt

from etuner_ros.core.config import LabelValueConfig

Rows = npt.NDArray[np.float32]
MOST_EXEMPLARS = 300  # of a deployment, that are taken as known
_WORDLESS = -1.0  # similarity of what nothing speaks for: that of opposite features


class LabelValue:
    """
    Keeps a uniform sample of the frames of a scene and chooses the one to ask about next.

    With `k(i, j) = exp((cos(i, j) - 1) / reach)` on centred features, L being what is labelled or
    was asked about, the value of a set S is
    `mean over the sample of (1 + uncertainty_i) max over j in S and L of k(i, j)`: monotone and
    submodular, so the frame that gains most is taken each time (Nemhauser, Wolsey & Fisher 1978).
    What a frame says of itself does not count: else odd ones that stand for nothing are taken.

    Being uncertain alone is a bad guide: a model is often sure of a kind that it has never seen.

    :param seed: of the sample
    """

    def __init__(self, config: LabelValueConfig | None = None, seed: int = 0) -> None:
        self.config = config or LabelValueConfig()
        self._rng = np.random.default_rng(seed)
        self._keys: list[Hashable] = []  # of the sample
        self._rows: list[Rows] = []
        self._uncertain: list[float] = []
        self._seen = 0  # frames of this scene
        self._known: list[Rows] = []  # features of frames that are labelled or were asked about
        self._learned = 0  # frames that were ever known
        self.asked = 0  # in this scene

    @property
    def keys(self) -> list[Hashable]:
        """What names the frames that may be asked about."""
        return list(self._keys)

    def offer(self, key: Hashable, confidence: float, feature: npt.ArrayLike) -> None:
        """
        Look at a frame, once.

        :param confidence: of the prediction, in [0, 1]
        :param feature: (D,); when the length differs from before, all others are forgotten
        :raises ValueError: for a feature that is not finite, or a confidence outside [0, 1]
        """
        row = np.asarray(feature, np.float32)
        if row.ndim != 1 or not np.isfinite(row).all() or not 0.0 <= confidence <= 1.0:
            raise ValueError('a frame needs a finite feature (D,) and a confidence in [0, 1]')
        self._fit_to(len(row))
        self._seen += 1
        if len(self._keys) < self.config.sample:
            place = len(self._keys)
            self._keys.append(key)
            self._rows.append(row)
            self._uncertain.append(0.0)
        else:  # Algorithm R (Vitter 1985): every frame is in the sample with equal chances
            place = int(self._rng.integers(self._seen))
            if place >= self.config.sample:
                return
        self._keys[place], self._rows[place] = key, row
        self._uncertain[place] = 1.0 - confidence

    def know(self, feature: npt.ArrayLike) -> None:
        """
        Take a feature (D,) as spoken for: its frame has a label.

        Of more than `memory` of them a uniform sample is kept.
        """
        row = np.asarray(feature, np.float32)
        self._fit_to(len(row))
        self._learned += 1
        if len(self._known) < self.config.memory:
            self._known.append(row)
            return
        place = int(self._rng.integers(self._learned))
        if place < self.config.memory:
            self._known[place] = row

    def note_labelled(self, key: Hashable) -> None:
        """Note that a frame got a label, asked for or not."""
        if key in self._keys:
            self.know(self._drop(self._keys.index(key)))

    def choose(self) -> Hashable | None:
        """
        Return the frame to ask about next; None when labels speak for the scene already.

        They do when a frame's most similar labelled one is, over the sample, about as similar as
        its most similar other frame (`enough`), and no frame stands for many that nothing speaks
        for: as the k-th request of a scene it would have to gain `worth / k`, as the best possible
        ones do.
        """
        if not self._keys or self.asked >= self.config.count:
            return None
        gains, spoken_for = self._gains()
        best = int(gains.argmax())
        little = gains[best] * (self.asked + 1) < self.config.worth
        if little and spoken_for >= self.config.enough:
            return None
        self.asked += 1
        key = self._keys[best]
        self.know(self._drop(best))
        return key

    def forget(self, key: Hashable) -> None:
        """Leave a frame out that is not there any more."""
        if key in self._keys:
            self._drop(self._keys.index(key))

    def new_scene(self) -> None:
        """Start with an empty sample; what labels speak for stays."""
        self._keys, self._rows, self._uncertain = [], [], []
        self._seen = self.asked = 0

    def _drop(self, place: int) -> Rows:
        """Take a frame out of the sample; the last one takes its place."""
        row = self._rows[place]
        self._keys[place], self._rows[place] = self._keys[-1], self._rows[-1]
        self._uncertain[place] = self._uncertain[-1]
        del self._keys[-1], self._rows[-1], self._uncertain[-1]
        return row

    def _fit_to(self, length: int) -> None:
        for rows in (self._rows, self._known):
            if rows and len(rows[0]) != length:
                self.new_scene()
                self._known, self._learned = [], 0

    def _gains(self) -> tuple[npt.NDArray[np.float64], float]:
        """
        Return what asking about each frame of the sample would gain, (n,), and how well labels
        speak for the sample, as a share of how well its own other frames do.
        """
        rows = np.stack(self._rows + self._known)
        rows = rows - rows.mean(axis=0)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        sample = rows[: len(self._keys)]
        alike = np.exp((sample @ rows.T - 1.0) / self.config.reach)
        among, to_known = alike[:, : len(sample)], alike[:, len(sample) :]
        nothing = np.exp((_WORDLESS - 1.0) / self.config.reach)
        covered = to_known.max(axis=1, initial=nothing)
        weight = 1.0 + np.asarray(self._uncertain)
        gains = weight[:, None] * np.maximum(among - covered[:, None], 0.0)
        np.fill_diagonal(gains, 0.0)
        np.fill_diagonal(among, 0.0)
        spoken_for = float(covered.sum() / max(float(among.max(axis=1).sum()), 1e-12))
        return gains.sum(axis=0) / max(len(sample) - 1, 1), spoken_for
