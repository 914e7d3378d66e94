# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How a robot learns: samples, features, the instant head, rounds."""
