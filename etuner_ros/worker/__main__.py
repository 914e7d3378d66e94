# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`python -m etuner_ros.worker DESCRIPTOR`: the worker process."""

from etuner_ros.worker.loop import main

main()
