# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `etuner bench choose` plays: streams, features that are kept, times in turns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
import hashlib
from pathlib import Path
import time

import numpy as np
import numpy.typing as npt

from etuner_ros.bench.datasets import grocery, Picture, recording
from etuner_ros.bench.streams import make_stream, Setting
from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.choose.measure import CALIBRATED_ON, Serve, Served
from etuner_ros.core.choose.measured import key_of
from etuner_ros.core.choose.pictures import spread
from etuner_ros.core.choose.process import versions
from etuner_ros.core.models.networks import build, pretrained_spec

Features = npt.NDArray[np.float32]
Kept = npt.NDArray[np.float16]
TURNS = 150  # predictions that each candidate is timed on
WARM_UP = 3  # turns before
LEAST_LABELS = 20  # of a place that is a stream of its own


@dataclass(frozen=True)
class DataSet:
    """
    Pictures that streams are made of.

    :ivar reported: or for searching settings
    :ivar kinds: of the streams: NI, NC, NIC
    :ivar by_place: each scenario is a stream of its own, too
    """

    name: str
    pictures: Sequence[Picture]
    reported: bool
    kinds: tuple[str, ...]
    by_place: bool = False

    @property
    def digest(self) -> str:
        """What names these pictures."""
        digest = hashlib.sha256()
        for picture in self.pictures:
            digest.update(f'{picture.name} {picture.labelled}'.encode() + picture.encoded)
        return digest.hexdigest()


@dataclass(frozen=True)
class Case:
    """A stream: by what is chosen, and what counts."""

    data: DataSet
    stream: str
    seed: int
    labelled: Sequence[Picture]
    scored: Sequence[Picture]
    place: bool = False  # one scenario of a recording


def data_sets(stream: Path, tar: Path | None) -> list[DataSet]:
    """Return the pictures of the benchmark's streams."""
    found = [DataSet('sim', recording(stream), True, ('NI',), by_place=True)]
    if tar is not None:
        found.append(DataSet('grocery', grocery(tar), True, ('NC', 'NIC')))
        search = grocery(tar, reported=False)
        found.append(DataSet('grocery_search', search, False, ('NC', 'NIC')))
    return found


def cases(sets: Iterable[DataSet], seeds: int) -> Iterator[Case]:
    """Yield the streams; a place of a recording is one as well."""
    for data in sets:
        for kind in data.kinds:
            for seed in range(seeds):
                made = make_stream(data.pictures, Setting(kind), seed)
                labelled = [*made.deployment]
                labelled += [p for e in made.events if e.labelled for p in e.pictures]
                scored = [p for side in made.tests for p in side]
                yield Case(data, f'{data.name}_{kind.lower()}', seed, labelled, scored)
        for place in sorted({p.scenario for p in data.pictures}) if data.by_place else ():
            here = [p for p in data.pictures if p.scenario == place]
            labelled = [p for p in here if p.labelled]
            if len(labelled) >= LEAST_LABELS:
                scored = [p for p in here if not p.labelled]
                yield Case(data, f'{data.name}: {place}', 0, labelled, scored, True)


class FeatureStore:
    """
    Features of every candidate on every set of pictures, kept on the disk.

    :param serve: makes an engine; calibrated on labelled pictures of the set
    :param folder: where they are kept
    """

    def __init__(self, serve: Serve, folder: Path) -> None:
        self._serve, self._folder = serve, folder
        self._places: dict[str, dict[str, int]] = {}
        self._digests: dict[str, str] = {}

    def features(self, candidate: Candidate, data: DataSet) -> Kept:
        """
        Return the features of all pictures of a set, (n, D), mapped from the disk.

        :raises EtunerError: when the candidate can not be served
        """
        if data.name not in self._digests:
            self._digests[data.name] = data.digest
        key = key_of(candidate, self._digests[data.name], versions())
        path = self._folder / f'{key}.npy'
        if not path.exists():
            served = self.served(candidate, data)
            rows = [served.look([p.image(candidate.pixels)])[0][0] for p in data.pictures]
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix('.tmp.npy')
            np.save(aside, np.stack(rows).astype(np.float16))  # as features travel on the robot
            aside.replace(path)
        return np.asarray(np.load(path, mmap_mode='r'))

    def served(self, candidate: Candidate, data: DataSet) -> Served:
        """Return a candidate that is ready to serve."""
        spec = pretrained_spec(candidate.network, candidate.pixels)
        model = build(spec, candidate.weights or 'pretrained')
        labelled = [p for p in data.pictures if p.labelled]
        examples = [
            labelled[i].image(candidate.pixels) for i in spread(len(labelled), CALIBRATED_ON)
        ]
        return self._serve(candidate, spec, model.state(), examples)

    def rows(self, candidate: Candidate, data: DataSet, pictures: Sequence[Picture]) -> Features:
        """Return the features of some pictures of a set, (n, D)."""
        places = self._places.setdefault(data.name, {})
        if not places:
            places.update({p.name: i for i, p in enumerate(data.pictures)})
        kept = self.features(candidate, data)
        return kept[[places[p.name] for p in pictures]].astype(np.float32)


def milliseconds(
    served: dict[Candidate, Served], turns: int = TURNS
) -> dict[Candidate, list[float]]:
    """Return the milliseconds of predictions; candidates take turns, in another order each."""
    rng = np.random.default_rng(0)
    images = {c: rng.integers(0, 255, (c.pixels, c.pixels, 3), np.uint8) for c in served}
    found: dict[Candidate, list[float]] = {c: [] for c in served}
    order = list(served.items())
    for turn in range(turns + WARM_UP):
        for number in rng.permutation(len(order)):
            candidate, network = order[number]
            began = time.perf_counter()
            network.look([images[candidate]])
            if turn >= WARM_UP:
                found[candidate].append(1e3 * (time.perf_counter() - began))
    return found
