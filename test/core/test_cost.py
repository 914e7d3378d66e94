# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The cost meter against counts by hand and against torch's own counter where that is right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from etuner_ros.core.cost import BACKWARD, CostMeter, counted_as, FORWARD, OPTIMISER
from etuner_ros.core.models.networks import build, pretrained_spec


def test_depthwise_block_by_hand() -> None:
    """Grouped convolution, BatchNorm and activation, forward and backward."""
    block = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()
    )
    block[1].eval()
    x = torch.rand(2, 8, 5, 5, requires_grad=True)
    elements = 2 * 8 * 5 * 5
    convolution = 2 * elements * 1 * 9  # one input channel a group
    with CostMeter() as meter:
        block(x).sum().backward()
    assert meter.flops[FORWARD] == convolution + 2 * elements + elements
    # To the input as much as forward, to the weights as much again; BatchNorm: 3 an element.
    expected = 2 * convolution + (2 + 3) * elements + elements
    assert meter.flops[BACKWARD] == expected


def test_no_gradient_where_nothing_before_trains() -> None:
    """The first trained layer needs no gradient to its input; frozen ones behind it do."""
    first, second = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    second.requires_grad_(False)
    with CostMeter() as meter:
        second(first(torch.rand(3, 4))).sum().backward()
    one = 2 * 3 * 4 * 4
    assert meter.flops[FORWARD] == 2 * one
    assert meter.flops[BACKWARD] == one + one  # weights of the first, input of the second


@pytest.mark.parametrize(
    ('name', 'least', 'most'),
    # BatchNorm and activations come on top; gradients inside of attention count once, not twice.
    [('resnet18', 1.0, 1.02), ('swin_t', 0.98, 1.02), ('swin_v2_t', 0.98, 1.02)],
)
def test_networks_without_grouped_convolutions_agree_with_torch(
    name: str, least: float, most: float
) -> None:
    """Its counter is right there: of convolutions, linear layers and Swin's attention."""
    from torch.utils.flop_counter import FlopCounterMode

    model = build(pretrained_spec(name, 64))
    model.add_class('a')
    model.train()
    x = torch.rand(2, 3, 64, 64)
    with FlopCounterMode(display=False) as theirs:
        model(x).sum().backward()
    with CostMeter() as ours:
        model(x).sum().backward()
    total = ours.flops[FORWARD] + ours.flops[BACKWARD]
    assert least <= total / theirs.get_total_flops() <= most


def test_optimiser_counts_what_it_steps() -> None:
    """Parameters without a gradient cost nothing."""
    trained, frozen = nn.Linear(10, 10), nn.Linear(10, 10)
    frozen.requires_grad_(False)
    optimiser = torch.optim.AdamW([*trained.parameters(), *frozen.parameters()])
    frozen(trained(torch.rand(1, 10))).sum().backward()
    with CostMeter() as meter:
        optimiser.step()
    per_element = meter.flops[OPTIMISER] / 110
    assert per_element == int(per_element) > 5


def test_parts_and_pauses() -> None:
    """What runs in a part counts for it, the inner one of two; nothing counts in a pause."""
    layer = nn.Linear(2, 2)
    x = torch.rand(1, 2)
    with CostMeter() as meter, torch.no_grad(), counted_as('outer'):
        layer(x)
        with counted_as('inner'):
            layer(x)
        with meter.paused():
            layer(x)
    assert meter.flops == {'outer': 8.0, 'inner': 8.0}
    assert set(meter.seconds) == {'outer', 'inner'}
    layer(x)
    assert meter.total_flops == 16.0  # it is over
