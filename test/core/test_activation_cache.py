# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Cutting networks behind their blocks, and the activation cache that rests on it."""

from __future__ import annotations

from collections.abc import Sequence
import copy

from hypothesis import given, settings, strategies
import pytest
import torch
from torch import nn
from torch.nn import functional

from etuner_ros.core.learn.activation_cache import ActivationCache
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.freezing import apply_frozen
from etuner_ros.core.models.networks import (
    build,
    Classifier,
    find_units,
    pretrained_spec,
    torchvision_models,
)
from etuner_ros.core.models.weights import ModelSpec

BLOCKS = 5


def small() -> Classifier:
    """A network of five blocks with BatchNorm, quick enough for many examples."""
    torch.manual_seed(0)

    def block(inputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, 8, 3, stride, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )

    layers = nn.Sequential()
    for i in range(BLOCKS):
        layers.add_module(f'block{i}', block(8 if i else 3, 2 if i == 1 else 1))
    layers.add_module('pool', nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    spec = ModelSpec('small', 8, ('a', 'b'), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model = Classifier(spec, layers, 8)
    with torch.no_grad():
        model.head.weight.normal_()
    return model.train()


def deit_tiny() -> nn.Module:
    network = torchvision_models().VisionTransformer(
        image_size=32, patch_size=16, num_layers=12, num_heads=3, hidden_dim=192, mlp_dim=768
    )
    network.heads = nn.Identity()
    return network


def network(name: str) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    if name == 'deit_tiny':
        return deit_tiny(), 32
    return build(pretrained_spec(name, 64)).backbone, 64


@pytest.mark.parametrize(
    ('name', 'missing'),
    [
        ('efficientnet_lite0', set(range(13, 19))),  # behind the first level, two values cross
        ('mobilenet_v2', set()),
        ('mobilenet_v3_small', set()),
        ('resnet18', set()),
        ('deit_tiny', {1}),  # its token is added with the batch size, so two values cross there
    ],
)
def test_each_network_can_be_cut_behind_its_blocks_and_gives_the_same(name, missing):
    backbone, size = network(name)
    units = find_units(backbone.eval())
    cuts = Cuts(backbone, units)
    assert set(cuts.borders) == set(range(len(units) + 1)) - missing
    batch = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        whole = backbone(batch)
        for border in cuts.borders[1:]:
            parts = cuts.run(cuts.run(batch, 0, border), border)
            assert torch.allclose(parts, whole, rtol=1e-4, atol=1e-5), f'behind block {border}'
    middle = cuts.borders[len(cuts.borders) // 2]
    assert cuts.border(middle) == middle
    if missing:
        assert cuts.border(min(missing)) == min(missing) - 1
    with pytest.raises(ValueError, match='borders are'):
        cuts.run(torch.zeros(1, 3, size, size), 0, len(units) + 1)


def test_gradients_behind_a_cut_are_those_of_the_whole_network():
    backbone, size = network('mobilenet_v2')
    units = find_units(backbone.eval())
    cuts, batch = Cuts(backbone, units), torch.randn(2, 3, size, size)
    whole = backbone(batch).square().sum()
    expected = torch.autograd.grad(whole, list(units[-1].parameters()))
    with torch.no_grad():
        start = cuts.run(batch, 0, 10)
    part = cuts.run(start, 10).square().sum()
    got = torch.autograd.grad(part, list(units[-1].parameters()))
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(got, expected))


def test_a_network_whose_path_depends_on_its_input_still_runs_whole():
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x)) if x.sum() > 0 else self.one(self.two(x))

    backbone = Fickle()
    cuts = Cuts(backbone, find_units(backbone))
    assert cuts.borders == (0,)
    assert 'Trace' in cuts.reason
    x = torch.randn(3, 4)
    assert torch.equal(cuts.run(x, 0), backbone(x))


IMAGES = torch.randint(0, 256, (12, 8, 8, 3), generator=torch.Generator().manual_seed(1))


def loader(model: Classifier, asked: list[int], keys: Sequence[int]):
    def images(positions: Sequence[int]) -> torch.Tensor:
        asked.extend(keys[p] for p in positions)
        return model.tensor(IMAGES[keys[p]].to(torch.uint8).numpy() for p in positions)

    return images


def fetch(cache: ActivationCache, model: Classifier, keys: list[int]) -> list[int]:
    """Check that the cache gives what the model gives; return which pictures it asked for."""
    asked: list[int] = []
    got = cache.fetch(keys, loader(model, asked, keys))
    with torch.no_grad():
        x = model.tensor(IMAGES[k].to(torch.uint8).numpy() for k in keys)
        for unit in model.units[: cache.border]:
            x = unit.module(x)
    assert torch.allclose(got, x, rtol=1e-5, atol=1e-6)
    return asked


def make(
    capacity: int = 10**9, precision: str = 'float32'
) -> tuple[Classifier, Cuts, ActivationCache]:
    model = small()
    cuts = Cuts(model.backbone, model.units)
    return model, cuts, ActivationCache(model, cuts, capacity, precision)


def freeze(model: Classifier, cache: ActivationCache, count: int) -> None:
    apply_frozen(model, model.unit_names[:count])
    cache.follow()


def test_a_sample_is_decoded_once_advanced_when_the_prefix_grows_and_redone_when_it_shrinks():
    model, _, cache = make()
    freeze(model, cache, 2)
    assert fetch(cache, model, [0, 1]) == [0, 1]
    assert fetch(cache, model, [1, 0, 2]) == [2]
    freeze(model, cache, 4)
    assert fetch(cache, model, [0, 1, 3]) == [3], 'the others go on from where they were'
    assert cache.uses == {'misses': 4, 'hits': 2, 'advanced': 2}
    assert fetch(cache, model, [0, 1, 3]) == []
    freeze(model, cache, 1)
    assert len(cache) == 0, 'what lies behind a block that learns again is worth nothing'
    assert fetch(cache, model, [0, 1]) == [0, 1]
    freeze(model, cache, 0)
    assert fetch(cache, model, [0, 0]) == [0, 0], 'nothing is kept without a frozen prefix'


def test_what_is_kept_behind_dropout_is_as_in_evaluation():
    """As in the classifier of AlexNet: no block holds it, so it is on while a model trains."""
    torch.manual_seed(0)
    layers = nn.Sequential()
    for i in range(3):
        layers.add_module(f'block{i}', nn.Conv2d(8 if i else 3, 8, 3, 1, 1))
        layers.add_module(f'drop{i}', nn.Dropout(0.5))
    layers.add_module('pool', nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    spec = ModelSpec('small', 8, ('a', 'b'), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model = Classifier(spec, layers, 8)
    cache = ActivationCache(model, Cuts(model.backbone, model.units), 10**9, 'float32')
    picture = model.tensor([IMAGES[0].to(torch.uint8).numpy()])
    for frozen in (2, 3):  # computed at once, and from where it was before
        freeze(model, cache, frozen)
        model.eval()
        with torch.no_grad():
            expected = layers[: 2 * frozen - 1](picture)
        model.train()
        for _ in ('made', 'kept'):
            assert torch.allclose(cache.fetch(['x'], lambda _: picture), expected, atol=1e-6)
        assert model.training, 'what is not frozen trains on with dropout'
        assert layers.drop2.training


def test_a_gap_in_the_frozen_blocks_ends_the_prefix():
    model, _, cache = make()
    apply_frozen(model, [n for i, n in enumerate(model.unit_names) if i != 2])
    assert cache.follow() == 2


def test_other_weights_make_entries_invalid_and_the_same_weights_do_not():
    model, _, cache = make()
    freeze(model, cache, 3)
    fetch(cache, model, [0, 1])
    model.load_state(model.state(), model.classes)
    cache.follow()
    assert fetch(cache, model, [0, 1]) == [], 'the same values: nothing is lost'
    state = model.state()
    state['backbone.block1.1.running_mean'] = state['backbone.block1.1.running_mean'] + 0.5
    model.load_state(state, model.classes)
    cache.follow()
    assert fetch(cache, model, [0, 1]) == [0, 1], 'a buffer counts as much as a parameter'
    state['backbone.block4.0.bias'] = state['backbone.block4.0.bias'] + 1.0
    model.load_state(state, model.classes)
    cache.follow()
    assert fetch(cache, model, [0, 1]) == [], 'what lies behind the prefix does not matter'


@settings(max_examples=40, deadline=None)
@given(
    strategies.lists(
        strategies.one_of(
            strategies.tuples(strategies.just('freeze'), strategies.integers(0, BLOCKS)),
            strategies.tuples(strategies.just('weights'), strategies.integers(0, BLOCKS - 1)),
            strategies.tuples(strategies.just('fetch'), strategies.integers(0, 11)),
        ),
        min_size=3,
        max_size=20,
    ),
    strategies.sampled_from([10**9, 3000]),
)
def test_the_cache_equals_recomputation_after_any_sequence(steps, capacity):
    model, _, cache = make(capacity)
    freeze(model, cache, 2)
    for kind, number in steps:
        if kind == 'freeze':
            freeze(model, cache, number)
        elif kind == 'weights':
            with torch.no_grad():
                next(model.units[number].parameters()).add_(0.1)
            cache.follow()
        else:
            fetch(cache, model, [number, (number + 1) % 12, (number * 5) % 12])
        assert cache.bytes <= capacity
        assert cache.bytes == sum(e.bytes for e in cache._entries.values())


def test_the_loss_of_a_training_step_is_the_same_with_and_without():
    keys, target = [0, 1, 2, 3], torch.tensor([0, 1, 0, 1])
    losses = {}
    for capacity in (0, 10**9):
        model, cuts, cache = make(capacity)
        freeze(model, cache, 3)
        optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        losses[capacity] = []
        for _ in range(6):
            start = cache.fetch(keys, loader(model, [], keys))
            logits = model.head(cuts.run(start, cache.border).flatten(1))
            loss = functional.cross_entropy(logits, target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses[capacity].append(float(loss.detach()))
        assert cache.border == (3 if capacity else 0)
    assert losses[0] == pytest.approx(losses[10**9], abs=1e-5)
    assert losses[0][-1] < losses[0][0], 'it does learn'


@pytest.mark.parametrize(
    ('precision', 'share', 'error'), [('float16', 0.5, 1e-3), ('uint8', 0.4, 5e-3)]
)
def test_half_and_quarter_precision_take_less_and_stay_close(precision, share, error):
    sizes, values = {}, {}
    for kind in ('float32', precision):
        model, _, cache = make(precision=kind)
        freeze(model, cache, 3)
        keys = list(range(12))
        cache.fetch(keys, loader(model, [], keys))
        values[kind] = cache.fetch(keys, loader(model, [], keys))
        sizes[kind] = cache.bytes
    assert sizes[precision] <= share * sizes['float32']
    span = float(values['float32'].max() - values['float32'].min())
    assert float((values[precision] - values['float32']).abs().max()) <= error * span


def test_the_least_recently_used_goes_first():
    model, _, cache = make()
    freeze(model, cache, 3)
    fetch(cache, model, [0])
    one = cache.bytes
    cache = ActivationCache(model, cache._cuts, 2 * one, 'float32')
    freeze(model, cache, 3)
    fetch(cache, model, [0, 1])
    fetch(cache, model, [0])
    fetch(cache, model, [2])
    assert [key in cache for key in (0, 1, 2)] == [True, False, True]
    cache.discard(0)
    cache.discard(0)
    assert cache.bytes == one


def test_a_batch_that_does_not_fit_throws_out_its_own_samples_and_is_right_all_the_same():
    model, _, cache = make()
    freeze(model, cache, 3)
    fetch(cache, model, [0])
    cache = ActivationCache(model, cache._cuts, 2 * cache.bytes, 'float32')
    freeze(model, cache, 3)
    fetch(cache, model, [0, 1])
    fetch(cache, model, [2, 0, 3, 1, 4])
    freeze(model, cache, 4)
    fetch(cache, model, [5, 3, 4, 6])
    assert cache.bytes <= cache._capacity


def test_training_never_writes_into_what_is_kept():
    """The block behind the border begins with an operation in place, as in a ResNet."""
    torch.manual_seed(0)
    resnet = build(pretrained_spec('resnet18', 64))
    model = copy.deepcopy(resnet)
    cuts = Cuts(model.backbone, model.units)
    cache = ActivationCache(model, cuts, 10**9, 'float32')
    freeze(model, cache, 2)  # behind bn1; relu in place comes next
    picture = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8).numpy()
    first = cache.fetch(['x'], lambda _: model.tensor([picture])).clone()
    cuts.run(cache.fetch(['x'], lambda _: model.tensor([picture])), 2)
    assert float(first.min()) < 0
    assert torch.equal(cache.fetch(['x'], lambda _: model.tensor([picture])), first)
