# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How right and how sure the instant head is on pictures whose label it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.learn.calibration import likeliest_scale
from etuner_ros.core.learn.ridge import class_weights, RidgeRegression, Samples, with_ones


@dataclass(frozen=True)
class LeftOut:
    """
    What the head, solved on all other samples, says of each.

    :ivar right: (n,) whether it says the label
    :ivar doubt: (n,) minus the logarithm of the probability that it gives the label, in nats
    """

    right: npt.NDArray[np.bool_]
    doubt: npt.NDArray[np.float64]


def left_out(
    features: npt.NDArray[np.float32], labels: Sequence[str], config: HeadConfig | None = None
) -> LeftOut:
    """
    Leave each sample out once.

    What `InstantHead.rebuild` measures, picture by picture: two networks are compared on the
    same pictures, and their difference is known better than either.

    :param features: (n, D)
    :param labels: n labels
    """
    config = config or HeadConfig()
    names = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    target = torch.tensor([names[label] for label in labels])
    hot = torch.nn.functional.one_hot(target, len(names)).double()
    weight = hot @ class_weights(hot.sum(dim=0), config.balance)
    samples = Samples(with_ones(torch.from_numpy(features)))
    ridge = RidgeRegression(features.shape[1], config.ridge)
    unseen = ridge.solve_and_leave_out(samples, hot, weight)
    scaled = likeliest_scale(unseen, target) * unseen
    doubt = torch.nn.functional.cross_entropy(scaled, target, reduction='none')
    return LeftOut((unseen.argmax(dim=1) == target).numpy(), doubt.numpy())
