# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One round: from the samples that wait to a candidate and its evidence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
import math
import time

import numpy as np

from etuner_ros.core.cost import counted_as, HEAD, OTHER
from etuner_ros.core.decide.gate import judge, Outcome
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.decide.scenario import compressed
from etuner_ros.core.errors import EngineError
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.activation_cache import digest
from etuner_ros.core.learn.candidates import RoundCandidate
from etuner_ros.core.learn.feature_bank import Compute
from etuner_ros.core.learn.live_state import LiveState
from etuner_ros.core.learn.prober import Prober
from etuner_ros.core.learn.quantiser import features_by, Quantiser
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.sample_book import SampleBook
from etuner_ros.core.learn.served_head import HeadRows, Kept, ServedHead
from etuner_ros.core.learn.trainer import Step, train_round
from etuner_ros.core.learn.training_state import TrainingState
from etuner_ros.core.learn.validator import accuracies, Answers, Asked, by_rows, Validator
from etuner_ros.core.models.weights import backbone_of, difference, network_of, RANGES, State
from etuner_ros.core.serve.calibrate import LEAST_PICTURES
from etuner_ros.core.serve.networks import Network

APPEARANCE_SAMPLES = 32  # that the move of the appearance by a round is measured on


class RoundCancelled(Exception):
    """The round was asked to stop; nothing was kept of it."""


class NothingMade(Exception):
    """There is nothing to propose, for the reason that it tells."""


@dataclass(frozen=True)
class _Made:
    """What a round has made, as it would be served."""

    rows: HeadRows
    kept: Mapping[str, Kept]  # of these, by label
    backbone: str  # digest
    ranges: State  # of activations, when it is quantised
    network: Network | None  # that serves it, when it is
    outcomes: list[Outcome]
    validation_seconds: float


@dataclass
class Round:
    """
    One run over the parts of a learner: `train` takes the steps, `close` makes what is proposed.

    The caller owns the transaction: it has called `begin` on the training state, and rolls it back
    when any of this raises.
    """

    training: TrainingState
    book: SampleBook
    head: ServedHead
    prober: Prober
    validator: Validator
    live: LiveState
    current: Collection[Scenario]
    quantiser: Quantiser | None = None
    kind: RoundKind = RoundKind.TRAIN
    known: Collection[str] = ()  # samples of which the bank has the feature by what is made
    alive: Callable[[], None] = lambda: None  # called between the parts of `close`
    new: list[Sample] = field(init=False)
    iterations: int = field(default=0, init=False)
    loss: float = field(default=math.nan, init=False)
    probe_seconds: float = field(default=0.0, init=False)
    _began: float = field(default_factory=time.perf_counter, init=False)
    _waiting: list[Sample] = field(init=False)

    def __post_init__(self) -> None:
        """Take what waits."""
        self._waiting = self.book.pending  # that the head has learned
        self.new = self._waiting if self.kind is RoundKind.TRAIN else []

    def train(self, cancelled: Callable[[], bool]) -> Iterator[Step]:
        """
        Train on the new samples beside replayed ones; probes now and then.

        :param cancelled: asked before each training batch
        :raises RoundCancelled: when asked to stop
        """
        if self.kind is RoundKind.RETREAT:
            self.training.sim_freeze.start_over()
            self.training.put(self.live.base, self.live.base_classes)
        self._prepare_head()
        if self.kind is RoundKind.TRAIN:
            self._probe(0, self._here())
        if self.new:
            training = self.training
            frames = self.head.frames.samples if training.simsiam is not None else []
            since_probe = 0
            for step in train_round(
                training.model,
                training.optimiser,
                self.new,
                self.book.replay,
                self.current,
                training.config,
                training.rng,
                training.logits,
                (lambda: training.unlabelled_loss(frames)) if len(frames) > 1 else None,
                self._as_told,
            ):
                self.iterations, self.loss = step.iteration, step.loss
                since_probe += 1
                yield step
                if cancelled():
                    raise RoundCancelled
                policy = training.sim_freeze.config
                if policy.enabled and since_probe >= policy.freeze_interval:
                    self._probe(since_probe)
                    since_probe = 0
        self.training.model.eval()

    def close(self, gone: Collection[str], follow_appearance: bool) -> RoundCandidate:
        """
        Make the candidate: its name, its head, its evidence.

        :param gone: labels that have no sample any more, and will not be said
        :param follow_appearance: measure how far the round moved the appearance of frames
        :raises NothingMade: when nothing was trained, and nothing else could be made
        """
        model, live = self.training.model, self.live
        began = time.perf_counter()
        trains = self.kind is RoundKind.TRAIN
        told = [(s, self._as_told(s)) for s in self.new]
        learned = [s for s, now in told if now is not None and now.label == s.label]
        if self.new and not (learned and self.iterations):
            raise NothingMade('all that it was to learn was taken back, or called otherwise')
        made = self._plain(gone)
        self.alive()
        misses = self.head.config.enabled and not self.head.knows(model.classes, gone, True)
        if not trains and misses:
            raise NothingMade('pictures of a class are still on their way')
        if self.quantiser is not None and self.quantiser.wanted:
            made = self._quantised(made, gone)
            self.alive()
        if not trains and made.backbone == live.backbone:
            raise NothingMade(self.quantiser.why_not if self.quantiser else '')
        if self.kind is RoundKind.RETREAT:
            self._seed_head(made.rows)
        rows, backbone, network = made.rows, made.backbone, made.network
        with counted_as(OTHER):
            move = self._appearance_move(network) if follow_appearance else ()
        fitted = time.perf_counter()
        self.book.on_trained(learned)
        outcomes = made.outcomes
        before, after = accuracies(outcomes, self.book.outcomes(self.current), self.current)
        ended = time.perf_counter()
        frozen = self.training.sim_freeze.frozen
        return RoundCandidate(
            classes=model.classes,
            parent=live.version,
            backbone=backbone,
            frozen=tuple(n for n in model.unit_names if n in frozen),
            cka=dict(self.training.sim_freeze.cka),
            outcomes=outcomes,
            new_samples=len(learned),
            seconds=ended - self._began,
            head_seconds=fitted - began - made.validation_seconds,
            validation_seconds=ended - fitted + made.validation_seconds,
            accuracy=after,
            accuracy_before=before,
            update={
                **difference(live.base, {**model.state(), **rows.state()}),
                **self.head.likeness(model.classes, True, made.kept),
                **made.ranges,
            },
            iterations=self.iterations,
            loss=self.loss,
            probe_seconds=self.probe_seconds,
            appearance_move=move,
        )

    def _plain(self, gone: Collection[str]) -> _Made:
        """Return what was made, in float."""
        backbone = self.live.digest(self._change())
        return self._made(gone, backbone, {}, None)

    def _change(self) -> State:
        """Return the tensors of the network that differ from the base weights."""
        return backbone_of(difference(self.live.base, self.training.model.state()))

    def _quantised(self, plain: _Made, gone: Collection[str]) -> _Made:
        """
        Return the same in 8 bit; in float when that is not possible, or worse by the gate's test.
        """
        assert self.quantiser is not None
        pictures = self._pictures()
        if len(pictures) < LEAST_PICTURES:
            return plain  # the worker will see when there are enough
        try:
            update, network = self.quantiser.quantise(self._change(), pictures)
            self.alive()
            ranges = {k: v for k, v in update.items() if k.startswith(RANGES)}
            made = self._made(gone, self.live.digest(update), ranges, network)
        except EngineError as error:
            self.quantiser.refuse(plain.backbone, str(error))
            return self._made(gone, plain.backbone, {}, None)
        pairs = [
            replace(o, live_correct=p.candidate_correct, anchor_correct=None)
            for o, p in zip(made.outcomes, plain.outcomes)
        ]
        verdict = judge(pairs, current=set(self.current))
        if verdict.accepted:
            return made
        self.quantiser.refuse(plain.backbone, f'8 bit are worse than float: {verdict.reason}')
        return self._made(gone, plain.backbone, {}, None)

    def _pictures(self) -> list[Sample]:
        """Return all pictures that there are, to calibrate with."""
        return [*self.head.frames.samples, *self.book.pictures]

    def _made(
        self, gone: Collection[str], backbone: str, ranges: State, network: Network | None
    ) -> _Made:
        """Solve the head on the features that are served, and compare it with what is live."""
        features: Compute = self.training.features
        if network is not None:
            features = partial(features_by, network)
        with counted_as(HEAD):
            if self.head.config.enabled:
                self._fit_head(backbone, features)
        rows, then, awaited = self._head_rows(gone)
        began = time.perf_counter()
        live, head = self.live, self.head
        kept = live.kept(head.lacks(live.model.classes, gone))
        told = head.knows((), gone) and kept is not None
        now: Answers = by_rows(live.head, live.model.classes)
        if told:
            now = partial(head.answers, kept=kept)
        outcomes = self.validator.of_round(
            self.book.held.values(),
            self.current,
            Asked(live.backbone, live.features, now),
            Asked(backbone, features, then),
        )
        seconds = time.perf_counter() - began
        return _Made(rows, awaited, backbone, ranges, network, outcomes, seconds)

    def _head_rows(self, gone: Collection[str]) -> tuple[HeadRows, Answers, Mapping[str, Kept]]:
        """
        Return the head to serve, what it answers, and what it keeps: the instant one, or the
        trained one while that can't be.

        A class whose pictures have not come keeps its live row, for the features before the round.
        """
        live, model = self.live, self.training.model
        for label in [c for c in live.model.classes if c not in model.classes]:
            place = live.model.classes.index(label)  # a correction brought it while this ran
            weight, bias, _ = live.head
            self.training.add_class(label, weight[place], float(bias[place]))
        kept = live.kept(self.head.lacks(model.classes, gone, candidate=True))
        if self.head.knows((), gone, candidate=True) and kept is not None:
            rows = self.head.rows(model.classes, True, kept)
            return rows, partial(self.head.answers, candidate=True, kept=kept), kept
        weight, bias = (p.detach().cpu().clone() for p in (model.head.weight, model.head.bias))
        rows = HeadRows(weight, bias, self.head.offsets(model.classes))
        return rows, by_rows(rows, model.classes), {}

    def _as_told(self, sample: Sample) -> Sample | None:
        """Return a sample as it was said last, None when it was taken back."""
        return self.book.find(sample.sample_id)

    def _here(self) -> list[Sample]:
        """Return pictures of the current scenarios, the best last: labelled ones, the newest."""
        labelled = [*self.book.replay.samples, *self.new]
        return [s for s in [*self.head.frames.samples, *labelled] if s.scenario in self.current]

    def _probe(self, iterations: int, here: Sequence[Sample] = ()) -> None:
        """Have SimFreeze decide on a measurement, and apply it."""
        began = time.perf_counter()
        self.prober.probe(self.training, iterations, here)
        self.training.apply_frozen()
        self.probe_seconds += time.perf_counter() - began

    def _prepare_head(self) -> None:
        """
        Give the trained head a row for each label that it lacks, taken from the instant head.

        The rows that it has stay its own. Starting all of them from the instant head, which fits
        the features already, was tried: gradients become small, the features improve less, and
        the served head is the instant one anyway.
        """
        labels = [*self.live.model.classes, *(s.label for s in self.book.replay.samples)]
        labels += [s.label for s in self._waiting]
        instant = self.head.instant
        known = set(self.training.model.classes)
        # Its rows are for the live network, which a retreat leaves.
        usable = self.head.config.enabled and self.kind is not RoundKind.RETREAT
        for label in [n for n in dict.fromkeys(labels) if n not in known]:
            if usable and instant.knows(label) and len(instant.classes) > 1:
                weight, bias = instant.linear([label])
                self.training.add_class(label, weight[0], float(bias[0]))
            else:
                self.training.add_class(label)

    def _seed_head(self, rows: HeadRows) -> None:
        """Have the trained head of the deployed network begin with what is served of new kinds."""
        classes = self.training.model.classes
        for place in range(len(self.live.base_classes), len(classes)):
            if self.head.knows(classes[place : place + 1], (), candidate=True):
                self.training.set_row(classes[place], rows.weight[place], float(rows.bias[place]))

    def _fit_head(self, backbone: str, features: Compute) -> None:
        """
        Have the instant head for the new backbone made.

        :param features: of that backbone
        """
        replayed = self.book.newest(self.head.config.max_samples)
        now = (
            self.book.find(s.sample_id) for s in self._waiting
        )  # not taken back, and by its label now
        samples = {s.sample_id: s for s in [*replayed, *now] if s is not None}
        judged = self.validator.choose(self.book.held.values(), self.current)
        self.head.fit_candidate(
            backbone,
            list(samples.values()),
            features,
            {s.sample_id for s in [*self.new, *judged]} | set(self.known),
            all_frames=self.training.simsiam is not None,
            tuned=bool(network_of(self._change())),
        )

    def _appearance_move(self, network: Network | None) -> tuple[float, ...]:
        """
        Return how far this round moved the appearance of the same samples, on average.

        :param network: that serves the candidate, when it is quantised
        :return: in the `compressed` values that scenario changes are found from; empty when the
            blocks up to the middle one are as they were
        """
        model = self.training.model
        first = self.live.model.middle + 1
        pairs = zip(self.live.model.units[:first], model.units[:first])
        served = network is not None or self.live.network is not None
        if not served and all(digest(old) == digest(new) for old, new in pairs):
            return ()
        # The newest of the current scenarios; few of them are made up for by others.
        everything = [*self.book.replay.samples, *self.new]
        samples = sorted(everything, key=lambda s: s.scenario in self.current)
        samples = samples[-APPEARANCE_SAMPLES:]
        if not samples:
            return ()
        images = [s.image for s in samples]
        means = []
        for own, by in ((self.live.model, self.live.network), (model, network)):
            if by is None:
                rows = own.appearance(own.tensor(images)).double().cpu().numpy()
            else:
                rows = np.concatenate([by.look([i])[1] for i in images]).astype(np.float64)
            means.append(compressed(rows).mean(axis=0))
        return tuple(float(v) for v in means[1] - means[0])
