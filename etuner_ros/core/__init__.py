# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The algorithms, in plain Python, NumPy and PyTorch; nothing here knows about ROS.

Rooms, each may import those before it: what all use (`config`, `cost`, `errors`, `files`,
`processes`), `images`, `labels`, `decide`, `models`, `learn`. Only `models`, `learn` and
`decide.cka` import torch. docs/science.md says what each part does and why.
"""
