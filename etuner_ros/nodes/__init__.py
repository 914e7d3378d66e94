# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The ROS 2 nodes: parameters in, messages in, one call into the core, messages out."""
