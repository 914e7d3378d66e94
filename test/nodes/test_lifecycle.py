# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes that bring themselves up, let go of it, and stay whole when a transition fails."""

from __future__ import annotations

import errno
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from std_msgs.msg import String

from etuner_ros.core.errors import ConfigError
from etuner_ros.nodes import lifecycle
from etuner_ros.nodes.health import Health
from etuner_ros.nodes.lifecycle import Autostart, AutostartNode, transition

SUCCESS = TransitionCallbackReturn.SUCCESS
KNOWN = ConfigError('a known error')
FULL = OSError(errno.ENOSPC, 'No space left on device')
BUG = ValueError('a bug')
LATE = ('after', 'before')


class Ticker(AutostartNode):
    """Publishes 'tick' while it is active; `fails` says which transitions raise what, and when."""

    def __init__(self, **options: Any) -> None:
        self.fails: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.loaded = False
        super().__init__('ticker', **options)

    def _step(self, name: str) -> None:
        self.calls.append(name)
        if name in self.fails:
            raise self.fails[name]

    @transition
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        self.loaded = True
        self.ticks = self.create_lifecycle_publisher(String, 'ticks', 10)
        timer = self.create_timer(0.02, lambda: self.ticks.publish(String(data='tick')))
        self.entities += [self.ticks, timer]
        self._step('configure')
        return SUCCESS

    @transition
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        result = super().on_activate(state)
        self._step('activate')
        return result

    @transition
    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        result = super().on_deactivate(state)
        self._step('deactivate')
        return result

    def release(self) -> None:
        self.loaded = False
        self._step('release')
        self.destroy_entities()


class Desk:
    """A ticker and what somebody sees of it and does to it from outside."""

    def __init__(self, ros: Any, autostart: bool = False, **parameters: Any) -> None:
        self.ros = ros
        self.fails: dict[str, Exception] = {}

        def make(**options: Any) -> Ticker:
            node = Ticker(**options)
            node.fails = self.fails
            return node

        self.make = lambda: ros.add(make, autostart=autostart, **parameters)
        self.ticks = ros.listen(String, 'ticks')
        self.statuses = ros.listen(DiagnosticArray, '/diagnostics')

    def start(self) -> Ticker:
        self.node = self.make()
        self.idle = self.entities()
        return self.node

    def state(self) -> str:
        answer = self.ros.call(GetState, f'{self.ros.namespace}/ticker/get_state')
        return answer.current_state.label

    def change(self, number: int) -> bool:
        name = f'{self.ros.namespace}/ticker/change_state'
        return self.ros.call(ChangeState, name, transition=Transition(id=number)).success

    def entities(self) -> list[int]:
        node = self.node
        return [len(list(x)) for x in (node.publishers, node.subscriptions, node.timers)]

    def ticking(self) -> bool:
        count = len(self.ticks)
        self.ros.until(lambda: len(self.ticks) > count, 'a tick')
        return True

    def diagnostic(self) -> DiagnosticStatus:
        self.statuses.clear()

        def newest() -> list[DiagnosticStatus]:
            found = [s for m in self.statuses for s in m.status]
            return [s for s in found if s.name.endswith('ticker: etuner')]

        return self.ros.until(newest, 'a diagnostic')[-1]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait."""
    monkeypatch.setattr(lifecycle, 'TICK_S', 0.01)
    monkeypatch.setattr(lifecycle, 'RETRY_S', 0.05)
    monkeypatch.setattr(lifecycle, 'HINT_S', 0.05)


# When a node brings itself up


class Watch:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def tried(autostart: Autostart, why: str) -> bool:
    """Have a try fail; return whether its reason is said."""
    with autostart.trying():
        assert not autostart.made()
        return autostart.failed(why)


def test_autostart_tries_at_once_and_again_five_seconds_after_a_failure():
    clock = Watch()
    autostart = Autostart(True, clock)
    assert autostart.due()
    tried(autostart, 'no weights')
    assert not autostart.due()
    clock.now += 5.0
    assert autostart.due()
    assert not Autostart(False, clock).due()


def test_the_same_reason_is_said_once_and_another_one_again():
    autostart = Autostart(True, Watch())
    assert [tried(autostart, why) for why in 'aabba'] == [True, False, True, False, True]


def test_a_transition_of_somebody_else_ends_autostart():
    clock = Watch()
    autostart = Autostart(True, clock)
    tried(autostart, 'no weights')
    assert autostart.made(), 'taken over'
    assert not autostart.made(), 'which is said once'
    clock.now += 60.0
    assert not autostart.due()
    assert not autostart.why
    assert autostart.failed('no weights'), 'who asked hears each time why it failed'


def test_without_a_clock_everything_comes_up_and_diagnostics_come(ros, hasty):
    desk = Desk(ros, autostart=True, use_sim_time=True)
    desk.start()
    ros.until(lambda: desk.node.active, 'the node to come up')
    assert desk.state() == 'active'
    assert desk.diagnostic().level == DiagnosticStatus.OK


def test_a_node_that_was_active_is_left_alone(ros, hasty):
    desk = Desk(ros, autostart=True)
    node = desk.start()
    ros.until(lambda: node.active, 'the node to come up')
    assert desk.change(Transition.TRANSITION_DEACTIVATE)
    assert desk.change(Transition.TRANSITION_CLEANUP)
    desk.diagnostic()
    desk.diagnostic()  # meanwhile it could have come up many times
    assert desk.state() == 'unconfigured'
    assert node.calls.count('configure') == 1


def test_a_node_that_somebody_else_brings_up_is_theirs(ros, hasty):
    desk = Desk(ros, autostart=True)
    desk.fails['configure'] = KNOWN
    node = desk.start()
    ros.until(lambda: node.calls.count('configure') > 1, 'two tries')
    desk.fails.clear()
    ros.executor.remove_node(node)  # so that its own next try can not come first
    node.trigger_configure()
    node.trigger_activate()
    node.trigger_deactivate()
    node.trigger_cleanup()
    ros.executor.add_node(node)
    desk.diagnostic()
    assert desk.state() == 'unconfigured'
    assert desk.diagnostic().level == DiagnosticStatus.OK, 'nobody wants it up'


@pytest.mark.parametrize('error', [KNOWN, FULL, BUG], ids=['known', 'full disk', 'bug'])
@pytest.mark.parametrize('step', ['configure', 'activate'])
def test_what_fails_at_start_is_tried_again_until_it_works(ros, hasty, step, error):
    desk = Desk(ros, autostart=True)
    logs = ros.logs()
    desk.fails[step] = error
    node = desk.start()
    ros.until(lambda: node.calls.count(step) >= 5, 'tries')
    status = desk.diagnostic()
    assert status.level == DiagnosticStatus.ERROR
    assert str(error) in status.message
    said = [m.msg for m in logs if f'on_{step}' in m.msg and m.level >= 40]
    assert len(said) == 1, said
    assert str(error) in said[0]
    desk.fails.clear()
    ros.until(lambda: node.active, 'the node to come up')
    assert desk.state() == 'active'
    assert desk.ticking()
    ros.until(lambda: desk.diagnostic().level == DiagnosticStatus.OK, 'OK')


def test_a_node_that_waits_for_a_manager_says_so_once(ros, hasty):
    desk = Desk(ros)
    logs = ros.logs()
    desk.start()

    def hints() -> list[str]:
        return [m.msg for m in logs if 'autostart is false' in m.msg]

    ros.until(hints, 'the hint')
    desk.diagnostic()
    assert len(hints()) == 1
    assert f'ros2 lifecycle set {ros.namespace}/ticker configure' in hints()[0]


# Transitions that fail

ERRORS = pytest.mark.parametrize('error', [KNOWN, FULL, BUG], ids=['known', 'full disk', 'bug'])


def brought_up(desk: Desk) -> None:
    """Bring the node up from where it is, and see that it works."""
    if desk.state() == 'unconfigured':
        assert desk.change(Transition.TRANSITION_CONFIGURE)
    assert desk.change(Transition.TRANSITION_ACTIVATE)
    assert desk.state() == 'active'
    assert desk.node.active
    assert desk.ticking()


def failing(desk: Desk, step: str, error: Exception, number: int) -> None:
    desk.fails[step] = error
    assert not desk.change(number)
    desk.fails.clear()


def nothing_is_left(desk: Desk) -> None:
    assert desk.state() == 'unconfigured'
    assert not desk.node.active
    assert not desk.node.loaded
    assert desk.entities() == desk.idle


@ERRORS
def test_a_node_that_can_not_be_configured_holds_nothing(ros, error):
    desk = Desk(ros)
    desk.start()
    failing(desk, 'configure', error, Transition.TRANSITION_CONFIGURE)
    nothing_is_left(desk)
    brought_up(desk)


@pytest.mark.parametrize('error', [KNOWN, FULL], ids=['known', 'full disk'])
def test_a_node_that_can_not_be_activated_is_inactive_and_keeps_what_it_loaded(ros, error):
    desk = Desk(ros)
    node = desk.start()
    assert desk.change(Transition.TRANSITION_CONFIGURE)
    failing(desk, 'activate', error, Transition.TRANSITION_ACTIVATE)
    assert desk.state() == 'inactive'
    assert node.loaded
    assert not node.active
    desk.ticks.clear()
    desk.diagnostic()
    assert not desk.ticks, 'inactive nodes publish nothing'
    brought_up(desk)


def test_a_bug_in_activating_lets_go_of_everything(ros):
    desk = Desk(ros)
    desk.start()
    assert desk.change(Transition.TRANSITION_CONFIGURE)
    failing(desk, 'activate', BUG, Transition.TRANSITION_ACTIVATE)
    nothing_is_left(desk)
    brought_up(desk)


@ERRORS
def test_a_node_that_can_not_be_deactivated_lets_go_of_everything(ros, error):
    desk = Desk(ros)
    desk.start()
    brought_up(desk)
    failing(desk, 'deactivate', error, Transition.TRANSITION_DEACTIVATE)
    nothing_is_left(desk)
    brought_up(desk)


@ERRORS
def test_a_node_that_can_not_be_cleaned_up_lets_go_of_everything(ros, error):
    desk = Desk(ros)
    desk.start()
    assert desk.change(Transition.TRANSITION_CONFIGURE)
    failing(desk, 'release', error, Transition.TRANSITION_CLEANUP)
    nothing_is_left(desk)
    brought_up(desk)


@ERRORS
def test_a_node_that_is_shut_down_is_finalized_whatever_fails(ros, error):
    desk = Desk(ros)
    desk.start()
    brought_up(desk)
    failing(desk, 'release', error, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert desk.state() == 'finalized'
    assert not desk.node.active
    assert desk.entities() == desk.idle


def test_housekeeping_is_on_steady_time(ros):
    node = ros.add(lambda **options: Ticker(**options), use_sim_time=True)
    assert isinstance(node.health, Health)
    assert all(t.clock.clock_type.name == 'STEADY_TIME' for t in node.timers)
