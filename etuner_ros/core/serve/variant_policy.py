# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which variant of the live version serves: the one that is right in time most often and violates no
limit.

Down at once, up slowly, and nothing on a reading that is old. A decision object with a clock that
is passed in; it is fed with readings and asked a few times a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import math
import time

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.serve.variant_limits import NO_LIMIT_CELSIUS, VariantLimits
from etuner_ros.core.serve.variants import Variant

MOST_DOUBLINGS = 5  # of the wait for a variant whose predictions were late


@dataclass(frozen=True)
class VariantPolicyConfig(Checked):
    """Limits that the choice of a variant keeps, and how slowly it goes up."""

    deadline_ms: float = setting(
        0.0, 'from image stamp to prediction, in ms; a later one counts as late; 0 = none', 0.0
    )
    max_late: float = setting(
        0.1, 'share of predictions that may come after the deadline', 0.0001, 0.5
    )
    max_busy: float = setting(
        0.9, 'share of the time between two frames that a prediction may take', 0.01, 1.0
    )
    min_battery: float = setting(
        0.0,
        'charge, in [0, 1], below which the cheapest variant serves, and that is left when '
        'target_hours are over; 0 = no limit',
        0.0,
        1.0,
    )
    battery_margin: float = setting(
        0.01,
        'charge above min_battery that is planned for errors of the gauge, and before a battery '
        'that was too low has recovered',
        0.0,
        1.0,
    )
    battery_reserve: float = setting(
        0.01, 'share of the energy left that is kept for a harder time to come', 0.0, 0.9
    )
    target_hours: float = setting(
        0.0, 'hours that the battery must last from the start; 0 = no plan', 0.0, 10000.0
    )
    battery_wh: float = setting(
        0.0, 'energy of the full battery, in Wh; 0 = as the battery says', 0.0, 1e6
    )
    usual_watts: float = setting(
        0.0,
        'what the rest of the robot takes on average, in W, until enough was measured; 0 = not '
        'known',
        0.0,
        1e5,
    )
    busy_watts: float = setting(
        5.0,
        'power of a busy core above idle, in W; counts where energy was not measured',
        0.01,
        1000.0,
    )
    max_temperature: float = setting(
        NO_LIMIT_CELSIUS,
        'temperature of the board at which only the cheapest variant serves, in degrees Celsius',
        -50.0,
        NO_LIMIT_CELSIUS,
    )
    temperature_margin: float = setting(
        5.0,
        'degrees Celsius below that from which on predictions may take less and less power',
        0.1,
        100.0,
    )
    fresh_s: float = setting(
        30.0, 'age of a reading, in s, up to which a more accurate variant is chosen on it', 0.1
    )
    temperature_lost_s: float = setting(
        60.0, 'age of the last temperature, in s, from which on it may be as hot as allowed', 0.1
    )
    battery_lost_s: float = setting(
        900.0, 'age of the last charge, in s, from which on it may be as low as allowed', 0.1
    )
    dwell_s: float = setting(
        10.0, 'time that a more accurate variant must have fitted before it serves, in s', 0.0
    )
    up_margin: float = setting(
        0.05, 'room, as a share of time and power, that it must leave meanwhile', 0.0, 1.0
    )


class VariantPolicy:
    """
    Chooses among prepared variants of the live version.

    A variant fits when, at the load of now, no more of its predictions than `max_late` are
    expected after the deadline; when no frame is dropped; when what it takes is within what the
    battery allows until `target_hours` and within what the heat allows (all below
    `max_temperature - temperature_margin`, falling evenly to the least there is at
    `max_temperature`); and when not more predictions of it than `max_late` were late in fact.

    Of those that fit, the one with the highest accuracy times expected share in time serves. One
    that no longer fits is left at once. A better one is taken after it has been better, with room
    to spare, for `dwell_s`, twice as long each time that its predictions turned out late. Where
    none fits, the cheapest serves.

    A limit whose reading is older than `fresh_s` holds nothing back that serves, but nothing more
    accurate is chosen; one that was lost for long, or never came, is taken as reached. It belongs
    to one thread.

    :param variants: of any order; names differ
    :raises ConfigError: when there is none

    >>> small = Variant(96, 'int8', 2.0, 2.5, accuracy=0.75)
    >>> large = Variant(224, 'int8', 8.0, 10.0, accuracy=0.85)
    >>> policy = VariantPolicy([small, large], VariantPolicyConfig(deadline_ms=9.0))
    >>> policy.choose().name
    '96 px int8'
    >>> policy.reason
    '96 px int8: 224 px int8 would be late 11 % of the time'
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        config: VariantPolicyConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.limits = VariantLimits(variants, config or VariantPolicyConfig(), clock)
        self._reset()

    def _reset(self) -> None:
        self.fits = False
        self.reason = 'nothing was chosen yet'
        self._first = True  # choice that is not slowed down
        self._fitting: dict[str, float] = {}  # since when, with room to spare
        self._doublings = {v.name: 0 for v in self.limits.variants}

    def configure(self, config: VariantPolicyConfig) -> None:
        """Take other limits; other `target_hours` count from now on."""
        self.limits.configure(config)

    def set_variants(self, variants: Sequence[Variant]) -> None:
        """
        Take other variants, those of a new version; what is known of the board counts on.

        The one that serves stays until the next choice if there still is one of its name.

        :raises ConfigError: when there is none or two have one name; the old ones stay then
        """
        self.limits.set_variants(variants)
        same = [v for v in self.limits.variants if v.name == self.current.name]
        self.limits.serve(same[0] if same else self.limits.cheapest)
        if not same:
            self._reset()
        self._doublings = {v.name: self._doublings.get(v.name, 0) for v in variants}

    @property
    def config(self) -> VariantPolicyConfig:
        """The limits."""
        return self.limits.config

    @property
    def current(self) -> Variant:
        """The variant that serves, as last chosen; the cheapest before any choice."""
        return self.limits.current

    def on_battery(
        self,
        charge: float,
        watts: float = math.nan,
        capacity_wh: float = math.nan,
        charging: bool | None = False,
    ) -> None:
        """Note the battery, as `PowerBudget.on_battery`."""
        self.limits.battery.on_battery(charge, watts, capacity_wh, charging)

    def on_temperature(self, celsius: float) -> None:
        """Note the temperature of the board, in degrees Celsius; NaN is ignored."""
        self.limits.on_temperature(celsius)

    def on_rate(self, hertz: float) -> None:
        """Note how many frames come a second, of all cameras together; NaN is ignored."""
        self.limits.on_rate(hertz)

    def on_prediction(self, model_ms: float, latency_ms: float | None = None) -> None:
        """Note a prediction of the variant that serves, as `VariantLimits.on_prediction`."""
        self.limits.on_prediction(model_ms, latency_ms)

    def choose(self) -> Variant:
        """Return the variant that is to serve now; `reason` and `fits` say more."""
        now, limits, before = self._clock(), self.limits, self.current
        refusals, lost, stale = limits.refusals(0.0), limits.lost(), limits.stale()
        unforeseen = limits.is_late() and not refusals[before.name]
        if unforeseen:
            late = f'came late {100 * limits.late:.0f} % of the time'
            for v in limits.variants:
                if v.p99_ms >= before.p99_ms:
                    refusals[v.name] = refusals[v.name] or late
        self._note_fitting(now)
        fitting = sorted(
            (v for v in limits.variants if not refusals[v.name]), key=limits.value, reverse=True
        )
        if stale:  # nothing that asks for more than what serves
            fitting = [v for v in fitting if v is limits.cheapest or limits.no_dearer(v)]
        first = self._first and not lost and not stale
        self.fits = bool(fitting) and not lost
        if not self.fits:
            chosen = limits.cheapest
        elif first or before not in fitting:
            chosen = fitting[0]
        else:
            chosen = next(v for v in fitting if v is before or self._waited(v, now) >= 1.0)
        self._first = self._first and not first
        self._serve(chosen, unforeseen, now)
        self.reason = self._explain(refusals, lost, stale, now)
        return chosen

    def _note_fitting(self, now: float) -> None:
        """Remember since when each variant has been better, and has fitted, with room to spare."""
        limits, room = self.limits, self.config.up_margin
        refusals, value = limits.refusals(room), limits.value(self.current)
        for v in limits.variants:
            better = v.name == self.current.name or limits.value(v, room) > value
            if better and not refusals[v.name]:
                self._fitting.setdefault(v.name, now)
            else:
                self._fitting.pop(v.name, None)

    def _waited(self, variant: Variant, now: float) -> float:
        """Return how much of its time a variant has waited; 1 = all."""
        since = self._fitting.get(variant.name)
        dwell = self.config.dwell_s * 2 ** self._doublings[variant.name]
        if since is None:
            return 0.0
        return (now - since) / dwell if dwell > 0 else 1.0

    def _serve(self, chosen: Variant, unforeseen: bool, now: float) -> None:
        name = self.current.name
        if chosen.name != name:
            if unforeseen:
                self._doublings[name] = min(self._doublings[name] + 1, MOST_DOUBLINGS)
            self._fitting.clear()  # the next step up waits again
        elif self._waited(chosen, now) > 2.0:
            self._doublings[name] = 0
        self.limits.serve(chosen)

    def _explain(self, refusals: dict[str, str], lost: str, stale: str, now: float) -> str:
        """Return the choice in one sentence."""
        current = self.current
        if not self.fits:
            none = 'none fits, as it ' + refusals[current.name]
            return f'{current.name}, the cheapest: {lost or none}'
        better = [v for v in self.limits.variants if v.accuracy > current.accuracy]
        if not better:
            return f'{current.name}: the most accurate'
        after = better[-1]
        if refusals[after.name]:
            return f'{current.name}: {after.name} {refusals[after.name]}'
        if self.limits.value(after) <= self.limits.value(current):
            late = self.limits.expected_late(after)
            return f'{current.name}: {after.name} would be late {100 * late:.0f} % of the time'
        if stale:
            return f'{current.name}: nothing more accurate is chosen on an old {stale}'
        share = min(self._waited(after, now), 1.0)
        return f'{current.name}: {after.name} has fitted for {100 * share:.0f} % of its wait'
