# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The `main` of every executable: DDS profile, executors, orderly end."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import shutil
import signal
import threading
import traceback

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, ShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.files import share

LEAST_SHM = 256_000_000  # free bytes of /dev/shm
FAILURES_AT_ONCE = 10  # in a row, before spinning slows down
LONGEST_REST_S = 1.0
IMPATIENT = 3  # presses of Ctrl-C
LAST_CALLBACK_S = 5.0  # so long a callback that runs at the end may take


class SteadyExecutor(SingleThreadedExecutor):
    """
    Goes on when a callback raises.

    Ours are `guarded`; those of rclpy itself are not: one `set_parameters` call with an unknown
    type of value ends any rclpy node. `spin` of rclpy calls `spin_once` in some releases and
    something private in others, so the loop is our own.
    """

    def __init__(self, *, context: Context | None = None) -> None:
        super().__init__(context=context)
        self._ended = threading.Event()
        self._failures = 0  # in a row

    def spin(self) -> None:
        """Run callbacks until the executor or its context is shut down."""
        while self.context.ok() and not self._ended.is_set():
            self.spin_once()
            # What fails without having waited for anything must not keep a core busy.
            if self._failures > FAILURES_AT_ONCE:
                self.rest(min(LONGEST_REST_S, 0.01 * (self._failures - FAILURES_AT_ONCE)))

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Run one callback; what it raises is logged."""
        try:
            super().spin_once(timeout_sec)
            self._failures = 0
        except (ExternalShutdownException, ShutdownException):
            raise
        except Exception as error:  # whatever one message or call does must not end the node
            if not self.context.ok():
                return  # it met the end of everything
            self._failures += 1
            self.failed(error)

    def shutdown(self, timeout_sec: float | None = None) -> bool:
        """End `spin`."""
        self._ended.set()
        return super().shutdown(timeout_sec)

    def rest(self, seconds: float) -> None:
        """Do nothing for some time, less when the executor is shut down."""
        self._ended.wait(seconds)

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
    does not fit ends a process with SIGBUS. `ROS_LOCALHOST_ONLY` gets no profile either: Humble
    adds a transport to those of a profile, which go on using the network. The newer
    `ROS_AUTOMATIC_DISCOVERY_RANGE` keeps its word with a profile.
    """
    names = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')
    if any(os.environ.get(n) for n in (*names, 'FASTDDS_BUILTIN_TRANSPORTS')):
        return
    if os.environ.get('ROS_LOCALHOST_ONLY') == '1':
        return
    try:
        profile = share() / 'config' / 'fastdds.xml'
        if shutil.disk_usage('/dev/shm').free < LEAST_SHM or not profile.exists():
            return
    except (OSError, ConfigError):
        return
    os.environ.update(dict.fromkeys(names, str(profile)))


def init() -> None:
    """
    `rclpy.init`, after which Ctrl-C does what SIGTERM does: the context ends, and nothing else.

    Python's own handler raises `KeyboardInterrupt` wherever the main thread is: in the middle of a
    callback, and in the making of a message, where rclpy turns it into a `RuntimeError` about a
    call argument. So it comes with the third press only, for what takes long and looks at nothing.

    :raises SystemExit: when ROS refuses its arguments, with the reason
    """
    pressed: list[int] = []

    def press(number: int, _: object) -> None:
        pressed.append(number)
        if len(pressed) >= IMPATIENT:
            raise KeyboardInterrupt

    signal.signal(signal.SIGINT, press)
    try:
        rclpy.init()
    except RuntimeError as error:  # a file of parameters that can't be read, and such
        why = str(error).strip().partition('\n')[0][:300]
        raise SystemExit(f'ROS does not start: {why}') from None
    if pressed and rclpy.ok():  # before rclpy was listening
        rclpy.shutdown()


def ignore_interrupts() -> None:
    """Let a process that is ending end in order, however often Ctrl-C is pressed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class SideThreads:
    """Spin nodes in a thread each, beside the one that the main thread spins."""

    def __init__(self) -> None:
        self._spinning: list[tuple[SteadyExecutor, threading.Thread]] = []

    def spin(self, node: Node) -> None:
        """Spin a node in a thread of its own from now on."""
        executor = SteadyExecutor()
        executor.add_node(node)
        thread = threading.Thread(
            target=self._spin, args=(executor,), name=node.get_name(), daemon=True
        )
        self._spinning.append((executor, thread))
        thread.start()

    @staticmethod
    def _spin(executor: SteadyExecutor) -> None:
        with contextlib.suppress(ExternalShutdownException, ShutdownException):
            executor.spin()

    def close(self) -> None:
        """Let callbacks that run end; no others begin."""
        for executor, _ in self._spinning:
            executor.shutdown()
        for _, thread in self._spinning:
            thread.join(LAST_CALLBACK_S)


def run(*makes: Callable[[], Node]) -> int:
    """
    Run a node until it is told to stop; the `main` of each executable.

    Of several the first one is spun by the main thread and each other one by a thread of its own,
    so that a slow callback of one holds up no other.
    """
    use_dds_profile()
    init()
    nodes: list[Node] = []
    beside = SideThreads()
    try:
        for make in makes:
            nodes.append(make())
        for node in nodes[1:]:
            beside.spin(node)
        executor = SteadyExecutor()
        executor.add_node(nodes[0])
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except EtunerError as error:
        rclpy.logging.get_logger('etuner_ros').fatal(str(error))
        return 1
    except Exception:
        if rclpy.ok():
            raise
        # It was told to stop while a node was made.
    finally:
        ignore_interrupts()
        beside.close()
        for node in nodes:
            close = getattr(node, 'close', None)
            if close is not None:
                close()
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()
        ignore_interrupts()  # rclpy has put back the handler that it had found
    return 0
