# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The executables' loop goes on whatever happens, and ends when it is told to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import ListParameters, SetParameters
from rclpy.executors import Executor, SingleThreadedExecutor
from rclpy.node import Node

from etuner_ros.nodes import running
from etuner_ros.nodes.running import SteadyExecutor, use_dds_profile

NAMES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')


def spin_since_7_1_9(self: Any) -> None:
    """Spin as `rclpy.executors.Executor` does from 7.1.9 on."""
    while self._context.ok() and not self._is_shutdown:
        self._spin_once_impl()


@pytest.mark.parametrize('form', ['of this release', 'of 7.1.9 and later'])
def test_a_malformed_request_does_not_end_a_node(ros, monkeypatch, form):
    if form == 'of 7.1.9 and later':
        monkeypatch.setattr(Executor, 'spin', spin_since_7_1_9)
    node = Node('odd', context=ros.context, namespace=ros.namespace)
    executor = SteadyExecutor(context=ros.context)
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        client = ros.probe.create_client(SetParameters, f'{ros.namespace}/odd/set_parameters')
        ros.until(client.service_is_ready, 'the service')
        wrong = Parameter(name='rate_hz', value=ParameterValue(type=77))
        client.call_async(SetParameters.Request(parameters=[wrong]))
        answer = ros.call(ListParameters, f'{ros.namespace}/odd/list_parameters')
        assert answer.result.names
    finally:
        executor.shutdown()
        thread.join(30.0)
    assert not thread.is_alive(), 'shutdown ends spin'
    node.destroy_node()


def test_errors_without_end_do_not_keep_a_core_busy(ros, monkeypatch):
    class Tired(SteadyExecutor):
        def __init__(self) -> None:
            super().__init__(context=ros.context)
            self.rests: list[float] = []

        def rest(self, seconds: float) -> None:
            self.rests.append(seconds)
            if len(self.rests) == 150:
                self.shutdown()

    def broken(*_: object) -> None:
        raise RuntimeError('the wait set is broken')

    executor = Tired()
    monkeypatch.setattr(SingleThreadedExecutor, 'spin_once', broken)
    executor.spin()
    assert executor.rests == sorted(executor.rests)
    assert executor.rests[0] <= 0.01, 'a burst of bad messages slows nothing down'
    assert executor.rests[-1] == 1.0


ENDING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
from rclpy.node import Node
from etuner_ros.nodes.running import run

class Slow(Node):
    def __init__(self):
        super().__init__('slow')
        self.create_timer(0.01, self.say)
    def say(self):
        print('up', flush=True)
    def close(self):
        print('closing', flush=True)
        sys.stdin.readline()
        print('closed', flush=True)

raise SystemExit(run(Slow))
"""


@contextmanager
def started(script: str, ros: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process of its own, which ends with the block."""
    process = subprocess.Popen(
        [sys.executable, '-c', script],
        env={**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_ctrl_c_again_and_again_does_not_disturb_an_orderly_end(ros):
    with started(ENDING, ros) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == 'up\n'
        process.send_signal(signal.SIGINT)
        while (line := process.stdout.readline()) == 'up\n':
            pass
        assert line == 'closing\n'
        for _ in range(3):
            process.send_signal(signal.SIGINT)
        process.stdin.write('go on\n')
        process.stdin.flush()
        out, err = process.communicate(timeout=60)
    assert out == 'closed\n'
    assert process.returncode == 0, err
    assert 'Traceback' not in err


CUT_SHORT = """
import os, signal
from rclpy.node import Node
from etuner_ros.nodes.running import run

class Busy(Node):
    def __init__(self):
        super().__init__('busy')
        self.create_timer(0.01, self.work)
        {in_making}
    def work(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass  # here `KeyboardInterrupt` would be raised
        print('whole', flush=True)
    def close(self):
        print('closed', flush=True)

raise SystemExit(run(Busy))
"""


@pytest.mark.parametrize(
    ('in_making', 'said'),
    [
        ('', 'whole\nclosed\n'),
        # One press; what goes on for ever ends as the context does.
        ('self.work(), [self.create_timer(1.0, self.work) for _ in iter(int, 1)]', None),
    ],
)
def test_ctrl_c_cuts_no_callback_short_and_ends_a_node_that_is_being_made(ros, in_making, said):
    ended = subprocess.run(
        [sys.executable, '-c', CUT_SHORT.format(in_making=in_making)],
        env={**os.environ, 'ROS_DOMAIN_ID': str(ros.domain)},
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert 'Traceback' not in ended.stderr
    if said is not None:
        assert ended.stdout == said


STALLED = """
from rclpy.node import Node
import time
from etuner_ros.nodes.running import run

class Stalled(Node):
    def __init__(self):
        super().__init__('stalled')
        self.create_timer(0.01, self.fetch)
    def fetch(self):
        print('fetching', flush=True)
        time.sleep(600)
    def close(self):
        print('closed', flush=True)

raise SystemExit(run(Stalled))
"""


def test_a_file_of_parameters_that_is_not_there_is_said_in_one_sentence():
    command = 'from etuner_ros.nodes.label_collector import main; main()'
    options = ['--ros-args', '--params-file', 'nothere.yaml']
    found = subprocess.run(
        [sys.executable, '-c', command, *options], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 1
    assert 'ROS does not start: ' in found.stderr
    assert 'nothere.yaml' in found.stderr
    assert 'Traceback' not in found.stderr


def test_what_takes_long_and_looks_at_nothing_ends_when_ctrl_c_is_pressed_on(ros):
    with started(STALLED, ros) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'fetching\n'

        def pressed() -> bool:
            process.send_signal(signal.SIGINT)
            return process.poll() is not None

        ros.until(pressed, 'the end', 60.0)
        out, err = process.communicate(timeout=60)
    assert out == 'closed\n'
    assert process.returncode == 0, err
    assert 'Traceback' not in err


BLOCKING = """
import signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
from rclpy.node import Node
from std_msgs.msg import Empty
from etuner_ros.nodes.running import run

busy, answered = threading.Event(), threading.Event()

class Quick(Node):
    def __init__(self):
        super().__init__('quick')
        self.create_timer(0.01, self.answer)
    def answer(self):
        if busy.is_set():
            answered.set()
    def close(self):
        print('quick closed', flush=True)

class Slow(Node):
    def __init__(self):
        super().__init__('slow')
        self.create_timer(0.01, self.work)
    def work(self):
        busy.set()
        if answered.wait(60):
            print('answered meanwhile', flush=True)
    def close(self):
        print('slow closed', flush=True)

raise SystemExit(run(Quick, Slow))
"""


def test_of_several_nodes_in_a_process_a_slow_callback_holds_up_no_other_and_all_end(ros):
    with started(BLOCKING, ros) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'answered meanwhile\n'
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert out.splitlines()[-2:] == ['quick closed', 'slow closed']
    assert process.returncode == 0, err
    assert 'Traceback' not in err


@pytest.fixture
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing set that concerns DDS, and room in shared memory."""
    for name in (*NAMES, 'FASTDDS_BUILTIN_TRANSPORTS', 'ROS_LOCALHOST_ONLY'):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, '')  # so that what is set is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(running, 'LEAST_SHM', 0)


@pytest.mark.parametrize(
    ('name', 'value', 'used'),
    [
        ('ROS_LOCALHOST_ONLY', '1', False),
        ('ROS_LOCALHOST_ONLY', '0', True),
        ('FASTDDS_BUILTIN_TRANSPORTS', 'UDPv4', False),
        (NAMES[0], '/mine.xml', False),
    ],
)
def test_the_dds_profile_is_left_out_where_the_user_asks_for_something_else(
    no_profile, monkeypatch, name, value, used
):
    monkeypatch.setenv(name, value)
    use_dds_profile()
    assert os.environ.get(NAMES[1], '').endswith('fastdds.xml') == used
