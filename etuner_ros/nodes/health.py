# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a node says about itself on /diagnostics, and callbacks that can not end it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
import functools
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from etuner_ros.core.errors import EtunerError
from etuner_ros.nodes.messages import PROTOCOL, short
from etuner_ros.nodes.qos import reliable
from etuner_ros.nodes.timers import steady_timer

SEVERITY = (
    DiagnosticStatus.OK,
    DiagnosticStatus.WARN,
    DiagnosticStatus.STALE,
    DiagnosticStatus.ERROR,
)

LAYOUT_S = 5.0  # between two looks at who publishes what
PEER_S = 10.0  # without a message of another protocol, after which it is over


def guarded(callback: Callable[..., Any]) -> Callable[..., Any]:
    """
    Keep a node alive when a callback of it raises: log once per 5 s, count in diagnostics, go on.

    rclpy's executor lets a callback's exception end `spin`. Service callbacks must not use this:
    they have to answer. A message of another release of this package is not let through.
    """

    @functools.wraps(callback)
    def call(self: Any, *arguments: Any) -> Any:
        try:
            if arguments and self.health.refuses(arguments[0]):
                return None
            return callback(self, *arguments)
        except EtunerError as error:
            self.health.problem(str(error))
            self.get_logger().warning(short(str(error), 300), throttle_duration_sec=5.0)
        except (
            Exception
        ) as error:  # any bug in handling one message must not end the node; it is logged whole
            if self.health.ending:
                return None  # it met the end of everything
            self.health.problem(f'{type(error).__name__}: {error}')
            self.get_logger().error(
                f'{callback.__name__} failed:\n{traceback.format_exc()}', throttle_duration_sec=5.0
            )
        return None

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


class OtherProtocol(Concern):
    """
    Messages of one kind come from another release of this package.

    Who sent a message is not known to its receiver; who publishes its topic is.
    """

    def __init__(self, node: Node, kind: type) -> None:
        over = f'no {kind.__name__} of another protocol comes any more'
        super().__init__(node.get_logger(), DiagnosticStatus.WARN, self._why, over)
        self._node, self._kind = node, kind
        self._protocol, self._last = 0, 0.0

    def heard(self, protocol: int) -> None:
        """One came."""
        self._protocol, self._last = protocol, time.monotonic()

    def _why(self) -> str:
        if time.monotonic() - self._last > PEER_S:
            return ''
        topics = {s.topic_name for s in self._node.subscriptions if s.msg_type is self._kind}
        infos = [i for t in topics for i in self._node.get_publishers_info_by_topic(t)]
        return (
            f'{_names(infos)} on {" or ".join(sorted(topics))} speaks protocol '
            f'{self._protocol} of etuner_ros messages, this node speaks {PROTOCOL}: install the '
            'same version on both computers'
        )


class OtherLayout(Concern):
    """
    Somebody publishes messages of this package that have other fields than here.

    They are lost before any node sees them: the middleware can not read them. Where it tells the
    hash of a type (Iron and later) that can be seen.
    """

    def __init__(self, node: Node) -> None:
        over = 'all publishers have messages of this release'
        super().__init__(node.get_logger(), DiagnosticStatus.WARN, self._why, over)
        self._node, self._next, self._found = node, 0.0, ''

    def _why(self) -> str:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LAYOUT_S
            self._found = '; '.join(filter(None, map(self._look_at, self._node.subscriptions)))
        return self._found

    def _look_at(self, subscription: Any) -> str:
        node, topic = self._node, subscription.topic_name
        if not subscription.msg_type.__module__.startswith('etuner_ros.'):
            return ''
        ours = {
            _layout(info)
            for info in node.get_subscriptions_info_by_topic(topic)
            if (info.node_name, info.node_namespace) == (node.get_name(), node.get_namespace())
        } - {''}
        infos = node.get_publishers_info_by_topic(topic)
        strangers = [i for i in infos if ours and _layout(i) not in ('', *ours)]
        if not strangers:
            return ''
        return (
            f'{_names(strangers)} on {topic} has other fields in {subscription.msg_type.__name__} '
            'messages than this node, which can not read them: install the same version on both '
            'computers'
        )


def _layout(info: Any) -> str:
    """Return what tells the fields of a publisher's or subscription's messages; '' = unknown."""
    found = str(getattr(info, 'topic_type_hash', 'INVALID'))
    return '' if found == 'INVALID' else found


def _names(infos: list[Any]) -> str:
    """Return the nodes of publishers, in words."""
    names = sorted({f'{i.node_namespace.rstrip("/")}/{i.node_name}' for i in infos})
    return ' and '.join(names) or 'a node that is gone'


class Health:
    """
    Publishes one DiagnosticStatus per second on /diagnostics.

    :param values: returns the key-value pairs of the node
    """

    def __init__(self, node: Node, values: Callable[[], Mapping[str, object]]) -> None:
        self._node, self._values = node, values
        self._problem, self._problems, self._reported = '', 0, 0
        self._concerns: list[Concern] = [OtherLayout(node)]
        self._others: dict[type, OtherProtocol] = {}  # by kind of message
        self._publisher = node.create_publisher(DiagnosticArray, '/diagnostics', reliable(10))
        steady_timer(node, 1.0, self._publish)

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

    def watch(self, look: Callable[[], str], over: str, level: bytes) -> Concern:
        """Watch a state, see `Concern`."""
        concern = Concern(self._node.get_logger(), level, look, over)
        self._concerns.append(concern)
        return concern

    def forget(self, concerns: Collection[Concern]) -> None:
        """Watch no longer what is of something that is gone."""
        self._concerns = [c for c in self._concerns if c not in concerns]

    def refuses(self, message: object) -> bool:
        """Return whether a message is of another release; say so, in the log and diagnostics."""
        protocol, kind = getattr(message, 'protocol', PROTOCOL), type(message)
        if protocol == PROTOCOL:
            return False
        if kind not in self._others:
            self._others[kind] = OtherProtocol(self._node, kind)
            self._concerns.append(self._others[kind])
        self._others[kind].heard(protocol)
        return True

    @property
    def ending(self) -> bool:
        """Whether ROS is shut down; another thread may still be in a callback."""
        return not self._node.context.ok()

    def problem(self, text: str) -> None:
        """Note a problem: the status is WARN for the next second, the text stays."""
        self._problem, self._problems = short(text, 200), self._problems + 1

    def _publish(self) -> None:
        fresh = self._problems > self._reported
        self._reported = self._problems
        found = [(c.level, text) for c in self._concerns if (text := c.check())]
        try:
            values = self._values()
        except Exception as error:  # of a disk that fails, say: a node that runs is not silent
            values = {}
            found.append((DiagnosticStatus.ERROR, short(str(error) or type(error).__name__, 200)))
        values = {**values, 'problems': self._problems, 'last problem': self._problem}
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
