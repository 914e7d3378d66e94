# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Labels: kept, joined with frames, asked for, read and written. No torch."""
