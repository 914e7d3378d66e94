# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of the core. They need no ROS and are never part of the tests."""
