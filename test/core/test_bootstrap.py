# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The environment is made from the places and with the limits that pip has been given."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
import shutil
import subprocess
import sys
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'bootstrap.py'


@pytest.fixture(scope='module')
def bootstrap() -> ModuleType:
    """Return the tool as a module."""
    spec = importlib.util.spec_from_file_location('bootstrap', TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uv_looks_where_pip_looks(bootstrap):
    listed = """:env:.config-file='/etc/ours.conf'
:env:.find-links='/wheels /more'
download.index-url='https://elsewhere.example'
global.cert='/etc/ours.pem'
global.find-links='/not/these'
global.index-url='https://packages.example/simple'
global.timeout='60'
install.constraint='/etc/limits.txt'
"""
    assert bootstrap.uv_settings(listed) == (
        [
            *('--constraint', '/etc/limits.txt'),
            *('--find-links', '/wheels', '--find-links', '/more'),
            *('--default-index', 'https://packages.example/simple'),
        ],
        {'SSL_CERT_FILE': '/etc/ours.pem'},
    )
    assert bootstrap.uv_settings('') == ([], {})


@pytest.mark.parametrize(
    'line',
    ["global.proxy='http://here:3128'", "install.no-binary='all'", 'WARNING: not readable'],
)
def test_what_uv_can_not_be_told_leaves_the_work_to_pip(bootstrap, line):
    assert bootstrap.uv_settings(f"global.timeout='60'\n{line}\n") is None


def test_cmake_files_are_mended_without_touching_the_cache_that_they_are_linked_from(
    bootstrap, tmp_path
):
    tag = f'cp{sys.version_info[0]}{sys.version_info[1]}'
    version = f'{sys.version_info[0]}.{sys.version_info[1]}'
    built = f'/opt/python/{tag}-{tag}/include/python{version}'
    cached = tmp_path / 'cached.cmake'
    cached.write_text(f'set(there {built})')
    file = tmp_path / 'env' / 'share' / 'some' / 'some.cmake'
    file.parent.mkdir(parents=True)
    os.link(cached, file)
    bootstrap.Bootstrap(tmp_path / 'env', 'jazzy', sourced=False).mend_cmake()
    assert built not in file.read_text()
    assert cached.read_text() == f'set(there {built})'


@pytest.mark.parametrize('sourced', [True, False])
def test_what_rosidl_needs_is_taken_from_a_sourced_ros(bootstrap, tmp_path, monkeypatch, sourced):
    installed: list[str] = []
    monkeypatch.setattr(bootstrap.shutil, 'which', lambda tool: None)
    made = bootstrap.Bootstrap(tmp_path / 'env', 'jazzy', sourced=sourced)
    monkeypatch.setattr(made, 'install', lambda *pins: installed.extend(pins))
    made.ros()
    names = {pin.partition('==')[0] for pin in installed}
    assert {'colcon-core', 'colcon-ros', 'catkin-pkg'} <= names
    assert ('ros-rclpy' in names) is not sourced
    for name in ('empy', 'lark-parser'):
        assert (name in names) is not sourced, name


def rclpy_at(folder: Path, text: str) -> Path:
    (folder / 'rclpy').mkdir(parents=True)
    (folder / 'rclpy' / '__init__.py').write_text(text)
    return folder


@pytest.mark.parametrize('made_for', ['3.8', ''])
def test_a_sourced_ros_that_this_python_can_not_import_is_said_with_the_one_that_can(
    bootstrap, tmp_path, monkeypatch, made_for
):
    folder = tmp_path / f'lib/python{made_for}/site-packages'
    rclpy_at(folder, "raise ImportError('compiled for another one')")
    monkeypatch.setenv('ROS_DISTRO', 'humble')
    monkeypatch.setenv('PYTHONPATH', str(folder))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, 'rclpy', raising=False)
    with pytest.raises(SystemExit) as stopped:
        bootstrap.is_sourced()
    said = str(stopped.value)
    assert 'ROS 2 humble does not work with' in said
    assert f'PYTHON={f"python{made_for}" if made_for else "/usr/bin/python3"},' in said
    assert '\n' not in said


def test_a_ros_is_sourced_when_this_python_imports_it(bootstrap, tmp_path, monkeypatch):
    folder = rclpy_at(tmp_path, '')
    monkeypatch.setenv('PYTHONPATH', str(folder))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, 'rclpy', raising=False)
    monkeypatch.delenv('ROS_DISTRO', raising=False)
    assert not bootstrap.is_sourced()
    monkeypatch.setenv('ROS_DISTRO', 'jazzy')
    assert bootstrap.is_sourced()


def test_a_board_without_a_sourced_ros_is_refused_before_anything_is_installed(
    bootstrap, monkeypatch
):
    monkeypatch.setattr(bootstrap.platform, 'machine', lambda: 'aarch64')
    with pytest.raises(SystemExit, match=r'this computer is aarch64; source its ROS 2'):
        bootstrap.check_machine(sourced=False)
    bootstrap.check_machine(sourced=True)


def test_a_path_with_a_space_is_refused_in_a_sentence(repository, tmp_path):
    folder = tmp_path / 'a robot'
    (folder / 'tools').mkdir(parents=True)
    shutil.copy(repository / 'Makefile', folder)
    shutil.copy(TOOL, folder / 'tools')
    command = ['make', 'setup', f'PYTHON={sys.executable}']
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode != 0
    said = done.stderr.splitlines()[0]
    assert said.startswith('etuner_ros: the path of this folder has a space in it'), said
    assert not (folder / '.venv').exists()


def test_sections_that_are_to_be_installed_alone_are(bootstrap):
    """As pins.ini says of them; torch stays as it is."""
    named, told = '', set()
    for line in bootstrap.PINS.read_text().splitlines():
        if line.startswith('['):
            named = line.strip('[]')
        elif line.startswith(';') and ('--no-deps' in line or 'Installed without' in line):
            told.add(named)
    assert told == {'weights', 'choose', 'bench'} == set(bootstrap.WITHOUT_DEPENDENCIES)
