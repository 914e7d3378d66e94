# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Networks: cut into blocks, with weights from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.models.deploy import extract_features
from etuner_ros.core.models.networks import (
    appearance_of,
    build,
    Classifier,
    from_base,
    pretrained_spec,
    torchvision_models,
)
from etuner_ros.core.models.weights import (
    ModelSpec,
    read_base,
)


@pytest.fixture
def model(deployed: Path) -> Classifier:
    base = read_base(deployed)
    return from_base(base.state, base.spec)


@pytest.mark.parametrize(
    ('name', 'units'),
    [
        ('mobilenet_v2', 19),
        ('mobilenet_v3_small', 14),
        ('resnet18', 10),
        ('vit_b_16', 14),
        ('efficientnet_b0', 18),
    ],
)
def test_torchvision_models_are_cut_into_blocks_that_hold_every_parameter(name, units):
    model = build(pretrained_spec(name, 224))
    assert len(model.units) == units
    inside = {id(p) for unit in model.units for p in unit.parameters()}
    assert inside == {id(p) for p in model.backbone.parameters()}


def test_torchvision_weights_come_from_a_file(tmp_path):
    from etuner_ros.core.models.networks import torchvision_models

    network = torchvision_models().get_model('resnet18', weights=None)
    torch.save(network.state_dict(), tmp_path / 'resnet18.pth')
    model = build(pretrained_spec('resnet18', 64), str(tmp_path / 'resnet18.pth'))
    assert torch.equal(model.state_dict()['backbone.conv1.weight'], network.conv1.weight)
    with pytest.raises(WeightsError, match="do not fit 'mobilenet_v2'"):
        build(pretrained_spec('mobilenet_v2', 64), str(tmp_path / 'resnet18.pth'))
    with pytest.raises(WeightsError, match='does not exist'):
        build(pretrained_spec('resnet18', 64), str(tmp_path / 'nowhere.pth'))


def test_an_unknown_or_unfit_architecture_is_named():
    with pytest.raises(WeightsError, match="no model is called 'resnet19'"):
        build(pretrained_spec('resnet19', 64))
    with pytest.raises(WeightsError, match='does not end in a linear layer'):
        build(pretrained_spec('squeezenet1_1', 64))


def test_weights_of_another_architecture_are_refused(deployed):
    base = read_base(deployed)
    wrong = ModelSpec('resnet18', 64, base.spec.classes, base.spec.mean, base.spec.std)
    with pytest.raises(WeightsError, match="do not fit 'resnet18'"):
        from_base(base.state, wrong)


def test_features_and_appearance_come_from_the_one_forward_pass(model, frames):
    images = [resize_square(f.image, 64) for f in frames[:4]]
    logits, features, appearance = model.examine(model.tensor(images))
    expected = extract_features(model, images)
    assert torch.allclose(features, expected, atol=1e-4)
    assert torch.allclose(logits, model.head(expected), atol=1e-4)
    assert appearance.shape == (4, 224), 'two values for each of the 112 channels of the middle'


def test_appearance_is_of_channels_wherever_they_lie():
    picture = torch.rand(2, 6, 4, 4)
    expected = appearance_of(picture)
    assert expected.shape == (2, 12)
    assert torch.allclose(appearance_of(picture.permute(0, 2, 3, 1)), expected)


def test_a_swin_describes_a_frame_by_two_values_of_each_channel():
    """Its blocks give (N, H, W, C)."""
    torch.manual_seed(0)
    backbone = torchvision_models().SwinTransformer(
        patch_size=[4, 4], embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=[4, 4]
    )
    backbone.head = torch.nn.Identity()
    model = Classifier(ModelSpec('swin', 64, (), (0.5,) * 3, (0.5,) * 3), backbone, 16).eval()
    batch = torch.rand(2, 3, 64, 64)
    made = []
    handle = model.units[model.middle].module.register_forward_hook(lambda *o: made.append(o[2]))
    appearance = model.examine(batch)[2]
    handle.remove()
    channels = made[0].shape[3]
    assert made[0].shape == (2, made[0].shape[1], made[0].shape[1], channels)
    assert appearance.shape == (2, 2 * channels)
    assert torch.allclose(appearance[:, :channels], made[0].mean(dim=(1, 2)), atol=1e-5)
    assert torch.equal(model.appearance(batch), appearance)
