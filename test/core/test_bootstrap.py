# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The environment is made from the places and with the limits that pip has been given."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
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
