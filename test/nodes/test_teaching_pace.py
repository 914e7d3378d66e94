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
