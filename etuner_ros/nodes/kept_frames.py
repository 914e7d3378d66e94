# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames that `inference` keeps so that they can be labelled."""

from __future__ import annotations

from typing import Any

from sensor_msgs.msg import CompressedImage

from etuner_ros.core.images.frame_keeper import FrameKeeper
from etuner_ros.core.images.full_pictures import FullPictures
from etuner_ros.msg import FrameFeature, PredictedFrame
from etuner_ros.nodes.inference_settings import InferenceSettings
from etuner_ros.nodes.lifecycle import AutostartNode
from etuner_ros.nodes.predictions import Predicted
from etuner_ros.nodes.qos import adaptable, FEATURES, reliable
from etuner_ros.srv import GetFrame


class KeptFrames:
    """
    Publishes `predicted_frame` (PredictedFrame) and, while someone listens, `frame_feature`
    (FrameFeature), in a thread; serves `~/get_frame` (GetFrame).

    :param cameras: that share `keep_rate_hz`, each by the same part
    """

    def __init__(self, node: AutostartNode, settings: InferenceSettings, cameras: int) -> None:
        self._health, self._cameras = node.health, cameras
        self._full = FullPictures[CompressedImage](0)
        self.apply(settings)
        publish = adaptable(node.create_lifecycle_publisher)
        # Noted at once: what comes after may fail.
        self._frames = publish(PredictedFrame, 'predicted_frame', reliable(30))
        node.entities.append(self._frames)
        self.features = publish(FrameFeature, 'frame_feature', reliable(FEATURES))
        node.entities.append(self.features)
        node.entities.append(node.create_service(GetFrame, '~/get_frame', self._on_get_frame))
        self._keeper = FrameKeeper[tuple[Predicted, bool]](self._publish, self._not_kept)

    @property
    def full_mb(self) -> float:
        """What full pictures take, in MB."""
        return self._full.bytes / 1e6

    def apply(self, settings: InferenceSettings) -> None:
        """Take settings."""
        self._settings = settings
        self._full.most_bytes = int(settings.full_mb * 1e6)

    def wants(self, camera: str) -> bool:
        """Return whether the frame that came now is kept; then `keep` has to follow."""
        return self._keeper.wants(self._settings.keep_rate_hz / self._cameras, camera)

    def wants_after_all(self, camera: str) -> bool:
        """Return whether a frame in which things were found is kept; then `keep` follows."""
        return self._keeper.wants_after_all(self._settings.keep_rate_hz / self._cameras, camera)

    def keep(self, said: Predicted, regions_come: bool) -> None:
        """
        Keep a frame that was wanted.

        :param regions_come: things may be cut out of it, so it is kept as it is
        """
        self._keeper.keep((said, regions_come))

    def close(self) -> None:
        """Publish what waits, and end."""
        self._keeper.close()

    def _publish(self, frame: tuple[Predicted, bool]) -> None:
        (said, regions_come), settings = frame, self._settings
        side = settings.kept_side(said.input_size, regions_come)
        picture = said.small(side, settings.jpeg_quality)
        if picture is None or settings.full_mb > 0:
            full = said.full(settings.jpeg_quality)
            # First, so that whoever hears of the frame can ask for it.
            self._full.add(said.uid, full, len(full.data))
            picture = picture or full
        self._frames.publish(said.frame(picture))
        if self.features.get_subscription_count() > 0:
            self.features.publish(said.feature())

    def _not_kept(self, error: Exception) -> None:
        self._health.problem(f'a frame could not be kept: {error}')

    def _on_get_frame(self, request: GetFrame.Request, response: GetFrame.Response) -> Any:
        picture = self._full.get(request.frame_uid)
        if picture is not None:
            response.image = picture
            return response
        response.error_code = GetFrame.Response.GONE
        response.error_msg = (
            f'the full picture of frame {request.frame_uid} is gone: it was not kept, or made '
            f'room for newer ones (full_mb = {self._settings.full_mb:g} MB)'
        )
        return response
