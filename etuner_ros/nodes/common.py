# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What all nodes share: parameters from dataclasses, guarded callbacks, diagnostics, lifecycle start,
`main`.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields
from dataclasses import replace
import functools
import os
from pathlib import Path
import shutil
import time
import traceback
from typing import Any
from typing import TypeVar

from ament_index_python.packages import get_package_share_directory
from diagnostic_msgs.msg import DiagnosticArray
from diagnostic_msgs.msg import DiagnosticStatus
from diagnostic_msgs.msg import KeyValue
from rcl_interfaces.msg import FloatingPointRange
from rcl_interfaces.msg import IntegerRange
from rcl_interfaces.msg import ParameterDescriptor
from rcl_interfaces.msg import SetParametersResult
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.executors import ShutdownException
from rclpy.executors import SingleThreadedExecutor
from rclpy.executors import TimeoutException
from rclpy.guard_condition import GuardCondition
from rclpy.lifecycle import LifecycleNode
from rclpy.lifecycle import LifecyclePublisher
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy
from rclpy.qos import HistoryPolicy
from rclpy.qos import QoSProfile
from rclpy.qos import ReliabilityPolicy
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from std_msgs.msg import Header

from etuner_ros.core.config import Checked
from etuner_ros.core.config import setting
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.errors import EtunerError

Settings = TypeVar('Settings', bound=Checked)

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


SEVERITY = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.STALE,
    DiagnosticStatus.ERROR,
)
LEAST_SHM = 256_000_000  # free bytes of /dev/shm
LONGEST_NAME = 256  # characters of a source, frame_id or label that is received


def reliable(depth: int) -> QoSProfile:
    """Return a reliable, volatile profile of this depth."""
    return QoSProfile(
        depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE
    )


@dataclass(frozen=True)
class ModelSettings(Checked):
    """Which network; the same in `inference`, `tuner` and `model_manager`."""

    architecture: str = setting(
        'efficientnet_lite0',
        'network: efficientnet_lite0 or the name of a torchvision classification model',
    )
    input_size: int = setting(128, 'side of the square input, in px', 32, 1024)
    weights: str = setting(
        '',
        "'' = pretrained on ImageNet; a .safetensors file of base weights (`etuner deploy`); or "
        'a state-dict file of a torchvision model',
    )


def declare(
    node: Node,
    prefix: str,
    kind: type[Settings],
    apply: Callable[[Settings], None] | None = None,
    live: Collection[str] | None = None,
) -> Settings:
    """
    Declare a parameter for each field of a settings dataclass and read them.

    An integer given for a float is taken. Values are checked by the parameter's range and again by
    the dataclass.

    :param prefix: put before each name, as `prefix.field`; empty for none
    :param apply: takes new settings when a parameter is set at run time; without it all are
        read-only
    :param live: fields that may be set at run time; None = all
    :raises ConfigError: when a value does not fit
    """
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        name = f'{prefix}.{field.name}' if prefix else field.name
        low, high = field.metadata.get('min'), field.metadata.get('max')
        descriptor = ParameterDescriptor(
            description=field.metadata['help'],
            read_only=apply is None or (live is not None and field.name not in live),
            dynamic_typing=isinstance(field.default, float),
        )
        if (
            isinstance(field.default, int)
            and not isinstance(field.default, bool)
            and low is not None
        ):
            descriptor.integer_range = [
                IntegerRange(
                    from_value=int(low), to_value=int(high if high is not None else 2**62)
                )
            ]
        elif isinstance(field.default, float) and low is not None:
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(low), to_value=float(high if high is not None else 1e300)
                )
            ]
        if not node.has_parameter(name):
            try:
                node.declare_parameter(name, field.default, descriptor)
            except rclpy.exceptions.ParameterException as error:
                raise ConfigError(
                    f'parameter {name} is refused: {error} ({descriptor.description})'
                ) from error
        values[field.name] = _typed(name, field.default, node.get_parameter(name).value)
    settings = kind(**values)
    if apply is not None:
        if not hasattr(node, '_follower'):
            node._follower = _Follower(node)  # type: ignore[attr-defined]
        node._follower.followed[prefix] = _Followed(settings, apply)  # type: ignore[attr-defined]
    return settings


@dataclass
class _Followed:
    """Settings whose parameters may be set at run time."""

    settings: Any
    apply: Callable[[Any], None]


class _Follower:
    """
    The one callback of a node for parameters that are set at run time.

    All settings are checked before any is applied: of a call that sets several parameters at once,
    none counts when one does not fit.
    """

    def __init__(self, node: Node) -> None:
        self.followed: dict[str, _Followed] = {}  # by prefix
        node.add_on_set_parameters_callback(self._on_set)

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        new: dict[str, Any] = {}
        try:
            for parameter in parameters:
                prefix, _, name = parameter.name.rpartition('.')
                followed = self.followed.get(prefix)
                if followed is not None and hasattr(followed.settings, name):
                    settings = new.get(prefix, followed.settings)
                    value = _typed(parameter.name, getattr(settings, name), parameter.value)
                    new[prefix] = replace(settings, **{name: value})
            for prefix, settings in new.items():
                self.followed[prefix].apply(settings)
                self.followed[prefix].settings = settings
        except EtunerError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def _typed(name: str, like: Any, value: Any) -> Any:
    """
    Return a value in the type of another one; an integer is taken for a float.

    :raises ConfigError: when it is of another type
    """
    if isinstance(like, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(like):
        raise ConfigError(f'parameter {name} must be a {type(like).__name__}, got {value!r}')
    return value


def stamp_ns(header: Header) -> int:
    """Return the stamp of a header in ns."""
    return int(header.stamp.sec) * 10**9 + int(header.stamp.nanosec)


def to_bytes(data: bytes | array[int]) -> array[int]:
    """Return bytes in the one form that rclpy copies fast."""
    return array('B', bytes(data))


def short(text: str, length: int = 100) -> str:
    """Return text that is safe to log and to echo."""
    clean = ''.join(c if c.isprintable() else '?' for c in text[: length + 1])
    return clean if len(text) <= length else clean[: length - 3] + '...'


def guarded(callback: Callable[..., Any]) -> Callable[..., Any]:
    """
    Keep a node alive when a callback of it raises: log once per 5 s, count in diagnostics, go on.

    rclpy's executor lets a callback's exception end `spin`. Service callbacks must not use this:
    they have to answer.
    """

    @functools.wraps(callback)
    def call(self: Any, *arguments: Any) -> Any:
        try:
            return callback(self, *arguments)
        except EtunerError as error:
            self.health.problem(str(error))
            self.get_logger().warning(short(str(error), 300), throttle_duration_sec=5.0)
        except (
            Exception
        ) as error:  # any bug in handling one message must not end the node; it is logged whole
            self.health.problem(f'{type(error).__name__}: {error}')
            self.get_logger().error(
                f'{callback.__name__} failed:\n{traceback.format_exc()}', throttle_duration_sec=5.0
            )
        return None

    return call


def transition(
    callback: Callable[..., TransitionCallbackReturn],
) -> Callable[..., TransitionCallbackReturn]:
    """
    Make errors of a lifecycle transition heard.

    rclpy turns an exception in a transition into ERROR without a word. A known error means
    FAILURE, which leaves the node in the state it came from; anything else is logged with its
    traceback and means ERROR, after which `on_error` cleans up and the node is unconfigured.
    """

    @functools.wraps(callback)
    def call(self: Any, *arguments: Any) -> TransitionCallbackReturn:
        try:
            return callback(self, *arguments)
        except EtunerError as error:
            self.health.problem(str(error))
            self.get_logger().error(f'{callback.__name__}: {error}')
            self.release()
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # a bug: rclpy would swallow it
            self.health.problem(f'{type(error).__name__}: {error}')
            self.get_logger().error(f'{callback.__name__} failed:\n{traceback.format_exc()}')
            return TransitionCallbackReturn.ERROR

    return call


class Concern:
    """
    A state that is not well: said once when it begins, with the likely cause, and once when it is
    over.

    :param level: of the node's diagnostic meanwhile
    :param look: returns what is not well, nothing when all is
    :param over: what is said at its end
    """

    def __init__(self, logger: Any, level: bytes, look: Callable[[], str], over: str) -> None:
        self.level = level
        self._logger, self._look, self._over = logger, look, over
        self._said = False

    def check(self) -> str:
        """Return what is not well now; nothing when all is."""
        text = self._look()
        if text and not self._said:
            self._logger.warning(text)
        elif self._said and not text:
            self._logger.info(self._over)
        self._said = bool(text)
        return text


class Silence(Concern):
    """Something that should come again and again does not."""

    def __init__(
        self,
        logger: Any,
        what: str,
        limit_s: float,
        cause: Callable[[], str],
        when: Callable[[], bool],
    ) -> None:
        super().__init__(logger, DiagnosticStatus.STALE, self._silent, f'{what} is back')
        self._what, self.limit_s = what, limit_s
        self._cause, self._when = cause, when
        self._last = time.monotonic()

    def heard(self) -> None:
        """It came."""
        self._last = time.monotonic()

    def _silent(self) -> str:
        now = time.monotonic()
        if not self._when():
            self._last = now
        since = now - self._last
        if 0 < self.limit_s < since:
            return f'no {self._what} for {since:.0f} s: {self._cause()}'
        return ''


class Health:
    """
    Publishes one DiagnosticStatus per second on /diagnostics.

    :param values: returns the key-value pairs of the node
    """

    def __init__(self, node: Node, values: Callable[[], Mapping[str, object]]) -> None:
        self._node, self._values = node, values
        self._problem, self._problems, self._reported = '', 0, 0
        self._concerns: list[Concern] = []
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', reliable(10))
        node.create_timer(1.0, self._publish)

    def expect(
        self,
        what: str,
        limit_s: float,
        cause: Callable[[], str],
        when: Callable[[], bool] = lambda: True,
    ) -> Silence:
        """
        Watch something that should come again and again.

        :param cause: returns the likely reason, when it does not come
        :param when: returns whether it is expected at all, just now
        """
        silence = Silence(self._node.get_logger(), what, limit_s, cause, when)
        self._concerns.append(silence)
        return silence

    def watch(self, look: Callable[[], str], over: str, level: bytes) -> None:
        """Watch a state, see `Concern`."""
        self._concerns.append(Concern(self._node.get_logger(), level, look, over))

    def problem(self, text: str) -> None:
        """Note a problem: the status is WARN for the next second, the text stays."""
        self._problem, self._problems = short(text, 200), self._problems + 1

    def _publish(self) -> None:
        fresh = self._problems > self._reported
        self._reported = self._problems
        values = {**self._values(), 'problems': self._problems, 'last problem': self._problem}
        found = [(c.level, text) for c in self._concerns if (text := c.check())]
        if fresh:
            found.append((DiagnosticStatus.WARN, self._problem))
        level = max((level for level, _ in found), key=SEVERITY.index, default=SEVERITY[0])
        text = '; '.join(text for its, text in found if its == level) or 'ok'
        status = DiagnosticStatus(
            level=level,
            name=f'{self._node.get_fully_qualified_name()}: etuner',
            message=text,
            hardware_id='etuner_ros',
            values=[
                KeyValue(key=k, value=f'{v:.3f}' if isinstance(v, float) else str(v))
                for k, v in values.items()
            ],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(message)


class AutostartNode(LifecycleNode):
    """
    A lifecycle node that brings itself up when its parameter `autostart` says so.

    It tries again while configuring fails, so that a node which waits for something comes up when
    that is there; once it was active, whoever manages it is in charge.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.active = False
        self.entities: list[Any] = []  # made by `on_configure`, destroyed by `release`
        self.health = Health(self, self.diagnostics)
        text = 'configure and activate at start; false waits for an external lifecycle manager'
        descriptor = ParameterDescriptor(description=text, read_only=True)
        wanted = self.declare_parameter('autostart', False, descriptor).value
        self._autostart = self.create_timer(0.2, self._bring_up) if wanted else None

    def diagnostics(self) -> Mapping[str, object]:
        """Return what /diagnostics says about this node."""
        return {}

    def release(self) -> None:
        """Undo what `on_configure` did, however far it came."""

    def destroy_entities(self) -> None:
        """Destroy the publishers, subscriptions, services and guards noted in `entities`."""
        destroyers: dict[type, Callable[[Any], Any]] = {
            LifecyclePublisher: self.destroy_lifecycle_publisher,
            Publisher: self.destroy_publisher,
            Subscription: self.destroy_subscription,
            Service: self.destroy_service,
            GuardCondition: self.destroy_guard_condition,
            Timer: self.destroy_timer,
        }
        for entity in self.entities:
            destroyers[type(entity)](entity)
        self.entities.clear()

    @property
    def may_configure(self) -> bool:
        """Whether configuring makes sense yet."""
        return True

    @guarded
    def _bring_up(self) -> None:
        assert self._autostart is not None
        if not self.may_configure:
            return
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self._autostart.cancel()
            if self.trigger_activate() != TransitionCallbackReturn.SUCCESS:
                self.get_logger().error('activating failed; see above')
            return
        self._autostart.timer_period_ns = 5 * 10**9

    @transition
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start to work."""
        self.active = True
        return super().on_activate(state)

    @transition
    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop working; what is loaded stays loaded."""
        self.active = False
        return super().on_deactivate(state)

    @transition
    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Let go of everything that configuring made."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Let go of everything."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Let go of everything; the node can be configured again."""
        self.release()
        return TransitionCallbackReturn.SUCCESS


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
