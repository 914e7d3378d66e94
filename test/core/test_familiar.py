# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things that are like nothing that was taught have no name, however sure the head is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.boxes.readout import BACKGROUND, read, ReadoutSettings
from etuner_ros.core.learn.familiar import Familiar, USUAL
from etuner_ros.core.learn.within_class import WithinClass
from etuner_ros.core.models.likeness import Likeness, Within

SIZE = 24
LIGHT = WithinClass(torch.eye(2, SIZE), torch.tensor([0.05, 0.05]))  # what pictures differ in
SHIPPED = Within(LIGHT.directions.numpy(), LIGHT.keep.numpy())
KINDS = ('cup', 'ball', 'hat')


@dataclass(frozen=True)
class One:
    row: torch.Tensor
    label: str
    thing: bool = True


def look(kind: int, seed: int) -> torch.Tensor:
    """Return the feature of a thing in any light; kinds differ in what light leaves alone."""
    rng = np.random.default_rng((kind, seed))
    light = 6.0 * rng.normal(size=2)
    shape = 3.0 * np.eye(10)[kind].repeat(2) + 0.4 * rng.normal(size=20)
    return torch.tensor([*light, *shape, 1.0, 1.0], dtype=torch.float32)


def told(each: int, kinds: tuple[str, ...] = KINDS, thing: bool = True) -> dict[str, One]:
    return {
        f'{name} {i}': One(look(kind, i), name, thing)
        for i in range(each)
        for kind, name in enumerate(kinds)
    }


def likeness(taught: dict[str, One], within: WithinClass | None = LIGHT) -> Likeness | None:
    rows = Familiar(within).rows(taught, KINDS)
    shipped = SHIPPED if within is not None else None
    return None if rows is None else Likeness(rows.half().float().numpy(), shipped)


def familiar(like: Likeness, kind: int) -> float:
    """Return which share of other things of a kind is known."""
    rows = torch.stack([look(kind, 1000 + i) for i in range(100)]).numpy()
    return float((like(rows).max(axis=1) >= 1.0).mean())


@pytest.mark.parametrize('each', [1, 30])
def test_things_of_taught_kinds_are_known_and_others_are_not_in_any_light(each):
    like = likeness(told(each))
    assert all(familiar(like, kind) > 0.85 for kind in range(3))
    assert all(familiar(like, kind) < 0.1 for kind in range(4, 9))


def test_it_is_the_mean_likeness_to_what_was_taught_of_a_class():
    taught = told(4)
    like = likeness(taught)
    new = look(1, 77)
    ball = torch.stack([one.row for one in taught.values() if one.label == 'ball'])
    cosines = torch.nn.functional.cosine_similarity(LIGHT.without(new[None]), LIGHT.without(ball))
    assert like(new[None].numpy())[0, 1] == pytest.approx(float(cosines.mean()) / USUAL, rel=2e-3)


def test_nineteen_of_twenty_taught_things_would_be_known_had_they_not_been_taught():
    taught = told(40)
    alone = 0
    for name, one in list(taught.items())[:60]:
        like = likeness({k: v for k, v in taught.items() if k != name})
        alone += like(one.row[None].numpy()).max() >= 1.0
    assert 54 <= alone <= 59


def test_a_network_of_which_nothing_ships_waits_for_things_enough():
    assert likeness(told(3), within=None) is None
    assert likeness(told(9), within=None) is not None


def test_what_was_taken_back_or_is_called_otherwise_counts_no_more():
    made, taught = Familiar(LIGHT), told(10)
    before = made.rows(taught, KINDS)
    del taught['cup 3']
    taught['hat 2'] = replace(taught['hat 2'], label='ball')
    taught['ball 1'] = replace(taught['ball 1'], row=look(1, 500))  # computed anew
    now = made.rows(taught, KINDS)
    assert not torch.allclose(before, now)
    assert torch.allclose(now, Familiar(LIGHT).rows(taught, KINDS))


def test_a_class_is_what_its_things_look_like_and_without_any_what_its_images_do():
    images = {
        f'image {k}': replace(v, row=look(7, i))
        for i, (k, v) in enumerate(told(5, ('cup',), thing=False).items())
    }
    assert likeness(images) is None, 'nobody has pointed at anything'
    with_things = likeness({**images, **told(8, ('cup', 'ball'))})
    assert familiar(with_things, 7) < 0.1, 'whole images count no more'
    both = {**images, **{k: v for k, v in told(30).items() if v.label != 'cup'}}
    assert familiar(likeness(both), 7) > 0.85


def test_what_is_no_thing_makes_nothing_familiar():
    ground = {f'g{i}': One(look(5, i), BACKGROUND) for i in range(30)}
    rows = Familiar(LIGHT).rows({**told(10), **ground}, (*KINDS, BACKGROUND))
    assert not rows[3].any()
    like = Likeness(rows.numpy(), SHIPPED)
    assert familiar(like, 5) < 0.1


def test_a_region_that_is_like_nothing_that_was_taught_is_unknown_whatever_its_score():
    logits = np.array([[9, 0, 0], [9, 0, 0], [0, 0.2, 0]], np.float32)
    places = as_boxes([(0, 0, 40, 40), (100, 0, 40, 40), (200, 0, 40, 40)])
    like = np.array([[1.2, 0, 0], [0.8, 0, 0], [0, 1.4, 0]], np.float32)

    def unknown(likeness: np.ndarray | None, below: float, size: int = 3) -> list[bool]:
        found = read(
            KINDS[:size],
            logits[:, :size],
            np.zeros((3, 2), np.float32),
            places,
            (320, 240),
            settings=ReadoutSettings(unknown_below=below),
            likeness=None if likeness is None else likeness[:, :size],
        )
        return found.unknown[np.argsort(found.places)].tolist()

    assert unknown(like, 0.45) == [False, True, True], 'the last one for its score'
    assert unknown(None, 0.45) == [False, False, True]
    assert unknown(like, 0.0) == [False, False, False]
    assert unknown(None, 0.4, size=1) == [True] * 3, 'an only name is always sure'
    assert unknown(like, 0.4, size=1) == [False, True, True], 'but fits what is like it'
