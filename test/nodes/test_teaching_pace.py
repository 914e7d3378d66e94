# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How often a browser is sent pictures."""

from __future__ import annotations

from etuner_ros.nodes.teaching.pace import MOST_WAIT_S, Pace


def test_the_next_picture_goes_when_the_last_one_is_shown_or_does_not_come():
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.ready
    pace.sent()
    now[0] += 0.25
    assert not pace.ready
    pace.shown()
    assert pace.ready
    pace.sent()
    now[0] += MOST_WAIT_S + 0.1
    assert pace.ready, 'the browser had it already, and says nothing'


def test_pictures_that_take_long_are_shown_and_not_overtaken_for_ever():
    now, takes, shown = [0.0], 5.0, []
    pace = Pace(lambda: now[0])
    coming: float | None = None  # since when; a new picture takes its place
    for _ in range(600):
        now[0] += 0.1
        if coming is not None and now[0] - coming >= takes:
            shown.append(now[0])
            coming = None
            pace.shown()
        if pace.ready:
            coming = now[0]
            pace.sent()
    assert len(shown) >= 8, 'nearly one each five seconds'
