# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`inference`: image in, prediction out, at camera rate; swaps weights between two frames."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
import importlib
import itertools
from pathlib import Path
import secrets
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn

from etuner_ros.core.files import models_home
from etuner_ros.core.images.annotate import annotate
from etuner_ros.core.images.codec import Image as Array
from etuner_ros.core.models import base_weights
from etuner_ros.core.models.learned import learned_version
from etuner_ros.core.models.weights import read_base
from etuner_ros.core.serve.devices import engines_for, needs_torch, serving_device
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.slot import Result
from etuner_ros.msg import Prediction, TunerStatus
from etuner_ros.nodes.camera_input import Arrived, CameraInput
from etuner_ros.nodes.health import guarded
from etuner_ros.nodes.inference_settings import InferenceSettings, LIVE, StorePlace
from etuner_ros.nodes.kept_frames import KeptFrames
from etuner_ros.nodes.lifecycle import AutostartNode, transition
from etuner_ros.nodes.messages import stamp_ns, tuner_state
from etuner_ros.nodes.parameters import declare, ModelSettings
from etuner_ros.nodes.predictions import Classification, Predicted
from etuner_ros.nodes.punctual import keep_memory, keep_what_was_imported
from etuner_ros.nodes.qos import adaptable, LATCHED, reliable
from etuner_ros.nodes.region_naming import RegionNaming
from etuner_ros.nodes.running import run
from etuner_ros.nodes.timers import steady_timer
from etuner_ros.nodes.variant_switch import VariantSwitch
from etuner_ros.nodes.weights_intake import WeightsIntake

# Where torch serves it is imported before the node exists, so that no transition has to wait for
# it (architecture, promise 7). Where onnxruntime does it is not: it takes seconds and 200 MB.
if needs_torch():
    importlib.import_module('torch')

QUIET_S = 0.2  # without a frame for so long, updates are taken at once


class InferenceNode(AutostartNode):
    """
    Recognises what cameras see.

    Subscribes `image_raw` (Image) or `image_raw/compressed` (CompressedImage), newest wins, of
    each of `cameras` below its name; `model` (ModelUpdate, latched), `backbone` (Backbone,
    latched), `tuner/status` (TunerStatus, latched, for the annotated image), `regions` (Regions),
    `detections` (vision_msgs/Detection2DArray, of each camera), with `variants.pixels` `battery`
    (BatteryState). Publishes `predictions` (Prediction), `objects` (Objects),
    `predicted_frame` (PredictedFrame), `exemplar_features` (FrameFeature, latched), and only while
    someone listens `frame_feature` (FrameFeature), `annotated` (Image) and `annotated/compressed`
    (CompressedImage), of each camera below its name, and, where vision_msgs is installed,
    `classification` (vision_msgs/Classification). Serves `~/get_frame` (GetFrame).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('inference', **options)
        self._frames = self._unanswered = 0
        self._rated = (time.monotonic(), 0)  # when the rate was told last, and the frames then
        self._last_frame = 0.0
        self._latency_ms = self._inference_ms = 0.0
        self._tuner_state = ''
        self._device = 'none'
        self._engines: Engines | None = None
        self._cameras: list[CameraInput] = []
        self._weights: WeightsIntake | None = None
        self._kept: KeptFrames | None = None
        self._switch: VariantSwitch | None = None
        self._regions: RegionNaming | None = None
        self.health.watch(
            lambda: self._engines.why_not() if self._engines else '',
            'the engine that was asked for serves',
            DiagnosticStatus.WARN,
        )
        self.health.watch(
            lambda: self._switch.why_not() if self._switch else '',
            'all sizes of variants.pixels can serve',
            DiagnosticStatus.WARN,
        )

    @transition
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the base weights, make publishers and subscriptions."""
        settings = self.settings = declare(self, '', InferenceSettings, self._apply, LIVE)
        model = declare(self, 'model', ModelSettings)
        store = declare(self, 'models', StorePlace)
        wanted = declare(self, '', EngineSettings)
        self._device = serving_device(settings.device, wanted)
        # The upper half names this run, the lower half counts its frames; 0 is never among them.
        self._uids = itertools.count(secrets.randbits(32) << 32 | 1)
        self._engines = engines_for(wanted, self._device, settings.threads)
        named = model.architecture, model.input_size, model.weights
        base = base_weights.prepare(*named)
        if warning := base_weights.copy_warning(base_weights.base_file(*named), base):
            self.health.problem(warning)
            self.get_logger().warning(warning)
        live = self._read(base)
        folder = Path(store.folder).expanduser() if store.folder else None
        learned = learned_version(folder or models_home(self.get_namespace()), live.base.sha256)
        cameras = [(name, f'{name}/') for name in settings.cameras] or [(settings.source, '')]
        # On a CPU a batch takes as long as its images one after the other, and all wait for it.
        self._batch = settings.batch or (1 if self._device == 'cpu' else len(cameras))

        publish = adaptable(self.create_lifecycle_publisher)
        self._predictions = publish(Prediction, 'predictions', reliable(10 * len(cameras)))
        self.entities.append(self._predictions)
        if Classification is not None:
            self._classification = publish(Classification, 'classification', reliable(10))
            self.entities.append(self._classification)
        for name, prefix in cameras:
            self._cameras.append(CameraInput(self, name, prefix, settings, self._on_arrival))
        self._kept = KeptFrames(self, settings, len(cameras))
        self._switch = VariantSwitch(self, live, self._engines)
        self.entities += self._switch.entities
        first = self._cameras[0].name
        self._weights = WeightsIntake(
            self, first, live, learned, settings.wait_for_model, self._read
        )
        self.entities += self._weights.entities
        self._regions = RegionNaming(self, cameras, settings, self._weights, self._kept)
        self.entities += [
            self.create_subscription(TunerStatus, 'tuner/status', self._on_tuner, LATCHED),
            steady_timer(self, QUIET_S / 2, self._on_idle),
        ]
        return TransitionCallbackReturn.SUCCESS

    def release(self) -> None:
        """Undo `on_configure`, however far it came."""
        self.active = False
        parts = self._regions, self._kept, self._weights, self._switch, self._engines
        for part in (*self._cameras, *parts):
            if part is not None:
                part.close()
        self._kept = self._weights = self._switch = self._engines = self._regions = None
        self._cameras = []
        self.destroy_entities()

    close = release

    def diagnostics(self) -> Mapping[str, object]:
        """Return what /diagnostics says about this node."""
        weights, cameras = self._weights, self._cameras
        live = weights.live if weights else None
        several = {
            f'{camera.name}: {what}': value
            for camera in cameras
            for what, value in (
                ('frames', camera.frames),
                ('frame age ms', 1e3 * camera.age.seconds),
            )
        }
        return {
            'frames': self._frames,
            'frames per s': self._rate(),
            'device': self._device,
            'engine': live.engine if live else 'none',
            'warming up': bool(self._engines and self._engines.warming),
            'unreadable frames': sum(camera.unreadable for camera in cameras),
            'full pictures MB': self._kept.full_mb if self._kept else 0.0,
            'frames before the model came': self._unanswered,
            'frame age ms': 1e3 * max((c.age.seconds for c in cameras), key=abs, default=0.0),
            'latency ms': self._latency_ms,
            'inference ms': self._inference_ms,
            'model version': live.version if live else 'none',
            'classes': len(live.classes) if live else 0,
            'swaps': weights.swaps if weights else 0,
            'images with objects': self._regions.images if self._regions else 0,
            'regions too late': self._regions.late if self._regions else 0,
            'regions in a near image': self._regions.near if self._regions else 0,
            'regions left out': self._regions.left_out if self._regions else 0,
            'regions as before': self._regions.recalled if self._regions else 0,
            'active': self.active,
            'preparing': (weights and weights.preparing) or 'nothing',
            **(several if len(cameras) > 1 else {}),
            **(self._switch.diagnostics(live) if self._switch and live else {}),
        }

    def _rate(self) -> float:
        """Return the frames per second since this was asked last."""
        (then, frames), now = self._rated, (time.monotonic(), self._frames)
        self._rated = now
        return (now[1] - frames) / max(now[0] - then, 1e-3)

    def _apply(self, settings: InferenceSettings) -> None:
        """Take settings that were changed at run time."""
        before, self.settings = self.settings, settings
        for camera in self._cameras:
            camera.apply(settings)
        if self._kept is not None:
            self._kept.apply(settings)
        if self._regions is not None:
            self._regions.apply(settings)
        if self._weights is not None and self._engines is not None:
            self._weights.wait_for_model(settings.wait_for_model)
            if before.threads != settings.threads:
                self._engines.set_threads(settings.threads)
                self._weights.renew(anyway=True)

    # Frames

    @guarded
    def _on_arrival(self, first: Arrived) -> None:
        """Predict an image, and with it what has come from other cameras meanwhile."""
        arrived = [first]
        for camera in self._cameras:
            if len(arrived) < self._batch and camera is not first.camera:
                other = camera.take()
                if other is not None:
                    arrived.append(other)
        self._look(arrived)

    def _look(self, arrived: list[Arrived]) -> None:
        """Predict frames and publish what is known of them; damaged ones hold up no others."""
        weights, regions = self._weights, self._regions
        if not self.active or weights is None or regions is None:
            return
        if not weights.ready:
            self._unanswered += len(arrived)
            return
        images, frames, problem = [], [], None
        for one in arrived:
            began = time.perf_counter()
            try:
                images.append(one.read())
            except Exception as error:
                one.camera.unreadable += 1
                problem = error
                continue
            frames.append((one, 1e3 * (time.perf_counter() - began)))
        if images:
            names = [one.camera.name for one, _ in frames]
            results = weights.live.predict_all(images, self.settings.top_k, names)
            said = [
                self._publish(one, image, read_ms, result)
                for (one, read_ms), image, result in zip(frames, images, results)
            ]
            for frame, kept in said:  # none waits for the things in another camera's
                regions.saw(frame, kept)
            # Right after a frame was answered there is most time until the next one.
            weights.between_frames(self.active)
        if problem is not None:
            raise problem

    def _publish(
        self, one: Arrived, image: Array, read_ms: float, result: Result
    ) -> tuple[Predicted, bool]:
        """Publish what is known of a frame; return that, and whether it is kept."""
        weights, kept, switch, regions = self._weights, self._kept, self._switch, self._regions
        assert weights is not None
        assert kept is not None
        assert regions is not None
        camera, header = one.camera, one.header
        keep = kept.wants(camera.name)
        latency_ms = (self.get_clock().now().nanoseconds - stamp_ns(header)) / 1e6
        self._latency_ms, self._inference_ms = latency_ms, 1e3 * result.seconds
        size = weights.live.base.spec.input_size
        said = Predicted(
            header,
            camera.name,
            next(self._uids),
            image,
            one.encoded,
            result,
            size,
            one.wait_ms,
            read_ms,
        )
        self._predictions.publish(said.prediction(keep, latency_ms))
        self._frames += 1
        camera.frames += 1
        self._last_frame = time.monotonic()
        if keep:
            kept.keep(said, regions.wanted(said.source))
        if camera.watched:
            camera.show(header, image, partial(self._draw, said))
        if Classification is not None and self._classification.get_subscription_count() > 0:
            self._classification.publish(said.classification())
        if switch is not None and switch.on:
            trusted = not camera.age.why_wrong()
            switch.saw(weights.live, image, result, latency_ms if trusted else None)
        return said, keep

    def _draw(self, said: Predicted, image: Array) -> Array:
        """Return a picture with what is said of it and of things in it."""
        novelty, version = said.result.novelty, said.result.version
        if self._regions is not None:
            image = self._regions.draw(said.source, image)
        return annotate(image, said.label, said.confidence, novelty, version, self._tuner_state)

    @guarded
    def _on_tuner(self, message: TunerStatus) -> None:
        state = tuner_state(message)
        done = f' {100 * message.progress:.0f} %' if message.state == TunerStatus.TUNING else ''
        self._tuner_state = (
            f'{state}{done}, {message.layers_frozen} of {message.layers_total} frozen'
        )

    def _read(self, path: Path) -> LiveModel:
        """Make a model of a file of base weights."""
        live = LiveModel(read_base(path), self._engines)
        warming = bool(self._engines and self._engines.warming)
        self.get_logger().info(
            f'{live.base.spec.architecture} by {live.engine} on {self._device}'
            f'{" while onnxruntime warms up" if warming else ""}, {len(live.classes)} classes, '
            f'from {path.name}'
        )
        return live

    @guarded
    def _on_idle(self) -> None:
        """Without frames nothing waits for an update to be taken."""
        if self._weights is None:
            return
        self._weights.renew()
        self._weights.retry()
        if self._switch is not None:
            said = self._switch.tick(self._weights.live)
            if said:
                self.get_logger().info(said)
        if not self.active and self._regions is not None:
            self._regions.rest()
        if not self.active or time.monotonic() - self._last_frame > QUIET_S:
            self._weights.between_frames(self.active)


def main() -> int:
    """Run the node."""
    keep_memory()
    keep_what_was_imported()
    return run(InferenceNode)
