# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the live version is served: engines, their graphs and precisions, the live model, swaps."""
