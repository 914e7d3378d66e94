# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Each rival's rule against a step that was computed by hand."""

from __future__ import annotations

from dataclasses import asdict
import math
from pathlib import Path

import pytest
import torch
import yaml

from etuner_ros.bench.methods.autofreeze import growth
from etuner_ros.bench.methods.egeria import similarity_loss, slope
from etuner_ros.bench.methods.ekya import Candidate, thief, window_accuracy
from etuner_ros.bench.methods.frozen_features import StreamingLDA
from etuner_ros.bench.methods.registry import describe, entries, variants
from etuner_ros.bench.methods.rigl import densities, drop_share, move
from etuner_ros.bench.methods.slimfit import relative_change, to_freeze
from etuner_ros.bench.methods.tuned import Oracle, Trigger
from etuner_ros.core.config import HeadConfig
from etuner_ros.core.learn.label_prior import LabelPrior


def test_egeria_similarity_loss_and_slope() -> None:
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    other = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # Gram matrices: identity, and all ones, whose rows normalise to 1/sqrt(2).
    r = 1 / math.sqrt(2)
    expected = (2 * (1 - r) ** 2 + 2 * r**2) / 4
    assert similarity_loss(one, other) == pytest.approx(expected)
    assert similarity_loss(one, one) == pytest.approx(0.0)
    assert slope([1.0, 3.0, 5.0]) == pytest.approx(2.0)


def test_autofreeze_grows_to_the_first_at_the_median() -> None:
    assert growth([0.1, 0.2, 0.5, 0.9]) == 2  # median 0.35
    assert growth([0.9, 0.1, 0.1]) == 0


def test_slimfit_change_and_choice() -> None:
    before, after = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.1, 1.0, 5.0])
    # A tenth, a half; the zero weight does not count.
    assert relative_change(before, after) == pytest.approx(0.3)
    assert to_freeze({'a': 0.3, 'b': 0.1, 'c': 0.2, 'd': 0.4}, 0.5) == ['b', 'c']


def test_rigl_moves_connections() -> None:
    assert drop_share(0, 100) == pytest.approx(0.3)
    assert drop_share(50, 100) == pytest.approx(0.15)
    assert drop_share(100, 100) == 0.0
    weight = torch.tensor([5.0, 0.1, 3.0, 0.0, 0.0])
    gradient = torch.tensor([9.0, 9.0, 9.0, 1.0, 2.0])
    mask = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    # A third of three: the weight of 0.1 goes, the gradient of 2 comes.
    assert move(weight, gradient, mask, 0.34).tolist() == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_rigl_densities_keep_the_overall_share() -> None:
    shapes = [(8, 4, 3, 3), (64, 64, 3, 3)]
    found = densities(shapes, 0.5)
    sizes = [math.prod(s) for s in shapes]
    kept = sum(d * n for d, n in zip(found, sizes))
    assert kept == pytest.approx(0.5 * sum(sizes))
    assert found[0] > found[1]  # small layers stay denser
    assert max(found) <= 1.0


def test_ekya_steals_for_training_while_the_mean_rises() -> None:
    gain = Candidate(0.0, 4.0, cost=0.2, accuracy=0.9)
    # A fifth of a window at half of the compute: done after 40 % of it.
    assert window_accuracy(0.5, gain, 0.5, 0.5) == pytest.approx(0.4 * 0.5 + 0.6 * 0.9)
    # Serving needs half; a training share of 0.6 leaves 0.4, so a fifth of requests is late.
    assert window_accuracy(0.5, None, 0.0, 0.5) == 0.5
    assert window_accuracy(0.5, gain, 0.6, 0.5) == pytest.approx(0.8 * (1 / 3 * 0.5 + 2 / 3 * 0.9))
    chosen, share, value = thief(0.5, [gain], 0.5)
    assert (chosen, share) == (gain, 0.5)
    assert value == pytest.approx(0.74)
    worse = Candidate(0.0, 4.0, cost=0.2, accuracy=0.4)
    assert thief(0.5, [worse], 0.5)[0] is None


def test_streaming_lda_by_hand() -> None:
    lda = StreamingLDA(2)
    lda.add(torch.tensor([0.0, 0.0]), 'a')
    lda.add(torch.tensor([2.0, 0.0]), 'a')
    # The second differs by (2, 0) from the mean; n = 1: (1 * 0 + 1/2 * [4, 0; 0, 0]) / 2.
    assert lda.covariance.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert lda.means.tolist() == [[1.0, 0.0]]
    lda.add(torch.tensor([0.0, 3.0]), 'b')
    weight, bias = lda.linear()
    scores = torch.tensor([[1.0, 0.2], [0.3, 2.5]]).double() @ weight.T + bias
    assert scores.argmax(dim=1).tolist() == [0, 1]


def test_triggers() -> None:
    every = Trigger(2)
    every.on_batch(0, False)
    assert not every.due
    every.on_batch(0, False)
    assert every.due
    oracle = Oracle()
    oracle.on_batch(3, False)
    oracle.on_change(False)  # what a detector says is not for it
    oracle.on_batch(3, False)
    assert not oracle.due
    oracle.on_change(True)
    assert not oracle.due  # nothing of the new scenario yet
    oracle.on_batch(3, False)
    assert oracle.due
    oracle.on_start()
    oracle.on_batch(3, False)
    assert not oracle.due


def test_every_method_says_where_it_is_from_and_has_a_stable_description() -> None:
    for name, entry in entries().items():
        assert entry.source
        assert describe(name) == describe(name)
    assert len({describe(n) for n in variants()}) == len(variants())


def test_the_full_system_is_what_the_robot_runs_with_thrifty_yaml(repository: Path) -> None:
    """Nothing is measured that a user can not switch on."""
    wanted = yaml.safe_load((repository / 'config' / 'thrifty.yaml').read_text())
    tuner = wanted['/**/tuner']['ros__parameters']
    recipe = entries()['full'].settings
    for group, config in (
        ('lazy_tune', recipe.lazy),
        ('sim_freeze', recipe.sim_freeze),
        ('head', recipe.head),
        ('train', recipe.train),
    ):
        default = type(config)()
        differs = {
            k: v for k, v in asdict(config).items() if v != getattr(default, k) and k != 'device'
        }
        assert tuner[group] == differs
    from etuner_ros.bench.streams import Setting

    collector = wanted['/**/label_collector']['ros__parameters']
    assert collector['batch_size'] == Setting('NI').batch_size


def test_label_prior_follows_what_is_labelled_and_lets_go_at_a_change() -> None:
    prior = LabelPrior(HeadConfig(prior=1.0, prior_memory=20.0))
    for _ in range(30):
        prior.on_label('cup')
    before = prior.offsets(['cup', 'ball'])
    prior.on_scenario_change()
    after = prior.offsets(['cup', 'ball'])
    assert before[0] > after[0] > after[1] > before[1]
    off = LabelPrior(HeadConfig(prior=0.0))
    off.on_label('cup')
    assert off.offsets(['cup', 'ball']).tolist() == [0.0, 0.0]
