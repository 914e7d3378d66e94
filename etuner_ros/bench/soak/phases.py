# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The phases of a soak, in the order in which they run: short ones first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from etuner_ros.bench.soak.cameras import cameras
from etuner_ros.bench.soak.disk import disk
from etuner_ros.bench.soak.kills import kills, power
from etuner_ros.bench.soak.memory import memory
from etuner_ros.bench.soak.protocol import protocol
from etuner_ros.bench.soak.radio import radio
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.bench.soak.swaps import swaps
from etuner_ros.bench.soak.transitions import transitions
from etuner_ros.core.errors import ConfigError

PHASES: dict[str, Callable[[Stage, Plan], dict[str, Any]]] = {
    'transitions': transitions,
    'protocol': protocol,
    'disk': disk,
    'cameras': cameras,
    'radio': radio,
    'swaps': swaps,
    'power': power,
    'memory': memory,
    'kills': kills,
}
FAULTS = ('protocol', 'disk', 'cameras', 'radio', 'power')
NEED_NAMESPACES = ('disk', 'radio')  # to mount, and to part networks


def chosen(names: str) -> Sequence[str]:
    """
    Return the phases that are meant, in order.

    :param names: separated by commas; `faults` = all of FAULTS; empty = all phases
    :raises ConfigError: when there is no such phase
    """
    asked = {name.strip() for name in names.split(',') if name.strip()}
    if 'faults' in asked:
        asked = (asked - {'faults'}) | set(FAULTS)
    if unknown := asked - PHASES.keys():
        known = ', '.join(('faults', *PHASES))
        raise ConfigError(f'no phase {", ".join(sorted(unknown))}; there are {known}')
    return [name for name in PHASES if name in asked or not asked]
