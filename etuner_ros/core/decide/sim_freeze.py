# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
SimFreeze: decide which blocks still need training (arXiv 2401.16694, "intra-tuning").

The similarity of a block is the linear CKA between its activations now and those of the reference
model (the one that was deployed) on a fixed probe batch of the current scenario. A block whose
similarity no longer moves is frozen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from etuner_ros.core.config import SimFreezeConfig


class SimFreeze:
    """
    Turns the history of each block's CKA into the set of frozen blocks.

    A block is stable when its CKA moved by at most `threshold` (paper: 1 %), and by at most
    `relative_move` of the largest move that any block made in this scenario, in `patience` probes
    in a row. (At a small learning rate every block moves by less than 1 %, the ones that learn
    included; only the comparison tells them apart.) Stable blocks among the first
    `max_frozen_share` of the network freeze once the scenario has seen `min_iterations`; before
    the first accepted version that share is `first_frozen_share`. On a scenario change a frozen
    block thaws when its CKA on data of the new scenario moved by more than `threshold`; the others
    stay. Pinned blocks are left as they are.
    """

    def __init__(self, units: Iterable[str], config: SimFreezeConfig | None = None) -> None:
        self.config = config or SimFreezeConfig()
        self.units = list(units)
        count = int(self.config.start_frozen_share * len(self.units) + 1e-9)
        self._start = set(self.units[:count] if self.config.enabled else ())
        self.frozen = set(self._start)
        self.pinned: set[str] = set()
        self.cka: dict[str, float] = {}
        self.accepted = False  # a version that was trained here has gone live
        self._stable: dict[str, int] = {}
        self._largest = 0.0  # move in this scenario
        self._iterations = 0
        self._changed = False

    @property
    def may_freeze(self) -> list[str]:
        """Blocks that may be frozen at all, from the input on."""
        share = self.config.max_frozen_share
        if not self.accepted:
            share = min(share, self.config.first_frozen_share)
        return self.units[: int(share * len(self.units) + 1e-9)]

    def set_layers(self, frozen: Iterable[str], pinned: Iterable[str]) -> None:
        """Take over the frozen state that the operator sees, and which blocks are pinned to it."""
        self.pinned = set(pinned) & set(self.units)
        self.frozen = set(frozen) & set(self.units)
        if not self.accepted:  # nobody has been told yet what is frozen from the start
            self.frozen |= self._start - self.pinned

    def on_scenario_change(self) -> None:
        """Start anew; the next probe decides which frozen blocks thaw."""
        self._changed, self._iterations, self._largest = True, 0, 0.0
        self._stable.clear()

    def start_over(self) -> None:
        """Begin as with the deployed model; pinned blocks stay as they are."""
        self.frozen = (self._start - self.pinned) | (self.frozen & self.pinned)
        self.cka, self._stable = {}, {}
        self._iterations, self._largest = 0, 0.0
        self.accepted = self._changed = False

    def on_probe(self, cka: Mapping[str, float], iterations: int) -> set[str]:
        """
        Take the CKA of every block and decide.

        :param cka: similarity to the reference, by block name
        :param iterations: training iterations since the last probe
        :return: the frozen blocks
        """
        self._iterations += iterations
        moved = {
            name: abs(value - self.cka[name]) for name, value in cka.items() if name in self.cka
        }
        if self._changed:
            far = {name for name, move in moved.items() if move > self.config.threshold}
            self.frozen -= far - self.pinned
        elif iterations > 0:
            self._largest = max([self._largest, *moved.values()])
            limit = min(self.config.threshold, self.config.relative_move * self._largest)
            for name, move in moved.items():
                self._stable[name] = self._stable.get(name, 0) + 1 if move <= limit else 0
        self.cka = dict(cka)
        if self._changed:
            self._changed = False
        elif self.config.enabled and self._iterations >= self.config.min_iterations:
            ready = [
                name
                for name in self.may_freeze
                if name not in self.pinned | self.frozen
                and self._stable.get(name, 0) >= self.config.patience
            ]
            self.frozen.update(ready[: self.config.max_new])
        return set(self.frozen)

    def state_dict(self) -> dict[str, Any]:
        """Return all state as plain values."""
        return {
            'frozen': sorted(self.frozen),
            'pinned': sorted(self.pinned),
            'cka': dict(self.cka),
            'stable': dict(self._stable),
            'largest': self._largest,
            'accepted': self.accepted,
            'iterations': self._iterations,
            'changed': self._changed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict` of another instance."""
        self.frozen, self.pinned = set(state['frozen']), set(state['pinned'])
        self.cka, self._stable = dict(state['cka']), dict(state['stable'])
        self._iterations, self._changed = int(state['iterations']), bool(state['changed'])
        self._largest, self.accepted = float(state['largest']), bool(state['accepted'])
