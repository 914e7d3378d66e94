# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The command line: `etuner`, what it asks of running nodes, and the doctor."""
