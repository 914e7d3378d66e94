# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Methods that train: when (a trigger), which blocks (a policy), and what of ours they use, all on
the learner that runs on the robot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import copy
from dataclasses import dataclass, field, replace

import torch

from etuner_ros.bench.foresight import Foresight
from etuner_ros.bench.methods.base import Method, World
from etuner_ros.core.config import (
    GateConfig,
    HeadConfig,
    LazyTuneConfig,
    SimFreezeConfig,
    TrainConfig,
)
from etuner_ros.core.decide.gate import judge
from etuner_ros.core.decide.lazy_tune import LazyTune
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.candidates import Candidate, RoundCandidate
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.served_head import MOVED
from etuner_ros.core.learn.trainer import Step

CAMERA = 'camera'  # a stream is of one


class Trigger:
    """When a round starts: once `count` batches wait; never for 0."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.waiting = 0

    def on_batch(self, errors: int, new_classes: bool) -> None:
        """Note a labelled batch and how many of its samples were predicted wrong."""
        self.waiting += 1

    def on_request(self) -> None:
        """Note a request."""

    def on_change(self) -> None:
        """Note a change of scenario."""

    @property
    def due(self) -> bool:
        """Whether a round should start."""
        return 0 < self.count <= self.waiting

    @property
    def wants_retreat(self) -> bool:
        """Whether what rounds have made should be taken back."""
        return False

    def on_retreat_start(self) -> None:
        """Note that the deployed network is proposed."""

    def on_retreat_end(self, accepted: bool) -> None:
        """Note whether the deployed network is live again."""

    def wants_last_round(self) -> bool:
        """Whether what waits at the end of a stream should be trained on."""
        return self.count > 0

    def on_learned(self, learner: Learner) -> None:
        """Note what the head has learned of a labelled batch."""

    def on_start(self) -> None:
        """Note that a round starts over all that waits."""
        self.waiting = 0

    def on_end(self, result: RoundCandidate, accepted: bool) -> None:
        """Note how the round ended."""


class Lazy(Trigger):
    """LazyTune decides."""

    def __init__(self, config: LazyTuneConfig) -> None:
        super().__init__()
        self.lazy = LazyTune(config)

    def on_batch(self, errors: int, new_classes: bool) -> None:
        """Pass on."""
        self.lazy.on_batch(new_classes=new_classes, errors=errors)

    def on_request(self) -> None:
        """Pass on."""
        self.lazy.on_request()

    def on_change(self) -> None:
        """Pass on what the detector says."""
        self.lazy.on_scenario_change()

    def on_learned(self, learner: Learner) -> None:
        """Pass on what rounds bring."""
        if self.lazy.config.economy > 0:
            self.lazy.on_prospects(learner.weigh_rounds())

    @property
    def due(self) -> bool:
        """Whether LazyTune wants a round."""
        return self.lazy.should_tune

    @property
    def wants_retreat(self) -> bool:
        """Whether LazyTune wants the deployed network back."""
        return self.lazy.wants_retreat

    def on_retreat_start(self) -> None:
        """Pass on."""
        self.lazy.on_retreat_start()

    def on_retreat_end(self, accepted: bool) -> None:
        """Pass on."""
        self.lazy.on_retreat_end(accepted)

    def wants_last_round(self) -> bool:
        """Whether what waits is worth a round, however few batches it is."""
        return self.lazy.is_worth_it

    def on_start(self) -> None:
        """Pass on."""
        self.lazy.on_round_start()

    def on_end(self, result: RoundCandidate, accepted: bool) -> None:
        """Pass on the accuracy that is live now."""
        accuracy = result.accuracy if accepted else result.accuracy_before
        self.lazy.on_round_end(result.iterations, accuracy, accepted)


class Policy:
    """Which blocks train; this one leaves it to SimFreeze, or trains all when that is off."""

    def begin(self, learner: Learner) -> None:
        """Act before a round."""

    def step(self, learner: Learner) -> None:
        """Act after a training batch; gradients of it are still there."""

    def end(self, learner: Learner) -> None:
        """Act when the training of a round is over."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a method that trains."""

    train: TrainConfig
    trigger: int = 1
    lazy: LazyTuneConfig | None = None
    sim_freeze: SimFreezeConfig = field(default_factory=lambda: SimFreezeConfig(enabled=False))
    head: HeadConfig = field(default_factory=lambda: HeadConfig(enabled=False))
    gate: GateConfig = field(default_factory=lambda: GateConfig(enabled=False))
    policy: Callable[[], Policy] = Policy
    collected: int = 0  # labels that LazyTune takes for a batch; 0 = as they come


class Tuned(Method):
    """A learner, a trigger and a policy."""

    def __init__(self, world: World, recipe: Recipe) -> None:
        super().__init__(world)
        self.recipe = recipe
        torch.manual_seed(world.seed)
        self.learner = Learner(
            world.base,
            replace(recipe.train, seed=world.seed),
            recipe.sim_freeze,
            recipe.head,
            follow_appearance=False,  # the detector is the same for all, and sees the base model
        )
        self._foresight = Foresight(self.learner, world)
        self._foresight.look(world.exemplars)
        self.learner.add_exemplars(list(world.exemplars))
        self.trigger: Trigger = Trigger(recipe.trigger)
        if recipe.lazy is not None:
            self.trigger = Lazy(recipe.lazy)
        self.policy = recipe.policy()
        self._scenario = 0
        self._tell_scenario()
        self._steps: Iterator[Step | RoundCandidate] | None = None
        self._retreats = False  # the round that runs takes back what rounds have made
        self._version = 0
        self._labelled: set[str] = set()
        self._in_round: set[str] = set()
        self._trained: set[str] = set()

    @property
    def _here(self) -> Scenario:
        return Scenario(CAMERA, self._scenario)

    def _tell_scenario(self) -> None:
        self.learner.set_scenarios({CAMERA: self._scenario})

    @property
    def trained_share(self) -> float | None:
        """Share of the labels that a finished round trained on, but for those held back."""
        learned = self._labelled - set(self.learner.book.held)
        never = self.recipe.lazy is None and self.recipe.trigger == 0
        return None if never or not learned else len(self._trained & learned) / len(learned)

    @property
    def frozen(self) -> int:
        """Blocks that are frozen now."""
        return len(self.learner.training.frozen)

    def on_request(self, sample: Sample) -> None:
        """Tell the trigger; keep the frame where unlabelled ones are learned from."""
        self.trigger.on_request()
        if self.learner.wants_unlabelled:
            with self.world.meter.paused():  # it is predicted anyway
                _, features = self._foresight.look([sample])
            self.learner.add_unlabelled([replace(sample, scenario=self._here)], features)

    def wants_refresh(self) -> bool:
        """Ask the head whether other classes have become likely."""
        return self.learner.head.is_new and self._steps is None

    def refresh(self) -> None:
        """Bring the head live as it is now."""
        self._offer_head()

    def on_change(self) -> None:
        """Number the scenarios as the detector sees them."""
        self.trigger.on_change()
        self._scenario += 1
        if self._steps is None:
            self._tell_scenario()

    def on_batch(self, samples: list[Sample]) -> None:
        """
        Learn instantly where there is such a head, and tell the trigger.

        The frames were predicted when they were seen, so what the live model made of them is
        there: prediction, feature, and the activation at its frozen border.
        """
        learner = self.learner
        self._labelled.update(s.sample_id for s in samples)
        with self.world.meter.paused():
            said = self._know(samples)
        samples = [replace(s, scenario=self._here, predicted=p) for s, p in zip(samples, said)]
        known = set(learner.live.classes)
        if self.recipe.head.enabled:
            for sample in samples:
                feature = self._seen[sample.sample_id]
                learner.correct(
                    sample.sample_id, sample.label, feature, learner.backbone, self._here
                )
        learner.add_samples(samples)
        self._offer_head()
        size = (self.recipe.lazy is not None and self.recipe.collected) or len(samples)
        for start in range(0, len(samples), size):
            some = samples[start : start + size]
            self.trigger.on_batch(
                errors=sum(s.label != s.predicted for s in some),
                new_classes=any(s.label not in known for s in some),
            )
        self.trigger.on_learned(learner)

    def _know(self, samples: list[Sample]) -> list[str]:
        """Predict frames as the robot did when it saw them; keep what that made."""
        said, self._seen = self._foresight.look(samples)
        return said

    def _offer_head(self) -> None:
        """Bring the instant head live, unless a candidate waits for its verdict."""
        if self.learner.waits_for_verdict:
            return
        result = self.learner.propose_head()
        if result is not None:
            self._decide(result)

    def wants_round(self) -> bool:
        """Ask the trigger."""
        return self.trigger.wants_retreat or (self.trigger.due and bool(self.learner.pending))

    def wants_last_round(self) -> bool:
        """Train on what waits, unless the trigger has found that rounds do not pay."""
        return bool(self.learner.pending) and self.trigger.wants_last_round()

    def round(self) -> Iterator[None]:
        """Train, up to the last batch; or take back what rounds have made."""
        self._retreats = self.trigger.wants_retreat
        if self._retreats:
            self.trigger.on_retreat_start()
            self._tell_scenario()
            self._steps = self.learner.run_round(kind=RoundKind.RETREAT)
            return
        self.rounds += 1
        self._in_round = set()
        self.trigger.on_start()
        self._tell_scenario()
        self.policy.begin(self.learner)
        self._steps = self.learner.run_round()
        for item in self._steps:
            assert isinstance(item, Step)
            self._in_round.update(item.trained)
            self.policy.step(self.learner)
            yield
            if item.iteration == item.total:
                break
        self.policy.end(self.learner)

    def make_candidate(self) -> None:
        """Make the candidate and measure it."""
        assert self._steps is not None
        result = next(self._steps)
        assert isinstance(result, RoundCandidate)
        self._steps, self._candidate = None, result

    def finish_round(self) -> None:
        """Judge the candidate and bring it live."""
        accepted = self._decide(self._candidate)
        if self._retreats:
            self.trigger.on_retreat_end(accepted)
            self._tell_scenario()
            self._offer_head()
            self.trigger.on_learned(self.learner)
            return
        self.refused += not accepted
        self._trained |= self._in_round
        self.trigger.on_end(self._candidate, accepted)
        self._tell_scenario()
        self._offer_head()
        self.trigger.on_learned(self.learner)

    def _decide(self, result: Candidate) -> bool:
        learner = self.learner
        accepted = judge(result.outcomes, self.recipe.gate, [self._here]).accepted
        if accepted:
            self._version += 1
            self.updates += 1
            learner.set_live(result.live_update, result.classes, self._version)
        elif isinstance(result, RoundCandidate):
            learner.go_back()
        return accepted

    def examine(self, samples: Sequence[Sample]) -> list[str]:
        """Ask the live model; another prior goes live where a request would bring one live."""
        head = self.learner.head
        if not head.config.enabled or head.config.prior == 0 or not samples:
            return self.predict(samples)
        classes, prior = self.learner.live.classes, copy.deepcopy(head.prior)
        rows = self.learner.live_head
        served, told = rows.prior, dict(zip(classes, torch.softmax(rows.prior, dim=0).tolist()))
        features = self._foresight.features(samples)
        said = []
        for logits in features @ rows.weight.T + rows.bias:
            said.append(classes[int((logits + served).argmax())])
            prior.on_frame(torch.softmax(logits, dim=0), classes)
            if prior.moved(told, classes) > MOVED:
                served, told = prior.offsets(classes), prior.shares(classes)
        return said

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Ask the live model."""
        return self._foresight.predict(samples)
