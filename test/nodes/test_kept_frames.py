# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Kept frames over real DDS: at the size that is needed, in full from `~/get_frame`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
from helpers import Graph, header, image_message, jpeg_message
import numpy as np
import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image

from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.images.codec import decode, resize_square
from etuner_ros.msg import LabelCorrection, LabelledBatch, PredictedFrame
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS
from etuner_ros.nodes.teaching.full_picture import FullPictureClient
from etuner_ros.srv import GetFrame

INPUT = 64  # px, of the network that the tests deploy


@pytest.fixture
def duck(frames: list) -> np.ndarray:
    """Return a duck as a camera of 640 x 480 has it."""
    return cv2.resize(next(f.image for f in frames if f.label == 'duck'), (640, 480))


class Eye:
    """`inference` before a camera; it keeps every frame."""

    def __init__(self, ros: Graph, deployed: Path, **parameters: object) -> None:
        self.ros, self._stamp = ros, 0
        values = {'autostart': True, 'keep_rate_hz': 1000.0, **parameters}
        self.node = ros.add(InferenceNode, model__weights=str(deployed), **values)
        ros.until(lambda: self.node.diagnostics()['active'], 'inference to be active')
        self._kept = ros.listen(PredictedFrame, 'predicted_frame')
        compressed = values.get('image_transport') == 'compressed'
        self._message = jpeg_message if compressed else image_message
        topic = 'image_raw/compressed' if compressed else 'image_raw'
        kind = CompressedImage if compressed else Image
        self._images = ros.speak(kind, topic, NEWEST_WINS)
        ros.until(
            lambda: self.node._kept._frames.get_subscription_count(), 'who hears of kept frames'
        )

    def see(self, image: np.ndarray) -> PredictedFrame:
        """Show a picture until it is seen: best effort may lose large ones. Return a kept frame."""
        self._stamp += 1
        self.shown = self._message(image, header(self._stamp))

        def seen() -> PredictedFrame | None:
            self._images.publish(self.shown)
            return next((k for k in self._kept if k.header == self.shown.header), None)

        return self.ros.until(seen, 'a kept frame')

    def full(self, uid: int) -> GetFrame.Response:
        return self.ros.call(GetFrame, 'inference/get_frame', frame_uid=uid)


def size(message: PredictedFrame | GetFrame.Response) -> tuple[int, ...]:
    return decode(bytes(message.image.data)).shape[:2]


def test_a_frame_is_kept_and_stored_at_twice_the_input_of_the_network(ros, deployed, duck):
    collector = ros.add(LabelCollectorNode, batch_size=1, request_period_s=0.0)
    batches = ros.listen(LabelledBatch, 'labelled_batches', LATCHED)
    eye = Eye(ros, deployed)
    labels = ros.speak(LabelCorrection, 'labels')
    kept = eye.see(duck)
    assert size(kept) == (2 * INPUT, 170)
    assert (kept.image.format, kept.image.header, kept.label) == ('jpeg', kept.header, 'duck')
    correction = {'header': kept.header, 'source': kept.source, 'frame_uid': kept.frame_uid}
    ros.until(lambda: len(collector._buffer), 'the frame to be buffered')
    labels.publish(LabelCorrection(label='duck', author='ann', **correction))
    ros.until(lambda: batches and batches[-1].samples, 'the label to be handed out')
    stored = bytes(batches[-1].samples[0].image.data)
    assert stored == bytes(kept.image.data)
    seen, learned = resize_square(duck, INPUT), resize_square(decode(stored), INPUT)
    assert np.abs(seen.astype(int) - learned).mean() < 3, 'grey levels of 256'


@pytest.mark.parametrize('transport', ['raw', 'compressed'])
def test_the_full_picture_can_be_had(ros, deployed, duck, transport):
    eye = Eye(ros, deployed, image_transport=transport)
    kept = eye.see(duck)
    assert size(kept) == (2 * INPUT, 170)
    answer = eye.full(kept.frame_uid)
    assert (answer.error_code, answer.error_msg) == (GetFrame.Response.NONE, '')
    assert (size(answer), answer.image.header) == (duck.shape[:2], kept.header)
    if transport == 'compressed':
        assert bytes(answer.image.data) == bytes(eye.shown.data), 'as the camera sent it'


def test_what_is_gone_is_said_so(ros, deployed, duck):
    eye = Eye(ros, deployed, full_mb=0.1)
    first = eye.see(duck)

    def gone() -> GetFrame.Response | None:
        eye.see(duck)
        answer = eye.full(first.frame_uid)
        return answer if answer.error_code else None

    answer = ros.until(gone, 'newer pictures to take the room')
    assert answer.error_code == GetFrame.Response.GONE
    assert f'frame {first.frame_uid} is gone' in answer.error_msg
    assert 'full_mb = 0.1 MB' in answer.error_msg
    assert not answer.image.data
    assert 0 < eye.node.diagnostics()['full pictures MB'] <= 0.1
    for uid in (0, 1, 2**64 - 1):
        assert eye.full(uid).error_code == GetFrame.Response.GONE


def test_memory_for_full_pictures_can_be_taken_away_while_it_runs(ros, deployed, duck):
    eye = Eye(ros, deployed)
    before = eye.see(duck)
    assert eye.node.set_parameters([Parameter('full_mb', value=0.0)])[0].successful
    after = eye.see(duck)
    for kept in (before, after):
        assert eye.full(kept.frame_uid).error_code == GetFrame.Response.GONE
        assert size(kept) == (2 * INPUT, 170)


def test_at_the_size_of_the_camera_everything_is_as_it_comes(ros, deployed, duck):
    eye = Eye(ros, deployed, image_transport='compressed', keep_size=0)
    kept = eye.see(duck)
    assert bytes(kept.image.data) == bytes(eye.shown.data)
    assert bytes(eye.full(kept.frame_uid).image.data) == bytes(eye.shown.data)


def test_a_picture_that_is_small_enough_is_passed_on_as_it_came(ros, deployed, duck):
    eye = Eye(ros, deployed, image_transport='compressed')
    kept = eye.see(cv2.resize(duck, (200, 2 * INPUT)))
    assert bytes(kept.image.data) == bytes(eye.shown.data)


def test_the_size_can_be_set_while_it_runs(ros, deployed, duck):
    eye = Eye(ros, deployed)
    for keep_size, expected in ((240, (240, 320)), (0, (480, 640)), (10, (INPUT, 86))):
        assert eye.node.set_parameters([Parameter('keep_size', value=keep_size)])[0].successful
        assert size(eye.see(duck)) == expected
    refused = eye.node.set_parameters([Parameter('keep_size', value=-2)])[0]
    assert not refused.successful
    assert 'keep_size' in refused.reason


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Give a thread to ask from, as the page has."""
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_the_page_asks_all_nodes_that_it_was_told_of(ros, deployed, duck, pool):
    eye = Eye(ros, deployed)
    kept = eye.see(duck)

    def fetched(names: str, uid: int) -> bytes:
        client = FullPictureClient(ros.probe, names)
        found = client._clients.get('inference')
        ros.until(lambda: found is None or found.service_is_ready(), 'the service')
        future = pool.submit(client.fetch, uid)
        ros.until(future.done, 'the answer')
        return future.result()

    picture = fetched('absent, inference', kept.frame_uid)
    assert decode(picture).shape == duck.shape
    with pytest.raises(EtunerError, match=r'absent does not answer; .*frame 5 is gone'):
        fetched('absent, inference', 5)
    with pytest.raises(EtunerError, match='no inference node is named'):
        fetched('', kept.frame_uid)
    with pytest.raises(ConfigError, match="no node can be called 'no name'"):
        FullPictureClient(ros.probe, 'inference, no name')
