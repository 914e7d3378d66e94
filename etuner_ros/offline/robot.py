# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A robot without nodes: what they do with frames and labels, one after the other, on the clock of
a recording.

It joins the very objects that the nodes join. Training takes no time of the recording; predictions
are made in float, as in the benchmark: nothing is quantised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
import time

import numpy as np
import torch

from etuner_ros.core.decide.gate import judge, Verdict
from etuner_ros.core.decide.lazy_tune import LazyTune
from etuner_ros.core.decide.round_kind import RoundKind
from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.images.codec import decode, resize_square
from etuner_ros.core.labels.batches import BatchMaker
from etuner_ros.core.labels.desk import Code, Correction, GONE, LabelDesk
from etuner_ros.core.labels.frame_buffer import Frame, FrameBuffer, FrameKey
from etuner_ros.core.labels.joiner import Joiner
from etuner_ros.core.labels.records import Stored
from etuner_ros.core.labels.spelling import composed
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.learn.candidates import Candidate, RoundCandidate
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.round import NothingMade
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.deploy import choose_exemplars
from etuner_ros.core.models.networks import choose_device, from_base
from etuner_ros.core.models.weights import (
    backbone_of,
    BaseWeights,
    HEAD_ALL,
    HEAD_TENSORS,
    pack,
    pack_base,
    sha256,
)
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.tune.frame_features import FrameFeatures
from etuner_ros.offline.recording import Renaming, Said, Seen
from etuner_ros.offline.settings import RobotSettings

EXEMPLARS = 10  # of a class that travel with the weights, as `etuner deploy` has it


@dataclass(frozen=True)
class Labelled:
    """A label that was taken, beside what was predicted of its frame when it was seen."""

    seconds: float  # since the recording began
    label: str  # that counts
    predicted: str
    untuned: str  # what the weights that it began with say of the frame

    @property
    def right(self) -> bool:
        """Whether the prediction was right."""
        return self.label == self.predicted

    @property
    def right_untuned(self) -> bool:
        """Whether it would have been right if nothing had been learned."""
        return self.label == self.untuned


@dataclass(frozen=True)
class LearnedRound:
    """What became of a round."""

    seconds: float  # since the recording began
    reason: str  # why it started
    labels: int  # that it trained on
    iterations: int
    before: float  # accuracy on held-back samples, in [0, 1]; NaN when there are none
    after: float
    accepted: bool
    verdict: str
    frozen: int  # blocks
    took_s: float  # here


@dataclass
class Learned:
    """What a recording taught."""

    labels: list[Labelled] = field(default_factory=list)
    rounds: list[LearnedRound] = field(default_factory=list)
    heads: int = 0  # that went live
    heads_refused: int = 0
    retreats: int = 0  # to the deployed network, as rounds had lost more than they had won
    scenario_changes: list[float] = field(default_factory=list)  # seconds
    refused: Counter[str] = field(default_factory=Counter)  # labels, by the name of the code
    gone: dict[FrameKey, Code] = field(default_factory=dict)  # labels whose frame was not there
    frames: int = 0
    version: int = 0


class OfflineRobot:
    """
    Sees frames and hears labels.

    :param folder: for the label store; as long as the robot is used
    :param on_round: told of each round that ends
    """

    def __init__(
        self,
        base: BaseWeights,
        settings: RobotSettings,
        folder: Path,
        on_round: Callable[[LearnedRound], None] = lambda _round: None,
    ) -> None:
        self.settings, self._base, self._on_round = settings, base, on_round
        self.learned = Learned()
        self._now = 0.0

        torch.set_num_threads(settings.train.threads)
        torch.manual_seed(settings.train.seed)
        device = choose_device(settings.train.device)
        network = from_base(base.state, base.spec).to(device)
        self.learner = Learner(
            network,
            settings.train,
            settings.sim_freeze,
            settings.head,
            base_sha256=base.sha256,
        )
        size = base.spec.input_size
        self.learner.add_exemplars(
            [
                Sample.of(f'deployed/{i}', label, DEPLOYED, resize_square(decode(code), size))
                for i, (label, code) in enumerate(base.exemplars)
            ]
        )
        self.learner.knows_all_labels = True
        engine = settings.engine if device.type == 'cpu' else 'torch'
        wanted = EngineSettings(engine, 'fp32')
        self._engines = Engines(wanted, str(device), settings.train.threads)
        self._engines.network(base.spec, base.state, wait=True)  # its graph is there from now on
        self._live, self._untuned = (LiveModel(base, self._engines) for _ in range(2))
        self._lazy = LazyTune(settings.lazy)
        self._scenarios = ScenarioLog(settings.scenario)
        self._features = FrameFeatures(settings.head.enabled, self._clock)

        collector = settings.collector
        self._store = LabelStore(folder / 'labels.db')
        self._buffer = FrameBuffer(collector.keep_s, int(collector.keep_mb * 1e6), self._clock)
        # Those who sent too much were refused when it was recorded.
        rules = replace(collector.rules, author_rate_hz=0.0)
        self._desk = LabelDesk(self._store, self._buffer, rules, self._clock)
        self._joiner = Joiner[Correction](
            self._buffer, self._store, collector.join_wait_s, self._clock
        )
        self._maker = BatchMaker(
            self._store, collector.batch_size, collector.batch_timeout_s, self._clock
        )
        self._next_head = 0.0

    def _clock(self) -> float:
        return self._now

    def take(self, seconds: float, event: Seen | Said | Renaming) -> None:
        """Take what the recording holds of a moment, in seconds since it began."""
        self._now = seconds
        for late in self._joiner.overdue():
            self._answer(late)
        if isinstance(event, Seen):
            self._see(event)
        elif isinstance(event, Renaming):
            self._rename(event)
        else:
            self._hear(event)
        self._go_on()

    def finish(self) -> None:
        """Learn what still waits."""
        self._now += max(self.settings.collector.join_wait_s, 0.0) + 1e-3
        for late in self._joiner.overdue():
            self._answer(late)
        self._now += self.settings.collector.batch_timeout_s
        self._go_on()
        self._now += self.settings.head.interval_s
        self._go_on()

    def close(self) -> None:
        """Close the label store, and end what engines still make."""
        self._store.close()
        self._engines.close()

    # Frames and labels

    def _see(self, seen: Seen) -> None:
        """Predict a frame and keep it, as `inference` and `label_collector` do."""
        self.learned.frames += 1
        result = self._live.predict(seen.image, 1)
        key, name = seen.key, _name(seen.key)
        if self._scenarios.on_request(key.source, key.stamp_ns, result.appearance, result.version):
            self._lazy.on_scenario_change()
            self.learned.scenario_changes.append(self._now)
            self.learner.set_scenarios(self._scenarios.current)
        self._lazy.on_request()
        feature = np.asarray(result.features, np.float16).tobytes()
        self._features.add(name, result.backbone, feature)
        self._buffer.add(
            Frame(
                key,
                seen.data,
                seen.format,
                result.labels[0] if result.labels else '',
                result.scores[0] if result.scores else 0.0,
                result.novelty,
                result.version,
            )
        )
        if self.learner.wants_unlabelled and self._features.wants_frame():
            self._features.put({'id': name})
            if (frame := self._features.take()) is not None:
                size = self.learner.input_size
                where = self._scenarios.at(key.source, key.stamp_ns)
                sample = Sample.of(name, '', where, resize_square(seen.image, size))
                known = {name: _feature(frame['feature'])} if frame['feature'] else {}
                self.learner.add_unlabelled([sample], known, frame['backbone'])
        for waiting in self._joiner.arrived(key):
            self._answer(waiting)

    def _hear(self, said: Said) -> None:
        key = said.correction.key
        if said.picture is not None:  # of a labelled batch, which has the label that counts
            stored = self._store.find(key)
            if stored is not None:
                self._settle(stored, said.correction)
                return
            if said.correction.withdraw:
                return
            if self._buffer.get(key) is None:
                self._keep(key, *said.picture)
        if not self._joiner.hold(key, said.correction):
            self._answer(said.correction)

    def _settle(self, frame: Frame, counts: Correction) -> None:
        """Have the label that counts be that of a batch; what was heard says nothing new."""
        label = counts.label
        if self._store.label_of(frame.key) != label:
            self._take_in(frame, self._store.add(frame, label, counts.author, 0, overrule=True))

    def _rename(self, renaming: Renaming) -> None:
        """Call a label otherwise, in what is stored and what was learned."""
        new = composed(renaming.new_label)
        # What is heard is spelled one way; weights of an earlier release may have the other one.
        for name in {renaming.label, composed(renaming.label)} - {new}:
            self._store.rename(name, new)
            self.learner.rename(name, new)

    def _keep(self, key: FrameKey, kind: str, picture: bytes) -> None:
        """Keep a frame that came with its label only, predicted as it would have been."""
        result = self._live.predict(decode(picture), 1)
        label = result.labels[0] if result.labels else ''
        self._buffer.add(Frame(key, picture, kind, label, 0.0, 0.5, result.version))

    def _answer(self, correction: Correction) -> None:
        """Store a label and learn it at once, as `label_collector` and `tuner` do."""
        receipt = self._desk.answer(
            correction,
            0,
            lambda key: self._scenarios.at(key.source, key.stamp_ns).number,
        )
        if receipt.code in GONE:
            self.learned.gone[correction.key] = receipt.code
            return
        if receipt.code is not Code.ACCEPTED:
            self.learned.refused[receipt.code.name] += 1
            return
        assert receipt.frame is not None
        assert receipt.stored is not None
        self.learned.gone.pop(correction.key, None)
        self._take_in(receipt.frame, receipt.stored)

    def _take_in(self, frame: Frame, stored: Stored) -> None:
        """Learn at once what counts of a frame now."""
        key, label = frame.key, stored.label
        name, kept = _name(key), self._features.of(_name(key))
        if not label:  # taken back, or people disagree
            self.learner.withdraw([name])
            return
        before = self._untuned.predict(decode(frame.image), 1).labels
        self.learned.labels.append(
            Labelled(self._now, label, frame.label, before[0] if before else '')
        )
        if kept is not None:
            where = self._scenarios.at(key.source, key.stamp_ns)
            self.learner.correct(name, label, _feature(kept[1]), kept[0], where)

    # Learning

    def _go_on(self) -> None:
        """Hand out batches, offer the head, start a round, when each is due."""
        for number in self._maker.due():
            self._learn(number)
        if self._now >= self._next_head:
            self._offer_head()
        if self._lazy.wants_retreat:
            self._retreat()
        elif self.settings.rounds and self._lazy.should_tune and self.learner.pending:
            self._round()

    def _learn(self, number: int) -> None:
        """Take a labelled batch."""
        batch, learner = self._store.batch(number), self.learner
        known, size = set(learner.live.classes), learner.input_size
        labelled = [s for s in batch.samples if s.label]
        learner.withdraw([_name(s.key) for s in batch.samples if not s.label])
        learner.add_samples(
            [
                Sample.of(
                    _name(s.key),
                    s.label,
                    self._scenarios.at(s.source, s.stamp_ns),
                    resize_square(decode(s.image), size),
                    s.predicted,
                )
                for s in labelled
            ]
        )
        if labelled:
            self._lazy.on_batch(
                new_classes=any(s.label not in known for s in labelled),
                errors=sum(s.label != s.predicted for s in labelled),
            )
        self._lazy.on_prospects(learner.weigh_rounds())

    def _offer_head(self) -> None:
        """Bring the instant head live when it has learned something."""
        head = self.learner.propose_head()
        if head is None:
            return
        self._next_head = self._now + self.settings.head.interval_s
        if self._decide(head).accepted:
            self.learned.heads += 1
        else:
            self.learned.heads_refused += 1

    def _round(self) -> None:
        """Run a round to its end; the recording waits."""
        learner, reason, new = self.learner, self._lazy.reason, len(self.learner.pending)
        began = time.perf_counter()
        learner.set_scenarios(self._scenarios.current)
        self._lazy.on_round_start()
        *_, made = learner.run_round()
        assert isinstance(made, RoundCandidate)
        verdict = self._decide(made)
        if not verdict.accepted:
            learner.go_back()
        live = made.accuracy if verdict.accepted else made.accuracy_before
        self._lazy.on_round_end(made.iterations, live, verdict.accepted)
        self._lazy.on_prospects(learner.weigh_rounds())
        ended = LearnedRound(
            self._now,
            reason.removeprefix('start: '),
            new,
            made.iterations,
            made.accuracy_before,
            made.accuracy,
            verdict.accepted,
            verdict.reason,
            len(made.frozen),
            time.perf_counter() - began,
        )
        self.learned.rounds.append(ended)
        self._on_round(ended)

    def _retreat(self) -> None:
        """Put the deployed network back, as rounds have lost more than they have won."""
        self._lazy.on_retreat_start()
        self.learner.set_scenarios(self._scenarios.current)
        try:
            *_, made = self.learner.run_round(kind=RoundKind.RETREAT)
        except NothingMade:
            return
        assert isinstance(made, RoundCandidate)
        accepted = self._decide(made).accepted
        self._lazy.on_retreat_end(accepted)
        if accepted:
            self.learned.retreats += 1
        else:
            self.learner.go_back()
        self._lazy.on_prospects(self.learner.weigh_rounds())

    def _decide(self, candidate: Candidate) -> Verdict:
        """Have the gate judge a candidate, and bring it live when it passes."""
        current = [Scenario(c, n) for c, n in self._scenarios.current.items()]
        verdict = judge(candidate.outcomes, self.settings.gate, current or None)
        if verdict.accepted:
            self.learned.version += 1
            version, update = self.learned.version, candidate.live_update
            head = pack({n: update[n] for n in HEAD_ALL if n in update})
            backbone = bytearray(pack(backbone_of(update)))
            slot = self._live.prepare(
                version,
                candidate.classes,
                bytearray(head),
                sha256(head),
                candidate.backbone,
                backbone,
            )
            self._live.swap(slot)
            self.learner.set_live(update, candidate.classes, version)
            move = getattr(candidate, 'appearance_move', ())
            self._scenarios.on_version(version, candidate.parent, move)
        return verdict

    def weights(self) -> bytes:
        """
        Return what is live as base weights, as `etuner deploy` makes them: without the prior,
        which is of the place where the recording ended.
        """
        learner, rows = self.learner, self.learner.live_head
        own = [(s.label, s.jpeg) for s in learner.book.newest(10**9) if s.scenario != DEPLOYED]
        pictures, labels = [decode(code) for _, code in own], [label for label, _ in own]
        travel = choose_exemplars(pictures, labels, EXEMPLARS)
        here = Counter(label for label, _ in travel)
        travel += [(n, code) for n, code in self._base.exemplars if here[n] < EXEMPLARS]
        state = learner.live.state()
        state[HEAD_TENSORS[0]], state[HEAD_TENSORS[1]] = rows.weight.numpy(), rows.bias.numpy()
        spec = replace(self._base.spec, classes=tuple(learner.live.classes))
        return pack_base(state, spec, learner.live.unit_sizes, travel)


def _name(key: FrameKey) -> str:
    """Return what a frame is called in the learner."""
    return f'{key.source}/{key.stamp_ns}/{key.frame_id}/{key.uid:x}'


def _feature(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.float16).float()
