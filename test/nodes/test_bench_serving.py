# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What serving is measured beside really runs; how long things take is not tested."""

from __future__ import annotations

from pathlib import Path
import threading
import time
from types import SimpleNamespace
from typing import Any

from etuner_ros.bench.serving import Training


def test_predictions_under_training_are_measured_beside_training_that_goes_on(
    deployed: Path, frames: list
) -> None:
    stage: Any = SimpleNamespace(base=deployed, frames=frames[:16])
    training = Training(stage)  # fails where nothing is trained
    tick = threading.Event()
    try:
        begun = training.samples
        end = time.monotonic() + 60.0
        while training.samples < begun + 3 * len(stage.frames) and time.monotonic() < end:
            tick.wait(0.05)
        assert training.samples >= begun + 3 * len(stage.frames), 'more than its first round'
    finally:
        training.close()
