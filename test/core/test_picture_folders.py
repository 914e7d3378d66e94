# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Folders of labelled pictures as people have them: linked, with thumbnails, exported by us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from etuner_ros.core.choose.pictures import read_labelled
from etuner_ros.core.errors import EtunerError, ImageError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.labels.files import export
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.store import LabelStore


def code(value: int) -> bytes:
    return encode_jpeg(np.full((24, 32, 3), value, np.uint8))


def fill(folder: Path, count: int = 2) -> Path:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f'{i}.jpg').write_bytes(code(40 * i))
    return folder


def labels_of(folder: Path) -> tuple[set[str], set[str]]:
    """Return the labels that deploy and camera see, and those that choose sees."""
    played = {f.label for f in open_source(str(folder))}
    return played, set(read_labelled(str(folder)).labels)


def test_links_are_followed_and_what_is_hidden_is_no_class(tmp_path):
    elsewhere = fill(tmp_path / 'elsewhere' / 'tray')
    folder = tmp_path / 'pictures'
    fill(folder / 'mug')
    fill(folder / '.thumbnails')
    fill(folder / 'mug' / '.cache')
    (folder / 'mug' / '._0.jpg').write_bytes(b'of another system')
    (folder / 'duck').symlink_to(elsewhere)
    (folder / 'duck_too').symlink_to(elsewhere)
    (folder / 'mug' / 'round').symlink_to(folder)
    known = {'mug', 'duck', 'duck_too'}
    assert labels_of(folder) == (known, known)
    source = open_source(str(folder))
    assert len(list(source)) == 6
    assert source.left_out == ''


def test_pictures_that_can_not_be_read_are_said(tmp_path):
    (fill(tmp_path / 'mug') / 'a.jpg').write_bytes(b'no picture')
    (fill(tmp_path / 'duck') / 'b.jpg').write_bytes(b'')
    source = open_source(str(tmp_path))
    for _ in range(2):
        assert len(list(source)) == 4
        assert '2 pictures can not be read, the first: ' in source.left_out
        assert source.left_out.endswith('b.jpg')
    assert '2 pictures can not be read, the first: ' in read_labelled(str(tmp_path)).said


def test_folders_that_were_exported_have_the_names_of_their_labels(tmp_path):
    store = LabelStore(tmp_path / 'labels.db')
    names = ['50%', 'été / mug', 'Mug', 'mug', 'x' * 300]
    for i, label in enumerate(names * 2):
        frame = Frame(FrameKey('cam', i, 'eye', 0), code(i), 'jpeg', '', 0.0, 0.0, 0, (32, 24))
        store.add(frame, label, 'ann', i, 0)
    folder = tmp_path / 'export' / 'hall'
    export(store, folder)
    store.close()
    assert labels_of(folder) == (set(names), set(names))
    assert labels_of(folder.parent) == (set(names), set(names)), 'as a scenario, too'
    assert {f.scenario for f in open_source(str(folder.parent))} == {'hall'}
    fill(folder / 'not%20ours')
    assert 'not ours' in labels_of(folder)[0], 'as `etuner labels import` takes it'
    (folder / 'etuner.json').write_text('{')
    with pytest.raises(EtunerError, match=r'etuner\.json is damaged'):
        open_source(str(folder))


def test_a_folder_of_others_is_called_as_it_is(tmp_path):
    fill(tmp_path / '50%25')
    fill(tmp_path / 'mug')
    assert labels_of(tmp_path)[0] == {'50%25', 'mug'}
    with pytest.raises(ImageError, match='holds no images'):
        open_source(str(fill(tmp_path / 'empty', 0)))


def test_whole_frames_of_which_things_were_exported_are_no_class(tmp_path):
    fill(tmp_path / 'mug')
    fill(tmp_path / 'duck')
    fill(tmp_path / 'frames')
    (tmp_path / 'etuner.json').write_text(
        '{"labels": {"mug": "mug"}, "frames": {}, "sizes": {"frames/0.jpg": [32, 24], '
        '"frames/1.jpg": [32, 24]}}'
    )
    assert labels_of(tmp_path) == ({'mug', 'duck', ''}, {'mug', 'duck'})
