# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The decisions, one a file: when to tune, which layers, is this another scenario, may a candidate go
live, can it be afforded. No torch but in `cka`.
"""
