# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Timers for housekeeping: on steady time, which no paused bag or missing /clock can stop."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.timer import Timer


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Timer:
    """
    Return a timer on steady time, whatever `use_sim_time` says.

    :param period_s: in s
    """
    return node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))
