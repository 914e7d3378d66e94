# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Have rounds paid so far? The deployed network with the instant head alone is the rival: on labels
that no round has trained on both are asked what they would say of each, told all the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from etuner_ros.core.config import HeadConfig
from etuner_ros.core.cost import counted_as, HEAD
from etuner_ros.core.learn.activation_cache import same_values
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.sample_book import shares
from etuner_ros.core.learn.served_head import Known
from etuner_ros.core.learn.training_state import TrainingState
from etuner_ros.core.learn.within_class import WithinClass
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.networks import Classifier

LOOK = 24  # new labels that are compared at once, at least
PER_ROUND = 64  # labels that are compared after a round, as long as no other follows
WINDOW = 128  # newest comparisons that count
SEEDED = 100  # samples that the rival begins with after a restart
REMEMBERED = 300  # samples whose feature by the deployed network is kept, 8 KB each


class Rival:
    """
    Compares the live network with the deployed one on new labels.

    Both get a head of their own for the very same samples: those that the robot knew when it was
    first tuned, and those that have come since as far as they were compared. So the difference is
    what rounds did to the features, not what the head has learned meanwhile.

    :param deployed: the network that the robot came with; it is not changed
    :param within: what pictures of one kind differ in, on it
    """

    def __init__(
        self, deployed: Classifier, config: HeadConfig, within: WithinClass | None = None
    ) -> None:
        self._deployed = deployed
        self._cuts = Cuts(deployed.backbone, deployed.units)
        self._config = replace(config, choose_ridge=False, unlabelled_weight=0.0)
        self._within = within
        self._rows: OrderedDict[str, Tensor] = OrderedDict()  # by the deployed network
        self._asked: set[str] = set()  # since the last round
        self._outcomes: OrderedDict[str, tuple[bool, bool]] = OrderedDict()  # live right, rival

    @property
    def standing(self) -> tuple[int, int, int]:
        """Labels that were compared, those that only the live network gets right, and only it."""
        pairs = self._outcomes.values()
        gained = sum(live and not deployed for live, deployed in pairs)
        lost = sum(deployed and not live for live, deployed in pairs)
        return len(pairs), gained, lost

    @property
    def since_round(self) -> int:
        """Labels that were compared since the last round."""
        return len(self._asked)

    @property
    def rows(self) -> Mapping[str, Tensor]:
        """Features (D,) that the deployed network has made, by sample id."""
        return self._rows

    def remember(self, known: Mapping[str, Known]) -> None:
        """Keep features while the deployed network is the live one: they are the rival's."""
        # What only follows a round that was taken back is no feature of this network.
        made = {
            key: self._rows.get(key, item.row)
            for key, item in known.items()
            if key in self._rows or not item.followed
        }
        by_label: dict[str, list[str]] = {}
        for key in made:
            by_label.setdefault(known[key].label, []).append(key)
        quotas = shares({label: len(keys) for label, keys in by_label.items()}, REMEMBERED)
        self._rows = OrderedDict(
            (key, made[key])
            for label, keys in by_label.items()
            for key in keys[len(keys) - quotas[label] :]
        )
        self.restart()

    def restart(self) -> None:
        """Forget what was compared: another network is live, and nobody knows what it is worth."""
        self._outcomes.clear()
        self._asked.clear()

    def on_round(self) -> None:
        """Note that a round is live: what comes now says what it was worth."""
        self._asked.clear()

    def forget(self, sample_ids: Iterable[str]) -> None:
        """Forget samples: taken back, or of another picture."""
        for sample_id in sample_ids:
            self._rows.pop(sample_id, None)
            self._outcomes.pop(sample_id, None)

    def look(
        self,
        new: Sequence[Sample],
        known: Mapping[str, Known],
        state: TrainingState,
        others: Callable[[], Sequence[Sample]],
    ) -> None:
        """
        Compare on new labels, once there are enough that were not compared yet.

        :param new: samples that no round has trained on, oldest first
        :param known: what the live head has learned
        :param others: gives samples of all classes; after a restart nothing is remembered, and a
            few of them take the place of that
        """
        fresh = [s for s in new if s.sample_id in known and s.sample_id not in self._asked]
        fresh = fresh[: PER_ROUND - len(self._asked)]
        if len(fresh) < min(LOOK, PER_ROUND - len(self._asked)) or not fresh:
            return
        with counted_as(HEAD):
            if not self._rows:
                first = {s.sample_id: s for s in others() if s.sample_id in known}
                for sample in fresh:
                    first.pop(sample.sample_id, None)
                if first:
                    seeds = list(first.values())
                    self._rows |= zip(first, self._features(seeds, state))
            rows = self._features(fresh, state)
            self.forget([s.sample_id for s in fresh])  # so that they are the last ones
            self._rows |= zip([s.sample_id for s in fresh], rows)
            while len(self._rows) > REMEMBERED:
                self._rows.popitem(last=False)
            both = {i: row for i, row in self._rows.items() if i in known}
            labels = [known[i].label for i in both]
            ours = self._right(labels, [known[i].row for i in both], len(fresh))
            theirs = self._right(labels, list(both.values()), len(fresh))
        for sample, pair in zip(fresh, zip(ours, theirs)):
            self._asked.add(sample.sample_id)
            self._outcomes[sample.sample_id] = pair
        while len(self._outcomes) > WINDOW:
            self._outcomes.popitem(last=False)

    def _right(self, labels: list[str], rows: list[Tensor], count: int) -> list[bool]:
        """Return whether a head for samples says the last ones right, each told all the others."""
        head = InstantHead(len(rows[0]), self._config, self._within)
        head.rebuild(torch.stack(rows), labels)
        return [a == b for a, b in zip(head.said_by_others[-count:], labels[-count:])]

    def _features(self, samples: Sequence[Sample], state: TrainingState) -> list[Tensor]:
        """Return the features (D,) that the deployed network makes of samples."""
        border = state.cache.border
        if not same_values(state.model.units, self._deployed.units, border):
            border = 0
        with state.model.evaluating(), torch.no_grad():
            if border:  # it is frozen as it was deployed, so both share what lies before
                start = state.activations([(s, 0) for s in samples])
            else:
                start = state.tensor([s.image for s in samples])
            return list(self._cuts.run(start, border).flatten(1).float().cpu())
