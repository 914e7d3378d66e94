# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The budget: how much tuning a robot can afford.

A decision object fed with events; time comes as an argument.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

from etuner_ros.core.config import BudgetConfig
from etuner_ros.core.decide.state import Saved

HOUR_S = 3600.0


class _Allowance:
    """A token bucket that fills evenly and holds one hour's worth."""

    def __init__(self, per_hour: float) -> None:
        self.per_hour = per_hour
        self.left = per_hour
        self._at: float | None = None

    def start(self, at: float) -> None:
        """Fill up from this time on."""
        self._at = at

    def advance(self, now: float) -> None:
        """Fill up for the time since the last call; time that jumps back fills nothing."""
        if self._at is not None and now > self._at:
            self.left = min(self.per_hour, self.left + self.per_hour * (now - self._at) / HOUR_S)
        self._at = now

    @property
    def spent(self) -> float:
        """What was taken and is not filled up yet; nothing where there is no limit."""
        return self.per_hour - self.left if self.per_hour > 0 else 0.0

    def wait(self) -> float:
        """Return the seconds until something is left again."""
        return 0.0 if self.left > 0 else (-self.left / self.per_hour) * HOUR_S


class Budget:
    """
    Says whether a round may start.

    Energy and time are token buckets: a round may start while anything is left, and what it takes
    more is paid back by waiting. Battery and temperature have hysteresis: once they stopped
    tuning, they must recover by a margin.

    >>> budget = Budget(BudgetConfig(seconds_per_hour=60))
    >>> budget.refusal(now=0.0)
    ''
    >>> budget.on_round(now=90.0, seconds=90.0)
    >>> budget.refusal(now=90.0)
    'tuning time is used up for 30 min'
    >>> budget.refusal(now=90.0 + 1801)
    ''
    """

    def __init__(self, config: BudgetConfig | None = None) -> None:
        self.config = config or BudgetConfig()
        self._seconds = _Allowance(self.config.seconds_per_hour)
        self._joules = _Allowance(self.config.joules_per_hour)
        self._battery = self._temperature = math.nan
        self._low = self._hot = False

    def configure(self, config: BudgetConfig) -> None:
        """Take other limits; what was spent, and what is known of the board, counts on."""
        limits = (config.seconds_per_hour, config.joules_per_hour)
        for allowance, per_hour in zip((self._seconds, self._joules), limits):
            allowance.per_hour, allowance.left = per_hour, per_hour - allowance.spent
        self.config = config
        self.on_battery(self._battery)
        self.on_temperature(self._temperature)

    def on_round(self, now: float, seconds: float, joules: float = math.nan) -> None:
        """
        Note what a round took: each one, those that were refused, cancelled or failed as well.

        :param now: time at its end, in s of any monotonic clock
        :param seconds: that it worked, without the wait for its verdict; of one that came to no
            candidate, the time from its start until it was over
        :param joules: above idle; NaN when there is no meter, which leaves the time to decide
        """
        self._advance(now)
        self._seconds.left -= max(seconds, 0.0)
        if joules > 0:
            self._joules.left -= joules

    def on_battery(self, charge: float) -> None:
        """Note the charge of the battery, in [0, 1]; NaN is ignored."""
        if not math.isnan(charge):
            self._battery = charge
            limit = self.config.min_battery
            self._low = charge < (limit + self.config.battery_margin if self._low else limit)

    def on_temperature(self, celsius: float) -> None:
        """Note the temperature of the board, in degrees Celsius; NaN is ignored."""
        if not math.isnan(celsius):
            self._temperature = celsius
            limit = self.config.max_temperature
            self._hot = celsius > (limit - self.config.temperature_margin if self._hot else limit)

    def refusal(self, now: float) -> str:
        """Return why no round may start, or nothing."""
        self._advance(now)
        if self._low and not math.isnan(self._battery):
            return f'the battery is at {100 * self._battery:.0f} %'
        if self._hot and not math.isnan(self._temperature):
            return f'the board is at {self._temperature:.0f} degrees Celsius'
        for what, allowance in (('tuning time', self._seconds), ('energy', self._joules)):
            if allowance.per_hour > 0 and allowance.left <= 0:
                return f'{what} is used up for {allowance.wait() / 60:.0f} min'
        return ''

    def _advance(self, now: float) -> None:
        self._seconds.advance(now)
        self._joules.advance(now)

    def state_dict(self, now: float, wall: float | None = None) -> dict[str, Any]:
        """
        Return what was spent and is not paid back, and what has to recover, as plain values.

        :param now: as everywhere; a monotonic clock starts anew with the board, so it is not saved
        :param wall: time of day in s, if it can be trusted: what is spent is then paid back while
            the robot is off, too
        """
        self._advance(now)
        return {
            'seconds': self._seconds.spent,
            'joules': self._joules.spent,
            'low': self._low,
            'hot': self._hot,
            'wall': wall,
        }

    def load_state_dict(
        self, state: Mapping[str, Any], now: float, wall: float | None = None
    ) -> None:
        """
        Continue from `state_dict` of another instance, of an earlier run for instance.

        Battery and temperature are unknown until the next reading; what was too low or too hot
        has to recover by its margin then.

        :param now: from which on allowances fill up
        :param wall: time of day; without it, or when it is before the saved one, nothing was paid
            back in between
        :raises StateError: naming what is wrong; nothing is changed then
        """
        saved = Saved('Budget', state)
        seconds, joules = saved.number('seconds', 0.0), saved.number('joules', 0.0)
        low, hot = saved.flag('low'), saved.flag('hot')
        then = None if saved.get('wall') is None else saved.number('wall')
        away = 0.0 if wall is None or then is None else max(wall - then, 0.0)
        for allowance, spent in ((self._seconds, seconds), (self._joules, joules)):
            allowance.left = allowance.per_hour - spent
            allowance.start(now - away)
            allowance.advance(now)
        self._low, self._hot = low, hot
        self._battery = self._temperature = math.nan
