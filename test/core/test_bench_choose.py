# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner bench choose` judges choices by pictures that they were not made on."""

from __future__ import annotations

from dataclasses import replace
import json
import math

import numpy as np
import pytest
from test_choose import made

from etuner_ros.bench.choose import run
from etuner_ros.bench.choose_cases import cases, data_sets, DataSet, FeatureStore
from etuner_ros.bench.choose_score import count, decide, HALF, Row, SLOWEST, table
from etuner_ros.bench.datasets import Picture, split
from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.choose.measure import Conditions
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.images.codec import encode_jpeg


@pytest.fixture(scope='module')
def few(frames) -> DataSet:
    found = [
        Picture(f'{i:06}', f.label, 'here', True, encode_jpeg(f.image))
        for i, f in enumerate(frames[:60])
        if f.label
    ]
    return DataSet('few', split(found), False, (), by_place=True)


def test_every_place_of_the_recording_is_a_case_and_no_picture_is_on_both_sides(stream):
    found = list(cases(data_sets(stream, None), seeds=2))
    assert [c.stream for c in found[:2]] == ['sim_ni', 'sim_ni']
    assert sum(c.place for c in found) == 5
    for case in found:
        assert not {p.name for p in case.labelled} & {p.name for p in case.scored}


def test_choices_are_counted_against_the_best_that_keeps_to_the_limit():
    fast, good, slow = (
        made(pixels=96, ms=1.0, doubt=0.5),
        made(pixels=128, ms=1.2, doubt=0.4),
        made(pixels=224, ms=20.0, doubt=0.6),
    )
    hits = {96: 70, 128: 69, 224: 90}
    truth = {m.candidate: np.arange(100) < hits[m.candidate.pixels] for m in (fast, good, slow)}
    tight, *_, free = decide([fast, good, slow], truth)
    assert tight.best is fast
    assert tight.chosen['likeliest'] is good
    assert math.isnan(free.ms)
    assert free.best is free.chosen[SLOWEST] is free.chosen[HALF] is slow
    rows: dict[str, Row] = {}
    for decision in (tight, free):
        count(rows, decision, [fast, good, slow], truth)
    figures = rows['likeliest'].figures()
    assert figures['within_one_point'] == 0.5  # 69 of 70 is, 69 of 90 is not
    assert figures['clearly_worse'] == 0.5
    assert figures['largest_loss'] == pytest.approx(0.21)
    assert rows[SLOWEST].figures()['within_one_point'] == 1.0


def test_a_run_judges_all_cases_and_keeps_features_for_the_next(few, tmp_path):
    wanted = [Candidate('efficientnet_lite0', pixels, 'fp32') for pixels in (32, 48)]
    said: list[str] = []
    serve = Conditions(engine='torch').serve
    found = run([few], wanted, tmp_path, 1, tmp_path / 'kept', serve, said.append)
    assert json.loads((tmp_path / 'choose.json').read_text()) == found
    assert {c['stream'] for c in found['cases']} == {'few: here'}
    assert found['cases'][0]['labels'] + found['cases'][0]['scored'] == len(few.pictures)
    assert found['cases'][0]['best_in_hindsight']['scored'] > 0.5
    assert '| search | likeliest |' in table(found)
    assert len(list((tmp_path / 'kept').glob('*.npy'))) == 2

    def fails(*_arguments):
        raise AssertionError('features were computed again')

    kept = FeatureStore(fails, tmp_path / 'kept').features(wanted[0], few)
    assert kept.shape == (len(few.pictures), 1904)


def test_without_a_candidate_that_can_be_served_it_says_why(few, tmp_path):
    odd = [Candidate('resnet18', 64, 'fp32', str(tmp_path / 'none.pth'))]
    with pytest.raises(ConfigError, match='no candidate can be served: .*does not exist'):
        run([few], odd, tmp_path, serve=Conditions(engine='torch').serve, say=lambda line: None)


def test_the_digest_of_a_set_changes_with_a_side(few):
    first, *rest = few.pictures
    other = replace(few, pictures=[replace(first, labelled=not first.labelled), *rest])
    assert other.digest != few.digest
