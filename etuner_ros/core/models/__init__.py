# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Networks: their blocks, cuts, weights, stores, and the live one."""
