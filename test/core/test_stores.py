# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Weights, versions and labels on disk: what was said to be there is there, whatever happens."""

from __future__ import annotations

import contextlib
from dataclasses import replace
import json
import os
from pathlib import Path
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from etuner_ros.core.errors import StoreError, WeightsError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.labels.database import Database
from etuner_ros.core.labels.files import export, FORMATS, import_, Imported
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey, Place
from etuner_ros.core.labels.room import MOST_AT_ONCE
from etuner_ros.core.labels.schema import SCHEMA
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.core.models.base_weights import (
    checksum_file,
    copy_warning,
    intact_file,
    prepare,
    write_base,
)
from etuner_ros.core.models.export import export_version
from etuner_ros.core.models.store import HEAD, ModelStore
from etuner_ros.core.models.weights import (
    backbone_digest,
    check_update,
    difference,
    ModelSpec,
    pack,
    pack_base,
    read_base,
    read_in_place,
    same_bits,
    sha256,
    unpack,
)

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


def test_views_are_what_the_library_reads():
    data = pack({**STATE, 'flags': np.array([True, False]), 'half': np.ones((2, 1), np.float16)})
    seen, read = read_in_place(bytearray(data)), unpack(data)
    assert seen.keys() == read.keys()
    assert all(same_bits(seen[k], read[k]) for k in read)


@given(st.binary(max_size=60), st.integers(0, 300))
def test_damaged_bytes_give_one_clear_error_and_no_views(noise, place):
    data = bytearray(pack(STATE))
    data[place : place + len(noise)] = noise
    with contextlib.suppress(WeightsError):  # anything else fails the test
        assert all(v.nbytes <= len(data) for v in read_in_place(data).values())


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
    first = store.commit(UPDATE, 0, ('a', 'b'), reason='tuned', learned={'/collector': 4})
    store.close()
    again = ModelStore(tmp_path / 'models', base)
    assert again.live == first.version == 1
    assert again.manifests[1].learned == {'/collector': 4}
    assert pack(again.update(1)) == pack(UPDATE)
    assert not again.warnings


def test_a_damaged_version_is_skipped_and_its_number_not_used_again(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    store.commit(UPDATE, 0, ('a', 'b'))
    store.commit(UPDATE, 1, ('a', 'b'))
    weights = store.folder / 'v00000002' / 'head.safetensors'
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    store.close()
    again = ModelStore(tmp_path / 'models', base)
    assert again.live == 1
    assert any('version 2 is damaged' in w for w in again.warnings)
    assert again.commit(UPDATE, 1, ('a', 'b')).version == 3


@pytest.mark.parametrize('name', ['live', 'v00000001/manifest.json', 'v00000001/head.safetensors'])
def test_the_store_opens_whatever_file_is_cut_short(base, tmp_path, name):
    store = ModelStore(tmp_path / 'models', base)
    store.commit(UPDATE, 0, ('a', 'b'))
    (store.folder / name).write_bytes(b'')
    store.close()
    again = ModelStore(tmp_path / 'models', base)
    assert again.live in again.manifests
    assert again.warnings


def test_old_versions_make_room_but_not_the_live_one_and_its_parent(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=2)
    for parent in range(5):
        store.commit(UPDATE, parent, ('a', 'b'))
    assert sorted(store.manifests) == [0, 4, 5]
    assert len(list(store.folder.glob('v*'))) == 2


def test_what_the_live_version_was_made_from_stays_though_newer_ones_came(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=1)
    for parent in range(2):
        store.commit(UPDATE, parent, ('a', 'b'))
    store.set_live(1)
    store.commit(UPDATE, 1, ('a', 'b'))
    assert sorted(store.manifests) == [0, 1, 3]
    assert store.roll_back() == []
    assert store.live == 1


def test_many_heads_do_not_push_out_what_rounds_made(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=2)
    for parent in range(3):
        store.commit(UPDATE, parent, ('a', 'b'))
    for parent in range(3, 20):
        store.commit(UPDATE, parent, ('a', 'b'), kind=HEAD)
    assert sorted(store.manifests) == [0, 2, 3, 18, 19, 20]
    store.close()
    assert ModelStore(tmp_path / 'models', base).manifests[20].kind == HEAD


def test_a_store_that_can_not_be_written_says_so(base, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(StoreError, match=r'models\.folder'):
        ModelStore(tmp_path / 'file' / 'models', base)


KILLED = """
import sys
from pathlib import Path
import numpy as np
from etuner_ros.core.models.store import ModelStore
store = ModelStore(Path(sys.argv[1]), Path(sys.argv[2]))
print('begun', flush=True)
while True:
    update = {'body.weight': np.full(50_000, store.live, np.float32)}
    store.commit(update, store.live, ('a', 'b'))
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
        assert bool(store.update(store.live)) == (store.live > 0)
        needed = {store.backbone(v) for v in store.manifests} - {store.backbone(0)}
        assert {p.stem for p in store.folder.glob('backbones/*')} == needed
        live = store.live
        store.close()


def frame(stamp_ns: int = 5, label: str = 'mug', uid: int = 0) -> Frame:
    key = FrameKey('camera', stamp_ns, 'eye', uid)
    return Frame(key, b'picture', 'jpeg', label, 0.5, 0.5, 3)


def test_labels_survive_a_restart_and_come_in_numbered_batches(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    numbers = [store.add(frame(i), 'duck', 'ann', 0, scenario=2).sample_id for i in range(5)]
    assert numbers == [1, 2, 3, 4, 5]
    assert store.make_batch(2) == 1
    store.close()
    again = LabelStore(tmp_path / 'labels.db')
    assert again.waiting() == 3
    assert again.make_batch(8) == 2
    assert again.make_batch(8) is None
    assert [s.stamp_ns for s in again.batch(1).samples] == [0, 1]
    sample = again.batch(2).samples[0]
    assert (sample.label, sample.predicted, sample.author, sample.image, sample.scenario) == (
        'duck',
        'mug',
        'ann',
        b'picture',
        2,
    )


def test_what_can_not_be_stored_is_said_and_not_left_out(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    with pytest.raises(StoreError, match='could not be written: .*confidence'):
        store.add(replace(frame(), confidence=float('nan')), 'duck', 'ann', 0)
    assert store.count() == 0
    assert store.add(frame(), 'duck', 'ann', 0).label == 'duck'
    assert store.add(frame(), 'duck', 'bob', 0).sample_id == 1, 'a frame is there once'


def test_a_duplicate_is_the_same_word_of_the_same_author(tmp_path):
    store, key = LabelStore(tmp_path / 'labels.db'), frame().key
    store.add(frame(), 'duck', 'ann', 0)
    assert store.is_duplicate(key, 'duck', 'ann')
    assert not store.is_duplicate(key, 'mug', 'ann')
    assert not store.is_duplicate(key, 'duck', 'bob')
    store.add(frame(), 'mug', 'ann', 0)
    assert not store.is_duplicate(key, 'duck', 'ann'), 'who changes the mind back is heard'


def end(store: LabelStore, replayed: int = 0) -> dict[int, str]:
    """
    Return the label of each frame for a tuner that takes all batches in order.

    :param replayed: up to this batch it takes what counts then at once, up to half of them before
    """
    while store.make_batch(2):
        pass
    labels: dict[int, str] = {}
    for since, up_to in ((0, replayed // 2), (replayed // 2, replayed)):
        replay = store.replay(up_to, 1000, 0, 10**6, since)
        for old, new in replay.renamed:
            labels = {k: new if v == old else v for k, v in labels.items()}
        labels.update({s.stamp_ns: s.label for s in replay.samples})
    for number in range(replayed + 1, store.last_batch() + 1):
        batch = store.batch(number)
        for old, new in batch.renamed:
            labels = {k: new if v == old else v for k, v in labels.items()}
        for sample in sorted(batch.samples, key=lambda s: bool(s.label)):  # taken back first
            labels[sample.stamp_ns] = sample.label
    return {k: v for k, v in labels.items() if v}


def test_people_who_disagree_are_not_learned_from_until_one_label_leads(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    store.add(frame(), 'duck', 'ann', 0)
    assert end(store) == {5: 'duck'}
    stored = store.add(frame(), 'tray', 'bob', 0)
    assert (stored.label, stored.said) == ('', {'ann': 'duck', 'bob': 'tray'})
    assert end(store) == {}
    assert store.disputed() == [frame().key]
    assert store.add(frame(), 'tray', 'eve', 0).label == 'tray'
    assert end(store) == {5: 'tray'}
    assert not store.disputed()


def test_who_changes_the_mind_replaces_and_who_takes_it_back_removes(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    store.add(frame(), 'duck', 'ann', 0)
    store.add(frame(), 'tray', 'ann', 0)
    assert end(store) == {5: 'tray'}
    assert store.add(frame(), '', 'ann', 0).said == {}
    assert end(store) == {}
    store.add(frame(), 'tray', 'ann', 0)
    assert end(store) == {5: 'tray'}


def test_a_label_that_is_undone_before_its_batch_goes_out_is_not_learned(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(3):
        store.add(frame(number), 'duck', 'ann', 0)
    store.add(frame(0), '', 'ann', 0)
    store.add(frame(1), 'tray', 'bob', 0)  # disputed
    assert store.make_batch(8) == 1
    assert [(s.stamp_ns, s.label) for s in store.batch(1).samples] == [
        (2, 'duck'),
        (0, ''),
        (1, ''),
    ]
    assert end(store) == {2: 'duck'}


def test_of_a_frame_that_is_twice_in_a_batch_the_last_word_counts(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for label in ('duck', '', 'tray'):
        store.add(frame(), label, 'ann', 0)
    store.make_batch(8)
    assert [s.label for s in store.batch(1).samples] == ['tray']
    store._database.execute('UPDATE frames SET image = NULL, size = 0')  # it made room
    assert [s.label for s in store.batch(1).samples] == [''], 'at least it is a duck no more'


WORDS = st.sampled_from(['duck', 'tray', 'mug', ''])
DEEDS = st.one_of(
    st.tuples(st.just('say'), st.integers(0, 2), WORDS, st.sampled_from(['ann', 'bob'])),
    st.tuples(st.just('rename'), WORDS.filter(bool), WORDS.filter(bool)),
    st.tuples(st.just('batch')),
)


@given(st.lists(DEEDS, max_size=25))
def test_a_tuner_that_takes_all_batches_ends_with_what_is_stored(deeds):
    memory = '/dev/shm' if Path('/dev/shm').is_dir() else None  # a disk is waited for, each time
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        store = LabelStore(Path(folder) / 'labels.db')
        for kind, *values in deeds:
            if kind == 'say':
                number, label, author = values
                store.add(frame(number), label, author, 0)
            elif kind == 'rename':
                store.rename(*values)
            else:
                store.make_batch(1)
        stored = {s.stamp_ns: s.label for s in store.labelled()}
        for replayed in range(store.last_batch() + 1):
            assert end(store, replayed) == stored
        store.close()


def test_labels_that_were_swapped_are_so_for_a_tuner_that_starts_anew(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number, label in enumerate(['left', 'right', 'left']):
        store.add(frame(number), label, 'ann', 0)
    store.make_batch(10)
    store.add(frame(3), 'left', 'ann', 0)  # waits
    for names in (('left', 'other'), ('right', 'left'), ('other', 'right')):
        store.rename(*names)
    store.make_batch(10)
    for replayed in range(store.last_batch() + 1):
        assert end(store, replayed) == {0: 'right', 1: 'left', 2: 'right', 3: 'right'}


def test_renaming_to_a_label_that_exists_merges_and_ends_disputes(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number, label in enumerate(['duck', 'bird', 'mug']):
        store.add(frame(number), label, 'ann', 0)
    store.add(frame(0), 'bird', 'bob', 0)
    store.make_batch(10)
    assert store.rename('bird', 'duck') == 2
    assert {s.label: s.frames for s in store.statistics()} == {'duck': 2, 'mug': 1}
    assert end(store) == {0: 'duck', 1: 'duck', 2: 'mug'}


def test_a_frame_that_is_corrected_back_to_a_renamed_label_goes_out_so(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(2):
        store.add(frame(number), 'mug', 'ann', 0)
    store.make_batch(10)
    store.rename('mug', 'cup')
    store.add(frame(0), 'mug', 'ann', 0)
    assert store.waiting() == 1
    store.close()
    again = LabelStore(tmp_path / 'labels.db')
    assert end(again) == {0: 'mug', 1: 'cup'}
    assert end(again) == {0: 'mug', 1: 'cup'}, 'also when all batches are fetched once more'


def test_a_label_that_is_renamed_twice_goes_out_as_two_names_and_no_picture(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    store.add(frame(0), 'cup', 'ann', 0)
    store.make_batch(10)
    store.add(frame(1), 'cup', 'ann', 0)  # waits
    store.rename('cup', 'mug')
    assert store.rename('mug', 'beaker') == 2
    assert store.waiting() == 1
    assert [store.batch(n).renamed for n in (2, 3)] == [[('cup', 'mug')], [('mug', 'beaker')]]
    assert end(store) == {0: 'beaker', 1: 'beaker'}
    store.rename('beaker', 'cup')
    assert store.waiting() == 0
    assert end(store) == {0: 'cup', 1: 'cup'}, 'there and back'


def test_the_largest_class_makes_room_and_what_waits_for_its_batch_is_kept(tmp_path):
    store = LabelStore(tmp_path / 'labels.db', budget_bytes=10 * len(b'picture'))
    for number in range(8):
        store.add(frame(number), 'duck', 'ann', 0)
    for number in range(8, 10):
        store.add(frame(number), 'mug', 'ann', 0)
    with pytest.raises(StoreError, match='full.*wait for their batch'):
        store.add(frame(10), 'mug', 'ann', 0)
    assert store.count() == 10, 'what was refused left nothing'
    store.make_batch(100)
    store.note_learned(1, 7)
    for number in range(10, 14):
        store.add(frame(number), 'mug', 'ann', 0)
    kept = [s.stamp_ns for s in store.labelled()]
    assert kept == [3, 4, 5, 6, 7, 9, 10, 11, 12, 13], 'both classes kept five, the newest'
    assert store.stored_bytes <= store.budget_bytes
    assert store.last_batch() == 1, 'numbers go on where they were'


def test_what_was_learned_makes_room_before_what_no_tuner_may_have_got(tmp_path):
    """A batch is numbered also while nobody listens."""
    store = LabelStore(tmp_path / 'labels.db', budget_bytes=20 * len(b'picture'))
    for number in range(8):
        store.add(frame(number), 'mug', 'ann', 0)
    store.make_batch(100)
    store.note_learned(1, 7)
    for number in range(8, 20):
        store.add(frame(number), 'duck', 'ann', 0)
        store.make_batch(1)
    for number in range(20, 22):
        store.add(frame(number), 'duck', 'ann', 0)
        store.make_batch(1)
    kept = [s.stamp_ns for s in store.labelled()]
    assert kept == list(range(2, 22)), 'the largest class is none of those that were learned'
    for number in range(22, 30):
        store.add(frame(number), 'duck', 'ann', 0)
        store.make_batch(1)
    mugs = [s.stamp_ns for s in store.labelled() if s.label == 'mug']
    assert mugs == [3, 4, 5, 6, 7], 'a head needs samples of each class'
    assert store.count() == 30
    assert store.stored_bytes == store.budget_bytes, 'the oldest of the others have gone'


def test_a_budget_that_is_lowered_is_reached_over_some_labels_of_which_none_waits_long(tmp_path):
    size = len(b'picture')
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(MOST_AT_ONCE + 100):
        store.add(frame(number), 'duck' if number % 2 else 'mug', 'ann', 0)
    store.make_batch(10_000)
    store.budget_bytes = 10 * size
    store.add(frame(1000), 'tray', 'ann', 0)
    assert store.stored_bytes == 101 * size, 'as many as may go for one label have gone'
    store.add(frame(1001), 'tray', 'ann', 0)
    assert store.stored_bytes == 10 * size
    assert [s.stamp_ns for s in store.labelled()][-2:] == [1000, 1001]
    counts = {s.label: s.image_bytes // size for s in store.statistics()}
    assert counts == {'duck': 4, 'mug': 4, 'tray': 2}, 'the largest class makes room each time'


def test_room_is_made_without_writing_over_what_goes(tmp_path):
    """A disk that is nearly full must not fill up by making room on it."""
    picture, log = b'x' * 100_000, tmp_path / 'labels.db-wal'
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(40):
        store.add(replace(frame(number), image=picture), 'duck', 'ann', 0)
    store.make_batch(100)
    store._database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
    store.budget_bytes = 2_000_000
    store.add(frame(100), 'duck', 'ann', 0)
    assert store.stored_bytes <= 2_000_000
    assert log.stat().st_size < 500_000, 'two megabytes went'


def test_full_once_it_makes_room_for_the_next_labels_too(tmp_path):
    size = len(b'picture')
    store = LabelStore(tmp_path / 'labels.db', budget_bytes=200 * size)
    for number in range(200):
        store.add(frame(number), 'duck', 'ann', 0)
    store.make_batch(1000)
    kept = []
    for number in range(200, 206):
        store.add(frame(number), 'duck', 'ann', 0)
        kept.append(store.stored_bytes // size)
    assert kept == [198, 199, 200, 198, 199, 200], 'a hundredth of the budget at a time'


def test_what_a_version_has_learned_is_counted_once_it_counts(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(3):
        store.add(frame(number), 'duck', 'ann', 0)
    store.make_batch(2)
    store.note_learned(1, 7)
    store.add(frame(1), 'mug', 'bob', 0)  # disputed, and so it is no longer a duck
    learned = {s.label: (s.frames, s.learned) for s in store.statistics()}
    assert learned == {'duck': (2, 1)}, 'the third has not gone out'
    store.make_batch(10)
    store.note_learned(2, 8)
    learned = {s.label: (s.frames, s.learned) for s in store.statistics()}
    assert learned == {'duck': (2, 2)}


def test_a_corrected_frame_counts_as_learned_once_a_version_has_learned_its_new_label(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(2):
        store.add(frame(number), 'duck', 'ann', 0)
    store.make_batch(10)
    store.note_learned(1, 7)

    def learned() -> dict[str, int]:
        return {s.label: s.learned for s in store.statistics()}

    store.add(frame(0), 'tray', 'ann', 0)
    assert learned() == {'duck': 1, 'tray': 0}
    store.note_learned(1, 8)  # a version that was made before it was said
    assert learned() == {'duck': 1, 'tray': 0}
    store.make_batch(10)
    store.note_learned(1, 9)
    assert learned() == {'duck': 1, 'tray': 0}
    store.rename('duck', 'bird')
    assert learned() == {'bird': 1, 'tray': 0}, 'called otherwise it is as well known as before'
    store.note_learned(3, 10)
    assert learned() == {'bird': 1, 'tray': 1}


def test_a_picture_whose_label_no_version_has_learned_makes_room_last(tmp_path):
    store = LabelStore(tmp_path / 'labels.db', budget_bytes=3 * len(b'picture'))
    for number in range(3):
        store.add(frame(number), 'duck', 'ann', 0)
    store.make_batch(10)
    store.note_learned(1, 7)
    store.add(frame(0), 'tray', 'ann', 0)
    store.add(frame(0), 'duck', 'ann', 0)
    store.make_batch(10)
    store.add(frame(3), 'duck', 'ann', 0)
    assert [s.stamp_ns for s in store.labelled()] == [0, 2, 3]


def test_in_a_small_class_too_what_was_learned_makes_room_first(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / 'labels.db', budget_bytes=12 * len(b'picture'))
    for number in range(3):
        store.add(frame(number), 'duck', 'ann', 0)
    store.make_batch(10)
    store.note_learned(1, 7)
    for label in ('tray', 'duck'):
        store.add(frame(0), label, 'ann', 0)
    store.make_batch(10)  # frame 0 is a duck again, which no version has learned
    for number in range(3, 13):
        store.add(frame(number), 'mug', 'ann', 0)  # all wait for their batch
    assert [s.stamp_ns for s in store.labelled() if s.label == 'duck'] == [0, 2]


def test_a_picture_that_was_evicted_comes_back_with_another_word(tmp_path):
    store = LabelStore(tmp_path / 'labels.db', budget_bytes=len(b'picture'))
    store.add(frame(1), 'duck', 'ann', 0)
    store.make_batch(10)
    store.add(frame(2), 'duck', 'ann', 0)
    assert store.find(frame(1).key).image == b'', 'evicted'
    store.make_batch(10)
    store.add(frame(1), 'tray', 'ann', 0)
    store.make_batch(10)
    assert [(s.label, s.image) for s in store.batch(3).samples] == [('tray', b'picture')]


def test_sizes_and_counts_never_pass_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are asked for once a second and with every label; pictures are MBs apart."""
    asked: list[tuple[str, tuple[object, ...]]] = []
    execute = Database.execute

    def listen(self: Database, query: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        asked.append((query, values))
        return execute(self, query, values)

    store = LabelStore(tmp_path / 'labels.db')
    store.add(frame(), 'duck', 'ann', 0)
    store.make_batch(1)
    store.budget_bytes = store.stored_bytes
    monkeypatch.setattr(Database, 'execute', listen)
    store.add(frame(6), 'duck', 'ann', 0)  # for which another one makes room
    store.note_learned(1, 7)
    store.replay(1, 10, 0, 10**6)  # for each piece
    assert store.stored_bytes == store.budget_bytes
    assert [s.frames for s in store.statistics()] == [2]
    assert (store.count(), store.count_disputed(), store.disputed()) == (2, 0, [])
    later = sqlite3.connect(tmp_path / 'labels.db')
    plans = {
        row[-1]: query
        for query, values in asked
        if query.startswith(('SELECT', 'UPDATE'))
        for row in later.execute(f'EXPLAIN QUERY PLAN {query}', values)
    }
    later.close()
    few = ('INDEX frames_disputed', 'INDEX frames_to_learn')  # of what is in these there is little
    scans = [line for line in plans if line.startswith(('SCAN f ', 'SCAN frames'))]
    assert len(scans) >= 4
    for line in scans:
        assert 'COVERING INDEX' in line or line.endswith(few), (plans[line], line)


def test_labels_of_the_first_release_are_taken_over(tmp_path):
    old = sqlite3.connect(tmp_path / 'labels.db')
    old.executescript(
        'CREATE TABLE samples (id INTEGER PRIMARY KEY AUTOINCREMENT, source TEXT, stamp_ns '
        'INTEGER, frame_id TEXT, label TEXT, predicted TEXT, author TEXT, model_version INTEGER, '
        'format TEXT, image BLOB, received_ns INTEGER, batch INTEGER)'
    )
    rows = [(1, 5, 'duck', 1), (2, 6, 'mug', 1), (3, 5, 'tray', 2), (4, 7, 'mug', None)]
    for number, stamp, label, batch in rows:
        values = (number, 'camera', stamp, 'eye', label, 'mug', 'ann', 3, 'jpeg', b'x', 9, batch)
        old.execute(f'INSERT INTO samples VALUES ({",".join("?" * 12)})', values)
    old.commit()
    old.close()
    store = LabelStore(tmp_path / 'labels.db')
    assert store.last_batch() == 2
    assert store.waiting() == 1
    assert end(store) == {5: 'tray', 6: 'mug', 7: 'mug'}


def content(path: Path) -> dict[str, list]:
    """Return what is in a database, by table; what only SQLite needs is left out."""
    database = sqlite3.connect(path)
    tables = [
        r[0] for r in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    ]
    rows = {t: [tuple(r) for r in database.execute(f'SELECT * FROM {t}')] for t in tables}
    database.close()
    return rows


@pytest.mark.parametrize(
    ('ended_after', 'by_an_earlier_release'), [(None, False), (0, False), (1, False), (3, True)]
)
def test_labels_of_the_second_schema_are_taken_over_also_when_a_crash_ends_it(
    tmp_path, monkeypatch, ended_after, by_an_earlier_release
):
    path = tmp_path / 'labels.db'
    old = sqlite3.connect(path)
    old.executescript((Path(__file__).parent / 'data' / 'labels_schema_2.sql').read_text())
    old.close()
    before = content(path)
    monkeypatch.setattr('etuner_ros.core.labels.schema.MOVED_AT_ONCE', 2)
    if ended_after is not None:
        moved, real = [], Database.transaction

        @contextlib.contextmanager
        def ended(self):
            if len(moved) > ended_after:
                raise KeyboardInterrupt  # as a process that ends
            moved.append(1)
            with real(self):
                yield

        with monkeypatch.context() as crash:
            crash.setattr(Database, 'transaction', ended)
            if by_an_earlier_release:  # that knew no size
                lines = [x for x in SCHEMA.splitlines() if not x.strip().startswith('image_')]
                told = '\n'.join(lines).replace("'', -- of a thing", "'' -- of a thing")
                assert 'image_width' not in told
                crash.setattr('etuner_ros.core.labels.schema.SCHEMA', told)
            with pytest.raises(KeyboardInterrupt):
                LabelStore(path)
    store = LabelStore(path)
    assert not store.warnings
    assert (store.last_batch(), store.waiting(), store.count_disputed()) == (3, 4, 1)
    assert store.find(FrameKey('camera', 1, 'eye')).image == b'', 'evicted, and not forgotten'
    assert store.said(FrameKey('camera', 3, 'eye')) == {'ann': 'mug', 'bob': 'tray'}
    assert store.check() == ''
    store.close()
    after = content(path)
    assert (after['votes'], after['items']) == (before['votes'], before['items'])
    kept = [r[:-5] + (r[-4],) for r in after['frames']]
    assert kept == before['frames'], 'all but the new uid, place and size'
    assert {r[-5] for r in after['frames']} == {0}
    again = LabelStore(path)
    stored = again.add(frame(4, uid=1 << 63), 'cup', 'ann', 0)
    assert stored.sample_id > 8, 'no number twice'
    assert [s.uid for s in again.labelled() if s.stamp_ns == 4] == [0, 1 << 63]
    assert end(again)[2] == 'duck'


def test_where_stamps_repeat_each_picture_has_its_own_labels(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    uids = (1, (1 << 64) - 1, 7 << 40)
    for uid, label in zip(uids, ('mug', 'duck', 'tray')):
        store.add(frame(uid=uid, label=label), label, 'ann', 0)
    assert [(s.uid, s.label, s.predicted) for s in store.labelled()] == [
        (uid, label, label) for uid, label in zip(uids, ('mug', 'duck', 'tray'))
    ]
    assert store.said(frame(uid=uids[1]).key) == {'ann': 'duck'}
    assert store.find(frame(uid=uids[1]).key).label == 'duck'
    assert store.find(frame().key).key.uid == uids[2], 'without a uid the newest is meant'
    assert store.exact(frame().key) is None
    store.add(frame(uid=uids[1]), 'cup', 'bob', 0)
    assert store.disputed() == [frame(uid=uids[1]).key]
    store.make_batch(10)
    assert [s.uid for s in store.batch(1).samples] == [uids[0], uids[2], uids[1]]


def test_a_memory_is_filled_with_the_newest_of_each_class_in_turn(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number, label in enumerate(['a', 'a', 'a', 'b', 'c', 'a', 'b', 'a']):
        store.add(frame(number), label, 'ann', 0)
    store.add(frame(5), '', 'ann', 0)  # withdrawn
    store.add(frame(6), 'c', 'bob', 0)  # disputed
    store._database.execute('UPDATE frames SET image = NULL, size = 0 WHERE stamp_ns = 2')
    store.make_batch(7)  # the last frame waits, so does that one is taken back

    def taken(count: int, most_bytes: int = 10**6, up_to: int = 1) -> list[tuple[int, str]]:
        found: list[tuple[int, str]] = []
        while True:
            replay = store.replay(up_to, count, len(found), most_bytes)
            if not replay.samples:
                assert replay.total == len(found)
                return found
            found += [(s.stamp_ns, s.label) for s in replay.samples]

    of_then = [(5, 'a'), (6, 'b'), (4, 'c'), (1, 'a'), (3, 'b'), (0, 'a')]
    assert taken(100) == of_then, 'the second batch takes back what was said of two'
    assert taken(100, most_bytes=15) == taken(100), 'in pieces of two'
    assert taken(100, most_bytes=1) == taken(100), 'never an empty piece before the end'
    sizes = {b: len(store.replay(1, 100, 0, b).samples) for b in (1, 13, 14, 15, 21)}
    assert sizes == {1: 1, 13: 1, 14: 2, 15: 2, 21: 3}, 'a piece holds as many as fit'
    assert taken(2) == of_then[:2]
    assert taken(0) == []
    assert taken(100, up_to=0) == []
    store.make_batch(7)
    assert taken(100, up_to=2) == [(7, 'a'), (3, 'b'), (4, 'c'), (1, 'a'), (0, 'a')]
    store.rename('c', 'd')
    store.make_batch(7)
    assert store.replay(1, 9, 0, 10**6).renamed == []
    assert store.replay(9, 9, 0, 10**6).renamed == [('c', 'd')], 'exemplars are called so, too'


def test_of_what_is_replayed_again_no_label_of_before_stays(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(4):
        store.add(frame(number), 'duck', 'ann', 0)
    store.make_batch(10)
    store.rename('duck', 'bird')
    for number, label in enumerate(['', 'mug', 'mug']):
        store.add(frame(number), label, 'ann', 0)
    store.make_batch(10)
    again = store.replay(3, 2, 0, 10**6, since_batch=1)
    assert again.renamed == [('duck', 'bird')]
    assert [(s.stamp_ns, s.label) for s in again.samples] == [
        (0, ''),  # withdrawn
        (1, ''),  # there is no room for its mug
        (3, 'bird'),
        (2, 'mug'),
    ]
    assert again.total == 4
    rest = store.replay(3, 2, 3, 10**6, since_batch=1)
    assert [s.stamp_ns for s in rest.samples] == [2]
    assert store.replay(3, 2, 0, 10**6, since_batch=2).renamed == [], 'it is called so already'


def test_opening_reads_no_pictures(tmp_path):
    """On a robot they are gigabytes."""
    path = tmp_path / 'labels.db'
    store = LabelStore(path)
    picture = np.random.default_rng(0).bytes(400_000)
    for number in range(30):
        key = FrameKey('camera', number, 'eye')
        store.add(Frame(key, picture, 'jpeg', 'mug', 0.5, 0.5, 3), 'duck', 'ann', 0)
    store.close()
    again = subprocess.run(
        [sys.executable, '-c', READS, str(path)], capture_output=True, text=True, check=True
    )
    assert int(again.stdout) < path.stat().st_size / 4


READS = """
import sys
from pathlib import Path
from etuner_ros.core.labels.store import LabelStore
def read():
    with open('/proc/self/io') as lines:
        return next(int(l.split()[1]) for l in lines if l.startswith('rchar'))
before = read()
LabelStore(Path(sys.argv[1]))
print(read() - before)
"""


def test_a_damaged_picture_is_left_out_and_the_others_go_out(tmp_path):
    path = tmp_path / 'labels.db'
    store = LabelStore(path)
    for number in range(3):
        picture = bytes([65 + number]) * 50_000
        key = FrameKey('camera', number, 'eye')
        store.add(Frame(key, picture, 'jpeg', 'mug', 0.5, 0.5, 3), 'duck', 'ann', 0)
    store.make_batch(10)
    store.close()
    data = bytearray(path.read_bytes())
    place = data.index(b'B' * 4000) // 4096 * 4096
    data[place : place + 4] = b'\xff' * 4  # where the next page of the picture is
    path.write_bytes(bytes(data))
    again = LabelStore(path)
    assert not again.warnings
    assert [s.stamp_ns for s in again.batch(1).samples] == [0, 2]
    assert [s.stamp_ns for s in again.replay(1, 10, 0, 10**6).samples] == [2, 0]
    assert again.replay(1, 10, 0, 10**6).total == 2
    assert [s.stamp_ns for s in again.labelled()] == [0, 2]
    assert again.unreadable == {2}
    assert again.check(), 'and the check of the whole file says so'


def test_a_command_does_not_move_a_damaged_store_away_under_a_robot(tmp_path):
    path = tmp_path / 'labels.db'
    LabelStore(path).close()
    path.write_bytes(b'x' * 5000)
    with pytest.raises(StoreError, match='can not be opened'):
        LabelStore(path, set_aside=False)
    assert path.read_bytes() == b'x' * 5000


LABELS = [
    'a' * 64,
    '带有蓝色手柄的大号陶瓷咖啡杯',
    '带有蓝色手柄的大号陶瓷茶壶',
    *('杯' * 200 + end for end in 'ab'),
    *('%' * 300 + end for end in 'ab'),
    'Mug',
    'mug',
    'MUG',
    'a/b',
    'a%2Fb',
    '..',
    '.',
    'CON.txt ~ x',
    'é',
    '%-0123456789abcdef',
]


@pytest.mark.parametrize('kind', FORMATS)
def test_every_label_and_every_picture_survives_export_and_import(tmp_path, kind):
    store = LabelStore(tmp_path / 'labels.db')
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    names = ['', 'eye', 'Eye', '目' * 80 + 'a', '目' * 80 + 'b', 'x/y~z.w', 'a' * 200]
    keys = [FrameKey('s' * 100 + c, -5, n, u) for c in 'ab' for n in names for u in (0, 1 << 63)]
    keys += [FrameKey('camera', number, 'eye', 3) for number in range(len(LABELS))]
    for number, key in enumerate(keys):
        label = LABELS[number % len(LABELS)]
        store.add(Frame(key, picture, 'jpeg', '', 0.0, 0.0, 0), label, 'ann', 0)
    assert export(store, tmp_path / 'out', kind).pictures == len(keys)
    assert len(list((tmp_path / 'out').glob('*/*'))) == len(keys)
    other = LabelStore(tmp_path / 'other.db')
    assert import_(other, tmp_path / 'out', 'ann', 0).added == len(keys)
    mine, theirs = ({s.key: s.label for s in x.labelled()} for x in (store, other))
    assert mine == theirs


def test_without_its_index_an_export_still_keeps_labels_and_pictures_apart(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number, label in enumerate(LABELS):
        picture = encode_jpeg(np.full((8, 8, 3), number * 9, np.uint8))
        key = FrameKey('camera', 1, '目' * 80 + str(number))
        store.add(Frame(key, picture, 'jpeg', '', 0.0, 0.0, 0), label, 'ann', 0)
    export(store, tmp_path / 'out')
    (tmp_path / 'out' / 'etuner.json').unlink()
    other = LabelStore(tmp_path / 'other.db')
    assert import_(other, tmp_path / 'out', 'ann', 0).added == len(LABELS)
    assert len({s.label for s in other.labelled()}) == len(LABELS)


def test_a_picture_that_is_put_into_another_folder_gets_its_label(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    for number, label in enumerate(LABELS[:2]):
        key = FrameKey('camera', number, 'eye', 5)
        store.add(Frame(key, picture, 'jpeg', '', 0.0, 0.0, 0), label, 'ann', 0)
    export(store, tmp_path / 'out')
    first, second = sorted((tmp_path / 'out').glob('*/*'), key=lambda p: p.name)
    first.rename(second.parent / first.name)
    other = LabelStore(tmp_path / 'other.db')
    import_(other, tmp_path / 'out', 'ann', 0)
    assert {s.key.uid: s.label for s in other.labelled()} == {5: LABELS[1]}
    assert other.count() == 2


def test_pictures_of_others_are_told_apart_by_what_they_show(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number, day in enumerate(('monday', 'tuesday')):
        folder = tmp_path / day / 'duck'
        folder.mkdir(parents=True)
        picture = encode_jpeg(np.full((8, 8, 3), number * 99, np.uint8))
        (folder / '1.jpg').write_bytes(picture)
        assert import_(store, tmp_path / day, 'ann', 0).added == 1
        assert import_(store, tmp_path / day, 'ann', 0).known == 1
    assert store.count() == 2


@pytest.mark.parametrize('kind', FORMATS)
def test_what_was_exported_can_be_imported(tmp_path, kind):
    store = LabelStore(tmp_path / 'labels.db')
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    for number, label in enumerate(['duck', 'duck', 'a/b ~ ä.c']):
        key = FrameKey('front/cam', number, 'opt.frame')
        store.add(Frame(key, picture, 'jpeg', 'duck', 0.5, 0.5, 3), label, 'ann', 0)
    assert export(store, tmp_path / 'out', kind).pictures == 3
    other = LabelStore(tmp_path / 'other.db')
    assert import_(other, tmp_path / 'out', 'ann', 0).added == 3
    assert import_(other, tmp_path / 'out', 'ann', 0).known == 3, 'nothing twice'
    mine, theirs = (
        [(s.source, s.stamp_ns, s.frame_id, s.label, s.image) for s in x.labelled()]
        for x in (store, other)
    )
    assert sorted(mine) == sorted(theirs)
    with pytest.raises(StoreError, match='not empty'):
        export(store, tmp_path / 'out', kind)


def test_what_counts_already_gets_no_second_vote_and_who_is_contradicted_is_named(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    for number in range(2):
        key = FrameKey('camera', number, 'eye', 5)
        store.add(Frame(key, picture, 'jpeg', '', 0.0, 0.0, 0), 'mug', 'ann', 0)
    export(store, tmp_path / 'out')
    (tmp_path / 'out' / 'cup').mkdir()
    first, _ = sorted((tmp_path / 'out' / 'mug').glob('*'))
    first.rename(tmp_path / 'out' / 'cup' / first.name)
    found = import_(store, tmp_path / 'out', 'desk', 0)
    assert (found.added, found.known, found.disputed) == (1, 1, {'ann': 1})
    assert [s.label for s in store.labelled()] == ['mug'], 'of two who disagree nothing is learned'
    found = import_(store, tmp_path / 'out', 'ann', 0)
    assert (found.added, found.known, found.disputed) == (1, 1, {})
    assert sorted(s.label for s in store.labelled()) == ['cup', 'mug']
    store._database.execute('UPDATE frames SET image = NULL')  # they made room
    import_(store, tmp_path / 'out', 'desk', 0)
    assert [s.image for s in store.labelled()] == [picture, picture], 'they are back'


@pytest.mark.parametrize('kind', ['coco', 'labelstudio'])
def test_a_file_of_another_program_may_begin_with_a_byte_order_mark(tmp_path, kind):
    store = LabelStore(tmp_path / 'labels.db')
    key = FrameKey('camera', 1, 'eye', 5)
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    store.add(Frame(key, picture, 'jpeg', '', 0.0, 0.0, 0), 'T\u00fcr', 'ann', 0)
    export(store, tmp_path / 'out', kind)
    path = tmp_path / 'out' / {'coco': 'annotations.json', 'labelstudio': 'tasks.json'}[kind]
    text = json.dumps(json.loads(path.read_text()), ensure_ascii=False)
    path.write_text(text, 'utf-8-sig')
    other = LabelStore(tmp_path / 'other.db')
    assert import_(other, path, 'ann', 0).added == 1
    assert [s.label for s in other.statistics()] == ['T\u00fcr']
    path.rename(tmp_path / 'out' / 'theirs.json')
    with pytest.raises(StoreError, match='import that file by its name'):
        import_(other, tmp_path / 'out', 'ann', 0)


NONSENSE = [  # names of files
    'cam~99999999999999999999~f.jpg',
    'cam~3000000000000000000~f.jpg',  # more seconds than a message has bits for
    'cam~1~f~fffffffffffffffffff.jpg',
    'cam~1~f~1~0,0,0,0,0,0.jpg',
    'cam~1~f~2~5,5,10,10,0,0.jpg',
    'cam~1~f~2~5,5,10,10,12,40.jpg',
]


@pytest.mark.parametrize('name', NONSENSE)
def test_a_file_whose_name_has_numbers_that_can_not_be_is_left_out(tmp_path, name):
    store = LabelStore(tmp_path / 'labels.db')
    (tmp_path / 'in' / 'mug').mkdir(parents=True)
    for file in (name, 'ok.jpg'):
        picture = encode_jpeg(np.full((8, 8, 3), len(file), np.uint8))
        (tmp_path / 'in' / 'mug' / file).write_bytes(picture)
    found = import_(store, tmp_path / 'in', 'ann', 0)
    assert (found.added, len(found.problems)) == (1, 1)
    assert name in found.problems[0]
    assert export(store, tmp_path / 'out', 'coco').pictures == 1


BAD_FRAMES = [
    ['cam', 10**19, 'f', 1],
    ['cam', 1, 'f', 1 << 64],
    ['cam', 1, 'f', -1],
    ['cam', 1, 'f', 1, '0,0,0,0,0,0'],
    ['cam', 1, 'f', 1, '1,2'],
    ['cam', float('inf'), 'f', 1],
    ['cam', 'soon', 'f', 1],
    ['cam'],
    7,
]


@pytest.mark.parametrize('said', BAD_FRAMES)
def test_what_an_index_says_of_a_file_that_can_not_be_leaves_it_out(tmp_path, said):
    store = LabelStore(tmp_path / 'labels.db')
    (tmp_path / 'in' / 'mug').mkdir(parents=True)
    for file in ('1.jpg', 'ok.jpg'):
        picture = encode_jpeg(np.full((8, 8, 3), len(file), np.uint8))
        (tmp_path / 'in' / 'mug' / file).write_bytes(picture)
    index = {'labels': {}, 'frames': {'1.jpg': said}}
    (tmp_path / 'in' / 'etuner.json').write_text(json.dumps(index))
    found = import_(store, tmp_path / 'in', 'ann', 0)
    assert (found.added, len(found.problems)) == (1, 1)
    assert 'mug/1.jpg' in found.problems[0]


@pytest.mark.parametrize('size', [[0, 0], [8, -1], [10**30, 8], ['wide', 8], [8], 8])
@pytest.mark.parametrize('kind', ['folder', 'coco'])
def test_a_size_in_an_index_that_can_not_be_leaves_the_picture_out(tmp_path, kind, size):
    store = LabelStore(tmp_path / 'labels.db')
    for number in range(2):
        key = FrameKey('camera', number, 'eye', 5)
        picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
        store.add(Frame(key, picture, 'jpeg', '', 0.0, 0.0, 0), 'mug', 'ann', 0)
    export(store, tmp_path / 'out', kind)
    path = tmp_path / 'out' / 'etuner.json'
    index = json.loads(path.read_text())
    index['sizes'] = {f'mug/{next(iter(index["frames"]))}': size}
    path.write_text(json.dumps(index))
    other = LabelStore(tmp_path / 'other.db')
    found = import_(other, tmp_path / 'out', 'ann', 0)
    assert (found.added, len(found.problems)) == (1, 1)
    assert 'size' in found.problems[0]


@pytest.mark.parametrize('kind', FORMATS)
def test_a_place_that_an_earlier_release_took_and_that_is_none_spoils_no_export(tmp_path, kind):
    store = LabelStore(tmp_path / 'labels.db')
    picture = encode_jpeg(np.zeros((8, 8, 3), np.uint8))
    whole = Frame(FrameKey('camera', 1, 'eye', 5), picture, 'jpeg', '', 0.0, 0.0, 0)
    store.add(whole, 'mug', 'ann', 0)
    for number, place in enumerate((Place(0, 0, 0, 0, 0, 0), Place(5, 5, 10, 10, 0, 0))):
        key = replace(whole.key, uid=5 + number, place=place)
        store.add(replace(whole, key=key), 'mug', 'ann', 0)
    found = export(store, tmp_path / 'out', kind)
    assert (found.pictures, len(found.problems)) == (1, 2)
    other = LabelStore(tmp_path / 'other.db')
    assert import_(other, tmp_path / 'out', 'ann', 0).added == 1


def test_names_of_files_that_macos_made_are_those_that_people_type(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    for number, folder in enumerate(('Tu\u0308r', 'T\u00fcr')):
        (tmp_path / 'in' / folder).mkdir(parents=True)
        picture = encode_jpeg(np.full((8, 8, 3), number, np.uint8))
        (tmp_path / 'in' / folder / '1.jpg').write_bytes(picture)
    assert import_(store, tmp_path / 'in', 'ann', 0).added == 2
    assert [(s.label, s.frames) for s in store.statistics()] == [('T\u00fcr', 2)]


def test_a_database_of_another_program_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / 'bag_0.db3'
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute('CREATE TABLE topics (id INTEGER PRIMARY KEY, name TEXT)')
        other.execute('CREATE TABLE samples (id INTEGER PRIMARY KEY, data BLOB)')
        other.commit()
    before = path.read_bytes()
    for set_aside in (False, True):
        with pytest.raises(StoreError, match='no label store'):
            LabelStore(path, set_aside=set_aside)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('name', ['result.json', 'annotations/instances.json', 'train/_coco.json'])
def test_a_folder_with_annotations_of_others_is_no_folder_of_classes(tmp_path, name):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / '1.jpg').write_bytes(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    coco = {'images': [], 'annotations': [], 'categories': []}
    file.write_text(json.dumps(coco))
    store = LabelStore(tmp_path / 'labels.db')
    with pytest.raises(StoreError, match=f'{name}: import that file by its name'):
        import_(store, tmp_path, 'ann', 0)
    for other in ('{"shapes": []}', '["mug", "tray"]'):  # of one picture, or names alone
        file.write_text(other)
        found = import_(store, tmp_path, 'ann', 0)
        assert found.added + found.known == 1


def test_an_import_names_what_it_leaves_out(tmp_path):
    folder = tmp_path / 'pictures'
    (folder / 'duck').mkdir(parents=True)
    (folder / 'duck' / 'good.jpg').write_bytes(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    (folder / 'duck' / 'bad.jpg').write_bytes(b'no picture')
    store = LabelStore(tmp_path / 'labels.db')
    found = import_(store, folder, 'ann', 0)
    assert found.added == 1
    assert 'duck/bad.jpg' in found.problems[0]
    with pytest.raises(StoreError, match='does not exist'):
        import_(store, tmp_path / 'nowhere', 'ann', 0)
    outside = {'data': {'image': '/data/local-files/?d=../secret.jpg'}, 'annotations': []}
    outside['annotations'] = [{'result': [{'type': 'choices', 'value': {'choices': ['duck']}}]}]
    (folder / 'tasks.json').write_text(json.dumps([outside]))
    with pytest.raises(StoreError, match='outside its folder'):
        import_(store, folder / 'tasks.json', 'ann', 0)


def problems_by_name(found: Imported) -> dict[str, str]:
    """Return what an import said of what it left out."""
    return dict(p.split(': ', 1) for p in found.problems)


def test_an_import_goes_on_after_names_that_can_not_be(tmp_path):
    picture, folder = encode_jpeg(np.zeros((8, 8, 3), np.uint8)), tmp_path / 'pictures'
    (folder / 'duck').mkdir(parents=True)
    for name in (b'a.jpg', b'caf\xe9.jpg', b'z.jpg'):
        (folder / 'duck' / os.fsdecode(name)).write_bytes(picture)
    store = LabelStore(tmp_path / 'labels.db')
    found = import_(store, folder, 'ann', 0)
    assert found.added == 2
    assert problems_by_name(found) == {'duck/caf\\udce9.jpg': 'its name is not UTF-8'}
    names = ['duck/a.jpg', 'nul\0.jpg', 'half \ud800.jpg', 'duck/z.jpg']
    said = [{'image_id': n, 'category_id': 1} for n in names]
    coco = {
        'images': [{'id': n, 'file_name': n} for n in names],
        'categories': [{'id': 1, 'name': 'duck'}],
        'annotations': [*said, {**said[1], 'bbox': [0, 0, 4, 4]}],  # the size is measured
    }
    (folder / 'coco.json').write_text(json.dumps(coco))
    found = import_(store, folder / 'coco.json', 'ann', 0)
    assert (found.known, len(found.problems)) == (2, 3)
    assert problems_by_name(found).keys() == {'nul\\x00.jpg', 'half \\ud800.jpg'}
    assert all('no file can have that name' in p for p in found.problems)


def test_an_import_goes_on_after_annotations_that_are_none(tmp_path):
    said = {'type': 'choices', 'value': {'choices': ['duck']}}
    nothing = {'type': 'choices', 'value': {'choices': []}}
    tasks = []
    for name, results in (('a', ['x']), ('b', [nothing, said]), ('c', [said])):
        (tmp_path / f'{name}.jpg').write_bytes(encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
        task = {'data': {'image': f'{name}.jpg'}, 'annotations': [{'result': results}]}
        tasks.append(task)
    (tmp_path / 'tasks.json').write_text(json.dumps(tasks))
    store = LabelStore(tmp_path / 'labels.db')
    found = import_(store, tmp_path / 'tasks.json', 'ann', 0)
    assert sorted(s.frame_id for s in store.labelled()) == ['b.jpg', 'c.jpg']
    assert problems_by_name(found).keys() == {'a.jpg', 'b.jpg'}
    assert all('what is said of it can not be read' in p for p in found.problems)
    tasks[0]['annotations'] = 'x'
    (tmp_path / 'tasks.json').write_text(json.dumps(tasks))
    with pytest.raises(StoreError, match='neither COCO nor Label Studio'):
        import_(store, tmp_path / 'tasks.json', 'ann', 0)


@pytest.mark.parametrize('where', range(0, 11 * 4096, 4096))  # every page of so small a file
def test_a_damaged_label_store_is_set_aside_and_a_new_one_begun(tmp_path, where):
    path = tmp_path / 'labels.db'
    store = LabelStore(path)
    for number in range(50):
        store.add(frame(number), 'duck', 'ann', 0)
    store.close()
    data = bytearray(path.read_bytes())
    data[where : where + 2000] = b'x' * 2000
    path.write_bytes(bytes(data))
    again = LabelStore(path)
    assert 'damaged' in again.warnings[0]
    again.add(frame(), 'duck', 'ann', 0)
    assert again.count() == 1
    assert len(list(tmp_path.glob('labels.db.damaged-*'))) == 1, 'nothing was deleted'


def test_a_label_store_that_can_not_be_opened_says_so(tmp_path):
    (tmp_path / 'labels.db').mkdir()
    with pytest.raises(StoreError, match='can not be opened'):
        LabelStore(tmp_path / 'labels.db')


def test_a_pinned_version_is_never_removed(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=1)
    store.commit(UPDATE, 0, ('a', 'b'))
    store.pin(1, True)
    for parent in range(1, 6):
        store.commit(UPDATE, parent, ('a', 'b'))
    assert 1 in store.manifests
    store.close()
    store = ModelStore(tmp_path / 'models', base, keep=1)
    store.pin(1, False)
    store.commit(UPDATE, 6, ('a', 'b'))
    assert 1 not in store.manifests


@pytest.mark.parametrize('damage', ['flip', 'cut', 'gone', 'manifest', 'live'])
def test_whatever_is_damaged_the_last_good_version_is_served(base, tmp_path, damage):
    store = ModelStore(tmp_path / 'models', base)
    for parent in range(3):
        store.commit(UPDATE, parent, ('a', 'b'))
    folder = store.folder / 'v00000003'
    weights = folder / 'head.safetensors'
    if damage == 'flip':
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(bytes(data))
    elif damage == 'cut':
        weights.write_bytes(weights.read_bytes()[:10])
    elif damage == 'gone':
        weights.unlink()
    elif damage == 'manifest':
        (folder / 'manifest.json').write_text('{"version": ')
    else:
        (store.folder / 'live').write_bytes(b'\xff\xfe')
    store.close()
    again = ModelStore(tmp_path / 'models', base)
    assert again.live == (3 if damage == 'live' else 2)
    assert again.warnings
    assert again.commit(UPDATE, again.live, ('a', 'b')).version == 4, 'no number twice'


def test_opening_reads_the_live_version_and_others_when_they_are_used(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=100)
    for parent in range(20):
        store.commit(UPDATE, parent, ('a', 'b'))
    for version in range(1, 20):
        (store.folder / f'v{version:08d}' / 'head.safetensors').write_bytes(b'x')
    store.close()
    again = ModelStore(tmp_path / 'models', base, keep=100)
    assert (again.live, again.warnings, again.damaged) == (20, [], {})
    with pytest.raises(WeightsError, match='version 7 is damaged: the checksum'):
        again.set_live(7)
    assert again.live == 20
    assert again.damaged == {7: 'the checksum of its weights is wrong'}


def test_rolling_back_skips_what_is_damaged(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    for parent in range(3):
        store.commit(UPDATE, parent, ('a', 'b'))
    (store.folder / 'v00000002' / 'head.safetensors').write_bytes(b'x')
    skipped = store.roll_back()
    assert store.live == 1
    assert 'version 2 is damaged' in skipped[0]


def rolled_back_from_heads_of_an_earlier_round(folder, base) -> ModelStore:
    """Return a store: somebody went from version 3 back to version 2, then came corrections."""
    store = ModelStore(folder, base)
    for number in range(1, 4):
        backbone = {'backbone.weight': np.full((2, 3), number, np.float32)}
        store.commit({**UPDATE, **backbone}, number - 1, ('a', 'b'))
    store.set_live(2)
    for _ in range(4):
        store.commit(UPDATE, store.live, ('a', 'b'), same_backbone=True, kind=HEAD)
    assert sorted(store.manifests) == [0, 1, 2, 3, 5, 6, 7]
    return store


@pytest.mark.parametrize('release', ['this', 'an earlier one'])
def test_rolling_back_again_and_again_never_ends_at_what_was_rolled_back_from(
    base, tmp_path, release
):
    store = rolled_back_from_heads_of_an_earlier_round(tmp_path / 'models', base)
    if release != 'this':
        store.close()
        for file in store.folder.glob('*/manifest.json'):
            manifest = json.loads(file.read_text())
            del manifest['ancestors']
            file.write_text(json.dumps(manifest))
        store = ModelStore(tmp_path / 'models', base)
        assert store.warnings == []
    way = []
    while store.live:
        assert store.roll_back() == []
        way.append(store.live)
    assert way == [6, 5, 2, 1, 0]


def test_where_a_correction_is_damaged_the_round_that_it_is_of_serves(base, tmp_path):
    store = rolled_back_from_heads_of_an_earlier_round(tmp_path / 'models', base)
    for version in (5, 6, 7):
        (store.folder / f'v{version:08d}' / 'head.safetensors').write_bytes(b'x')
    store.close()
    assert ModelStore(tmp_path / 'models', base).live == 2


def test_what_a_version_was_made_from_is_known_also_when_much_of_it_is_gone(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=2)
    store.commit(UPDATE, 0, ('a', 'b'))
    for _ in range(50):
        store.commit(UPDATE, store.live, ('a', 'b'), same_backbone=True, kind=HEAD)
    store.close()
    again = ModelStore(tmp_path / 'models', base, keep=2)
    made = again.manifests[again.live]
    assert (made.version, made.ancestors[-2:]) == (51, (1, 0))
    assert len(made.ancestors) < 10, 'a manifest does not grow with each correction'


def test_a_store_has_one_owner(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    with pytest.raises(StoreError, match='belongs to another model_manager'):
        ModelStore(tmp_path / 'models', base)
    assert ModelStore(tmp_path / 'models', base, read_only=True).live == 0, 'others may look'
    store.close()
    assert ModelStore(tmp_path / 'models', base).live == 0


def test_a_version_that_can_not_be_named_live_leaves_the_store_as_it_was(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    store.commit(UPDATE, 0, ('a', 'b'))
    name = store.folder / 'live'
    name.unlink()
    name.mkdir()
    with pytest.raises(StoreError, match='version 2 could not be stored'):
        store.commit(UPDATE, 1, ('a', 'b'))
    assert (store.live, sorted(store.manifests)) == (1, [0, 1])
    name.rmdir()
    assert store.commit(UPDATE, 1, ('a', 'b')).version == store.live == 3


def test_a_version_that_can_not_be_stored_leaves_no_backbone_behind(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    kept, lost = ({'backbone.weight': np.full((2, 3), n, np.float32)} for n in (7, 8))
    store.commit({**UPDATE, **kept}, 0, ('a', 'b'))
    name, files = store.folder / 'live', store.folder / 'backbones'
    name.unlink()
    name.mkdir()
    for backbone in (lost, kept):
        with pytest.raises(StoreError):
            store.commit({**UPDATE, **backbone}, 1, ('a', 'b'))
        assert [f.stem for f in files.iterdir()] == [store.backbone(1)]


@pytest.mark.parametrize('parents', [{2: 2}, {2: 3, 3: 2}, {1: 3}])
def test_manifests_whose_parents_run_in_a_circle_end_no_robot(base, tmp_path, parents):
    store = ModelStore(tmp_path / 'models', base)
    for parent in range(3):
        store.commit(UPDATE, parent, ('a', 'b'))
    store.close()
    for version in (1, 2, 3):
        file = store.folder / f'v{version:08d}' / 'manifest.json'
        manifest = json.loads(file.read_text())
        del manifest['ancestors']  # as an earlier release wrote it
        manifest['parent'] = parents.get(version, manifest['parent'])
        file.write_text(json.dumps(manifest))
    again = ModelStore(tmp_path / 'models', base)
    way = []
    while again.live:
        again.roll_back()
        assert again.live not in way
        way.append(again.live)
    assert way[-1] == 0
    again.commit(UPDATE, 3, ('a', 'b'))
    assert again.live == 4


def of_version_0_1(store, version: int, update: dict, **fields: object) -> None:
    """Write a version as the first release did: head and backbone in one file."""
    folder = store.folder / f'v{version:08d}'
    folder.mkdir()
    (folder / 'weights.safetensors').write_bytes(pack(update))
    manifest = {
        'version': version,
        'parent': version - 1,
        'sha256': sha256(pack(update)),
        'classes': ['a', 'b'],
        'frozen_layers': [],
        **fields,
    }
    (folder / 'manifest.json').write_text(json.dumps(manifest))
    (store.folder / 'live').write_text(str(version))


def test_a_store_of_version_0_1_opens_and_goes_on(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    whole = {**UPDATE, 'backbone.weight': np.full((2, 3), 7, np.float32)}
    of_version_0_1(store, 1, whole)
    of_version_0_1(store, 2, {**whole, 'head.bias': np.zeros(2, np.float32)}, head_only=True)
    store.close()
    again = ModelStore(tmp_path / 'models', base)
    assert (again.live, again.warnings) == (2, [])
    assert pack(again.update(1)) == pack(whole)
    assert [again.manifests[v].kind for v in (0, 1, 2)] == ['base', 'round', 'head']
    assert again.backbone(0) == backbone_digest(again.base.sha256, {})
    assert again.backbone(1) == again.backbone(2) == backbone_digest(again.base.sha256, whole)
    head = {'head.bias': np.full(2, 5, np.float32)}
    again.commit(head, 2, ('a', 'b'), same_backbone=True)
    assert pack(again.update(3)) == pack({**whole, **head})
    again.roll_back()
    assert pack(again.live_update()[0]) == pack({**whole, 'head.bias': np.zeros(2, np.float32)})


def test_a_new_head_costs_its_own_size_and_a_backbone_goes_with_its_last_version(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base, keep=1)
    files = store.folder / 'backbones'
    for round_ in range(3):
        backbone = {'backbone.weight': np.full((2, 3), round_, np.float32)}
        store.commit({**UPDATE, **backbone}, store.live, ('a', 'b'))
        file = files / f'{store.backbone(store.live)}.safetensors'
        written = file.stat().st_mtime_ns
        for value in range(4):
            head = {'head.bias': np.full(2, value, np.float32)}
            store.commit(head, store.live, ('a', 'b'), same_backbone=True, kind=HEAD)
            assert pack(store.update(store.live)) == pack({**backbone, **head})
        assert file.stat().st_mtime_ns == written
    assert {p.stem for p in files.iterdir()} == {store.backbone(v) for v in store.manifests if v}
    assert len(list(files.iterdir())) == 1


def test_a_damaged_backbone_damages_its_versions_and_an_earlier_one_is_served(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    store.commit({'backbone.weight': np.zeros((2, 3), np.float32)}, 0, ('a', 'b'))
    store.commit({'backbone.weight': np.ones((2, 3), np.float32)}, 1, ('a', 'b'))
    store.commit(UPDATE, 2, ('a', 'b'), same_backbone=True)
    file = store.folder / 'backbones' / f'{store.backbone(3)}.safetensors'
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    store.close()
    again = ModelStore(tmp_path / 'models', base)
    assert again.live == 1
    assert again.damaged.keys() == {2, 3}
    assert 'its backbone is damaged' in again.warnings[0]


def test_a_version_whose_manifest_can_be_mended_keeps_its_backbone(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    store.commit({'backbone.weight': np.zeros((2, 3), np.float32)}, 0, ('a', 'b'))
    update = {'backbone.weight': np.ones((2, 3), np.float32)}
    store.commit(update, 1, ('a', 'b'))
    manifest = store.folder / 'v00000002' / 'manifest.json'
    text = manifest.read_text()
    manifest.write_text(text[:20])
    store.close()
    other = ModelStore(tmp_path / 'models', base)
    assert other.live == 1
    other.commit(UPDATE, 1, ('a', 'b'))
    other.close()
    manifest.write_text(text)
    assert pack(ModelStore(tmp_path / 'models', base).update(2)) == pack(update)


def test_when_several_versions_are_damaged_meanwhile_the_last_good_one_is_served(base, tmp_path):
    store = ModelStore(tmp_path / 'models', base)
    for parent in range(3):
        store.commit(UPDATE, parent, ('a', 'b'))
    for version in (2, 3):
        (store.folder / f'v{version:08d}' / 'head.safetensors').write_bytes(b'x')
    update, warnings = store.live_update()
    assert (store.live, pack(update), len(warnings)) == (1, pack(UPDATE), 2)
    (store.folder / 'v00000001' / 'head.safetensors').unlink()
    assert store.live_update()[0] == {}, 'the base weights are always there'
    store.close()
    assert ModelStore(tmp_path / 'models', base).live == 0


def test_damaged_base_weights_come_back_from_the_store(base, tmp_path, ros_home):
    write_base(base, base.read_bytes())
    ModelStore(ros_home / 'etuner' / 'models', base)
    data = bytearray(base.read_bytes())
    data[-1] ^= 1
    before = base.stat()
    base.write_bytes(bytes(data))
    os.utime(base, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = intact_file(base)
    assert found != base
    assert found.is_relative_to(ros_home)
    said = copy_warning(base, found)
    assert f'{base} are' in said, 'somebody should know'
    assert f'damaged; their copy {found} is used' in said
    found.unlink()
    with pytest.raises(WeightsError, match='it is damaged'):
        prepare('tiny', 32, str(base))


def test_base_weights_that_were_copied_over_others_count(base, tmp_path, ros_home):
    write_base(base, base.read_bytes())
    ModelStore(ros_home / 'etuner' / 'models', base)
    others = read_base(base)
    state = {name: value + 1 for name, value in others.state.items()}
    base.write_bytes(pack_base(state, others.spec, others.units))
    assert intact_file(base) == base
    base.write_bytes(base.read_bytes()[:-100])  # the copy was interrupted
    assert intact_file(base) != base


@pytest.mark.parametrize('how', ['moved', 'copied with its time'])
def test_base_weights_that_are_put_back_count_though_they_are_older(base, ros_home, how):
    old = base.with_name('base_old.safetensors')
    old.write_bytes(base.read_bytes())
    others = read_base(base)
    state = {name: value + 1 for name, value in others.state.items()}
    write_base(base, pack_base(state, others.spec, others.units, others.exemplars))
    ModelStore(ros_home / 'etuner' / 'models', base)
    time_ns = base.stat().st_mtime_ns - 10**14
    os.utime(old, ns=(time_ns, time_ns))
    if how == 'moved':
        old.rename(base)
    else:
        shutil.copy2(old, base)
    assert intact_file(base) == base
    assert prepare('tiny', 32, str(base)) == base
    assert copy_warning(base, base) == ''
    assert read_base(base).sha256 == others.sha256


def test_a_checksum_file_of_an_earlier_release_is_read(base, ros_home):
    write_base(base, base.read_bytes())
    ModelStore(ros_home / 'etuner' / 'models', base)
    checksum_file(base).write_text(sha256(base.read_bytes()))
    assert intact_file(base) == base
    before = base.stat()
    base.write_bytes(base.read_bytes()[:-1] + b'x')
    os.utime(base, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert intact_file(base) != base, 'damaged'
    later = checksum_file(base).stat().st_mtime_ns + 10**9
    os.utime(base, ns=(later, later))
    assert intact_file(base) == base, 'copied over the others'


def test_an_export_that_can_not_be_written_says_so_in_one_sentence(base, tmp_path, monkeypatch):
    store = ModelStore(tmp_path / 'models', base)
    (tmp_path / 'file').write_bytes(b'in the way')

    def nothing(*_: object) -> dict:
        return {}

    network = SimpleNamespace(
        spec=SPEC, classes=('a', 'b'), load_state=nothing, eval=nothing, state_dict=nothing
    )
    monkeypatch.setattr('etuner_ros.core.models.networks.from_base', lambda *_: network)
    with pytest.raises(StoreError, match='can not be written'):
        export_version(store.folder, 0, 'torch', tmp_path / 'file' / 'v0.pt')


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from etuner_ros.core.errors import StoreError
from etuner_ros.core.models.store import ModelStore
store = ModelStore(Path(sys.argv[1]), Path(sys.argv[2]))
bias = {'head.bias': np.ones(2, np.float32)}
store.commit({**bias, 'body': np.ones(100, np.float32)}, 0, ('a', 'b'))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # from here on the disk is full
try:
    store.commit({**bias, 'body': np.ones(50_000, np.float32)}, 1, ('a', 'b'))
except StoreError as error:
    print(f'refused: {error}')
print(store.live, len(store.update(1)), store.commit(bias, 1, ('a', 'b'), True).version)
"""


def test_a_full_disk_refuses_a_version_and_the_store_goes_on(base, tmp_path):
    command = [sys.executable, '-c', FULL, str(tmp_path / 'models'), str(base)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    refused, after = done.stdout.splitlines()
    assert refused.startswith('refused: version 2 could not be stored')
    assert after == '1 2 2'
    left = list((tmp_path / 'models').rglob('.*'))
    assert not left, 'nothing half written is left'
    store = ModelStore(tmp_path / 'models', base)
    assert (store.live, store.warnings) == (2, [])
    assert len(store.update(2)) == 2, 'the new head, and the backbone of before'


def test_a_full_disk_refuses_a_label_and_keeps_the_others(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    store.add(frame(1), 'duck', 'ann', 0)
    pages = store._database.execute('PRAGMA page_count').fetchone()[0]
    store._database.execute(f'PRAGMA max_page_count = {pages + 2}')  # as when the disk is full
    big = Frame(FrameKey('camera', 2, 'eye'), bytes(100_000), 'jpeg', 'mug', 0.5, 0.5, 3)
    with pytest.raises(StoreError, match='full'):
        store.add(big, 'duck', 'ann', 0)
    assert store.count() == 1
    assert store.find(big.key) is None
    assert store.add(frame(3), 'mug', 'ann', 0).label == 'mug', 'what still fits is taken'
