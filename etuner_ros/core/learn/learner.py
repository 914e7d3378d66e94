# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What the worker process does, without the process: takes labels, proposes heads and rounds, follows
what is live.

The benchmark and the tests drive it directly; `etuner_ros.worker` drives it over a pipe. It only
joins parts that each own their state: `SampleBook`, `FeatureBank`, `ServedHead`, `Prober`,
`Validator`, `TrainingState`, `Round`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import copy
from dataclasses import replace
from functools import partial
import time

import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.decide.lazy_tune import Prospects
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.decide.sim_freeze import SimFreeze
from etuner_ros.core.errors import LearnerError
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.learn.candidates import HeadCandidate, RoundCandidate
from etuner_ros.core.learn.feature_bank import FeatureBank
from etuner_ros.core.learn.head_offer import offer_head
from etuner_ros.core.learn.live_state import LiveState
from etuner_ros.core.learn.phase import Phase
from etuner_ros.core.learn.prober import Prober
from etuner_ros.core.learn.quantiser import Quantiser
from etuner_ros.core.learn.rival import Rival, SEEDED
from etuner_ros.core.learn.round import Round
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.sample_book import SampleBook
from etuner_ros.core.learn.served_head import HeadRows, MOST_COMPUTED, ServedHead
from etuner_ros.core.learn.trainer import pass_length, planned_iterations, Step
from etuner_ros.core.learn.training_state import TrainingState
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames
from etuner_ros.core.learn.validator import VALIDATION_WINDOW, Validator
from etuner_ros.core.learn.within_class import shipped
from etuner_ros.core.models.networks import Classifier
from etuner_ros.core.models.weights import State
from etuner_ros.core.serve.calibrate import LEAST_PICTURES
from etuner_ros.core.serve.engines import Engines
from etuner_ros.core.serve.graph_file import ranges_of

FEATURES_MB = 64  # features of held-back samples and of frames without a label


class Learner:
    """
    Holds the models and samples of one robot's tuning.

    Three models: `live` mirrors what the robot runs, `training` is changed by rounds, a reference
    is the deployed one. Between rounds live and training share their backbone; their heads differ:
    what is served is the instant head, what gradients flow through is the trained one.

    :param base: the deployed model; it is copied
    :param follow_appearance: measure how far each round moves the appearance of frames, which the
        detector of scenarios needs when it looks through the live model
    :param base_sha256: of the file of the base weights, which backbones are named after
    :param engines: that serve; without any nothing is quantised
    :param alive: called now and then in what takes long without any step, to say that it goes on
    """

    def __init__(
        self,
        base: Classifier,
        train: TrainConfig | None = None,
        sim_freeze: SimFreezeConfig | None = None,
        head: HeadConfig | None = None,
        follow_appearance: bool = True,
        base_sha256: str = '',
        engines: Engines | None = None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        config = train or TrainConfig()
        self._alive = alive
        self.head_config = head or HeadConfig()
        self._follow_appearance = follow_appearance
        self._current: dict[str, int] = {}  # camera: scenario that it is in
        self.phase = Phase.IDLE
        self.knows_all_labels = False  # that the live weights have learned, see `_gone`
        self._moved_on = False  # a scenario changed in a round, or while a candidate waited
        self._proposed: RoundCandidate | None = None  # waits for its verdict
        self._offered: HeadCandidate | None = None  # the last one
        self._silenced: set[str] = set()  # labels that it does not say and live did
        self._late: dict[str, None] = {}  # samples that came in a round or while one waited
        self.quantiser: Quantiser | None = None
        if engines is not None:
            self.quantiser = Quantiser(engines, base.spec, base.state())
        self._live = LiveState(base, base_sha256, self.quantiser)
        self.state = TrainingState(base, config, sim_freeze or SimFreezeConfig())
        self.book = SampleBook(config)
        self._bank = FeatureBank(FEATURES_MB * 1_000_000, alive)
        frames = UnlabelledFrames(config.unlabelled_frames, config.seed)
        within = shipped(base.spec.architecture, base.state())
        self.head = ServedHead(
            base.feature_size,
            self.head_config,
            self.backbone,
            self._bank,
            frames,
            self._live.says,
            within,
            self._live.knows,
        )
        deployed = copy.deepcopy(base).eval()
        self._prober = Prober(deployed)
        self._rival = Rival(
            deployed, self.head_config, within if self.head_config.within_class else None
        )
        self._validator = Validator(self._bank)

    @property
    def live(self) -> Classifier:
        """The model that the robot runs."""
        return self._live.model

    @property
    def version(self) -> int:
        """The version that the robot runs."""
        return self._live.version

    @property
    def live_head(self) -> HeadRows:
        """The head that the robot runs, and its prior."""
        return self._live.head

    @property
    def backbone(self) -> str:
        """Digest of the backbone that the robot runs."""
        return self._live.backbone

    @property
    def training(self) -> Classifier:
        """The model that rounds change."""
        return self.state.model

    @property
    def sim_freeze(self) -> SimFreeze:
        """Which blocks are frozen."""
        return self.state.sim_freeze

    @property
    def pending(self) -> list[Sample]:
        """Samples that no round has trained on."""
        return self.book.pending

    @property
    def batch_size(self) -> int:
        """Images in a training batch."""
        return self.state.config.batch_size

    @property
    def input_size(self) -> int:
        """Side of the network's square input, in px."""
        return self.live.spec.input_size

    @property
    def waits_for_verdict(self) -> bool:
        """Whether a round has ended whose candidate is neither live nor given up."""
        return self.phase is Phase.PROPOSED

    @property
    def current(self) -> frozenset[Scenario]:
        """The scenario that each camera is in."""
        return frozenset(Scenario(camera, number) for camera, number in self._current.items())

    @property
    def wants_unlabelled(self) -> bool:
        """Whether frames that nobody labelled are learned from, by the head or in rounds."""
        return self.head.uses_unlabelled or self.state.simsiam is not None

    def _move(self, phase: Phase) -> None:
        self.phase = self.phase.to(phase)

    # Samples

    def add_samples(self, samples: Sequence[Sample], new: bool = True) -> None:
        """
        Take labelled samples.

        The instant head learns them now. A share is held back for validation, the rest is learned
        in the next round, or with `new=False` (seen in an earlier life) only replayed.
        """
        if new:
            self._hear_of(samples)
        for sample in samples:
            known = self.book.find(sample.sample_id)
            if known is not None and known.label != sample.label:
                self._validator.forget([sample.sample_id])
                self._rival.forget([sample.sample_id])
            if known is not None and known.jpeg != sample.jpeg:
                self._forget([sample.sample_id])
            if new:
                self.head.note_label(sample.sample_id, sample.label, sample.scenario.camera)
            self.head.frames.discard(sample.sample_id)
        self.book.add(samples, new)
        self._learn_instantly(samples)
        if new and self.phase is Phase.IDLE:
            self.head.learn_unlabelled(self._features)

    def add_exemplars(self, samples: Sequence[Sample]) -> None:
        """Take samples that the deployed model was fitted to: for replay, not for the gate."""
        self.book.add_exemplars(samples)
        is_new = self.head.is_new
        self._learn_instantly(samples)
        self.head.is_new = is_new  # the deployed head knows them

    def withdraw(self, sample_ids: Iterable[str]) -> None:
        """Forget samples: what was said of them was taken back, or people disagree."""
        ids = list(sample_ids)
        self.book.withdraw(ids)
        self.head.withdraw(ids)
        self._validator.forget(ids)
        self._forget(ids)

    def rename(self, label: str, new_label: str) -> None:
        """
        Call a label otherwise in all samples, exemplars included; two of one name are merged.

        The old class stays a row of the head, which says it no more until it is labelled again.
        """
        self.book.rename(label, new_label)
        self.head.rename(label, new_label)

    def add_unlabelled(
        self,
        samples: Sequence[Sample],
        features: Mapping[str, Tensor] | None = None,
        backbone: str | None = None,
    ) -> None:
        """
        Take frames that nobody labelled, each with the scenario that it was seen in.

        The head learns from them with the next labels, where that is switched on.

        :param features: those that are known, (D,) by sample id
        :param backbone: digest of what made the features; None for the live one
        """
        if not self.wants_unlabelled:
            return
        self._hear_of(samples)
        known = (features or {}) if backbone in (None, self.backbone) else {}
        for sample in samples:
            if not self.book.is_labelled(sample.sample_id):
                row = known.get(sample.sample_id)
                fits = row is not None and self._fits(row)
                self._forget(self.head.add_frame(sample, row if fits else None))

    def correct(
        self,
        sample_id: str,
        label: str,
        feature: Tensor,
        backbone: str,
        scenario: Scenario,
        thing: bool = False,
    ) -> bool:
        """
        Learn a correction at once, from the feature that was computed with the prediction.

        :param feature: (D,)
        :param backbone: digest of what made the feature
        :param scenario: that the frame was seen in
        :param thing: a thing in a box of it is labelled
        :return: False when it is of another backbone than the live one; it is then learned when
            its picture comes
        """
        usable = (
            self.head_config.enabled
            and backbone == self.backbone
            and not self._live.served_elsewise
            and self._fits(feature)
        )
        if not usable:
            return False
        self.head.note_label(sample_id, label, scenario.camera)
        self.head.frames.discard(sample_id)
        if self.book.holds_back(sample_id, label):
            self._bank.put(backbone, sample_id, feature)  # the evidence looks at it, too
        known = self.book.find(sample_id)
        if known is None:
            self.book.await_picture(sample_id, label)
        elif known.label != label:  # its picture came with an older label
            self._validator.forget([sample_id])
            self._rival.forget([sample_id])
            self.book.add([replace(known, label=label, predicted='')])
        if known is not None and self.phase is not Phase.IDLE:
            self._late[sample_id] = None  # the candidate has its older label, or none
        self.head.teach(sample_id, label, feature.float(), scenario, thing)
        return True

    def _hear_of(self, samples: Iterable[Sample]) -> None:
        """A camera that nobody has told of yet is where its first frame was taken."""
        for sample in samples:
            if sample.scenario.camera not in self._current:
                self._current[sample.scenario.camera] = sample.scenario.number
                self._forget(self.head.frames.set_current(self.current))

    def _fits(self, feature: Tensor) -> bool:
        return feature.shape == (self.live.feature_size,) and bool(torch.isfinite(feature).all())

    def _forget(self, sample_ids: Iterable[str]) -> None:
        """Drop what was computed of samples."""
        ids = list(sample_ids)
        self._bank.discard(ids)
        self.state.forget(ids)
        self._rival.forget(ids)

    def _learn_instantly(self, samples: Sequence[Sample]) -> None:
        """Have the served head learn samples, when the training backbone is the live one."""
        if self.phase is not Phase.IDLE:
            self._late |= dict.fromkeys(s.sample_id for s in samples)
        elif self.head_config.enabled and samples:
            self.head.learn(samples, self._features)

    def _features(self, samples: Sequence[Sample]) -> Tensor:
        """Return the features (n, D) of samples as they are served, between rounds."""
        if self._live.network is not None:
            return self._live.features(samples)
        return self.state.features(samples)  # of the same backbone, with cached activations

    def _learn_late(self) -> None:
        late, self._late = self._late, {}
        found = (self.book.find(i) for i in late)
        self._learn_instantly([s for s in found if s is not None])

    # Candidates

    def weigh_rounds(self) -> Prospects:
        """
        Return what a round would take, and what rounds have brought so far.

        Compares the live network with the deployed one first, where enough labels have come.
        """
        new = self.book.pending
        config = self.state.config
        planned = planned_iterations(pass_length(new, config), config) if new else 0
        judged = min(len(self.book.held), VALIDATION_WINDOW)
        computed = min(len(self.head.learned), len(new) + judged + MOST_COMPUTED)
        passes = 3 * planned * self.batch_size + computed
        # Without the instant head only rounds learn, and there is nothing to compare with.
        tuned = self.head_config.enabled and self._live.is_tuned
        if tuned and self.phase is Phase.IDLE:
            others = partial(self.book.newest, SEEDED)
            self._rival.look(new, self.head.learned, self.state, others)
        rival = self._rival
        return Prospects(len(new), passes, tuned, *rival.standing, rival.since_round)

    def propose_head(self) -> HeadCandidate | None:
        """
        Return a candidate with the live backbone and the instant head as it is now.

        A class of which there is no sample, though nobody took them back, keeps the row that it
        has: its store may be gone.

        :return: None when nothing was learned since the last one that the live head does not say
            already, or the head has no sample of a class that came with the deployed model
        """
        began, gone = time.perf_counter(), self._gone
        # That live says still, as of a class that was taken back while a candidate waited.
        said = (gone & set(self.live.classes)) - self._live.silent
        self._silenced &= said
        if not self.head.classes() or not (self.head.is_new or said - self._silenced):
            return None
        kept = self._live.kept(self.head.lacks(self.live.classes, gone))
        if kept is None:
            return None
        self._silenced = said
        self._offered = offer_head(
            self.head,
            self.book,
            self._validator,
            self._live,
            self.sim_freeze,
            self.current,
            kept,
            began,
        )
        self.head.on_offered()
        return self._offered

    @property
    def _gone(self) -> set[str]:
        """
        Labels that will not be said, as they have no sample: renamed, taken back or corrected
        since they were said, or silent in the live head already, maybe from an earlier life.

        A class that came with the deployed model is known to it without samples. Others are gone
        without samples where all labels that the live weights have learned are here.
        """
        present = self.book.labels() | set(self.head.classes())
        said = set(self.live.classes) if self.knows_all_labels else set()
        lost = (self.book.seen | said) - self._live.deployed
        return (lost | self.book.renamed | self._live.silent) - present

    @property
    def wants_calibration(self) -> bool:
        """Whether what is live could be quantised: there are pictures enough, and it pays."""
        if self.phase is not Phase.IDLE:
            return False
        if self.head_config.enabled and not self.head.knows(self.live.classes, self._gone):
            return False  # there would be no head for it
        if self._live.served_elsewise:
            return True
        if self.quantiser is None or not self.quantiser.wants(self.backbone, self._live.update):
            return False
        # What came with the deployed model is not what this robot sees.
        own = sum(s.scenario != DEPLOYED for s in self.book.pictures)
        return own + len(self.head.frames) >= LEAST_PICTURES

    def run_round(
        self, cancelled: Callable[[], bool] = lambda: False, kind: RoundKind = RoundKind.TRAIN
    ) -> Iterator[Step | RoundCandidate]:
        """
        Fine-tune on all pending samples; the other kinds of rounds train on nothing.

        :param cancelled: asked before each training batch
        :return: an iterator over steps that ends with the candidate
        :raises RoundCancelled: when asked to stop; model, optimiser and what is frozen are as
            before, and the samples stay pending
        :raises NothingMade: when what is live can not be quantised, or had better not, or is the
            deployed network already
        :raises LearnerError: when a round runs, or its candidate waits
        """
        if self.phase is Phase.IDLE:
            self.state.begin()
            if not self._live.is_tuned and ranges_of(self._live.update) is None:
                self._rival.remember(self.head.learned)
        self._move(Phase.IN_ROUND)
        try:
            known = dict(self._rival.rows) if kind is RoundKind.RETREAT else {}
            for sample_id, row in known.items():
                self._bank.put(self._live.digest({}), sample_id, row)
            run = Round(
                self.state,
                self.book,
                self.head,
                self._prober,
                self._validator,
                self._live,
                self.current,
                self.quantiser,
                kind,
                known,
                self._alive,
            )
            yield from run.train(cancelled)
            self._proposed = run.close(self._gone, self._follow_appearance)
        except BaseException:
            self._give_up()
            self._learn_late()
            raise
        self._move(Phase.PROPOSED)
        yield self._proposed

    def _give_up(self, learn_again: bool = False) -> None:
        """Put back what the round changed."""
        self.state.roll_back()
        self.head.on_lost()
        self._prober.on_other_weights()
        # What a refused round learned is new again, unless the instant head knows it: then replay
        # has it, and trying the same again would cost the same again.
        in_round, has_head = self.phase is Phase.IN_ROUND, self.head_config.enabled
        self.book.on_lost(learn_again=learn_again or in_round or not has_head)
        self._proposed = None
        self._move(Phase.IDLE)
        if self._moved_on:
            self._moved_on = False
            self.sim_freeze.on_scenario_change()

    # What is live

    def is_head_only(self, update: State) -> bool:
        """Return whether weights differ from the live ones in nothing but the head."""
        return self._live.digest(update) == self.backbone

    def set_live(self, update: State, classes: tuple[str, ...], version: int) -> None:
        """
        Take over the version that the robot now runs; training goes on from it.

        Of the version that ran before, told once more, a candidate goes on waiting.

        :param update: tensors that differ from the base weights
        :raises WeightsError: when they do not fit
        :raises LearnerError: when a round runs and more than the head changes
        """
        before, proposed, version_before = self.backbone, self._proposed, self.version
        was_tuned = self._live.is_tuned
        ours = False  # what comes was made here
        was_quantised = ranges_of(self._live.update) is not None
        if self.phase is Phase.IN_ROUND and self._live.digest(update) != before:
            raise LearnerError('other weights can not be taken over while a round runs')
        again = version == version_before and self._live.is_same(update, classes)
        self._live.take(update, classes, version)
        if proposed is not None and self._live.has_become(proposed):
            ours = True
            self._on_accepted(proposed)
            if was_tuned and not self._live.is_tuned:
                self._rival.restart()
                self._prober.on_other_weights()
        elif proposed is not None and not again:  # another version: nobody will judge this one
            self._give_up(learn_again=True)
        if self._offered is not None and self._live.has_become(self._offered):
            self._validator.on_accepted(self._offered.outcomes, self.book.held)
            self._offered, ours = None, True
        if not ours and version != version_before:
            self._validator.on_other_head()
        if self.backbone not in (before, self.head.backbone):  # a roll-back, or a swap by hand
            if was_quantised and self.quantiser is not None and ranges_of(update) is None:
                self.quantiser.refuse(self.backbone, 'somebody went back to float')
            self.state.load(self._live.to_train(update), classes)
            self._prober.on_other_weights()
            self._validator.restart()
            self._rival.restart()
            self.book.on_other_backbone()
            self.head.start_over(self.backbone, self._live.is_tuned)
            self._learn_instantly(self.book.newest(self.head_config.max_samples))
        self.head.on_served(self.live.classes, self._live.head.prior)
        if not self.waits_for_verdict:
            self._learn_late()

    def _on_accepted(self, candidate: RoundCandidate) -> None:
        """Build upon a round that was accepted."""
        self.state.commit()
        self.sim_freeze.accepted |= candidate.iterations > 0
        self._forget(self.head.on_accepted(candidate.backbone, tuple(self.book.awaited)))
        self._rival.on_round()
        self.book.on_accepted()
        self.head.is_new |= not set(self.head.classes()) <= set(candidate.classes)
        self._validator.on_accepted(candidate.outcomes, self.book.held)
        self._moved_on = False
        self._proposed = None
        self._move(Phase.IDLE)

    def go_back(self, learn_again: bool = False) -> None:
        """
        Give up the candidate that was proposed last; training goes on from what is live.

        :param learn_again: nobody has judged it, so the next round trains on its samples once more
        """
        if self.waits_for_verdict:
            self._give_up(learn_again)
        self.set_live(self._live.update, self.live.classes, self.version)

    def set_scenarios(self, current: Mapping[str, int]) -> None:
        """Note where cameras are: on a change probes are drawn anew and frozen blocks may thaw."""
        if dict(current) == self._current:
            return
        known = {camera: number for camera, number in current.items() if camera in self._current}
        changed = any(self._current[camera] != number for camera, number in known.items())
        self._current = dict(current)
        self._forget(self.head.frames.set_current(self.current))
        if changed:
            self._prober.on_scenario_change()
            self.head.on_scenario_change()
            self.sim_freeze.on_scenario_change()
            self._moved_on = self.phase is not Phase.IDLE

    def halve_batches(self) -> bool:
        """Train in batches of half the size from now on; False when that can not be."""
        return self.state.halve_batches()
