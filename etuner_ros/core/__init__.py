# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The algorithms, in plain Python, NumPy and PyTorch; nothing here knows about ROS.

Modules that import torch: `cka`, `deploy`, `efficientnet_lite`, `freezing`, `learner`, `models`,
`trainer`. The others start without it.
"""
