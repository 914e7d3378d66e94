# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The renderer of streams; left out where pybullet is not installed (`make stream` does that)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import sys

import numpy as np
import pytest

pytest.importorskip('pybullet')
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'tools'))

import render_stream
import stream_places
import stream_studio


def test_frames_of_a_video_are_like_their_neighbours(monkeypatch, tmp_path: Path) -> None:
    """Two places, each left in the middle of its second scene."""
    monkeypatch.setattr(stream_studio, 'SCENES_A_WORLD', 3)  # a new world on the way
    monkeypatch.setattr(stream_studio, 'VARIANTS', 1)  # of a floor: painting them takes longest
    two = tuple(replace(s, frames=18) for s in stream_places.SCENARIOS[:2])
    frames = render_stream.render(1, two, 85, lambda _line: None, clips=True)
    assert [f[0] for f in frames] == ['workshop'] * 18 + ['warehouse'] * 18
    cuts = {12, 18, 30}
    marks = [render_stream.thumbnail(f[3]) for f in frames]
    likeness = {i: float(marks[i] @ marks[i - 1]) for i in range(1, 36)}
    assert max(likeness[i] for i in cuts) < 0.8, likeness
    for i in set(likeness) - cuts:
        assert likeness[i] > 0.8, likeness
        assert frames[i][1] == frames[i - 1][1]
        assert not np.array_equal(frames[i][3], frames[i - 1][3])  # noise of the sensor
    render_stream.write_bag(tmp_path / 'video', frames, render_stream.VIDEO_PERIOD_NS)

    from etuner_ros.bench.datasets import recording

    found = recording(tmp_path / 'video')
    assert [(p.scenario, p.label) for p in found] == [f[:2] for f in frames]


def test_boxes_of_a_drive_are_around_what_is_visible(monkeypatch, tmp_path: Path) -> None:
    """A place with two things, visited twice; one has been exchanged in between."""
    import stream_things

    mask = np.zeros((480, 640), bool)
    mask[10:20, 4:8] = True
    assert stream_things._extent(mask) == ((2.0, 5.0, 2.0, 5.0), 40)

    monkeypatch.setattr(stream_studio, 'VARIANTS', 1)
    monkeypatch.setattr(stream_things, 'THINGS', 2)
    monkeypatch.setattr(stream_things, 'BESIDE_M', 0.2)  # nothing lies out of view
    monkeypatch.setattr(stream_things, 'NEWCOMERS', 1)
    place = replace(stream_things.MAIN_PLACES[0], clutter=(0, 0), noise=0.0, blur=(0.0, 0.0))
    seeing = [k for k in stream_places.KNOWN if k.name in ('duck', 'soccer_ball')]
    drive = stream_things.Drive(
        tmp_path, np.random.default_rng(3), (place,), tuple(seeing), (stream_places.NEW[1],)
    )
    first, second = drive.visits(6)
    drive.close()
    assert {s.kind for shot in first for s in shot.seen} == {'duck', 'soccer_ball'}
    assert 'rabbit' in {s.kind for shot in second for s in shot.seen}
    assert len(first) == len(second) == 6
    seen = [s for shot in first + second for s in shot.seen]
    assert seen
    for thing in seen:
        x, y, width, height = thing.box
        assert 0 <= x < x + width <= stream_things.WIDTH
        assert 0 <= y < y + height <= stream_things.HEIGHT
        assert 0 < thing.share <= 1
