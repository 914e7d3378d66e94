# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and the core's values; every field from outside is checked here."""

from __future__ import annotations

from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header

from etuner_ros.core.images.codec import Image
from etuner_ros.core.images.raw import unpack
from etuner_ros.nodes.messages import to_bytes


def image_to_array(message: ImageMessage) -> Image:
    """
    Read an Image message, row padding included.

    :return: RGB uint8, (H, W, 3)
    :raises ImageError: when encoding, size, step or buffer are wrong
    """
    return unpack(message)


def array_to_image(image: Image, header: Header) -> ImageMessage:
    """Make an Image message of RGB uint8 (H, W, 3)."""
    height, width = image.shape[:2]
    return ImageMessage(
        header=header,
        height=height,
        width=width,
        encoding='rgb8',
        step=3 * width,
        data=to_bytes(image.tobytes()),
    )
