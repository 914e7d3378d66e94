# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What serving is measured beside really runs; how long things take is not tested."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from etuner_ros.bench.serving import Training


def test_predictions_under_training_are_measured_beside_training(
    deployed: Path, frames: list
) -> None:
    stage: Any = SimpleNamespace(base=deployed, frames=frames[:16])
    training = Training(stage)  # returns when the first batch was trained on
    try:
        assert training.samples > 0
    finally:
        training.close()
