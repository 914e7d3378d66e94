# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The methods that the benchmark compares, each in a small file behind one interface."""
