# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The head that is served: the instant head, what it has learned, frames without a label, and the
prior of the classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple
import zlib

import torch
from torch import Tensor

from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.cost import charge, counted_as, HEAD
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.drift import Drift
from etuner_ros.core.learn.familiar import Familiar
from etuner_ros.core.learn.feature_bank import Compute, FeatureBank
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.place_prior import PlacePrior
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.self_training import Unlabelled
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames
from etuner_ros.core.learn.within_class import WithinClass
from etuner_ros.core.models.weights import HEAD_LIKENESS, HEAD_PRIOR, HEAD_TENSORS, State

MOST_LEARNED = 5000  # samples whose label the head can take back exactly, at 8 KB each
MOST_COMPUTED = 32  # samples of earlier rounds whose feature a round computes anew
MOST_COMPARED = 128  # samples that tell where a feature went whose picture has not come
MOST_REFITTED = 500  # labels between rounds; with more, frames without one add little
MOST_NOTED = 10_000  # samples whose label the prior knows
MOST_REMEMBERED = 300  # samples whose feature by the deployed network is kept, 8 KB each
MOVED = 0.3  # of the probability that the prior gives to other classes since it was served last


class HeadRows(NamedTuple):
    """A head as it is served: `weight @ feature + bias + prior`."""

    weight: Tensor  # (C, D) float32
    bias: Tensor  # (C,), without the prior
    prior: Tensor  # (C,), 0 for equally likely classes

    def state(self) -> State:
        """Return it as tensors of weights; the prior is told apart where there is one."""
        state = {
            HEAD_TENSORS[0]: self.weight.numpy().copy(),
            HEAD_TENSORS[1]: (self.bias + self.prior).numpy().copy(),
        }
        if bool(self.prior.any()):
            state[HEAD_PRIOR] = self.prior.numpy().copy()
        return state


class Kept(NamedTuple):
    """What is served of a class that the instant head has no sample of."""

    weight: Tensor  # (D,)
    bias: Tensor  # (), without the prior
    likeness: Tensor | None  # (D,), None where no thing of it was taught


@dataclass(frozen=True)
class Known:
    """How a head learned a sample."""

    row: Tensor  # (D,): to take the label back, this very feature is needed
    label: str
    weight: float
    scenario: Scenario
    followed: int = 0  # rounds since the feature was computed; see `Drift`
    thing: bool = False  # a thing in a box
    foretold: bool = False  # the row is where a feature went in a round, until its picture comes


@dataclass
class _Fit:
    """An instant head, and what it was made from, for one backbone."""

    backbone: str
    head: InstantHead
    familiar: Familiar
    tuned: bool  # a round has changed the network; else it is the deployed one, perhaps in 8 bit
    learned: dict[str, Known] = field(default_factory=dict)  # by sample id
    # Of samples that the last solve saw beside frames without a label: what the other labels alone
    # said of each. Guesses at these frames were made with its label, so they know it.
    by_labels: dict[str, str] = field(default_factory=dict)
    is_new: bool = False  # it was told something that what is served of it does not say


class ServedHead:
    """
    Owns the instant head of the live backbone, and that of a candidate until its verdict.

    :param backbone: digest of the deployed one, which is live at first
    :param frames: how many frames without a label are kept
    :param says: what the live head makes of a feature; nothing while it knows no class
    :param within: what pictures of one kind differ in, on the deployed backbone
    :param knows: whether things of a class look known to it, and one does
    """

    def __init__(
        self,
        features: int,
        config: HeadConfig,
        backbone: str,
        bank: FeatureBank,
        frames: UnlabelledFrames,
        says: Callable[[Tensor], str],
        within: WithinClass | None = None,
        knows: Callable[[str, Tensor | None], bool] = lambda _label, _thing: True,
    ) -> None:
        self.config, self.frames, self._measure = config, frames, within
        self._within = within if config.within_class else None
        self._features, self._bank, self._says, self._knows = features, bank, says, knows
        self._prior = PlacePrior(config)
        self._told: dict[str, float] = {}  # shares of the prior that is served
        self._noted: dict[str, str] = {}  # labels that the prior knows, by sample id
        # What the deployed network made of samples before the first round, by their id.
        self._by_deployed: dict[str, Tensor] = {}
        self._live = self._empty(backbone, tuned=False)
        self._candidate: _Fit | None = None

    def _empty(self, backbone: str, tuned: bool) -> _Fit:
        head = InstantHead(self._features, self.config, self._within)
        familiar = Familiar(self._measure, self._by_deployed if tuned else None)
        return _Fit(backbone, head, familiar, tuned)

    @property
    def is_new(self) -> bool:
        """
        Whether it was told something that the live head does not say, or other things are likely
        by now.
        """
        return self._live.is_new or self._prior.moved(self._told, self.classes()) > MOVED

    @is_new.setter
    def is_new(self, value: bool) -> None:
        self._live.is_new = value

    def on_offered(self) -> None:
        """Note that the head is proposed as it is now, with its prior."""
        self._live.is_new = False
        self._told = self._prior.shares(self.classes())

    def on_served(self, classes: Sequence[str], prior: Tensor) -> None:
        """Note the prior, (C,) logarithms, that the live head has, whoever made it."""
        self._told = dict(zip(classes, torch.softmax(prior, dim=0).tolist()))

    @property
    def prior(self) -> PlacePrior:
        """What is likely here and now, as far as labels and frames tell."""
        return self._prior

    @property
    def backbone(self) -> str:
        """Digest of the backbone that the live head is for."""
        return self._live.backbone

    @property
    def instant(self) -> InstantHead:
        """The instant head on the features of the live backbone."""
        return self._live.head

    @property
    def learned(self) -> Mapping[str, Known]:
        """What the live backbone's head has learned and can take back, by sample id."""
        return self._live.learned

    @property
    def uses_unlabelled(self) -> bool:
        """Whether frames without a label are learned from."""
        return self.config.enabled and self.config.unlabelled_weight > 0

    def note_label(self, sample_id: str, label: str, camera: str) -> None:
        """Tell the prior of a label, once."""
        if self._noted.get(sample_id) != label:
            self._noted[sample_id] = label
            known = self.classes()
            self._prior.on_label(label, known if label in known else [*known, label], camera)
            while len(self._noted) > MOST_NOTED:
                del self._noted[next(iter(self._noted))]

    def on_scenario_change(self) -> None:
        """Tell the prior that the surroundings changed."""
        self._prior.on_scenario_change()

    # Learning

    def teach(
        self, sample_id: str, label: str, row: Tensor, scenario: Scenario, thing: bool = False
    ) -> None:
        """
        Learn a sample, or its new label, once.

        :param row: (D,) of the live backbone; of a sample that was learned before the first counts
        :param thing: it is a thing in a box
        """
        old = self._live.learned.get(sample_id)
        with counted_as(HEAD):
            self._teach(self._live, sample_id, label, row, scenario, thing)
        is_new = old is None or old.label != label
        if is_new and thing and label != BACKGROUND:  # named rightly, it may look unknown
            self._live.is_new |= not self._knows(label, row)

    def _teach(
        self,
        fit: _Fit,
        sample_id: str,
        label: str,
        row: Tensor,
        scenario: Scenario,
        thing: bool,
    ) -> None:
        known = fit.learned.get(sample_id)
        if known is None:
            known = Known(row, label, 0.0, scenario, thing=thing)
        elif known.label == label:
            return
        else:  # of a relabelled one the row is what it was, exact or not
            row = known.row
            fit.by_labels.pop(sample_id, None)
            fit.head.unlearn(row, known.label, known.weight)
        weight = fit.head.learn(row, label)
        fit.learned[sample_id] = replace(
            known, label=label, weight=weight, scenario=scenario, thing=thing
        )
        if len(fit.learned) > MOST_LEARNED:  # a robot may run for months without a round
            sizes = Counter(x.label for x in fit.learned.values())
            largest = sizes.most_common(1)[0][0]
            del fit.learned[next(k for k, x in fit.learned.items() if x.label == largest)]
        if fit is self._live:
            # What the live head says already need not be sent; it goes with the next update.
            fit.is_new |= self._says(row) != label
        if fit.head.is_stale:
            self._solve(fit)

    def learn(self, samples: Sequence[Sample], compute: Compute) -> None:
        """
        Learn labelled pictures.

        :param compute: features of the live backbone, where they are not known
        """
        fit = self._live
        with counted_as(HEAD):
            self._give_up_foretold(fit, samples)
            rows = self._rows(fit.backbone, samples, compute)
            if fit.learned:
                for sample, row in zip(samples, rows):
                    self._teach(
                        fit, sample.sample_id, sample.label, row, sample.scenario, sample.thing
                    )
                self._note_things(samples)
                return
            fit.learned = _unsolved(samples, rows)
            self._solve(fit, compute)
            fit.is_new |= any(self._says(r) != s.label for s, r in zip(samples, rows))
            self._note_things(samples)

    def _give_up_foretold(self, fit: _Fit, samples: Sequence[Sample]) -> None:
        """Forget what was foretold of samples whose picture is here."""
        for sample in samples:
            known = fit.learned.get(sample.sample_id)
            if known is not None and known.foretold:
                del fit.learned[sample.sample_id]
                fit.by_labels.pop(sample.sample_id, None)
                fit.head.unlearn(known.row, known.label, known.weight)

    def _note_things(self, samples: Sequence[Sample]) -> None:
        """
        Note whether there are things of a class of which none looks known to the live head.

        Only that: a few of what was taught look unknown for good, and come again with each start.
        """
        names = {s.label for s in samples if s.thing and s.label != BACKGROUND}
        self._live.is_new |= any(not self._knows(name, None) for name in names)

    def learn_unlabelled(self, compute: Compute) -> None:
        """Solve the head anew from what it has learned and from frames without a label."""
        fit = self._live
        few = 0 < len(fit.learned) <= MOST_REFITTED
        if self.uses_unlabelled and few and len(self.frames):
            with counted_as(HEAD):
                self._solve(fit, compute, again=True)

    def _rows(self, backbone: str, samples: Sequence[Sample], compute: Compute) -> list[Tensor]:
        """Return features: as they were learned, or of the bank."""
        known = self._live.learned if backbone == self._live.backbone else {}
        others = [s for s in samples if s.sample_id not in known]
        made = dict(zip([s.sample_id for s in others], self._bank.rows(backbone, others, compute)))
        return [
            known[s.sample_id].row if s.sample_id in known else made[s.sample_id] for s in samples
        ]

    def _solve(
        self,
        fit: _Fit,
        compute: Compute | None = None,
        again: bool = False,
        frames: Sequence[Sample] | None = None,
    ) -> None:
        """
        Solve a head for all that it has learned, and for frames without a label.

        :param compute: features of frames; None leaves out those whose feature is not known
        :param again: with the penalty that it has, where that is not old
        :param frames: those without a label; None for all
        """
        keys, items = list(fit.learned), list(fit.learned.values())
        rows = torch.stack([x.row for x in items])
        labels = [x.label for x in items]
        unlabelled = self._unlabelled(fit, compute, frames, [x.scenario for x in items])
        if again and unlabelled is not None:
            weights = fit.head.relearn(rows, labels, unlabelled)
        else:
            weights = fit.head.rebuild(rows, labels, unlabelled=unlabelled)
        fit.by_labels = {}
        if unlabelled is not None:
            fit.by_labels = dict(zip(keys, fit.head.said_by_others))
        fit.head.prepare()
        fit.learned = {
            key: replace(item, weight=weight) for key, item, weight in zip(keys, items, weights)
        }

    def _unlabelled(
        self,
        fit: _Fit,
        compute: Compute | None,
        frames: Sequence[Sample] | None,
        label_scenes: list[Scenario],
    ) -> Unlabelled | None:
        if not self.uses_unlabelled:
            return None
        chosen = self.frames.samples if frames is None else list(frames)
        if compute is None:
            known = {s.sample_id: self._bank.get(fit.backbone, s.sample_id) for s in chosen}
            chosen = [s for s in chosen if known[s.sample_id] is not None]
            rows = [row for row in known.values() if row is not None]
        else:
            rows = self._bank.rows(fit.backbone, chosen, compute)
        if not chosen:
            return None
        return Unlabelled(torch.stack(rows), [s.scenario for s in chosen], label_scenes)

    def add_frame(self, sample: Sample, row: Tensor | None) -> list[str]:
        """
        Keep a frame that nobody labelled; it is learned from with the next labels.

        :param row: its feature on the live backbone, when it is known
        :return: ids of frames that made room
        """
        if row is not None:
            self._bank.put(self._live.backbone, sample.sample_id, row)
            known = self.classes()
            if self.config.enabled and self.config.prior > 0 and known:
                with counted_as(HEAD):
                    charge(2.0 * row.numel() * len(known))
                    posterior = torch.softmax(self._live.head.logits(row[None], known)[0], dim=0)
                self._prior.on_frame(posterior, known, sample.scenario.camera)
        return self.frames.add(sample)

    def answers(
        self,
        samples: Sequence[Sample],
        rows: Tensor,
        candidate: bool = False,
        kept: Mapping[str, Kept] | None = None,
    ) -> list[str]:
        """
        Return what the head makes of samples without its prior: of those that it has learned, what
        it would say had it learned all the others. Frames without a label say nothing here, as
        guesses at them were made by what was learned.

        :param rows: (n, D) their features
        :param candidate: that of the candidate's backbone
        :param kept: what else is served, by label
        """
        fit = self._candidate if candidate and self._candidate is not None else self._live
        known = [s.sample_id for s in samples if s.sample_id in fit.learned]
        said = _without_each(fit, known)
        logits, best = fit.head.logits(rows).max(dim=1)
        answers = [said.get(s.sample_id, fit.head.classes[i]) for s, i in zip(samples, best)]
        for label, (weight, bias, _) in (kept or {}).items():
            wins = rows.float() @ weight + bias > logits
            answers = [label if win else answer for answer, win in zip(answers, wins)]
        return answers

    # Taking back

    def _fits(self) -> list[_Fit]:
        return [self._live] if self._candidate is None else [self._live, self._candidate]

    def withdraw(self, sample_ids: Iterable[str]) -> None:
        """Forget samples, exactly."""
        for sample_id in sample_ids:
            self._noted.pop(sample_id, None)
            self._by_deployed.pop(sample_id, None)
            for fit in self._fits():
                old = fit.learned.pop(sample_id, None)
                fit.by_labels.pop(sample_id, None)
                if old is not None:
                    fit.head.unlearn(old.row, old.label, old.weight)
                    fit.is_new = True

    def rename(self, label: str, new_label: str) -> None:
        """Call a label otherwise in all that was learned."""
        self._prior.rename(label, new_label)
        for key in [k for k, said in self._noted.items() if said == label]:
            self._noted[key] = new_label
        for fit in self._fits():
            for key, old in list(fit.learned.items()):
                if old.label == label:
                    self._teach(fit, key, new_label, old.row, old.scenario, old.thing)
                    fit.is_new = True
            fit.by_labels = {
                key: new_label if said == label else said for key, said in fit.by_labels.items()
            }

    # Serving

    def knows(
        self, classes: Iterable[str], gone: Collection[str], candidate: bool = False
    ) -> bool:
        """
        Return whether the instant head can serve classes: it has samples of each, or they are gone
        for good.
        """
        if not self.config.enabled:
            return False
        fit = self._candidate if candidate and self._candidate is not None else self._live
        told = bool(fit.learned or fit.head.classes)
        return told and not self.lacks(classes, gone, candidate)

    def lacks(
        self, classes: Iterable[str], gone: Collection[str], candidate: bool = False
    ) -> list[str]:
        """Return classes that the instant head has no sample of, though they are not gone."""
        fit = self._candidate if candidate and self._candidate is not None else self._live
        return [c for c in classes if not fit.head.knows(c) and c not in gone]

    def classes(self) -> tuple[str, ...]:
        """Return the labels that the live backbone's head has samples of."""
        return tuple(c for c in self._live.head.classes if self._live.head.knows(c))

    def rows(
        self,
        classes: Sequence[str],
        candidate: bool = False,
        kept: Mapping[str, Kept] | None = None,
    ) -> HeadRows:
        """
        Return the head to serve, rows in the order of `classes`; a class without samples is never
        said.

        :param candidate: that of the candidate's backbone
        :param kept: of classes without samples that are said nevertheless, by label
        """
        fit = self._candidate if candidate and self._candidate is not None else self._live
        weight, bias = fit.head.linear(classes)
        for label, (row, offset, _) in (kept or {}).items():
            weight[classes.index(label)], bias[classes.index(label)] = row, offset
        return HeadRows(weight, bias, self.offsets(classes))

    def likeness(
        self,
        classes: Sequence[str],
        candidate: bool = False,
        kept: Mapping[str, Kept] | None = None,
    ) -> State:
        """
        Return how like what was taught of each class things are, as a tensor of weights; nothing
        while no thing in a box was taught.

        :param candidate: on the candidate's backbone
        :param kept: of classes without samples that are said nevertheless, by label
        """
        fit = self._candidate if candidate else self._live
        if fit is None:
            return {}
        with counted_as(HEAD):
            rows = fit.familiar.rows(fit.learned, classes)
        told = {n: k.likeness for n, k in (kept or {}).items() if k.likeness is not None}
        if told and rows is None:
            rows = torch.zeros(len(classes), self._features)
        if rows is None:
            return {}
        for label, row in told.items():
            rows[classes.index(label)] = row
        return {HEAD_LIKENESS: rows.half().numpy()}

    def offsets(self, classes: Sequence[str]) -> Tensor:
        """Return the prior of classes, (C,) float32."""
        return self._prior.offsets(classes) if self.config.enabled else torch.zeros(len(classes))

    # Backbones

    def fit_candidate(
        self,
        backbone: str,
        samples: Sequence[Sample],
        compute: Compute,
        anew: Collection[str],
        all_frames: bool,
        tuned: bool = True,
    ) -> None:
        """
        Solve a head for the backbone that a round made.

        Features are computed of samples that have none, of those in `anew`, and of some others;
        the rest follows; see `Drift`.

        :param anew: ids of samples
        :param all_frames: learn from all frames without a label; else from none, as their
            features would have to be computed anew, and those of frames to come are free
        :param tuned: whether a round has changed the network; else it is quantised alone
        """
        unique = {s.sample_id: s for s in samples}
        old = {i: known for i, known in self._live.learned.items() if not known.foretold}
        follow = [i for i in unique if i in old and i not in anew]
        follow.sort(key=lambda i: (old[i].followed, zlib.crc32(i.encode())))
        follow = follow[: max(len(follow) - MOST_COMPUTED, 0)]
        rest = set(follow)
        chosen = [s for i, s in unique.items() if i not in rest]
        rows = dict(zip([s.sample_id for s in chosen], self._bank.rows(backbone, chosen, compute)))
        pairs = [(old[i].row, row) for i, row in rows.items() if i in old]
        if rest:
            drift = Drift(*(torch.stack(side) for side in zip(*pairs)))
            rows |= zip(follow, drift.follow(torch.stack([old[i].row for i in follow])))
        if not self._live.tuned:
            things = [i for i, known in old.items() if known.thing] or list(old)
            before = self._by_deployed  # exact, where what it learned only follows a round
            exact = [i for i in things if i in before or not old[i].followed]
            self._by_deployed = {i: before.get(i, old[i].row) for i in exact[-MOST_REMEMBERED:]}
        fit = self._candidate = self._empty(backbone, tuned)
        fit.learned = {
            i: Known(
                rows[i],
                s.label,
                0.0,
                s.scenario,
                old[i].followed + 1 if i in rest else 0,
                s.thing,
            )
            for i, s in unique.items()
        }
        frames = None if all_frames else ()
        if fit.learned:
            self._solve(fit, compute, frames=frames)

    def on_accepted(self, backbone: str, awaited: Iterable[str] = ()) -> list[str]:
        """
        Take the candidate's head for the live one.

        :param backbone: digest of the candidate's
        :param awaited: ids of samples whose label was heard and whose picture has not come yet
        :return: ids of frames without a label that are given up: their features would have to be
            computed anew, those of frames to come are free
        """
        before = self._live
        self._live, self._candidate = self._candidate or self._empty(backbone, True), None
        with counted_as(HEAD):
            self._teach_again(before, awaited)
        self._bank.keep_only(self._live.backbone)
        known = [
            s.sample_id
            for s in self.frames.samples
            if self._bank.get(self._live.backbone, s.sample_id) is not None
        ]
        return self.frames.keep_only(set(known)) if self.uses_unlabelled else []

    def _teach_again(self, before: _Fit, sample_ids: Iterable[str]) -> None:
        """
        Have the live head learn what the one before it was taught, and that has no picture yet.

        There is no feature of it by the new backbone: the one that there is follows the round,
        until the picture comes.
        """
        live = self._live
        missing = {
            i: before.learned[i]
            for i in sample_ids
            if i in before.learned and i not in live.learned
        }
        if not missing:
            return
        pairs = [
            (before.learned[i].row, known.row)
            for i, known in live.learned.items()
            if i in before.learned and not known.followed and not before.learned[i].foretold
        ]
        if not pairs:
            return
        drift = Drift(*(torch.stack(side) for side in zip(*pairs[-MOST_COMPARED:])))
        rows = drift.follow(torch.stack([known.row for known in missing.values()]))
        for (key, known), row in zip(missing.items(), rows):
            self._teach(live, key, known.label, row, known.scenario, known.thing)
            if key in live.learned:  # the largest class may have made room
                live.learned[key] = replace(live.learned[key], followed=1, foretold=True)

    def on_lost(self) -> None:
        """Give the candidate's head up."""
        self._candidate = None
        self._bank.keep_only(self._live.backbone)

    def start_over(self, backbone: str, tuned: bool) -> None:
        """
        Begin anew for another backbone.

        :param tuned: whether a round has changed the network
        """
        self._live, self._candidate = self._empty(backbone, tuned), None
        self._bank.keep_only(backbone)
        self.is_new = False


def _without_each(fit: _Fit, known: Sequence[str]) -> dict[str, str]:
    """Return what a head would say of samples that it learned, of each by the other labels."""
    told = {i: fit.by_labels[i] for i in known if fit.head.knows(fit.by_labels.get(i, ''))}
    items = [(i, fit.learned[i]) for i in known if i not in told]
    if not items:
        return told
    said = fit.head.without_each(
        torch.stack([x.row for _, x in items]),
        [x.label for _, x in items],
        [x.weight for _, x in items],
    )
    return {**told, **dict(zip([i for i, _ in items], said))}


def _unsolved(samples: Sequence[Sample], rows: Sequence[Tensor]) -> dict[str, Known]:
    """Return what a head is about to learn."""
    return {
        s.sample_id: Known(row, s.label, 0.0, s.scenario, thing=s.thing)
        for s, row in zip(samples, rows)
    }
