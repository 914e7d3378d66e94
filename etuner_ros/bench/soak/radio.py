# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The radio is gone for a minute while an operator far away has labels to send.

The operator is the node of this package, in namespaces of its own; the radio is a pair of
virtual Ethernet devices, one end of which is set down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import subprocess
import sys
import time
from typing import Any

from ament_index_python.packages import get_package_prefix

from etuner_ros.bench.soak.robot import FAR_AUTHOR, RESUME_LIMIT_S, Robot
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.core.processes import die_with_parent
from etuner_ros.msg import LabelReceipt
from etuner_ros.nodes.messages import stamp_ns

HERE, THERE = 'robot0', 'operator0'
# With shared memory of its own, too, as another computer has.
FAR = 'mount -t tmpfs tmpfs /dev/shm && echo made && exec sleep infinity'
SPARE_S = 2.0
RATE_HZ = 10.0  # of the camera


def sh(command: str) -> None:
    """Run a command."""
    subprocess.run(command.split(), check=True)


def output(command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


class Radio:
    """
    Namespaces far away, and the link to them.

    :raises subprocess.CalledProcessError: when this process may not make one
    """

    def __init__(self) -> None:
        self._far = subprocess.Popen(
            ['unshare', '--net', '--mount', 'sh', '-c', FAR],
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        assert self._far.stdout is not None
        self._far.stdout.readline()
        self.enter = f'nsenter --target {self._far.pid} --net --mount'
        sh(f'ip link add {HERE} type veth peer name {THERE} netns {self._far.pid}')
        sh(f'ip addr add 10.77.0.1/24 dev {HERE}')
        sh(f'{self.enter} ip link set lo up')
        sh(f'{self.enter} ip addr add 10.77.0.2/24 dev {THERE}')
        sh(f'{self.enter} ip link set {THERE} up')
        self.up()

    def up(self) -> None:
        """Connect; DDS overlooks a device that is not running yet."""
        sh(f'ip link set {HERE} up')
        for enter, device in (('', HERE), (self.enter, THERE)):
            while 'state UP' not in output(f'{enter} ip -oneline link show {device}'):
                time.sleep(0.05)

    def down(self) -> None:
        """Cut."""
        sh(f'ip link set {HERE} down')

    def close(self) -> None:
        """Remove both."""
        self._far.kill()
        self._far.wait()


@contextmanager
def far_operator(radio: Radio, robot: Robot, delay_s: float) -> Iterator[None]:
    """Have somebody far away label all that is seen, `delay_s` later."""
    executable = f'{get_package_prefix("etuner_ros")}/lib/etuner_ros/operator'
    settings = {
        'rate_hz': 10.0 * RATE_HZ,
        'share': 1.0,
        'delay_s': delay_s,
        'jitter_s': 0.0,
        'author': FAR_AUTHOR,
    }
    command = [*radio.enter.split(), sys.executable, executable, '--ros-args']
    for name, value in settings.items():
        command += ['-p', f'{name}:={value}']
    with (robot.home / 'operator.log').open('wb') as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_parent
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def answered(robot: Robot) -> set[int]:
    """Return the stamps of frames of which the operator knows that the label is stored."""
    stored = (LabelReceipt.ACCEPTED, LabelReceipt.DUPLICATE)
    return {
        stamp_ns(r.header) for r in robot.receipts if r.author == FAR_AUTHOR and r.code in stored
    }


def radio(stage: Stage, plan: Plan) -> dict[str, Any]:
    """
    Cut the radio.

    The operator answers so late that what it saw before the cut is labelled while there is no
    radio. The camera plays on: the robot works alone.
    """
    link = Radio()
    robot = Robot(stage.pictures(), stage.base, stage.folder / 'radio', rate_hz=RATE_HZ)
    robot.be_silent()
    broken: list[str] = []
    # All that waits is said after the cut, and before the radio is back.
    delay_s = 2.0 * plan.waiting_labels / RATE_HZ + SPARE_S
    gone_s = max(plan.radio_s, delay_s + SPARE_S)
    back = 0
    try:
        robot.start_well()
        restarts = robot.supervisor.restarts
        with far_operator(link, robot, delay_s):
            known = lambda: robot.node.count_publishers('labels') > 1
            if not robot.until(known, RESUME_LIMIT_S):
                broken.append('the operator was not found')
            enough = robot.result.predictions + plan.waiting_labels * 6 // 5
            robot.until(lambda: robot.result.predictions >= enough, delay_s - SPARE_S)
            link.down()
            robot.check_works()
            robot.go_on(gone_s)
            early = len(answered(robot))
            link.up()
            robot.until(
                lambda: len(answered(robot)) - early >= plan.waiting_labels, RESUME_LIMIT_S
            )
            back = len(answered(robot)) - early
        if early > plan.waiting_labels // 10:
            broken.append(f'{early} labels came before or without the radio')
        if back < plan.waiting_labels:
            broken.append(f'{back} of {plan.waiting_labels} labels came when the radio was back')
        if robot.supervisor.restarts > restarts:
            broken.append(f'{robot.supervisor.restarts - restarts} nodes died')
    finally:
        result = robot.verify()
        link.close()
    return {
        **result.as_dict(),
        'radio_s': gone_s,
        'labels_waiting': plan.waiting_labels,
        'labels_after_the_radio': back,
        'broken': [*result.broken, *broken],
    }
