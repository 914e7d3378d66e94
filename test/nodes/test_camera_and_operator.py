# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`camera` and `operator`."""

from __future__ import annotations

from pathlib import Path
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from helpers import Graph, header
import numpy as np
import pytest
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Bool
from std_srvs.srv import SetBool

from etuner_ros.core.errors import ConfigError, ImageError
from etuner_ros.core.images import sources
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.labels.outbox import Outbox
from etuner_ros.msg import GroundTruth, LabelCorrection, LabelReceipt, Prediction
from etuner_ros.nodes.camera import CameraNode
from etuner_ros.nodes.messages import short
from etuner_ros.nodes.operator import OperatorNode
from etuner_ros.nodes.qos import LATCHED, NEWEST_WINS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, label in enumerate(('duck', 'mug', 'tray')):
        (tmp_path / 'day' / label).mkdir(parents=True)
        picture = np.full((20, 30, 3), 80 * i, np.uint8)
        (tmp_path / 'day' / label / 'a.jpg').write_bytes(encode_jpeg(picture))
    return tmp_path


class Reports:
    """What a node says on /diagnostics."""

    def __init__(self, ros: Graph, name: str) -> None:
        self._heard: list[DiagnosticArray] = ros.listen(DiagnosticArray, '/diagnostics')
        self._name = f'{name}: etuner'

    def of(self, key: str) -> list[str]:
        """Return one of its values, from each of its reports."""
        own = [s for m in self._heard for s in m.status if s.name.endswith(self._name)]
        return [v.value for s in own for v in s.values if v.key == key]


def test_images_come_with_their_truth_and_the_end_is_told(ros: Graph, folder: Path):
    images = ros.listen(Image, 'image_raw', NEWEST_WINS)
    compressed = ros.listen(CompressedImage, 'image_raw/compressed', NEWEST_WINS)
    truths = ros.listen(GroundTruth, 'ground_truth')
    states = ros.listen(Bool, 'camera/playing', LATCHED)
    reports, logs = Reports(ros, 'camera'), ros.logs()
    (folder / 'day' / 'mug' / 'broken.jpg').write_bytes(b'no picture')
    node = ros.add(CameraNode, source=str(folder), rate_hz=20.0, autoplay=False, frame_id='eye')
    ros.until(
        lambda: node._images.get_subscription_count() and node._truths.get_subscription_count(),
        'a match',
    )
    ros.until(lambda: reports.of('pictures published'), 'a report, after some pictures were due')
    assert set(reports.of('pictures published')) == {'0'}
    answer = ros.call(SetBool, 'camera/play', data=True)
    assert answer.success
    assert answer.message == 'playing'
    ros.until(lambda: states and not states[-1].data and len(truths) == 3, 'the end')
    ros.until(lambda: any('1 pictures can not be read' in log.msg for log in logs), 'the rest')
    assert [(t.label, t.scenario) for t in truths] == [
        ('duck', 'day'),
        ('mug', 'day'),
        ('tray', 'day'),
    ]
    stamps = [t.header for t in truths]
    assert all(m.header in stamps for m in images)
    assert images[-1].header.frame_id == 'eye'
    assert (images[-1].height, images[-1].width, images[-1].encoding) == (20, 30, 'rgb8')
    assert compressed
    assert compressed[-1].format == 'jpeg'


def test_it_stops_and_starts_again_and_loops(ros: Graph, folder: Path):
    truths = ros.listen(GroundTruth, 'ground_truth')
    ros.add(CameraNode, source=str(folder), rate_hz=50.0, loop=True)
    logs = ros.logs()
    ros.until(lambda: len(truths) > 6, 'the third time through')
    assert ros.call(SetBool, 'camera/play', data=False).message == 'stopped'
    reports = Reports(ros, 'camera')

    def stopped_at() -> int:
        counts = reports.of('pictures published')
        assert len(set(counts)) <= 1, 'no more pictures'
        return int(counts[0]) if len(counts) >= 3 else 0

    seen = ros.until(stopped_at, 'time in which many pictures were due')
    ros.until(lambda: len(truths) >= seen, 'those on the way')
    ros.call(SetBool, 'camera/play', data=True)
    ros.until(lambda: len(truths) > seen + 3, 'more pictures')
    assert not [m.msg for m in logs if 'has ended' in m.msg]


def test_with_simulated_time_it_follows_the_clock(ros: Graph, folder: Path):
    truths = ros.listen(GroundTruth, 'ground_truth')

    def make(**options: object) -> CameraNode:
        options['parameter_overrides'] += [Parameter('use_sim_time', value=True)]
        return CameraNode(**options)

    ros.add(make, source=str(folder), rate_hz=10.0, loop=True)
    clock = ros.speak(Clock, '/clock', NEWEST_WINS)
    seconds = 1000

    def tick() -> bool:
        nonlocal seconds
        seconds += 1
        message = Clock()
        message.clock.sec = seconds
        clock.publish(message)
        return len(truths) >= 3

    ros.until(tick, 'pictures in simulated time')
    assert all(1000 < t.header.stamp.sec <= seconds for t in truths)
    assert all(t.header.stamp.nanosec == 0 for t in truths)


class Plug:
    """A camera that is plugged in or not, and the capture of it."""

    rate_hz = 200.0
    plugged = True

    def __init__(self, *_: object) -> None:
        self.is_open = Plug.plugged

    def read(self) -> np.ndarray | None:
        threading.Event().wait(0.005)  # as a camera does
        return np.zeros((8, 8, 3), np.uint8) if self.is_open and Plug.plugged else None

    def close(self) -> None:
        pass


def test_a_camera_that_is_unplugged_is_told_and_comes_back(ros: Graph, monkeypatch):
    monkeypatch.setattr(sources, 'Capture', Plug)
    monkeypatch.setattr(sources, 'FIRST_PAUSE_S', 0.05)
    monkeypatch.setattr(Plug, 'plugged', True)
    images = ros.listen(Image, 'image_raw', NEWEST_WINS)
    states = ros.listen(Bool, 'camera/playing', LATCHED)
    statuses = ros.listen(DiagnosticArray, '/diagnostics')
    ros.add(CameraNode, source='/dev/video0')
    ros.until(lambda: images and states, 'a picture')
    assert states[-1].data
    monkeypatch.setattr(Plug, 'plugged', False)
    ros.until(lambda: not states[-1].data, 'the end of pictures on ~/playing')

    def level(words: str) -> bytes | None:
        found = [s for m in statuses for s in m.status if s.name.endswith('camera: etuner')]
        return found[-1].level if found and words in found[-1].message else None

    ros.until(lambda: level('gives no pictures') == DiagnosticStatus.ERROR, 'the diagnostic')
    answer = ros.call(SetBool, 'camera/play', data=True)
    assert not answer.success
    assert 'the camera /dev/video0 gives no pictures' in answer.message
    monkeypatch.setattr(Plug, 'plugged', True)
    ros.until(lambda: states[-1].data, 'it to be opened again')
    seen = len(images)
    ros.until(lambda: len(images) > seen, 'pictures')
    assert ros.call(SetBool, 'camera/play', data=True).message == 'playing'
    ros.until(lambda: level('ok') == DiagnosticStatus.OK, 'the end of the diagnostic')


def test_a_source_that_can_not_be_played_is_one_sentence(ros: Graph, tmp_path: Path):
    with pytest.raises(ImageError, match='holds no images'):
        ros.add(CameraNode, source=str(tmp_path))
    with pytest.raises(ConfigError, match='has no source'):
        ros.add(CameraNode)


def test_the_operator_labels_some_frames_late_and_with_the_truth(ros: Graph):
    ros.add(
        OperatorNode, rate_hz=1000.0, share=0.5, delay_s=0.2, jitter_s=0.1, author='ann', seed=3
    )
    labels = ros.listen(LabelCorrection, 'labels')
    truths = ros.speak(GroundTruth, 'ground_truth')
    predictions = ros.speak(Prediction, 'predictions')
    heads = [header(i * 10**9) for i in range(1, 41)]
    for i, head in enumerate(heads):
        truths.publish(GroundTruth(header=head, label=f'kind{i}'))
    ros.until(lambda: len(ros._nodes[1]._truths) == 40, 'all truths to arrive')
    begun = time.monotonic()
    for i, head in enumerate(heads):
        predictions.publish(
            Prediction(
                header=head, source='camera', frame_uid=100 + i, labels=['x'], kept=i % 4 != 0
            )
        )
    ros.until(lambda: labels, 'the first label')
    assert time.monotonic() - begun >= 0.2
    ros.until(lambda: not ros._nodes[1]._due and len(labels) == ros._nodes[1]._sent, 'all labels')
    assert 5 <= len(labels) <= 25
    for label in labels:
        index = heads.index(label.header)
        assert (label.label, label.author, label.source) == (f'kind{index}', 'ann', 'camera')
        assert label.frame_uid == 100 + index
        assert index % 4 != 0, 'a frame that was not kept can not be labelled'


def test_the_operator_labels_at_its_rate_also_while_the_clock_stands(ros: Graph):
    def make(**options: object) -> OperatorNode:
        options['parameter_overrides'] += [Parameter('use_sim_time', value=True)]
        return OperatorNode(**options)

    node = ros.add(make, share=1.0, delay_s=0.0, jitter_s=0.0, rate_hz=0.01)
    labels = ros.listen(LabelCorrection, 'labels')
    reports = Reports(ros, 'operator')
    truths = ros.speak(GroundTruth, 'ground_truth')
    predictions = ros.speak(Prediction, 'predictions')
    for stamp in (1, 2, 3):
        truths.publish(GroundTruth(header=header(stamp), label='mug'))
    ros.until(lambda: len(node._truths) == 3, 'the truth')
    for stamp in (1, 2, 3):
        predictions.publish(Prediction(header=header(stamp), source='camera', kept=True))
    ros.until(lambda: labels, 'the label')
    count = len(reports.of('labels sent'))
    ros.until(lambda: len(reports.of('labels sent')) > count + 1, 'time for more of them')
    assert reports.of('labels sent')[-1] == '1', 'one in 100 s'
    assert [label.header for label in labels] == [header(1)]


@pytest.mark.parametrize('author', ['ann', 'a' * 150])
def test_the_operator_says_again_what_is_not_answered(ros: Graph, author: str):
    """Nobody listens, then somebody who has no room; the label comes until it is stored."""
    node = ros.add(OperatorNode, share=1.0, delay_s=0.0, jitter_s=0.0, author=author)
    node._outbox = Outbox(patience_s=0.2)
    truths = ros.speak(GroundTruth, 'ground_truth')
    predictions = ros.speak(Prediction, 'predictions')
    receipts = ros.speak(LabelReceipt, 'label_receipts')
    truths.publish(GroundTruth(header=header(1), label='mug'))
    ros.until(lambda: node._truths, 'the truth')
    predictions.publish(Prediction(header=header(1), source='camera', frame_uid=7, kept=True))
    ros.until(lambda: node._sent, 'the label to be due')
    labels = ros.listen(LabelCorrection, 'labels')
    ros.until(lambda: labels, 'the label, once somebody listens')
    answer = LabelReceipt(header=header(1), source='camera', label='mug', author=short(author))
    answer.code = LabelReceipt.DISK_FULL
    receipts.publish(answer)
    heard = len(labels)
    ros.until(lambda: len(labels) > heard, 'the label again')
    answer.code, answer.frame_uid = LabelReceipt.ACCEPTED, 7
    receipts.publish(answer)
    ros.until(lambda: node._accepted == 1, 'the count', limit_s=20.0)
    assert len(node._outbox) == 0
