# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What is known of the board, and which variants it rules out: battery, heat, camera rate, deadline.

A decision object with a clock that is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
import math
from statistics import median
from typing import TYPE_CHECKING

from etuner_ros.core.serve.power_budget import FadingMean, MEMORY_S, PowerBudget
from etuner_ros.core.serve.variants import check_variants, energies, Variant

if TYPE_CHECKING:
    from etuner_ros.core.serve.variant_policy import VariantPolicyConfig

NO_LIMIT_CELSIUS = 1000.0
LOADS = 30  # newest predictions whose median says how loaded the board is
LEAST_LOADS = 5
LATES = 200  # newest predictions that the share of late ones is taken of
COOLER = 0.2  # of the margin, by which it must be cooler before predictions take more power


class VariantLimits:
    """
    Follows the readings, and says of each variant why it does not fit.

    :param current: the variant that serves until `serve` says another
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        config: VariantPolicyConfig,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._celsius, self._hot_at = math.nan, -math.inf
        self._rate, self._rate_at = 0.0, -math.inf
        self._rates = FadingMean(MEMORY_S)
        self._times: deque[tuple[float, float]] = deque(maxlen=LOADS)  # slow-down, ms beside
        self._timed_at = -math.inf
        self._late: deque[bool] = deque(maxlen=LATES)  # of the variant that serves
        self.config = config
        self.battery = PowerBudget(*self._battery_limits(), clock)
        if config.usual_watts > 0:
            self.battery.expect(config.usual_watts)
        self.set_variants(variants)
        self.current = self.cheapest

    def _battery_limits(self) -> tuple[float, float, float, float, float]:
        c = self.config
        return (
            c.target_hours,
            c.min_battery,
            c.battery_margin,
            c.battery_reserve,
            c.battery_wh,
        )

    def configure(self, config: VariantPolicyConfig) -> None:
        """Take other limits."""
        if config.usual_watts not in (0.0, self.config.usual_watts):
            self.battery.expect(config.usual_watts)
        self.config = config
        self.battery.configure(*self._battery_limits())
        self.set_variants(self.variants)

    def set_variants(self, variants: Sequence[Variant]) -> None:
        """
        Take other variants; what is known of the board counts on.

        :raises ConfigError: when there is none or two have one name; the old ones stay then
        """
        check_variants(variants)
        self.variants = sorted(variants, key=lambda v: (-v.accuracy, v.p50_ms))
        self._joules = energies(self.variants, self.config.busy_watts)
        self.cheapest = min(self.variants, key=lambda v: (self._joules[v.name], v.p50_ms))

    def serve(self, variant: Variant) -> None:
        """Note which variant serves from now on."""
        if variant.name != self.current.name:
            self._late.clear()
        self.current = variant
        self.battery.on_serving(self.watts(variant))

    def no_dearer(self, variant: Variant) -> bool:
        """Whether a variant asks for no more energy and time than the one that serves."""
        joules = self._joules
        return joules[variant.name] <= joules[self.current.name] and (
            variant.p50_ms <= self.current.p50_ms
        )

    # Readings

    def on_battery(
        self,
        charge: float,
        watts: float = math.nan,
        capacity_wh: float = math.nan,
        charging: bool | None = False,
    ) -> None:
        """Note the battery, as `PowerBudget.on_battery`."""
        self.battery.on_battery(charge, watts, capacity_wh, charging)

    def on_temperature(self, celsius: float) -> None:
        """Note the temperature of the board, in degrees Celsius; NaN is ignored."""
        if math.isfinite(celsius):
            self._celsius, self._hot_at = celsius, self._clock()

    def on_rate(self, hertz: float) -> None:
        """Note how many frames come a second, of all cameras together; NaN is ignored."""
        if 0 <= hertz < math.inf:
            now = self._clock()
            self._rates.add(hertz, min(now - self._rate_at, self.config.fresh_s))
            self._rate, self._rate_at = hertz, now

    def on_prediction(self, model_ms: float, latency_ms: float | None = None) -> None:
        """
        Note a prediction of the variant that serves.

        :param model_ms: inside of the model, in ms
        :param latency_ms: from image stamp to publish, in ms; None = the same
        """
        latency = model_ms if latency_ms is None else latency_ms
        if not (0 < model_ms < math.inf and math.isfinite(latency)):
            return
        self._times.append((model_ms / self.current.p50_ms, max(latency - model_ms, 0.0)))
        self._timed_at = self._clock()
        self._late.append(0 < self.config.deadline_ms < latency)

    # What they mean

    @property
    def load(self) -> float:
        """How many times slower predictions are than the table says; 1 while it is unknown."""
        if len(self._times) < LEAST_LOADS or not self._is_fresh(self._timed_at):
            return 1.0
        return median(t[0] for t in self._times)

    @property
    def late(self) -> float:
        """Share of late ones among the newest predictions of the variant that serves."""
        return sum(self._late) / len(self._late) if self._late else 0.0

    def watts(self, variant: Variant, rate: float | None = None) -> float:
        """Return what a variant takes above idle, in W, at a camera's rate; None = of now."""
        rate = self._rate if rate is None else rate
        return self._joules[variant.name] * min(rate, 1e3 / variant.p50_ms)

    def _is_fresh(self, at: float) -> bool:
        return self._clock() - at <= self.config.fresh_s

    def _is_lost(self, at: float, after_s: float) -> bool:
        return self._clock() - at > after_s

    @property
    def _heat_matters(self) -> bool:
        return self.config.max_temperature < NO_LIMIT_CELSIUS

    def stale(self) -> str:
        """Return which reading that a choice stands on is too old for one, or nothing."""
        if self._heat_matters and not self._is_fresh(self._hot_at):
            return 'temperature'
        if self.battery.matters and not self._is_fresh(self.battery.read_at):
            return 'charge'
        if (self._heat_matters or self.battery.matters) and not self._is_fresh(self._rate_at):
            return 'camera rate'
        return 'time of a prediction' if self._times and not self._is_fresh(self._timed_at) else ''

    def lost(self) -> str:
        """Return why only the cheapest may serve whatever it costs, or nothing."""
        if self.battery.low:
            return f'the battery is at {100 * self.battery.charge:.0f} %'
        if self._heat_matters and self._is_lost(self._hot_at, self.config.temperature_lost_s):
            return 'the temperature has not been heard of'
        if self.battery.matters:
            if self._is_lost(self.battery.read_at, self.config.battery_lost_s):
                return 'the battery has not been heard of'
            return self.battery.unknown()
        return ''

    def _heat_allows(self, cooler: float) -> float:
        """Return what predictions may take, in W, were it so much hotter, in degrees Celsius."""
        if not self._heat_matters or not self._is_fresh(self._hot_at):
            return math.inf
        room = (self.config.max_temperature - self._celsius - cooler) / (
            self.config.temperature_margin
        )
        if room >= 1:
            return math.inf
        all_watts = [self.watts(v) for v in self.variants]
        return min(all_watts) + max(room, 0.0) * (max(all_watts) - min(all_watts))

    def expected_late(self, variant: Variant, room: float = 0.0) -> float:
        """
        Return the share of predictions of a variant that would be late now.

        :param room: share of the time that it must leave
        """
        deadline = self.config.deadline_ms
        if not deadline:
            return 0.0
        beside = median(t[1] for t in self._times) if self._times else 0.0
        return variant.late(deadline - beside, self.load * (1.0 + room))

    def value(self, variant: Variant, room: float = 0.0) -> float:
        """Return the accuracy of a variant that counts: a late prediction is worth nothing."""
        return variant.accuracy * (1.0 - self.expected_late(variant, room))

    def is_late(self) -> bool:
        """Whether more were late than chance makes of `max_late`, by two standard deviations."""
        count, share = len(self._late), self.config.max_late
        return sum(self._late) > max(
            count * share + 2.0 * math.sqrt(count * share * (1 - share)), 1.0
        )

    def refusals(self, room: float) -> dict[str, str]:
        """
        Return why each variant does not fit by what is foreseen, or nothing, by name.

        :param room: share of time and power that it must leave; heat counts `COOLER` then
        """
        config, load, more = self.config, self.load, 1.0 + room
        allowed = self.battery.allowed() if self._is_fresh(self.battery.read_at) else math.inf
        heat = self._heat_allows(COOLER * config.temperature_margin if room else 0.0)
        period = 1e3 / self._rate if self._rate and self._is_fresh(self._rate_at) else math.inf
        # A battery lasts by the mean: were it the rate of now, the most frames got the least each.
        usual = self._rates.mean if self._rate else 0.0

        def why(v: Variant) -> str:
            watts, busy = self.watts(v), load * v.p50_ms
            taken = self.watts(v, usual)
            if taken * more > allowed:
                return f'would take {taken:.2f} W and the battery allows {allowed:.2f}'
            if watts > heat + 1e-9:
                return (
                    f'would take {watts:.2f} W and {heat:.2f} are allowed at '
                    f'{self._celsius:.0f} degrees Celsius'
                )
            if busy * more > config.max_busy * period:
                return f'would take {busy:.1f} ms of the {period:.1f} between two frames'
            late = self.expected_late(v, room)
            if late > config.max_late:
                return f'would be late {100 * late:.0f} % of the time'
            return ''

        return {v.name: why(v) for v in self.variants}
