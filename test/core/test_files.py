# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where files live."""

from __future__ import annotations

import subprocess
import sys

from etuner_ros.core.files import models_home, replace_file


def test_each_namespace_has_a_model_store_of_its_own(ros_home):
    models = ros_home / 'etuner' / 'models'
    assert models_home('/') == models_home('') == models, 'stores of earlier releases are found'
    assert models_home('/front') == models / 'ns' / 'front'
    assert models_home('/arm/front/') == models / 'ns' / 'arm.front'


WRITER = """
import os, sys
from pathlib import Path
from etuner_ros.core import files
def never(fd):
    print('writing', flush=True)
    sys.stdin.read()
files.os.fsync = never
files.replace_file(Path(sys.argv[1]), b'new')
"""


def test_what_a_killed_writer_left_goes_with_the_next_write_and_what_a_living_one_writes_stays(
    tmp_path,
):
    path = tmp_path / 'state.json'
    replace_file(path, b'old')
    writer = subprocess.Popen(
        [sys.executable, '-c', WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b'writing\n'
    replace_file(tmp_path / 'other.json', b'')
    assert len(list(tmp_path.glob('.state*'))) == 1, 'somebody is writing it'
    writer.kill()
    writer.wait()
    assert path.read_bytes() == b'old'
    replace_file(tmp_path / 'other.json', b'')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['other.json', 'state.json']
