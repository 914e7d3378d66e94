# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes as processes of their own, and the time of cameras that are played to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
import os
from pathlib import Path
import time
from typing import Any
from unittest.mock import patch
import uuid

from rclpy.executors import Executor
from std_msgs.msg import Header
import yaml

from etuner_ros.shared.supervisor import Supervisor

MARK = 'ETUNER_BENCH'  # in the environment of every process of a run


@contextmanager
def running(
    nodes: Sequence[str],
    parameters: Mapping[str, Mapping[str, Any]],
    home: Path,
    *,
    upon: Sequence[Path] = (),
    namespaces: Sequence[str] = ('',),
) -> Iterator[str]:
    """
    Run nodes; yields the mark in the environment of their processes.

    :param parameters: by the node, with its namespace, that they are for, such as '/**/inference'
    :param home: folder of what they keep; is made
    :param upon: parameter files that `parameters` go before
    :param namespaces: in each of which all nodes run
    """
    home.mkdir(parents=True)
    file = home / 'params.yaml'
    sections = {name: {'ros__parameters': dict(v)} for name, v in parameters.items()}
    file.write_text(yaml.safe_dump(sections))
    mark = uuid.uuid4().hex
    with patch.dict(os.environ, {MARK: mark, 'ROS_HOME': str(home)}):
        supervisors = [Supervisor([*upon, file], home / f'log{i}') for i in range(len(namespaces))]
        try:
            for supervisor, namespace in zip(supervisors, namespaces):
                for name in nodes:
                    supervisor.start(name, namespace)
            yield mark
        finally:
            for supervisor in supervisors:
                supervisor.stop()


def turns(executor: Executor, rate_hz: float, seconds: float) -> Iterator[int]:
    """Spin until it is time for each picture of a camera; yields its number."""
    began, number = time.monotonic(), 0
    while (due := number / rate_hz) < seconds:
        while (left := began + due - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
        yield number
        number += 1


def stamp_now(header: Header) -> int:
    """Put the time into a header; returns it, in ns."""
    now = time.time_ns()
    header.stamp.sec, header.stamp.nanosec = divmod(now, 10**9)
    return now
