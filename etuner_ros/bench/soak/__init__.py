# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A robot under fire: what was promised is tried, one phase a module."""
