# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the worker process does, without the process: live and training model, replay, rounds, probes,
candidates.

The benchmark and the tests drive it directly; `etuner_ros.worker` drives it over a pipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
import copy
from dataclasses import dataclass
from dataclasses import field
import math
import time

import numpy as np
import torch
from torch import Tensor

from etuner_ros.core.cka import cka_of_grams
from etuner_ros.core.cka import gram
from etuner_ros.core.config import SimFreezeConfig
from etuner_ros.core.config import TrainConfig
from etuner_ros.core.freezing import apply_frozen
from etuner_ros.core.gate import Outcome
from etuner_ros.core.models import Classifier
from etuner_ros.core.replay import Replay
from etuner_ros.core.replay import Sample
from etuner_ros.core.sim_freeze import SimFreeze
from etuner_ros.core.trainer import grow_optimiser
from etuner_ros.core.trainer import make_optimiser
from etuner_ros.core.trainer import Step
from etuner_ros.core.trainer import train_round
from etuner_ros.core.weights import difference
from etuner_ros.core.weights import State

VALIDATION_WINDOW = (
    200  # held-back samples that the gate looks at, the newest of each scenario first
)
IMPRINT_MARGIN = 1.0  # logits
PREQUENTIAL_WINDOW = (
    40  # corrected frames whose outcome, as predicted live, counts towards the accuracy
)


class RoundCancelled(Exception):
    """The round was asked to stop; nothing was kept of it."""


@dataclass(frozen=True)
class RoundResult:
    """A candidate and what it took to make it."""

    update: State  # tensors that differ from the base weights
    classes: tuple[str, ...]
    parent: int  # version that the round started from
    frozen: tuple[str, ...]
    cka: dict[str, float]
    outcomes: list[Outcome]
    iterations: int
    new_samples: int
    loss: float
    seconds: float  # the whole round
    probe_seconds: float
    validation_seconds: float
    accuracy: float  # validation and prequential, current scenario, in [0, 1]; NaN when unknown
    accuracy_before: float


@dataclass
class _Probe:
    """The fixed probe batch of a scenario and the reference's Gram matrices on it."""

    batch: Tensor
    reference: dict[str, Tensor] = field(default_factory=dict)


class Learner:
    """
    Holds the models and samples of one robot's tuning.

    Three models: `live` mirrors what the robot runs, `training` is changed by rounds, `reference`
    is the deployed one.

    :param base: the deployed model; it is copied
    """

    def __init__(
        self,
        base: Classifier,
        train: TrainConfig | None = None,
        sim_freeze: SimFreezeConfig | None = None,
    ) -> None:
        self.train_config = train or TrainConfig()
        self.base_state = base.state()
        self.reference = copy.deepcopy(base).eval()
        self.live = copy.deepcopy(base).eval()
        self.training = copy.deepcopy(base)
        self.version = 0
        self.scenario = 0
        self.sim_freeze = SimFreeze(base.unit_names, sim_freeze)
        self.replay = Replay(int(self.train_config.replay_mb * 1e6), self.train_config.seed)
        self.validation: dict[str, Sample] = {}
        self.pending: list[Sample] = []
        self._last_new: list[Sample] = []
        self._held = Counter[str]()
        self._seen = Counter[str]()
        self._prequential: list[tuple[int, bool]] = []
        self._rng = np.random.default_rng(self.train_config.seed)
        self._optimiser = make_optimiser(self.training, self.train_config)
        self._probe: _Probe | None = None

    @property
    def input_size(self) -> int:
        """Side of the network's square input, in px."""
        return self.live.spec.input_size

    def add_samples(self, samples: list[Sample], new: bool = True) -> None:
        """
        Take labelled samples.

        A share is held back for validation, at least two of a class that has six; those are never
        trained on. The rest is learned in the next round, or with `new=False` (seen in an earlier
        life) only replayed.
        """
        for sample in samples:
            if new and sample.predicted:
                self._prequential.append((sample.scenario, sample.predicted == sample.label))
            if sample.sample_id in self.validation:
                self.validation[sample.sample_id] = sample
                continue
            self.pending = [s for s in self.pending if s.sample_id != sample.sample_id]
            if sample.sample_id in self.replay:  # trained on, so never a validation sample
                self.replay.add(sample)
                continue
            self._seen[sample.label] += 1
            seen, held = self._seen[sample.label], self._held[sample.label]
            share = self.train_config.validation_share
            if share > 0 and seen >= 6 and held < max(share * seen, 2):
                self._held[sample.label] += 1
                self.validation[sample.sample_id] = sample
            elif new:
                self.pending.append(sample)
            else:
                self.replay.add(sample)
        del self._prequential[: -10 * PREQUENTIAL_WINDOW]

    def add_exemplars(self, samples: list[Sample]) -> None:
        """Take samples that the deployed model was fitted to: for replay, not for the gate."""
        for sample in samples:
            self.replay.add(sample)

    def set_live(self, update: State, classes: tuple[str, ...], version: int) -> None:
        """
        Take over the version that the robot now runs; training goes on from it.

        :param update: tensors that differ from the base weights
        :raises WeightsError: when they do not fit
        """
        state = {**self.base_state, **update}
        self.live.load_state(state, classes)
        self.live.eval()
        mine = self.training.state()
        same = self.training.classes == classes and not difference(state, mine)
        if not same:  # a roll-back, a swap by hand, or a candidate that was refused
            self.training.load_state(state, classes)
            self._optimiser = make_optimiser(self.training, self.train_config)
            # What the lost round learned is new again.
            waiting = {s.sample_id for s in self.pending}
            self.pending = [s for s in self._last_new if s.sample_id not in waiting] + self.pending
        self._last_new = []
        self.version = version

    def set_scenario(self, scenario: int) -> None:
        """Note a scenario change: probes are drawn anew and frozen blocks may thaw."""
        if scenario != self.scenario:
            self.scenario = scenario
            self._probe = None
            self.sim_freeze.on_scenario_change()

    def accuracy(self, correct: dict[str, bool]) -> float:
        """
        Return the accuracy in the current scenario: validation samples and recent outcomes as
        predicted live.

        :param correct: outcome by sample id on the validation samples
        """
        held = [
            ok for key, ok in correct.items() if self.validation[key].scenario == self.scenario
        ]
        seen = [ok for scenario, ok in self._prequential if scenario == self.scenario][
            -PREQUENTIAL_WINDOW:
        ]
        outcomes = held + seen
        return sum(outcomes) / len(outcomes) if outcomes else math.nan

    def run_round(
        self, cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Step | RoundResult]:
        """
        Fine-tune on all pending samples.

        :param cancelled: asked before each training batch
        :return: an iterator over steps that ends with the result
        :raises RoundCancelled: when asked to stop; the training model is put back and the samples
            stay pending
        """
        began = time.perf_counter()
        new = list(self.pending)
        before = {k: v.clone() for k, v in self.training.state_dict().items()}
        classes = self.training.classes
        probe_seconds, loss, iterations, since_probe = 0.0, math.nan, 0, 0
        try:
            self._add_new_classes(new)
            probe_seconds += self._freeze_by_probe(0)
            if new:
                steps = train_round(
                    self.training,
                    self._optimiser,
                    new,
                    self.replay,
                    self.scenario,
                    self.train_config,
                    self._rng,
                )
                for step in steps:
                    iterations, loss, since_probe = step.iteration, step.loss, since_probe + 1
                    yield step
                    if cancelled():
                        raise RoundCancelled
                    if since_probe >= self.sim_freeze.config.freeze_interval:
                        probe_seconds += self._freeze_by_probe(since_probe)
                        since_probe = 0
        except BaseException:
            self.training.load_state({k: v.cpu().numpy() for k, v in before.items()}, classes)
            self._optimiser = make_optimiser(self.training, self.train_config)
            raise
        self.training.eval()
        for sample in new:
            self.replay.add(sample)
        self._last_new = new
        done = {s.sample_id for s in new}
        self.pending = [s for s in self.pending if s.sample_id not in done]
        started = time.perf_counter()
        outcomes = self._validate()
        validation_seconds = time.perf_counter() - started
        yield RoundResult(
            update=difference(self.base_state, self.training.state()),
            classes=self.training.classes,
            parent=self.version,
            frozen=tuple(n for n in self.training.unit_names if n in self.sim_freeze.frozen),
            cka=dict(self.sim_freeze.cka),
            outcomes=outcomes,
            iterations=iterations,
            new_samples=len(new),
            loss=loss,
            seconds=time.perf_counter() - began,
            probe_seconds=probe_seconds,
            validation_seconds=validation_seconds,
            accuracy=self.accuracy({o.sample_id: o.candidate_correct for o in outcomes}),
            accuracy_before=self.accuracy({o.sample_id: o.live_correct for o in outcomes}),
        )

    def _add_new_classes(self, new: list[Sample]) -> None:
        """
        Give each label that has no head row yet one that already recognises its samples.

        The row points from the mean feature of the other samples to that of its own. Its scale and
        bias are such that its logit lies `IMPRINT_MARGIN` above the best known one on its own mean
        and as much below it on the mean of the others.
        """
        known = set(self.training.classes)
        every = [
            *self.replay.samples,
            *new,
        ]  # a roll-back forgets classes
        labels = [label for label in dict.fromkeys(s.label for s in every) if label not in known]
        if not labels:
            return
        self.training.eval()
        for label in labels:
            own = self._features(self.training, [s for s in every if s.label == label][-32:])
            rest = [s for s in every[-64 - len(new) :] if s.label != label]
            others = self._features(self.training, rest) if rest else torch.zeros_like(own)
            direction = own.mean(dim=0) - others.mean(dim=0)
            gap = direction.norm().clamp_min(1e-6)
            direction = direction / gap
            high = low = 0.0
            if self.training.classes:
                with torch.no_grad():
                    high, low = (
                        float(self.training.head(x).max(dim=1).values.mean())
                        for x in (own, others)
                    )
            top = high + IMPRINT_MARGIN
            scale = max((top - (low - IMPRINT_MARGIN)) / float(gap), 1e-3)
            bias = top - scale * float(direction @ own.mean(dim=0))
            self.training.add_class(label, scale * direction, bias)
        grow_optimiser(self._optimiser, self.training)

    def _features(self, model: Classifier, samples: list[Sample]) -> Tensor:
        with torch.inference_mode():
            parts = [
                model.features(model.tensor(s.image for s in samples[i : i + 32]))
                for i in range(0, len(samples), 32)
            ]
        return torch.cat(parts).clone()

    def predictions(self, model: Classifier, samples: list[Sample]) -> list[str]:
        """Return the label that a model gives each sample; empty without classes."""
        if not model.classes or not samples:
            return [''] * len(samples)
        with torch.inference_mode():
            best = model.head(self._features(model, samples)).argmax(dim=1).tolist()
        return [model.classes[i] for i in best]

    def _validate(self) -> list[Outcome]:
        """Predict the validation samples with the live and the training model."""
        held = sorted(self.validation.values(), key=lambda s: s.scenario == self.scenario)[
            -VALIDATION_WINDOW:
        ]
        live, candidate = self.predictions(self.live, held), self.predictions(self.training, held)
        return [
            Outcome(s.sample_id, s.label, s.scenario, was == s.label, now == s.label)
            for s, was, now in zip(held, live, candidate)
        ]

    def _freeze_by_probe(self, iterations: int) -> float:
        """
        Measure every block's CKA, let SimFreeze decide and apply it; return the seconds it took.
        """
        started = time.perf_counter()
        config = self.sim_freeze.config
        if config.enabled:
            if self._probe is None:
                here = [
                    s for s in self.pending + self.replay.samples if s.scenario == self.scenario
                ][-config.probe_size :]
                if len(here) >= 8:
                    self._probe = _Probe(self.reference.tensor(s.image for s in here))
                    self._probe.reference = unit_grams(self.reference, self._probe.batch)
            if self._probe is not None:
                was_training = self.training.training
                self.training.eval()
                now = unit_grams(self.training, self._probe.batch)
                cka = {
                    name: cka_of_grams(now[name], g, config.debiased)
                    for name, g in self._probe.reference.items()
                }
                self.sim_freeze.on_probe(cka, iterations)
                self.training.train(was_training)
        apply_frozen(self.training, self.sim_freeze.frozen, self._optimiser)
        return time.perf_counter() - started


def unit_grams(model: Classifier, batch: Tensor) -> dict[str, Tensor]:
    """
    Return the Gram matrix (n, n) of each block's output on a batch, in one forward pass that keeps
    no activation.
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
            model.features(batch)
    finally:
        for handle in hooks:
            handle.remove()
    return grams
