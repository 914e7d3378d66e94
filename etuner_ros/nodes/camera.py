# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`camera`: publishes pictures from a device, a video, a folder of images or a recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool, Header
from std_srvs.srv import SetBool

from etuner_ros.core.boxes.recording import BoxFrame, open_with_boxes
from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.images.player import Player
from etuner_ros.msg import GroundTruth, Regions
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.health import guarded, Health
from etuner_ros.nodes.messages import to_bytes
from etuner_ros.nodes.parameters import declare
from etuner_ros.nodes.punctual import keep_memory
from etuner_ros.nodes.qos import adaptable, LATCHED, reliable
from etuner_ros.nodes.region_messages import to_regions
from etuner_ros.nodes.running import run


@dataclass(frozen=True)
class CameraSettings(Checked):
    """Parameters of the camera node."""

    source: str = setting(
        '', '/dev/video0, a video file, a folder <split>/<class>/*.jpg, or a rosbag2 recording'
    )
    image_topic: str = setting('', 'image topic in a recording; empty = image_raw, else the first')
    rate_hz: float = setting(
        0.0, 'pictures per second; 0 = as recorded (folders: 5, devices: 30)', 0.0, 1000.0
    )
    loop: bool = setting(False, 'start again at the end')
    autoplay: bool = setting(True, 'start at once; false waits for ~/play')
    skip: int = setting(0, 'frames of a recording that are left out at its start', 0, 10**9)
    frame_id: str = setting('camera_optical_frame', 'frame_id of the pictures')
    jpeg_quality: int = setting(90, 'quality of image_raw/compressed', 1, 100)


class CameraNode(Node):
    """
    Plays a source of pictures.

    Publishes `image_raw` (Image), `image_raw/compressed` (CompressedImage, only while someone
    listens), `ground_truth` (GroundTruth) and `region_truth` (Regions), where the source knows
    them, `~/playing` (Bool, latched: whether pictures come). Serves `~/play` (SetBool: start,
    stop).
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('camera', **options)
        self.settings = declare(self, '', CameraSettings)
        if not self.settings.source:
            raise ConfigError(
                'the camera has no source; set the parameter source, or leave this node out when '
                'the robot has its own driver'
            )
        source = open_with_boxes(
            self.settings.source, self.settings.image_topic, self.settings.skip
        )
        self._source = source
        self._player = Player(source, self.settings.loop)
        self._published = 0
        self._told: bool | None = None  # what ~/playing said last
        self.health = Health(self, self._diagnostics)
        self.health.watch(self._why_lost, 'the camera is back', DiagnosticStatus.ERROR)
        publish = adaptable(self.create_publisher)
        self._images = publish(Image, 'image_raw', reliable(5))
        self._compressed = publish(CompressedImage, 'image_raw/compressed', reliable(5))
        self._truths = publish(GroundTruth, 'ground_truth', reliable(50))
        self._regions = publish(Regions, 'region_truth', reliable(50))
        self._playing = self.create_publisher(Bool, '~/playing', LATCHED)
        self.create_service(SetBool, '~/play', self._on_play)
        # A timer of the node's clock: with use_sim_time it stands still with the simulation.
        rate = self.settings.rate_hz or source.rate_hz or 5.0
        self._timer = self.create_timer(1.0 / rate, self._publish_next)
        if self.settings.autoplay:
            self._player.play()
            self.get_logger().info(f'playing {self.settings.source}')
        else:
            self._timer.cancel()
        self._tell()

    def _diagnostics(self) -> Mapping[str, object]:
        return {
            'source': self.settings.source,
            'pictures published': self._published,
            'image subscribers': self._images.get_subscription_count(),
            'playing': self._player.playing,
        }

    def _why_lost(self) -> str:
        self._tell()  # also while the node's clock, and so the timer of pictures, stands still
        return self._player.lost

    def _tell(self) -> None:
        """Say on ~/playing whether pictures come, when that has changed."""
        if self._told != self._player.playing:
            self._told = self._player.playing
            self._playing.publish(Bool(data=self._told))

    def _on_play(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if request.data:
            self._player.play()
            self._timer.reset()
        else:
            self._player.stop()
            self._timer.cancel()
        self._tell()
        response.success = self._player.playing == request.data
        response.message = self._player.state
        return response

    @guarded
    def _publish_next(self) -> None:
        frame = self._player.next()
        self._tell()
        if not self._player.wanted:
            self._timer.cancel()
            self.get_logger().info(f'the source has ended after {self._published} pictures')
            if self._source.left_out:
                self.get_logger().warning(self._source.left_out)
        if frame is None:
            return
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id=self.settings.frame_id)
        if frame.label:
            self._truths.publish(
                GroundTruth(header=header, label=frame.label, scenario=frame.scenario)
            )
        if isinstance(frame, BoxFrame):
            self._regions.publish(to_regions(header, frame.boxes, frame.shares, frame.labels))
        if self._images.get_subscription_count() > 0:
            self._images.publish(array_to_image(frame.image, header))
        if self._compressed.get_subscription_count() > 0:
            code = to_bytes(encode_jpeg(frame.image, self.settings.jpeg_quality))
            self._compressed.publish(CompressedImage(header=header, format='jpeg', data=code))
        self._published += 1

    def close(self) -> None:
        """Let go of the device."""
        self._player.close()


def main() -> int:
    """Run the node."""
    keep_memory()
    return run(CameraNode)
