# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of what the model says about a frame."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from etuner_ros.core.images.codec import encode_jpeg, Image, reduced
from etuner_ros.core.serve.graph_file import Floats
from etuner_ros.core.serve.slot import Result
from etuner_ros.msg import FrameFeature, PredictedFrame, Prediction
from etuner_ros.nodes.messages import to_bytes

try:  # optional on a robot; not on PyPI
    from vision_msgs.msg import Classification, ObjectHypothesis
except ImportError:
    Classification = None


@dataclass(frozen=True)
class Predicted:
    """A frame, and what the model says about it."""

    header: Header
    source: str
    uid: int
    image: Image
    encoded: tuple[str, bytes] | None  # format and code, when it came compressed
    result: Result
    input_size: int  # side of the input of the network that said it, in px
    wait_ms: float = 0.0  # from image stamp until the node took the image
    convert_ms: float = 0.0  # from the message to a picture

    @property
    def label(self) -> str:
        """What it is taken for; empty while the model knows no class."""
        return self.result.labels[0] if self.result.labels else ''

    @property
    def confidence(self) -> float:
        """How sure that is, in [0, 1]."""
        return self.result.scores[0] if self.result.scores else 0.0

    def prediction(self, kept: bool, latency_ms: float) -> Prediction:
        """Return the prediction."""
        result = self.result
        return Prediction(
            header=self.header,
            source=self.source,
            frame_uid=self.uid,
            labels=result.labels,
            scores=result.scores,
            confidence=self.confidence,
            energy=result.energy,
            novelty=result.novelty,
            appearance=result.appearance,
            model_version=result.version,
            kept=kept,
            latency_ms=latency_ms,
            inference_ms=1e3 * result.seconds,
            wait_ms=self.wait_ms,
            convert_ms=self.convert_ms,
            resize_ms=1e3 * result.resize_seconds,
        )

    def full(self, jpeg_quality: int) -> CompressedImage:
        """Return the picture as the camera has it; it is encoded here, unless it came so."""
        kind, code = self.encoded or ('jpeg', encode_jpeg(self.image, jpeg_quality))
        return self._picture(kind, code)

    def small(self, side: int, jpeg_quality: int) -> CompressedImage | None:
        """
        Return the picture scaled down; None where it is no larger.

        :param side: of its short side, in px; 0 = as the camera has it
        """
        image = reduced(self.image, side)
        if image is self.image:
            return None
        return self._picture('jpeg', encode_jpeg(image, jpeg_quality))

    def _picture(self, kind: str, code: bytes) -> CompressedImage:
        return CompressedImage(header=self.header, format=kind, data=to_bytes(code))

    def frame(self, picture: CompressedImage) -> PredictedFrame:
        """Return the frame as it is kept."""
        return PredictedFrame(
            header=self.header,
            source=self.source,
            frame_uid=self.uid,
            label=self.label,
            confidence=self.confidence,
            novelty=self.result.novelty,
            model_version=self.result.version,
            width=self.image.shape[1],
            height=self.image.shape[0],
            image=picture,
        )

    def feature(self) -> FrameFeature:
        """Return its feature."""
        return FrameFeature(
            header=self.header,
            source=self.source,
            frame_uid=self.uid,
            model_version=self.result.version,
            backbone_sha256=self.result.backbone,
            feature=packed(self.result.features),
        )

    def classification(self) -> Any:
        """Return what vision_msgs has for it; only where that is installed."""
        pairs = zip(self.result.labels, self.result.scores)
        hypotheses = [ObjectHypothesis(class_id=label, score=score) for label, score in pairs]
        return Classification(header=self.header, results=hypotheses)


def packed(feature: Floats) -> array[int]:
    """Return a feature (D,) as messages carry it."""
    return to_bytes(feature.astype('<f2').tobytes())
