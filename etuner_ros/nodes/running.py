# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `main` of every node: DDS profile, executor, orderly end."""

from __future__ import annotations

from collections.abc import Callable
import os
from pathlib import Path
import shutil
import traceback

from ament_index_python.packages import get_package_share_directory
import rclpy
from rclpy.executors import (
    ExternalShutdownException,
    ShutdownException,
    SingleThreadedExecutor,
    TimeoutException,
)
from rclpy.node import Node

from etuner_ros.core.errors import EtunerError

LEAST_SHM = 256_000_000  # free bytes of /dev/shm


class SteadyExecutor(SingleThreadedExecutor):
    """
    Goes on when a callback raises.

    Ours are `guarded`; those of rclpy itself are not: one `set_parameters` call with an unknown
    type of value ends any rclpy node.
    """

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback; what it raises is logged."""
        try:
            super().spin_once(timeout_sec)
        except (ExternalShutdownException, ShutdownException, TimeoutException):
            raise
        except Exception as error:  # whatever one message or call does must not end the node
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Log what a callback raised."""
        text = ''.join(traceback.format_exception(type(error), error, error.__traceback__))
        rclpy.logging.get_logger('etuner_ros').error(
            f'a callback failed:\n{text}', throttle_duration_sec=5.0
        )


def use_dds_profile() -> None:
    """
    Have Fast DDS take room for camera pictures (config/fastdds.xml), before a context is made.

    What the user has set wins, and a small /dev/shm (a container's) is left alone: a segment that
    does not fit ends a process with SIGBUS.
    """
    names = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
    if any(os.environ.get(n) for n in (*names, 'FASTDDS_BUILTIN_TRANSPORTS')):
        return
    try:
        profile = Path(get_package_share_directory('etuner_ros')) / 'config' / 'fastdds.xml'
        if shutil.disk_usage('/dev/shm').free < LEAST_SHM or not profile.exists():
            return
    except (OSError, LookupError):
        return
    os.environ.update(dict.fromkeys(names, str(profile)))


def run(make: Callable[[], Node]) -> int:
    """Run one node until it is told to stop; the `main` of each executable."""
    use_dds_profile()
    rclpy.init()
    node = None
    try:
        node = make()
        executor = SteadyExecutor()
        executor.add_node(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except EtunerError as error:
        rclpy.logging.get_logger('etuner_ros').fatal(str(error))
        return 1
    finally:
        if node is not None:
            close = getattr(node, 'close', None)
            if close is not None:
                close()
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()
    return 0
