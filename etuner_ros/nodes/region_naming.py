# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `inference` says of regions of its images."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
import math
import time
from typing import Any

import numpy as np

from etuner_ros.core.boxes.geometry import as_boxes, Boxes, clip, Floats, usable
from etuner_ros.core.boxes.matcher import Matcher
from etuner_ros.core.boxes.readout import Objects as Read
from etuner_ros.core.boxes.readout import read, ReadoutSettings
from etuner_ros.core.boxes.region_memory import RegionMemory
from etuner_ros.core.boxes.tracker import Tracker
from etuner_ros.core.decide.scenario import NoveltyScore
from etuner_ros.core.errors import MessageError
from etuner_ros.core.images.annotate import mark, Marked
from etuner_ros.core.images.codec import Image as Array
from etuner_ros.core.serve.slot import RegionResult
from etuner_ros.msg import Box, DetectedObject, FrameFeature, Objects, Region, Regions
from etuner_ros.nodes.health import guarded
from etuner_ros.nodes.inference_settings import InferenceSettings
from etuner_ros.nodes.kept_frames import KeptFrames
from etuner_ros.nodes.lifecycle import AutostartNode
from etuner_ros.nodes.messages import short, stamp_ns
from etuner_ros.nodes.predictions import packed, Predicted
from etuner_ros.nodes.qos import adaptable, reliable
from etuner_ros.nodes.region_messages import box_message
from etuner_ros.nodes.weights_intake import WeightsIntake

try:  # optional on a robot; not on PyPI
    from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
except ImportError:
    Detection2DArray = None

MOST_FOREIGN = 32  # cameras of others that are told apart
LATELY_S = 10.0  # so long after the last regions frames are kept for more, at least ...
GAPS = 2.5  # ... so many times as long as it was between the last ones ...
LONGEST_S = 600.0  # ... and at most
MANY_NEAR = 10  # regions that were named in the image next to theirs are said
DRAWN_S = 2.0  # so long objects are drawn; then what they show has moved on


@dataclass
class _Seen:
    """A frame whose regions may come."""

    said: Predicted
    kept: bool


@dataclass
class _Eye:
    """One camera."""

    matcher: Matcher[_Seen, Regions]
    asked_s: float = -np.inf  # when regions came last
    patience_s: float = LATELY_S  # so long after that frames are kept for more
    late: int = 0  # regions whose image was gone, that were told of
    near: int = 0  # ... and for whose image the next one stood in
    tracker: Tracker = field(default_factory=Tracker)
    memory: RegionMemory = field(default_factory=RegionMemory)
    backbone: str = ''  # digest of what made the features that the tracker has
    novelty: NoveltyScore = field(default_factory=NoveltyScore)
    newest_ns: int = 0  # stamp of the frame whose objects were named last
    newest: Objects | None = None  # that were named last
    named_s: float = -np.inf  # steady time of that


class RegionNaming:
    """
    Subscribes `regions` (Regions; `source` names the camera) and, where vision_msgs is installed,
    `detections` (vision_msgs/Detection2DArray) of each camera; publishes `objects` (Objects),
    `object_detections` (vision_msgs/Detection2DArray) of each camera, and, while someone listens,
    the features of the regions of kept frames on `frame_feature`. What a detector looks at is not
    what is kept at a steady rate: a frame in whose regions things are is kept after all.

    :param cameras: name and prefix of each
    """

    def __init__(
        self,
        node: AutostartNode,
        cameras: list[tuple[str, str]],
        settings: InferenceSettings,
        weights: WeightsIntake,
        kept: KeptFrames,
    ) -> None:
        self._node, self._settings, self._weights, self._kept = node, settings, weights, kept
        self._pool = ThreadPoolExecutor(settings.region_threads, 'regions')
        self.health, self.get_logger = node.health, node.get_logger
        self._single = len(cameras) == 1
        self._eyes = {
            name: _Eye(Matcher(settings.regions_wait_s, size=lambda seen: seen.said.image.nbytes))
            for name, _ in cameras
        }
        self._foreign: set[str] = set()  # cameras of which regions came and that are not ours
        self.images = self.left_out = 0
        publish = adaptable(node.create_lifecycle_publisher)
        subscribe = adaptable(node.create_subscription)
        # Noted at once: what comes after may fail.
        self._objects = publish(Objects, 'objects', reliable(10 * len(cameras)))
        node.entities.append(self._objects)
        self._detections: dict[str, Any] = {}  # publishers of vision_msgs
        depth = reliable(2 * len(cameras))
        node.entities.append(subscribe(Regions, 'regions', self._on_regions, depth))
        if Detection2DArray is not None:
            for name, prefix in cameras:
                key = '' if self._single else name  # whose name may change
                self._detections[key] = publish(
                    Detection2DArray, f'{prefix}object_detections', reliable(10)
                )
                node.entities.append(self._detections[key])
                heard = partial(self._on_detections, key)
                topic = f'{prefix}detections'
                node.entities.append(subscribe(Detection2DArray, topic, heard, reliable(2)))

    @property
    def recalled(self) -> int:
        """How many regions looked as before, so that they were not looked at again."""
        return sum(eye.memory.recalled for eye in self._eyes.values())

    @property
    def late(self) -> int:
        """How often regions came whose image was gone."""
        return sum(eye.matcher.late for eye in self._eyes.values())

    @property
    def near(self) -> int:
        """How often regions were named in the image next to theirs."""
        return sum(eye.matcher.near for eye in self._eyes.values())

    def rest(self) -> None:
        """Keep no images: nothing is named for a while."""
        for eye in self._eyes.values():
            eye.matcher.clear()

    def wanted(self, camera: str) -> bool:
        """Whether regions of a camera came lately."""
        eye = self._eyes[camera]
        return time.monotonic() - eye.asked_s < eye.patience_s

    def apply(self, settings: InferenceSettings) -> None:
        """Take settings."""
        if settings.region_threads != self._settings.region_threads:
            self._pool.shutdown()
            self._pool = ThreadPoolExecutor(settings.region_threads, 'regions')
        self._settings = settings
        for eye in self._eyes.values():
            eye.matcher.wait_s = settings.regions_wait_s
        if not settings.cameras and settings.source not in self._eyes:
            self._eyes = {settings.source: next(iter(self._eyes.values()))}

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    @guarded
    def saw(self, said: Predicted, kept: bool) -> None:
        """Take a frame that was predicted; its regions may have come, or come later."""
        eye = self._eyes[said.source]
        if not self.wanted(said.source):
            eye.matcher.clear()
            return
        seen = _Seen(said, kept)
        met = eye.matcher.frame(stamp_ns(said.header), seen)
        self._tell_of(eye)
        if met is not None:
            self._name(eye, *met)

    def draw(self, camera: str, image: Array) -> Array:
        """
        Return a picture of a camera with the things that were named last; they come after it.

        :param image: may have fewer px than the camera's
        """
        eye = self._eyes.get(camera)
        newest = eye.newest if eye else None
        if eye is None or newest is None or time.monotonic() - eye.named_s > DRAWN_S:
            return image
        things = [
            Marked(
                (o.box.x, o.box.y, o.box.width, o.box.height),
                o.labels[0] if o.labels else '',
                o.confidence,
                o.unknown,
            )
            for o in newest.objects
        ]
        return mark(image, things, image.shape[1] / newest.width)

    @guarded
    def _on_regions(self, message: Regions) -> None:
        """Name what is in the regions of a frame that is there; else wait for it."""
        name = message.source or (next(iter(self._eyes)) if self._single else '')
        eye = self._eyes.get(name)
        first = eye is not None and not self.wanted(name)
        if eye is not None:
            now = time.monotonic()
            gap, eye.asked_s = now - eye.asked_s, now
            if math.isfinite(gap):
                eye.patience_s = min(max(LATELY_S, GAPS * gap), LONGEST_S)
        if not self._node.active:
            return
        if eye is None:
            if name in self._foreign:
                return  # it was said; another inference may have that camera
            self._foreign = {*list(self._foreign)[: MOST_FOREIGN - 1], name}
            known = ', '.join(self._eyes)
            raise MessageError(
                f'regions of camera {short(message.source)!r} are ignored: the cameras are {known}'
            )
        found = eye.matcher.found(stamp_ns(message.header), message)
        if first and found is None:  # images are kept from now on
            eye.matcher.clear()
            eye.late = eye.matcher.late
            if math.isfinite(gap):
                self.get_logger().warning(
                    f'regions came after {gap:.0f} s without any, when no images were kept for '
                    f'them any more; from now on they are kept for {eye.patience_s:.0f} s',
                    throttle_duration_sec=60.0,
                )
        self._tell_of(eye)
        if found is not None:
            self._name(eye, found, message)

    def _tell_of(self, eye: _Eye) -> None:
        """Say why regions were not, or not in their own image, named."""
        late, near = eye.matcher.late, eye.matcher.near
        if late > eye.late:
            self.health.problem(
                f'{late} times regions came whose image is not here: later than regions_wait_s '
                f'({self._settings.regions_wait_s:g} s), or with stamps of no predicted image'
            )
        if near >= MANY_NEAR > eye.near:
            self.get_logger().warning(
                'regions come of images that were not predicted; things are named in the images '
                'next to these. Have the detector look at the images that inference looks at'
            )
        eye.late, eye.near = late, near

    @guarded
    def _on_detections(self, name: str, message: Any) -> None:
        self._on_regions(regions_of(message, name))

    def _name(self, eye: _Eye, seen: _Seen, regions: Regions) -> None:
        said = seen.said
        stamp = stamp_ns(said.header)
        if stamp < eye.newest_ns and eye.newest_ns - stamp < 10**9:
            return  # a newer frame was named meanwhile
        eye.newest_ns = stamp
        height, width = said.image.shape[:2]
        proposals = self._usable(regions, width, height)
        # What lies outside can not be looked at, and a crop takes the square of its box in memory.
        boxes = clip(boxes_of(proposals), width, height)
        began = time.perf_counter()
        scores = np.array([region.score for region in proposals], np.float32)
        tracks = np.zeros(len(boxes), np.int64)

        def steady(features: Floats, backbone: str) -> Floats:
            if backbone != eye.backbone:
                eye.backbone = backbone
                eye.tracker.forget_looks()
            tracks[:] = eye.tracker.follow(1e-9 * stamp, boxes, np.nan_to_num(scores), features)
            return eye.tracker.steadied(tracks, features)

        live = self._weights.live
        result = live.look_at(said.image, boxes, self._pool.map, steady, eye.memory)
        objects = read(
            result.classes,
            result.logits,
            boxes,
            (width, height),
            settings=ReadoutSettings(
                top_k=self._settings.top_k,
                unlike_below=self._settings.unlike_below,
                unknown_below=self._settings.unknown_below,
            ),
            proposed=scores,
            likeness=result.likeness,
        )
        if not seen.kept and len(objects) and self._kept.wants_after_all(said.source):
            self._kept.keep(said, regions_come=True)
            seen.kept = True
        message = Objects(
            header=said.header,
            source=said.source,
            frame_uid=said.uid,
            model_version=result.version,
            kept=seen.kept,
            objects=[
                self._object(eye, objects, i, int(tracks[place]), proposals, result)
                for i, place in enumerate(objects.places)
            ],
            width=width,
            height=height,
            latency_ms=(self._node.get_clock().now().nanoseconds - stamp) / 1e6,
            inference_ms=1e3 * (time.perf_counter() - began),
        )
        self._objects.publish(message)
        eye.newest, eye.named_s = message, time.monotonic()
        self.images += 1
        publisher = self._detections.get('' if self._single else said.source)
        if publisher is not None and publisher.get_subscription_count() > 0:
            publisher.publish(detections_of(message))
        if seen.kept and self._kept.features.get_subscription_count() > 0:
            self._publish_features(said, boxes, result)

    def _usable(self, regions: Regions, width: int, height: int) -> list[Region]:
        """Return the best regions that lie in the image."""
        most = self._settings.most_regions
        found = list(regions.regions)
        fits = usable(boxes_of(found), width, height)
        good = [region for region, fit in zip(found, fits) if fit]
        good.sort(key=lambda region: -region.score if region.score == region.score else 0.0)
        if len(good) < len(found):
            self.health.problem(
                f'{len(found) - len(good)} of {len(found)} regions are left out: not finite, of '
                f'no area, or not in the image of {width} x {height} px'
            )
        self.left_out += len(found) - min(len(good), most)
        return good[:most]

    def _object(
        self,
        eye: _Eye,
        objects: Read,
        place: int,
        track: int,
        proposals: list[Region],
        result: RegionResult,
    ) -> DetectedObject:
        scores, energy = objects.scores[place], float(objects.energy[place])
        return DetectedObject(
            box=box_message(objects.boxes[place]),
            labels=list(objects.labels[place]),
            scores=list(scores),
            confidence=scores[0] if scores else 0.0,
            unknown=bool(objects.unknown[place]),
            familiar=float(objects.familiar[place]),
            energy=energy,
            novelty=eye.novelty.update(energy, result.version),
            track=track,
            proposal=proposals[int(objects.places[place])],
        )

    def _publish_features(self, said: Predicted, boxes: Boxes, result: RegionResult) -> None:
        for box, feature in zip(boxes, result.features):
            self._kept.features.publish(
                FrameFeature(
                    header=said.header,
                    source=said.source,
                    frame_uid=said.uid,
                    box=box_message(box),
                    model_version=result.version,
                    backbone_sha256=result.backbone,
                    feature=packed(feature),
                )
            )


def boxes_of(regions: list[Region]) -> Boxes:
    """Return the boxes of regions, (n, 4); unchecked."""
    return as_boxes([(r.box.x, r.box.y, r.box.width, r.box.height) for r in regions])


def regions_of(message: Any, source: str) -> Regions:
    """Return regions that a detector published as vision_msgs/Detection2DArray."""
    regions = []
    for detection in message.detections:
        centre, width, height = detection.bbox.center, detection.bbox.size_x, detection.bbox.size_y
        place = getattr(centre, 'position', centre)  # Humble's Pose2D has x and y in another place
        best = max((r.hypothesis for r in detection.results), key=lambda h: h.score, default=None)
        box = Box(x=place.x - 0.5 * width, y=place.y - 0.5 * height, width=width, height=height)
        regions.append(
            Region(
                box=box,
                score=best.score if best else 0.0,
                label=short(best.class_id) if best else '',
            )
        )
    return Regions(header=message.header, source=source, regions=regions)


def detections_of(message: Objects) -> Any:
    """Return objects as vision_msgs/Detection2DArray; unknown ones without a name."""
    found = []
    for thing in message.objects:
        detection = Detection2D(header=message.header, id=str(thing.track))
        box = thing.box
        centre = detection.bbox.center
        place = getattr(centre, 'position', centre)
        place.x, place.y = box.x + 0.5 * box.width, box.y + 0.5 * box.height
        detection.bbox.size_x, detection.bbox.size_y = box.width, box.height
        if not thing.unknown:
            for label, score in zip(thing.labels, thing.scores):
                hypothesis = ObjectHypothesisWithPose()
                hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = label, score
                detection.results.append(hypothesis)
        found.append(detection)
    return Detection2DArray(header=message.header, detections=found)
