# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Lifecycle nodes that bring themselves up, and transitions whose errors are heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import functools
import traceback
from typing import Any

from rcl_interfaces.msg import (
    ParameterDescriptor,
)
from rclpy.guard_condition import GuardCondition
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from etuner_ros.core.errors import EtunerError
from etuner_ros.nodes.health import guarded, Health


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
