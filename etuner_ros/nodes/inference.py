# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`inference`: image in, prediction out, at camera rate; swaps weights between two frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import importlib
import itertools
from pathlib import Path
import secrets
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.files import models_home
from etuner_ros.core.images.age import ImageAge
from etuner_ros.core.images.annotate import annotate, shrunk
from etuner_ros.core.images.codec import decode, encode_jpeg
from etuner_ros.core.images.codec import Image as Array
from etuner_ros.core.images.frame_keeper import FrameKeeper
from etuner_ros.core.images.full_pictures import FullPictures
from etuner_ros.core.images.side_thread import SideThread
from etuner_ros.core.labels.value import MOST_EXEMPLARS
from etuner_ros.core.models import base_weights
from etuner_ros.core.models.learned import learned_version
from etuner_ros.core.models.weights import read_base
from etuner_ros.core.serve.devices import needs_torch, serving_device
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.swapper import Announced, AnnouncedBackbone, ModelSwapper
from etuner_ros.msg import (
    Backbone,
    FrameFeature,
    ModelUpdate,
    PredictedFrame,
    Prediction,
    TunerStatus,
)
from etuner_ros.nodes.base_fetcher import BaseFetcher
from etuner_ros.nodes.conversions import array_to_image, image_to_array
from etuner_ros.nodes.health import guarded
from etuner_ros.nodes.inference_settings import InferenceSettings, LIVE, StorePlace
from etuner_ros.nodes.lifecycle import AutostartNode, transition
from etuner_ros.nodes.messages import stamp_ns, to_bytes, tuner_state
from etuner_ros.nodes.parameters import declare, ModelSettings
from etuner_ros.nodes.predictions import Classification, packed, Predicted
from etuner_ros.nodes.punctual import keep_memory, keep_what_was_imported, take, TakenByHand
from etuner_ros.nodes.qos import adaptable, LATCHED, latched, NEWEST_WINS, reliable
from etuner_ros.nodes.running import run
from etuner_ros.nodes.timers import steady_timer
from etuner_ros.nodes.variant_switch import VariantSwitch
from etuner_ros.srv import GetFrame

# Where torch serves it is imported before the node exists, so that no transition has to wait for
# it (architecture, promise 7). Where onnxruntime does it is not: it takes seconds and 200 MB.
if needs_torch():
    importlib.import_module('torch')

QUIET_S = 0.2  # without a frame for so long, updates are taken at once


class InferenceNode(AutostartNode):
    """
    Recognises what the camera sees.

    Subscribes `image_raw` (Image) or `image_raw/compressed` (CompressedImage), newest wins;
    `model` (ModelUpdate, latched), `backbone` (Backbone, latched), `tuner/status` (TunerStatus,
    latched, for the annotated image), with `variants.pixels` `battery` (BatteryState). Publishes
    `predictions` (Prediction),
    `predicted_frame` (PredictedFrame), `exemplar_features` (FrameFeature, latched: of the pictures
    that travel with the base weights, so that nobody is asked about what is known), and only while
    someone listens `frame_feature` (FrameFeature), `annotated` (Image), `annotated/compressed`
    (CompressedImage) and, where vision_msgs is
    installed, `classification` (vision_msgs/Classification). Serves `~/get_frame` (GetFrame).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('inference', **options)
        # The upper half names this run, the lower half counts its frames; 0 is never among them.
        self._uids = itertools.count(secrets.randbits(32) << 32 | 1)
        self._frames = self._unreadable = self._unanswered = 0
        self._rated = (time.monotonic(), 0)  # when the rate was told last, and the frames then
        self._last_frame = 0.0
        self._latency_ms = self._inference_ms = 0.0
        self._tuner_state = ''
        self._device = 'none'
        self._exemplars_left: list[bytes] = []  # whose features are not published yet ...
        self._exemplars_of = ''  # ... and the base weights that they travel with
        self._engines: Engines | None = None
        self._swapper: ModelSwapper | None = None
        self._fetcher: BaseFetcher | None = None
        self._keeper: FrameKeeper[Predicted] | None = None
        self._painter: SideThread[Predicted] | None = None
        self._full = FullPictures[CompressedImage](0)
        self._switch: VariantSwitch | None = None
        self._age = ImageAge()
        self._images_come = self.health.expect('image', 5.0, self._why_silent, lambda: self.active)
        self.health.watch(
            lambda: self._age.why_wrong() if self.active else '',
            'images are new when they come',
            DiagnosticStatus.WARN,
        )
        self.health.watch(
            lambda: self._swapper.why_not() if self._swapper else '',
            'the weights that were learned last serve',
            DiagnosticStatus.WARN,
        )
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
        self._images_come.limit_s = settings.silence_s
        wanted = declare(self, '', EngineSettings)
        self._device = serving_device(settings.device, wanted)
        self._engines = Engines(wanted, self._device, settings.threads)
        live = self._read(
            base_weights.prepare(model.architecture, model.input_size, model.weights)
        )
        folder = Path(store.folder).expanduser() if store.folder else None
        learned = learned_version(folder or models_home(self.get_namespace()), live.base.sha256)

        publish = adaptable(self.create_lifecycle_publisher)
        self._predictions = publish(Prediction, 'predictions', reliable(10))
        self._kept = publish(PredictedFrame, 'predicted_frame', reliable(30))
        self._features = publish(FrameFeature, 'frame_feature', reliable(30))
        self._exemplars = publish(FrameFeature, 'exemplar_features', latched(MOST_EXEMPLARS))
        self._annotated = publish(Image, 'annotated', reliable(2))
        self._annotated_jpeg = publish(CompressedImage, 'annotated/compressed', reliable(2))
        self.entities += [
            self._predictions,
            self._kept,
            self._features,
            self._exemplars,
            self._annotated,
            self._annotated_jpeg,
        ]
        if Classification is not None:
            self._classification = publish(Classification, 'classification', reliable(10))
            self.entities.append(self._classification)
        subscribe = self.create_subscription
        if settings.image_transport == 'raw':
            self._images = adaptable(subscribe)(Image, 'image_raw', self._on_image, NEWEST_WINS)
        else:
            self._images = adaptable(subscribe)(
                CompressedImage, 'image_raw/compressed', self._on_compressed, NEWEST_WINS
            )
        self._backbones = subscribe(
            Backbone, 'backbone', self._on_backbone, LATCHED, callback_group=TakenByHand()
        )
        self._updates = subscribe(
            ModelUpdate, 'model', self._on_model, LATCHED, callback_group=TakenByHand()
        )
        built = self.create_guard_condition(self._on_built)
        self.entities += [
            self._images,
            self._backbones,
            self._updates,
            subscribe(TunerStatus, 'tuner/status', self._on_tuner, LATCHED),
            steady_timer(self, QUIET_S / 2, self._on_idle),
            built,
            self.create_service(GetFrame, '~/get_frame', self._on_get_frame),
        ]
        self._switch = VariantSwitch(self, live, self._engines)
        self.entities += self._switch.entities
        self._fetcher = BaseFetcher(self, self._on_fetched)
        self._full = FullPictures(int(settings.full_mb * 1e6))
        self._keeper = FrameKeeper(self._keep, self._not_kept)
        self._painter = SideThread('painter', self._paint, self._not_painted, most=1)
        self._swapper = ModelSwapper(
            live,
            learned,
            settings.wait_for_model,
            self._read,
            self._fetcher.fetch,
            built.trigger,
        )
        self._take_exemplars(live)
        return TransitionCallbackReturn.SUCCESS

    def release(self) -> None:
        """Undo `on_configure`, however far it came."""
        self.active = False
        parts = (self._keeper, self._painter, self._swapper, self._fetcher)
        for part in (*parts, self._switch, self._engines):
            if part is not None:
                part.close()
        self._keeper = self._painter = self._swapper = self._fetcher = self._engines = None
        self._switch = None
        self._full = FullPictures(0)
        self._exemplars_of = ''
        self._age.forget()
        self.destroy_entities()

    close = release

    def diagnostics(self) -> Mapping[str, object]:
        """Return what /diagnostics says about this node."""
        swapper = self._swapper
        live = swapper.live if swapper else None
        return {
            'frames': self._frames,
            'frames per s': self._rate(),
            'device': self._device,
            'engine': live.engine if live else 'none',
            'warming up': bool(self._engines and self._engines.warming),
            'unreadable frames': self._unreadable,
            'full pictures MB': self._full.bytes / 1e6,
            'frames before the model came': self._unanswered,
            'frame age ms': 1e3 * self._age.seconds,
            'latency ms': self._latency_ms,
            'inference ms': self._inference_ms,
            'model version': live.version if live else 'none',
            'classes': len(live.classes) if live else 0,
            'swaps': swapper.swaps if swapper else 0,
            'active': self.active,
            'preparing': (swapper and swapper.preparing) or 'nothing',
            **(self._switch.diagnostics(live) if self._switch and live else {}),
        }

    def _rate(self) -> float:
        """Return the frames per second since this was asked last."""
        (then, frames), now = self._rated, (time.monotonic(), self._frames)
        self._rated = now
        return (now[1] - frames) / max(now[0] - then, 1e-3)

    def _apply(self, settings: InferenceSettings) -> None:
        """Take settings that were changed at run time."""
        self.settings = settings
        self._images_come.limit_s = settings.silence_s
        self._full.most_bytes = int(settings.full_mb * 1e6)
        if self._swapper is not None and self._engines is not None:
            self._swapper.wait = settings.wait_for_model
            if self._engines.threads != settings.threads:
                self._engines.set_threads(settings.threads)
                self._swapper.renew(anyway=True)

    def _why_silent(self) -> str:
        topic = self._images.topic_name
        publishers = self.get_publishers_info_by_topic(topic)
        if not publishers:
            return f'nobody publishes {topic}; is the camera driver up, and is the topic remapped?'
        wanted = 'Image' if self.settings.image_transport == 'raw' else 'CompressedImage'
        kinds = {p.topic_type for p in publishers}
        if kinds != {f'sensor_msgs/msg/{wanted}'}:
            return f'{topic} is of type {", ".join(sorted(kinds))}, not sensor_msgs/msg/{wanted}'
        return f'{publishers[0].node_name} publishes {topic}, but nothing comes: does it run?'

    # Frames

    @guarded
    def _on_image(self, message: Image) -> None:
        self._look(message.header, lambda: image_to_array(message))

    @guarded
    def _on_compressed(self, message: CompressedImage) -> None:
        data = bytes(message.data)
        self._look(message.header, lambda: decode(data), (message.format, data))

    def _look(
        self, header: Header, read: Callable[[], Array], encoded: tuple[str, bytes] | None = None
    ) -> None:
        """Predict one frame and publish what is known of it."""
        swapper, keeper, painter = self._swapper, self._keeper, self._painter
        if not self.active or swapper is None or keeper is None or painter is None:
            return
        stamp, now = stamp_ns(header), self.get_clock().now().nanoseconds
        self._images_come.heard()
        self._age.note(stamp, now)
        if not swapper.ready:
            self._unanswered += 1
            return
        began = time.perf_counter()
        try:
            image = read()
        except Exception:
            self._unreadable += 1
            raise
        read_ms = 1e3 * (time.perf_counter() - began)
        result = swapper.live.predict(image, self.settings.top_k)
        kept = keeper.wants(self.settings.keep_rate_hz)
        self._latency_ms = (self.get_clock().now().nanoseconds - stamp) / 1e6
        self._inference_ms = 1e3 * result.seconds
        uid, source, wait_ms = next(self._uids), self.settings.source, (now - stamp) / 1e6
        size = swapper.live.base.spec.input_size
        said = Predicted(header, source, uid, image, encoded, result, size, wait_ms, read_ms)
        self._predictions.publish(said.prediction(kept, self._latency_ms))
        self._frames += 1
        self._last_frame = time.monotonic()
        if kept:
            keeper.keep(said)
        if any(self._viewers()):
            painter.give(said)
        if Classification is not None and self._classification.get_subscription_count() > 0:
            self._classification.publish(said.classification())
        # Right after a frame was answered there is most time until the next one.
        if self._switch is not None and self._switch.on:
            trusted = not self._age.why_wrong()
            self._switch.saw(swapper.live, image, result, self._latency_ms if trusted else None)
        self._take_update()
        self._look_at_exemplar()

    def _keep(self, said: Predicted) -> None:
        """Publish a kept frame; in a thread."""
        settings = self.settings
        picture = said.small(settings.kept_side(said.input_size), settings.jpeg_quality)
        if picture is None or settings.full_mb > 0:
            full = said.full(settings.jpeg_quality)
            # First, so that whoever hears of the frame can ask for it.
            self._full.add(said.uid, full, len(full.data))
            picture = picture or full
        self._kept.publish(said.frame(picture))
        if self._features.get_subscription_count() > 0:
            self._features.publish(said.feature())

    def _on_get_frame(self, request: GetFrame.Request, response: GetFrame.Response) -> Any:
        picture = self._full.get(request.frame_uid)
        if picture is not None:
            response.image = picture
            return response
        response.error_code = GetFrame.Response.GONE
        response.error_msg = (
            f'the full picture of frame {request.frame_uid} is gone: it was not kept, or made '
            f'room for newer ones (full_mb = {self.settings.full_mb:g} MB)'
        )
        return response

    def _not_kept(self, error: Exception) -> None:
        self.health.problem(f'a frame could not be kept: {error}')

    def _viewers(self) -> tuple[int, int]:
        """Return how many listen to the annotated image, raw and as JPEG."""
        publishers = self._annotated, self._annotated_jpeg
        raw, jpeg = (publisher.get_subscription_count() for publisher in publishers)
        return raw, jpeg

    def _paint(self, said: Predicted) -> None:
        """Publish the annotated image, as it is listened to; in a thread."""
        small = shrunk(said.image, self.settings.annotated_width)
        result = said.result
        drawn = annotate(
            small, said.label, said.confidence, result.novelty, result.version, self._tuner_state
        )
        raw, jpeg = self._viewers()
        if raw:
            self._annotated.publish(array_to_image(drawn, said.header))
        if jpeg:
            data = encode_jpeg(drawn, self.settings.jpeg_quality)
            self._annotated_jpeg.publish(
                CompressedImage(header=said.header, format='jpeg', data=to_bytes(data))
            )

    def _not_painted(self, error: Exception) -> None:
        self.health.problem(f'the annotated image could not be drawn: {error}')

    @guarded
    def _on_tuner(self, message: TunerStatus) -> None:
        state = tuner_state(message)
        done = f' {100 * message.progress:.0f} %' if message.state == TunerStatus.TUNING else ''
        self._tuner_state = (
            f'{state}{done}, {message.layers_frozen} of {message.layers_total} frozen'
        )

    # Weights

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
        if self._swapper is not None:
            self._swapper.renew()
            if self._switch is not None:
                said = self._switch.tick(self._swapper.live)
                if said:
                    self.get_logger().info(said)
        if not self.active or time.monotonic() - self._last_frame > QUIET_S:
            self._take_update()
            self._look_at_exemplar()

    def _take_update(self) -> None:
        """Take announced weights, if there are any: a backbone before the head that is for it."""
        backbone = take(self._backbones)
        if backbone is not None:
            self._on_backbone(backbone)
        message = take(self._updates)
        if message is not None:
            self._on_model(message)

    @guarded
    def _on_backbone(self, message: Backbone) -> None:
        if self._swapper is not None:
            self._swapper.take_backbone(
                AnnouncedBackbone(message.backbone_sha256, message.weights)
            )

    @guarded
    def _on_model(self, message: ModelUpdate) -> None:
        if self._swapper is None:
            return
        self._swapper.take(
            Announced(
                message.version,
                tuple(message.classes),
                message.weights,
                message.sha256,
                message.base_sha256,
                message.backbone_sha256,
            )
        )

    @guarded
    def _on_fetched(self, path: Path | None) -> None:
        if path is not None and self._swapper is not None:
            self._swapper.fetched(path.stem, path)  # the cache names files by their SHA-256

    @guarded
    def _on_built(self) -> None:
        """Say how the swap ended."""
        swapper = self._swapper
        attempt = swapper.finish() if swapper else None
        if swapper is None or attempt is None:
            return
        version, error = attempt.version, attempt.error
        if attempt.renewed:
            if error is not None:
                self.health.problem(f'no other engine can be taken: {error}')
            self.get_logger().info(f'version {version} is served by {swapper.live.engine}')
            return
        if error is None:
            self._take_exemplars(swapper.live)
            self.get_logger().info(
                f'version {version} is live, prepared in {1e3 * attempt.seconds:.0f} ms'
            )
            return
        self.health.problem(f'version {version} is refused: {error}')
        kind = '' if isinstance(error, WeightsError) else f'{type(error).__name__}: '
        self.get_logger().error(
            f'version {version} is refused, version {swapper.live.version} stays: {kind}{error}'
        )

    def _take_exemplars(self, live: LiveModel) -> None:
        """Have the features of the pictures published that travel with base weights, once."""
        if live.base.sha256 == self._exemplars_of:
            return
        self._exemplars_of = live.base.sha256
        step = -(-len(live.base.exemplars) // MOST_EXEMPLARS) or 1
        self._exemplars_left = [code for _, code in live.base.exemplars[::step]]

    def _look_at_exemplar(self) -> None:
        """Publish the feature of one exemplar: one a frame, so that no frame has to wait."""
        swapper = self._swapper
        if not self._exemplars_left or not self.active or swapper is None or not swapper.ready:
            return
        picture = decode(self._exemplars_left.pop())
        feature, version, backbone = swapper.live.feature(picture)
        self._exemplars.publish(
            FrameFeature(
                source=self.settings.source,
                model_version=version,
                backbone_sha256=backbone,
                feature=packed(feature),
            )
        )


def main() -> int:
    """Run the node."""
    keep_memory()
    keep_what_was_imported()
    return run(InferenceNode)
