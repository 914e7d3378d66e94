# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Several cameras by one `inference`, over real DDS: who sees what, and nobody is left out."""

from __future__ import annotations

from itertools import count
from pathlib import Path
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from helpers import Graph, header, image_message, jpeg_message
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.slot import RegionResult
from etuner_ros.msg import (
    Box,
    LabelCorrection,
    LabelledBatch,
    LabelReceipt,
    Objects,
    PredictedFrame,
    Prediction,
    Region,
    Regions,
)
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.inference_settings import InferenceSettings
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS

pytestmark = pytest.mark.alone

NAMES = ['front', 'rear']


@pytest.fixture
def pictures(frames: list) -> dict[str, np.ndarray]:
    """Return what the cameras see: two kinds that the base weights know."""
    return {
        name: next(f.image for f in frames if f.label == kind)
        for name, kind in (('front', 'duck'), ('rear', 'mug'))
    }


class Eyes:
    """`inference` behind two cameras."""

    def __init__(self, ros: Graph, deployed: Path, **parameters: object) -> None:
        self.ros = ros
        values = {'autostart': True, 'keep_rate_hz': 1000.0, 'cameras': NAMES, **parameters}
        self.node = ros.add(InferenceNode, model__weights=str(deployed), **values)
        ros.until(lambda: self.node.diagnostics()['active'], 'inference to be active')
        self.said: list[Prediction] = ros.listen(Prediction, 'predictions')
        self.images = {n: ros.speak(Image, f'{n}/image_raw', NEWEST_WINS) for n in NAMES}
        ros.until(lambda: ros.probe.count_publishers('predictions') > 0, 'predictions')

    def show(self, name: str, image: np.ndarray, stamp: int) -> Prediction:
        """Show a camera a picture until it is predicted: best effort may lose it."""

        def answered() -> Prediction | None:
            self.images[name].publish(image_message(image, header(stamp)))
            found = (p for p in self.said if p.source == name and p.header == header(stamp))
            return next(found, None)

        return self.ros.until(answered, f'a prediction of {name}')


def test_each_camera_is_predicted_under_its_name_by_one_copy_of_the_network(
    ros, deployed, pictures
):
    kept = ros.listen(PredictedFrame, 'predicted_frame')
    drawn = {n: ros.listen(Image, f'{n}/annotated') for n in NAMES}
    eyes = Eyes(ros, deployed)
    front, rear = (eyes.show(n, pictures[n], 7) for n in NAMES)
    assert (front.labels[0], rear.labels[0]) == ('duck', 'mug')
    assert front.frame_uid != rear.frame_uid
    ros.until(lambda: {k.source for k in kept} == set(NAMES), 'a kept frame of each')
    ros.until(lambda: all(drawn.values()), 'an annotated picture of each')
    values = eyes.node.diagnostics()
    assert values['front: frames'] >= 1
    assert values['rear: frames'] >= 1
    assert values['frames'] == values['front: frames'] + values['rear: frames']


def test_cameras_share_the_rate_at_which_frames_are_kept(ros, deployed, pictures):
    eyes = Eyes(ros, deployed, keep_rate_hz=1.0)
    now = [time.monotonic() + 100.0]
    eyes.node._kept._keeper._clock = lambda: now[0]
    stamps = count(1)

    def kept_after(seconds: float) -> list[int]:
        """Return how many frames of each camera were kept so far."""
        now[0] += seconds
        for _ in range(3):
            stamp = next(stamps)
            for name in NAMES:
                eyes.show(name, pictures[name], stamp)
        return [sum(p.kept for p in eyes.said if p.source == name) for name in NAMES]

    begun = kept_after(0.0)[0]
    found = [kept_after(seconds) for seconds in (1.2, 1.0, 1.0, 1.0)]
    assert found == [[begun + n] * 2 for n in (0, 1, 1, 2)], 'every other second'


def test_what_waits_goes_through_the_network_together_and_a_damaged_image_alone_is_left_out(
    ros, deployed, pictures
):
    eyes = Eyes(ros, deployed, batch=2, image_transport='raw')
    for name in NAMES:  # both come while nobody looks
        eyes.show(name, pictures[name], 1)

    def together() -> bool:
        eyes.said.clear()
        for name in NAMES:
            eyes.images[name].publish(image_message(pictures[name], header(2)))
        ros.until(lambda: len(eyes.said) >= 2, 'both')
        return len({p.inference_ms for p in eyes.said}) == 1

    ros.until(together, 'both in one batch, which took the time that both say')
    assert {p.source: p.labels[0] for p in eyes.said} == {'front': 'duck', 'rear': 'mug'}

    def one_damaged() -> bool:
        eyes.said.clear()
        damaged = image_message(pictures['front'], header(3))
        damaged.data = b'abc'
        before = eyes.node.diagnostics()['unreadable frames']
        eyes.images['front'].publish(damaged)
        eyes.images['rear'].publish(image_message(pictures['rear'], header(3)))
        ros.until(lambda: any(p.header == header(3) for p in eyes.said), 'the other camera')
        return eyes.node.diagnostics()['unreadable frames'] > before

    ros.until(one_damaged, 'a damaged image beside a good one')
    assert {p.source for p in eyes.said if p.header == header(3)} == {'rear'}


@pytest.mark.parametrize('fails', [False, True])
def test_no_prediction_waits_for_the_things_in_the_image_of_another_camera(
    ros, deployed, pictures, monkeypatch, fails
):
    eyes = Eyes(ros, deployed, batch=2)
    objects: list[Objects] = ros.listen(Objects, 'objects')
    reports: list[Any] = ros.listen(DiagnosticArray, '/diagnostics')
    node, live = eyes.node, eyes.node._weights.live
    boxes = [Region(box=Box(x=10.0, y=10.0, width=60.0, height=60.0), score=0.9)]
    order: list[str] = []

    def look_at(image: np.ndarray, *rest: Any) -> RegionResult:
        order.append('looks')
        if fails and np.array_equal(image, pictures['front']):
            raise RuntimeError('the regions of front')
        return LiveModel.look_at(live, image, *rest)

    def publish(message: Prediction) -> None:
        order.append(message.source)
        type(node._predictions).publish(node._predictions, message)

    monkeypatch.setattr(live, 'look_at', look_at)
    monkeypatch.setattr(node._predictions, 'publish', publish)
    for name in NAMES * 2:  # the first ones have images kept; the next ones wait for these
        node._regions._on_regions(Regions(header=header(5), source=name, regions=boxes))
    arrived = [
        camera._note(image_message(pictures[camera.name], header(5))) for camera in node._cameras
    ]
    node._look(arrived)
    assert order == ['front', 'rear', 'looks', 'looks']
    ros.until(lambda: len(eyes.said) == 2, 'both predictions')
    named = {'rear'} if fails else set(NAMES)
    ros.until(lambda: len(objects) == len(named), 'the things')
    assert {o.source for o in objects} == named
    if fails:
        told = 'RuntimeError: the regions of front'
        ros.until(lambda: any(told in s.message for r in reports for s in r.status), 'a word')


def test_a_camera_that_floods_the_robot_does_not_starve_the_other(ros, deployed, pictures):
    eyes = Eyes(ros, deployed)
    for stamp in range(1, 11):
        for _ in range(4):
            eyes.images['front'].publish(image_message(pictures['front'], header(stamp)))
        eyes.images['rear'].publish(image_message(pictures['rear'], header(stamp)))

        def rear(stamp: int = stamp) -> bool:
            for _ in range(4):
                eyes.images['front'].publish(image_message(pictures['front'], header(stamp)))
            return any(p.source == 'rear' and p.header == header(stamp) for p in eyes.said)

        ros.until(rear, 'the camera that sends little')
    heard = [p.source for p in eyes.said]
    assert heard.count('front') > heard.count('rear') >= 10, 'the flood was one'
    pairs = zip(eyes.said, eyes.said[1:])
    together = sum(a.inference_ms == b.inference_ms for a, b in pairs)  # else by chance
    assert together < 3, 'on a CPU one after the other: none waits for the other camera'


def test_a_correction_goes_to_the_camera_that_it_names_and_is_answered_once(
    ros, deployed, pictures, tmp_path
):
    ros.add(
        LabelCollectorNode, batch_size=1, request_period_s=0.0, store=str(tmp_path / 'labels.db')
    )
    receipts = ros.listen(LabelReceipt, 'label_receipts')
    batches = ros.listen(LabelledBatch, 'labelled_batches', LATCHED)
    kept = ros.listen(PredictedFrame, 'predicted_frame')
    eyes = Eyes(ros, deployed)
    said = {n: eyes.show(n, pictures[n], 9) for n in NAMES}  # the cameras are triggered together
    ros.until(lambda: len({k.source for k in kept}) == 2, 'both frames')
    labels = ros.speak(LabelCorrection, 'labels')
    labels.publish(LabelCorrection(header=header(9), source='rear', label='cup', author='me'))
    ros.until(lambda: receipts and batches, 'the receipt and the batch')
    assert [(r.code, r.source, r.predicted_label) for r in receipts] == [(0, 'rear', 'mug')]
    sample = batches[0].samples[0]
    assert (sample.source, sample.label) == ('rear', 'cup')
    assert sample.frame_uid in [p.frame_uid for p in eyes.said if p.source == 'rear']
    assert said['front'].frame_uid != sample.frame_uid
    assert len(receipts) == 1


def test_a_camera_that_is_unplugged_is_named_and_said_to_be_back(ros, deployed, pictures):
    eyes = Eyes(ros, deployed, silence_s=0.5)
    reports: list[Any] = ros.listen(DiagnosticArray, '/diagnostics')

    def status() -> str:
        eyes.images['front'].publish(image_message(pictures['front'], header(1)))
        said = [s.message for r in reports[-8:] for s in r.status if 'inference' in s.name]
        return said[-1] if said else ''

    ros.until(lambda: "no image of camera 'rear'" in status(), 'the silent camera by name')
    assert "camera 'front'" not in status()
    eyes.show('rear', pictures['rear'], 2)

    def back() -> bool:
        eyes.images['rear'].publish(image_message(pictures['rear'], header(3)))
        return 'no image' not in status()

    ros.until(back, 'both cameras')


def test_compressed_images_of_several_cameras(ros, deployed, pictures):
    node = ros.add(
        InferenceNode,
        model__weights=str(deployed),
        autostart=True,
        cameras='front, rear',  # as the launch argument gives them
        image_transport='compressed',
    )
    ros.until(lambda: node.diagnostics()['active'], 'inference to be active')
    said = ros.listen(Prediction, 'predictions')
    images = {
        n: ros.speak(CompressedImage, f'{n}/image_raw/compressed', NEWEST_WINS) for n in NAMES
    }

    def both() -> bool:
        for name in NAMES:
            images[name].publish(jpeg_message(pictures[name], header(1)))
        return {p.source for p in said} == set(NAMES)

    ros.until(both, 'both cameras')


@pytest.mark.parametrize(
    ('cameras', 'why'), [(('front', 'front'), 'twice'), (('front camera',), 'part of a topic')]
)
def test_names_that_can_not_be_are_refused(cameras, why):
    with pytest.raises(ConfigError, match=why):
        InferenceSettings(cameras=cameras)
