# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Probes: how similar each block still is to the deployed one, on a fixed batch of the current
scenarios (arXiv 2401.16694, "intra-tuning").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from etuner_ros.core.cost import counted_as, PROBE
from etuner_ros.core.decide.cka import cka_of_grams, gram
from etuner_ros.core.learn.activation_cache import same_values
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.training_state import TrainingState
from etuner_ros.core.models.networks import Classifier

LEAST_PROBE = 8  # images; with fewer of the current scenarios nothing is probed


class Prober:
    """
    Measures every block's CKA and tells SimFreeze.

    The batch stays the same from one probe to the next, as only then a move means something. It
    grows to `probe_size` at the beginning of rounds; what is measured on the grown batch is the
    new starting point, and no move.

    :param reference: the deployed model
    """

    def __init__(self, reference: Classifier) -> None:
        self._reference = reference
        self._samples: list[Sample] = []
        self._grams: dict[str, Tensor] = {}  # of the reference, by block
        self._last: dict[str, Tensor] = {}  # of the training model

    @property
    def size(self) -> int:
        """Images in the probe batch; 0 before the first probe of a scenario."""
        return len(self._samples)

    def on_scenario_change(self) -> None:
        """Draw the batch anew."""
        self._samples, self._grams, self._last = [], {}, {}

    def on_other_weights(self) -> None:
        """Note that the training model was changed by something else than training."""
        self._last = {}

    def probe(self, state: TrainingState, iterations: int, here: Sequence[Sample] = ()) -> None:
        """
        Let SimFreeze decide, when a measurement can change anything.

        A frozen block that still has the values of the reference has a CKA of 1 on any data. When
        all blocks that may be frozen are such, there is nothing to measure.

        :param iterations: training iterations since the last probe
        :param here: pictures of the current scenarios that the batch may grow by, the newest last;
            only where `iterations` is 0, so that growing counts as no move
        """
        policy = state.sim_freeze
        open_ = [n for n in policy.may_freeze if n not in policy.frozen]
        if not policy.config.enabled or not (open_ or not self._frozen_as_deployed(state)):
            return
        with counted_as(PROBE):
            self._grow(here, policy.config.probe_size)
            if len(self._samples) >= LEAST_PROBE:
                policy.on_probe(self._similarities(state), iterations)

    def _grow(self, here: Sequence[Sample], size: int) -> None:
        known = {s.sample_id for s in self._samples}
        more = [s for s in reversed(here) if s.sample_id not in known]
        more = more[: max(size - len(self._samples), 0)]
        if len(self._samples) + len(more) < LEAST_PROBE or not more:
            return
        self._samples = [*self._samples, *reversed(more)]
        batch = self._reference.tensor(s.image for s in self._samples)
        self._grams = unit_grams(self._reference, self._reference.features, batch)
        self._last = {}

    def _frozen_as_deployed(self, state: TrainingState) -> bool:
        """Return whether every frozen block has the values of the reference."""
        return all(
            same_values([ours], [theirs], 1)
            for ours, theirs in zip(state.model.units, self._reference.units)
            if ours.name in state.sim_freeze.frozen
        )

    def _similarities(self, state: TrainingState) -> dict[str, float]:
        """
        Return the CKA of each block; what lies before the frozen border is not computed again.
        """
        start = state.cache.border if self._last else 0
        with state.model.evaluating():
            if start:  # what is frozen is as it was when it was last looked at
                x = state.activations([(s, 0) for s in self._samples])
            else:
                x = state.tensor([s.image for s in self._samples])
            now = unit_grams(state.model, lambda x: state.cuts.run(x, start), x)
        self._last = {**self._last, **now}
        debiased = state.sim_freeze.config.debiased
        return {
            name: cka_of_grams(self._last[name], g, debiased) for name, g in self._grams.items()
        }


def unit_grams(model: Classifier, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """
    Return the Gram matrix (n, n) of the output of each block that runs, in one forward pass that
    keeps no activation.

    :param run: runs the model, or what follows one of its borders, on `x`
    """
    grams: dict[str, Tensor] = {}
    hooks = []

    def watch(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_module: torch.nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
            grams[name] = gram(output)

        return hook

    try:
        hooks = [unit.module.register_forward_hook(watch(unit.name)) for unit in model.units]
        with torch.inference_mode():
            run(x)
    finally:
        for handle in hooks:
            handle.remove()
    return grams
