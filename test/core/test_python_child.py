# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Processes of ours import nothing from the folder that they are started in."""

from __future__ import annotations

import os
from pathlib import Path
import queue
import subprocess
import sys
from typing import Any

import pytest

import etuner_ros
from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.choose.measure import Conditions
from etuner_ros.core.choose.pictures import Labelled
from etuner_ros.core.choose.process import InProcess
from etuner_ros.core.config import HeadConfig, SimFreezeConfig, TrainConfig
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.python_child import python_child
from etuner_ros.worker.client import WorkerClient

TELLS = (
    'import sys, etuner_ros; print(__name__, sys.argv[1:], etuner_ros.__path__[0], sys.path[:1])'
)


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder whose packages nobody may import."""
    for name in ('torch', 'numpy', 'etuner_ros', 'runpy'):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text(f"raise ImportError('the trap: {name}')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('safe', [{}, {'PYTHONSAFEPATH': '1'}], ids=['as usual', 'safe path'])
def test_a_module_runs_as_by_its_name_with_its_arguments(trap, safe):
    elsewhere = trap / 'elsewhere'
    elsewhere.mkdir()
    (elsewhere / 'tells.py').write_text(TELLS)
    path = os.pathsep.join([str(elsewhere), os.environ.get('PYTHONPATH', '')])
    done = subprocess.run(
        python_child('tells', '-x', 'two words'),
        env={**os.environ, **safe, 'PYTHONPATH': path},
        capture_output=True,
        text=True,
    )
    ours = Path(etuner_ros.__file__).parent
    expected = f"__main__ ['-x', 'two words'] {ours} ['{elsewhere}']"
    assert done.stdout.strip() == expected, done.stderr


def test_it_runs_the_package_that_its_parent_has(tmp_path):
    """Found where Python was started, and nowhere else."""
    root = Path(etuner_ros.__file__).parents[1]
    code = (
        'import subprocess\nfrom etuner_ros.core.python_child import python_child\n'
        "subprocess.run(python_child('etuner_ros.core.python_child'), check=True, cwd='/')"
    )
    bare = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-c', code], env=bare, cwd=root, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_worker_starts_beside_a_folder_called_torch(trap):
    said: queue.Queue[dict[str, Any]] = queue.Queue()
    client = WorkerClient(TrainConfig(), SimFreezeConfig(), HeadConfig(), said.put)
    try:
        client.send({'op': 'nonsense'})
        told = said.get(timeout=60.0)
        assert told['op'] != 'died', told
    finally:
        client.close()


def test_a_candidate_is_measured_beside_a_folder_called_torch(trap, frames):
    labelled = Labelled(tuple(encode_jpeg(f.image) for f in frames[:4]), ('a', 'b', 'a', 'b'))
    measure = InProcess(labelled, Conditions(engine='torch'))
    try:
        with pytest.raises(EtunerError, match='none.pth does not exist'):
            measure(Candidate('resnet18', 64, 'fp32', str(trap / 'none.pth')))
    finally:
        measure.close()
