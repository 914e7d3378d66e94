# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`inference`: image in, prediction out, at camera rate; swaps weights between two frames."""

from __future__ import annotations

# torch is imported before the node exists, so that no transition has to wait for it (architecture,
# promise 7)
import torch  # isort: skip

from collections import deque
from collections.abc import Mapping
import contextlib
import ctypes
from dataclasses import dataclass
import gc
from pathlib import Path
import queue
import statistics
import threading
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import CallbackGroup
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import WeightsError
from etuner_ros.core.images.annotate import annotate
from etuner_ros.core.images.codec import decode, encode_jpeg
from etuner_ros.core.images.codec import Image as Array
from etuner_ros.core.labels.value import MOST_EXEMPLARS
from etuner_ros.core.models import base_weights
from etuner_ros.core.models.live_model import LiveModel, Result
from etuner_ros.core.models.networks import choose_device
from etuner_ros.core.models.weights import read_base
from etuner_ros.msg import FrameFeature, ModelUpdate, PredictedFrame, Prediction, TunerStatus
from etuner_ros.nodes.base_fetcher import BaseFetcher
from etuner_ros.nodes.conversions import array_to_image, image_to_array
from etuner_ros.nodes.health import guarded
from etuner_ros.nodes.lifecycle import AutostartNode, transition
from etuner_ros.nodes.messages import stamp_ns, to_bytes
from etuner_ros.nodes.parameters import declare, ModelSettings
from etuner_ros.nodes.qos import LATCHED, latched, NEWEST_WINS, reliable
from etuner_ros.nodes.running import run

try:  # optional on a robot; not on PyPI
    from vision_msgs.msg import Classification, ObjectHypothesis
except ImportError:
    Classification = None


# What may be set at run time.
LIVE = ('source', 'threads', 'top_k', 'keep_rate_hz', 'jpeg_quality', 'silence_s')
TUNER_STATES = ('starting', 'waiting', 'tuning', 'proposed', 'down')
MOST_AGE_S = 1.0  # of an image, beyond which clocks are taken to be apart
QUIET_S = 0.2  # without a frame for so long, updates are taken at once
MOST_WAITING = 30  # kept frames that wait for their encoding


@dataclass(frozen=True)
class InferenceSettings(Checked):
    """Parameters of the inference node."""

    source: str = setting('camera', 'name of this camera pipeline in predictions and labels')
    image_transport: str = setting(
        'raw',
        "'raw' subscribes image_raw, 'compressed' image_raw/compressed",
        choices=('raw', 'compressed'),
    )
    device: str = setting('auto', "'auto' takes CUDA where there is one; 'cpu', 'cuda', 'cuda:1'")
    threads: int = setting(1, 'CPU threads of a prediction', 1, 256)
    top_k: int = setting(3, 'labels in a prediction', 1, 1000)
    keep_rate_hz: float = setting(
        10.0, 'predicted frames kept for labelling, per second; 0 = none', 0.0, 1000.0
    )
    jpeg_quality: int = setting(90, 'quality of kept frames', 1, 100)
    silence_s: float = setting(
        5.0,
        'time without an image after which the likely cause is said, in s; 0 = never',
        0.0,
        1e6,
    )


class TakenByHand(CallbackGroup):
    """Keeps a subscription out of the executor's hands; the node takes its messages itself."""

    def can_execute(self, entity: Any) -> bool:
        """Never."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing to end."""


class InferenceNode(AutostartNode):
    """
    Recognises what the camera sees.

    Subscribes `image_raw` (Image) or `image_raw/compressed` (CompressedImage), newest wins;
    `model` (ModelUpdate, latched), `tuner/status` (TunerStatus, latched, for the annotated
    image). Publishes `predictions` (Prediction), `predicted_frame` (PredictedFrame),
    `exemplar_features` (FrameFeature, latched: of the pictures that travel with the base weights,
    so that nobody is asked about what is known), and only while someone listens `frame_feature`
    (FrameFeature), `annotated` (Image) and, where vision_msgs is installed, `classification`
    (vision_msgs/Classification).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('inference', **options)
        self._live: LiveModel | None = None
        self._unseen: list[bytes] = []  # exemplars whose features are not published yet
        self._frames = self._dropped = self._swaps = 0
        self._rated = (time.monotonic(), 0)  # when the rate was told last, and the frames then
        self._device = 'none'
        self._last_frame = 0.0
        self._tuner_state = ''
        self._images_come = self.health.expect('image', 5.0, self._why_silent, lambda: self.active)
        self._ages_s: deque[float] = deque(maxlen=30)  # of frames, when they came
        self.health.watch(self._why_old, 'images are new when they come', DiagnosticStatus.WARN)
        self._last_kept_ns = 0
        self._latency_ms = self._inference_ms = 0.0
        self._swapping = ''
        self._jobs: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._encoder: threading.Thread | None = None
        self._builder: threading.Thread | None = None
        self._wanted: ModelUpdate | None = None
        self._fetcher: BaseFetcher | None = None

    def diagnostics(self) -> Mapping[str, object]:
        """Return what /diagnostics says about this node."""
        live = self._live
        return {
            'frames': self._frames,
            'frames per s': self._rate(),
            'device': self._device,
            'unreadable frames': self._dropped,
            'frame age ms': 1e3 * self._age_s(),
            'latency ms': self._latency_ms,
            'inference ms': self._inference_ms,
            'model version': live.version if live else 'none',
            'classes': len(live.classes) if live else 0,
            'swaps': self._swaps,
            'active': self.active,
            'preparing': self._swapping or 'nothing',
        }

    @transition
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the base weights, make publishers and subscriptions."""
        settings = self.settings = declare(self, '', InferenceSettings, self._apply, LIVE)
        model = declare(self, 'model', ModelSettings)
        self._images_come.limit_s = settings.silence_s
        self._device = str(choose_device(settings.device))
        torch.set_num_threads(settings.threads)
        self._open(base_weights.prepare(model.architecture, model.input_size, model.weights))
        self._predictions = self.create_lifecycle_publisher(
            Prediction, 'predictions', reliable(10)
        )
        self._kept = self.create_lifecycle_publisher(
            PredictedFrame, 'predicted_frame', reliable(30)
        )
        self._features = self.create_lifecycle_publisher(
            FrameFeature, 'frame_feature', reliable(30)
        )
        self._annotated = self.create_lifecycle_publisher(Image, 'annotated', reliable(2))
        self._exemplars = self.create_lifecycle_publisher(
            FrameFeature, 'exemplar_features', latched(MOST_EXEMPLARS)
        )
        publishers = [
            self._predictions,
            self._kept,
            self._features,
            self._annotated,
            self._exemplars,
        ]
        if Classification is not None:
            self._classification = self.create_lifecycle_publisher(
                Classification, 'classification', reliable(10)
            )
            publishers.append(self._classification)
        if settings.image_transport == 'raw':
            images = self.create_subscription(Image, 'image_raw', self._on_image, NEWEST_WINS)
        else:
            images = self.create_subscription(
                CompressedImage, 'image_raw/compressed', self._on_compressed, NEWEST_WINS
            )
        updates = self.create_subscription(
            ModelUpdate, 'model', self._on_model, LATCHED, callback_group=TakenByHand()
        )
        self._updates = updates
        tuner = self.create_subscription(TunerStatus, 'tuner/status', self._on_tuner, LATCHED)
        idle = self.create_timer(QUIET_S / 2, self._on_idle)
        self._fetcher = BaseFetcher(self, self._on_fetched)
        self._ready = self.create_guard_condition(self._on_prepared)
        self._images = images
        self.entities += [*publishers, images, updates, tuner, idle, self._ready]
        self._encoder = threading.Thread(target=self._encode, name='encoder', daemon=True)
        self._encoder.start()
        return TransitionCallbackReturn.SUCCESS

    def _apply(self, settings: InferenceSettings) -> None:
        """Take settings that were changed at run time."""
        self.settings = settings
        torch.set_num_threads(settings.threads)
        self._images_come.limit_s = settings.silence_s

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

    def _rate(self) -> float:
        """Return the frames per second since this was asked last."""
        (then, frames), now = self._rated, (time.monotonic(), self._frames)
        self._rated = now
        return (now[1] - frames) / max(now[0] - then, 1e-3)

    def _age_s(self) -> float:
        return statistics.median(self._ages_s) if self._ages_s else 0.0

    def _why_old(self) -> str:
        """Return what is wrong with the stamps of images."""
        age = self._age_s()
        if abs(age) <= MOST_AGE_S or not self.active:
            return ''
        when = f'{age:.1f} s old' if age > 0 else f'{-age:.1f} s ahead'
        return (
            f'images are {when} when they come: clocks are apart (set up chrony or PTP), '
            f'use_sim_time differs between nodes, or the camera driver queues them'
        )

    def _open(self, path: Path) -> None:
        self._live = LiveModel(read_base(path), self._device)
        self.get_logger().info(
            f'{self._live.base.spec.architecture} on {self._device}, {len(self._live.classes)} '
            f'classes, from {path.name}'
        )
        exemplars = self._live.base.exemplars
        step = -(-len(exemplars) // MOST_EXEMPLARS) or 1
        self._unseen = [code for _, code in exemplars[::step]]

    def release(self) -> None:
        """Undo `on_configure`."""
        self.active = False
        self._ages_s.clear()
        if self._encoder is not None:
            self._jobs.put(None)
            self._encoder.join()
            self._encoder = None
        if self._builder is not None:
            self._builder.join()
            self._builder = None
        if self._fetcher is not None:
            self._fetcher.close()
            self._fetcher = None
        self.destroy_entities()
        self._live = self._wanted = None

    close = release

    @guarded
    def _on_image(self, message: Image) -> None:
        if self.active:
            self._look(message.header, lambda: image_to_array(message))

    @guarded
    def _on_compressed(self, message: CompressedImage) -> None:
        if self.active:
            data = bytes(message.data)
            self._look(message.header, lambda: decode(data), (message.format, data))

    def _look(self, header: Header, read: Any, encoded: tuple[str, bytes] | None = None) -> None:
        """Predict one frame and publish what is known of it."""
        live = self._live
        assert live is not None
        self._images_come.heard()
        self._ages_s.append((self.get_clock().now().nanoseconds - stamp_ns(header)) / 1e9)
        try:
            image: Array = read()
        except Exception:
            self._dropped += 1
            raise
        result = live.predict(image, self.settings.top_k)
        stamp, now = stamp_ns(header), self.get_clock().now().nanoseconds
        kept = self._keeps(stamp)
        self._latency_ms, self._inference_ms = (now - stamp) / 1e6, result.seconds * 1e3
        confidence = result.scores[0] if result.scores else 0.0
        self._predictions.publish(
            Prediction(
                header=header,
                source=self.settings.source,
                labels=result.labels,
                scores=result.scores,
                confidence=confidence,
                energy=result.energy,
                novelty=result.novelty,
                appearance=result.appearance,
                model_version=result.version,
                kept=kept,
                latency_ms=self._latency_ms,
                inference_ms=self._inference_ms,
            )
        )
        self._frames += 1
        self._last_frame = time.monotonic()
        if kept:
            self._jobs.put((header, image, encoded, result))
        if self._annotated.get_subscription_count() > 0:
            self._annotated.publish(array_to_image(self._drawn(image, result), header))
        if Classification is not None and self._classification.get_subscription_count() > 0:
            hypotheses = [
                ObjectHypothesis(class_id=k, score=v) for k, v in zip(result.labels, result.scores)
            ]
            self._classification.publish(Classification(header=header, results=hypotheses))
        self._take_update()
        self._look_at_exemplar()

    def _drawn(self, image: Array, result: Result) -> Array:
        """Draw what is known of a frame."""
        label, confidence = (result.labels[0], result.scores[0]) if result.labels else ('', 0.0)
        return annotate(
            image, label, confidence, result.novelty, result.version, self._tuner_state
        )

    @guarded
    def _on_tuner(self, message: TunerStatus) -> None:
        state = TUNER_STATES[min(message.state, len(TUNER_STATES) - 1)]
        done = f' {100 * message.progress:.0f} %' if message.state == TunerStatus.TUNING else ''
        self._tuner_state = (
            f'{state}{done}, {message.layers_frozen} of {message.layers_total} frozen'
        )

    @guarded
    def _on_idle(self) -> None:
        """Without frames nothing waits for an update to be taken."""
        if not self.active or time.monotonic() - self._last_frame > QUIET_S:
            self._take_update()
            self._look_at_exemplar()

    def _look_at_exemplar(self) -> None:
        """Publish the feature of one exemplar: one a frame, so that no frame has to wait."""
        if not self._unseen or not self.active or self._live is None:
            return
        feature, version = self._live.feature(decode(self._unseen.pop()))
        self._exemplars.publish(
            FrameFeature(
                source=self.settings.source,
                model_version=version,
                feature=packed(feature),
            )
        )

    def _take_update(self) -> None:
        """
        Take announced weights, if there are any.

        Taking 13 MB from DDS holds the interpreter for 10 to 25 ms. Right after a frame was
        answered there is most time until the next one.
        """
        handle = self._updates.handle
        with handle:
            taken = handle.take_message(self._updates.msg_type, False)
        if taken is not None:
            self._on_model(taken[0])

    def _keeps(self, stamp: int) -> bool:
        """
        Return whether this frame is kept, at most `keep_rate_hz` of them; time that jumps back
        starts anew.
        """
        rate = self.settings.keep_rate_hz
        busy = self._jobs.qsize() >= MOST_WAITING
        if busy or rate <= 0 or 0 <= stamp - self._last_kept_ns < 0.9e9 / rate:
            return False
        self._last_kept_ns = stamp
        return True

    def _encode(self) -> None:
        """Publish kept frames, off the hot path: encoding takes longer than the frame may wait."""
        while (job := self._jobs.get()) is not None:
            header, image, encoded, result = job
            try:
                kind, code = (
                    encoded
                    if encoded is not None
                    else ('jpeg', encode_jpeg(image, self.settings.jpeg_quality))
                )
                self._kept.publish(
                    PredictedFrame(
                        header=header,
                        source=self.settings.source,
                        label=result.labels[0] if result.labels else '',
                        confidence=result.scores[0] if result.scores else 0.0,
                        novelty=result.novelty,
                        model_version=result.version,
                        image=CompressedImage(header=header, format=kind, data=to_bytes(code)),
                    )
                )
                if self._features.get_subscription_count() > 0:
                    self._features.publish(
                        FrameFeature(
                            header=header,
                            source=self.settings.source,
                            model_version=result.version,
                            feature=packed(result.features),
                        )
                    )
            except Exception as error:  # one frame that can't be kept must not stop the keeping
                self.health.problem(f'a frame could not be kept: {error}')

    @guarded
    def _on_model(self, message: ModelUpdate) -> None:
        """Start to build the announced version; only the newest one counts."""
        self._wanted = message
        self._build_next()

    def _build_next(self) -> None:
        live, message = self._live, self._wanted
        if (
            live is None
            or message is None
            or self._builder is not None
            or (self._fetcher is not None and self._fetcher.busy)
        ):
            return
        if message.base_sha256 != live.base.sha256:
            assert self._fetcher is not None
            self._fetcher.fetch(message.base_sha256)
            return
        self._wanted = None
        if message.version == live.version:
            return
        self._swapping = f'version {message.version}'
        self._builder = threading.Thread(
            target=self._build, args=(live, message), name='builder', daemon=True
        )
        self._builder.start()

    def _build(self, live: LiveModel, message: ModelUpdate) -> None:
        began = time.perf_counter()
        try:
            slot = live.prepare(
                message.version, tuple(message.classes), message.weights, message.sha256
            )
            live.swap(slot)
            self._swaps += 1
            self.get_logger().info(
                f'version {message.version} is live, prepared in '
                f'{1e3 * (time.perf_counter() - began):.0f} ms'
            )
        except WeightsError as error:
            self.health.problem(str(error))
            self.get_logger().error(
                f'version {message.version} is refused, version {live.version} stays: {error}'
            )
        except (
            Exception
        ) as error:  # a swap that fails in any way must leave the live version serving
            self.health.problem(f'version {message.version} could not be prepared: {error}')
            self.get_logger().error(
                f'version {message.version} could not be prepared: {type(error).__name__}: {error}'
            )
        self._ready.trigger()

    def _on_prepared(self) -> None:
        if self._builder is not None:
            self._builder.join()
        self._builder, self._swapping = None, ''
        self._build_next()

    @guarded
    def _on_fetched(self, path: Path | None) -> None:
        if path is not None and self._live is not None:
            self._open(path)
            self._build_next()


def packed(feature: torch.Tensor) -> Any:
    """Return a feature (D,) as messages carry it."""
    return to_bytes(feature.cpu().numpy().astype('<f2').tobytes())


def keep_memory() -> None:
    """
    Have glibc keep large blocks instead of giving them back to the system.

    Weights that arrive need blocks of many MB each time; fresh pages for them cost more than half
    of the time that taking a message holds the interpreter.
    """
    with contextlib.suppress(OSError, AttributeError):  # another libc
        libc = ctypes.CDLL(None)
        for option, value in ((-3, 32 << 20), (-1, 256 << 20), (-2, 32 << 20)):
            libc.mallopt(option, value)  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD


def main() -> int:
    """Run the node."""
    keep_memory()
    # What torch brought is never garbage. A full collection that looks through it takes 0.1 s and
    # more, and no prediction is made meanwhile.
    gc.collect()
    gc.freeze()
    return run(InferenceNode)
