# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The scripted person of the demo with things in boxes."""

from __future__ import annotations

import pytest

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.errors import EtunerError
from etuner_ros.demo.tapper import Answers, judge, MISSED, RIGHT, Tapper, Things, UNKNOWN, WRONG
from etuner_ros.demo.things import run_things, Shot, Story, write_page

CUP, DUCK, BALL, HIDDEN = (0, 0, 20, 20), (50, 0, 20, 20), (100, 0, 20, 20), (150, 0, 20, 20)
TRUTH = Things(
    as_boxes([CUP, DUCK, BALL, HIDDEN]), ('cup', 'duck', 'ball', 'hat'), (1.0, 0.9, 0.8, 0.1)
)


def said(*found: tuple[tuple[int, ...], str]) -> Things:
    return Things(as_boxes([box for box, _ in found]), [label for _, label in found])


def test_each_thing_that_can_be_seen_is_judged_once():
    judged = judge(TRUTH, said((CUP, 'cup'), (DUCK, ''), ((200, 50, 20, 20), 'cup')))
    assert judged.things == (RIGHT, UNKNOWN, MISSED), 'a hidden thing is no question'
    assert judged.kinds == ('cup', 'duck', 'ball')
    assert judged.false_names == 1
    assert judge(TRUTH, said((BALL, 'cup'))).things == (MISSED, MISSED, WRONG)
    assert judge(TRUTH, said()).count(MISSED) == 3


def test_it_names_what_is_wrong_draws_what_is_missed_and_takes_its_time():
    tapper = Tapper(gap_s=1.0, not_things=0.0)
    tap = tapper.look(0.0, TRUTH, said((CUP, 'cup'), ((52, 1, 20, 20), 'cup'), (BALL, 'ball')))
    assert (tap.label, tap.box, tap.drawn) == ('duck', (52.0, 1.0, 20.0, 20.0), False)
    assert tapper.look(0.5, TRUTH, said()) is None
    tap = tapper.look(1.0, TRUTH, said((CUP, 'cup'), (DUCK, 'duck')))
    assert (tap.label, tap.box, tap.drawn) == ('ball', (100.0, 0.0, 20.0, 20.0), True)
    everything = said((CUP, 'cup'), (DUCK, 'duck'), (BALL, 'ball'))
    assert tapper.look(2.0, TRUTH, everything) is None
    false = said((CUP, 'cup'), (DUCK, 'duck'), (BALL, 'ball'), ((0, 90, 20, 20), 'cup'))
    tap = tapper.look(2.1, TRUTH, false)
    assert (tap.label, tap.box) == ('background', (0.0, 90.0, 20.0, 20.0))


def test_how_long_a_kind_takes_is_counted_once_from_its_first_word():
    answers = Answers()
    assert answers.median_s is None
    answers.on_right('cup', 1.0)  # nobody has named one yet
    answers.on_tap('cup', 2.0)
    answers.on_tap('cup', 3.0)
    answers.on_right('cup', 5.0)
    answers.on_tap('cup', 6.0)  # seen from another side, it was unknown
    answers.on_right('cup', 6.1)
    answers.on_tap('duck', 7.0)
    answers.on_right('duck', 8.0)
    assert answers.seconds == [3.0, 1.0]
    assert answers.median_s == 2.0


@pytest.mark.parametrize('count', [0, 3])
def test_a_run_that_was_short_has_its_page(count, tmp_path):
    shots = [Shot(float(i), 'hall', judge(TRUTH, said()), 0, 50.0) for i in range(count)]
    write_page(tmp_path / 'index.html', Story(shots=shots))
    assert '<svg' in (tmp_path / 'index.html').read_text()


def test_a_recording_that_does_not_say_where_things_are_is_refused_before_anything_is_emptied(
    tmp_path, stream
):
    kept = tmp_path / 'kept.txt'
    kept.write_text('')
    with pytest.raises(EtunerError, match='where things are'):
        run_things(tmp_path, 0, 10.0, 1.0, stream)
    assert kept.exists()
