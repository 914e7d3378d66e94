# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which labelled samples there are, and what each is for. No torch.

A sample is in one place: waiting for a round (`pending`), replayed (`replay`), or held back for
validation (`held`). All three share one budget of bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
import zlib

from etuner_ros.core.config import TrainConfig
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.replay import Replay
from etuner_ros.core.learn.sample import Sample

MOST_HELD = 1000  # held-back samples
HELD_SHARE = 0.25  # of the budget, at most
PENDING_SHARE = 0.5  # of the budget, at most; what waits longer is replayed
# Corrected frames whose outcome, as predicted live, counts towards the accuracy.
PREQUENTIAL_WINDOW = 40
MOST_AWAITED = 1000  # labels whose picture has not come
MOST_DECIDED = 100_000  # samples of which it is remembered whether they are held back


class _Shelf:
    """Samples by id, in order of arrival, and their bytes."""

    def __init__(self) -> None:
        self.samples: dict[str, Sample] = {}
        self.bytes = 0

    def put(self, sample: Sample) -> None:
        self.pop(sample.sample_id)
        self.samples[sample.sample_id] = sample
        self.bytes += len(sample.jpeg)

    def pop(self, sample_id: str) -> Sample | None:
        sample = self.samples.pop(sample_id, None)
        if sample is not None:
            self.bytes -= len(sample.jpeg)
        return sample


class SampleBook:
    """
    Keeps the samples of a robot.

    A share is held back for validation, at least two of a class that has six: no round trains on
    it. The instant head learns it, and is asked what it would say without. The name of a sample
    decides, so that a restart, after which samples come in another order, holds back the same ones
    but for a few of small classes.

    :param config: `validation_share`, `replay_mb` (the budget of all), `seed`
    """

    def __init__(self, config: TrainConfig) -> None:
        self._share = config.validation_share
        self._capacity = int(config.replay_mb * 1e6)
        self.replay = Replay(self._capacity, config.seed)
        self._pending, self._held = _Shelf(), _Shelf()
        self._in_round: list[str] = []  # samples of the last round, until its verdict
        self._reserved: dict[str, str] = {}  # held-back samples by id, and their label now
        self._decided: dict[str, bool] = {}  # whether a sample is held back, by id
        self._said = Counter[str]()  # samples that were decided on, by label
        self._awaited: dict[str, str] = {}  # labels whose picture has not come yet, by sample id
        self._outcomes: dict[str, tuple[Scenario, bool]] = {}  # by sample id, the newest last
        self.seen: set[str] = set()  # labels that were said in this life
        self.renamed: set[str] = set()  # labels that are called otherwise now

    @property
    def pending(self) -> list[Sample]:
        """Samples that no round has trained on, in order of arrival."""
        return list(self._pending.samples.values())

    @property
    def held(self) -> Mapping[str, Sample]:
        """Samples that are held back for validation, by id, in order of arrival."""
        return self._held.samples

    @property
    def bytes(self) -> int:
        """Memory of all pictures."""
        return self._pending.bytes + self._held.bytes + self.replay.bytes

    @property
    def pictures(self) -> list[Sample]:
        """All samples that there are: replayed, new and held back, oldest first of each."""
        return [*self.replay.samples, *self.pending, *self.held.values()]

    def find(self, sample_id: str) -> Sample | None:
        """Return a sample, wherever it is."""
        for shelf in (self._pending, self._held):
            if sample_id in shelf.samples:
                return shelf.samples[sample_id]
        return self.replay.get(sample_id)

    def is_labelled(self, sample_id: str) -> bool:
        """Return whether a label was heard of this sample, also where its picture has not come."""
        return sample_id in self._decided or sample_id in self.replay

    def labels(self) -> set[str]:
        """Return the labels that samples have now, those included whose picture is to come."""
        shelves = (self._pending, self._held)
        found = {s.label for shelf in shelves for s in shelf.samples.values()}
        return found | set(self.replay.counts()) | set(self._awaited.values())

    def holds_back(self, sample_id: str, label: str, new: bool = True) -> bool:
        """
        Decide once for each sample whether it is held back; one that is replayed never is.

        :param new: it was not learned in an earlier life
        """
        if sample_id in self.replay:
            return False
        if sample_id not in self._decided:
            self._said[label] += 1
            chosen = zlib.crc32(sample_id.encode()) < self._share * 2**32
            few = new and sum(said == label for said in self._reserved.values()) < 2
            hold = self._share > 0 and self._said[label] >= 6 and (chosen or few)
            self._decided[sample_id] = hold
            if hold:
                self._reserved[sample_id] = label
            while len(self._decided) > MOST_DECIDED:
                del self._decided[next(iter(self._decided))]
        return self._decided[sample_id]

    def add(self, samples: Iterable[Sample], new: bool = True) -> None:
        """
        Take samples; one with a known id replaces the old one: people correct their corrections.

        :param new: a round has to train on them; else they are only replayed
        """
        for sample in samples:
            self._awaited.pop(sample.sample_id, None)
            if new and sample.predicted:
                right = sample.predicted == sample.label
                self._outcomes.pop(sample.sample_id, None)
                self._outcomes[sample.sample_id] = (sample.scenario, right)
                while len(self._outcomes) > 10 * PREQUENTIAL_WINDOW:
                    del self._outcomes[next(iter(self._outcomes))]
            waits = self._pending.pop(sample.sample_id) is not None
            if sample.sample_id not in self._decided:  # or decided anew, after very many samples
                self._held.pop(sample.sample_id)
                self._reserved.pop(sample.sample_id, None)
            if self.holds_back(sample.sample_id, sample.label, new):
                self._held.pop(sample.sample_id)
                self._held.put(sample)
                self._reserved[sample.sample_id] = sample.label
            elif (new or waits) and sample.sample_id not in self.replay:
                self._pending.put(sample)
            else:
                self.replay.add(sample)
            self.note_label(sample.label)
        self._fit_budget()

    def add_exemplars(self, samples: Iterable[Sample]) -> None:
        """Take samples that the deployed model was fitted to: for replay, never as evidence."""
        for sample in samples:
            self.replay.add(sample)

    def await_picture(self, sample_id: str, label: str) -> None:
        """Note the label of a sample whose picture will come."""
        self.note_label(label)
        self._awaited[sample_id] = label
        while len(self._awaited) > MOST_AWAITED:
            oldest = next(iter(self._awaited))
            del self._awaited[oldest]
            self._reserved.pop(oldest, None)

    @property
    def awaited(self) -> Collection[str]:
        """Ids of samples whose label was heard and whose picture has not come yet."""
        return self._awaited.keys()

    def note_label(self, label: str) -> None:
        """Note that a label is in use."""
        self.seen.add(label)
        self.renamed.discard(label)

    def withdraw(self, sample_ids: Iterable[str]) -> None:
        """Forget samples."""
        for sample_id in sample_ids:
            self._pending.pop(sample_id)
            self._held.pop(sample_id)
            self.replay.discard(sample_id)
            for known in (self._awaited, self._outcomes, self._reserved):
                known.pop(sample_id, None)

    def rename(self, label: str, new_label: str) -> None:
        """Call a label otherwise in all samples; two of one name are merged."""
        for shelf in (self._pending, self._held):
            for key, sample in shelf.samples.items():
                if sample.label == label:
                    shelf.samples[key] = replace(sample, label=new_label)
        for sample in [s for s in self.replay.samples if s.label == label]:
            self.replay.add(replace(sample, label=new_label))
        for names in (self._awaited, self._reserved):
            for key in [k for k, said in names.items() if said == label]:
                names[key] = new_label
        self._said[new_label] += self._said.pop(label, 0)
        self.note_label(new_label)
        self.renamed.add(label)

    def _fit_budget(self) -> None:
        """Keep within the budget: too much that waits is replayed, then replay makes room."""
        held = self._held
        while len(held.samples) > MOST_HELD or held.bytes > HELD_SHARE * self._capacity:
            largest = Counter(s.label for s in held.samples.values()).most_common(1)[0][0]
            oldest_id = next(key for key, s in held.samples.items() if s.label == largest)
            held.pop(oldest_id)
            self._reserved.pop(oldest_id, None)
        while self._pending.bytes > PENDING_SHARE * self._capacity:
            oldest = self._pending.pop(next(iter(self._pending.samples)))
            assert oldest is not None
            self.replay.add(oldest)
        self.replay.capacity_bytes = self._capacity - self._pending.bytes - held.bytes
        self.replay.shrink(self.replay.capacity_bytes)

    # Rounds

    def on_trained(self, samples: Sequence[Sample]) -> None:
        """Note that a round has trained on samples: they are replayed from now on."""
        self._in_round = [s.sample_id for s in samples]
        for sample in samples:
            now = self._pending.pop(sample.sample_id)
            if now is not None:  # not taken back while the round ran
                self.replay.add(now)
        self._fit_budget()

    def on_accepted(self) -> None:
        """Note that the round's weights are live: earlier predictions tell nothing of them."""
        self._in_round = []
        self.on_other_backbone()

    def on_other_backbone(self) -> None:
        """Forget what an earlier backbone predicted."""
        self._outcomes.clear()

    def on_lost(self, learn_again: bool) -> None:
        """
        Note that the round's weights are given up.

        :param learn_again: what it trained on is new again; without it that is only replayed
        """
        lost = [s for s in map(self.replay.get, self._in_round) if s is not None]
        self._in_round = []
        if not learn_again:
            return
        waiting = self.pending
        for sample in lost:
            self.replay.discard(sample.sample_id)
        for sample in [*lost, *waiting]:
            self._pending.put(sample)
        self._fit_budget()

    def outcomes(self, current: Collection[Scenario]) -> list[bool]:
        """
        Return whether the newest corrected frames of the current scenarios were predicted right,
        by the backbone that is live.
        """
        found = [ok for scenario, ok in self._outcomes.values() if scenario in current]
        return found[-PREQUENTIAL_WINDOW:]

    def newest(self, limit: int) -> list[Sample]:
        """
        Return at most so many samples to fit a head to, but one of each class: of each class
        equally many where it has them, what small classes leave goes to the others; the newest of
        each.
        """
        groups: dict[str, list[Sample]] = {}
        for sample in [*self.replay.samples, *self.pending, *self._held.samples.values()]:
            groups.setdefault(sample.label, []).append(sample)
        sizes = {label: len(group) for label, group in groups.items()}
        quotas = shares(sizes, max(limit, len(groups)))
        return [
            s for label, group in groups.items() if quotas[label] for s in group[-quotas[label] :]
        ]


def shares(sizes: Mapping[str, int], limit: int) -> dict[str, int]:
    """
    Return how many to take of each group so that they are as equal as sizes allow.

    >>> shares({'a': 10, 'b': 1, 'c': 10}, 8)
    {'a': 4, 'b': 1, 'c': 3}
    """
    taken = dict.fromkeys(sizes, 0)
    left = min(limit, sum(sizes.values()))
    while left:
        open_ = [name for name, size in sizes.items() if taken[name] < size]
        each = max(left // len(open_), 1)
        for name in open_[:left]:
            more = min(each, sizes[name] - taken[name])
            taken[name] += more
            left -= more
    return taken
