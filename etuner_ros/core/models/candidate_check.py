# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""May a candidate become the live version? Everything that is checked, in one place; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
import math

from etuner_ros.core.config import GateConfig
from etuner_ros.core.decide.gate import judge, Outcome, Verdict
from etuner_ros.core.errors import EtunerError, WeightsError
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.models.store import HEAD, ModelStore
from etuner_ros.core.models.weights import (
    backbone_digest,
    check_update,
    HEAD_ALL,
    HEAD_TENSORS,
    sha256,
    State,
    unpack,
)

MOST_OUTCOMES, MOST_CLASSES = 1_000, 10_000


class Code(IntEnum):
    """What became of a candidate; the numbers are those of ModelVerdict."""

    ACCEPTED = 0
    WORSE = 1
    DAMAGED = 2
    STALE = 3
    PINNED = 4
    DISK = 5


@dataclass(frozen=True)
class Candidate:
    """Weights that are proposed, as they came: nothing of it is checked."""

    kind: str  # store.HEAD or store.ROUND
    parent: int
    base_sha256: str
    backbone_sha256: str
    sha256: str
    classes: tuple[str, ...]
    weights: bytes
    outcomes: Sequence[Outcome]
    scenario_sources: Sequence[str]  # with `scenarios`: the current ones
    scenarios: Sequence[int]
    collectors: Sequence[str]  # with `batch_ids`: what it has learned
    batch_ids: Sequence[int]
    seconds: float = 0.0
    new_samples: int = 0
    iterations: int = 0
    frozen_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The answer to a candidate."""

    code: Code
    verdict: Verdict
    update: State = field(default_factory=dict)  # checked tensors; a head's own for a head

    @property
    def accepted(self) -> bool:
        """Whether it may go live."""
        return self.code == Code.ACCEPTED


class _Refusal(Exception):
    """A candidate that does not reach the gate."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def refused(code: Code, text: str) -> Finding:
    """Return the answer to a candidate that did not reach the gate."""
    return Finding(code, Verdict(False, f'refused: {text}', 0, math.nan, math.nan, math.nan))


class CandidateCheck:
    """
    Checks candidates against the live version of a store, puts them to the gate, stores them.

    :ivar gate: settings of the gate; they may be replaced at any time
    """

    def __init__(self, store: ModelStore, gate: GateConfig) -> None:
        self._store, self.gate = store, gate

    def admit(self, candidate: Candidate, created_ns: int) -> Finding:
        """
        Check a candidate and make it live when it passes. Never raises: each gets an answer.

        :param created_ns: ROS time, for its manifest
        """
        try:
            finding = self.check(candidate)
            if finding.accepted:
                self._commit(candidate, finding, created_ns)
            return finding
        except EtunerError as error:
            return refused(Code.DISK, str(error))
        except OSError as error:
            return refused(Code.DISK, error.strerror or str(error))
        except Exception as error:  # whatever is odd about it, it is answered
            return refused(Code.DAMAGED, f'it can not be judged: {type(error).__name__}: {error}')

    def check(self, candidate: Candidate) -> Finding:
        """
        Check a candidate and put it to the gate; change nothing.

        :raises WeightsError: when the live version can not be read
        """
        try:
            self._check_envelope(candidate)
            update = self._checked(candidate)
        except _Refusal as refusal:
            return refused(refusal.code, str(refusal))
        current = set(map(Scenario, candidate.scenario_sources, candidate.scenarios))
        verdict = judge(candidate.outcomes, self.gate, current or None)
        return Finding(Code.ACCEPTED if verdict.accepted else Code.WORSE, verdict, update)

    def _check_envelope(self, candidate: Candidate) -> None:
        """Check everything but the weights."""
        store, classes = self._store, candidate.classes
        if len(candidate.outcomes) > MOST_OUTCOMES or len(classes) > MOST_CLASSES:
            raise _Refusal(Code.DAMAGED, 'it has too many classes or validation samples')
        if len(candidate.collectors) != len(candidate.batch_ids):
            raise _Refusal(Code.DAMAGED, 'collectors and batch_ids differ in length')
        if len(candidate.scenario_sources) != len(candidate.scenarios):
            raise _Refusal(Code.DAMAGED, 'scenario_sources and scenarios differ in length')
        if candidate.base_sha256 != store.base.sha256:
            named = candidate.base_sha256[:12]
            raise _Refusal(Code.DAMAGED, f'it counts from other base weights ({named})')
        if candidate.parent != store.live:
            raise _Refusal(
                Code.STALE,
                f'it was made from version {candidate.parent}, version {store.live} is live',
            )
        if sha256(candidate.weights) != candidate.sha256:
            raise _Refusal(Code.DAMAGED, 'its checksum is wrong')
        if len(set(classes)) != len(classes) or not all(classes):
            raise _Refusal(Code.DAMAGED, 'its classes are not distinct names')
        if len({o.sample_id for o in candidate.outcomes}) != len(candidate.outcomes):
            raise _Refusal(Code.DAMAGED, 'a validation sample is counted twice')

    def _checked(self, candidate: Candidate) -> State:
        """Return the tensors of a candidate, once they are checked."""
        store = self._store
        if candidate.kind == HEAD:  # it is worth nothing upon a backbone that can not be read
            store.update(store.live)
        try:
            update = unpack(candidate.weights)
            if candidate.kind == HEAD:
                if not set(HEAD_TENSORS) <= update.keys() <= set(HEAD_ALL):
                    raise _Refusal(Code.DAMAGED, f'a head has {" and ".join(HEAD_TENSORS)}')
                if candidate.backbone_sha256 != store.backbone(store.live):
                    raise _Refusal(Code.STALE, 'it belongs to another backbone than the live one')
            elif candidate.backbone_sha256 != backbone_digest(store.base.sha256, update):
                raise _Refusal(Code.DAMAGED, 'its backbone is not the one that it names')
            check_update(store.base.state, update, len(candidate.classes))
        except WeightsError as error:
            raise _Refusal(Code.DAMAGED, str(error)) from error
        return update

    def _commit(self, candidate: Candidate, finding: Finding, created_ns: int) -> None:
        store = self._store
        frozen = candidate.frozen_layers
        if candidate.kind == HEAD:  # the layers were frozen when its backbone was made
            frozen = store.manifests[store.live].frozen_layers
        store.commit(
            finding.update,
            candidate.parent,
            candidate.classes,
            same_backbone=candidate.kind == HEAD,
            frozen_layers=frozen,
            reason=finding.verdict.reason,
            accuracy=finding.verdict.candidate_accuracy,
            scenario_accuracy=by_scenario(candidate.outcomes),
            seconds=candidate.seconds,
            iterations=candidate.iterations,
            new_samples=candidate.new_samples,
            created_ns=created_ns,
            learned=dict(zip(candidate.collectors, candidate.batch_ids)),
            kind=candidate.kind,
        )


def by_scenario(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """
    Return a candidate's accuracy on the validation samples of each scenario.

    >>> by_scenario([Outcome('1', 'mug', Scenario('front', 2), True, True)])
    {'front/2': 1.0}
    """
    found: dict[str, list[bool]] = {}
    for outcome in outcomes:
        where = outcome.scenario
        name = 'deployed' if where == DEPLOYED else f'{where.camera}/{where.number}'
        found.setdefault(name, []).append(outcome.candidate_correct)
    return {name: sum(right) / len(right) for name, right in found.items()}
