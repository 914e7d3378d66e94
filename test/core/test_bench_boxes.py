# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner bench boxes`: what counts as right, and that methods and rivals run on the same frames."""

from __future__ import annotations

from dataclasses import replace
import math

import numpy as np
import pytest
import torch

from etuner_ros.bench.boxes import compare, lessons, line, methods, row, run
from etuner_ros.bench.boxes_methods import Lesson, Ours, ProposersOwn, Shot
from etuner_ros.bench.boxes_region_head import shares
from etuner_ros.bench.boxes_regressor import refiner
from etuner_ros.bench.boxes_score import Answer, false_names, score, Truth
from etuner_ros.bench.boxes_tracks import purity, Tracks
from etuner_ros.core.boxes.geometry import as_boxes, overlaps
from etuner_ros.core.boxes.readout import BACKGROUND
from etuner_ros.core.learn.within_class import WithinClass

NONE = np.zeros((0, 4), np.float32)


def answer(*objects: tuple[tuple[float, ...], str, float]) -> Answer:
    scores = np.array([o[2] for o in objects], np.float32)
    return Answer(as_boxes([o[0] for o in objects]), [o[1] for o in objects], scores, scores)


CUP, BALL, HAT = (0, 0, 40, 40), (100, 0, 40, 40), (200, 0, 40, 40)
FRAME = Truth(as_boxes([CUP, BALL]), ('cup', 'ball'), NONE)


def test_names_count_where_the_box_is_poor_and_boxes_only_with_the_right_name():
    poor = score([answer(((20, 20, 40, 40), 'cup', 0.9))], [FRAME], ['cup', 'ball'])
    assert (poor.class_right, poor.class_and_box, poor.recall) == (0.5, 0, 0)
    wrong = score([answer((CUP, 'ball', 0.9))], [FRAME], ['cup', 'ball'])
    assert (wrong.class_right, wrong.class_and_box, wrong.recall) == (0, 0, 0.5)
    both = score([answer((CUP, 'cup', 0.9), (BALL, 'ball', 0.8))], [FRAME], ['cup', 'ball'])
    assert (both.class_right, both.class_and_box, both.ap50) == (1, 1, 1)


def test_a_thing_counts_once_and_a_second_object_upon_it_costs_precision():
    twice = score([answer((CUP, 'cup', 0.9), (CUP, 'cup', 0.8))], [FRAME], ['cup'])
    assert (twice.class_and_box, twice.ap50) == (1, 1)  # the wrong one comes after the right one
    worse = answer(((200, 0, 40, 40), 'cup', 0.9), (CUP, 'cup', 0.8))
    assert score([worse], [FRAME], ['cup']).ap50 == 0.5


def test_an_object_upon_what_is_hardly_in_view_is_neither_right_nor_wrong():
    frame = Truth(as_boxes([CUP]), ('cup',), as_boxes([(200, 0, 40, 40)]))
    found = answer(((200, 0, 40, 40), 'cup', 0.9), (CUP, 'cup', 0.8))
    assert score([found], [frame], ['cup']).ap50 == 1


def test_nothing_said_is_nothing_right():
    silent = score(
        [Answer(NONE, [], np.zeros(0, np.float32), np.zeros(0, np.float32))], [FRAME], ['cup']
    )
    assert (silent.class_right, silent.class_and_box, silent.ap50) == (0, 0, 0)
    assert math.isnan(silent.false_name)


def test_false_names_are_counted_where_nine_of_ten_known_things_get_theirs():
    assert false_names(np.arange(100.0).tolist(), [5.0, 8.0, 50.0, -3.0]) == 0.25


def test_what_is_named_rightly_counts_beside_what_is_named():
    frame = Truth(as_boxes([CUP, BALL, HAT]), ('cup', 'ball', 'hat'), NONE)
    said = answer((CUP, 'cup', 0.9), (BALL, 'cup', 0.3), (HAT, 'ball', 0.5))
    found = score([replace(said, unknown=np.zeros(3, bool))], [frame], ['cup', 'ball'])
    assert (found.named, found.named_right, found.false_named) == (1, 0.5, 1)
    assert (found.false_name, found.false_of_right) == (1, 0), 'the ball has a wrong name'
    found = score([replace(said, unknown=said.scores < 0.6)], [frame], ['cup', 'ball'])
    assert (found.named, found.named_right, found.false_named) == (0.5, 0.5, 0)


KINDS = ('cup', 'ball', 'hat', 'gear')  # the last one comes with the second visit


def shot(number: int, visit: int, rng: np.random.Generator) -> Shot:
    """Return a frame of three things that a camera drives past, ground all alike between them."""
    kinds = [0, 1, 2 if number % 2 else 0] if visit == 0 else [0, 2, 3]
    boxes = as_boxes([[10 + 100 * i + 4 * (number % 10), 60, 60, 60] for i in range(3)])
    ground = as_boxes([[20 + 70 * i, 170, 50, 50] for i in range(4)])
    looks = 3.0 * np.eye(5, 16)

    def noisy(rows: np.ndarray) -> np.ndarray:
        return (rows + 0.4 * rng.normal(size=rows.shape)).astype(np.float32)

    return Shot(
        number,
        number / 10,
        'here',
        visit,
        (320, 240),
        boxes,
        tuple(KINDS[k] for k in kinds),
        NONE,
        noisy(looks[kinds]),
        noisy(looks[kinds].mean(axis=0)),
        np.concatenate([boxes + np.float32(2.0), ground]),
        np.linspace(0.9, 0.1, 7).astype(np.float32),
        ('Mug', '', '', '', '', '', ''),
        noisy(np.concatenate([looks[kinds], np.repeat(looks[4:], 4, axis=0)])),
    )


@pytest.fixture(scope='module')
def stream() -> list[Shot]:
    rng = np.random.default_rng(0)
    return [shot(n, int(n >= 40), rng) for n in range(60)]


def test_frames_to_label_are_of_the_first_visits_and_the_same_for_a_seed(stream):
    chosen = lessons(stream, 10, 3, all_things=False)
    assert chosen == lessons(stream, 10, 3, all_things=False)
    assert all(x.shot.visit == 0 and len(x.taught) == 1 for x in chosen)
    assert all(len(x.taught) == 3 for x in lessons(stream, 10, 3, all_things=True))


def test_every_method_runs_and_ours_finds_what_was_taught(stream):
    found = {}
    for name, (make, all_things) in methods(Tracks(stream), {'Mug': 'cup'}).items():
        found[name], flops, ms = run(make, stream, lessons(stream, 20, 0, all_things), 0)
        assert ms >= 0
        assert flops > 0 or name == "the proposer's own names"
        assert line(row(name, 20, 'a test', [(found[name], flops, ms)] * 2, 'none'))
    assert found['ours'].class_right > 0.9
    assert found['ours'].false_name < 0.2
    assert found['ours'].ap50 > found['whole-image labels, image named'].ap50
    assert found["the proposer's own names"].class_right > 0


def test_a_row_tells_the_frames_that_were_labelled_and_a_kind_nobody_named_is_unknown(stream):
    taught = [lessons(stream, 240, seed, all_things=True) for seed in (0, 1)]
    assert compare('ours', Ours, stream, taught, 'a test', 'none')['labelled_frames'] == 40
    cups = [[Lesson(s, (0,)) for s in stream[:40]]]  # balls and hats are there, and not named
    found = compare('ours', Ours, stream, cups, 'a test', 'none')
    assert found['class_right'] > 90, 'it counts over cups alone'


def test_what_was_tapped_is_followed_and_the_rest_of_its_track_learned(stream):
    pool = [s for s in stream if s.visit == 0]
    tracks = Tracks(pool)
    assert purity(pool, tracks).pure > 0.9
    near = tracks.sightings(pool[20], 0)
    assert len(near) >= 15
    assert np.abs(near.mean(axis=0) - pool[20].proposed[0]).max() > 0.1
    few = lessons(stream, 3, 0, all_things=False)
    alone, _, _ = run(lambda: Ours(True), stream, few, 0)
    spread, _, _ = run(lambda: Ours(True, tracks=tracks), stream, few, 0)
    assert spread.class_right >= alone.class_right


def test_things_that_are_like_nothing_that_was_taught_get_no_name(stream):
    width = stream[0].whole.shape[0]
    nothing = WithinClass(torch.eye(1, width), torch.ones(1))
    few = lessons(stream, 20, 0, all_things=True)
    found, _, _ = run(lambda: Ours(within=nothing), stream, few, 0)
    assert found.named > 0.9
    assert found.false_named < 0.1
    plain, _, _ = run(Ours, stream, few, 0)
    assert plain.false_named > found.false_named


def test_a_proposers_names_are_its_own_where_no_other_is_meant(stream):
    assert ProposersOwn({'Mug': 'cup'}).answer(stream[0]).names[:2] == ['cup', '']


def pairs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features (n, 8) that tell how far proposals are from their boxes, and both."""
    rng = np.random.default_rng(seed)
    taught = np.concatenate([rng.uniform(0, 200, (count, 2)), rng.uniform(20, 90, (count, 2))], 1)
    off = rng.uniform(-0.25, 0.25, (count, 4))
    proposals = taught.copy()
    proposals[:, :2] += off[:, :2] * taught[:, 2:]
    proposals[:, 2:] *= 1 + off[:, 2:]
    features = np.concatenate([off, rng.normal(size=(count, 4))], axis=1)
    return features.astype(np.float32), as_boxes(proposals), as_boxes(taught)


def mean_overlap(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.diag(overlaps(found, wanted)).mean())


def test_boxes_that_were_taught_make_proposals_of_other_things_better():
    learned = refiner(*pairs(200, 0), ridge=1.0)
    features, proposals, taught = pairs(50, 1)
    refined = learned.refine(features, proposals)
    assert mean_overlap(proposals, taught) < 0.75
    assert mean_overlap(refined, taught) > 0.9
    assert refiner(features[:0], proposals[:0], taught[:0]) is None


def test_a_thing_that_was_proposed_several_times_counts_as_much_as_one_label():
    weights = np.array([1, 1, 0.1, 0.1, 0.1, 1], np.float32)
    labels = ['cup', 'ball', 'ball', 'ball', 'ball', BACKGROUND]
    found = shares(labels, weights, 0.25)
    assert found[0] == 1.0
    assert found[1:5].mean() == pytest.approx(1.0)
    assert found[5] == 0.25
