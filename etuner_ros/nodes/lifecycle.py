# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lifecycle nodes that bring themselves up, and transitions that fail in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
import contextlib
import functools
import time
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.guard_condition import GuardCondition
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from etuner_ros.core.errors import EtunerError
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.timers import steady_timer

TICK_S = 0.2
RETRY_S = 5.0
HINT_S = 5.0  # after which a node that waits for a lifecycle manager says so
KNOWN_ERRORS = (EtunerError, OSError)  # what may happen to a robot; all others are bugs

SUCCESS = TransitionCallbackReturn.SUCCESS
FAILURE = TransitionCallbackReturn.FAILURE
ERROR = TransitionCallbackReturn.ERROR


def transition(
    callback: Callable[..., TransitionCallbackReturn],
) -> Callable[..., TransitionCallbackReturn]:
    """
    Have an `AutostartNode` look after what a transition raises.

    rclpy turns it into ERROR without a word, and leaves the node half way.
    """

    @functools.wraps(callback)
    def call(self: AutostartNode, *arguments: Any) -> TransitionCallbackReturn:
        return self._run(callback, *arguments)

    return call


class Autostart:
    """
    When a lifecycle node brings itself up: at once, and again some time after it failed, until it
    was active or somebody else took over.

    :param wanted: False leaves all to somebody else
    """

    def __init__(self, wanted: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.over = not wanted
        self.touched = False  # whether anybody made a transition yet
        self.why = ''  # the last try failed
        self._clock = clock
        self._next = 0.0
        self._trying = False

    def due(self) -> bool:
        """Return whether to try now."""
        return not self.over and self._clock() >= self._next

    @contextlib.contextmanager
    def trying(self) -> Iterator[None]:
        """Transitions inside are the node's own; the next try is due some time later."""
        self._trying, self._next = True, self._clock() + RETRY_S
        try:
            yield
        finally:
            self._trying = False

    def made(self) -> bool:
        """Note a transition; return whether somebody else has taken over by it."""
        self.touched = True
        if self._trying or self.over:
            return False
        self.end()
        return True

    def failed(self, why: str) -> bool:
        """Note why a transition failed; return whether that is worth saying."""
        if not self._trying:
            return True
        new, self.why = why != self.why, why
        return new

    def end(self) -> None:
        """Leave it to others from now on."""
        self.over, self.why = True, ''


class AutostartNode(LifecycleNode):
    """
    A lifecycle node that brings itself up when its parameter `autostart` says so.

    It tries again as long as that fails, so that a node which waits for something comes up when
    that is there. Once it was active, or when somebody else makes a transition, whoever manages it
    is in charge.

    A transition that fails leaves the node whole. Configuring: it is unconfigured and holds
    nothing. Activating: it is inactive and as configuring left it; after a bug it is unconfigured.
    Deactivating, cleaning up: nobody knows what still works, so it lets go of everything and is
    unconfigured. Shutting down: it has let go of everything.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.active = False
        self.entities: list[Any] = []  # made by `on_configure`, destroyed by `release`
        self._configured = False
        self._in_transition = False
        self.health = Health(self, self.diagnostics)
        text = 'configure and activate at start; false waits for an external lifecycle manager'
        descriptor = ParameterDescriptor(description=text, read_only=True)
        wanted = self.declare_parameter('autostart', False, descriptor).value
        self._autostart = Autostart(wanted)
        over = 'came up, or somebody else took over'
        self.health.watch(self._why_down, over, DiagnosticStatus.ERROR)
        if wanted:
            self._waiting = steady_timer(self, TICK_S, self._bring_up)
        else:
            self._waiting = steady_timer(self, HINT_S, self._hint)

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
        while self.entities:
            entity = self.entities.pop()
            destroyers[type(entity)](entity)

    # Bringing itself up

    @property
    def may_configure(self) -> bool:
        """Whether configuring makes sense yet."""
        return True

    @guarded
    def _bring_up(self) -> None:
        if self._autostart.over:
            self._waiting.cancel()
        elif self._autostart.due() and (self._configured or self.may_configure):
            with self._autostart.trying():
                up = self._configured or self.trigger_configure() == SUCCESS
                if up and self.trigger_activate() == SUCCESS:
                    self._autostart.end()

    def _why_down(self) -> str:
        why = self._autostart.why
        return f'not up yet, tried again every {RETRY_S:.0f} s: {why}' if why else ''

    @guarded
    def _hint(self) -> None:
        self._waiting.cancel()
        if not self._autostart.touched:
            self.get_logger().warning(
                f'autostart is false: waiting for a lifecycle manager; by hand: `ros2 lifecycle '
                f'set {self.get_fully_qualified_name()} configure`, then activate; or start with '
                f'-p autostart:=true'
            )

    # Transitions

    def _run(
        self, callback: Callable[..., TransitionCallbackReturn], *arguments: Any
    ) -> TransitionCallbackReturn:
        """Run a transition's callback, and keep the node whole when it fails."""
        if self._in_transition:  # called by a subclass's, which hears what it raises
            return callback(self, *arguments)
        if self._autostart.made():
            self.get_logger().info('autostart is over: somebody else manages this node')
        name = callback.__name__
        self._in_transition = True
        try:
            result = callback(self, *arguments)
        except KNOWN_ERRORS as error:
            result = FAILURE
            self._failed(name, str(error), f'{name}: {error}')
        except Exception as error:  # a bug: rclpy would swallow it
            result = ERROR
            self._failed(
                name,
                f'{type(error).__name__}: {error}',
                f'{name} failed:\n{traceback.format_exc()}',
            )
        finally:
            self._in_transition = False
        if result == SUCCESS:
            self._configured = self._configured or name == 'on_configure'
        elif name == 'on_shutdown':
            self._let_go()
            return FAILURE  # ERROR would make it unconfigured
        elif name in ('on_deactivate', 'on_cleanup'):
            return ERROR  # and `on_error` lets go
        elif result == FAILURE and name == 'on_configure':
            self._let_go()
        elif result == FAILURE and name == 'on_activate':
            self.active = False
            super().on_deactivate(*arguments)  # publishers
        return result

    def _failed(self, name: str, why: str, text: str) -> None:
        self.health.problem(why)
        if self._autostart.failed(f'{name}: {why}'):
            self.get_logger().error(text)

    def _let_go(self) -> None:
        """Release everything; what goes wrong meanwhile must not keep the node from it."""
        self.active = self._configured = False
        for step in (self.release, self.destroy_entities):
            try:
                step()
            except Exception:
                self.get_logger().error(f'{step.__name__} failed:\n{traceback.format_exc()}')

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
        self.active = self._configured = False
        self.release()
        return SUCCESS

    @transition
    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Let go of everything."""
        self.active = self._configured = False
        self.release()
        return SUCCESS

    @transition
    def on_error(self, state: Any) -> TransitionCallbackReturn:
        """Let go of everything; the node can be configured again."""
        self._let_go()
        return SUCCESS
