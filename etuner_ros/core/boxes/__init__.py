# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things in boxes: parts of an image that are named, followed and taught one by one."""
