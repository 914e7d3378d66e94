# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Fixtures: a deployed model with real pretrained weights, and a ROS graph of its own per test."""

from __future__ import annotations

from collections.abc import Iterator
import os
from pathlib import Path
import sys

from hypothesis import settings
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # helpers.py

# Networks here are so small that threads of torch mostly wait for each other, busily; with
# pytest-xdist on all cores, and beside the processes that tests start, even more so.
os.environ.setdefault('OMP_NUM_THREADS', '1')

# Messages check types and ranges of what they are given, as they do by default up to Humble; this is
# read where a message is imported, and by the processes that tests start, too.
os.environ.setdefault('ROS_PYTHON_CHECK_FIELDS', '1')

# The same examples in every run, so that CI fails for a reason; HYPOTHESIS_PROFILE=explore looks further.
settings.register_profile('repeatable', derandomize=True, deadline=None)
settings.register_profile('explore', max_examples=1000, deadline=None)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'repeatable'))

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def repository() -> Path:
    """Return the root of the repository."""
    return REPOSITORY


@pytest.fixture(scope='session')
def stream() -> Path:
    """Return the recording that ships with the package."""
    return REPOSITORY / 'config' / 'stream'


@pytest.fixture(scope='session')
def frames(stream: Path) -> list:
    """Return the first 96 frames of the recording: all of one scenario."""
    from itertools import islice

    from etuner_ros.core.images.sources import Recording

    return list(islice(Recording(stream), 96))


@pytest.fixture(scope='session')
def deployed(tmp_path_factory: pytest.TempPathFactory, frames: list) -> Path:
    """Return base weights: pretrained EfficientNet-Lite0 at 64 px, with a head for some kinds."""
    from etuner_ros.core.images.codec import resize_square
    from etuner_ros.core.models.deploy import choose_exemplars, fit_head
    from etuner_ros.core.models.networks import build, pretrained_spec
    from etuner_ros.core.models.weights import pack_base

    model = build(pretrained_spec('efficientnet_lite0', 64), 'pretrained')
    known = [f for f in frames if f.label in ('duck', 'mug', 'soccer_ball', 'table')]
    images = [resize_square(f.image, 64) for f in known]
    fit_head(model, images, [f.label for f in known])
    path = tmp_path_factory.mktemp('base') / 'deployed.safetensors'
    exemplars = choose_exemplars(images, [f.label for f in known], per_class=3)
    path.write_bytes(pack_base(model.state(), model.spec, model.unit_sizes, exemplars))
    return path


@pytest.fixture(scope='session')
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of graphs that all tests share: making one takes seconds."""
    base = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ:
        base = base.parent  # of all processes
    folder = base / 'graphs'
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True)
def ros_home(tmp_path: Path, graphs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own place for stores."""
    monkeypatch.setenv('ETUNER_GRAPHS', str(graphs))
    monkeypatch.setenv('ROS_HOME', str(tmp_path / 'ros_home'))
    return tmp_path / 'ros_home'


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Return a ROS graph with a domain of its own, whose nodes look after things more often."""
    from helpers import Graph

    from etuner_ros.nodes import base_fetcher, health, lifecycle, tuner
    from etuner_ros.nodes.timers import steady_timer

    for module in (base_fetcher, health, tuner):  # what a robot may wait for adds up in tests
        monkeypatch.setattr(
            module,
            'steady_timer',
            lambda node, period_s, look: steady_timer(node, period_s / 5, look),
        )
    monkeypatch.setattr(lifecycle, 'TICK_S', lifecycle.TICK_S / 5)
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    graph = Graph()
    yield graph
    graph.close()
