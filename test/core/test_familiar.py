# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Things that are like nothing that was taught have no name, however sure the head is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.boxes.readout import BACKGROUND, familiar_as, read, ReadoutSettings
from etuner_ros.core.learn.familiar import COUNTING, Familiar, MOST, TUNED, USUAL
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


def likeness(taught: dict[str, One]) -> Likeness | None:
    rows = Familiar(LIGHT).rows(taught, KINDS)
    return None if rows is None else Likeness(rows.half().float().numpy(), SHIPPED)


def familiar(like: Likeness, kind: int) -> float:
    """Return which share of other things of a kind is known."""
    rows = torch.stack([look(kind, 1000 + i) for i in range(100)]).numpy()
    return float((np.nan_to_num(like(rows)).max(axis=1) >= 1.0).mean())


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


def test_neighbouring_frames_of_a_thing_do_not_make_it_unknown_elsewhere():
    """They are far more alike than what is seen of it in another place."""
    torch.manual_seed(0)
    near = {
        f'{name} {i}': One(look(kind, 0) + 0.01 * torch.randn(SIZE), name)
        for i in range(20)
        for kind, name in enumerate(KINDS)
    }
    assert all(familiar(likeness(near), kind) > 0.85 for kind in range(3))


def test_things_of_a_kind_that_are_less_alike_than_usual_are_known_all_the_same():
    torch.manual_seed(0)
    odd = {k: replace(v, row=v.row + torch.randn(SIZE)) for k, v in told(40).items()}
    others = [look(k, 500 + i) + torch.randn(SIZE) for k in range(3) for i in range(100)]
    found = likeness(odd)(torch.stack(others).numpy())
    assert (found.max(axis=1) >= 1.0).mean() > 0.85


def test_some_taps_with_a_wrong_name_do_not_make_everything_known():
    wrong = {f'wrong {i}': One(look(1 + i % 2, 300 + i), 'cup') for i in range(3)}
    like = likeness({**told(8), **wrong})
    assert all(familiar(like, kind) < 0.1 for kind in range(4, 9))


def trained(row: torch.Tensor) -> torch.Tensor:
    """Return what a round makes of a feature: all pictures have more in common."""
    return row + 4.0 * torch.nn.functional.one_hot(torch.tensor(SIZE - 1), SIZE)


@pytest.mark.parametrize('restarted', [False, True])
def test_what_was_never_taught_stays_unknown_when_a_round_makes_all_things_more_alike(restarted):
    before = told(12)
    after = {k: replace(v, row=trained(v.row)) for k, v in before.items()}

    def named(made: Familiar, kind: int) -> float:
        like = Likeness(made.rows(after, KINDS).numpy(), SHIPPED)
        rows = torch.stack([trained(look(kind, 1000 + i)) for i in range(100)]).numpy()
        return float((like(rows).max(axis=1) >= 1.0).mean())

    plain = Familiar(LIGHT)
    assert any(named(plain, kind) > 0.9 for kind in range(4, 9)), 'as by the deployed network'
    deployed = {} if restarted else {i: one.row for i, one in before.items()}
    made = Familiar(LIGHT, deployed)
    assert all(named(made, kind) > 0.85 for kind in range(3))
    assert all(named(made, kind) < 0.1 for kind in range(4, 9))


def needed(deployed: dict[str, torch.Tensor] | None, taught: dict[str, One]) -> float:
    """Return the likeness that a cup needs."""
    row = Familiar(LIGHT, deployed).rows(taught, KINDS)[0]
    cups = torch.stack([one.row for one in taught.values() if one.label == 'cup'])
    unit = torch.nn.functional.normalize(LIGHT.without(cups), dim=1)
    return float(LIGHT.without(unit.mean(dim=0)).norm() / row.norm())


def test_few_things_do_not_say_what_a_round_has_changed():
    """Nor do neighbouring frames, which are far more alike than a thing is elsewhere."""
    near = {f'cup {i}': One(look(0, 0) + 0.01 * torch.randn(SIZE), 'cup') for i in range(3)}
    assert needed(None, near) == pytest.approx(USUAL, rel=1e-3)
    assert needed({}, near) == pytest.approx(TUNED, rel=1e-3)
    assert needed({i: one.row for i, one in near.items()}, near) == pytest.approx(TUNED, rel=1e-3)
    many = told(12)
    same = {i: one.row for i, one in many.items()}
    assert needed(same, many) == pytest.approx(USUAL, rel=1e-3), 'nothing has changed'
    few = dict(list(same.items())[:3])
    assert needed(few, many) == needed({}, many), 'then what is usual tells more'


def test_a_round_that_makes_all_alike_asks_for_no_more_than_can_be_and_one_that_does_not_no_less():
    plain = told(12)
    rows = {i: one.row for i, one in plain.items()}
    alike = {i: replace(one, row=one.row + 40.0) for i, one in plain.items()}
    assert needed(rows, alike) == pytest.approx(MOST, rel=1e-3)
    assert needed({}, alike) == pytest.approx(MOST, rel=1e-3)
    before = {i: row + 40.0 for i, row in rows.items()}
    assert needed(before, plain) == pytest.approx(USUAL, rel=1e-3)


def test_a_class_looks_like_what_was_taught_of_it_last():
    taught = {f'cup {i}': One(look(0 if i < 50 else 7, i), 'cup') for i in range(50 + COUNTING)}
    rows = Familiar(LIGHT).rows({**taught, **told(10, ('cup', 'ball'), False)}, KINDS)
    last = dict(list(taught.items())[50:])
    assert torch.allclose(rows[0], Familiar(LIGHT).rows(last, KINDS)[0])


def test_one_thing_that_was_taught_after_a_round_is_known():
    one = {'cup': One(look(0, 0), 'cup')}
    like = Likeness(Familiar(LIGHT, {}).rows(one, KINDS).numpy(), SHIPPED)
    assert like(look(0, 0)[None].numpy())[0, 0] > 1.0


def test_without_the_map_of_a_network_nothing_is_told():
    assert Familiar(None).rows(told(30), KINDS) is None


def test_a_name_of_which_no_thing_is_known_is_not_judged_by_what_it_is_like():
    like = likeness(told(5, ('cup', 'ball')))
    places, logits = as_boxes([(0, 0, 40, 40)]), np.array([[0, 0, 9]], np.float32)
    found = read(KINDS, logits, places, (320, 240), likeness=like(look(8, 1)[None].numpy()))
    assert np.isnan(found.familiar[0])
    assert (found.labels[0][0], found.unknown.tolist()) == ('hat', [False])
    bare = read((), logits[:, :0], places, (320, 240))
    assert np.isnan(bare.familiar[0]), 'nor before anything is known'


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


def test_a_region_that_is_not_like_what_has_its_name_is_unknown_whatever_its_score():
    logits = np.array([[9, 0, 0], [9, 0, 0], [9, 0, 0], [0, 0.1, 0]], np.float32)
    places = as_boxes([(0, 0, 40, 40), (80, 0, 40, 40), (160, 0, 40, 40), (240, 0, 40, 40)])
    like = np.array([[1.2, 0, 0], [0.8, 0, 0], [0.8, 2, 0], [0, 1.05, 0]], np.float32)

    def unknown(likeness: np.ndarray | None, size: int = 3, **settings: float) -> list[bool]:
        found = read(
            KINDS[:size],
            logits[:, :size],
            places,
            (320, 240),
            settings=ReadoutSettings(**settings),
            likeness=None if likeness is None else likeness[:, :size],
        )
        return found.unknown[np.argsort(found.places)].tolist()

    assert unknown(like) == [False, True, True, True], 'the last one for its score, too'
    assert unknown(like, unlike_below=0.9) == [False, True, True, False]
    assert unknown(like, unlike_below=0.0) == [False, False, False, True], 'by scores alone'
    assert unknown(like, unknown_below=0.0) == [False, True, True, True], 'not by scores alone'
    assert unknown(None) == [False, False, False, True]
    assert unknown(None, size=1) == [True] * 4, 'an only name is always sure'
    assert unknown(like, size=1) == [False, True, True, True], 'but fits what is like it'


def test_a_thing_that_is_hard_to_tell_from_another_one_has_to_be_more_like_its_name():
    first = np.zeros(4, np.intp)
    like = np.ones((4, 2), np.float32)
    shares = np.array([[1.0, 0], [0.6, 0.4], [0.4, 0.6], [0.1, 0.9]], np.float32)
    sure = familiar_as(like, shares, first)
    assert sure[1] == pytest.approx(1.0)
    assert np.all(np.diff(sure) < 0)
    assert familiar_as(-like, shares, first).max() == 0.0, 'unlike is unlike, however sure'
    only = familiar_as(like[:, :1], np.ones((4, 1), np.float32), first)
    assert only.tolist() == [1.0] * 4, 'an only name is always sure, and that says nothing'
