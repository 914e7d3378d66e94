# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What may go live: rounds and heads against the version that is live; no DDS."""

from __future__ import annotations

from dataclasses import replace
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etuner_ros.core.config import GateConfig
from etuner_ros.core.decide.gate import Outcome
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.models import candidate_check
from etuner_ros.core.models.candidate_check import (
    by_scenario,
    Candidate,
    CandidateCheck,
    Code,
    MOST_CLASSES,
)
from etuner_ros.core.models.store import HEAD, ModelStore, ROUND
from etuner_ros.core.models.weights import (
    backbone_digest,
    ModelSpec,
    pack,
    pack_base,
    sha256,
    State,
)

STATE = {
    'body.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
    'head.weight': np.ones((2, 3), np.float32),
    'head.bias': np.zeros(2, np.float32),
}
SPEC = ModelSpec('tiny', 32, ('a', 'b'), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FRONT, REAR = Scenario('front', 0), Scenario('rear', 1)


def outcomes(lost: int, same: int, where: Scenario = FRONT) -> list[Outcome]:
    pairs = [(True, False)] * lost + [(True, True)] * same
    return [Outcome(f'{where}/{i}', 'mug', where, a, b) for i, (a, b) in enumerate(pairs)]


class Office:
    """A store and its check."""

    def __init__(self, folder: Path) -> None:
        base = folder / 'base.safetensors'
        base.write_bytes(pack_base(STATE, SPEC, [('body', 6)]))
        self.store = ModelStore(folder / 'models', base)
        self.check = CandidateCheck(self.store, GateConfig())

    def candidate(self, kind: str, update: State, **fields: Any) -> Candidate:
        data = pack(update)
        digest = backbone_digest(self.store.base.sha256, update)
        if kind == HEAD:
            digest = self.store.backbone(self.store.live)
        values = {
            'kind': kind,
            'parent': self.store.live,
            'base_sha256': self.store.base.sha256,
            'backbone_sha256': digest,
            'sha256': sha256(data),
            'classes': ('a', 'b'),
            'weights': data,
            'outcomes': (),
            'scenario_sources': (),
            'scenarios': (),
            'collectors': ('/c',),
            'batch_ids': (4,),
            **fields,
        }
        return Candidate(**values)

    def round(self, value: float = 1.0, **fields: Any) -> Candidate:
        update = {'body.weight': np.full((2, 3), value, np.float32), 'head.bias': np.ones(2, 'f4')}
        return self.candidate(ROUND, update, **fields)

    def head(self, value: float = 1.0, rows: int = 2, **fields: Any) -> Candidate:
        update = {
            'head.weight': np.full((rows, 3), value, np.float32),
            'head.bias': np.zeros(rows, np.float32),
        }
        return self.candidate(HEAD, update, **fields)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def test_a_head_goes_live_on_the_backbone_of_the_live_version(office):
    office.check.admit(office.round(7.0, frozen_layers=('body',)), 0)
    backbone = office.store.backbone(1)
    finding = office.check.admit(office.head(3.0, rows=3, classes=('a', 'b', 'c')), 0)
    assert (finding.code, office.store.live) == (Code.ACCEPTED, 2)
    update = office.store.update(2)
    assert (update['body.weight'] == 7.0).all()
    assert (update['head.weight'] == 3.0).all()
    assert update['head.weight'].shape == (3, 3)
    manifest = office.store.manifests[2]
    assert (manifest.kind, manifest.parent, manifest.classes) == (HEAD, 1, ('a', 'b', 'c'))
    assert manifest.backbone == backbone == backbone_digest(office.store.base.sha256, update)
    assert manifest.frozen_layers == ('body',), 'those of its backbone'
    assert office.store.manifests[1].kind == ROUND


def test_no_head_is_accepted_upon_a_backbone_that_can_not_be_read_any_more(office):
    """It would be live in name, and the base weights would serve."""
    office.check.admit(office.round(7.0), 0)
    file = next(office.store.folder.glob('backbones/*'))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    finding = office.check.admit(office.head(3.0), 0)
    assert finding.code == Code.DISK
    assert 'its backbone is damaged' in finding.verdict.reason
    assert office.store.live == 1
    file.write_bytes(whole)
    assert office.check.admit(office.head(3.0), 0).accepted


def test_a_head_for_another_backbone_is_refused(office):
    before = office.head()
    office.check.admit(office.round(7.0), 0)
    late = office.check.admit(replace(before, parent=1), 0)
    assert (late.code, late.verdict.reason) == (
        Code.STALE,
        'refused: it belongs to another backbone than the live one',
    )
    assert office.check.admit(office.head(), 0).accepted


@pytest.mark.parametrize(
    'update',
    [
        {'head.bias': np.zeros(2, np.float32)},
        {'head.weight': np.ones((2, 3), np.float32)},
        {**STATE},
        {},
    ],
)
def test_a_head_holds_its_two_tensors_and_nothing_else(office, update):
    finding = office.check.admit(office.candidate(HEAD, update), 0)
    assert finding.code == Code.DAMAGED
    assert 'a head has head.weight and head.bias' in finding.verdict.reason


def test_a_head_may_tell_what_looks_known_and_its_rows_have_to_fit(office):
    rows = np.ones((2, 3), np.float16)
    head = {'head.weight': np.ones((2, 3), np.float32), 'head.bias': np.zeros(2, np.float32)}
    wrong = office.check.admit(office.candidate(HEAD, {**head, 'head.likeness': rows[:1]}), 0)
    assert wrong.code == Code.DAMAGED
    assert "'head.likeness' has shape (1, 3), expected (2, 3)" in wrong.verdict.reason
    assert office.check.admit(office.candidate(HEAD, {**head, 'head.likeness': rows}), 0).accepted
    kept = office.store.update(office.store.live)
    assert (kept['head.likeness'] == 1).all()
    assert office.check.admit(office.head(), 0).accepted
    assert 'head.likeness' not in office.store.update(office.store.live)


def test_a_round_names_the_backbone_that_it_brings(office):
    finding = office.check.admit(office.round(backbone_sha256='another'), 0)
    assert finding.code == Code.DAMAGED
    assert 'its backbone is not the one' in finding.verdict.reason
    assert office.check.admit(office.round(), 0).accepted
    assert office.store.manifests[1].backbone == office.round().backbone_sha256


@pytest.mark.parametrize('kind', ['round', 'head'])
@pytest.mark.parametrize(
    ('fields', 'code', 'words'),
    [
        ({'outcomes': outcomes(8, 10)}, Code.WORSE, 'worse by the paired test'),
        ({'sha256': 'wrong'}, Code.DAMAGED, 'checksum'),
        ({'weights': b'x', 'sha256': sha256(b'x')}, Code.DAMAGED, 'damaged'),
        ({'value': math.nan}, Code.DAMAGED, 'not finite'),
        ({'parent': 7}, Code.STALE, 'version 0 is live'),
        ({'base_sha256': 'other'}, Code.DAMAGED, 'other base weights'),
        ({'classes': ('a', 'a')}, Code.DAMAGED, 'distinct'),
        ({'classes': ('a', '')}, Code.DAMAGED, 'distinct'),
        ({'classes': ('a', 'b', 'c')}, Code.DAMAGED, 'has shape'),
        ({'classes': ('a',) * (MOST_CLASSES + 1)}, Code.DAMAGED, 'too many classes'),
        ({'outcomes': outcomes(0, 2) + outcomes(0, 2)}, Code.DAMAGED, 'counted twice'),
        ({'batch_ids': ()}, Code.DAMAGED, 'collectors and batch_ids'),
        ({'scenarios': (1,)}, Code.DAMAGED, 'scenario_sources and scenarios'),
    ],
)
def test_a_bad_candidate_is_refused_with_the_reason(office, kind, fields, code, words):
    finding = office.check.admit(getattr(office, kind)(**fields), 0)
    assert finding.code == code
    assert words in finding.verdict.reason
    assert office.store.live == 0
    assert office.check.admit(getattr(office, kind)(), 0).accepted, 'the next good one is taken'


def test_what_is_lost_in_earlier_scenarios_is_not_hidden_by_gains_here(office):
    better = [replace(o, live_correct=False) for o in outcomes(0, 20, REAR)]
    worse = outcomes(8, 2, FRONT)
    now = {'scenario_sources': ('rear', 'front'), 'scenarios': (1, 3)}
    finding = office.check.admit(office.round(outcomes=better + worse, **now), 0)
    assert finding.code == Code.WORSE
    assert 'worse in earlier scenarios, 8 of 10 samples lost' in finding.verdict.reason


def test_the_manifest_says_what_a_version_is(office):
    seen = [*outcomes(1, 9, FRONT), *outcomes(0, 4, REAR), *outcomes(0, 2, DEPLOYED)]
    facts = {'seconds': 1.5, 'iterations': 12, 'new_samples': 9}
    assert office.check.admit(office.round(outcomes=seen, **facts), 77).accepted
    raw = json.loads((office.store.folder / 'v00000001' / 'manifest.json').read_text())
    assert raw['scenario_accuracy'] == {'front/0': 0.9, 'rear/1': 1.0, 'deployed': 1.0}
    assert {k: raw[k] for k in facts} == facts
    assert (raw['learned'], raw['created_ns'], raw['kind']) == ({'/c': 4}, 77, 'round')
    assert by_scenario([]) == {}


def test_a_full_disk_is_an_answer(office, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('etuner_ros.core.models.store.write_synced', full)
    finding = office.check.admit(office.head(), 0)
    assert finding.code == Code.DISK
    assert 'No space left on device' in finding.verdict.reason
    assert office.store.live == 0
    assert list(office.store.manifests) == [0]


def test_whatever_fails_a_candidate_is_answered(office, monkeypatch):
    def odd(*_: object) -> None:
        raise ZeroDivisionError('odd')

    monkeypatch.setattr(candidate_check, 'judge', odd)
    finding = office.check.admit(office.head(), 0)
    assert finding.code == Code.DAMAGED
    assert 'ZeroDivisionError: odd' in finding.verdict.reason
