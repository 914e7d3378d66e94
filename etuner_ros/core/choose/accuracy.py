# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which pictures the instant head names right when it has not seen their label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.learn.calibration import leave_one_out
from etuner_ros.core.learn.ridge import class_weights, RidgeRegression, with_ones


def right_left_out(
    features: npt.NDArray[np.float32], labels: Sequence[str], config: HeadConfig | None = None
) -> npt.NDArray[np.bool_]:
    """
    Return for each sample whether the head, solved on all others, says its label.

    What `InstantHead.rebuild` measures, picture by picture: two networks are compared on the
    same pictures, and their difference is known better than either.

    :param features: (n, D)
    :param labels: n labels
    :return: (n,)
    """
    config = config or HeadConfig()
    names = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    target = torch.tensor([names[label] for label in labels])
    hot = torch.nn.functional.one_hot(target, len(names)).double()
    weight = hot @ class_weights(hot.sum(dim=0), config.balance)
    rows = with_ones(torch.from_numpy(features))
    ridge = RidgeRegression(features.shape[1], config.ridge)
    ridge.solve(rows, hot, weight)
    unseen = leave_one_out(ridge, rows, hot, weight)
    return np.asarray((unseen.argmax(dim=1) == target).numpy(), np.bool_)
