# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Regions in, objects out, things named by their box, over real DDS."""

from __future__ import annotations

from itertools import count
from pathlib import Path
import threading
import time
from types import SimpleNamespace

import cv2
from diagnostic_msgs.msg import DiagnosticArray
from helpers import Graph, header, image_message
import numpy as np
import pytest
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from test_loop import Robot

from etuner_ros.core.images.annotate import AMBER, GREEN
from etuner_ros.core.images.codec import decode
from etuner_ros.msg import (
    Box,
    FrameFeature,
    LabelCorrection,
    LabelledBatch,
    LabelReceipt,
    Objects,
    PredictedFrame,
    Prediction,
    Region,
    Regions,
)
from etuner_ros.nodes import region_naming
from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS

DUCK, MUG = (40, 120, 160, 160), (400, 200, 160, 160)  # x, y, width, height in px


@pytest.fixture
def table(frames: list) -> np.ndarray:
    """Return a picture of 640 x 480 px in which a duck and a mug lie."""
    image = np.full((480, 640, 3), 90, np.uint8)
    for kind, (x, y, width, height) in (('duck', DUCK), ('mug', MUG)):
        thing = next(f.image for f in frames if f.label == kind)
        image[y : y + height, x : x + width] = cv2.resize(thing, (width, height))
    return image


def region(box: tuple[int, ...], score: float = 0.5) -> Region:
    x, y, width, height = map(float, box)
    return Region(box=Box(x=x, y=y, width=width, height=height), score=score)


class Eye:
    """`inference` before a camera and a detector."""

    def __init__(self, ros: Graph, deployed: Path, **parameters: object) -> None:
        self.ros, self.stamp_ns = ros, ros.probe.get_clock().now().nanoseconds
        values = {'autostart': True, 'keep_rate_hz': 1000.0, **parameters}
        self.node = ros.add(InferenceNode, model__weights=str(deployed), **values)
        ros.until(lambda: self.node.diagnostics()['active'], 'inference to be active')
        self.objects: list[Objects] = ros.listen(Objects, 'objects')
        self.kept: list[PredictedFrame] = ros.listen(PredictedFrame, 'predicted_frame')
        self.predicted = ros.listen(Prediction, 'predictions')
        self._images = ros.speak(Image, 'image_raw', NEWEST_WINS)
        self._regions = ros.speak(Regions, 'regions')

    def see(self, image: np.ndarray, boxes: list[Region], early: bool = False) -> Objects:
        """Show a picture and where things are in it, until something is said of it."""
        first = self.stamp_ns

        def said() -> Objects | None:
            self.stamp_ns += 10**7
            regions = Regions(header=header(self.stamp_ns), regions=boxes)
            if early:
                self._regions.publish(regions)
            self._images.publish(image_message(image, header(self.stamp_ns)))
            if not early:
                self._regions.publish(regions)
            known = (o for o in self.objects if stamp(o) > first)
            return next(known, None)

        return self.ros.until(said, 'objects')

    def show(self, image: np.ndarray, head: Header) -> None:
        """Show a picture until it is predicted."""

        def predicted() -> bool:
            self._images.publish(image_message(image, head))
            return any(p.header == head for p in self.predicted)

        self.ros.until(predicted, 'a prediction')

    def found(self, head: Header, boxes: list[Region]) -> None:
        """Say where things are in a picture."""
        self._regions.publish(Regions(header=head, regions=boxes))


def stamp(message: Objects | PredictedFrame) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


@pytest.mark.parametrize('early', [False, True])
def test_regions_become_named_objects_of_their_image(ros, deployed, table, early):
    eye = Eye(ros, deployed, unknown_below=0.0)
    said = eye.see(table, [region(DUCK, 0.4), region(MUG, 0.9)], early)
    assert (said.source, said.width, said.height) == ('camera', 640, 480)
    names = {o.labels[0]: o for o in said.objects}
    assert set(names) == {'duck', 'mug'}
    assert (names['duck'].box.x, names['duck'].box.width) == (40.0, 160.0)
    assert names['duck'].proposal.score == pytest.approx(0.4)
    assert names['duck'].track != names['mug'].track
    assert not any(o.unknown for o in said.objects)
    again = eye.see(table, [region(MUG), region(DUCK)])
    tracks = {o.labels[0]: o.track for o in again.objects}
    assert tracks == {name: o.track for name, o in names.items()}, 'the same things'
    ros.until(lambda: any(k.frame_uid == said.frame_uid for k in eye.kept), 'the kept frame')
    frame = next(k for k in eye.kept if k.frame_uid == said.frame_uid)
    assert (frame.width, frame.height) == (640, 480)


def test_the_annotated_image_shows_the_boxes_of_known_and_unknown_things(ros, deployed, table):
    eye = Eye(ros, deployed, annotated_width=320, unknown_below=0.0)
    drawn: list[Image] = ros.listen(Image, 'annotated')

    def edge() -> np.ndarray:
        """Return the colours at the left edge of the mug, at half the size."""
        eye.see(table, [region(MUG)])
        if not drawn:
            return np.zeros((1, 3))
        picture = np.frombuffer(bytes(drawn[-1].data), np.uint8).reshape(240, 320, 3)
        return picture[150, 198:203].astype(int)

    for colour, unknown_below in ((GREEN, 0.0), (AMBER, 1.0)):
        strict = Parameter('unknown_below', value=unknown_below)
        assert eye.node.set_parameters([strict])[0].successful
        ros.until(lambda c=colour: np.abs(edge() - c).sum(axis=1).min() < 10, 'the box')


def test_regions_that_can_not_be_are_left_out_and_said_and_the_rest_is_named(ros, deployed, table):
    eye = Eye(ros, deployed, most_regions=2)
    reports = ros.listen(DiagnosticArray, '/diagnostics')
    nan = float('nan')
    bad = [
        region((700, 10, 50, 50), 0.9),
        region((10, 10, 0, 0), 0.9),
        Region(box=Box(x=nan, y=nan, width=nan, height=nan), score=nan),
    ]
    table_top = (250, 20, 60, 60)
    poor = [region(table_top, 0.1)] * 1000
    said = eye.see(table, [*bad, *poor, region(MUG), region(table_top, nan), *poor, region(DUCK)])
    assert {(o.box.x, o.box.y) for o in said.objects} == {DUCK[:2], MUG[:2]}, 'the best two'
    assert eye.node.diagnostics()['regions left out'] >= 2004
    assert eye.see(table, []).objects == []

    def named() -> bool:
        eye._regions.publish(Regions(header=header(1), source='nobody', regions=[region(DUCK)]))
        return any("'nobody'" in s.message for r in reports for s in r.status)

    ros.until(named, 'a word on the unknown camera')
    assert eye.see(table, [region(DUCK)]).objects, 'and it goes on'


def test_what_was_found_in_an_older_image_is_not_named_after_a_newer_one(ros, deployed, table):
    eye = Eye(ros, deployed)
    eye.see(table, [region(DUCK)])  # from now on images are kept
    older, newer, newest = (header(eye.stamp_ns + n * 10**8) for n in (1, 2, 3))
    for head in (older, newer, newest):
        eye.show(table, head)
    eye.found(newer, [region(DUCK)])
    ros.until(lambda: any(o.header == newer for o in eye.objects), 'those of the newer one')
    eye.found(older, [region(DUCK)])
    eye.found(newest, [region(DUCK)])
    ros.until(lambda: any(o.header == newest for o in eye.objects), 'those of the newest')
    heads = [o.header for o in eye.objects if o.header in (older, newer, newest)]
    assert heads == [newer, newest]
    eye.stamp_ns -= 10**13
    eye.objects.clear()
    assert eye.see(table, [region(DUCK)]).objects, 'of a recording that starts again'


def test_of_a_region_that_leaves_the_image_the_part_in_it_is_looked_at(ros, deployed, table):
    """Not its square: that of a box of a million px would take all memory."""
    eye = Eye(ros, deployed, unknown_below=0.0)
    features = ros.listen(FrameFeature, 'frame_feature')
    x, y, width, height = MUG
    huge = (x, -1e6, 640 - x, y + height + 1e6)
    said = eye.see(table, [region(DUCK), region(huge)])
    boxes = {(o.box.x, o.box.y, o.box.width, o.box.height) for o in said.objects}
    inside = (float(x), 0.0, 640.0 - x, float(y + height))
    assert boxes == {tuple(map(float, DUCK)), inside}

    def told() -> bool:
        return any(f.frame_uid == said.frame_uid and f.box.width == inside[2] for f in features)

    ros.until(told, 'its feature, by the same box')


def test_the_threads_that_share_regions_are_as_many_as_set_and_end_with_the_node(
    ros, deployed, table
):
    before = set(threading.enumerate())

    def threads() -> int:
        started = set(threading.enumerate()) - before
        return sum(thread.name.startswith('regions') for thread in started)

    eye = Eye(ros, deployed, engine='onnxruntime', region_threads=3)
    many = [region(DUCK), region(MUG)] * 4
    steps = count()

    def moved() -> np.ndarray:  # of what looks as before nothing is to be shared
        return np.roll(table, 7 * next(steps), axis=1)

    ros.until(lambda: eye.see(moved(), many) and threads() > 1, 'threads that share regions')
    assert threads() <= 3
    assert eye.node.set_parameters([Parameter('region_threads', value=1)])[0].successful
    assert threads() == 0
    assert eye.see(moved(), many).objects, 'and it goes on'
    assert threads() == 1
    ros.remove(eye.node)
    assert threads() == 0


def test_a_thing_that_is_named_by_its_box_goes_out_as_a_picture_of_that_thing(
    ros, deployed, table, tmp_path
):
    ros.add(
        LabelCollectorNode, batch_size=1, request_period_s=0.0, store=str(tmp_path / 'labels.db')
    )
    receipts = ros.listen(LabelReceipt, 'label_receipts')
    batches = ros.listen(LabelledBatch, 'labelled_batches', LATCHED)
    features = ros.listen(FrameFeature, 'frame_feature')
    eye = Eye(ros, deployed)
    eye.see(table, [region(DUCK)])  # from now on frames are kept as the camera has them
    said = eye.see(table, [region(DUCK), region(MUG)])
    assert said.kept
    ros.until(lambda: any(k.frame_uid == said.frame_uid for k in eye.kept), 'the kept frame')
    ros.until(
        lambda: sum(f.frame_uid == said.frame_uid and f.box.width > 0 for f in features) == 2,
        'a feature of each region',
    )
    labels = ros.speak(LabelCorrection, 'labels')
    duck = region(DUCK).box
    labels.publish(
        LabelCorrection(
            header=said.header,
            frame_uid=said.frame_uid,
            box=duck,
            label='rubber duck',
            author='me',
        )
    )
    ros.until(lambda: receipts and batches, 'the receipt and the batch')
    assert (receipts[0].code, receipts[0].box) == (LabelReceipt.ACCEPTED, duck)
    assert receipts[0].thing == duck
    assert receipts[0].predicted_label == 'duck'
    sample = batches[0].samples[0]
    assert (sample.label, sample.box, sample.frame_uid) == ('rubber duck', duck, said.frame_uid)
    height, width = decode(bytes(sample.image.data)).shape[:2]
    assert height == width == 192, 'the square around it, with a margin'
    labels.publish(
        LabelCorrection(
            header=said.header,
            frame_uid=said.frame_uid,
            box=region((900, 900, 10, 10)).box,
            label='cup',
            author='me',
        )
    )
    ros.until(lambda: len(receipts) == 2, 'a receipt of the impossible box')
    assert receipts[1].code == LabelReceipt.INVALID_BOX
    assert '640 x 480' in receipts[1].message


def test_regions_with_stamps_of_their_own_are_named_in_the_nearest_image(ros, deployed, table):
    eye = Eye(ros, deployed, unknown_below=0.0)
    images = ros.speak(Image, 'image_raw', NEWEST_WINS)
    regions = ros.speak(Regions, 'regions')
    stamps = count(ros.probe.get_clock().now().nanoseconds, 10**8)
    shown = set()

    def said() -> Objects | None:
        at = next(stamps)
        shown.add(at)
        images.publish(image_message(table, header(at)))
        regions.publish(Regions(header=header(at + 2 * 10**7), regions=[region(DUCK)]))
        return eye.objects[0] if eye.objects else None

    objects = ros.until(said, 'objects')
    assert stamp(objects) in shown, 'the header is of the image that was looked at'
    assert [o.labels[0] for o in objects.objects] == ['duck']
    assert eye.node.diagnostics()['regions in a near image'] > 0


def test_regions_of_images_that_are_not_here_are_said(ros, deployed, table):
    eye = Eye(ros, deployed, regions_wait_s=0.2)
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    eye.see(table, [region(DUCK)])
    regions = ros.speak(Regions, 'regions')

    def said() -> bool:
        regions.publish(Regions(header=header(10**9), regions=[region(DUCK)]))
        return any(
            'whose image is not here: later than regions_wait_s (0.2 s)' in status.message
            for message in statuses
            for status in message.status
        )

    ros.until(said, 'the cause')


def test_a_detector_that_seldom_speaks_has_its_regions_named_too(
    ros, deployed, table, monkeypatch
):
    """One that looks before each grasp, say: longer than images are kept for regions to come."""
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], perf_counter=time.perf_counter)
    monkeypatch.setattr(region_naming, 'time', clock)
    eye = Eye(ros, deployed)
    first = ros.probe.get_clock().now().nanoseconds
    for turn in range(3):
        now[0] += 4 * region_naming.LATELY_S
        assert not eye.objects
        head = header(first + turn * 10**7)
        eye.show(table, head)
        eye.found(head, [region(DUCK)])
        ros.until(lambda: eye.node._regions.wanted('camera'), 'the regions')
    ros.until(lambda: eye.objects, 'the thing, from the third look on')


def test_a_frame_whose_regions_come_is_kept_although_it_was_not_its_turn(ros, deployed, table):
    eye = Eye(ros, deployed, keep_rate_hz=0.1)
    empty = [eye.see(table, []) for _ in range(3)]
    said = [eye.see(table, [region(DUCK)]) for _ in range(4)]
    told = {one.frame_uid: one for one in said if one.kept}
    ros.until(lambda: set(told) <= {p.frame_uid for p in eye.predicted}, 'the predictions')
    at_once = {p.frame_uid for p in eye.predicted if p.kept}
    assert set(told) - at_once
    assert {one.frame_uid for one in empty if one.kept} <= at_once, 'nothing is to be seen there'
    ros.until(lambda: set(told) <= {k.frame_uid for k in eye.kept}, 'the frames')
    after_all = next(k for k in eye.kept if k.frame_uid not in at_once)
    shape = decode(bytes(after_all.image.data)).shape
    assert shape == table.shape, 'as the camera has it: things are cut out of it'
    assert not all(one.kept for one in said), 'at this rate, not all'


def test_a_thing_that_was_pointed_at_is_found_by_its_name_in_later_frames(ros, deployed, frames):
    robot = Robot(ros, deployed)
    objects = ros.listen(Objects, 'objects')
    kept = ros.listen(PredictedFrame, 'predicted_frame')
    features = ros.listen(FrameFeature, 'frame_feature')
    regions = ros.speak(Regions, 'regions')
    cars = [f.image for f in frames if f.label == 'race_car']
    ducks = [f.image for f in frames if f.label == 'duck']

    def look(turn: int, left: int) -> tuple[Objects, tuple[int, ...]]:
        """Show a car and a duck side by side; return what is said, and where the car is."""
        image = np.full((480, 640, 3), 90, np.uint8)
        places = (left, 100, 200, 200), (left + 250, 200, 180, 180)
        for thing, (x, y, width, height) in zip((cars[turn], ducks[turn]), places):
            image[y : y + height, x : x + width] = cv2.resize(thing, (width, height))
        before = len(objects)

        def seen() -> Objects | None:
            said = robot.show(image)
            found = [region(place) for place in places]
            regions.publish(Regions(header=said.header, regions=found))
            whole = {k.frame_uid for k in kept if k.width}
            known = {f.frame_uid for f in features if f.box.width}
            return next((o for o in objects[before:] if o.frame_uid in whole & known), None)

        return ros.until(seen, 'objects'), places[0]

    said, _ = look(0, 0)  # from now on frames are kept as the camera has them
    assert all(np.isnan(o.familiar) for o in said.objects), 'nobody has pointed at anything'
    for turn in range(4):
        said, place = look(turn, 20 * turn)
        count = len(robot.receipts)
        robot.labels.publish(
            LabelCorrection(
                header=said.header,
                source=said.source,
                frame_uid=said.frame_uid,
                box=region(place).box,
                label='race_car',
                author='ann',
            )
        )
        ros.until(lambda count=count: len(robot.receipts) > count, 'a receipt')
        assert robot.receipts[-1].code == LabelReceipt.ACCEPTED

    def found() -> bool:
        said, place = look(5, 120)
        names = {round(o.box.x): o.labels[0] for o in said.objects if not o.unknown}
        known = all(o.familiar >= 1.0 for o in said.objects)
        return known and names == {place[0]: 'race_car', place[0] + 250: 'duck'}

    ros.until(found, 'both things by their names, and that they look known')
    samples = [s for b in robot.batches for s in b.samples]
    assert [s.label for s in samples] == ['race_car'] * 4
    assert all(s.box.width == 200.0 for s in samples)
