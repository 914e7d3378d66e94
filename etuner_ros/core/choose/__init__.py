# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which network, at how many pixels and in which precision, fits a board and its labels."""
