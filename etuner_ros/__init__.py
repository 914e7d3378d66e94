# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Continual learning for robot perception: ETuner (arXiv 2401.16694) for ROS 2."""

__version__ = '0.1.0'
