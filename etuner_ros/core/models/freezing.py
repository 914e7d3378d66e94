# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Freeze blocks of a model: the mechanism. Which blocks, `sim_freeze` decides."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from etuner_ros.core.models.networks import Classifier


def apply_frozen(
    model: Classifier, names: Iterable[str], optimiser: torch.optim.Optimizer | None = None
) -> frozenset[str]:
    """
    Freeze exactly the named blocks and thaw all others.

    A frozen block gets no gradient, no optimiser state and hence no weight decay; its BatchNorm
    stays in eval mode through `model.train()`.

    :param optimiser: loses its state for frozen parameters, so that a block thawed later starts
        clean
    :return: the names that now are frozen; names that the model does not have are ignored
    """
    wanted = frozenset(names) & frozenset(model.unit_names)
    model.frozen = wanted
    for unit in model.units:
        for parameter in unit.parameters():
            parameter.requires_grad_(unit.name not in wanted)
            if unit.name in wanted:
                parameter.grad = None
                if optimiser is not None:
                    optimiser.state.pop(parameter, None)
    model.train(model.training)
    return wanted


def frozen_prefix(model: Classifier) -> int:
    """
    Return how many blocks from the input on are frozen without a gap: below them there is no
    backward pass.
    """
    for index, unit in enumerate(model.units):
        if unit.name not in model.frozen:
            return index
    return len(model.units)
