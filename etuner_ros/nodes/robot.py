# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`robot`: inference, model_manager, label_collector and tuner in one process, for small boards.

They have the names, parameters, topics and services that they have in processes of their own, and
share what each would load for itself: Python, rclpy, NumPy, OpenCV. What trains stays in the
tuner's worker process. Each node has its own executor and thread.
"""

from __future__ import annotations

import sys

from etuner_ros.nodes.inference import InferenceNode
from etuner_ros.nodes.label_collector import LabelCollectorNode
from etuner_ros.nodes.model_manager import ModelManagerNode
from etuner_ros.nodes.punctual import keep_memory, keep_what_was_imported
from etuner_ros.nodes.running import run
from etuner_ros.nodes.tuner import TunerNode

# How long a thread may keep Python's lock from another that waits for it: by default 5 ms, and a
# frame has to get it back several times.
LOCK_S = 0.0002


def main() -> int:
    """Run the nodes; the main thread is that of the one that answers every frame."""
    sys.setswitchinterval(LOCK_S)
    keep_memory()
    keep_what_was_imported()
    return run(InferenceNode, ModelManagerNode, LabelCollectorNode, TunerNode)
