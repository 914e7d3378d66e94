# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How much power predictions may take so that the battery lasts.

What is left is spread evenly over the time that is left, again at each reading: what was saved is
spent later, what was overdrawn is saved later. A decision object with a clock that is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import math
import statistics
import time

HOUR_S = 3600.0
MEMORY_S = 21600.0  # after which what was has faded to a third: robots drive and wait by turns
LONGEST_GAP_S = 60.0  # that one reading of the power stands for
GAUGE_EVERY_S = 120.0  # between two readings that are kept for the drain
GAUGE_READINGS = 360  # of those
GAUGE_LEAST = 10  # of those that say how fast it drains
GAUGE_FALL = 1e-4  # of the charge along those; less is rounding


class FadingMean:
    """
    A mean over time that forgets slowly; of what it has seen, so it starts without a guess.

    :param memory_s: after which a value counts a third
    """

    def __init__(self, memory_s: float) -> None:
        self._memory = memory_s
        self._sum = self._weight = 0.0

    def start(self, value: float) -> None:
        """Begin with a value that counts like all of a memory."""
        self._sum, self._weight = value, 1.0

    def add(self, value: float, seconds: float) -> None:
        """Note a value that held for so long."""
        keep = math.exp(-max(seconds, 0.0) / self._memory)
        weight = max(1.0 - keep, 1e-9)
        self._sum, self._weight = keep * self._sum + weight * value, keep * self._weight + weight

    @property
    def mean(self) -> float:
        """The mean; NaN before the first value."""
        return self._sum / self._weight if self._weight else math.nan


class PowerBudget:
    """
    Follows the battery and says what predictions may take.

    The rest of the robot (motors, sensors, idle board) is measured, not asked for: by the power
    that the battery reports, or by how fast its charge falls; less what predictions took
    meanwhile. `usual_watts` is worth saving: with that of another day it knows from the start.

    :param target_hours: that the battery must last from now on; 0 = no plan
    :param min_battery: charge that must be left by then, in [0, 1]
    :param margin: charge above `min_battery` that is planned for the errors of the gauge, and
        above which a battery that was too low must come
    :param reserve: share of what is left that is kept for a harder time to come
    :param capacity_wh: energy of the full battery, in Wh; 0 = as the battery says

    >>> now = 0.0
    >>> budget = PowerBudget(2.0, 0.0, 0.0, 0.0, capacity_wh=20.0, clock=lambda: now)
    >>> budget.on_battery(1.0, watts=8.0)
    >>> budget.allowed()
    2.0
    """

    def __init__(
        self,
        target_hours: float,
        min_battery: float,
        margin: float,
        reserve: float,
        capacity_wh: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock, self._begin = clock, clock()
        self.target_hours = target_hours
        self.configure(target_hours, min_battery, margin, reserve, capacity_wh)
        self._heard_wh = 0.0  # capacity, as the battery says
        self.charge = math.nan
        self.read_at = -math.inf
        self._low = self._charged = False
        self._held = 0.0  # highest charge since a dock may hold it
        self._base = math.nan  # W of all but predictions
        self._own = self._own_at_reading = 0.0  # J that predictions have taken
        self._own_watts, self._own_since = 0.0, clock()
        self._rest = FadingMean(MEMORY_S)
        self._usual = 0.0  # W of another day
        self._gauge: deque[tuple[float, float, float]] = deque(maxlen=GAUGE_READINGS)

    def configure(
        self,
        target_hours: float,
        min_battery: float,
        margin: float,
        reserve: float,
        capacity_wh: float,
    ) -> None:
        """Take other limits; another target counts from now on. What was learned counts on."""
        if target_hours != self.target_hours:
            self.restart()
        self.target_hours, self.min_battery = target_hours, min_battery
        self.margin, self.reserve, self._set_wh = margin, reserve, capacity_wh

    @property
    def _capacity(self) -> float:
        """The energy of the full battery, in Wh; 0 = not known."""
        return self._set_wh or self._heard_wh

    @property
    def matters(self) -> bool:
        """Whether a limit is set at all."""
        return self.target_hours > 0 or self.min_battery > 0

    @property
    def seconds_left(self) -> float:
        """Return the time until the target, in s; 0 when it has passed or there is none."""
        return max(self.target_hours * HOUR_S - (self._clock() - self._begin), 0.0)

    @property
    def low(self) -> bool:
        """Whether the charge is under its minimum and has not recovered."""
        return self._low

    def restart(self) -> None:
        """Begin the planned hours anew: the robot sets out again."""
        self._begin = self._clock()

    def on_serving(self, watts: float) -> None:
        """Note what predictions take from now on, in W above idle."""
        now = self._clock()
        self._own += self._own_watts * max(now - self._own_since, 0.0)
        self._own_watts, self._own_since = watts, now

    def on_battery(
        self,
        charge: float,
        watts: float = math.nan,
        capacity_wh: float = math.nan,
        charging: bool | None = False,
    ) -> None:
        """
        Note a reading; one without a charge in [0, 1] is ignored.

        :param watts: that leave the battery, in W; negative while it is charged; NaN = unknown
        :param capacity_wh: as the battery says; counts when none was set
        :param charging: as the battery says; counts where the power is unknown, as a weak charger
            may give less than the robot takes. None = it is not charged, and perhaps held by a
            dock: nothing is learned then until the charge falls
        """
        if not 0 <= charge <= 1:  # also of NaN
            return
        now = self._clock()
        self.on_serving(self._own_watts)
        if not self._heard_wh and 0 < capacity_wh < math.inf:
            self._heard_wh = capacity_wh
        told = math.isfinite(watts)
        self._charged = watts < 0 or (charging is True and not told)
        self._held = max(self._held, charge) if charging is None else 0.0
        held = charging is None and not told and charge >= self._held - self.margin
        if self._charged or held:
            self._gauge.clear()  # says nothing of what the robot takes
        elif told:
            self._follow(watts, now - self.read_at)
        else:
            self._follow_gauge(now, charge)
        self.charge, self.read_at, self._own_at_reading = charge, now, self._own
        self._low = charge < self.min_battery + (self.margin if self._low else 0.0)

    def _follow(self, watts: float, seconds: float) -> None:
        """Average what the rest of the robot takes."""
        own = self._own_watts
        if 0 < seconds < math.inf:
            own = (self._own - self._own_at_reading) / seconds
        self._rest.add(watts - own, min(seconds, LONGEST_GAP_S))
        self._base = self._rest.mean

    def _follow_gauge(self, now: float, charge: float) -> None:
        """
        Learn it from the fall of the charge: by a line through many readings, as gauges move in
        steps of a percent.
        """
        gauge = self._gauge
        if gauge and charge > min(c for _, c, _ in gauge) + self.margin:
            gauge.clear()  # it was charged, perhaps slowly
        if gauge and now - gauge[-1][0] < GAUGE_EVERY_S:
            return
        gauge.append((now, charge, self._own))
        if len(gauge) < GAUGE_LEAST or not self._capacity:
            return
        times, charges, _ = zip(*gauge, strict=True)
        fall = -statistics.linear_regression(times, charges).slope * (now - times[0])
        if fall < GAUGE_FALL:  # a dock holds it, or the steps of the gauge are too large yet
            gauge.popleft()  # hours on a dock do not make the line flat afterwards
            return
        spent = [-c * self._capacity * HOUR_S - own for _, c, own in gauge]
        watts = statistics.linear_regression(times, spent).slope
        told = math.exp(-(now - times[0]) / MEMORY_S) if self._usual > 0 else 0.0
        self._base = told * self._usual + (1 - told) * watts

    @property
    def usual_watts(self) -> float:
        """What the rest of the robot takes on average, in W; NaN while it is not known."""
        return self._base

    def expect(self, watts: float) -> None:
        """Start from what the rest of the robot took on another day, in W."""
        self._usual = self._base = watts
        self._rest.start(watts)

    def allowed(self) -> float:
        """
        Return what predictions may take, in W above idle.

        :return: infinite without a limit and while it is charged; 0 = as little as can be; NaN
            while it is not known
        """
        if not self.matters:
            return math.inf
        if math.isnan(self.charge):
            return math.nan
        if self._low:
            return 0.0
        left = self.seconds_left
        if left <= 0 or self._charged:
            return math.inf
        if not self._capacity or math.isnan(self._base):
            return math.nan
        energy = (self.charge - self.min_battery - self.margin) * self._capacity * HOUR_S
        return max((1 - self.reserve) * energy / left - max(self._base, 0.0), 0.0)

    def unknown(self) -> str:
        """Return what is missing to know what may be taken, or nothing."""
        if not math.isnan(self.allowed()):
            return ''
        if math.isnan(self.charge):
            return 'the battery has not been heard of'
        if not self._capacity:
            return "the battery's capacity is not known (battery_wh)"
        return 'how fast the battery drains is not known yet'
