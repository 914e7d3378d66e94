# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What command line, demo and benchmark share."""
