# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Serving: engines, variants of the live version, and which of them serves."""
