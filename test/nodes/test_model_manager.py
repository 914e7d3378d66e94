# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`model_manager`: checks, commits, announces, rolls back; freezes and pins."""

from __future__ import annotations

import math
from pathlib import Path

from helpers import Graph
import numpy as np
import pytest
from rclpy.lifecycle import TransitionCallbackReturn

from etuner_ros.core.weights import pack
from etuner_ros.core.weights import read_base
from etuner_ros.core.weights import sha256
from etuner_ros.msg import LayerStates
from etuner_ros.msg import ModelCandidate
from etuner_ros.msg import ModelUpdate
from etuner_ros.msg import ModelVerdict
from etuner_ros.msg import ValidationOutcome
from etuner_ros.nodes.common import LATCHED
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.srv import GetModel
from etuner_ros.srv import ListVersions
from etuner_ros.srv import RollBack
from etuner_ros.srv import SetFrozenLayers
from etuner_ros.srv import SwapModel


class Office:
    """A manager, and a tuner that proposes weights to it."""

    def __init__(self, ros: Graph, deployed: Path, **parameters: object) -> None:
        self.ros, self.base = ros, read_base(deployed)
        self.node = ros.add(
            ModelManagerNode, model__weights=str(deployed), autostart=True, **parameters
        )
        self.models = ros.listen(ModelUpdate, 'model', LATCHED)
        self.layers = ros.listen(LayerStates, 'layers', LATCHED)
        self.verdicts = ros.listen(ModelVerdict, 'verdicts')
        self._candidates = ros.speak(ModelCandidate, 'candidate')
        ros.until(lambda: self.models and self.layers, 'the announcement')

    def candidate(self, parent: int = 0, value: float = 1.0, **fields: object) -> ModelCandidate:
        state = {'head.bias': np.full(len(self.base.spec.classes), value, np.float32)}
        data = pack(state)
        values = {
            'candidate_id': f'c{value}',
            'parent': parent,
            'base_sha256': self.base.sha256,
            'sha256': sha256(data),
            'weights': data,
            'classes': list(self.base.spec.classes),
            'architecture': 'efficientnet_lite0',
            'layers': [n for n, _ in self.base.units],
            'cka': [0.9] * len(self.base.units),
            'frozen_layers': ['stem', 'block0'],
            'collectors': ['/label_collector'],
            'batch_ids': [3],
            **fields,
        }
        return ModelCandidate(**values)

    def propose(self, **fields: object) -> ModelVerdict:
        count = len(self.verdicts)
        self._candidates.publish(self.candidate(**fields))
        self.ros.until(lambda: len(self.verdicts) > count, 'a verdict')
        return self.verdicts[-1]


def outcomes(lost: int, same: int) -> list[ValidationOutcome]:
    pairs = [(True, False)] * lost + [(True, True)] * same
    return [
        ValidationOutcome(sample_id=str(i), label='mug', live_correct=a, candidate_correct=b)
        for i, (a, b) in enumerate(pairs)
    ]


@pytest.fixture
def office(ros: Graph, deployed: Path) -> Office:
    return Office(ros, deployed)


def test_at_start_the_base_weights_are_announced(office):
    update = office.models[0]
    assert (update.version, update.base_sha256, len(update.weights)) == (0, office.base.sha256, 0)
    assert list(update.classes) == list(office.base.spec.classes)
    assert [s.name for s in office.layers[0].layers] == [n for n, _ in office.base.units]


def test_a_good_candidate_goes_live(office):
    verdict = office.propose(outcomes=outcomes(0, 20))
    assert (verdict.code, verdict.version, verdict.samples) == (ModelVerdict.ACCEPTED, 1, 20)
    update = office.ros.until(
        lambda: office.models[-1] if office.models[-1].version == 1 else None, 'version 1'
    )
    assert bytes(update.weights) == bytes(office.candidate().weights)
    assert dict(zip(update.collectors, update.batch_ids)) == {'/label_collector': 3}
    frozen = office.ros.until(
        lambda: [s.name for s in office.layers[-1].layers if s.frozen], 'frozen layers'
    )
    assert frozen == ['stem', 'block0']
    assert office.layers[-1].layers[5].cka == pytest.approx(0.9)


@pytest.mark.parametrize(
    ('fields', 'code', 'words'),
    [
        ({'outcomes': outcomes(8, 10)}, ModelVerdict.WORSE, 'worse by the paired test'),
        ({'sha256': 'wrong'}, ModelVerdict.DAMAGED, 'checksum'),
        ({'weights': b'x', 'sha256': sha256(b'x')}, ModelVerdict.DAMAGED, 'damaged'),
        ({'value': math.nan}, ModelVerdict.DAMAGED, 'not finite'),
        ({'parent': 7}, ModelVerdict.STALE, 'version 0 is live'),
        ({'base_sha256': 'other'}, ModelVerdict.DAMAGED, 'other base weights'),
        ({'classes': ['a', 'a', 'a', 'a']}, ModelVerdict.DAMAGED, 'distinct'),
        ({'outcomes': outcomes(0, 2) + outcomes(0, 2)}, ModelVerdict.DAMAGED, 'counted twice'),
    ],
)
def test_a_bad_candidate_is_refused_with_the_reason(office, fields, code, words):
    verdict = office.propose(**fields)
    assert verdict.code == code
    assert words in verdict.reason
    assert verdict.version == 0
    assert office.propose(value=2.0).code == ModelVerdict.ACCEPTED, 'the next good one is taken'


def test_deactivated_everything_is_pinned(office):
    office.node.trigger_deactivate()
    assert office.propose().code == ModelVerdict.PINNED
    answer = office.ros.call(
        SetFrozenLayers, 'model_manager/set_frozen_layers', names=['*'], frozen=True
    )
    assert answer.error_code == SetFrozenLayers.Response.NOT_ACTIVE
    office.node.trigger_activate()
    assert office.propose().code == ModelVerdict.ACCEPTED


def test_versions_are_listed_swapped_and_rolled_back(office):
    office.propose(value=1.0, outcomes=outcomes(0, 4))
    office.propose(value=2.0, parent=1)
    listed = office.ros.call(ListVersions, 'model_manager/list_versions')
    assert (listed.live, list(listed.versions), list(listed.parents)) == (2, [0, 1, 2], [0, 0, 1])
    assert listed.accuracies[1] == 1.0
    back = office.ros.call(RollBack, 'model_manager/roll_back')
    assert (back.error_code, back.version) == (RollBack.Response.NONE, 1)
    swapped = office.ros.call(SwapModel, 'model_manager/swap', version=0)
    assert swapped.error_code == SwapModel.Response.NONE
    office.ros.until(lambda: office.models[-1].version == 0, 'version 0')
    assert (
        office.ros.call(RollBack, 'model_manager/roll_back').error_code
        == RollBack.Response.NO_PARENT
    )
    unknown = office.ros.call(SwapModel, 'model_manager/swap', version=9)
    assert unknown.error_code == SwapModel.Response.UNKNOWN_VERSION
    assert 'stored: 0, 1, 2' in unknown.error_msg


def test_layers_are_frozen_by_pattern_and_pins_win_over_the_tuner(office):
    call = office.ros.call
    answer = call(
        SetFrozenLayers,
        'model_manager/set_frozen_layers',
        names=['block1?', 'top'],
        frozen=True,
        pinned=True,
    )
    assert answer.error_code == SetFrozenLayers.Response.NONE
    assert list(answer.changed) == [f'block1{i}' for i in range(6)] + ['top']
    call(
        SetFrozenLayers,
        'model_manager/set_frozen_layers',
        names=['block0'],
        frozen=False,
        pinned=True,
    )
    office.propose(frozen_layers=['stem', 'block0'])
    office.ros.until(lambda: office.layers[-1].model_version == 1, 'the layers of version 1')
    frozen = {s.name for s in office.layers[-1].layers if s.frozen}
    assert frozen == {'stem', 'top', *(f'block1{i}' for i in range(6))}
    wrong = call(
        SetFrozenLayers,
        'model_manager/set_frozen_layers',
        names=['stem', 'nose', 'ear*'],
        frozen=False,
    )
    assert wrong.error_code == SetFrozenLayers.Response.UNKNOWN_LAYER
    assert 'nose, ear*' in wrong.error_msg
    assert 'stem' in {s.name for s in office.layers[-1].layers if s.frozen}, 'nothing was changed'


def test_a_restart_serves_the_last_good_version_and_keeps_the_pins(ros, deployed, ros_home):
    office = Office(ros, deployed)
    office.propose(value=1.0)
    office.propose(value=2.0, parent=1)
    ros.call(
        SetFrozenLayers, 'model_manager/set_frozen_layers', names=['top'], frozen=True, pinned=True
    )
    ros.remove(office.node)
    newest = next(ros_home.rglob('v00000002/weights.safetensors'))
    data = bytearray(newest.read_bytes())
    data[-1] ^= 255
    newest.write_bytes(bytes(data))
    logs = ros.logs()
    again = Office(ros, deployed)
    assert again.models[-1].version == 1
    assert [s.name for s in again.layers[-1].layers if s.pinned] == ['top']
    ros.until(lambda: any('v00000002 is damaged' in m.msg for m in logs), 'the warning')


def test_base_weights_are_handed_out_in_pieces(office, deployed):
    whole = deployed.read_bytes()
    data, pieces = b'', 0
    while len(data) < len(whole):
        answer = office.ros.call(
            GetModel, 'model_manager/get_model', base_sha256=office.base.sha256, offset=len(data)
        )
        assert answer.error_code == GetModel.Response.NONE
        data, pieces = data + bytes(answer.data), pieces + 1
    assert data == whole
    assert pieces > 1
    end = office.ros.call(GetModel, 'model_manager/get_model', offset=len(whole))
    assert end.error_code == GetModel.Response.BAD_RANGE
    other = office.ros.call(GetModel, 'model_manager/get_model', base_sha256='0' * 64)
    assert other.error_code == GetModel.Response.UNKNOWN_BASE


def test_without_base_weights_configuring_fails_and_says_why(ros, tmp_path):
    node = ros.add(ModelManagerNode, model__weights=str(tmp_path / 'none.safetensors'))
    logs = ros.logs()
    ros.until(lambda: node.may_configure, 'the preparation to end')
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    ros.until(
        lambda: any('none.safetensors does not exist' in m.msg for m in logs), 'the sentence'
    )


def test_ten_cycles_leave_nothing_behind(ros, deployed):
    node = ros.add(ModelManagerNode, model__weights=str(deployed))

    def entities() -> list[int]:
        return [
            len(list(x)) for x in (node.publishers, node.subscriptions, node.services, node.timers)
        ]

    before = entities()
    for _ in range(10):
        for step in (
            node.trigger_configure,
            node.trigger_activate,
            node.trigger_deactivate,
            node.trigger_cleanup,
        ):
            assert step() == TransitionCallbackReturn.SUCCESS
    assert entities() == before
