# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How well a run of the demo went, beside a nearest class mean that got the same labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from etuner_ros.demo.record import Deployed, Record
from etuner_ros.shared.nearest_mean import NearestClassMean


@dataclass(frozen=True)
class Score:
    """Accuracy, in percent, in the last third of one scenario."""

    scenario: str
    tuned: float
    untuned: float
    nearest_mean: float
    new_tuned: float  # on kinds that were new; NaN without any
    new_nearest_mean: float


def nearest_mean_predictions(record: Record, deployed: Deployed) -> list[str]:
    """
    Return what a nearest class mean on the deployed features says, learning from the same labels
    at the same times.
    """
    classifier = NearestClassMean()
    for i in range(deployed.start):
        classifier.add(deployed.features[i], deployed.frames[i].label)
    labels, answers = deque(sorted(record.labels)), []
    for shot in record.shots:
        while labels and labels[0][0] <= shot.seconds:
            index = labels.popleft()[1]
            classifier.add(deployed.features[index], deployed.frames[index].label)
        answers.append(classifier.predict(deployed.features[shot.index]))
    return answers


def score(record: Record, deployed: Deployed) -> list[Score]:
    """Score the last third of each scenario; a frame without a prediction counts as wrong."""
    nearest = nearest_mean_predictions(record, deployed)
    scores = []
    for scenario in dict.fromkeys(s.scenario for s in record.shots):
        mine = [(s, nearest[i]) for i, s in enumerate(record.shots) if s.scenario == scenario]
        late = mine[len(mine) * 2 // 3 :]

        def mean(values: Sequence[bool]) -> float:
            return 100 * float(np.mean(values)) if values else float('nan')

        known = [(s, n) for s, n in late if s.truth in deployed.classes]
        new = [(s, n) for s, n in late if s.truth not in deployed.classes]
        scores.append(
            Score(
                scenario,
                mean([s.predicted == s.truth for s, _ in known]),
                mean([deployed.untuned[s.index] == s.truth for s, _ in known]),
                mean([n == s.truth for s, n in known]),
                mean([s.predicted == s.truth for s, _ in new]),
                mean([n == s.truth for s, n in new]),
            )
        )
    return scores


def score_table(results: list[list[Score]], seeds: list[int]) -> tuple[Table, float]:
    """
    Return the table over all runs, and the mean gain in points over the scenarios after the first.
    """
    table = Table(
        title=f'accuracy in the last third of each scenario, mean of seeds {seeds}',
        title_justify='left',
    )
    for name in (
        'scenario',
        'tuned',
        'left untuned',
        'gain',
        'nearest mean',
        'new kinds: tuned',
        'new kinds: nearest mean',
    ):
        table.add_column(name, justify='left' if name == 'scenario' else 'right')

    def show(value: float, sign: bool = False) -> str:
        return '' if np.isnan(value) else f'{value:+.1f}' if sign else f'{value:.1f} %'

    gains = []
    for position in range(len(results[0])):
        rows = [r[position] for r in results]
        tuned, untuned, nearest, new, new_nearest = (
            float(np.mean([getattr(r, n) for r in rows]))
            for n in ('tuned', 'untuned', 'nearest_mean', 'new_tuned', 'new_nearest_mean')
        )
        if position > 0:
            gains.append(tuned - untuned)
        table.add_row(
            rows[0].scenario,
            show(tuned),
            show(untuned),
            show(tuned - untuned, True),
            show(nearest),
            show(new),
            show(new_nearest),
        )
    return table, float(np.mean(gains))
