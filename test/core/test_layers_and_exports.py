# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `model_manager` keeps beside the weights: frozen layers, exports under way."""

from __future__ import annotations

import json
import os
from pathlib import Path
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import psutil
import pytest
import torch

from etuner_ros.cli.main import main
from etuner_ros.core.errors import MessageError, StoreError
from etuner_ros.core.models.child import Child
from etuner_ros.core.models.export import export_version
from etuner_ros.core.models.export_queue import ExportQueue, LONGEST_S, MOST_EXPORTS
from etuner_ros.core.models.layer_board import LayerBoard
from etuner_ros.core.models.networks import from_base
from etuner_ros.core.models.store import ModelStore

UNITS = [('stem', 10), ('block0', 20), ('block1', 30), ('top', 40)]


def board(folder: Path, frozen: tuple[str, ...] = ()) -> LayerBoard:
    return LayerBoard(folder / 'layers.json', UNITS, frozen)


def frozen(found: LayerBoard) -> list[str]:
    return [layer.name for layer in found.layers() if layer.frozen]


def test_layers_are_frozen_by_pattern(tmp_path):
    mine = board(tmp_path)
    assert mine.set(['block?', 'stem'], True, False) == ['stem', 'block0', 'block1']
    assert mine.set(['stem'], True, False) == [], 'nothing changed'
    assert frozen(mine) == ['stem', 'block0', 'block1']
    with pytest.raises(MessageError, match='no layer matches nose, ear.; layers: stem, block0'):
        mine.set(['top', 'nose', 'ear*'], True, False)
    with pytest.raises(MessageError, match='an empty list'):
        mine.set([], True, False)
    assert frozen(mine) == ['stem', 'block0', 'block1'], 'all or nothing'


def test_what_a_person_pinned_stays_as_it_is(tmp_path):
    mine = board(tmp_path)
    mine.set(['top'], True, True)
    mine.set(['block0'], False, True)
    mine.take(['stem', 'block0', 'no such block'], {'stem': 0.5}, {'top': 0.25})
    assert frozen(mine) == ['stem', 'top']
    stem, *_, top = mine.layers()
    assert (stem.cka, top.forward_share, top.parameters, top.pinned) == (0.5, 0.25, 40, True)


def test_layers_come_back_after_a_restart(tmp_path):
    mine = board(tmp_path, frozen=('stem', 'of another network'))
    assert frozen(mine) == ['stem']
    mine.set(['top'], True, True)
    assert mine.save() == ''
    again = board(tmp_path)
    assert (frozen(again), again.problem, again.unsaved) == (['stem', 'top'], '', False)
    assert again.layers()[-1].pinned


@pytest.mark.parametrize('text', ['', '[]', '{"frozen": 3, "pinned": []}', '{"frozen": []}'])
def test_a_damaged_file_of_layers_is_said_and_replaced(tmp_path, text):
    (tmp_path / 'layers.json').write_text(text)
    mine = board(tmp_path, frozen=('stem',))
    assert 'could not be read' in mine.problem
    assert frozen(mine) == ['stem']
    assert mine.save() == ''
    assert board(tmp_path).problem == ''


def test_layers_that_the_disk_does_not_take_are_said_and_kept_for_later(tmp_path):
    folder = tmp_path / 'store'
    folder.write_text('in the way')
    mine = board(tmp_path)
    mine._file = folder / 'layers.json'
    mine.set(['top'], True, False)
    assert 'could not be stored' in mine.save()
    assert mine.unsaved
    folder.unlink()
    assert mine.save() == ''
    assert not mine.unsaved


class Made:
    """A process that ends when a test says so."""

    def __init__(self, *command: str) -> None:
        self.command, self.pid = command, 7
        self.ended, self.closed, self.problem = False, False, ''

    def close(self) -> None:
        self.closed = True


class Desk:
    """An export queue, its processes and its answers."""

    def __init__(self, root: Path) -> None:
        self.time = 0.0
        self.made: list[Made] = []
        self.answers: list[str] = []
        self.queue = ExportQueue(root, self._start, lambda: self.time)

    def _start(self, *command: str) -> Any:
        self.made.append(Made(*command))
        return self.made[-1]

    def add(self, name: str, kind: str = 'torch') -> Path:
        return self.queue.add(Path('/store'), 3, kind, name, self.answers.append)


def test_an_export_is_answered_when_its_process_has_ended(tmp_path):
    desk = Desk(tmp_path)
    path = desk.add('a/v3.pt')
    assert path == tmp_path / 'a' / 'v3.pt'
    assert desk.made[0].command[1:] == ('/store', '3', 'torch', str(path))
    desk.queue.poll()
    assert desk.answers == []
    desk.made[0].ended, desk.made[0].problem = True, 'no room'
    desk.queue.poll()
    desk.queue.poll()
    assert (desk.answers, desk.made[0].closed) == (['no room'], True)


def test_an_export_that_hangs_is_ended_and_leaves_nothing(tmp_path):
    desk = Desk(tmp_path)
    path = desk.add('v3.pt')
    half = tmp_path / f'.{path.name}.7.tmp'
    half.write_bytes(b'half')
    desk.time = LONGEST_S + 1
    desk.queue.poll()
    assert 'took longer than' in desk.answers[0]
    assert desk.made[0].closed
    assert not half.exists()


@pytest.mark.parametrize('name', ['file/v3.pt', f'{"x" * 255}.pt'], ids=['below a file', 'long'])
def test_an_export_to_a_path_that_can_not_be_is_answered(tmp_path, name):
    (tmp_path / 'file').write_bytes(b'in the way')
    desk = Desk(tmp_path)
    desk.add(name)
    desk.add('v3.pt')
    for made in desk.made:
        made.ended, made.problem = True, 'it can not be written'
    desk.queue.poll()
    assert desk.answers == ['it can not be written'] * 2
    desk.add(name)
    desk.queue.close('the end')
    assert desk.answers[2:] == ['the end']


def test_an_export_that_can_not_be_done_is_refused_at_once(tmp_path):
    desk = Desk(tmp_path)
    for name in ('../out.pt', '', '/etc/out.pt', '.'):
        with pytest.raises(MessageError, match='below'):
            desk.add(name)
    with pytest.raises(MessageError, match='none of torch, onnx'):
        desk.add('a', kind='pickle')
    for number in range(MOST_EXPORTS):
        desk.add(f'{number}.pt')
    with pytest.raises(MessageError, match='try again later'):
        desk.add('more.pt')
    desk.queue.close('the end')
    assert desk.answers == ['the end'] * MOST_EXPORTS
    desk.add('more.pt')
    with pytest.raises(MessageError, match='being written already'):
        desk.add('more.pt')


@pytest.fixture
def kept(deployed: Path, tmp_path: Path) -> Path:
    """Return the folder of a store that has one version."""
    store = ModelStore(tmp_path / 'models', deployed)
    classes = store.base.spec.classes
    store.commit({'head.bias': np.full(len(classes), 2.0, np.float32)}, 0, classes)
    store.close()
    return next((tmp_path / 'models').rglob('v00000001')).parent


def test_a_torch_that_only_traces_exports_the_same_numbers(kept, tmp_path, monkeypatch):
    newer = torch.onnx.export

    def older(model: Any, args: Any, f: Any = None, **options: Any) -> None:
        """As before torch 2.5: without the argument `dynamo`."""
        assert set(options) <= {'input_names', 'output_names', 'opset_version'}
        newer(model, args, f, **{**options, 'dynamo': False})

    monkeypatch.setattr(torch.onnx, 'export', older)
    monkeypatch.setitem(sys.modules, 'onnxscript', None)  # it is not needed for that
    export_version(kept, 1, 'onnx', tmp_path / 'v1.onnx')
    store = ModelStore(kept.parent, kept / 'base.safetensors', read_only=True)
    model = from_base(store.base.state, store.base.spec)
    model.load_state({**store.base.state, **store.update(1)}, store.base.spec.classes)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        wanted = model.eval()(x).numpy()
    session = onnxruntime.InferenceSession(tmp_path / 'v1.onnx')
    found = session.run(None, {'image': x.numpy()})[0]
    assert np.allclose(found, wanted, atol=1e-4)
    proto = onnx.load(tmp_path / 'v1.onnx')
    described = {p.key: p.value for p in proto.metadata_props}['etuner']
    assert json.loads(described)['classes'] == list(model.classes)


def test_the_answer_of_an_export_is_json_alone(kept, tmp_path, capsys):
    command = ['models', 'export', '1', str(tmp_path / 'v1.onnx'), '--format', 'onnx']
    assert main([*command, '--folder', str(kept), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['version'] == 1


def test_what_the_exporter_raises_is_said_and_leaves_nothing(kept, tmp_path, monkeypatch):
    def broken(model: Any, args: Any, **options: Any) -> None:
        dynamo = options.pop('dynamo')
        raise TypeError(f'it does not know dynamo={dynamo}\nand more')

    monkeypatch.setattr(torch.onnx, 'export', broken)
    folder = tmp_path / 'out'
    with pytest.raises(StoreError, match=r'to ONNX: it does not know dynamo=True$'):
        export_version(kept, 1, 'onnx', folder / 'v1.onnx')
    assert list(folder.iterdir()) == []


LOUD = """
import sys
for _ in range(20_000):
    print('a warning', file=sys.stderr)
sys.exit('the reason')
"""


def test_a_process_that_says_much_is_not_held_up(tmp_path, monkeypatch):
    (tmp_path / 'loud.py').write_text(LOUD)
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    child = Child('loud')
    child._process.wait(timeout=60)
    assert child.ended
    assert child.problem == 'the reason'
    child.close()


PATIENT = """
from pathlib import Path
import sys
import time
Path(sys.argv[1]).write_text('begun')
while True:
    time.sleep(0.05)
"""

PARENT = """
from pathlib import Path
import sys
import threading
import time
from etuner_ros.core.models.child import Child
children = []
thread = threading.Thread(target=lambda: children.append(Child('patient', sys.argv[1])))
thread.start()
thread.join()
while not Path(sys.argv[1]).exists() and not children[0].ended:
    time.sleep(0.02)
print(children[0].pid, flush=True)
sys.stdin.readline()
"""


def test_a_process_outlives_the_thread_that_began_it_and_not_the_process(tmp_path, monkeypatch):
    (tmp_path / 'patient.py').write_text(PATIENT)
    (tmp_path / 'parent.py').write_text(PARENT)
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}')
    begun = tmp_path / 'begun'
    command = [sys.executable, str(tmp_path / 'parent.py'), str(begun)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert begun.exists(), 'it lives on without the thread'
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=30)
    assert not alive
