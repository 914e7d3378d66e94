# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The algorithms, in plain Python, NumPy and PyTorch; nothing here knows about ROS.

Modules that import torch: `activation_cache`, `cka`, `cuts`, `deploy`, `efficientnet_lite`,
`freezing`, `instant_head`, `learner`, `live_model`, `models`, `simsiam`, `trainer`. The others
start without it. docs/science.md says what each part does and why.
"""
