# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""One camera of `inference`: its images as they come, and its annotated pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from etuner_ros.core.images.age import ImageAge
from etuner_ros.core.images.annotate import shrunk
from etuner_ros.core.images.codec import decode, encode_jpeg
from etuner_ros.core.images.codec import Image as Array
from etuner_ros.core.images.side_thread import SideThread
from etuner_ros.nodes.conversions import array_to_image, image_to_array
from etuner_ros.nodes.inference_settings import InferenceSettings
from etuner_ros.nodes.lifecycle import AutostartNode
from etuner_ros.nodes.messages import stamp_ns, to_bytes
from etuner_ros.nodes.punctual import take
from etuner_ros.nodes.qos import adaptable, NEWEST_WINS, reliable


@dataclass(frozen=True)
class Arrived:
    """An image that came."""

    camera: CameraInput
    header: Header
    taken_ns: int  # when the node took it, on the clock of the stamps
    read: Callable[[], Array]  # raises when it is damaged
    encoded: tuple[str, bytes] | None  # format and code, when it came compressed

    @property
    def wait_ms(self) -> float:
        """From its stamp until the node took it."""
        return (self.taken_ns - stamp_ns(self.header)) / 1e6


class CameraInput:
    """
    Subscribes `image_raw` (Image) or `image_raw/compressed` (CompressedImage), newest wins;
    publishes, while someone looks, `annotated` (Image) and `annotated/compressed`
    (CompressedImage).

    :param name: what messages call it (`source`)
    :param prefix: before its topics, such as 'front/'; '' for the only camera
    :param arrived: told of each image
    """

    def __init__(
        self,
        node: AutostartNode,
        name: str,
        prefix: str,
        settings: InferenceSettings,
        arrived: Callable[[Arrived], None],
    ) -> None:
        self.name, self._node, self._arrived = name, node, arrived
        self._settings = settings
        self._compressed = settings.image_transport == 'compressed'
        self.age = ImageAge()
        self.frames = self.unreadable = 0
        publish = adaptable(node.create_lifecycle_publisher)
        # Noted at once: what comes after may fail.
        self._annotated = publish(Image, f'{prefix}annotated', reliable(2))
        node.entities.append(self._annotated)
        self._annotated_jpeg = publish(
            CompressedImage, f'{prefix}annotated/compressed', reliable(2)
        )
        node.entities.append(self._annotated_jpeg)
        kind, topic, heard = (
            (CompressedImage, f'{prefix}image_raw/compressed', self._on_compressed)
            if self._compressed
            else (Image, f'{prefix}image_raw', self._on_image)
        )
        self._images = adaptable(node.create_subscription)(kind, topic, heard, NEWEST_WINS)
        node.entities.append(self._images)
        self._painter = SideThread('painter', self._paint, self._not_painted, most=1)
        what = f"image of camera '{name}'" if prefix else 'image'
        self._come = node.health.expect(
            what, settings.silence_s, self._why_silent, lambda: node.active
        )
        self._concerns = [
            self._come,
            node.health.watch(
                lambda: self.age.why_wrong() if node.active else '',
                f'{what}s are new when they come',
                DiagnosticStatus.WARN,
            ),
        ]

    def apply(self, settings: InferenceSettings) -> None:
        """Take settings."""
        self._settings = settings
        self._come.limit_s = settings.silence_s
        if not settings.cameras:
            self.name = settings.source

    def close(self) -> None:
        """End the thread, and watch the camera no longer."""
        self._painter.close()
        self._node.health.forget(self._concerns)

    def take(self) -> Arrived | None:
        """Return an image that has come and that the executor has not handed out yet."""
        message = take(self._images)
        return None if message is None else self._note(message)

    def _on_image(self, message: Image) -> None:
        self._arrived(self._note(message))

    def _on_compressed(self, message: CompressedImage) -> None:
        self._arrived(self._note(message))

    def _note(self, message: Any) -> Arrived:
        now = self._node.get_clock().now().nanoseconds
        self._come.heard()
        self.age.note(stamp_ns(message.header), now)
        if not self._compressed:
            return Arrived(self, message.header, now, lambda: image_to_array(message), None)
        data = bytes(message.data)
        encoded = message.format, data
        return Arrived(self, message.header, now, lambda: decode(data), encoded)

    def _why_silent(self) -> str:
        topic = self._images.topic_name
        publishers = self._node.get_publishers_info_by_topic(topic)
        if not publishers:
            return f'nobody publishes {topic}; is the camera driver up, and is the topic remapped?'
        wanted = 'CompressedImage' if self._compressed else 'Image'
        kinds = {p.topic_type for p in publishers}
        if kinds != {f'sensor_msgs/msg/{wanted}'}:
            return f'{topic} is of type {", ".join(sorted(kinds))}, not sensor_msgs/msg/{wanted}'
        return f'{publishers[0].node_name} publishes {topic}, but nothing comes: does it run?'

    # Annotated pictures

    @property
    def watched(self) -> bool:
        """Whether anybody looks at the annotated pictures."""
        return any(self._viewers())

    def _viewers(self) -> tuple[int, int]:
        """Return how many listen, to raw pictures and to JPEG."""
        publishers = self._annotated, self._annotated_jpeg
        raw, jpeg = (publisher.get_subscription_count() for publisher in publishers)
        return raw, jpeg

    def show(self, header: Header, image: Array, draw: Callable[[Array], Array]) -> None:
        """
        Publish an annotated picture, in a thread; the newest one makes the others superfluous.

        :param draw: returns the annotated copy of a picture
        """
        self._painter.give((header, image, draw))

    def _paint(self, job: tuple[Header, Array, Callable[[Array], Array]]) -> None:
        header, image, draw = job
        drawn = draw(shrunk(image, self._settings.annotated_width))
        raw, jpeg = self._viewers()
        if raw:
            self._annotated.publish(array_to_image(drawn, header))
        if jpeg:
            data = to_bytes(encode_jpeg(drawn, self._settings.jpeg_quality))
            self._annotated_jpeg.publish(CompressedImage(header=header, format='jpeg', data=data))

    def _not_painted(self, error: Exception) -> None:
        self._node.health.problem(f'the annotated image could not be drawn: {error}')
