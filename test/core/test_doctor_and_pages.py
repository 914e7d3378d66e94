# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner doctor` without a robot, `labels` and the annotated image."""

from __future__ import annotations

from importlib import metadata
import json
from pathlib import Path
import sys
import types
from xml.etree import ElementTree

import numpy as np
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
import pytest

from etuner_ros.cli import doctor
from etuner_ros.cli.doctor import ERROR, OK, SKIPPED, WARNING
from etuner_ros.cli.main import main as cli
from etuner_ros.core.images.annotate import AMBER, annotate, GREEN, mark, Marked
from etuner_ros.core.installing import UNINSTALL
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey
from etuner_ros.core.labels.store import LabelStore
from etuner_ros.msg import Prediction, TunerStatus


def test_the_doctor_finds_nothing_here_that_is_wrong(capsys):
    assert cli(['doctor', '--offline', '--json']) == 0
    found = {f['check']: f for f in json.loads(capsys.readouterr().out)['findings']}
    assert {'python', 'torch', 'ros', 'messages', 'folder models'} <= set(found)
    assert all(f['state'] != ERROR for f in found.values())


def test_a_folder_that_can_not_be_written_is_found(ros_home, capsys):
    (ros_home / 'etuner').mkdir(parents=True)
    (ros_home / 'etuner' / 'models').write_text('in the way')
    assert cli(['doctor', '--offline']) == 1
    said = capsys.readouterr().out
    assert '✘ folder models' in said
    assert 'set ROS_HOME' in said


def test_a_torch_without_cuda_on_a_jetson_is_found(monkeypatch):
    monkeypatch.setattr(doctor, 'is_jetson', lambda: True)
    fake = types.SimpleNamespace(
        __version__='2.8.0+cpu',
        cuda=types.SimpleNamespace(is_available=lambda: False),
        version=types.SimpleNamespace(cuda=None),
    )
    monkeypatch.setitem(sys.modules, 'torch', fake)
    found = doctor.check_torch()
    assert found.state == ERROR
    assert 'JetPack' in found.advice
    assert f'{UNINSTALL} torch torchvision' in found.advice


def test_a_numpy_that_cv_bridge_was_not_made_for_is_found(monkeypatch):
    def broken(name: str) -> None:
        raise ImportError('numpy.core.multiarray failed to import')

    monkeypatch.setattr(doctor.importlib, 'import_module', broken)
    found = doctor.check_numpy()
    assert found.state == WARNING
    assert f'{UNINSTALL} numpy' in found.advice


def test_messages_of_another_build_are_found(tmp_path, monkeypatch):
    assert doctor.check_package().state == OK
    monkeypatch.setattr(doctor, 'messages_folder', lambda: tmp_path)
    (tmp_path / 'Box.msg').write_text('float32 x\nfloat32 yaw\n')
    found = doctor.check_package()
    assert (found.state, found.text) == (ERROR, 'are those of another build: Box')


def test_a_gpu_that_the_engine_does_not_know_is_found():
    assert doctor.check_engine().state == OK
    found = doctor.check_engine(cuda=True)  # the onnxruntime of the tests knows the processor
    assert found.state == WARNING
    assert 'torch serves' in found.text


@pytest.mark.parametrize(
    ('error', 'said'),
    [
        (ImportError('numpy.core.multiarray failed to import\n'), 'numpy.core.multiarray failed'),
        (AttributeError("module 'numpy' has no attribute 'dtypes'"), "no attribute 'dtypes'"),
        (SystemExit(), 'SystemExit'),
    ],
)
def test_an_onnx_that_is_installed_and_does_not_import_is_found(monkeypatch, error, said):
    there = doctor.importlib.import_module

    def imported(name: str) -> types.ModuleType:
        if name == 'onnx':
            raise error
        return there(name)

    monkeypatch.setattr(doctor.importlib, 'import_module', imported)
    found = doctor.check_engine()
    assert found.state == WARNING
    assert f'{doctor._version("onnx")} does not import' in found.text
    assert said in found.text
    assert 'torch serves' in found.text
    assert '--no-deps -r' in found.advice


def test_the_robot_gets_an_onnx_that_works_with_the_numpy_of_its_ubuntu(repository):
    listed = [
        Requirement(line)
        for line in (repository / 'requirements-robot.txt').read_text().splitlines()
        if line and not line.startswith('#')
    ]

    def fits(name: str, version: str, python: str) -> bool:
        (found,) = (
            r
            for r in listed
            if r.name == name
            and (r.marker is None or r.marker.evaluate({'python_version': python}))
        )
        return version in found.specifier

    for python in ('3.10', '3.12'):
        assert fits('ml_dtypes', '0.5.4', python)
        assert not fits('ml_dtypes', '0.6.0', python), 'it needs numpy 2'
    assert fits('onnx', '1.17.0', '3.10')
    assert not fits('onnx', '1.18.0', '3.10'), 'it needs a later numpy than that of 22.04'
    assert fits('onnx', '1.23.2', '3.12')
    assert fits('protobuf', '3.20.2', '3.10')


def test_what_a_robot_installs_is_no_older_than_its_packages_ask_of_each_other(repository):
    """Pip looks at none of that: --no-deps."""
    listed = {}
    for line in (repository / 'requirements-robot.txt').read_text().splitlines():
        if line and not line.startswith('#'):
            found = Requirement(line)
            if found.marker is None or found.marker.evaluate():
                listed[canonicalize_name(found.name)] = found.specifier
    oldest = {
        name: bound.version
        for name, bounds in listed.items()
        for bound in bounds
        if bound.operator in ('>=', '==')
    }
    compared = 0
    for name in listed:
        try:
            asked = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for wish in map(Requirement, asked):
            wanted = canonicalize_name(wish.name)
            if wanted in oldest and (wish.marker is None or wish.marker.evaluate({'extra': ''})):
                assert oldest[wanted] in wish.specifier, f'{name} asks for {wish}'
                compared += 1
    assert compared > 5


def test_what_the_teaching_page_needs_is_looked_for(monkeypatch):
    assert doctor.check_teaching_page().state == OK
    monkeypatch.setattr(doctor, '_version', lambda package: '')
    found = doctor.check_teaching_page()
    assert (found.state, found.text) == (SKIPPED, 'nicegui is not installed')
    assert 'pip install' in found.advice


def test_parts_of_two_distros_are_found(monkeypatch):
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    names = ['ros-jazzy-rclpy', 'ros-kilted-rclpy', 'numpy']
    made = [types.SimpleNamespace(metadata={'Name': n}) for n in names]
    monkeypatch.setattr(doctor.metadata, 'distributions', lambda: made)
    found = doctor.check_ros()
    assert found.state == ERROR
    assert 'humble, jazzy, kilted' in found.text


@pytest.mark.parametrize(
    ('publishers', 'heard', 'state', 'words'),
    [
        (0, [], SKIPPED, 'nobody publishes'),
        (1, [], ERROR, 'no image came'),
        (1, [(0.0, 90.0)] * 5, ERROR, '90.0 s old'),
        (1, [(0.0, 0.02)] * 5, OK, '20 ms old'),
    ],
)
def test_images_are_looked_at(publishers, heard, state, words):
    found = doctor._check_images('/image_raw', publishers, heard, 3.0)
    assert found.state == state
    assert words in found.text


def test_labels_on_the_command_line(tmp_path, capsys):
    store = LabelStore(tmp_path / 'labels.db')
    picture = annotate(np.zeros((32, 32, 3), np.uint8), 'a', 0.5, 0.0, 1)
    from etuner_ros.core.images.codec import encode_jpeg

    frame = Frame(FrameKey('camera', 5, 'eye'), encode_jpeg(picture), 'jpeg', 'mug', 0.5, 0.0, 0)
    store.add(frame, 'duck', 'ann', 0)
    store.close()
    named = ['--store', str(tmp_path / 'labels.db')]
    assert cli(['labels', 'stats', '--json', *named]) == 0
    classes = json.loads(capsys.readouterr().out)['classes']
    assert [(c['label'], c['frames'], c['confirmed']) for c in classes] == [('duck', 1, 0)]
    assert cli(['labels', 'export', str(tmp_path / 'out'), '--format', 'coco', *named]) == 0
    coco = json.loads((tmp_path / 'out' / 'annotations.json').read_text())
    assert coco['categories'] == [{'id': 1, 'name': 'duck'}]
    assert (coco['images'][0]['width'], coco['images'][0]['height']) == (32, 32)
    copy = ['--store', str(tmp_path / 'copy.db'), '--json']
    capsys.readouterr()
    assert cli(['labels', 'import', str(tmp_path / 'out'), *copy]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {'added': 1, 'known': 0, 'disputed': {}, 'problems': []}
    assert cli(['labels', 'rename', 'duck', 'goose', *copy]) == 0
    assert json.loads(capsys.readouterr().out) == {'changed': 1}
    assert cli(['labels', 'rename', 'goose', 'bird', *named]) == 1
    assert 'goose' in capsys.readouterr().err
    assert cli(['labels', 'stats', '--store', str(tmp_path / 'none.db')]) == 1
    capsys.readouterr()
    assert cli(['labels', 'check', *copy]) == 0
    assert json.loads(capsys.readouterr().out) == {'damage': ''}


@pytest.mark.parametrize('size', [(240, 320), (1080, 1920), (16, 16), (3, 500)])
def test_the_annotated_image_keeps_its_size_and_shows_the_confidence(size):
    image = np.full((*size, 3), 120, np.uint8)
    low = annotate(image, 'x' * 300, 0.2, 0.9, 4, 'tuning 40 %')
    high = annotate(image, '', 0.9, 0.1, 4)
    assert low.shape == high.shape == image.shape
    assert (image == 120).all(), 'the camera picture is not drawn on'
    if size[0] >= 240:
        green = (np.abs(high.astype(int) - (64, 200, 120)).sum(axis=2) < 10).any(axis=0)
        assert green.mean() == pytest.approx(0.9, abs=0.02), 'as wide as the confidence'


@pytest.mark.parametrize('width', [160, 320, 1280])
def test_known_and_unknown_things_are_marked_in_their_own_colours(width):
    image = np.full((width * 3 // 4, width, 3), 120, np.uint8)
    scale = width / 640  # of the camera's image
    things = [
        Marked((100.0, 150.0, 150.0, 200.0), 'cup', 0.8, False),
        Marked((400.0, 150.0, 150.0, 200.0), 'cup', 0.3, True),
        Marked((-50.0, 0.0, 40.0, 20.0), 'ä' * 200, 0.3, False),
    ]
    drawn = mark(image, things, scale)
    assert (image == 120).all(), 'the camera picture is not drawn on'
    row = drawn[round(300 * scale)].astype(int)
    for x, colour in ((100, GREEN), (250, GREEN), (400, AMBER), (550, AMBER)):
        edge = row[max(round(x * scale) - 2, 0) : round(x * scale) + 3]
        assert np.abs(edge - colour).sum(axis=1).min() < 10
    assert (row[round(320 * scale)] == 120).all()


def test_the_files_for_viewers_are_whole(repository: Path):
    layout = json.loads((repository / 'config' / 'foxglove.json').read_text())
    assert '/annotated' in json.dumps(layout)
    assert 'annotated' in (repository / 'config' / 'etuner.rviz').read_text()
    plots = ElementTree.parse(repository / 'config' / 'plotjuggler.xml')
    topics = {'predictions': Prediction(), 'tuner/status': TunerStatus()}
    curves = [c.attrib['name'].strip('/') for c in plots.iter('curve')]
    assert len(curves) > 5
    for topic, _, field in (c.rpartition('/') for c in curves):
        assert hasattr(topics[topic], field), f'{topic} has no {field}'
