# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How much the labels of a scene say about its other frames."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

# What `unseen` is chosen from: from "what was not labelled here is not
# here" to "labels say nothing".
_UNSEEN = (0.05, 0.2, 1.0, 4.0, 16.0, 1e6)


class ScenePrior:
    """
    How likely each class is in each scene, by its labels: `log((n_c + a) / mean)`.

    >>> prior = ScenePrior(torch.tensor([0, 0, 1, 1]), [1, 1, 2, 2], classes=2, unseen=0.5)
    >>> bool(prior.offsets([1])[0, 0] > prior.offsets([1])[0, 1])
    True

    :param target: (n,) classes of the labels
    :param scenes: n
    :param unseen: a, labels that every class counts for on top of its own
    """

    def __init__(
        self, target: Tensor, scenes: Sequence[Hashable], classes: int, unseen: float = 1e6
    ) -> None:
        self.unseen = unseen
        self._place = {scene: i for i, scene in enumerate(dict.fromkeys(scenes))}
        self._at = torch.tensor([self._place[s] for s in scenes])
        self._hot = torch.nn.functional.one_hot(target, classes).double()
        self._counts = torch.zeros(len(self._place), classes, dtype=torch.float64)
        self._counts.index_add_(0, self._at, self._hot)

    def fit(self, scores: Tensor, here: Tensor) -> None:
        """
        Choose `unseen`: what predicts each label best from the scene's other ones.

        A kitchen has cups and no drills; but where everything is everywhere, a scene's first five
        labels say little.

        :param scores: (n, C) calibrated logits of each labelled sample, made without it
        :param here: (n,) bool: labels of scenes that offsets are needed for; others tell nothing
        """
        if not here.any():
            return
        others = (self._counts[self._at] - self._hot)[here]
        target = self._hot[here].argmax(dim=1)
        losses = [
            float(torch.nn.functional.cross_entropy(scores[here] + (others + a).log(), target))
            for a in _UNSEEN
        ]
        self.unseen = _UNSEEN[losses.index(min(losses))]

    def offsets(self, scenes: Sequence[Hashable]) -> Tensor:
        """Return what to add to calibrated logits of frames of these scenes, (m, C)."""
        shares = torch.cat([self._counts, torch.zeros_like(self._counts[:1])]) + self.unseen
        shares = (shares / shares.mean(dim=1, keepdim=True)).log()
        return shares[torch.tensor([self._place.get(s, len(self._counts)) for s in scenes])]
