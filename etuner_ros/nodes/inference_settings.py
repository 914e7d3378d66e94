# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of `inference`."""

from __future__ import annotations

from dataclasses import dataclass
import re

from etuner_ros.core.boxes.readout import ReadoutSettings
from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import ConfigError

PART_OF_TOPIC = re.compile('[A-Za-z_][A-Za-z0-9_]*')
# What may be set at run time.
LIVE = (
    'source',
    'threads',
    'top_k',
    'keep_rate_hz',
    'keep_size',
    'full_mb',
    'jpeg_quality',
    'annotated_width',
    'wait_for_model',
    'silence_s',
    'regions_wait_s',
    'region_threads',
    'most_regions',
    'unknown_below',
    'unlike_below',
)


@dataclass(frozen=True)
class InferenceSettings(Checked):
    """Parameters of the inference node."""

    source: str = setting(
        'camera', 'name of this camera pipeline in predictions and labels; without `cameras`'
    )
    cameras: tuple[str, ...] = setting(
        (),
        "several cameras by one process and one copy of the network: ['front', 'rear'] listens to "
        'front/image_raw and rear/image_raw, and messages say source front and rear; empty = one '
        'camera, image_raw',
    )
    batch: int = setting(
        0,
        'images of several cameras that go through the network together; 0 = all that wait where '
        'a GPU predicts, one after the other on a CPU, where a batch takes as long as its images',
        0,
        64,
    )
    image_transport: str = setting(
        'raw',
        "'raw' subscribes image_raw, 'compressed' image_raw/compressed",
        choices=('raw', 'compressed'),
    )
    device: str = setting('auto', "'auto' takes CUDA where there is one; 'cpu', 'cuda', 'cuda:1'")
    threads: int = setting(1, 'CPU threads of a prediction', 1, 256)
    top_k: int = setting(3, 'labels in a prediction', 1, 1000)
    keep_rate_hz: float = setting(
        10.0,
        'predicted frames kept for labelling, per second; several cameras share it; 0 = none',
        0.0,
        1000.0,
    )
    keep_size: int = setting(
        -1,
        'short side of kept frames, in px: larger ones are scaled down, never below the input of '
        'the network; -1 = twice that input, or as the camera has them while regions come; 0 = '
        'as the camera has them',
        -1,
        16384,
    )
    full_mb: float = setting(
        64.0,
        'memory for kept frames as the camera has them, in MB, which ~/get_frame hands out; '
        '0 = none',
        0.0,
        1e6,
    )
    jpeg_quality: int = setting(90, 'quality of kept frames', 1, 100)
    regions_wait_s: float = setting(
        1.0,
        'how long an image is kept for regions of it that a detector may still send, in s',
        0.05,
        10.0,
    )
    region_threads: int = setting(
        2,
        'CPU threads that share the regions of an image, where onnxruntime serves on the CPU',
        1,
        256,
    )
    most_regions: int = setting(20, 'regions of an image that are named, the best first', 1, 256)
    unlike_below: float = setting(
        ReadoutSettings.unlike_below,
        'how familiar the thing in a region has to look or it is called unknown, as a multiple of '
        'what a name needs; 0 = not asked',
        0.0,
        10.0,
    )
    unknown_below: float = setting(
        ReadoutSettings.unknown_below,
        'score below which it is called unknown where that is not asked, or can not be told; 0 = '
        'not asked',
        0.0,
        1.0,
    )
    annotated_width: int = setting(
        640, 'most width of the annotated image, in px; 0 = as the camera has it', 0, 16384
    )
    wait_for_model: bool = setting(
        True,
        'where this robot has learned weights, nothing is predicted before model_manager has '
        'announced them; false serves the base weights meanwhile, with a warning; whether there '
        'are any is seen in models.folder',
    )
    silence_s: float = setting(
        5.0,
        'time without an image after which the likely cause is said, in s; 0 = never',
        0.0,
        1e6,
    )

    def __post_init__(self) -> None:
        """
        Check the names of cameras, too.

        :raises ConfigError: when one is empty, can be no part of a topic's name, or stands twice
        """
        super().__post_init__()
        if not self.source:
            raise ConfigError('source: a camera needs a name, by which its labels are found')
        for name in self.cameras:
            if not PART_OF_TOPIC.fullmatch(name):
                raise ConfigError(
                    f'cameras: {name!r} can not be a part of a topic: letters, digits and _ '
                    f'alone, no digit at the beginning'
                )
            if self.cameras.count(name) > 1:
                raise ConfigError(f'cameras: {name!r} stands there twice')

    def kept_side(self, input_size: int, regions: bool = False) -> int:
        """
        Return the most that the short side of a kept frame measures, in px; 0 = no limit.

        :param input_size: side of the network's square input, in px
        :param regions: things in it may be cut out
        """
        if self.keep_size < 0:
            return 0 if regions else 2 * input_size
        # Learning from a picture that has fewer pixels than the network saw would teach a blur.
        return max(self.keep_size, input_size) if self.keep_size else 0


@dataclass(frozen=True)
class StorePlace(Checked):
    """Where model_manager keeps its versions, when it runs on this computer."""

    folder: str = setting(
        '',
        'folder of the model store, the same as in model_manager: where nothing lies in it, '
        'nothing was learned, and wait_for_model does nothing',
    )
