# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`inference` with variants: fewer pixels serve when a reading asks for it, and no frame is lost."""

from __future__ import annotations

from collections.abc import Callable
import gc
import itertools
import math
from pathlib import Path
from types import SimpleNamespace
import weakref

from diagnostic_msgs.msg import DiagnosticArray
from helpers import Graph, header, image_message
import pytest
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import BatteryState, Image

from etuner_ros.bench.swapper import announcement
from etuner_ros.core.models.weights import backbone_digest, read_base, sha256
from etuner_ros.core.serve import live_variants
from etuner_ros.core.serve.graph_store import GraphStore
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.variant_policy import VariantPolicy, VariantPolicyConfig
from etuner_ros.core.serve.variants import Variant
from etuner_ros.msg import Backbone, FrameFeature, ModelUpdate, Prediction
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS
from etuner_ros.nodes.variant_switch import VariantSwitch

LIMITS = {'variants__min_battery': 0.3, 'variants__battery_margin': 0.05, 'variants__dwell_s': 0.0}


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every frame: half a minute of frames is too long for a test."""
    monkeypatch.setattr(live_variants, 'KEEP_S', 0.0)


@pytest.fixture
def made_graphs(deployed: Path, ros_home: Path) -> None:
    spec = read_base(deployed).spec
    for pixels in (64, 48):
        GraphStore().wait(spec.architecture, pixels, 'fp32')


class Camera:
    """Sends one frame after the other, each when the one before was answered."""

    def __init__(self, ros: Graph, frames: list) -> None:
        self.ros, self.frames = ros, itertools.cycle(frames)
        self.predictions = ros.listen(Prediction, 'predictions')
        self.reports = ros.listen(DiagnosticArray, '/diagnostics')
        self.images = ros.speak(Image, 'image_raw', NEWEST_WINS)
        self.sent = 0

    def shoot(self) -> Prediction:
        self.sent += 1
        stamp = self.ros.probe.get_clock().now().nanoseconds
        name = f'frame {self.sent}'
        self.images.publish(image_message(next(self.frames).image, header(stamp, name)))
        self.ros.until(lambda: len(self.predictions) == self.sent, f'the answer to {name}')
        assert self.predictions[-1].header.frame_id == name
        return self.predictions[-1]

    def until(self, condition: Callable[[dict[str, str]], bool], what: str) -> dict[str, str]:
        """Shoot until the newest diagnostics are so; return them."""

        def so() -> dict[str, str] | None:
            self.shoot()
            found = [
                {v.key: v.value for v in s.values}
                for m in self.reports
                for s in m.status
                if s.name.endswith('inference: etuner')
            ]
            return found[-1] if found and condition(found[-1]) else None

        return self.ros.until(so, what)


def test_a_battery_that_falls_has_fewer_pixels_serve_until_it_has_recovered(
    ros, deployed, frames, often, made_graphs
):
    node = ros.add(
        InferenceNode,
        model__weights=str(deployed),
        autostart=True,
        variants__pixels='48',
        **LIMITS,
    )
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    camera = Camera(ros, frames)
    features = ros.listen(FrameFeature, 'frame_feature')
    battery = ros.speak(BatteryState, 'battery', qos_profile_sensor_data)

    def charged(charge: float) -> None:
        battery.publish(BatteryState(percentage=charge, voltage=12.0, current=-1.0))

    ros.until(
        lambda: node.diagnostics()['why this variant'].startswith('0 of the 32 frames'), 'the wait'
    )
    charged(0.9)
    said = camera.until(lambda d: '48 px fp32' in d['variants'], 'the table of variants')
    assert '64 px fp32' in said['variants']
    said = camera.until(lambda d: d['variant'] == '64 px', 'the own size')
    bare = backbone_digest(read_base(deployed).sha256, {})
    ros.until(lambda: camera.shoot() and features, 'a feature')
    logs = ros.logs()
    charged(0.2)
    said = camera.until(lambda d: d['variant'] == '48 px', 'fewer pixels')
    assert said['why this variant'] == '48 px fp32, the cheapest: the battery is at 20 %'
    ros.until(lambda: any('the battery is at 20 %' in m.msg for m in logs), 'the log')
    small = sha256(f'{bare}@48'.encode())
    ros.until(lambda: camera.shoot() and features[-1].backbone_sha256 == small, 'its feature')
    charged(0.32)
    camera.until(lambda d: '32 %' in d['why this variant'], 'no recovery yet')
    assert node.diagnostics()['variant'] == '48 px'
    charged(0.9)
    camera.until(lambda d: d['variant'] == '64 px', 'the own size again')
    ros.until(lambda: camera.shoot() and features[-1].backbone_sha256 == bare, 'its feature')
    assert len(camera.predictions) == camera.sent, 'every frame was answered'


def test_unconfigured_it_keeps_no_network(ros, deployed, frames, often, made_graphs):
    node = ros.add(
        InferenceNode, model__weights=str(deployed), autostart=True, variants__pixels='48'
    )
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    Camera(ros, frames).until(lambda d: '48 px fp32' in d['variants'], 'fewer pixels to be ready')
    slots = filter(None, node._switch._variants.ready.slots.values())
    networks = [weakref.ref(slot.network) for slot in (*slots, node._weights.live.slot)]
    del slots
    node.trigger_deactivate()
    node.trigger_cleanup()
    assert len(networks) == 2

    def gone() -> bool:
        gc.collect()
        return not any(network() for network in networks)

    ros.until(gone, 'the executor to let go of the subscriptions, and all of the networks', 30.0)
    assert node.set_parameters([Parameter('variants.min_battery', value=0.4)])[0].successful


@pytest.mark.parametrize(
    'status',
    [BatteryState.POWER_SUPPLY_STATUS_CHARGING, BatteryState.POWER_SUPPLY_STATUS_FULL],
)
@pytest.mark.parametrize('current', [0.0, math.nan])
def test_a_driver_that_tells_no_current_says_that_the_battery_is_charged(current, status):
    config = VariantPolicyConfig(target_hours=1.0, battery_wh=20.0)
    policy = VariantPolicy([Variant(32, 'fp32', 1.0, 1.0, 1.0)], config)
    policy.limits.battery.expect(15.0)
    switch = SimpleNamespace(policy=policy)
    said = {'percentage': 0.5, 'voltage': 12.0, 'current': current}
    VariantSwitch._on_battery(switch, BatteryState(**said))
    assert policy.limits.battery.allowed() < 10.0
    VariantSwitch._on_battery(switch, BatteryState(**said, power_supply_status=status))
    assert policy.limits.battery.allowed() == math.inf


def test_a_battery_that_is_not_charging_and_does_not_drain_says_nothing_of_the_robot():
    now = 0.0
    config = VariantPolicyConfig(target_hours=20.0, battery_wh=20.0)
    policy = VariantPolicy([Variant(32, 'fp32', 1.0, 1.0, 1.0)], config, lambda: now)
    switch = SimpleNamespace(policy=policy)
    drive, dock = (
        BatteryState.POWER_SUPPLY_STATUS_DISCHARGING,
        BatteryState.POWER_SUPPLY_STATUS_NOT_CHARGING,
    )
    for status, number in [*((drive, n) for n in range(20)), *((dock, 20) for _ in range(100))]:
        charge = 0.9 - 5.0 / 20.0 / 30.0 * number
        said = BatteryState(percentage=charge, voltage=12.0, power_supply_status=status)
        VariantSwitch._on_battery(switch, said)
        now += 120.0
    assert policy.limits.battery.usual_watts == pytest.approx(5.0, rel=1e-3)
    assert policy.limits.battery.allowed() < math.inf, 'it is not charged'


@pytest.mark.parametrize(
    ('volts', 'amperes', 'watts'),
    [(12.0, -1.5, 18.0), (12.0, 0.0, math.nan), (12.0, math.nan, math.nan), (0.0, -1.5, math.nan)],
)
def test_what_the_robot_takes_is_known_where_its_battery_tells_volts_and_amperes(
    volts, amperes, watts
):
    config = VariantPolicyConfig(target_hours=1.0, battery_wh=100.0)
    policy = VariantPolicy([Variant(32, 'fp32', 1.0, 1.0, 1.0)], config)
    said = BatteryState(percentage=0.5, voltage=volts, current=amperes)
    VariantSwitch._on_battery(SimpleNamespace(policy=policy), said)
    assert policy.limits.battery.usual_watts == pytest.approx(watts, nan_ok=True)


def test_only_frames_that_the_chosen_size_has_answered_tell_how_late_it_is():
    config = VariantPolicyConfig(deadline_ms=20.0)
    policy = VariantPolicy([Variant(32, 'fp32', 1.0, 1.0, 1.0)], config)
    variants = SimpleNamespace(note=lambda *_: None)
    switch = SimpleNamespace(policy=policy, _variants=variants, _known=None, _frames=0)
    live = SimpleNamespace(base=SimpleNamespace(spec=SimpleNamespace(input_size=64)))

    def late(pixels: int, latency_ms: float | None) -> float:
        result = SimpleNamespace(pixels=pixels, seconds=0.03, resize_seconds=0.01)
        VariantSwitch.saw(switch, live, None, result, latency_ms)
        return policy.limits.late

    assert late(32, 50.0) == 0.0, 'nothing was chosen yet'
    switch._known = object()
    assert late(64, 50.0) == 0.0, 'of the size before'
    assert late(32, 10.0) == 0.0
    assert late(32, 50.0) == 0.5
    assert late(32, None) == pytest.approx(2 / 3), 'by the 30 ms that it took'
    assert switch._frames == 5, 'all of them count for the rate'


def test_another_backbone_is_served_at_once_and_fewer_pixels_of_it_as_soon_as_they_are_ready(
    ros, deployed, frames, often
):
    node = ros.add(
        InferenceNode,
        model__weights=str(deployed),
        autostart=True,
        engine='torch',
        variants__pixels='32,48',
        **LIMITS,
    )
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    camera = Camera(ros, frames)
    backbones = ros.speak(Backbone, 'backbone', LATCHED)
    models = ros.speak(ModelUpdate, 'model', LATCHED)
    battery = ros.speak(BatteryState, 'battery', qos_profile_sensor_data)
    battery.publish(BatteryState(percentage=0.1))
    camera.until(lambda d: d['variant'] == '32 px', 'fewer pixels')
    base = read_base(deployed)
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    backbone, version = announcement(base, 1, base.spec.classes, {name: base.state[name] * 1.01})
    backbones.publish(backbone)
    models.publish(version)
    camera.until(lambda d: d['model version'] == '1', 'the new version')
    camera.until(lambda d: d['variant'] == '32 px', 'fewer pixels of it')
    assert node._weights.live.predict(frames[0].image, 1).version == 1
    assert [p.model_version for p in camera.predictions] == sorted(
        p.model_version for p in camera.predictions
    )


def test_without_variants_nothing_is_subscribed_or_told(ros, deployed):
    node = ros.add(InferenceNode, model__weights=str(deployed), autostart=True, engine='torch')
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    assert 'variant' not in node.diagnostics()
    assert ros.probe.count_subscribers('battery') == 0
    assert isinstance(node._weights.live, LiveModel)
    assert node._weights.live.smaller is None


@pytest.mark.parametrize(
    ('parameters', 'words'),
    [
        ({'variants__pixels': '128;96'}, 'sizes from 32 to 1024 px with commas between them'),
        ({'variants__min_battery': 2.0}, 'variants.min_battery'),
    ],
)
def test_a_bad_parameter_fails_configuring_in_one_sentence(ros, deployed, parameters, words):
    node = ros.add(InferenceNode, model__weights=str(deployed), **parameters)
    logs = ros.logs()
    assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
    ros.until(lambda: any(words in m.msg for m in logs), 'the sentence')


def test_limits_apply_at_run_time(ros, deployed):
    node = ros.add(
        InferenceNode, model__weights=str(deployed), autostart=True, variants__pixels='48'
    )
    ros.until(lambda: node.diagnostics()['active'], 'inference')
    assert node.set_parameters([Parameter('variants.deadline_ms', value=20.0)])[0].successful
    assert node._switch.policy.config.deadline_ms == 20.0
    assert not node.set_parameters([Parameter('variants.pixels', value='32')])[0].successful
    assert node.trigger_deactivate() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_cleanup() == TransitionCallbackReturn.SUCCESS
    assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
    assert node._switch.policy.config.deadline_ms == 20.0
