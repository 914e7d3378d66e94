# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a robot has computed of its frames before anybody labels them, for the benchmark."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.cuts import Cuts


class Foresight:
    """
    Predicts frames as the robot does.

    What is made on the way is kept: the activation at the frozen border goes to the learner's
    cache, as it would when frames come with it.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._cuts = Cuts(learner.live.backbone, learner.live.units)

    def look(self, samples: Sequence[Sample]) -> tuple[list[str], dict[str, Tensor]]:
        """Return the labels said, and the features (D,) of the live backbone by sample id."""
        live, state = self._learner.live, self._learner.state
        border = state.cache.border
        said: list[str] = []
        features: dict[str, Tensor] = {}
        for start in range(0, len(samples), 32):
            some = samples[start : start + 32]
            x = state.tensor([s.image for s in some])
            with torch.inference_mode():
                middle = self._cuts.run(x, 0, border)
                rows = self._cuts.run(middle, border).flatten(1)
                best = live.head(rows).argmax(dim=1).tolist() if live.classes else []
            said += [live.classes[i] for i in best] if best else [''] * len(some)
            for index, sample in enumerate(some):
                features[sample.sample_id] = rows[index].clone()
                if border:
                    state.cache.offer((sample.sample_id, 0), middle[index], live.units)
        return said, features
