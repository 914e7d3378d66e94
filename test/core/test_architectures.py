# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A whole round on every family of networks: probes, freezing, cache, instant head."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from etuner_ros.core.config import SimFreezeConfig, TrainConfig
from etuner_ros.core.identity import Scenario
from etuner_ros.core.learn.candidates import RoundCandidate
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.live_state import predictions
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.training_state import TrainingState
from etuner_ros.core.models.freezing import frozen_prefix
from etuner_ros.core.models.networks import build, Classifier, pretrained_spec, torchvision_models
from etuner_ros.core.models.weights import ModelSpec

EAGER = SimFreezeConfig(
    threshold=1.0,
    relative_move=1.0,
    first_frozen_share=0.5,
    freeze_interval=1,
    patience=1,
    min_iterations=1,
    probe_size=8,
    max_new=100,
)


def network(name: str) -> Classifier:
    torch.manual_seed(0)
    if name != 'deit_tiny':
        return build(pretrained_spec(name, 64))
    backbone = torchvision_models().VisionTransformer(
        image_size=64, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768
    )
    backbone.heads = torch.nn.Identity()
    spec = ModelSpec('deit_tiny', 64, (), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Classifier(spec, backbone, 192).eval()


def pictures(count: int) -> list[Sample]:
    """Red and blue noise: any network tells them apart."""
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        image = rng.integers(0, 120, (64, 64, 3), dtype=np.uint8)
        image[..., 0 if i % 2 else 2] += 120
        made.append(Sample.of(str(i), 'red' if i % 2 else 'blue', Scenario('eye', 0), image))
    return made


@pytest.mark.parametrize(
    'name', ['efficientnet_lite0', 'mobilenet_v2', 'mobilenet_v3_small', 'resnet18', 'deit_tiny']
)
def test_a_round_freezes_half_of_any_network_and_trains_the_rest(name):
    learner = Learner(
        network(name),
        TrainConfig(batch_size=4, epochs=1.0, views=1, validation_share=0.0, early_stop=0.0),
        EAGER,
    )
    learner.add_samples(pictures(16))
    frozen_after = 0
    before = learner.training.state()
    for item in learner.run_round():
        if not isinstance(item, RoundCandidate) and item.iteration == 2:
            frozen_after = frozen_prefix(learner.training)
            before = learner.training.state()
    assert isinstance(item, RoundCandidate)
    units = learner.training.unit_names
    assert list(item.frozen) == units[: len(units) // 2], 'the front half, in order'
    assert set(item.cka) == set(units)
    assert all(-0.01 <= v <= 1.0 + 1e-6 for v in item.cka.values())
    assert frozen_after > 0
    after = learner.training.state()
    named = {
        unit.name: [
            k
            for k, p in learner.training.named_parameters()
            if any(p is q for q in unit.parameters())
        ]
        for unit in learner.training.units
    }
    for position, unit in enumerate(units):
        same = all(np.array_equal(before[k], after[k]) for k in named[unit])
        if position < frozen_after:
            assert same, f'{unit} was frozen'
    assert not all(np.array_equal(before[k], after[k]) for k in named[units[-1]])
    assert learner.state.cache.border > 0
    assert learner.state.cache.uses['hits'] > 0, 'samples start behind the frozen blocks'
    learner.set_live(item.update, item.classes, 1)
    said = predictions(learner.live, pictures(16))
    assert np.mean([p == s.label for p, s in zip(said, pictures(16))]) > 0.9


class Swap(torch.nn.Module):
    """Put channels last, or behind the pictures again."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.order)


def patches(last: bool) -> Classifier:
    """A network whose first block tells patches apart, with channels last or not, as asked."""
    torch.manual_seed(0)
    first = [torch.nn.Conv2d(3, 6, 8, 8), *([Swap(0, 2, 3, 1)] if last else [])]
    # The larger part, so that the first one stays whole.
    rest = [torch.nn.Conv2d(6, 200, 1), torch.nn.ReLU(), torch.nn.Conv2d(200, 6, 1)]
    backbone = torch.nn.Sequential()
    backbone.add_module('block0', torch.nn.Sequential(*first))
    backbone.add_module('back', Swap(0, 3, 1, 2) if last else torch.nn.Identity())
    backbone.add_module('block1', torch.nn.Sequential(*rest))
    backbone.add_module('flat', torch.nn.Flatten())
    spec = ModelSpec('patches', 32, ('a', 'b'), (0.5,) * 3, (0.5,) * 3)
    model = Classifier(spec, backbone, 6 * 4 * 4)
    with torch.no_grad():
        model.head.weight.normal_()
    return model.eval()


@pytest.mark.parametrize('last', [False, True])
def test_mirroring_behind_frozen_blocks_is_from_left_to_right(last):
    model = patches(last)
    front = SimFreezeConfig(start_frozen_share=0.4, first_frozen_share=0.4)
    config = TrainConfig(views=1, flip=True, device='cpu', cache_precision='float32')
    state = TrainingState(model, config, front)
    assert state.cache.border == 1
    assert model.unit_names[0] == 'block0'
    grey = np.random.default_rng(0).integers(0, 255, (16, 4, 4, 1), np.uint8)
    images = grey.repeat(8, axis=1).repeat(8, axis=2).repeat(3, axis=3)  # the same in each patch
    shown = [Sample.of(str(i), 'a', Scenario('eye', 0), im) for i, im in enumerate(images)]
    with torch.no_grad():
        found = state.logits([(s, 0) for s in shown])
        as_seen = model(model.tensor(s.image for s in shown))
        mirrored = model(model.tensor(s.image[:, ::-1] for s in shown))
    turned = [torch.allclose(a, b, atol=0.05) for a, b in zip(found, mirrored)]
    kept = [torch.allclose(a, b, atol=0.05) for a, b in zip(found, as_seen)]
    assert [a != b for a, b in zip(turned, kept)] == [True] * 16, 'one or the other'
    assert any(turned)
    assert any(kept)
