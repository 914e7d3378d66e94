# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where files live."""

from __future__ import annotations

from etuner_ros.core.files import models_home


def test_each_namespace_has_a_model_store_of_its_own(ros_home):
    models = ros_home / 'etuner' / 'models'
    assert models_home('/') == models_home('') == models, 'stores of earlier releases are found'
    assert models_home('/front') == models / 'ns' / 'front'
    assert models_home('/arm/front/') == models / 'ns' / 'arm.front'
