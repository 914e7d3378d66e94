# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`proposer`: says where things may be, for a robot that has no detector."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
import time
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from etuner_ros.core.boxes.proposer import KINDS, make_proposer, MOST, Proposals
from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import EngineError, ImageError
from etuner_ros.core.files import own_proposer
from etuner_ros.core.images.codec import decode
from etuner_ros.core.images.codec import Image as Array
from etuner_ros.core.images.stillness import Stillness
from etuner_ros.msg import Regions
from etuner_ros.nodes.conversions import image_to_array
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import stamp_ns
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.punctual import keep_memory, keep_what_was_imported
from etuner_ros.nodes.qos import adaptable, NEWEST_WINS, reliable
from etuner_ros.nodes.region_messages import to_regions
from etuner_ros.nodes.running import run


@dataclass(frozen=True)
class ProposerSettings(Checked):
    """Parameters of the proposer."""

    kind: str = setting(
        'auto', 'ssd, own, or auto: the first of them that there is', choices=('auto', *KINDS)
    )
    most: int = setting(MOST, 'regions of an image at most', 1, 100)
    rate_hz: float = setting(
        5.0,
        'images per second that are looked at, at most; several cameras share it',
        0.01,
        1000.0,
    )
    image_transport: str = setting(
        'raw', 'which images it listens to', choices=('raw', 'compressed')
    )
    source: str = setting('', 'name of the camera pipeline; empty = the only one')
    cameras: tuple[str, ...] = setting(
        (), "several cameras, as in `inference`: ['front', 'rear']; empty = one, image_raw"
    )
    threads: int = setting(2, 'CPU threads', 1, 64)


class ProposerNode(Node):
    """
    Proposes regions of the newest image.

    Subscribes `image_raw` (Image) or `image_raw/compressed` (CompressedImage), newest wins, of
    each of `cameras` below its name.
    Publishes `regions` (Regions, with the header of the image).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('proposer', **options)
        self.settings = declare(self, '', ProposerSettings)
        self._proposer = make_proposer(self.settings.kind, own_proposer(), self.settings.threads)
        self.get_logger().info(f'regions come from the proposer {self._proposer.name}')
        self._next_s: dict[str, float] = {}  # steady time from which a camera is looked at
        self._still: dict[str, Stillness] = {}  # by camera
        self._found: dict[str, Proposals] = {}  # in the last image that was looked at
        self._images = self._regions_sent = self._as_before = 0
        self._ms = self._wait_ms = 0.0  # of the last image; the second from its stamp until then
        self.health = Health(self, self._diagnostics)
        cameras = [(name, f'{name}/') for name in self.settings.cameras]
        cameras = cameras or [(self.settings.source, '')]
        self._rate_hz = self.settings.rate_hz / len(cameras)
        self._regions = adaptable(self.create_publisher)(Regions, 'regions', reliable(10))
        hear = adaptable(self.create_subscription)
        for name, prefix in cameras:
            if self.settings.image_transport == 'raw':
                heard = partial(self._on_image, name)
                hear(Image, f'{prefix}image_raw', heard, NEWEST_WINS)
            else:
                heard = partial(self._on_compressed, name)
                hear(CompressedImage, f'{prefix}image_raw/compressed', heard, NEWEST_WINS)

    def _diagnostics(self) -> Mapping[str, object]:
        return {
            'proposer': self._proposer.name,
            'images': self._images,
            'regions': self._regions_sent,
            'images as before': self._as_before,
            'wait ms': self._wait_ms,
            'ms': self._ms,
        }

    @guarded
    def _on_image(self, camera: str, message: Image) -> None:
        self._look(camera, message.header, lambda: image_to_array(message))

    @guarded
    def _on_compressed(self, camera: str, message: CompressedImage) -> None:
        self._look(camera, message.header, lambda: decode(bytes(message.data)))

    def _found_in(self, camera: str, image: Array) -> Proposals:
        """Return what is in an image: in one that shows nothing new, what was there before."""
        still = self._still.setdefault(camera, Stillness())
        if still.is_same(image) and camera in self._found:
            self._as_before += 1
            return self._found[camera]
        self._found.pop(camera, None)  # when it fails there is nothing to fall back to
        found = self._found[camera] = self._proposer.propose(image, self.settings.most)
        return found

    def _look(self, camera: str, header: Header, read: Callable[[], Array]) -> None:
        now = time.monotonic()
        if now < self._next_s.get(camera, 0.0):
            return
        # An image a little early is still in time, or every second one would be left out.
        self._next_s[camera] = now + 0.9 / self._rate_hz
        self._wait_ms = (self.get_clock().now().nanoseconds - stamp_ns(header)) / 1e6
        try:
            found = self._found_in(camera, read())
        except (ImageError, EngineError) as error:
            self.health.problem(str(error))
            return
        self._images += 1
        self._regions_sent += len(found.boxes)
        self._ms = 1e3 * (time.monotonic() - now)
        self._regions.publish(to_regions(header, *found, source=camera))


def main() -> int:
    """Run the node."""
    keep_memory()
    keep_what_was_imported()
    return run(ProposerNode)
