# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the worker process does, without the process: live and training model, replay, instant head,
rounds, probes, candidates.

The benchmark and the tests drive it directly; `etuner_ros.worker` drives it over a pipe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import copy
from dataclasses import dataclass, field, replace
import math
import time

import numpy as np
import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.cost import counted_as, DECODE, OTHER, PROBE, VALIDATION
from etuner_ros.core.cost import HEAD as HEAD_PART
from etuner_ros.core.decide.cka import cka_of_grams, gram
from etuner_ros.core.decide.gate import Outcome
from etuner_ros.core.decide.scenario import compressed
from etuner_ros.core.decide.sim_freeze import SimFreeze
from etuner_ros.core.errors import LearnerError
from etuner_ros.core.images.codec import Image
from etuner_ros.core.learn.activation_cache import ActivationCache, digest, same_values
from etuner_ros.core.learn.instant_head import InstantHead, Unlabelled
from etuner_ros.core.learn.label_prior import LabelPrior
from etuner_ros.core.learn.replay import Replay, Sample
from etuner_ros.core.learn.simsiam import SimSiam
from etuner_ros.core.learn.trainer import (
    augment,
    Chosen,
    grow_optimiser,
    make_optimiser,
    precision,
    Step,
    train_round,
    view,
)
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.freezing import apply_frozen
from etuner_ros.core.models.networks import Classifier
from etuner_ros.core.models.weights import difference, HEAD_TENSORS, State

VALIDATION_WINDOW = 200  # held-back samples that the gate looks at, the current scenario's first
MOST_LEARNED = 5000  # samples whose label the head can take back exactly, at 8 KB each
MOST_REFRESHED = 20  # frames without a label that are kept over a round
MOST_REFITTED = 500  # labels between rounds; with more, frames without one add little
MOST_HELD = 1000  # held-back samples that are kept at all
# Corrected frames whose outcome, as predicted live, counts towards the accuracy.
PREQUENTIAL_WINDOW = 40
APPEARANCE_SAMPLES = 32  # that the move of the appearance by a round is measured on
LEAST_PROBE = 8  # images; with fewer of the current scenario nothing is probed
LEAST_BATCH = 2


class RoundCancelled(Exception):
    """The round was asked to stop; nothing was kept of it."""


@dataclass(frozen=True)
class RoundResult:
    """A candidate and what it took to make it; `iterations` is 0 when only the head is new."""

    update: State  # tensors that differ from the base weights
    classes: tuple[str, ...]
    parent: int  # version that is live and was compared with
    frozen: tuple[str, ...]
    cka: dict[str, float]
    outcomes: list[Outcome]
    iterations: int
    new_samples: int
    loss: float
    seconds: float  # the whole round
    probe_seconds: float
    head_seconds: float  # features and instant head
    validation_seconds: float
    accuracy: float  # validation and prequential, current scenario, in [0, 1]; NaN when unknown
    accuracy_before: float
    appearance_move: tuple[float, ...] = ()  # from the parent's; empty when there is none


@dataclass
class _Probe:
    """The fixed probe batch of a scenario and the Gram matrices of every block on it."""

    samples: list[Sample]
    reference: dict[str, Tensor]
    last: dict[str, Tensor] = field(default_factory=dict)  # of the training model


@dataclass(frozen=True)
class _Learned:
    """How a head learned a sample."""

    label: str
    weight: float
    scenario: int


@dataclass
class _HeadState:
    """The instant head with the features that it was made from; valid for one backbone."""

    head: InstantHead
    features: dict[str, Tensor] = field(default_factory=dict)  # by sample id, (D,) float32
    learned: dict[str, _Learned] = field(default_factory=dict)  # by sample id


class Learner:
    """
    Holds the models and samples of one robot's tuning.

    Three models: `live` mirrors what the robot runs, `training` is changed by rounds, `reference`
    is the deployed one. Between rounds live and training share their backbone; their heads differ:
    what is served is the instant head, what gradients flow through is the trained one.

    :param base: the deployed model; it is copied
    :param follow_appearance: measure how far each round moves the appearance of frames, which the
        detector of scenarios needs when it looks through the live model
    """

    def __init__(
        self,
        base: Classifier,
        train: TrainConfig | None = None,
        sim_freeze: SimFreezeConfig | None = None,
        head: HeadConfig | None = None,
        follow_appearance: bool = True,
    ) -> None:
        self._follow_appearance = follow_appearance
        config = self.train_config = train or TrainConfig()
        self.head_config = head or HeadConfig()
        self.base_state = base.state()
        self.reference = copy.deepcopy(base).eval()
        self.live = copy.deepcopy(base).eval()
        self.training = copy.deepcopy(base).channels_last()
        self.training.batchnorm_statistics = config.batchnorm_statistics
        self.version = 0
        self.scenario = 0
        self.sim_freeze = SimFreeze(base.unit_names, sim_freeze)
        self.replay = Replay(int(config.replay_mb * 1e6), config.seed)
        self.validation: dict[str, Sample] = {}
        self.pending: list[Sample] = []
        self._last_new: list[Sample] = []
        self._held: dict[str, bool] = {}  # whether a sample is held back, by id
        self._counts = Counter[tuple[str, bool]]()  # by label and whether held back
        self._prequential: list[tuple[int, bool]] = []
        self._rng = np.random.default_rng(config.seed)
        self._simsiam: SimSiam | None = None
        if config.unlabelled_weight > 0:
            device = base.head.weight.device
            self._simsiam = SimSiam(base.feature_size).to(device)
        self._unlabelled = UnlabelledFrames(config.unlabelled_frames, config.seed)
        self._optimiser = self._make_optimiser()
        self._probe: _Probe | None = None
        self.cuts = Cuts(self.training.backbone, self.training.units)
        self._live_cuts = Cuts(self.live.backbone, self.live.units)
        self.cache = ActivationCache(
            self.training, self.cuts, int(config.cache_mb * 1e6), config.cache_precision
        )
        self.prior = LabelPrior(self.head_config)
        self._noted: dict[str, str] = {}  # labels that the prior knows, by sample id
        self._offered: dict[bytes, Tensor] = {}  # prior in the biases that were proposed last
        self._live_prior = torch.zeros(len(base.classes))
        self._passing: dict[str, Tensor] = {}  # features of this round's last pass, by sample id
        self._served = self._new_head()
        self._proposed: tuple[RoundResult, _HeadState | None] | None = None
        self._live_update: State = {}
        self._backbones = {0: 0}  # which backbone each version has
        self._in_round = False
        self._head_is_new = False  # something was learned since the live head was made
        apply_frozen(self.training, self.sim_freeze.frozen)
        self.cache.follow()

    def _make_optimiser(self) -> torch.optim.Optimizer:
        return make_optimiser(self.training, self.train_config, self._simsiam)

    def _new_head(self) -> _HeadState:
        return _HeadState(InstantHead(self.training.feature_size, self.head_config))

    @property
    def input_size(self) -> int:
        """Side of the network's square input, in px."""
        return self.live.spec.input_size

    @property
    def waits_for_verdict(self) -> bool:
        """Whether a round has ended whose candidate is neither live nor given up."""
        return self._proposed is not None

    @property
    def instant(self) -> InstantHead:
        """The instant head on the features of the live backbone."""
        return self._served.head

    # Samples

    def add_samples(self, samples: list[Sample], new: bool = True) -> None:
        """
        Take labelled samples.

        A share is held back for validation, at least two of a class that has six; those are never
        trained on. The rest is learned by the instant head now and in the next round, or with
        `new=False` (seen in an earlier life) only replayed.
        """
        for sample in samples:
            if new:
                self._note_label(sample.sample_id, sample.label)
            if new and sample.predicted:
                self._prequential.append((sample.scenario, sample.predicted == sample.label))
            self.pending = [s for s in self.pending if s.sample_id != sample.sample_id]
            if sample.sample_id in self.replay:  # trained on, so never a validation sample
                self._forget_views(sample.sample_id)
                self.replay.add(sample)
            elif self._holds_back(sample.sample_id, sample.label):
                self.validation[sample.sample_id] = sample
            elif new:
                self.pending.append(sample)
            else:
                self.replay.add(sample)
            self._unlabelled.discard(sample.sample_id)
        del self._prequential[: -10 * PREQUENTIAL_WINDOW]
        for key in list(self.validation)[:-MOST_HELD]:
            del self.validation[key]
        self._learn_instantly([s for s in samples if s.sample_id not in self.validation])
        if new:
            self._learn_unlabelled()

    def withdraw(self, sample_ids: Iterable[str]) -> None:
        """Forget samples: what was said of them was taken back, or people disagree."""
        for sample_id in sample_ids:
            self._forget_views(sample_id)
            self.replay.discard(sample_id)
            self.validation.pop(sample_id, None)
            self._noted.pop(sample_id, None)
            for waiting in (self.pending, self._last_new):
                waiting[:] = [s for s in waiting if s.sample_id != sample_id]
            for state in self._head_states():
                if sample_id in state.learned:
                    old = state.learned.pop(sample_id)
                    state.head.unlearn(state.features[sample_id], old.label, old.weight)
                    self._head_is_new = True

    def rename(self, label: str, new_label: str) -> None:
        """
        Call a label otherwise in all samples, exemplars included; two of one name are merged.

        The old class stays a row of the head that is never said, as it has no sample.
        """
        for sample in [s for s in self.replay.samples if s.label == label]:
            self.replay.add(replace(sample, label=new_label))
        for waiting in (self.pending, self._last_new):
            waiting[:] = [replace(s, label=new_label) if s.label == label else s for s in waiting]
        for key, sample in self.validation.items():
            if sample.label == label:
                self.validation[key] = replace(sample, label=new_label)
        self.prior.rename(label, new_label)
        for key in [k for k, said in self._noted.items() if said == label]:
            self._noted[key] = new_label
        for state in self._head_states():
            for key, old in list(state.learned.items()):
                if old.label != label:
                    continue
                self._teach(state, key, new_label, old.scenario)
                self._head_is_new = True

    def _head_states(self) -> list[_HeadState]:
        """Return the head that is served, and the one whose candidate waits for its verdict."""
        proposed = self._proposed[1] if self._proposed else None
        return [self._served] if proposed is None else [self._served, proposed]

    def add_exemplars(self, samples: list[Sample]) -> None:
        """Take samples that the deployed model was fitted to: for replay, not for the gate."""
        for sample in samples:
            self.replay.add(sample)
        self._learn_instantly(samples)
        self._head_is_new = False  # the deployed head knows them

    @property
    def wants_unlabelled(self) -> bool:
        """Whether frames that nobody labelled are learned from, by the head or in rounds."""
        return self._head_uses_unlabelled or self._simsiam is not None

    @property
    def _head_uses_unlabelled(self) -> bool:
        return self.head_config.enabled and self.head_config.unlabelled_weight > 0

    def add_unlabelled(
        self,
        samples: list[Sample],
        features: Mapping[str, Tensor] | None = None,
        version: int | None = None,
    ) -> None:
        """
        Take frames that nobody labelled, each with the scenario that it was seen in.

        The head learns from them with the next labels, where that is switched on.

        :param features: those that are known, (D,) by sample id
        :param version: whose backbone made the features; None for the live one
        """
        if not self.wants_unlabelled:
            return
        known = features or {}
        if version is not None and not self._has_live_backbone(version):
            known = {}
        for sample in samples:
            if sample.sample_id in self._held:  # it is labelled
                continue
            row = known.get(sample.sample_id)
            if row is not None and self._fits(row):
                self._served.features[sample.sample_id] = row
            gone = self._unlabelled.add(sample)
            if gone:
                self._forget_unlabelled(gone)

    def _forget_unlabelled(self, sample_id: str) -> None:
        """Drop what was computed of a frame that made room for another."""
        self._forget_views(sample_id)
        for state in self._head_states():
            if sample_id not in state.learned:
                state.features.pop(sample_id, None)

    def _note_label(self, sample_id: str, label: str) -> None:
        """Tell the prior of a label, once."""
        if self._noted.get(sample_id) != label:
            self._noted[sample_id] = label
            self.prior.on_label(label)
            for key in list(self._noted)[: -10 * MOST_HELD]:
                del self._noted[key]

    def _holds_back(self, sample_id: str, label: str) -> bool:
        """Decide once for each sample whether it is held back for validation."""
        if sample_id not in self._held:
            share = self.train_config.validation_share
            held = self._counts[label, True]
            seen = held + self._counts[label, False] + 1
            hold = share > 0 and seen >= 6 and held < max(share * seen, 2)
            self._counts[label, hold] += 1
            self._held[sample_id] = hold
            for key in list(self._held)[: -100 * MOST_HELD]:
                del self._held[key]
        return self._held[sample_id]

    def _forget_views(self, sample_id: str) -> None:
        for index in range(self.train_config.views):
            self.cache.discard((sample_id, index))

    def foresee(self, samples: list[Sample]) -> tuple[list[str], dict[str, Tensor]]:
        """
        Do what the robot does when it predicts frames, before anybody labels them.

        What it makes on the way is kept: the activation at the frozen border goes to the cache.

        :return: the labels said, and the features (D,) of the live backbone by sample id
        """
        live = self.live
        border = self.cache.border
        said: list[str] = []
        features: dict[str, Tensor] = {}
        for start in range(0, len(samples), 32):
            part_of = samples[start : start + 32]
            x = self._tensor([s.image for s in part_of])
            with torch.inference_mode():
                middle = self._live_cuts.run(x, 0, border)
                rows = self._live_cuts.run(middle, border).flatten(1)
                best = live.head(rows).argmax(dim=1).tolist() if live.classes else []
            said += [live.classes[i] for i in best] if best else [''] * len(part_of)
            for index, sample in enumerate(part_of):
                features[sample.sample_id] = rows[index].clone()
                if border:
                    self.cache.offer((sample.sample_id, 0), middle[index], live.units)
        return said, features

    # The instant head

    def _has_live_backbone(self, version: int) -> bool:
        return self._backbones.get(version, -1) == self._backbones[self.version]

    def _fits(self, feature: Tensor) -> bool:
        return feature.shape == (self.live.feature_size,) and bool(torch.isfinite(feature).all())

    def correct(
        self,
        sample_id: str,
        label: str,
        feature: Tensor,
        version: int,
        scenario: int | None = None,
    ) -> bool:
        """
        Learn a correction at once, from the feature that was computed with the prediction.

        :param feature: (D,), of the backbone of `version`
        :param scenario: that the frame was seen in; None for the current one
        :return: False when it is held back for validation, or of another backbone than the live
            one; it is then learned when its picture comes
        """
        usable = (
            self.head_config.enabled and self._has_live_backbone(version) and self._fits(feature)
        )
        if not usable:
            return False
        self._note_label(sample_id, label)
        self._unlabelled.discard(sample_id)
        if sample_id not in self.replay and self._holds_back(sample_id, label):
            return False
        # A feature that was learned from already is needed unchanged, to take the label back.
        self._served.features.setdefault(sample_id, feature.float())
        with counted_as(HEAD_PART):
            scenario = self.scenario if scenario is None else scenario
            self._teach(self._served, sample_id, label, scenario)
        return True

    def _teach(self, state: _HeadState, sample_id: str, label: str, scenario: int) -> None:
        """Have a head learn a sample, or its new label, once."""
        feature = state.features[sample_id]
        if sample_id in state.learned:
            old = state.learned[sample_id]
            if old.label == label:
                return
            state.head.unlearn(feature, old.label, old.weight)
        weight = state.head.learn(feature, label)
        state.learned[sample_id] = _Learned(label, weight, scenario)
        # Without rounds a head is never made anew, and a robot may run for months.
        while len(state.learned) > MOST_LEARNED:
            oldest = next(iter(state.learned))
            del state.learned[oldest], state.features[oldest]
        # What the live head says already need not be sent; it goes with the next update.
        self._head_is_new |= self._says(feature) != label

    def _says(self, feature: Tensor) -> str:
        """Return what the live head makes of a feature."""
        head = self.live.head
        if not self.live.classes:
            return ''
        with torch.no_grad():
            return self.live.classes[int(head(feature.to(head.weight)).argmax())]

    def _learn_instantly(self, samples: list[Sample]) -> None:
        """Have the served head learn samples; features that are not known yet are computed."""
        if not self.head_config.enabled or not samples or self._in_round or self._proposed:
            return  # the training backbone is not the live one
        with counted_as(HEAD_PART):
            if not self._served.learned:
                self._served = self._fit_head(samples)
                self._head_is_new = True
                return
            self._fill(self._served, samples)
            for sample in samples:
                self._teach(self._served, sample.sample_id, sample.label, sample.scenario)

    def _learn_unlabelled(self) -> None:
        """Make the served head anew from what it has learned and from frames without a label."""
        state = self._served
        if not (self._head_uses_unlabelled and state.learned and len(self._unlabelled)):
            return
        if self._in_round or self._proposed:
            return  # the training backbone is not the live one; the round's head learns from them
        known = [(key, x.label, x.scenario) for key, x in state.learned.items()]
        # A class whose last label was taken back stays a class; a head made anew would lose it.
        whole = {label for _, label, _ in known} == set(state.head.classes)
        if len(known) <= MOST_REFITTED and whole:
            with counted_as(HEAD_PART):
                self._solve(state, known, again=True)
            self._head_is_new = True

    def _solve(
        self, state: _HeadState, samples: Sequence[tuple[str, str, int]], again: bool = False
    ) -> None:
        """
        Make a head from samples (id, label, scenario) with known features, and from frames without
        a label.

        :param again: it has learned these samples before
        """
        rows = torch.stack([state.features[key] for key, _, _ in samples])
        labels = [label for _, label, _ in samples]
        unlabelled = None
        if self._head_uses_unlabelled and len(self._unlabelled):
            frames = self._unlabelled.samples
            self._fill(state, frames)
            unlabelled = Unlabelled(
                torch.stack([state.features[f.sample_id] for f in frames]),
                [f.scenario for f in frames],
                [scenario for _, _, scenario in samples],
            )
        if again and unlabelled is not None:
            weights = state.head.relearn(rows, labels, unlabelled)
        else:
            weights = state.head.rebuild(rows, labels, unlabelled=unlabelled)
        state.learned = {
            key: _Learned(label, weight, scenario)
            for (key, label, scenario), weight in zip(samples, weights)
        }

    def _fill(self, state: _HeadState, samples: list[Sample]) -> None:
        """Compute the features of samples that have none yet."""
        missing = [s for s in samples if s.sample_id not in state.features]
        if missing:
            for sample, row in zip(missing, self._features(missing)):
                state.features[sample.sample_id] = row

    def _fit_head(
        self, samples: list[Sample], known: Mapping[str, Tensor] | None = None
    ) -> _HeadState:
        """
        Return an instant head for the training backbone, from scratch.

        :param known: features by sample id that need not be computed
        """
        state = self._new_head()
        state.features.update(known or {})
        unique = {s.sample_id: s for s in samples}
        kept = list(unique.values())
        self._fill(state, kept)
        self._solve(state, [(s.sample_id, s.label, s.scenario) for s in kept])
        return state

    def _head_samples(self) -> list[Sample]:
        """Samples that a head is rebuilt from: the newest of each class, equally many at most."""
        by_label: dict[str, list[Sample]] = {}
        for sample in [*self.replay.samples, *self.pending]:
            by_label.setdefault(sample.label, []).append(sample)
        quota = max(1, self.head_config.max_samples // max(len(by_label), 1))
        # What this round has passed costs nothing; then the newest.
        return [
            s
            for group in by_label.values()
            for s in sorted(group, key=lambda s: s.sample_id in self._passing)[-quota:]
        ]

    def _served_head(
        self, state: _HeadState, classes: tuple[str, ...], trained: Classifier
    ) -> tuple[Tensor, Tensor]:
        """
        Return weight (C, D) and bias (C,) to serve: those of the instant head, or of the trained
        one as long as there are classes that the instant head has no sample of.
        """
        if self.head_config.enabled and set(classes) <= set(state.head.classes):
            return state.head.linear(classes)
        return trained.head.weight.detach().cpu(), trained.head.bias.detach().cpu()

    def _head_rows(self, weight: Tensor, bias: Tensor, classes: tuple[str, ...]) -> State:
        """Return the head as it is served: with the prior of the classes, which is noted."""
        prior = self.prior.offsets(classes) if self.head_config.enabled else 0.0 * bias
        served = (bias + prior).numpy().copy()
        self._offered[served.tobytes()] = prior
        for old in list(self._offered)[:-4]:
            del self._offered[old]
        return {HEAD_TENSORS[0]: weight.numpy().copy(), HEAD_TENSORS[1]: served}

    def propose_head(self) -> RoundResult | None:
        """
        Return a candidate with the live backbone and the instant head as it is now.

        :return: None when nothing was learned since the last one that the live head does not say
            already, or the head does not know all classes of the live model yet
        """
        started = time.perf_counter()
        live, head = self.live, self._served.head
        known = set(head.classes)
        if not self._head_is_new or not set(live.classes) <= known or not head.classes:
            return None
        new = tuple(c for c in head.classes if c not in live.classes)
        classes = (*live.classes, *new)
        weight, bias = head.linear(classes)
        self._head_is_new = False
        rows = self._head_rows(weight, bias, classes)
        fitted = time.perf_counter()
        with counted_as(VALIDATION):
            outcomes = self._validate(self._served, weight, bias, classes)
        ended = time.perf_counter()
        result = RoundResult(
            update={**self._live_update, **rows},
            classes=classes,
            parent=self.version,
            frozen=tuple(n for n in live.unit_names if n in self.sim_freeze.frozen),
            cka=dict(self.sim_freeze.cka),
            outcomes=outcomes,
            iterations=0,
            new_samples=len(self.pending),
            loss=math.nan,
            seconds=ended - started,
            probe_seconds=0.0,
            head_seconds=fitted - started,
            validation_seconds=ended - fitted,
            accuracy=self.accuracy({o.sample_id: o.candidate_correct for o in outcomes}),
            accuracy_before=self.accuracy({o.sample_id: o.live_correct for o in outcomes}),
        )
        return result

    # What is live

    def is_head_only(self, update: State) -> bool:
        """Return whether weights differ from the live ones in nothing but the head."""
        new, live = (
            {k: v for k, v in u.items() if k not in HEAD_TENSORS}
            for u in (update, self._live_update)
        )
        return _same(new, live)

    def set_live(self, update: State, classes: tuple[str, ...], version: int) -> None:
        """
        Take over the version that the robot now runs; training goes on from it.

        :param update: tensors that differ from the base weights
        :raises WeightsError: when they do not fit
        :raises LearnerError: when a round runs and more than the head changes
        """
        state = {**self.base_state, **update}
        head_only = self.is_head_only(update)
        if self._in_round and not head_only:
            raise LearnerError('other weights can not be taken over while a round runs')
        self.live.load_state(state, classes)
        self.live.eval()
        self._live_update = update
        bias = state[HEAD_TENSORS[1]]
        self._live_prior = self._offered.get(bias.tobytes(), torch.zeros(len(bias)))
        backbone = self._backbones[self.version]
        proposed, self._proposed = self._proposed, None
        if self._in_round:
            self._proposed = proposed
        elif proposed and _same(proposed[0].update, update):
            backbone = max(self._backbones.values()) + 1
            if proposed[1] is not None:
                self._served = proposed[1]
            self._head_is_new = False
            self._last_new = []
            self.sim_freeze.accepted = True
        elif not head_only or proposed:
            # A roll-back, a swap by hand, or a candidate that was refused.
            self._reset_training(state, classes)
            # What the lost round learned is new again, unless the instant head knows it: then
            # replay has it, and trying the same again would cost the same again.
            if not self.head_config.enabled:
                waiting = {s.sample_id for s in self.pending}
                lost = [s for s in self._last_new if s.sample_id not in waiting]
                self.pending = lost + self.pending
            self._last_new = []
            if not head_only:
                backbone = max(self._backbones.values()) + 1
                self._served = self._new_head()
                self._learn_instantly(self._head_samples())
        self._backbones[version] = backbone
        for old in sorted(self._backbones)[:-1000]:
            del self._backbones[old]
        self.version = version
        self._learn_instantly(self.pending)  # what came while a candidate waited

    @property
    def batch_size(self) -> int:
        """Images in a training batch."""
        return self.train_config.batch_size

    def halve_batches(self) -> bool:
        """
        Train in batches of half the size from now on, after memory ran out.

        :return: False when they are of two images already, one new and one replayed
        """
        if self.batch_size <= LEAST_BATCH:
            return False
        self.train_config = replace(
            self.train_config, batch_size=max(LEAST_BATCH, self.batch_size // 2)
        )
        self.cache.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return True

    def go_back(self) -> None:
        """Give up the candidate that was proposed last; training goes on from what is live."""
        self.set_live(self._live_update, self.live.classes, self.version)

    def _reset_training(self, state: State, classes: tuple[str, ...]) -> None:
        """Put other weights into the training model; nothing that was made with the old stays."""
        self.training.load_state(state, classes)
        self.training.eval()
        self._optimiser = self._make_optimiser()
        if self._probe is not None:
            self._probe.last = {}
        self.cache.follow()

    def set_scenario(self, scenario: int) -> None:
        """Note a scenario change: probes are drawn anew and frozen blocks may thaw."""
        if scenario != self.scenario:
            self.scenario = scenario
            self._probe = None
            self.prior.on_scenario_change()
            self.sim_freeze.on_scenario_change()

    def set_frozen(self, names: Iterable[str], keep_state: bool = False) -> None:
        """
        Freeze exactly these blocks now, between two training batches or two rounds.

        For other rules than SimFreeze, which must be switched off then.

        :param keep_state: the optimiser keeps its moments of frozen blocks
        """
        self.sim_freeze.set_layers(names, self.sim_freeze.pinned)
        optimiser = None if keep_state else self._optimiser
        apply_frozen(self.training, self.sim_freeze.frozen, optimiser)
        self.cache.follow()

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

    # Rounds

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
        self._in_round = True
        self._passing = {}
        try:
            self._prepare_head(new)
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
                    self._logits,
                    self._unlabelled_loss if self._simsiam and len(self._unlabelled) > 1 else None,
                )
                for step in steps:
                    iterations, loss, since_probe = step.iteration, step.loss, since_probe + 1
                    yield step
                    if cancelled():
                        raise RoundCancelled
                    enabled = self.sim_freeze.config.enabled
                    if enabled and since_probe >= self.sim_freeze.config.freeze_interval:
                        probe_seconds += self._freeze_by_probe(since_probe)
                        since_probe = 0
            self.training.eval()
            started = time.perf_counter()
            with counted_as(HEAD_PART):
                state = self._fit_round_head(new) if self.head_config.enabled else None
            with counted_as(OTHER):
                move = self._appearance_move(new) if self._follow_appearance else ()
            head_seconds = time.perf_counter() - started
        except BaseException:
            self._reset_training({k: v.cpu().numpy() for k, v in before.items()}, classes)
            raise
        finally:
            self._in_round = False
        for sample in new:
            self.replay.add(sample)
        self._last_new = new
        done = {s.sample_id for s in new}
        self.pending = [s for s in self.pending if s.sample_id not in done]
        started = time.perf_counter()
        weight, bias = self._served_head(
            state or self._served, self.training.classes, self.training
        )
        weight, bias = self._with_late_classes(weight, bias)
        candidate = {
            **self.training.state(),
            **self._head_rows(weight, bias, self.training.classes),
        }
        with counted_as(VALIDATION):
            outcomes = self._validate(
                state or self._new_head(), weight, bias, self.training.classes
            )
        ended = time.perf_counter()
        result = RoundResult(
            update=difference(self.base_state, candidate),
            classes=self.training.classes,
            parent=self.version,
            frozen=tuple(n for n in self.training.unit_names if n in self.sim_freeze.frozen),
            cka=dict(self.sim_freeze.cka),
            outcomes=outcomes,
            iterations=iterations,
            new_samples=len(new),
            loss=loss,
            seconds=ended - began,
            probe_seconds=probe_seconds,
            head_seconds=head_seconds,
            validation_seconds=ended - started,
            accuracy=self.accuracy({o.sample_id: o.candidate_correct for o in outcomes}),
            accuracy_before=self.accuracy({o.sample_id: o.live_correct for o in outcomes}),
            appearance_move=move,
        )
        self._proposed = (result, state)
        yield result

    def _prepare_head(self, new: list[Sample]) -> None:
        """
        Give the trained head a row for each label that it lacks, taken from the instant head.

        The rows that it has stay its own. Starting all of them from the instant head, which fits
        the features already, was tried: gradients become small, the features improve less, and
        the served head is the instant one anyway.
        """
        known = set(self.training.classes)
        labels = [*self.live.classes, *(s.label for s in self.replay.samples)]
        labels += [s.label for s in new]
        head = self._served.head
        for label in [n for n in dict.fromkeys(labels) if n not in known]:
            if self.head_config.enabled and label in head.counts and len(head.classes) > 1:
                weight, bias = head.linear([label])
                self.training.add_class(label, weight[0], float(bias[0]))
            else:
                self.training.add_class(label)
        grow_optimiser(self._optimiser, self.training)

    def _with_late_classes(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """
        Append the rows of classes that corrections brought while the round ran.

        Their pictures have not come yet, so the rows are those of the features before the round.
        """
        late = [c for c in self.live.classes if c not in self.training.classes]
        if not late:
            return weight, bias
        rows, offsets = self._served.head.linear(late)
        for label, row, offset in zip(late, rows, offsets):
            self.training.add_class(label, row, float(offset))
        grow_optimiser(self._optimiser, self.training)
        return torch.cat([weight, rows]), torch.cat([bias, offsets])

    def _fit_round_head(self, new: list[Sample]) -> _HeadState:
        """Return the instant head for the backbone that a round made."""
        samples = {s.sample_id: s for s in [*self._head_samples(), *new]}
        if self._head_uses_unlabelled and self._simsiam is None:
            # Their features have to be computed anew; those of frames to come are free.
            for gone in self._unlabelled.thin(MOST_REFRESHED):
                self._forget_unlabelled(gone)
        return self._fit_head(list(samples.values()), self._passing)

    def _appearance_move(self, new: list[Sample]) -> tuple[float, ...]:
        """
        Return how far this round moved the appearance of the same samples, on average.

        :return: in the `compressed` values that scenario changes are found from; empty when the
            blocks up to the middle one are as they were
        """
        first = self.live.middle + 1
        pairs = zip(self.live.units[:first], self.training.units[:first])
        if all(digest(old) == digest(new) for old, new in pairs):
            return ()
        # The newest of the current scenario; few of them are made up for by others.
        everything = [*self.replay.samples, *new]
        samples = sorted(everything, key=lambda s: s.scenario == self.scenario)
        samples = samples[-APPEARANCE_SAMPLES:]
        if not samples:
            return ()
        images = [s.image for s in samples]
        means = []
        for model in (self.live, self.training):
            rows = model.appearance(model.tensor(images)).double().cpu().numpy()
            means.append(compressed(rows).mean(axis=0))
        return tuple(float(v) for v in means[1] - means[0])

    def _activations(self, chosen: Chosen) -> Tensor:
        """Return the activations of views at the cache's border, on the training model."""

        def images(positions: Sequence[int]) -> Tensor:
            seed = self.train_config.seed
            with counted_as(DECODE):
                return self._tensor([view(*chosen[p], seed) for p in positions])

        return self.cache.fetch([(s.sample_id, index) for s, index in chosen], images)

    def _tensor(self, images: Sequence[Image]) -> Tensor:
        return self.training.tensor(images).contiguous(memory_format=torch.channels_last)

    def _logits(self, chosen: Chosen) -> Tensor:
        """Run the training model on views, with gradient behind the frozen prefix."""
        start = self._activations(chosen)
        if self.train_config.flip and start.dim() == 4:
            mirrored = torch.from_numpy(self._rng.random(len(start)) < 0.5).to(start.device)
            start = torch.where(mirrored[:, None, None, None], start.flip(3), start)
        with precision(self.train_config, start.device):
            features = self.cuts.run(start, self.cache.border).flatten(1)
            logits: Tensor = self.training.head(features)
        if self.head_config.reuse:
            for (sample, _), row in zip(chosen, features.detach().float().cpu()):
                self._passing[sample.sample_id] = row
        return logits.to(torch.float32)

    def _unlabelled_loss(self) -> Tensor:
        """Return the weighted SimSiam loss of two new views each of some unlabelled frames."""
        assert self._simsiam is not None
        count = min(self.train_config.batch_size, len(self._unlabelled))
        frames = self._unlabelled.samples
        picked = self._rng.choice(len(frames), count, replace=False)
        images = [frames[int(i)].image for i in picked]
        one, other = (
            self.training.features(self._tensor([augment(i, self._rng) for i in images]))
            for _ in range(2)
        )
        loss: Tensor = self.train_config.unlabelled_weight * self._simsiam(one, other)
        return loss

    def _features(self, samples: list[Sample]) -> Tensor:
        """Return the features (n, D) of samples on the training backbone, float32 on the CPU."""
        mode = self.training.training
        self.training.eval()
        parts = []
        with torch.no_grad():
            for start in range(0, len(samples), 32):
                chosen = [(s, 0) for s in samples[start : start + 32]]
                x = self.cuts.run(self._activations(chosen), self.cache.border)
                parts.append(x.flatten(1).float().cpu())
        self.training.train(mode)
        return torch.cat(parts)

    def predictions(self, model: Classifier, samples: list[Sample]) -> list[str]:
        """Return the label that a model gives each sample; empty without classes."""
        if not model.classes or not samples:
            return [''] * len(samples)
        with torch.inference_mode():
            best = [
                int(row.argmax())
                for start in range(0, len(samples), 32)
                for row in model(model.tensor(s.image for s in samples[start : start + 32]))
            ]
        return [model.classes[i] for i in best]

    def _validate(
        self, state: _HeadState, weight: Tensor, bias: Tensor, classes: tuple[str, ...]
    ) -> list[Outcome]:
        """
        Predict the validation samples with the live model and with a candidate.

        :param state: holds, or gets, features of the candidate's backbone
        """
        held = sorted(self.validation.values(), key=lambda s: s.scenario == self.scenario)[
            -VALIDATION_WINDOW:
        ]
        if not held:
            return []
        if state is not self._served:
            self._fill(state, held)
        # The live model's features are kept from when it was a candidate.
        unknown = [s for s in held if s.sample_id not in self._served.features]
        for start in range(0, len(unknown), 32):
            part = unknown[start : start + 32]
            with torch.inference_mode():
                rows = self.live.features(self.live.tensor(s.image for s in part))
            for sample, row in zip(part, rows.cpu()):
                self._served.features[sample.sample_id] = row.clone()

        def says(
            features: dict[str, Tensor], w: Tensor, b: Tensor, names: tuple[str, ...]
        ) -> list[str]:
            if not names:
                return [''] * len(held)
            rows = torch.stack([features[s.sample_id] for s in held])
            return [names[i] for i in (rows @ w.cpu().T + b.cpu()).argmax(dim=1).tolist()]

        # Compared without the prior, which favours the current scenario on purpose.
        live = self.live
        bias_before = live.head.bias.detach().cpu() - self._live_prior
        was = says(self._served.features, live.head.weight.detach(), bias_before, live.classes)
        now = says(state.features, weight, bias, classes)
        return [
            Outcome(s.sample_id, s.label, s.scenario, a == s.label, b == s.label)
            for s, a, b in zip(held, was, now)
        ]

    def _freeze_by_probe(self, iterations: int) -> float:
        """
        Measure every block's CKA, let SimFreeze decide and apply it; return the seconds it took.
        """
        started = time.perf_counter()
        with counted_as(PROBE):
            self._probe_blocks(iterations)
        apply_frozen(self.training, self.sim_freeze.frozen, self._optimiser)
        self.cache.follow()
        return time.perf_counter() - started

    def _probe_blocks(self, iterations: int) -> None:
        """
        Measure every block's CKA and tell SimFreeze, when that can change anything.

        A frozen block that still has the values of the reference has a CKA of 1 on any data. When
        all blocks that may be frozen are such, there is nothing to measure.
        """
        config = self.sim_freeze.config
        open_ = [n for n in self.sim_freeze.may_freeze if n not in self.sim_freeze.frozen]
        if config.enabled and (open_ or not self._frozen_as_deployed()):
            if self._probe is None:
                here = [
                    s for s in self.pending + self.replay.samples if s.scenario == self.scenario
                ][-config.probe_size :]
                if len(here) >= LEAST_PROBE:
                    batch = self.reference.tensor(s.image for s in here)
                    self._probe = _Probe(
                        here, unit_grams(self.reference, self.reference.features, batch)
                    )
            if self._probe is not None:
                self.sim_freeze.on_probe(self._similarities(self._probe), iterations)

    def _frozen_as_deployed(self) -> bool:
        """Return whether every frozen block has the values of the reference."""
        return all(
            same_values([ours], [theirs], 1)
            for ours, theirs in zip(self.training.units, self.reference.units)
            if ours.name in self.sim_freeze.frozen
        )

    def _similarities(self, probe: _Probe) -> dict[str, float]:
        """
        Return the CKA of each block; what lies before the frozen border is not computed again.
        """
        was_training = self.training.training
        self.training.eval()
        start = 0
        if probe.last:  # what is frozen is as it was when it was last looked at
            start = self.cache.border
            x = self._activations([(s, 0) for s in probe.samples])
        else:
            x = self._tensor([s.image for s in probe.samples])
        now = unit_grams(self.training, lambda x: self.cuts.run(x, start), x)
        probe.last = {**probe.last, **now}
        self.training.train(was_training)
        debiased = self.sim_freeze.config.debiased
        return {
            name: cka_of_grams(probe.last[name], g, debiased)
            for name, g in probe.reference.items()
        }


def _same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and not difference(a, b)


def unit_grams(model: Classifier, run: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Tensor]:
    """
    Return the Gram matrix (n, n) of the output of each block that runs, in one forward pass that
    keeps no activation.

    :param run: runs the model, or a part of it, on `x`
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
