# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Ours and its rivals on frames with things: what each learns from labels, and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch

from etuner_ros.bench.boxes_region_head import RegionHead, Regions, regions_of, RegionSettings
from etuner_ros.bench.boxes_regressor import moved, offsets
from etuner_ros.bench.boxes_score import Answer, RIGHT, Truth
from etuner_ros.core.boxes.geometry import Boxes, Floats, overlaps
from etuner_ros.core.boxes.readout import BACKGROUND, read
from etuner_ros.core.learn.familiar import Familiar
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.within_class import WithinClass
from etuner_ros.core.models.likeness import Likeness, Within


@dataclass(frozen=True)
class Shot:
    """A frame, its truth and what the deployed network makes of it; k things, p proposals."""

    number: int
    stamp: float  # s
    place: str
    visit: int
    size: tuple[int, int]  # width and height, px
    boxes: Boxes  # (k, 4) of things in view
    names: tuple[str, ...]  # k
    hidden: Boxes  # (h, 4) of what is hardly in view
    features: Floats  # (k, D) of the boxes
    whole: Floats  # (D,) of the whole image
    proposals: Boxes  # (p, 4), best first
    proposal_scores: Floats  # (p,)
    proposal_names: tuple[str, ...]  # p, the proposer's own; '' where it has none
    proposed: Floats  # (p, D), features
    steadied: Floats | None = None  # (p, D), with what was seen of each before; None: as proposed

    @property
    def looks(self) -> Floats:
        """What proposals are named by, (p, D)."""
        return self.proposed if self.steadied is None else self.steadied

    def truth(self) -> Truth:
        """Return what answers are compared with."""
        return Truth(self.boxes, self.names, self.hidden)


@dataclass(frozen=True)
class Lesson:
    """A labelled frame: which of its things somebody put a box around and named."""

    shot: Shot
    taught: tuple[int, ...]  # places in its boxes


def taught(lesson: Lesson, settings: RegionSettings) -> Regions:
    """Return what a labelled frame teaches."""
    shot, rows = lesson.shot, list(lesson.taught)
    return regions_of(
        shot.boxes[rows],
        [shot.names[i] for i in rows],
        shot.features[rows],
        shot.proposals,
        shot.proposed,
        settings,
    )


class Method(Protocol):
    """Learns from labelled frames, once, and answers frames."""

    def teach(self, lessons: Sequence[Lesson], seed: int) -> None:
        """Learn from all lessons."""

    def answer(self, shot: Shot) -> Answer:
        """Say what is in a frame, by its proposals."""


def _with_track(feature: Floats, sightings: Floats) -> Floats:
    """
    Return half of what was labelled and half the mean of what else was seen of its track, (D,).

    :param sightings: (n, D); none leave the feature as it is
    """
    if not len(sightings):
        return feature
    return np.asarray(0.5 * feature + 0.5 * sightings.mean(axis=0), np.float32)


class Followed(Protocol):
    """Knows what is seen of things from frame to frame."""

    def sightings(self, shot: Shot, place: int) -> Floats:
        """Return what else was seen of the track of a proposal near its frame, (n, D)."""


def evidence_of(logits: Floats, classes: Sequence[str]) -> Floats:
    """
    Return how much speaks for the best name of each region, (n,): its logit, and how far it is
    ahead of the next one.

    :param logits: (n, C)
    """
    ordered = np.sort(logits[:, [i for i, name in enumerate(classes) if name != BACKGROUND]])
    best = ordered[:, -1]
    second = ordered[:, -2] if ordered.shape[1] > 1 else 0.0
    return np.asarray(2.0 * best - second, np.float32)


def _answer(
    shot: Shot,
    classes: Sequence[str],
    logits: Floats,
    boxes: Boxes | None = None,
    scores: Floats | None = None,
    likeness: Floats | None = None,
) -> Answer:
    """
    Read the regions of a frame as the robot does; names are forced where it would say "unknown".

    :param boxes: None: the proposals of the frame, with their scores
    """
    if boxes is None:
        boxes = shot.proposals
    scores = shot.proposal_scores if scores is None else scores
    objects = read(classes, logits, boxes, shot.size, proposed=scores, likeness=likeness)
    names = [names[0] for names in objects.labels]
    # Where there is no likeness to what was taught, the head's evidence is what there is.
    told = likeness is not None and not np.isnan(objects.familiar).any()
    evidence = objects.familiar if told else evidence_of(logits[objects.places], classes)
    return Answer(objects.boxes, names, objects.ranks, evidence, objects.unknown)


class Ours:
    """
    What the robot does: the instant head learns each taught box, nothing else of its frame.

    :param tapped: somebody touches the proposal that shows a thing, and draws a box only where
        there is none; else all boxes are drawn, and exact
    :param within: what ships with the package for the deployed network
    :param steady: names a thing by what was seen of it in the frames before, too
    :param tracks: what was tapped is followed, and the rest of its track learned, too, which a
        robot does not do
    """

    def __init__(
        self,
        tapped: bool = False,
        within: WithinClass | None = None,
        tracks: Followed | None = None,
        steady: bool = True,
    ) -> None:
        self.tapped, self.within, self.tracks, self.steady = tapped, within, tracks, steady

    def teach(self, lessons: Sequence[Lesson], seed: int) -> None:
        """Learn from all lessons, without any chance."""
        rows = [(self._feature(x.shot, i), x.shot.names[i]) for x in lessons for i in x.taught]
        self.head = InstantHead(len(rows[0][0]), within=self.within)
        features = torch.from_numpy(np.stack([feature for feature, _ in rows]))
        self.head.rebuild(features, [name for _, name in rows])
        things = {str(i): _Thing(features[i], name) for i, (_, name) in enumerate(rows)}
        familiar = Familiar(self.within).rows(things, self.head.classes)
        self.likeness = None
        if familiar is not None and self.within is not None:
            shipped = Within(*(part.numpy() for part in self.within))
            self.likeness = Likeness(familiar.numpy(), shipped)

    def _feature(self, shot: Shot, thing: int) -> Floats:
        """Return what is learned of a thing, (D,)."""
        if self.tapped and len(shot.proposals):
            upon = overlaps(shot.boxes[thing][None], shot.proposals)[0]
            if upon.max() >= RIGHT:
                place = int(upon.argmax())
                if self.tracks is None:
                    return shot.proposed[place]
                return _with_track(shot.proposed[place], self.tracks.sightings(shot, place))
        return shot.features[thing]

    def answer(self, shot: Shot) -> Answer:
        """Read the proposals."""
        looks = torch.from_numpy(shot.looks if self.steady else shot.proposed)
        logits = self.head.logits(looks).numpy().astype(np.float32)
        likeness = self.likeness(shot.proposed) if self.likeness else None
        return _answer(shot, self.head.classes, logits, likeness=likeness)


class _Thing(NamedTuple):
    """What was taught of a thing."""

    row: torch.Tensor
    label: str
    thing: bool = True


@dataclass
class WithProposals:
    """
    The head of regions, or parts of it: proposals of a labelled frame are samples, too.

    :param background: whether there is a class for what shows no thing
    :param regressor: whether boxes are refined
    """

    settings: RegionSettings = field(default_factory=RegionSettings)
    background: bool = True
    regressor: bool = True
    within: WithinClass | None = None

    def teach(self, lessons: Sequence[Lesson], seed: int) -> None:
        """Learn from all lessons, without any chance."""
        frames = self._frames(lessons)
        if not self.background:
            frames = [_without_background(frame) for frame in frames]
        features = lessons[0].shot.whole.shape[0]
        self.head = RegionHead(features, self.settings, self.within)
        self.head.fit(frames)

    def _frames(self, lessons: Sequence[Lesson]) -> list[Regions]:
        """Return what labels teach."""
        return [taught(lesson, self.settings) for lesson in lessons]

    def answer(self, shot: Shot) -> Answer:
        """Read the proposals."""
        refiner = self.head.refiner if self.regressor else None
        boxes = refiner.refine(shot.proposed, shot.proposals) if refiner else None
        return _answer(shot, self.head.head.classes, self.head.logits(shot.looks), boxes)


def _without_background(frame: Regions) -> Regions:
    rows = [i for i, name in enumerate(frame.labels) if name != BACKGROUND]
    return replace(
        frame,
        features=frame.features[rows],
        labels=[frame.labels[i] for i in rows],
        weights=frame.weights[rows],
    )


class WholeImages:
    """
    Names of whole frames teach the head; it then names proposals.

    :ivar crops: whether it answers by proposals; else by one name for the frame, with its border
        for a box
    """

    def __init__(self, crops: bool, within: WithinClass | None = None) -> None:
        self.crops, self.within = crops, within

    def teach(self, lessons: Sequence[Lesson], seed: int) -> None:
        """Learn each name of a frame, without its box."""
        rows = [(x.shot.whole, x.shot.names[i], len(x.taught)) for x in lessons for i in x.taught]
        self.head = InstantHead(len(rows[0][0]), within=self.within)
        self.head.rebuild(
            torch.from_numpy(np.stack([r[0] for r in rows])),
            [r[1] for r in rows],
            torch.tensor([1.0 / r[2] for r in rows]),
        )

    def answer(self, shot: Shot) -> Answer:
        """Name the proposals, or the frame."""
        features = shot.looks if self.crops else shot.whole[None]
        logits = self.head.logits(torch.from_numpy(features)).numpy().astype(np.float32)
        if self.crops:
            return _answer(shot, self.head.classes, logits)
        whole = np.array([[0, 0, *shot.size]], np.float32)
        return _answer(shot, self.head.classes, logits, whole, np.ones(1, np.float32))


class ProposersOwn:
    """
    The proposer's own names, where it has one for a kind.

    :param names: of the proposer's classes: the kind of the stream that is meant
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def teach(self, lessons: Sequence[Lesson], seed: int) -> None:
        """Learn nothing."""

    def answer(self, shot: Shot) -> Answer:
        """Say what it says."""
        names = [self.names.get(name, name) for name in shot.proposal_names]
        return Answer(shot.proposals, names, shot.proposal_scores, shot.proposal_scores)


class ByGradient:
    """
    The head of Fast R-CNN (arXiv 1504.08083) on the same features: softmax over kinds and
    background, smooth L1 on the offsets of boxes, trained by Adam on the same samples.

    :param hidden: width of a hidden layer; 0 for none
    """

    def __init__(self, hidden: int = 0, epochs: int = 20, step: float = 1e-4) -> None:
        self.hidden, self.epochs, self.step = hidden, epochs, step

    def teach(self, lessons: Sequence[Lesson], seed: int) -> None:
        """Train from the start."""
        torch.manual_seed(seed)
        frames = [taught(lesson, RegionSettings()) for lesson in lessons]
        labels = [name for frame in frames for name in frame.labels]
        self.classes = list(dict.fromkeys(labels))
        features = torch.from_numpy(np.concatenate([f.features for f in frames]))
        paired = torch.from_numpy(np.concatenate([f.paired for f in frames]))
        wanted = torch.from_numpy(np.concatenate([offsets(f.proposals, f.boxes) for f in frames]))
        target = torch.tensor([self.classes.index(name) for name in labels])
        self.mean, self.scale = features.mean(dim=0), features.std(dim=0) + 1e-3
        width, out = features.shape[1], len(self.classes) + 4
        self.model: torch.nn.Module = torch.nn.Linear(width, out)
        if self.hidden:
            self.model = torch.nn.Sequential(
                torch.nn.Linear(width, self.hidden),
                torch.nn.ReLU(),
                torch.nn.Linear(self.hidden, out),
            )
        last = self.model[-1] if isinstance(self.model, torch.nn.Sequential) else self.model
        for parameter in last.parameters():  # so that boxes begin as they were proposed
            torch.nn.init.zeros_(parameter)
        optimiser = torch.optim.AdamW(self.model.parameters(), self.step, weight_decay=0.01)
        # A quarter of each batch shows things, as there.
        odds = torch.where(target == self._background(), 3.0, 1.0) / torch.bincount(target)[target]
        per = 64
        rounds = self.epochs * max(len(features) // per, 1)
        for _ in range(rounds):
            some = torch.multinomial(odds, per, replacement=True)
            loss = torch.nn.functional.cross_entropy(
                self._out(features[some])[:, :-4], target[some]
            )
            if len(paired):
                pairs = torch.randint(len(paired), (per // 2,))
                loss = loss + torch.nn.functional.smooth_l1_loss(
                    self._out(paired[pairs])[:, -4:], wanted[pairs], beta=0.1
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    def _background(self) -> int:
        return self.classes.index(BACKGROUND) if BACKGROUND in self.classes else -1

    def _out(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.model((features - self.mean) / self.scale)
        return found

    def answer(self, shot: Shot) -> Answer:
        """Read the proposals as ours are read."""
        with torch.no_grad():
            out = self._out(torch.from_numpy(shot.looks)).numpy()
            moves = self._out(torch.from_numpy(shot.proposed)).numpy()[:, -4:]
        return _answer(shot, self.classes, out[:, :-4], moved(shot.proposals, moves))
