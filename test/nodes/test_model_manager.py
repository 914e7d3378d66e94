# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`model_manager`: checks, commits, announces, rolls back; freezes and pins."""

from __future__ import annotations

import json
from pathlib import Path
import threading

from helpers import Graph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import onnx
import onnxruntime
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
import torch

from etuner_ros.core.models.candidate_check import Code
from etuner_ros.core.models.export import export_version
from etuner_ros.core.models.networks import from_base
from etuner_ros.core.models.weights import backbone_digest, pack, read_base, sha256, unpack
from etuner_ros.msg import (
    Backbone,
    HeadCandidate,
    LayerStates,
    ModelCandidate,
    ModelUpdate,
    ModelVerdict,
    ValidationOutcome,
)
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.nodes.qos import LATCHED
from etuner_ros.srv import (
    ExportVersion,
    GetModel,
    ListVersions,
    PinVersion,
    RollBack,
    SetFrozenLayers,
    SwapModel,
)


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
        self._heads = ros.speak(HeadCandidate, 'head_candidate')
        ros.until(lambda: self.models and self.layers, 'the announcement')

    def candidate(self, parent: int = 0, value: float = 1.0, **fields: object) -> ModelCandidate:
        state = {'head.bias': np.full(len(self.base.spec.classes), value, np.float32)}
        data = pack(state)
        values = {
            'candidate_id': f'c{value}',
            'parent': parent,
            'base_sha256': self.base.sha256,
            'backbone_sha256': backbone_digest(self.base.sha256, state),
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

    def head(self, parent: int, value: float = 5.0) -> HeadCandidate:
        data = pack(
            {
                'head.weight': np.full_like(self.base.state['head.weight'], value),
                'head.bias': np.zeros_like(self.base.state['head.bias']),
            }
        )
        return HeadCandidate(
            candidate_id=f'h{value}',
            parent=parent,
            base_sha256=self.base.sha256,
            backbone_sha256=self.models[-1].backbone_sha256,
            sha256=sha256(data),
            classes=list(self.base.spec.classes),
            weights=data,
        )

    def publish(self, **fields: object) -> None:
        self._candidates.publish(self.candidate(**fields))

    def propose(self, head: HeadCandidate | None = None, **fields: object) -> ModelVerdict:
        count = len(self.verdicts)
        if head is not None:
            self._heads.publish(head)
        else:
            self.publish(**fields)
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


def test_codes_are_those_of_the_message():
    assert {c.name: int(c) for c in Code} == {
        name: getattr(ModelVerdict, name)
        for name in ('ACCEPTED', 'WORSE', 'DAMAGED', 'STALE', 'PINNED', 'DISK')
    }


def test_a_bad_candidate_is_refused_with_the_reason_and_the_next_good_one_taken(office):
    verdict = office.propose(outcomes=outcomes(8, 10))
    assert (verdict.code, verdict.kind, verdict.version) == (
        ModelVerdict.WORSE,
        ModelVerdict.ROUND,
        0,
    )
    assert 'worse by the paired test' in verdict.reason
    assert office.propose(value=2.0).code == ModelVerdict.ACCEPTED


def test_a_candidate_that_is_fetched_is_answered_when_a_newer_one_comes(office):
    """The weights of both have to be asked for, and nobody gives them."""
    office.publish(weights=b'')
    verdict = office.propose(value=2.0, weights=b'')
    assert (verdict.candidate_id, verdict.code) == ('c1.0', ModelVerdict.STALE)
    assert 'a newer candidate came' in verdict.reason


def test_a_head_goes_live_on_the_live_backbone(office):
    verdict = office.propose(office.head(parent=0))
    assert (verdict.code, verdict.kind) == (ModelVerdict.ACCEPTED, ModelVerdict.HEAD)
    update = office.ros.until(
        lambda: office.models[-1] if office.models[-1].version == 1 else None, 'version 1'
    )
    assert update.backbone_sha256 == office.models[0].backbone_sha256 != ''
    office.ros.until(lambda: office.layers[-1].model_version == 1, 'the layers')
    listed = office.ros.call(ListVersions, 'model_manager/list_versions')
    assert list(listed.head_only) == [False, True]


def test_what_can_not_be_announced_is_still_answered(office, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr(office.node, '_announce', broken)
    verdict = office.propose()
    assert (verdict.code, verdict.version) == (ModelVerdict.ACCEPTED, 1)
    assert 'live but could not be announced' in verdict.reason
    monkeypatch.undo()
    assert office.propose(value=2.0, parent=1).version == 2


def test_layers_that_can_not_be_stored_do_not_cost_the_verdict(office, ros_home):
    file = next(ros_home.rglob('layers.json'), None) or next(
        ros_home.rglob('base.safetensors')
    ).with_name('layers.json')
    file.unlink(missing_ok=True)
    file.mkdir()  # in the way
    (file / 'x').touch()
    logs = office.ros.logs()
    assert office.propose().code == ModelVerdict.ACCEPTED
    office.ros.until(lambda: any('could not be stored' in m.msg for m in logs), 'the warning')
    assert office.node.diagnostics()['layers frozen'] == 2


def test_with_layers_that_can_not_be_stored_it_comes_up(ros, deployed, ros_home):
    office = Office(ros, deployed)
    office.propose()
    ros.remove(office.node)
    file = next(ros_home.rglob('layers.json'))
    file.unlink()
    file.mkdir()
    (file / 'x').touch()
    again = Office(ros, deployed)
    assert again.models[-1].version == 1
    assert again.node.active


def test_two_namespaces_have_a_store_each(ros, deployed):
    first = Office(ros, deployed)
    assert first.propose().version == 1
    home = ros.namespace
    ros.namespace = f'{home}/rear'  # of this test alone, see Graph
    rear = ros.add(ModelManagerNode, model__weights=str(deployed), autostart=True)
    ros.namespace = home
    ros.until(lambda: rear.active, 'the second manager')
    assert rear.diagnostics()['live version'] == 0
    assert first.propose(value=2.0, parent=1).version == 2


def test_a_second_manager_on_the_same_folder_is_refused_in_a_sentence(ros, deployed, tmp_path):
    folder = str(tmp_path / 'shared')
    first = Office(ros, deployed, models__folder=folder)
    home = ros.namespace
    ros.namespace = f'{home}/rear'  # of this test alone, see Graph
    second = ros.add(
        ModelManagerNode, model__weights=str(deployed), models__folder=folder, autostart=False
    )
    ros.namespace = home
    logs = ros.logs()
    ros.until(lambda: second.may_configure, 'the base weights')  # else it fails for their sake
    assert second.trigger_configure() == TransitionCallbackReturn.FAILURE
    ros.until(lambda: any('another model_manager' in m.msg for m in logs), 'the sentence')
    assert first.propose().code == ModelVerdict.ACCEPTED
    ros.remove(first.node)
    assert second.trigger_configure() == TransitionCallbackReturn.SUCCESS


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
    newest = next(ros_home.rglob('v00000002/head.safetensors'))
    data = bytearray(newest.read_bytes())
    data[-1] ^= 255
    newest.write_bytes(bytes(data))
    logs = ros.logs()
    again = Office(ros, deployed)
    assert again.models[-1].version == 1
    assert [s.name for s in again.layers[-1].layers if s.pinned] == ['top']
    ros.until(lambda: any('version 2 is damaged' in m.msg for m in logs), 'the warning')


def test_base_weights_are_handed_out_in_pieces(office, deployed):
    whole = deployed.read_bytes()
    data, pieces = b'', 0
    while len(data) < len(whole):
        answer = office.ros.call(
            GetModel, 'model_manager/get_model', sha256=office.base.sha256, offset=len(data)
        )
        assert answer.error_code == GetModel.Response.NONE
        data, pieces = data + bytes(answer.data), pieces + 1
    assert data == whole
    assert pieces > 1
    end = office.ros.call(GetModel, 'model_manager/get_model', offset=len(whole))
    assert end.error_code == GetModel.Response.BAD_RANGE
    other = office.ros.call(GetModel, 'model_manager/get_model', sha256='0' * 64)
    assert other.error_code == GetModel.Response.UNKNOWN


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

    def left() -> list[int]:
        kinds = (node.publishers, node.subscriptions, node.services, node.clients, node.timers)
        return [*(len(list(x)) for x in kinds), threading.active_count()]

    before = left()
    for _ in range(10):
        for step in (
            node.trigger_configure,
            node.trigger_activate,
            node.trigger_deactivate,
            node.trigger_cleanup,
        ):
            assert step() == TransitionCallbackReturn.SUCCESS
    assert left() == before


def test_an_external_lifecycle_manager_is_in_charge(ros, deployed):
    node = ros.add(ModelManagerNode, model__weights=str(deployed))
    ros.until(lambda: node.may_configure, 'the preparation')
    models = ros.listen(ModelUpdate, 'model', LATCHED)
    for transition, state in (
        (Transition.TRANSITION_CONFIGURE, 'inactive'),
        (Transition.TRANSITION_ACTIVATE, 'active'),
        (Transition.TRANSITION_DEACTIVATE, 'inactive'),
        (Transition.TRANSITION_CLEANUP, 'unconfigured'),
        (Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, 'finalized'),
    ):
        change = ChangeState.Request()
        change.transition.id = transition
        answer = ros.call(ChangeState, 'model_manager/change_state', transition=change.transition)
        assert answer.success
        now = ros.call(GetState, 'model_manager/get_state').current_state.label
        assert now == state
    assert models[0].version == 0


def test_a_backbone_is_announced_once_for_all_heads_and_again_when_it_comes_back(office):
    ros, base = office.ros, office.base
    backbones = ros.listen(Backbone, 'backbone', LATCHED)
    bare = backbone_digest(base.sha256, {})
    ros.until(lambda: backbones, 'that of the base weights')
    assert [(b.backbone_sha256, len(b.weights)) for b in backbones] == [(bare, 0)]
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    update = {name: base.state[name] + 1, 'head.bias': base.state['head.bias'] + 1}
    data, digest = pack(update), backbone_digest(base.sha256, update)
    office.propose(weights=data, sha256=sha256(data), backbone_sha256=digest)
    for parent in (1, 2):
        office.propose(head=office.head(parent, float(parent)))
    ros.until(lambda: office.models[-1].version == 3 and len(backbones) == 2, 'two heads on it')
    assert backbones[-1].backbone_sha256 == digest
    assert unpack(bytes(backbones[-1].weights)).keys() == {name}
    assert {m.backbone_sha256 for m in office.models if m.version} == {digest}
    assert all(
        unpack(bytes(m.weights)).keys() <= {'head.weight', 'head.bias'} for m in office.models
    )
    late, late_models = (
        ros.listen(Backbone, 'backbone', LATCHED),
        ros.listen(ModelUpdate, 'model', LATCHED),
    )
    ros.until(lambda: late and late_models, 'what a late joiner needs')
    assert (late[-1].backbone_sha256, late_models[-1].version) == (digest, 3)
    ros.call(SwapModel, 'model_manager/swap', version=0)
    ros.until(lambda: backbones[-1].backbone_sha256 == bare, 'the backbone of the base again')
    ros.call(SwapModel, 'model_manager/swap', version=2)
    ros.until(lambda: backbones[-1].backbone_sha256 == digest, 'and the other one')
    assert len(backbones) == 4


def test_a_pinned_version_outlives_others(office):
    office.propose(value=1.0)
    answer = office.ros.call(PinVersion, 'model_manager/pin_version', version=1, pinned=True)
    assert answer.error_code == PinVersion.Response.NONE
    listed = office.ros.call(ListVersions, 'model_manager/list_versions')
    assert dict(zip(listed.versions, listed.pinned)) == {0: False, 1: True}
    unknown = office.ros.call(PinVersion, 'model_manager/pin_version', version=9, pinned=True)
    assert unknown.error_code == PinVersion.Response.UNKNOWN_VERSION


def test_when_the_live_version_is_damaged_meanwhile_the_one_before_is_announced(office, ros_home):
    office.propose(value=1.0)
    office.propose(value=2.0, parent=1)
    newest = next(ros_home.rglob('v00000002/head.safetensors'))
    newest.write_bytes(newest.read_bytes()[:-1])
    office.node.trigger_deactivate()
    office.node.trigger_activate()
    office.ros.until(lambda: office.models[-1].version == 1, 'the version before')
    assert office.propose(value=3.0, parent=1).version == 3, 'no number is used twice'


def test_layers_tell_their_share_of_the_time(office):
    shares = [0.05] * len(office.base.units)
    office.propose(forward_share=shares)
    office.ros.until(lambda: office.layers[-1].model_version == 1, 'the layers')
    assert [s.forward_share for s in office.layers[-1].layers] == pytest.approx(shares)


def test_a_version_is_exported_by_a_process_and_loads_without_us(office, ros_home):
    office.propose(value=2.0)
    call = office.ros.call
    name = 'model_manager/export_version'
    answer = call(ExportVersion, name, version=1, format='torch', path='v1.pt')
    assert answer.error_code == ExportVersion.Response.NONE, answer.error_msg
    content = torch.load(answer.path, weights_only=True)
    assert content['classes'] == list(office.base.spec.classes)
    assert bool((content['state_dict']['head.bias'] == 2.0).all())
    for wrong in ({'path': '../out.pt'}, {'path': ''}, {'format': 'pickle', 'path': 'a'}):
        fields = {'version': 1, 'format': 'torch', **wrong}
        assert call(ExportVersion, name, **fields).error_code == ExportVersion.Response.BAD_REQUEST
    unknown = call(ExportVersion, name, version=7, format='torch', path='a.pt')
    assert unknown.error_code == ExportVersion.Response.UNKNOWN_VERSION


def test_onnx_gives_the_same_numbers(office, ros_home, tmp_path):
    office.propose(value=2.0)
    store = next(ros_home.rglob('v00000001')).parent
    export_version(store, 1, 'onnx', tmp_path / 'v1.onnx')
    proto = onnx.load(tmp_path / 'v1.onnx')
    model = from_base(office.base.state, office.base.spec)
    model.load_state({'head.bias': np.full(len(model.classes), 2.0, np.float32)}, model.classes)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = model(x).numpy()
    session = onnxruntime.InferenceSession(tmp_path / 'v1.onnx')
    found = session.run(None, {'image': x.numpy()})[0]
    assert np.allclose(found, wanted, atol=1e-4)
    described = {p.key: p.value for p in proto.metadata_props}['etuner']
    assert json.loads(described)['classes'] == list(model.classes)
