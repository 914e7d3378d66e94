# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Frames without a label: bounded, even over scenarios, gone when they get one."""

from __future__ import annotations

from collections import Counter

from etuner_ros.core.learn.replay import Sample
from etuner_ros.core.learn.unlabelled_frames import UnlabelledFrames


def frame(name: str, scenario: int) -> Sample:
    return Sample(name, '', scenario, b'')


def test_scenarios_share_the_room_evenly_and_it_is_known_who_left():
    kept = UnlabelledFrames(12)
    names = [(f'{scenario}/{i}', scenario) for scenario in range(3) for i in range(50)]
    gone = {kept.add(frame(name, scenario)) for name, scenario in names} - {''}
    assert Counter(s.scenario for s in kept.samples) == {0: 4, 1: 4, 2: 4}
    assert {s.sample_id for s in kept.samples} == {name for name, _ in names} - gone
    assert len(kept) == 12


def test_what_gets_a_label_leaves():
    kept = UnlabelledFrames(5)
    kept.add(frame('a', 0))
    kept.add(frame('b', 0))
    kept.discard('a')
    kept.discard('never seen')
    assert [s.sample_id for s in kept.samples] == ['b']
    kept.discard('b')
    assert len(kept) == 0
