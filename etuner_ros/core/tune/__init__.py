# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The tuner without its node: rounds and their verdicts, the feed of labelled batches, features that
wait for a label. No torch, no ROS; the clock is injected.
"""
