# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""With `transfer_mbit_s` large things arrive whole, in pieces, and small ones do not wait."""

from __future__ import annotations

from pathlib import Path

from helpers import Graph
import numpy as np
import pytest
from rclpy.node import Node
from test_loop import pictures, Robot
from test_model_manager import Office

from etuner_ros.core.models.deflate import deflated
from etuner_ros.core.models.weights import backbone_digest, pack, sha256
from etuner_ros.core.rate_limit import RateLimit
from etuner_ros.msg import Backbone, ModelCandidate, ModelVerdict, TunerStatus
from etuner_ros.nodes import base_fetcher, model_manager
from etuner_ros.nodes.candidate_offer import CandidateOffer
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.qos import LATCHED
from etuner_ros.nodes.tuner import TunerNode
from etuner_ros.srv import GetBatches, GetModel, GetReplay


@pytest.fixture(autouse=True)
def computers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have whoever asks be on another computer than who answers."""
    monkeypatch.setattr(base_fetcher, 'this_computer', lambda: 'another one')


class Offering:
    """A tuner that keeps the weights of its candidates until they are asked for."""

    def __init__(self, ros: Graph, office: Office, mbit_s: float) -> None:
        self.office, self.asked = office, 0
        node = ros.add(lambda **options: Node('tuner', **options))
        self.limit = RateLimit(mbit_s)
        self._offer = CandidateOffer(node, self.limit, self._on_asked)

    def _on_asked(self) -> None:
        self.asked += 1

    def candidate(self, parent: int) -> ModelCandidate:
        """Return a candidate with some 0.6 MB of a backbone, without its weights."""
        base, rng = self.office.base, np.random.default_rng(parent)
        state = {}
        for name, value in reversed(base.state.items()):
            if value.ndim == 4 and sum(v.nbytes for v in state.values()) < 600_000:
                noise = rng.normal(size=value.shape).astype(np.float32)
                state[name] = value + np.float32(1e-4) * noise
        data = pack(state)
        made = self.office.candidate(
            parent,
            float(parent),
            sha256=sha256(data),
            weights=data,
            backbone_sha256=backbone_digest(base.sha256, state),
        )
        self._offer.hold(made, deflated(data, base.state))
        assert not made.weights
        return made


def test_a_backbone_arrives_whole_under_a_limit_and_a_head_is_not_held_up(
    ros: Graph, deployed: Path
):
    office = Office(ros, deployed, transfer_mbit_s=4.0)
    robot = ros.add(InferenceNode, model__weights=str(deployed), autostart=True)
    backbones = ros.listen(Backbone, 'backbone', LATCHED)
    tuner = Offering(ros, office, mbit_s=1.0)
    office._candidates.publish(tuner.candidate(parent=0))
    ros.until(lambda: tuner.asked, 'the weights to be asked for')
    verdict = office.propose(office.head(0))
    assert (verdict.kind, verdict.code) == (ModelVerdict.HEAD, ModelVerdict.ACCEPTED)
    ros.until(lambda: robot.diagnostics()['model version'] == 1, 'the head to serve')
    assert len(office.verdicts) == 1, 'while the weights of the round are on their way'
    tuner.limit.mbit_s = 100.0
    ros.until(lambda: len(office.verdicts) == 2, 'the verdict on the round')
    assert office.verdicts[-1].code == ModelVerdict.STALE, 'another version is live by now'

    verdict = office.propose(**_fields(tuner.candidate(parent=1)))
    assert (verdict.kind, verdict.code) == (ModelVerdict.ROUND, ModelVerdict.ACCEPTED)
    assert tuner.asked > 2, 'it came in pieces'
    ros.until(lambda: office.models[-1].version == 2, 'the announcement')
    assert robot.diagnostics()['model version'] == 1, 'its backbone is on its way'
    assert not backbones[-1].weights
    verdict = office.propose(office.head(2, value=7.0))
    assert (verdict.code, office.models[-1].version) == (ModelVerdict.ACCEPTED, 3)
    ros.until(lambda: robot.diagnostics()['model version'] == 3, 'the newest head to serve')
    assert robot._weights.live.slot.announced == backbones[-1].backbone_sha256
    late = ros.add(
        lambda **options: InferenceNode(**{**options, 'namespace': ros.namespace}),
        model__weights=str(deployed),
        autostart=True,
    )
    ros.until(lambda: late.diagnostics()['model version'] == 3, 'one that came later')


def _fields(message: ModelCandidate) -> dict[str, object]:
    names = message.get_fields_and_field_types()
    return {name: getattr(message, name) for name in names}


def test_a_candidate_whose_weights_never_come_is_answered(ros, deployed, monkeypatch):
    monkeypatch.setattr(model_manager, 'PIECES_LOST_S', 0.2)
    office = Office(ros, deployed)
    verdict = office.propose(weights=b'')
    assert verdict.code == ModelVerdict.STALE, 'nobody has judged it'
    assert 'its weights do not come from tuner/get_candidate' in verdict.reason
    assert office.propose(value=2.0).code == ModelVerdict.ACCEPTED


def test_weights_that_are_not_those_of_the_candidate_are_refused(ros, deployed):
    office = Office(ros, deployed)
    tuner = Offering(ros, office, mbit_s=0.0)
    made = tuner.candidate(parent=0)
    tuner._offer._deflated = tuner._offer._deflated[:-20]
    assert office.propose(**_fields(made)).code == ModelVerdict.DAMAGED
    made = tuner.candidate(parent=0)
    tuner._offer._deflated = deflated(pack({}), office.base.state)
    verdict = office.propose(**_fields(made))
    assert (verdict.code, office.node._store.live) == (ModelVerdict.DAMAGED, 0)


def test_on_the_same_computer_nobody_waits(ros, deployed, monkeypatch):
    office = Office(ros, deployed, transfer_mbit_s=0.01)
    size = office.node._store.base_path.stat().st_size
    here = model_manager_piece(ros, model_manager_computer())
    assert len(here.data) == min(size, 4 * 1024 * 1024)
    assert len(model_manager_piece(ros, '').data) < 10_000


def model_manager_computer() -> str:
    from etuner_ros.core.computer import this_computer

    return this_computer()


def model_manager_piece(ros: Graph, computer: str) -> GetModel.Response:
    return ros.call(GetModel, 'model_manager/get_model', computer=computer)


def test_a_round_goes_all_the_way_in_pieces_and_a_tuner_that_starts_again_has_it(
    ros, deployed, frames
):
    shared = {
        'model__weights': str(deployed),
        'gate__enabled': False,
        'transfer_mbit_s': 400.0,
        'head__enabled': False,
        'train__niceness': 0,
    }
    robot = Robot(ros, None, shared)
    candidates = ros.listen(ModelCandidate, 'candidate')
    backbones = ros.listen(Backbone, 'backbone', LATCHED)
    for image in pictures(frames, 'tray')[:4]:
        robot.teach(image, 'tray')
    ros.until(lambda: robot.inference.diagnostics()['model version'] == 1, 'version 1')
    assert candidates
    assert not candidates[-1].weights
    assert not backbones[-1].weights
    store = robot.manager._store
    assert robot.inference._weights.live.slot.announced == store.backbone(1)
    assert backbones[-1].backbone_sha256 == store.backbone(1)
    ros.until(lambda: robot.state == TunerStatus.WAITING, 'the tuner to go on')
    assert robot.tuner._worker.backbone is robot.tuner._worker._made, 'it did not travel back'
    ros.remove(robot.tuner)
    again = ros.add(TunerNode, **shared)
    ros.until(lambda: again._keeper.ready, 'a worker with the live weights')
    assert again._worker.backbone.backbone_sha256 == store.backbone(1)


def test_pictures_of_labels_come_in_pieces_and_none_is_lost(ros, deployed, frames):
    robot = Robot(ros, deployed, head__enabled=False, train__niceness=0)
    for image in pictures(frames, 'tray')[:8]:
        robot.teach(image, 'tray')
    ros.until(lambda: len(robot.batches) == 2, 'two batches')
    name = f'{robot.collector.get_name()}'
    assert len(ros.call(GetBatches, f'{name}/get_batches', from_batch_id=1).batches) == 2
    robot.collector._limit.mbit_s = 0.5
    one = ros.call(GetBatches, f'{name}/get_batches', from_batch_id=1)
    assert [b.batch_id for b in one.batches] == [1], 'as much as fits; the rest is asked for'
    assert one.last_batch_id == 2
    seen: list[int] = []
    while len(seen) < 8:
        fields = {'up_to_batch_id': 2, 'count': 100, 'skip': len(seen)}
        piece = ros.call(GetReplay, f'{name}/get_replay', **fields)
        assert piece.total == 8
        assert piece.samples
        seen += [s.sample_id for s in piece.samples]
    assert len(set(seen)) == 8
    for image in pictures(frames, 'race_car')[:8]:
        robot.teach(image, 'race_car')
    # The topic keeps the newest alone; whoever missed one asks for it.
    ros.until(lambda: robot.batches[-1].batch_id == 4, 'the batches that waited for their turn')
    numbers = [b.batch_id for b in robot.batches]
    assert numbers == sorted(set(numbers))
