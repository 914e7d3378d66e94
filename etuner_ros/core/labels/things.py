# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things in frames: which one a box means, what it was taken for, and its picture."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from etuner_ros.core.boxes.crops import cut, MARGIN
from etuner_ros.core.boxes.geometry import as_boxes, Boxes, checked_box, overlaps, squares
from etuner_ros.core.errors import ImageError
from etuner_ros.core.images.codec import decode, encode_jpeg
from etuner_ros.core.labels.frame_buffer import Frame, FrameKey, Place
from etuner_ros.core.labels.store import LabelStore

SAME = 0.6  # overlap from which on two boxes of a frame mean the same thing
SEEN = 0.3  # overlap with what the robot named there
MOST_FRAMES = 2000  # of which it is remembered what was named in them
LARGEST = 320  # px of the side of a stored picture; networks look at fewer


class UnknownSizeError(ImageError):
    """How large the camera has a frame is not known, so a box could lie anywhere in it."""


@dataclass(frozen=True)
class Seen:
    """What the robot named in a frame."""

    boxes: Boxes  # (n, 4)
    labels: Sequence[str]  # n; empty while it knows no class
    confidences: Sequence[float]  # n
    unknown: Sequence[bool] = ()  # n, or none: the evidence is too weak for a name
    tracks: Sequence[int] = ()  # n, or none: the same for the same thing in later frames
    familiar: Sequence[float] = ()  # n, or none: how known each looks; nan where not told
    version: int = 0  # of the model that named them


class Things:
    """
    Finds or makes the thing that a box means.

    :param store: of labels
    """

    def __init__(self, store: LabelStore) -> None:
        self._store = store
        self._seen: OrderedDict[int, Seen] = OrderedDict()  # by uid of the frame

    def see(self, uid: int, seen: Seen) -> None:
        """Note what the robot named in a frame."""
        self._seen[uid] = seen
        while len(self._seen) > MOST_FRAMES:
            self._seen.popitem(last=False)

    def seen_at(
        self, uid: int, box: npt.ArrayLike, least: float = SEEN
    ) -> tuple[Seen, int] | None:
        """
        Return what the robot named in a frame, and which of it lies where a box (4,) does.

        :param least: overlap that is needed
        :return: None when nothing does
        """
        seen = self._seen.get(uid)
        if seen is None or not len(seen.boxes):
            return None
        overlap = overlaps(as_boxes(np.asarray(box)[None]), seen.boxes)[0]
        best = int(overlap.argmax())
        return (seen, best) if overlap[best] >= least else None

    def of(self, frame: Frame, box: Sequence[float]) -> Frame:
        """
        Return the thing that a box means: one that was named before, when it lies there.

        :param frame: that it is in
        :param box: x, y, width, height, in px of the image as the camera has it
        :raises BoxError: when it can not be of this frame
        :raises UnknownSizeError: when the frame was stored without that image's size
        :raises ImageError: when the picture of the frame can not be read
        """
        image = decode(frame.image) if frame.image else None
        width, height = frame.size
        if not (width and height):
            known = next((k.place for k in self._store.things(frame.key) if k.place), None)
            if known is not None:
                width, height = known.image_width, known.image_height
            elif image is not None:  # that may be scaled down
                raise UnknownSizeError(
                    'how large the camera had this frame is not known: it was stored by an '
                    'earlier release; label a newer frame'
                )
            else:
                raise ImageError('its picture made room for others')
        # In whole px, as it is stored: so its picture can be made again from an export.
        checked = np.round(checked_box(box, width, height))
        before = self._named(frame.key, checked)
        if before is not None and (before.image or image is None):
            return before
        if image is None:
            raise ImageError('its picture made room for others')
        if before is not None and before.key.place is not None:  # whose picture made room
            place = before.key.place
            checked = as_boxes([place.box])[0]
        else:
            x, y, wide, high = (int(v) for v in checked)
            place = Place(x, y, max(wide, 1), max(high, 1), width, height)
        taken = self.seen_at(frame.key.uid, checked)
        label, confidence = (
            (taken[0].labels[taken[1]], taken[0].confidences[taken[1]]) if taken else ('', 0.0)
        )
        scale = np.float32(image.shape[1] / width)
        scaled = checked[None] * scale
        side = int(np.ceil(float(squares(scaled, MARGIN)[0, 2])))
        picture = cut(image, scaled, max(min(side, LARGEST), 1))[0]
        return replace(
            frame,
            key=replace(frame.key, place=place),
            image=encode_jpeg(picture, 95),
            image_format='jpeg',
            label=label,
            confidence=confidence,
        )

    def _named(self, key: FrameKey, box: Boxes) -> Frame | None:
        """Return the thing that somebody named where a box (4,) lies."""
        known = [k for k in self._store.things(key) if k.place is not None]
        if not known:
            return None
        overlap = overlaps(box[None], as_boxes([k.place.box for k in known if k.place]))[0]
        best = int(overlap.argmax())
        return self._store.exact(known[best]) if overlap[best] >= SAME else None
