# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights, versions and labels on disk: what was said to be there is there, whatever happens."""

from __future__ import annotations

from pathlib import Path
import signal
import subprocess
import sys

import numpy as np
import pytest

from etuner_ros.core.errors import StoreError
from etuner_ros.core.errors import WeightsError
from etuner_ros.core.frame_buffer import Frame
from etuner_ros.core.frame_buffer import FrameKey
from etuner_ros.core.label_store import LabelStore
from etuner_ros.core.model_store import ModelStore
from etuner_ros.core.weights import check_update
from etuner_ros.core.weights import difference
from etuner_ros.core.weights import ModelSpec
from etuner_ros.core.weights import pack
from etuner_ros.core.weights import pack_base
from etuner_ros.core.weights import read_base
from etuner_ros.core.weights import unpack

STATE = {
    'backbone.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
    'backbone.count': np.array(3),
    'head.weight': np.ones((2, 3), np.float32),
    'head.bias': np.zeros(2, np.float32),
}
SPEC = ModelSpec('tiny', 32, ('a', 'b'), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
UPDATE = {'head.bias': np.ones(2, np.float32)}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / 'base.safetensors'
    path.write_bytes(pack_base(STATE, SPEC, [('backbone', 7)], [('a', b'one'), ('b', b'three')]))
    return path


def test_base_weights_come_back_whole(base):
    read = read_base(base)
    assert read.spec == SPEC
    assert read.units == (('backbone', 7),)
    assert read.exemplars == (('a', b'one'), ('b', b'three'))
    assert read.state.keys() == STATE.keys()
    assert all(
        np.array_equal(read.state[k], STATE[k]) and read.state[k].shape == STATE[k].shape
        for k in STATE
    )


@pytest.mark.parametrize(
    'damage', [lambda d: d[:50], lambda d: b'', lambda d: d[:9] + b'}}' + d[11:]]
)
def test_damaged_base_weights_are_refused_in_one_sentence(base, damage):
    base.write_bytes(damage(base.read_bytes()))
    with pytest.raises(WeightsError, match='damaged|no model description'):
        read_base(base)


def test_missing_base_weights_name_the_file(tmp_path):
    with pytest.raises(WeightsError, match=r'nowhere\.safetensors can not be read'):
        read_base(tmp_path / 'nowhere.safetensors')


def test_an_update_carries_only_what_differs():
    changed = {**STATE, **UPDATE}
    assert list(difference(STATE, changed)) == ['head.bias']
    assert np.array_equal(unpack(pack(UPDATE))['head.bias'], UPDATE['head.bias'])


@pytest.mark.parametrize(
    ('update', 'classes', 'words'),
    [
        ({'other.weight': np.zeros(2, np.float32)}, 2, 'not in the base weights'),
        (
            {'backbone.weight': np.zeros((3, 3), np.float32)},
            2,
            r'has shape \(3, 3\), expected \(2, 3\)',
        ),
        ({'head.bias': np.array([1, np.nan], np.float32)}, 2, 'not finite'),
        ({'head.bias': np.ones(2, np.float64)}, 2, 'float64, expected float32'),
        ({'head.bias': np.ones(3, np.float32)}, 3, "need 'head.weight'"),
        ({'head.bias': np.ones(3, np.float32)}, 2, 'expected'),
    ],
)
def test_an_update_that_does_not_fit_is_refused(update, classes, words):
    with pytest.raises(WeightsError, match=words):
        check_update(STATE, update, classes)


def test_an_update_may_bring_classes():
    check_update(
        STATE, {'head.bias': np.ones(3, np.float32), 'head.weight': np.ones((3, 3), np.float32)}, 3
    )


def test_versions_survive_a_restart(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    assert store.live == 0
    first = store.commit(pack(UPDATE), 0, ('a', 'b'), reason='tuned', learned={'/collector': 4})
    again = ModelStore(tmp_path / 'models', base)
    assert again.live == first.version == 1
    assert again.manifests[1].learned == {'/collector': 4}
    assert again.weights(1) == pack(UPDATE)
    assert not again.warnings


def test_a_damaged_version_is_skipped_and_its_number_not_used_again(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    store.commit(pack(UPDATE), 0, ('a', 'b'))
    store.commit(pack(UPDATE), 1, ('a', 'b'))
    weights = store.folder / 'v00000002' / 'weights.safetensors'
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    again = ModelStore(tmp_path / 'models', base)
    assert again.live == 1
    assert any('v00000002 is damaged' in w for w in again.warnings)
    assert again.commit(pack(UPDATE), 1, ('a', 'b')).version == 3


@pytest.mark.parametrize(
    'name', ['live', 'v00000001/manifest.json', 'v00000001/weights.safetensors']
)
def test_the_store_opens_whatever_file_is_cut_short(base, tmp_path, name):
    store = ModelStore(tmp_path / 'models', base)
    store.commit(pack(UPDATE), 0, ('a', 'b'))
    (store.folder / name).write_bytes(b'')
    again = ModelStore(tmp_path / 'models', base)
    assert again.live in again.manifests
    assert again.warnings


def test_old_versions_make_room_but_not_the_live_one_and_its_parent(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=2)
    for parent in range(5):
        store.commit(pack(UPDATE), parent, ('a', 'b'))
    assert sorted(store.manifests) == [0, 4, 5]
    assert len(list(store.folder.glob('v*'))) == 2


def test_many_heads_do_not_push_out_what_rounds_made(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=2)
    for parent in range(3):
        store.commit(pack(UPDATE), parent, ('a', 'b'))
    for parent in range(3, 20):
        store.commit(pack(UPDATE), parent, ('a', 'b'), head_only=True)
    assert sorted(store.manifests) == [0, 2, 3, 18, 19, 20]
    assert ModelStore(tmp_path / 'models', base).manifests[20].head_only


def test_a_store_that_can_not_be_written_says_so(base, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(StoreError, match=r'models\.folder'):
        ModelStore(tmp_path / 'file' / 'models', base)


KILLED = """
import sys
from pathlib import Path
from etuner_ros.core.model_store import ModelStore
store = ModelStore(Path(sys.argv[1]), Path(sys.argv[2]))
print('begun', flush=True)
while True:
    store.commit(bytes(200_000), store.live, ('a', 'b'))
"""


def test_the_store_opens_after_kill_minus_nine_in_the_middle_of_writing(base, tmp_path):
    live = 0
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, '-c', KILLED, str(tmp_path / 'models'), str(base)],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b'begun\n'
        process.send_signal(signal.SIGKILL)
        process.wait()
        store = ModelStore(tmp_path / 'models', base)
        assert not store.warnings
        assert store.live >= live
        assert store.weights(store.live) is not None
        live = store.live


def frame(stamp_ns: int = 5, label: str = 'mug') -> Frame:
    return Frame(FrameKey('camera', stamp_ns, 'eye'), b'picture', 'jpeg', label, 0.5, 0.5, 3)


def test_labels_survive_a_restart_and_come_in_numbered_batches(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    numbers = [store.add(frame(i), 'duck', 'ann', 0) for i in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert store.make_batch(2) == 1
    store.close()
    again = LabelStore(tmp_path / 'labels.db')
    assert again.waiting() == 3
    assert again.make_batch(8) == 2
    assert again.make_batch(8) is None
    assert [s.stamp_ns for s in again.batch(1)] == [0, 1]
    sample = again.batch(2)[0]
    assert (sample.label, sample.predicted, sample.author, sample.image) == (
        'duck',
        'mug',
        'ann',
        b'picture',
    )


def test_a_duplicate_is_the_same_word_of_the_same_author(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    store.add(frame(), 'duck', 'ann', 0)
    assert store.is_duplicate(frame(), 'duck', 'ann')
    assert not store.is_duplicate(frame(), 'mug', 'ann')
    assert not store.is_duplicate(frame(), 'duck', 'bob')
    store.add(frame(), 'mug', 'ann', 0)
    assert not store.is_duplicate(frame(), 'duck', 'ann'), 'who changes the mind back is heard'


def test_a_label_store_that_can_not_be_opened_says_so(tmp_path):
    (tmp_path / 'labels.db').write_bytes(b'not a database, but long enough to look at' * 30)
    with pytest.raises(StoreError, match='can not be opened'):
        LabelStore(tmp_path / 'labels.db')
