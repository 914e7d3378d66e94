# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Between the messages about labels and the core's values."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.errors import ImageError, MessageError
from etuner_ros.core.images.codec import encoded_size
from etuner_ros.core.labels.desk import Correction, Receipt
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey, Place
from etuner_ros.core.labels.records import Batch, StoredSample
from etuner_ros.core.labels.spelling import composed
from etuner_ros.core.labels.things import Seen
from etuner_ros.msg import (
    Box,
    FrameFeature,
    LabelCorrection,
    LabelledBatch,
    LabelledSample,
    LabelReceipt,
    LabelRequest,
    Objects,
    PredictedFrame,
)
from etuner_ros.nodes import region_messages
from etuner_ros.nodes.messages import LONGEST_NAME, short, stamp_ns, to_bytes
from etuner_ros.srv import GetBatches, GetReplay


def key_of(message: Any, source: str = '') -> FrameKey:
    """
    Return what names the frame that a message is about.

    :param source: when the message does not say it
    """
    return FrameKey(
        message.source or source,
        stamp_ns(message.header),
        message.header.frame_id,
        message.frame_uid,
    )


def picture_bytes(samples: Sequence[LabelledSample]) -> int:
    """Return the size of the pictures of samples, in bytes."""
    return sum(len(s.image.data) for s in samples)


def picture_bytes_of(response: GetBatches.Response | GetReplay.Response) -> int:
    """Return the size of the pictures in an answer of a collector, in bytes."""
    if isinstance(response, GetReplay.Response):
        return picture_bytes(response.samples)
    return sum(picture_bytes(batch.samples) for batch in response.batches)


def about(message: LabelCorrection | LabelReceipt) -> tuple[FrameKey, tuple[float, ...]]:
    """Return frame and box that a correction and its receipt are about; receipts shorten names."""
    key, box = key_of(message), message.box
    frame = FrameKey(short(key.source), key.stamp_ns, short(key.frame_id), key.uid)
    # As a message carries it: float32.
    return frame, tuple(np.array((box.x, box.y, box.width, box.height), np.float32).tolist())


def answered_label(message: LabelCorrection) -> str:
    """Return the label that the receipt of a correction has."""
    return '' if message.withdraw else short(composed(message.label.strip()))


def header_of(key: FrameKey) -> Header:
    """Return the header that a frame came with."""
    header = Header(frame_id=key.frame_id)
    header.stamp.sec, header.stamp.nanosec = divmod(key.stamp_ns, 10**9)
    return header


def frame_of(message: PredictedFrame, most_mb: float) -> Frame:
    """
    Return the frame of a message.

    :param most_mb: of its encoded picture
    :raises MessageError: when it is too large, or its names are too long
    """
    length = len(message.image.data)
    if length > most_mb * 1e6:
        raise MessageError(f'a frame of {length / 1e6:.1f} MB is ignored; see max_frame_mb')
    if max(map(len, (message.source, message.header.frame_id, message.label))) > LONGEST_NAME:
        raise MessageError('a frame is ignored: its source, frame_id or label is too long')
    image, size = bytes(message.image.data), (message.width, message.height)
    if not all(size):  # who does not tell it has not scaled the picture either
        with suppress(ImageError):  # that nothing can be cut from is said to who labels it
            size = encoded_size(image)
    return Frame(
        key_of(message),
        image,
        message.image.format,
        composed(message.label),
        _finite(message.confidence),
        _finite(message.novelty),
        message.model_version,
        size,
    )


def _finite(value: float) -> float:
    """Return a share from outside; what is none is 0: the store takes no others."""
    return value if math.isfinite(value) else 0.0


def box_of(box: Box) -> tuple[float, float, float, float] | None:
    """Return a box, unchecked; None for that of the whole image."""
    values = (box.x, box.y, box.width, box.height)
    return values if any(values) else None


def box_message(place: Place | None) -> Box:
    """Return the box of a thing; without one that of the whole image."""
    if place is None:
        return Box()
    return region_messages.box_message(place.box)


def seen_of(message: Objects) -> Seen:
    """Return what the robot named in a frame."""
    found = message.objects
    boxes = as_boxes([(b.x, b.y, b.width, b.height) for b in (o.box for o in found)])
    labels = [composed(short(o.labels[0])) if o.labels else '' for o in found]
    return Seen(
        boxes,
        labels,
        [_finite(o.confidence) for o in found],
        [o.unknown for o in found],
        [o.track for o in found],
        [o.familiar for o in found],
        int(message.model_version),
    )


def feature_of(message: FrameFeature) -> npt.NDArray[np.float16]:
    """Return the feature (D,) of a message; half a number at its end is left out."""
    return np.frombuffer(bytes(message.feature[: len(message.feature) // 2 * 2]), '<f2')


def correction_of(message: LabelCorrection, source: str) -> Correction:
    """
    Return what a message says of a frame.

    :param source: camera that is meant when the message names none
    """
    key = key_of(message, source)
    box = box_of(message.box)
    return Correction.of(key, message.label, message.author, message.withdraw, box)


def receipt_message(message: LabelCorrection, key: FrameKey, receipt: Receipt) -> LabelReceipt:
    """Return the answer to a correction."""
    frame, stored = receipt.frame, receipt.stored
    return LabelReceipt(
        header=Header(stamp=message.header.stamp, frame_id=short(message.header.frame_id)),
        source=short(key.source),
        frame_uid=frame.key.uid if frame else 0,
        box=message.box,
        thing=box_message(frame.key.place if frame else None),
        label=answered_label(message),
        author=short(message.author),
        code=int(receipt.code),
        message=short(receipt.text, 500),
        predicted_label=frame.label if frame else '',
        counting_label=stored.label if stored else '',
        sample_id=stored.sample_id if stored else 0,
    )


def request_message(frame: Frame, reason: str) -> LabelRequest:
    """Return the question what a frame shows."""
    header = header_of(frame.key)
    return LabelRequest(
        header=header,
        source=frame.key.source,
        frame_uid=frame.key.uid,
        box=box_message(frame.key.place),
        predicted_label=frame.label,
        confidence=frame.confidence,
        reason=short(reason, 200),
        image=_image(header, frame.image_format, frame.image),
    )


def batch_message(collector: str, number: int, batch: Batch) -> LabelledBatch:
    """Return a batch of a collector."""
    return LabelledBatch(
        collector=collector,
        batch_id=number,
        samples=[sample_message(s) for s in batch.samples],
        renamed_from=[old for old, _ in batch.renamed],
        renamed_to=[new for _, new in batch.renamed],
    )


def sample_message(sample: StoredSample) -> LabelledSample:
    """Return the message of a stored sample."""
    header = header_of(sample.key)
    return LabelledSample(
        header=header,
        source=sample.source,
        frame_uid=sample.uid,
        sample_id=sample.sample_id,
        box=box_message(sample.place),
        label=sample.label,
        predicted_label=sample.predicted,
        author=sample.author,
        model_version=sample.model_version,
        image=_image(header, sample.image_format, sample.image),
    )


def _image(header: Header, kind: str, data: bytes) -> CompressedImage:
    return CompressedImage(header=header, format=kind, data=to_bytes(data))
