# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""`etuner bench objects`: where the time of an image went, also where nothing came of it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from etuner_ros.bench.objects import PARTS, table, Window
from etuner_ros.core.boxes.recording import BoxFrame


def window(*stamps: int) -> Window:
    frame = BoxFrame(np.zeros((4, 4, 3), np.uint8), '')
    return Window(shown=dict.fromkeys(stamps, frame))


def test_the_time_of_an_image_is_split_into_its_parts():
    seen = window(1, 2, 3)
    seen.predicted = {1: 20.0, 2: 22.0, 3: 24.0}
    seen.proposed = {1: 50.0, 2: 60.0}
    seen.objects = {1: (100.0, 40.0), 2: (120.0, 50.0)}
    seen.told['taken'].append(8.0)
    assert seen.parts() == {
        'predicted': [20.0, 22.0],
        'proposed': [50.0, 60.0],
        'waited': [10.0, 10.0],
        'named': [40.0, 50.0],
        'taken': [8.0],
        'looked': [],
    }


def test_objects_whose_regions_were_not_heard_have_no_parts():
    seen = window(1)
    seen.predicted, seen.objects = {1: 20.0}, {1: (100.0, 40.0)}
    assert not any(seen.parts().values())
    assert seen.row('torch-fp32', 'moving', 10, 0.0, 0.0).p50_ms == 100.0


def test_the_table_says_of_how_many_images_objects_came():
    seen = window(1, 2, 3)
    seen.objects, seen.regions = {1: (100.0, 40.0), 2: (120.0, 50.0)}, [9, 10]
    lines = table([seen.row('onnxruntime-int8', 'still', 10, 0.5, 0.25)]).splitlines()
    cells = [[cell.strip() for cell in one.strip('|').split('|')] for one in lines]
    assert len({len(one) for one in cells}) == 1, 'all lines have the same columns'
    assert cells[2][:6] == ['onnxruntime-int8', 'still', '10', '9.5', '2 of 3', '110.0 (119.0)']
    assert cells[2][-1] == '0.50 and 0.25'


def test_where_nothing_came_there_is_a_row_all_the_same():
    row = window(1).row('torch-fp32', 'moving', 10, 0.0, 0.0)
    assert (row.shown, row.images) == (1, 0)
    assert math.isnan(row.regions)
    assert math.isnan(row.p95_ms)
    assert row.parts_ms == {name: pytest.approx((math.nan,) * 2, nan_ok=True) for name in PARTS}
    assert '0 of 1' in table([row])
