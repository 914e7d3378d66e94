# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learning again from a recording, without ROS."""
