# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The worker's loop and commands with a real learner, without its process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
import inspect
from pathlib import Path
import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import pytest
from torch import Tensor
from versions import travelling

from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.training_state import TrainingState
from etuner_ros.core.models.weights import backbone_digest, BaseWeights, read_base, State, unpack
from etuner_ros.worker import loop, memory
from etuner_ros.worker.link import WorkerLink
from etuner_ros.worker.loop import Worker


class Silent:
    """A client that keeps what it is told for itself."""

    def send(self, message: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Pipe:
    """Collects what the worker says, and may answer at once."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.on_said: Callable[[dict[str, Any]], None] = lambda message: None

    def send_bytes(self, data: bytes) -> None:
        message = msgpack.unpackb(data)
        self.said.append(message)
        self.on_said(message)

    def ops(self) -> list[str]:
        return [m['op'] for m in self.said]


@pytest.fixture
def worker(request: Any, deployed: Path, frames: list) -> tuple[Worker, Pipe]:
    """Return a worker with four labelled pictures, and its pipe; with a head where one is asked for."""
    head = {'enabled': getattr(request, 'param', False)}
    pipe = Pipe()
    made = Worker(pipe)  # type: ignore[arg-type]
    train = {'batch_size': 4, 'epochs': 1.0, 'validation_share': 0.0}
    configs = {'train': {**train, 'niceness': 0}, 'sim_freeze': {}, 'head': head}
    configs['engine'] = {'engine': 'torch'}
    made.handle({'op': 'configure', **configs})
    made.handle({'op': 'open', 'path': str(deployed)})
    trays = [f.image for f in frames if f.label == 'tray'][:4]
    samples = [
        {
            'id': str(i),
            'label': 'tray',
            'predicted': '',
            'image': encode_jpeg(image),
            'scenario': ['eye', 0],
        }
        for i, image in enumerate(trays)
    ]
    batch = {'samples': samples, 'new': True, 'renamed': [], 'withdrawn': []}
    made.handle({'op': 'samples', 'serial': 7, **batch})
    assert pipe.ops() == ['ready', 'taken']
    assert pipe.said[-1]['serial'] == 7
    pipe.said.clear()
    return made, pipe


def round_message(number: int) -> dict[str, Any]:
    return {'op': 'round', 'id': number, 'scenarios': {'eye': 0}, 'kind': 'train', 'serial': 8}


def test_a_cancel_that_overtakes_its_round_is_not_lost(worker):
    made, pipe = worker
    made.receive({'op': 'cancel', 'id': 1})
    made.handle(round_message(1))
    assert pipe.ops() == ['cancelled', 'taken']
    made.handle(round_message(2))
    assert pipe.ops()[-2] == 'candidate', 'it was not meant for the next one'


@pytest.mark.parametrize('worker', [False, True], indirect=True)
@pytest.mark.parametrize('last', [False, True])
def test_a_cancel_in_a_round_ends_it_also_after_the_last_step(worker, last):
    made, pipe = worker

    def cancel(message: dict[str, Any]) -> None:
        if message['op'] == 'progress' and (not last or message['iteration'] == message['total']):
            made.receive({'op': 'cancel', 'id': 1})

    pipe.on_said = cancel
    made.handle(round_message(1))
    assert 'candidate' not in pipe.ops()
    assert pipe.ops()[-2:] == ['cancelled', 'taken']
    made.handle(round_message(2))
    assert pipe.ops()[-2] == 'candidate', 'what it took was learned by nobody'


def test_a_round_ends_in_a_candidate_and_a_cancel_after_it_does_not_hurt_the_next(worker):
    made, pipe = worker
    made.handle(round_message(1))
    assert pipe.ops()[-2:] == ['candidate', 'taken']
    assert pipe.said[-2]['id'] == 1
    made.receive({'op': 'cancel', 'id': 1})
    made.handle({'op': 'go_back'})
    made.handle(round_message(2))
    assert pipe.ops()[-2] == 'candidate', 'its samples are to be learned again'


@pytest.mark.parametrize('worker', [True], indirect=True)
def test_a_round_that_could_not_be_sent_is_given_up_and_tried_again(worker, monkeypatch):
    made, pipe = worker

    def fails(*_arguments: Any) -> None:
        raise OSError('the disk is gone')

    with monkeypatch.context() as patch:
        patch.setattr(made.commands, 'propose_round', fails)
        made.handle(round_message(1))
    assert pipe.ops()[-2:] == ['failed', 'taken']
    made.handle(round_message(2))
    assert pipe.ops()[-2] == 'candidate'


def test_what_comes_in_a_round_is_worked_off_and_acknowledged_after_it(worker):
    made, pipe = worker
    batch = {'samples': [], 'new': True, 'renamed': [], 'withdrawn': []}
    made.receive({'op': 'samples', 'serial': 9, **batch})
    made.handle(round_message(1))
    assert [m['serial'] for m in pipe.said if m['op'] == 'taken'] == [8]
    message = made._next()
    assert message is not None
    made.handle(message)
    assert pipe.said[-1] == {'op': 'taken', 'serial': 9}


@pytest.mark.parametrize('worker', [False, True], indirect=True)
def test_what_is_taken_back_in_a_round_is_gone_before_its_end_and_not_brought_back_by_what_waits(
    worker, frames
):
    made, pipe = worker
    learner = made.commands.learner
    mugs = [encode_jpeg(f.image) for f in frames if f.label == 'mug'][:2]
    samples = [
        {'id': name, 'label': 'mug', 'predicted': '', 'image': mug, 'scenario': ['eye', 0]}
        for name, mug in zip(('gone', 'stays'), mugs)
    ]
    batch = {'samples': samples, 'new': True, 'renamed': [], 'withdrawn': []}
    messages = [
        {'op': 'samples', 'serial': 9, **batch},
        {'op': 'withdraw', 'serial': 10, 'ids': ['0', 'gone']},
    ]

    def say(message: dict[str, Any]) -> None:
        while message['op'] == 'progress' and messages:
            made.receive(messages.pop(0))

    pipe.on_said = say
    made.handle(round_message(1))
    assert 'candidate' in pipe.ops()
    assert pipe.ops().index('taken') < pipe.ops().index('candidate'), 'the round did not end first'
    assert learner.book.find('0') is None
    assert '0' not in learner.head.learned
    message = made._next()
    assert message is not None
    made.handle(message)
    assert pipe.said[-1] == {'op': 'taken', 'serial': 9}
    assert learner.book.find('stays').label == 'mug'
    assert learner.book.find('gone') is None
    made.handle({'op': 'go_back'})
    assert not {'0', 'gone'} & {*learner.head.learned, *(s.sample_id for s in learner.pending)}


def model_message(base: BaseWeights, version: int, update: State, told: bool) -> dict[str, Any]:
    """Tell of a version, with or without its backbone."""
    head, _, digest, tensors = travelling(base, update)
    names = {'version': version, 'classes': list(base.spec.classes), 'backbone_sha256': digest}
    return {'op': 'model', 'weights': bytes(head), 'backbone': bytes(told and tensors), **names}


@pytest.mark.parametrize('worker', [True], indirect=True)
def test_a_retreat_brings_the_deployed_network_and_where_that_is_live_nothing(worker, deployed):
    made, pipe = worker
    base, learner = read_base(deployed), made.commands.learner
    bare = learner.backbone
    made.handle({**round_message(1), 'kind': 'retreat'})
    assert 'nothing' in pipe.ops()
    assert 'candidate' not in pipe.ops()
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    update = {name: base.state[name] * np.float32(1.01)}
    made.handle(model_message(base, 1, update, True))
    assert learner.backbone != bare
    made.handle({**round_message(2), 'kind': 'retreat'})
    candidate = next(m for m in pipe.said if m['op'] == 'candidate')
    assert (candidate['id'], candidate['backbone'], candidate['iterations']) == (2, bare, 0)
    assert name not in unpack(candidate['weights'])
    assert 'tray' in candidate['classes'], 'what was taught is known'


def test_a_head_is_put_on_the_backbone_that_was_told_before_also_in_a_round(worker, deployed):
    made, pipe = worker
    base, learner = read_base(deployed), made.commands.learner
    bare = learner.backbone
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    update = {name: base.state[name] * np.float32(1.01)}
    other = backbone_digest(base.sha256, update)
    rolled = {**update, 'head.bias': np.roll(base.state['head.bias'], 1)}
    messages = [model_message(base, 1, update, True), model_message(base, 2, rolled, False)]

    def announce(message: dict[str, Any]) -> None:
        while message['op'] == 'progress' and messages:
            made.receive(messages.pop(0))

    pipe.on_said = announce
    made.handle(round_message(1))
    assert 'candidate' not in pipe.ops(), 'it would be of weights that are live no more'
    assert learner.backbone == bare
    for _ in range(2):
        message = made._next()
        assert message is not None
        made.handle(message)
    assert [m['version'] for m in pipe.said if m['op'] == 'model_loaded'] == [1, 2]
    assert learner.backbone == other
    live = learner.live.head.bias.detach().numpy()
    assert np.array_equal(live, rolled['head.bias'])
    made.handle(model_message(base, 3, {}, False))
    assert learner.backbone == bare


def test_a_head_whose_backbone_never_came_is_not_put_on_another_one(worker, deployed):
    made, pipe = worker
    base, learner = read_base(deployed), made.commands.learner
    bare = learner.backbone
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    update = {name: base.state[name] * np.float32(1.01)}
    made.handle({**model_message(base, 1, update, True), 'backbone': b'damaged'})
    made.handle(model_message(base, 2, update, False))
    texts = [m['text'] for m in pipe.said if m['op'] == 'error' and m['during'] == 'model']
    assert len(texts) == 2
    assert 'missing or damaged' in texts[1]
    assert (learner.backbone, learner.version) == (bare, 0)
    made.handle(model_message(base, 2, update, True))
    assert learner.version == 2


@pytest.mark.parametrize('worker', [True], indirect=True)
def test_no_head_is_proposed_before_all_labels_have_come(worker):
    """After a restart it knows a part of what the live head was made from."""
    made, pipe = worker
    made._propose_head()
    assert pipe.ops() == []
    made.handle({'op': 'caught_up', 'value': True, 'complete': False})
    made._propose_head()
    assert pipe.ops() == ['head']
    assert pipe.said[0]['classes'][-1] == 'tray'


@pytest.mark.parametrize('worker', [True], indirect=True)
def test_it_tells_once_what_a_round_would_find_and_follows_changes_without_a_round(worker):
    made, pipe = worker
    made._tell_prospects()
    made._tell_prospects()
    assert [(m['new'], m['tuned']) for m in pipe.said if m['op'] == 'prospects'] == [(4, False)]
    assert pipe.said[-1]['passes'] > 4
    for number in (0, 3):
        made.handle({'op': 'scenarios', 'scenarios': {'eye': number}})
    assert {s.number for s in made.commands.learner.current} == {3}
    pipe.said.clear()
    made.handle(round_message(1))
    made.handle({'op': 'go_back'})
    made._tell_prospects()
    assert pipe.ops()[-1] == 'prospects', 'a round has changed them'


@pytest.mark.parametrize('worker', [True], indirect=True)
def test_a_worker_that_makes_a_candidate_of_many_samples_is_not_taken_to_hang(worker, monkeypatch):
    made, pipe = worker
    learner = made.commands.learner
    first = learner.pending
    learner.add_samples(
        [replace(s, sample_id=f'{s.sample_id}/{n}') for n in range(32) for s in first]
    )
    monkeypatch.setattr(loop, 'ALIVE_S', 0.0)
    now, hung = 0.0, []
    link = WorkerLink(Silent, lambda _base: {'op': 'open'}, timeout_s=0.01, clock=lambda: now)
    link.start()
    link.heard({'op': 'taken', 'serial': 1})
    features = TrainingState.features

    def slowly(state: TrainingState, chosen: Sequence[Sample]) -> Tensor:
        nonlocal now
        now += 0.009 * -(-len(chosen) // 32)
        return features(state, chosen)

    def heard(message: dict[str, Any]) -> None:
        hung.append(link.hangs)
        link.heard(message)

    monkeypatch.setattr(TrainingState, 'features', slowly)
    pipe.on_said = heard
    link.send({'op': 'round'})
    made.handle(round_message(1))
    assert 'candidate' in pipe.ops()
    assert now > 4 * link.timeout_s
    assert not any(hung)


@pytest.mark.parametrize('worker', [True], indirect=True)
def test_a_head_that_nobody_could_judge_is_offered_again_after_a_while(worker, monkeypatch):
    made, pipe = worker
    now = 1000.0
    monkeypatch.setattr(loop.time, 'monotonic', lambda: now)

    def offers(seconds: float) -> int:
        nonlocal now
        pipe.said.clear()
        now += seconds
        made._propose_head()
        return pipe.ops().count('head')

    made.handle({'op': 'caught_up', 'value': True, 'complete': True})
    assert offers(1.0) == 1
    made.handle({'op': 'head_refused', 'again': False})
    assert offers(100.0) == 0, 'it was judged'
    made.commands.learner.head.is_new = True
    made.handle({'op': 'caught_up', 'value': True, 'complete': True})
    assert offers(1.0) == 1
    for wait in (loop.AGAIN_S, 2 * loop.AGAIN_S):
        made.handle({'op': 'head_refused', 'again': True})
        assert offers(wait - 0.1) == 0
        assert offers(0.2) == 1, 'what was taught meanwhile would be lost else'


def test_a_worker_that_hears_nothing_does_not_look_for_a_head_again_and_again(worker, monkeypatch):
    """With many classes each look takes milliseconds, ten times a second."""
    made, _ = worker
    looks = []
    monkeypatch.setattr(made.commands, 'propose_head', lambda: bool(looks.append(1)))
    for _ in range(2):
        made.handle({'op': 'caught_up', 'value': True, 'complete': True})
        for _ in range(10):
            made._propose_head()
    assert len(looks) == 2


def test_signs_of_life_do_not_flood_the_pipe(worker):
    made, pipe = worker
    for _ in range(100):
        made._say_alive()
    assert 1 <= pipe.ops().count('alive') < 100


def test_an_error_is_told_and_the_message_counts_as_taken(worker):
    made, pipe = worker
    made.handle({'op': 'withdraw', 'serial': 3})
    assert pipe.ops() == ['error', 'taken']


def test_the_worker_asks_to_be_killed_before_others(monkeypatch):
    written = []
    monkeypatch.setattr(memory.Path, 'write_text', lambda p, text: written.append((str(p), text)))
    memory.kill_me_first()
    assert written == [('/proc/self/oom_score_adj', '500')]

    def refuse(_path: Path, _text: str) -> None:
        raise PermissionError

    monkeypatch.setattr(memory.Path, 'write_text', refuse)
    memory.kill_me_first()


def trained() -> list[float]:
    """Return what three steps make of a head."""
    from types import SimpleNamespace

    import torch

    from etuner_ros.core.config import TrainConfig
    from etuner_ros.core.learn.trainer import make_optimiser

    torch.manual_seed(0)
    network = SimpleNamespace(backbone=torch.nn.Linear(3, 3), head=torch.nn.Linear(3, 2))
    optimiser = make_optimiser(network, TrainConfig())
    for _ in range(3):
        network.head(network.backbone(torch.ones(1, 3))).square().sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        optimiser.load_state_dict(optimiser.state_dict())
    return network.head.weight.flatten().tolist()


def test_training_loads_no_compiler_and_learns_the_same():
    """It takes two seconds of each start of a worker, and 60 MB."""
    script = f"""
import sys
from etuner_ros.worker.idle_compiler import leave_compiler_out
{inspect.getsource(trained)}
leave_compiler_out()
leave_compiler_out()
print(trained())
assert 'torch._dynamo' not in sys.modules
"""
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(trained())
