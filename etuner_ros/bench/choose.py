# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Is what `etuner choose` takes, by labels alone, close to the best in hindsight?

For every stream and limit the rules choose by leave-one-out on the labelled side; then the head is
solved on that side and asked for the scored one. Features are computed once for each candidate and
set of pictures, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from etuner_ros.bench.choose_cases import (
    Case,
    cases,
    DataSet,
    Features,
    FeatureStore,
    milliseconds,
)
from etuner_ros.bench.choose_score import Bools, count, decide, Row, told
from etuner_ros.bench.head_commit import machine
from etuner_ros.core.choose.accuracy import left_out
from etuner_ros.core.choose.candidates import Candidate
from etuner_ros.core.choose.measure import Conditions, Serve, Served
from etuner_ros.core.choose.measured import Failed, hundredths, Measured, packed
from etuner_ros.core.choose.pick import RULES
from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.files import home, replace_file
from etuner_ros.core.learn.instant_head import InstantHead


def judge(
    case: Case, store: FeatureStore, times: dict[Candidate, list[float]]
) -> tuple[list[Measured], dict[Candidate, Bools]]:
    """
    Return what is known before the choice, and what is right on the scored side afterwards.

    :return: a measurement of each candidate, without memory, energy and rounds; scored pictures
    """
    labels = [p.label for p in case.labelled]
    found, truth = [], {}
    for candidate, ms in times.items():
        known = store.rows(candidate, case.data, case.labelled)
        unseen = left_out(known, labels)
        found.append(
            Measured(
                candidate,
                served=candidate.precision,
                p50_ms=float(np.median(ms)),
                p99_ms=float(np.percentile(ms, 99)),
                memory_mb=math.nan,
                joules=math.nan,
                energy_source='unavailable',
                round_s=math.nan,
                round_mb=math.nan,
                accuracy=float(unseen.right.mean()),
                right=packed(unseen.right),
                doubt=hundredths(unseen.doubt),
            )
        )
        truth[candidate] = _answers(known, labels, store, case, candidate)
    return found, truth


def _answers(
    known: Features, labels: Sequence[str], store: FeatureStore, case: Case, candidate: Candidate
) -> Bools:
    """Return which scored pictures are named right by the head of the labelled ones."""
    head = InstantHead(known.shape[1])
    head.rebuild(torch.from_numpy(known), labels)
    asked = torch.from_numpy(store.rows(candidate, case.data, case.scored))
    said = head.logits(asked).argmax(dim=1).tolist()
    return np.array([head.classes[i] == p.label for i, p in zip(said, case.scored)])


def run(
    sets: Sequence[DataSet],
    candidates: Sequence[Candidate],
    output: Path,
    seeds: int = 5,
    folder: Path | None = None,
    serve: Serve | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """
    Play all cases and write `choose.json`.

    :param folder: where features are kept; by default under $ROS_HOME
    :raises ConfigError: when no candidate can be served
    """
    where = machine()  # before anything runs
    torch.set_num_threads(1)
    store = FeatureStore(serve or Conditions().serve, folder or home('bench') / 'choose')
    served: dict[Candidate, Served] = {}
    failed: list[Failed] = []
    for candidate in candidates:
        try:
            served[candidate] = store.served(candidate, sets[0])
            for data in sets:
                store.features(candidate, data)
            say(f'features of {candidate.name}')
        except EtunerError as error:
            failed.append(Failed(candidate, str(error)))
            say(f'{candidate.name} is left out: {error}')
    if not served:
        raise ConfigError(f'no candidate can be served: {failed[0].reason}')
    times = milliseconds(served)
    rows: dict[str, dict[str, Row]] = {}
    listed = []
    for case in cases(sets, seeds):
        found, truth = judge(case, store, times)
        for decision in decide(found, truth):
            sort = 'reported' if case.data.reported else 'search'
            for name in (sort, case.stream.partition(':')[0] + (': places' if case.place else '')):
                count(rows.setdefault(name, {}), decision, found, truth)
            listed.append(told(case, decision, truth))
        say(f'{case.stream}, seed {case.seed}: {len(case.labelled)} labels')
    answer = {
        'rule': RULES[0],
        'summary': {n: [r.figures() for r in by.values()] for n, by in rows.items()},
        'candidates': [
            {'name': c.name, 'p50_ms': float(np.median(ms))} for c, ms in times.items()
        ],
        'failed': [{'candidate': f.candidate.name, 'reason': f.reason} for f in failed],
        'cases': listed,
        'machine': where,
    }
    replace_file(output / 'choose.json', (json.dumps(answer, indent=1) + '\n').encode())
    return answer
