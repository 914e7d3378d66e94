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
Floats = npt.NDArray[np.floating]
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

    Only features of one backbone are compared. When another one serves, frames of before are
    chosen from until as many came with it; see `_change`.

    :param seed: of the sample
    """

    def __init__(self, config: LabelValueConfig | None = None, seed: int = 0) -> None:
        self.config = config or LabelValueConfig()
        self._rng = np.random.default_rng(seed)
        self._now = _Features(('', 0), self.config, self._rng)  # that are chosen from
        self._other = self._now  # of the backbone that serves next, or served before
        self.asked = 0  # in this scene

    @property
    def keys(self) -> list[Hashable]:
        """What names the frames that may be asked about, now or soon."""
        return list(dict.fromkeys([*self._now.keys, *self._other.keys]))

    @property
    def known(self) -> int:
        """How many features are taken as spoken for, of the backbone that is chosen by."""
        return len(self._now.known)

    def offer(
        self, key: Hashable, confidence: float, feature: npt.ArrayLike, backbone: str = ''
    ) -> None:
        """
        Look at a frame, once.

        :param confidence: of the prediction, in [0, 1]
        :param feature: (D,)
        :param backbone: digest of what made the feature
        :raises ValueError: for a feature that is not finite, or a confidence outside [0, 1]
        """
        row = np.asarray(feature, np.float32)
        if row.ndim != 1 or not np.isfinite(row).all() or not 0.0 <= confidence <= 1.0:
            raise ValueError('a frame needs a finite feature (D,) and a confidence in [0, 1]')
        features = self._features_of(backbone, row)
        features.offer(key, confidence, row)
        if features is not self._now and len(features.keys) >= len(self._now.keys):
            self._change(features)

    def know(self, feature: npt.ArrayLike, backbone: str = '') -> None:
        """
        Take a feature (D,) as spoken for: its frame has a label.

        Of more than `memory` of them a uniform sample is kept.
        """
        row = np.asarray(feature, np.float32)
        self._features_of(backbone, row).know(row)

    def note_labelled(self, key: Hashable) -> None:
        """Note that a frame got a label, asked for or not."""
        for features in (self._now, self._other):
            if key in features.keys:
                features.know(features.take_out(key))

    def choose(self) -> Hashable | None:
        """
        Return the frame to ask about next; None when labels speak for the scene already.

        They do when a frame's most similar labelled one is, over the sample, about as similar as
        its most similar other frame (`enough`), and no frame stands for many that nothing speaks
        for: as the k-th request of a scene it would have to gain `worth / k`, as the best possible
        ones do.
        """
        if not self._now.keys or self.asked >= self.config.count:
            return None
        gains, spoken_for = self._now.gains()
        best = int(gains.argmax())
        little = gains[best] * (self.asked + 1) < self.config.worth
        if little and spoken_for >= self.config.enough:
            return None
        self.asked += 1
        key = self._now.keys[best]
        self._now.know(self._now.take_out(key))
        return key

    def forget(self, key: Hashable) -> None:
        """Leave a frame out that is not there any more."""
        for features in (self._now, self._other):
            if key in features.keys:
                features.take_out(key)

    def new_scene(self) -> None:
        """Start with an empty sample; what labels speak for stays."""
        self._now.new_scene()
        self._other.new_scene()
        self.asked = 0

    def _features_of(self, backbone: str, row: Rows) -> _Features:
        """Return where the features of a backbone are kept, two backbones at most."""
        origin = backbone, len(row)  # another length is another network, whatever it is called
        for features in (self._now, self._other):
            if features.origin == origin:
                return features
        self._other = _Features(origin, self.config, self._rng)
        if not self._now.keys and not self._now.known:
            self._now = self._other
        return self._other

    def _change(self, features: _Features) -> None:
        """
        Choose by the features of another backbone from now on.

        What labels speak for is not known in them: a labelled frame passes once. But the scene is
        the same, and labels spoke for a share of it. So the frames that stand for most of it are
        taken as known until they speak for that share. Were a kind new since the change, it might
        be taken as known, too; the other way were to ask about the whole scene again after each
        round. Scenes of before are not known any more, unless this backbone served there.
        """
        if len(self._now.keys) > 1:
            features.know_share(self._now.gains()[1])
        self._now.new_scene()
        self._now, self._other = features, self._now


class _Features:
    """
    What one backbone made: features of a uniform sample of the scene, and of labelled frames.

    :param origin: digest of the backbone, number of features
    """

    def __init__(
        self, origin: tuple[str, int], config: LabelValueConfig, rng: np.random.Generator
    ) -> None:
        self.origin, self._config, self._rng = origin, config, rng
        self.keys: list[Hashable] = []  # of the sample
        self._rows: list[Rows] = []
        self._uncertain: list[float] = []
        self._seen = 0  # frames of this scene
        self.known: list[Rows] = []  # of frames that are labelled or were asked about
        self._learned = 0  # frames that were ever known

    def offer(self, key: Hashable, confidence: float, row: Rows) -> None:
        """Take a frame into the sample, or not."""
        self._seen += 1
        if len(self.keys) < self._config.sample:
            place = len(self.keys)
            self.keys.append(key)
            self._rows.append(row)
            self._uncertain.append(0.0)
        else:  # Algorithm R (Vitter 1985): every frame is in the sample with equal chances
            place = int(self._rng.integers(self._seen))
            if place >= self._config.sample:
                return
        self.keys[place], self._rows[place] = key, row
        self._uncertain[place] = 1.0 - confidence

    def know(self, row: Rows) -> None:
        """Take a feature as spoken for."""
        self._learned += 1
        if len(self.known) < self._config.memory:
            self.known.append(row)
            return
        place = int(self._rng.integers(self._learned))
        if place < self._config.memory:
            self.known[place] = row

    def know_share(self, share: float) -> None:
        """Take frames that stand for most as known, as long as this share comes nearer by it."""
        if not self.keys:
            return
        among, covered = self._alike()
        nearest = among.max(axis=1)
        taken: list[Hashable] = []
        while 2 * len(taken) < len(self.keys):
            best = int(self._gains(among, covered).argmax())
            after = np.maximum(covered, among[:, best])
            after[best] = nearest[best]
            if abs(_share(after, nearest) - share) >= abs(_share(covered, nearest) - share):
                break
            covered = after
            taken.append(self.keys[best])
        for key in taken:
            self.know(self.take_out(key))

    def take_out(self, key: Hashable) -> Rows:
        """Take a frame out of the sample; the last one takes its place."""
        place = self.keys.index(key)
        row = self._rows[place]
        self.keys[place], self._rows[place] = self.keys[-1], self._rows[-1]
        self._uncertain[place] = self._uncertain[-1]
        del self.keys[-1], self._rows[-1], self._uncertain[-1]
        return row

    def new_scene(self) -> None:
        """Start with an empty sample."""
        self.keys, self._rows, self._uncertain = [], [], []
        self._seen = 0

    def gains(self) -> tuple[Floats, float]:
        """
        Return what asking about each frame of the sample would gain, (n,), and how well labels
        speak for the sample, as a share of how well its own other frames do.
        """
        among, covered = self._alike()
        return self._gains(among, covered), _share(covered, among.max(axis=1))

    def _alike(self) -> tuple[Floats, Floats]:
        """
        Return how well frames of the sample speak for each other, not for themselves, (n, n), and
        how well what is known speaks for each, (n,).
        """
        rows = np.stack(self._rows + self.known)
        rows = rows - rows.mean(axis=0)
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
        sample = rows[: len(self.keys)]
        alike = np.exp((sample @ rows.T - 1.0) / self._config.reach)
        among, to_known = alike[:, : len(sample)], alike[:, len(sample) :]
        np.fill_diagonal(among, 0.0)
        nothing = np.exp((_WORDLESS - 1.0) / self._config.reach)
        return among, to_known.max(axis=1, initial=nothing)

    def _gains(self, among: Floats, covered: Floats) -> Floats:
        weight = 1.0 + np.asarray(self._uncertain)
        gains = weight[:, None] * np.maximum(among - covered[:, None], 0.0)
        return np.asarray(gains.sum(axis=0) / max(len(among) - 1, 1))


def _share(covered: Floats, nearest: Floats) -> float:
    return float(covered.sum() / max(float(nearest.sum()), 1e-12))
