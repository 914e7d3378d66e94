# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The teaching page: what it shows, how it looks, who may open it."""
