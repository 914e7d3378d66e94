# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How likely each class is here and now: a robot sees much of the same for a while, then something
else, and comes back.

Guesses are made of labels, and judged by labels and by frames that nobody labelled as what the
head takes them for: equal shares, what was labelled lately and what is remembered of earlier
places have to prove themselves against each other (mixing of experts with a fixed share; Herbster
& Warmuth 1998). Frames make no guess: the head would believe its own mistakes, all the more where
it has learned from such frames. What a video shows again in the next frame proves nothing, nor
does a person who corrects the same thing several times in a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig

_UNSEEN = 0.5  # samples that every class counts for on top of its own
_AFTER_CHANGE = 0.25  # what is left of the counts when the scenario changes
_SWITCH = 0.02  # chance that another guess is the right one from the next frame on
_FRAME = 0.5  # what a frame without a label proves, beside 1 of a label
_MOST_PLACES = 16
_LEAST_SEEN = 8.0  # samples that a place is remembered by


@dataclass
class _Guess:
    """A guess at the shares of classes, and how much speaks for it."""

    counts: dict[str, float] = field(default_factory=dict)
    trust: float = 0.0

    def shares(self, classes: Sequence[str]) -> Tensor:
        """Return the shares of classes, (C,) float64; equal ones without counts."""
        counts = torch.tensor([self.counts.get(c, 0.0) for c in classes], dtype=torch.float64)
        counts += _UNSEEN
        return counts / counts.sum()


class PlacePrior:
    """
    A mixture of guesses at the shares of the classes: equal ones, recent ones, those of places
    that the robot has left.

    A head that is fitted with every class weighted the same gives, calibrated, `p(x | c)` up to a
    factor; by Bayes' rule the logarithm of the share belongs on top. It costs nothing where all
    kinds are asked for alike: it is taken back when it no longer predicts what is seen.

    >>> prior = PlacePrior(HeadConfig(prior=1.0))
    >>> for _ in range(20): prior.on_label('cup', ['cup', 'ball'])
    >>> offsets = prior.offsets(['cup', 'ball'])
    >>> bool(offsets[0] > 0 > offsets[1])
    True
    """

    def __init__(self, config: HeadConfig) -> None:
        self._strength, self._keep = config.prior, 1.0 - 1.0 / config.prior_memory
        self._equal, self._recent = _Guess(trust=0.5), _Guess(trust=0.5)
        self._places: list[_Guess] = []
        self._label: dict[str, str] = {}  # the last one by camera
        self._frame: dict[str, dict[str, float]] = {}  # probabilities of the last one by camera

    @property
    def _guesses(self) -> list[_Guess]:
        return [self._equal, self._recent, *self._places]

    def on_label(self, label: str, classes: Sequence[str], camera: str = '') -> None:
        """
        Note a label; of several in a row that are the same, the first.

        :param classes: all that could have been said
        """
        if self._label.get(camera) == label:
            return
        self._label[camera] = label
        if label in classes:
            place = list(classes).index(label)
            self._weigh([float(g.shares(classes)[place]) for g in self._guesses], 1.0)
        counts = self._recent.counts
        for known in counts:
            counts[known] *= self._keep
        counts[label] = counts.get(label, 0.0) + 1.0

    def on_frame(self, posterior: Tensor, classes: Sequence[str], camera: str = '') -> None:
        """
        Note a frame that nobody labelled: it proves something by how far it differs from the last.

        :param posterior: (C,) probabilities of the classes if all are equally likely beforehand
        """
        if len(classes) < 2:
            return
        likelihood = posterior.double()
        now = dict(zip(classes, likelihood.tolist()))
        new = _distance(self._frame.get(camera, {}), now)
        self._frame[camera] = now
        self._weigh([float(g.shares(classes) @ likelihood) for g in self._guesses], _FRAME, new)

    def _weigh(self, evidence: Sequence[float], power: float, new: float = 1.0) -> None:
        """
        Move trust to the guesses that foretold an observation.

        :param power: what it proves, beside 1 of a label
        :param new: share of it that is no repetition
        """
        guesses, switch = self._guesses, _SWITCH * new
        weights = [g.trust * max(e, 1e-12) ** (power * new) for g, e in zip(guesses, evidence)]
        total = sum(weights)
        for guess, weight in zip(guesses, weights):
            guess.trust = (1.0 - switch) * weight / total + switch / len(guesses)

    def rename(self, label: str, new_label: str) -> None:
        """Call a label otherwise."""
        for counts in (g.counts for g in self._guesses):
            if label in counts:
                counts[new_label] = counts.get(new_label, 0.0) + counts.pop(label)
        self._label = {k: new_label if v == label else v for k, v in self._label.items()}

    def on_scenario_change(self) -> None:
        """Remember what there was here; trust nothing more than anything else."""
        recent = self._recent.counts
        if sum(recent.values()) >= _LEAST_SEEN:
            self._places.append(_Guess(dict(recent)))
            if len(self._places) > _MOST_PLACES:
                self._places.remove(min(self._places[:-1], key=lambda g: g.trust))
        for known in recent:
            recent[known] *= _AFTER_CHANGE
        for guess in self._guesses:
            guess.trust = 1.0 / len(self._guesses)

    def _mixture(self, classes: Sequence[str]) -> Tensor:
        """Return the shares of classes, (C,) float64."""
        guesses = self._guesses
        total = sum(g.trust for g in guesses)
        return torch.stack([g.trust / total * g.shares(classes) for g in guesses]).sum(dim=0)

    def shares(self, classes: Sequence[str]) -> dict[str, float]:
        """Return how likely each class is, as it would be served."""
        shares = torch.softmax(self.offsets(classes), dim=0)
        return dict(zip(classes, shares.tolist()))

    def moved(self, told: Mapping[str, float], classes: Sequence[str]) -> float:
        """Return how much probability lies elsewhere than in earlier `shares`, in [0, 1]."""
        if self._strength == 0 or not told:
            return 0.0
        now = self.shares(classes)
        # What is said of classes that have no sample any more is no news.
        total = sum(told.get(c, 0.0) for c in now) or 1.0
        return _distance({c: told.get(c, 0.0) / total for c in now}, now)

    def offsets(self, classes: Sequence[str]) -> Tensor:
        """Return what to add to calibrated logits, (C,) float32; 0 for equally likely classes."""
        if not classes or self._strength == 0:
            return torch.zeros(len(classes))
        shares = (self._mixture(classes) * len(classes)).log()
        return (self._strength * shares).float()


def _distance(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    """Return the total variation distance of two distributions; 1 from nothing to something."""
    if not before:
        return 1.0
    return 0.5 * sum(abs(now.get(c, 0.0) - before.get(c, 0.0)) for c in {**before, **now})
