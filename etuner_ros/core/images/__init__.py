# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What pictures are: codecs, drawing, and where the camera node gets them from."""
