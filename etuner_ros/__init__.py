# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Continual learning for robot perception: ETuner (arXiv 2401.16694) for ROS 2."""

from pkgutil import extend_path

# Started in the repository, Python finds this source tree first; the generated messages lie in the
# installed package of the same name.
__path__ = extend_path(__path__, __name__)
__version__ = '0.1.0'
