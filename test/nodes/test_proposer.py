# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`proposer`, and the truth of regions that `camera` plays."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

from helpers import Graph, header
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from etuner_ros.core.boxes.recording import BoxRecording
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.msg import Regions
from etuner_ros.nodes.camera import CameraNode
from etuner_ros.nodes.conversions import array_to_image
from etuner_ros.nodes.messages import to_bytes
from etuner_ros.nodes.proposer import ProposerNode
from etuner_ros.nodes.qos import NEWEST_WINS


@pytest.fixture
def things(repository: Path) -> Path:
    return repository / 'config' / 'stream_things'


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('ROS_HOME', str(tmp_path))


def test_regions_carry_the_header_of_their_image_and_bad_images_are_told(ros: Graph, things: Path):
    regions = ros.listen(Regions, 'regions')
    node = ros.add(ProposerNode, most=5, rate_hz=1000.0, source='front')
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    ros.until(lambda: images.get_subscription_count(), 'a match')
    picture = next(iter(BoxRecording(things))).image
    message = array_to_image(picture, header(7))
    bad = array_to_image(picture, header(6))
    bad.step = 1

    def tell(sent: Image, done) -> bool:
        images.publish(sent)
        return done()

    ros.until(lambda: tell(bad, lambda: node.health._problems > 0), 'a complaint')
    assert not regions
    ros.until(lambda: tell(message, lambda: bool(regions)), 'regions')
    assert regions[0].header == message.header
    assert regions[0].source == 'front'
    assert len(regions[0].regions) == 5
    for region in regions[0].regions:
        assert 0 <= region.box.x < 320
        assert region.box.width > 0
        assert 0 <= region.score <= 1


def test_in_an_image_that_shows_nothing_new_the_same_regions_are_said_without_a_look(ros, things):
    regions = ros.listen(Regions, 'regions')
    node = ros.add(ProposerNode, kind='own', rate_hz=1000.0)
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    recording = BoxRecording(things)
    first, other = (f.image for f in list(islice(recording, 60))[::59])
    count = 0

    def show(picture: np.ndarray, wanted: Callable[[], bool]) -> None:
        def said() -> bool:
            nonlocal count
            count += 1
            images.publish(array_to_image(picture, header(count)))
            return wanted()

        ros.until(said, 'regions')

    show(first, lambda: node._diagnostics()['images as before'] >= 3 and len(regions) > 3)
    assert len({r.header.stamp.nanosec for r in regions[-3:]}) == 3, 'each of its own image'
    assert regions[-1].regions == regions[-2].regions
    known = regions[-1].regions
    show(other, lambda: regions[-1].regions != known)


def test_it_listens_to_compressed_images(ros: Graph, things: Path):
    regions = ros.listen(Regions, 'regions')
    ros.add(ProposerNode, kind='own', image_transport='compressed')
    images = ros.speak(CompressedImage, 'image_raw/compressed', NEWEST_WINS)
    code = to_bytes(encode_jpeg(np.full((60, 80, 3), 90, np.uint8)))
    message = CompressedImage(header=header(3), format='jpeg', data=code)

    def tell() -> bool:
        images.publish(message)
        return bool(regions)

    ros.until(tell, 'regions')
    assert regions[0].header == message.header


def test_a_kind_that_there_is_not_is_refused(ros: Graph):
    with pytest.raises(ConfigError, match='kind must be one of'):
        ros.add(ProposerNode, kind='yolo')


def test_the_camera_says_where_things_are_as_the_recording_does(ros: Graph, things: Path):
    truths = ros.listen(Regions, 'region_truth')
    node = ros.add(CameraNode, source=str(things), rate_hz=50.0, autoplay=False)
    ros.until(lambda: node._regions.get_subscription_count(), 'a match')
    node._player.play()
    node._timer.reset()
    ros.until(lambda: len(truths) >= 3, 'truths')
    for truth, frame in zip(truths, islice(BoxRecording(things), 3), strict=False):
        assert [r.label for r in truth.regions] == list(frame.labels)
        found = [(r.box.x, r.box.y, r.box.width, r.box.height) for r in truth.regions]
        np.testing.assert_allclose(np.reshape(found, (-1, 4)), frame.boxes)
        np.testing.assert_allclose([r.score for r in truth.regions], frame.shares)
