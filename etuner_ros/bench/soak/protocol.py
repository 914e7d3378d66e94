# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A node of another version speaks on the topics between the nodes: nothing is learned from it,
nothing served, and nobody dies.
"""

from __future__ import annotations

from typing import Any

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from etuner_ros.bench.soak.robot import LEARN_LIMIT_S, Robot
from etuner_ros.bench.soak.stage import Plan, Stage
from etuner_ros.bench.swapper import swap_messages
from etuner_ros.core.images.codec import encode_jpeg
from etuner_ros.core.models.weights import read_base
from etuner_ros.msg import (
    Backbone,
    LabelledBatch,
    LabelledSample,
    LabelReceipt,
    ModelUpdate,
    PredictedFrame,
)
from etuner_ros.nodes.messages import to_bytes
from etuner_ros.nodes.qos import LATCHED, reliable

OTHER = 1  # protocol
FRAME_ID = 'of_another_protocol'  # of its frames
LABEL = 'label of another protocol'
STRANGE = 4_000_000_000  # number of its version
PERIOD_S = 0.5  # between two of each message


class Stranger:
    """A node whose messages are right but for the protocol."""

    def __init__(self, robot: Robot, stage: Stage) -> None:
        self._robot = robot
        make = robot.node.create_publisher
        self._frames = make(PredictedFrame, 'predicted_frame', reliable(30))
        self._batches = make(LabelledBatch, 'labelled_batches', LATCHED)
        self._models = make(ModelUpdate, 'model', LATCHED)
        self._backbones = make(Backbone, 'backbone', LATCHED)
        backbone, model = swap_messages(read_base(stage.base), STRANGE)
        backbone.protocol = model.protocol = OTHER
        self._backbone, self._model = backbone, model
        self._picture = encode_jpeg(stage.pictures()[0][0])
        self._number = 0

    def speak(self) -> None:
        """Send one message of each kind, and label its frame."""
        self._number += 1
        header = Header(frame_id=FRAME_ID, stamp=self._robot.node.get_clock().now().to_msg())
        image = CompressedImage(header=header, format='jpeg', data=to_bytes(self._picture))
        frame = PredictedFrame(
            protocol=OTHER, header=header, source='camera', frame_uid=self._number, image=image
        )
        sample = LabelledSample(
            header=header, source='camera', sample_id=self._number, label=LABEL, image=image
        )
        batch = LabelledBatch(
            protocol=OTHER, collector='/elsewhere', batch_id=self._number, samples=[sample]
        )
        self._frames.publish(frame)
        self._batches.publish(batch)
        self._backbones.publish(self._backbone)
        self._models.publish(copy_of(self._model))
        self._robot.say(frame, LABEL)


def copy_of(message: ModelUpdate) -> ModelUpdate:
    """Return a message of its own."""
    return deserialize_message(serialize_message(message), ModelUpdate)


def intrude(robot: Robot, stage: Stage, seconds: float) -> list[str]:
    """
    Let a stranger speak while the robot learns.

    :return: what was not as promised, in words
    """
    broken: list[str] = []
    restarts, stranger = robot.supervisor.restarts, Stranger(robot, stage)
    versions, served, learned = len(robot.versions), False, False
    for _ in range(max(2, round(seconds / PERIOD_S))):
        stranger.speak()
        robot.go_on(PERIOD_S)
        served |= robot.last is not None and robot.last.model_version == STRANGE
        learned |= _knows(robot)
    goes_on = robot.until(lambda: len(robot.versions - {STRANGE}) > versions, LEARN_LIMIT_S)
    learned |= _knows(robot)
    robot.check_works()
    answers = [r.code for r in robot.receipts if r.header.frame_id == FRAME_ID]
    if served:
        broken.append('a model of another protocol was served')
    if learned:
        broken.append('a batch of another protocol was learned')
    if LabelReceipt.ACCEPTED in answers:
        broken.append('a label of a frame of another protocol was accepted')
    if not goes_on:
        broken.append('nothing was learned any more')
    if robot.supervisor.restarts > restarts:
        broken.append(f'{robot.supervisor.restarts - restarts} nodes died')
    robot.versions.discard(STRANGE)
    return broken


def protocol(stage: Stage, plan: Plan) -> dict[str, Any]:
    """Have nodes of another version around."""
    robot = Robot(stage.pictures(), stage.base, stage.folder / 'protocol')
    broken: list[str] = []
    try:
        robot.start_well()
        robot.check_works()
        broken = intrude(robot, stage, plan.fault_s)
    finally:
        result = robot.verify()
    return {**result.as_dict(), 'broken': [*result.broken, *broken]}


def _knows(robot: Robot) -> bool:
    """Return whether what is live, or what it says, has the stranger's class."""
    said = robot.last.labels if robot.last else ()
    ours = robot.live.classes if robot.live and robot.live.version != STRANGE else ()
    return LABEL in said or LABEL in ours
