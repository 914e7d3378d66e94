# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Quality of service profiles."""

from __future__ import annotations

from collections.abc import Callable
import copy
from typing import Any, TypeVar

import rclpy
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSPolicyKind,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions

from etuner_ros.core.errors import ConfigError

T = TypeVar('T')

ADAPTABLE = (
    QoSPolicyKind.HISTORY,
    QoSPolicyKind.DEPTH,
    QoSPolicyKind.RELIABILITY,
    QoSPolicyKind.DURABILITY,
)
REQUESTS = 32  # depth of `label_requests`: those without an answer come at once
FEATURES = 512  # depth of `frame_feature`: a kept frame may have one of each of many regions
NEWEST_WINS = QoSProfile(
    depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT
)


def latched(depth: int) -> QoSProfile:
    """Return a profile whose last messages reach those who come later."""
    return QoSProfile(
        depth=depth,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


LATCHED = latched(1)


def reliable(depth: int) -> QoSProfile:
    """Return a reliable, volatile profile of this depth."""
    return QoSProfile(
        depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE
    )


def adaptable(create: Callable[..., T]) -> Callable[..., T]:
    """
    Have the QoS of what is made follow the user's parameters
    `qos_overrides.<topic>.<publisher or subscription>.<policy>`, as usual in ROS 2.

    :param create: `create_publisher`, `create_subscription` or `create_lifecycle_publisher` of a
        node; what is returned is called as it is, and raises ConfigError when an override is none
    """
    options = QoSOverridingOptions(ADAPTABLE)

    def call(kind: Any, topic: str, *rest: Any, **keywords: Any) -> T:
        # rclpy writes overrides into the profile, and ours are shared by many.
        rest = tuple(copy.copy(r) if isinstance(r, QoSProfile) else r for r in rest)
        try:
            return create(kind, topic, *rest, qos_overriding_options=options, **keywords)
        except (RuntimeError, ValueError, rclpy.exceptions.ParameterException) as error:
            raise ConfigError(
                f'topic {topic} can not be made with its qos_overrides: {error}; policies: '
                f'reliability (reliable, best_effort), durability (volatile, transient_local), '
                f'history (keep_last, keep_all), depth (a number above 0)'
            ) from error

    return call
