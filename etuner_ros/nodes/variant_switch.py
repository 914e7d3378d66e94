# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How many pixels serve: readings into the policy, its choice into the live model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import math
import threading
import time

from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import BatteryState

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.decide.energy import temperature
from etuner_ros.core.images.codec import Image
from etuner_ros.core.serve.engines import Engines
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.live_variants import LiveVariants, read_pixels
from etuner_ros.core.serve.measuring import Ready
from etuner_ros.core.serve.slot import Result
from etuner_ros.core.serve.variant_limits import NO_LIMIT_CELSIUS
from etuner_ros.core.serve.variant_policy import VariantPolicy, VariantPolicyConfig
from etuner_ros.core.serve.variants import Variant
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.qos import adaptable

# What a status says. Some drivers say NOT_CHARGING on the dock, others while the robot drives.
CHARGING: dict[int, bool | None] = {
    BatteryState.POWER_SUPPLY_STATUS_CHARGING: True,
    BatteryState.POWER_SUPPLY_STATUS_FULL: True,
    BatteryState.POWER_SUPPLY_STATUS_NOT_CHARGING: None,
}
CHOOSE_S = 0.25  # between two choices
READ_S = 1.0  # between two readings of camera rate and temperature


@dataclass(frozen=True)
class VariantSettings(Checked):
    """Which variants of the live version are held ready."""

    pixels: str = setting(
        '',
        "smaller sizes, in px with commas between them ('128,96'; in quotes, one size too), that "
        'may serve instead of model.input_size when battery, heat, load or deadline ask for it; '
        "'' = none",
    )

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes, in px."""
        return read_pixels(self.pixels)


class VariantSwitch:
    """
    Holds the live version ready at fewer pixels, and has the size serve that the policy chooses.

    All methods are called by the node's executor, between two frames; what takes time is done in a
    thread beside. Does nothing when `variants.pixels` is empty.

    :param live: serves now
    :raises ConfigError: when a parameter below `variants.` does not fit
    """

    def __init__(self, node: Node, live: LiveModel, engines: Engines) -> None:
        self._node = node
        sizes = declare(node, 'variants', VariantSettings).sizes
        config = declare(node, 'variants', VariantPolicyConfig, self._configure)
        # Battery and heat are followed from the start; until sizes were measured there is one row.
        own = Variant(live.base.spec.input_size, live.engine.rpartition('-')[2], 1.0, 1.0, 1.0)
        self.policy = VariantPolicy([own], config)
        self._variants = LiveVariants(sizes, engines) if sizes else None
        self._thread: threading.Thread | None = None
        self._known: Ready | None = None  # what the policy chooses from
        self._chosen_at = self._read_at = -math.inf
        self._frames, self._counted_at = 0, time.monotonic()
        self._why = ''  # nothing can be chosen
        self._problem = ''  # of the thread
        self._said = ''
        self.entities = []
        if self.on:
            subscribe = adaptable(node.create_subscription)
            battery = qos_profile_sensor_data
            self.entities.append(subscribe(BatteryState, 'battery', self._on_battery, battery))

    @property
    def on(self) -> bool:
        """Whether there is anything to choose."""
        return self._variants is not None

    def _configure(self, config: VariantPolicyConfig) -> None:
        self.policy.configure(config)

    def _on_battery(self, message: BatteryState) -> None:
        """Note the battery; figures that a driver leaves at 0 are not known."""
        volts, amperes = message.voltage, message.current
        watts = -volts * amperes if volts > 0 and amperes else math.nan
        full = message.capacity if message.capacity > 0 else message.design_capacity
        charging = CHARGING.get(message.power_supply_status, False)
        self.policy.on_battery(message.percentage, watts, full * volts, charging)

    def saw(self, live: LiveModel, image: Image, result: Result, latency_ms: float | None) -> None:
        """
        Note a frame that was answered.

        :param latency_ms: from its stamp to the answer; None = the stamps can not be trusted
        """
        if self._variants is None:
            return
        self._frames += 1
        self._variants.note(image, live.base.spec.input_size)
        if self._known is not None and result.pixels == self.policy.current.pixels:
            model_ms = 1e3 * (result.seconds - result.resize_seconds)
            whole_ms = 1e3 * result.seconds
            self.policy.on_prediction(model_ms, whole_ms if latency_ms is None else latency_ms)

    def tick(self, live: LiveModel) -> str:
        """
        Choose, when it is time; call it often.

        :return: what to log: another size serves
        """
        now = time.monotonic()
        if self._variants is None or now - self._chosen_at < CHOOSE_S:
            return ''
        self._chosen_at = now
        if now - self._read_at >= READ_S:
            self._read(now)
        self._prepare(self._variants, live)
        return self._choose(self._variants, live)

    def _read(self, now: float) -> None:
        self.policy.on_rate(self._frames / max(now - self._counted_at, 1e-3))
        self._frames, self._counted_at, self._read_at = 0, now, now
        if self.policy.config.max_temperature < NO_LIMIT_CELSIUS:
            self.policy.on_temperature(temperature())

    def _prepare(self, variants: LiveVariants, live: LiveModel) -> None:
        """Begin to make sizes ready, when there is need."""
        if live.smaller_failed is not None:
            (slot, why), live.smaller_failed = live.smaller_failed, None
            variants.give_up(slot, why)
        if self._thread is not None and self._thread.is_alive():
            return
        self._thread = None
        if variants.wants(live):
            work, arguments = self._work, (variants, live)
            self._thread = threading.Thread(
                target=work, args=arguments, name='variants', daemon=True
            )
            self._thread.start()

    def _work(self, variants: LiveVariants, live: LiveModel) -> None:
        try:
            variants.prepare(live)
            self._problem = ''
        except Exception as error:  # whatever fails, the version serves at its own size
            self._problem = f'{type(error).__name__}: {error}'

    def _choose(self, variants: LiveVariants, live: LiveModel) -> str:
        self._why = variants.why_not(live)
        ready = variants.ready
        if self._why or ready is None or ready.number != live.slot.number:
            live.smaller = self._known = None
            return ''
        if ready is not self._known:
            self.policy.set_variants(ready.rows)
            self._known = ready
        chosen = self.policy.choose()
        live.smaller = ready.slots[chosen.name]
        before, self._said = self._said, chosen.name
        return self.policy.reason if before not in ('', chosen.name) else ''

    def why_not(self) -> str:
        """Return what keeps sizes from serving that should not; nothing when all is well."""
        if self._variants is None:
            return ''
        return '; '.join(filter(None, (self._variants.unfit(), self._problem)))

    def diagnostics(self, live: LiveModel) -> Mapping[str, object]:
        """Return what /diagnostics says."""
        if self._variants is None:
            return {}
        known, small = self._known, live.smaller
        fits = small is not None and small.number == live.slot.number
        pixels = small.pixels if small is not None and fits else live.base.spec.input_size
        rows = known.rows if known else ()
        return {
            'variant': f'{pixels} px',
            'why this variant': self.policy.reason if known else self._why or 'nothing yet',
            'variants': '; '.join(
                f'{r.name} {r.p50_ms:.2f} ms (p99 {r.p99_ms:.2f}), says the same '
                f'{100 * r.accuracy:.0f} %'
                for r in rows
            ),
        }

    def close(self) -> None:
        """End the thread, and let go of the networks."""
        if self._variants is not None:
            self._variants.close()
            if self._thread is not None:
                self._thread.join()
            self._variants.end()
        # Who follows the parameters keeps this object, also while the node is unconfigured.
        self._variants = self._known = self._thread = None
