# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`etuner healthy`: is inference alive, in one exit code, for what starts programs anew.

It listens to what inference says of itself on /diagnostics once a second. What ends the wait is a
message that was published while this command listened and is no error: a process that hangs says
nothing. A camera that sends nothing (STALE) is no error here: to start inference anew would not
bring it back.
"""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from etuner_ros.cli.visiting import visitor
from etuner_ros.core.errors import EtunerError
from etuner_ros.nodes.qos import reliable
from etuner_ros.shared.answers import answer

LEVELS = {
    DiagnosticStatus.OK: 'ok',
    DiagnosticStatus.WARN: 'warning',
    DiagnosticStatus.STALE: 'stale',
    DiagnosticStatus.ERROR: 'error',
}


def full_name(namespace: str, node: str) -> str:
    """
    Return the name of a node as diagnostics have it.

    >>> full_name('', 'inference'), full_name('arm/front/', 'inference')
    ('/inference', '/arm/front/inference')
    """
    return '/'.join(['', *filter(None, namespace.split('/')), node])


def healthy(namespace: str, node: str, timeout_s: float, as_json: bool) -> int:
    """
    Run `etuner healthy`.

    :raises EtunerError: when the node says nothing in that time, or nothing but errors
    """
    wanted = full_name(namespace, node)
    heard: list[DiagnosticStatus] = []

    def on_diagnostics(message: DiagnosticArray) -> None:
        heard.extend(s for s in message.status if s.name == f'{wanted}: etuner')

    def is_well() -> bool:
        return bool(heard) and heard[-1].level != DiagnosticStatus.ERROR

    with visitor() as (visiting, executor):
        visiting.create_subscription(DiagnosticArray, '/diagnostics', on_diagnostics, reliable(10))
        end = time.monotonic() + timeout_s
        while not is_well() and (left := end - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
    if not heard:
        raise EtunerError(f'{wanted} said nothing on /diagnostics within {timeout_s:g} s')
    if not is_well():
        raise EtunerError(f'{wanted} says an error: {heard[-1].message}')
    level = LEVELS.get(heard[-1].level, 'unknown')
    answer(
        as_json,
        f'{wanted} is alive, {level}: {heard[-1].message}',
        {'node': wanted, 'level': level, 'message': heard[-1].message},
    )
    return 0
