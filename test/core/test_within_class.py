# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What pictures of one kind differ in: fewer labels are needed where that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from etuner_ros.bench.datasets import READERS
from etuner_ros.core.errors import WeightsError
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.learn.within_class import from_scatters, scatter, shipped, WithinClass
from etuner_ros.core.models import likeness
from etuner_ros.core.models.deploy import extract_features
from etuner_ros.core.models.networks import build, Classifier, pretrained_spec

SIZE = 12


def pictures(seed: int, per_kind: int) -> tuple[torch.Tensor, list[str]]:
    """Five kinds that differ a little, seen in a light that changes two directions a lot."""
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(5, SIZE)) * [0, 0, *[1] * (SIZE - 2)]
    at = np.repeat(np.arange(5), per_kind)
    light = rng.normal(size=(len(at), SIZE)) * [6, 6, *[0.2] * (SIZE - 2)]
    return torch.from_numpy(kinds[at] + light), [f'{seed} {i}' for i in at]


def accuracy(within: WithinClass | None, seed: int) -> float:
    """Return how many of other kinds are right after one label each."""
    rows, labels = pictures(seed, 21)
    head = InstantHead(SIZE, within=within)
    head.rebuild(rows[::21], labels[::21])
    said = [head.classes[i] for i in head.logits(rows).argmax(dim=1).tolist()]
    return float(np.mean([a == b for a, b in zip(said, labels)]))


def test_kinds_that_it_has_never_seen_need_fewer_labels():
    learned = from_scatters([scatter(*pictures(seed, 30)) for seed in (1, 2)], rank=2)
    assert learned.directions.shape == (2, SIZE)
    assert float(learned.directions[:, :2].square().sum()) > 1.9, 'the light'
    with_it = np.mean([accuracy(learned, seed) for seed in range(10, 20)])
    without = np.mean([accuracy(None, seed) for seed in range(10, 20)])
    assert with_it > without + 0.2


def test_what_tells_kinds_apart_is_left():
    rows, labels = pictures(1, 30)
    apart = rows.clone()
    apart[:, 0] += 100.0 * torch.tensor([float(label[-1]) for label in labels])
    learned = from_scatters([scatter(apart, labels)], rank=2)
    assert float(learned.directions[:, 0].square().sum()) < 0.1


def test_what_is_served_says_the_same():
    learned = from_scatters([scatter(*pictures(1, 30))], rank=2)
    rows, labels = pictures(3, 4)
    head = InstantHead(SIZE, within=learned)
    head.rebuild(rows, labels)
    before = head.logits(rows)
    weight = head.learn(rows[0] + 1.0, 'another')
    other, bias = head.linear(head.classes)
    served = rows.float() @ other.T + bias
    assert torch.allclose(served.double(), head.logits(rows), atol=1e-3)
    head.unlearn(rows[0] + 1.0, 'another', weight)
    assert torch.allclose(head.logits(rows)[:, :5], before, atol=1e-6), 'taken back'
    some = head.logits(rows, ['another', labels[0]])
    assert float(some[:, 0].max()) < float(some[:, 1].min()), 'nothing is known of it any more'


@pytest.fixture(scope='module')
def network() -> Classifier:
    return build(pretrained_spec('efficientnet_lite0', 160), 'pretrained').eval()


def test_the_package_has_it_for_the_network_it_was_learned_with_alone(network):
    base = network.state()
    found = shipped('efficientnet_lite0', base)
    assert found is not None
    assert found.directions.shape[1] == network.feature_size
    assert torch.allclose(found.directions @ found.directions.T, torch.eye(64), atol=5e-3)
    assert 0 < float(found.keep.min()) < float(found.keep.max()) <= 1
    assert shipped('resnet18', base) is None
    name = next(n for n in base if n.endswith('weight') and not n.startswith('head'))
    base[name] = base[name] + 1e-3
    assert shipped('efficientnet_lite0', base) is None, 'other features lie elsewhere'


def test_a_damaged_file_says_what_to_do(network, monkeypatch, tmp_path: Path):
    monkeypatch.setattr(likeness, 'FOLDER', tmp_path)
    (tmp_path / 'efficientnet_lite0.safetensors').write_bytes(b'x' * 99)
    with pytest.raises(WeightsError, match='install the package again'):
        shipped('efficientnet_lite0', network.state())


def test_one_label_of_each_kind_says_more_of_them_in_other_places(network):
    stream = Path(__file__).resolve().parents[2] / 'config' / 'stream'
    frames = READERS['recording'](stream)
    rng = np.random.default_rng(0)
    first = {}
    for frame in (f for f in frames if f.scenario == 'workshop'):
        first.setdefault(frame.label, frame)
    others = [f for f in frames if f.scenario != 'workshop' and f.label in first]
    asked = [others[i] for i in rng.permutation(len(others))[:120]]
    told = list(first.values())
    rows = extract_features(network, [p.image(160) for p in [*told, *asked]])
    right = []
    for within in (shipped('efficientnet_lite0', network.state()), None):
        head = InstantHead(network.feature_size, within=within)
        head.rebuild(rows[: len(told)], [p.label for p in told])
        best = head.logits(rows[len(told) :]).argmax(dim=1).tolist()
        right.append(sum(head.classes[i] == p.label for i, p in zip(best, asked)))
    assert right[0] > right[1]
