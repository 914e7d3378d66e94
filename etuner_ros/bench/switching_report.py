# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What `etuner bench switching` found, in sums and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

OURS, LEARNED = 'policy', 'A2C'


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return means and worst cases over the days, of the policy and of its rivals."""

    def over(name: str) -> dict[str, float]:
        found = [row[name] for row in rows]
        return {
            'mean_score': float(np.mean([f['score'] for f in found])),
            'mean_within': float(np.mean([f['within'] for f in found])),
            'mean_regret': float(np.mean([f['regret'] for f in found])),
            'worst_regret': float(np.max([f['regret'] for f in found])),
            'violations': sum(f['violations'] for f in found),
            'days_with_violations': sum(f['violations'] > 0 for f in found),
            'switches_per_hour': sum(f['switches'] for f in found)
            / sum(row['hours'] for row in rows),
        }

    fixed = {
        name: {
            'mean_score': float(np.mean([row['fixed'][name]['score'] for row in rows])),
            'mean_within': float(np.mean([row['fixed'][name]['within'] for row in rows])),
            'days_with_violations': sum(row['fixed'][name]['violations'] > 0 for row in rows),
        }
        for name in rows[0]['fixed']
    }
    return {
        OURS: over(OURS),
        **({LEARNED: over(LEARNED)} if LEARNED in rows[0] else {}),
        'best_fixed': {'mean_score': float(np.mean([row['best_fixed_score'] for row in rows]))},
        'bound': {'mean_score': float(np.mean([row['bound'] for row in rows]))},
        'fixed': fixed,
    }


def table(answer: dict[str, Any]) -> str:
    """Return the summary and the days as Markdown tables."""
    found = answer['summary']
    lines = [
        '| choice | score, % | within limits, % | mean regret, % | worst regret, % | '
        'days over a limit | switches an hour |',
        '|---|---|---|---|---|---|---|',
    ]
    for name in (OURS, LEARNED):
        if name in found:
            f = found[name]
            lines.append(
                f'| {name} | {100 * f["mean_score"]:.2f} | {100 * f["mean_within"]:.2f} | '
                f'{100 * f["mean_regret"]:.2f} | {100 * f["worst_regret"]:.2f} | '
                f'{f["days_with_violations"]} | {f["switches_per_hour"]:.1f} |'
            )
    best, bound_ = found['best_fixed']['mean_score'], found['bound']['mean_score']
    lines.append(
        f'| best fixed of each day, in hindsight | {100 * best:.2f} | {100 * best:.2f} | 0 | 0 | '
        f'0 | 0 |'
    )
    lines.append(f'| bound (all is foreseen, never hot) | {100 * bound_:.2f} | | | | | |')
    for name, f in found['fixed'].items():
        lines.append(
            f'| always {name} | {100 * f["mean_score"]:.2f} | {100 * f["mean_within"]:.2f} | | | '
            f'{f["days_with_violations"]} | 0 |'
        )
    lines += [
        '',
        '| day | best fixed | its score, % | policy, % | regret, % |',
        '|---|---|---|---|---|',
    ]
    for row in answer['days']:
        ours = row[OURS]
        lines.append(
            f'| {row["day"]} | {row["best_fixed"]} | {100 * row["best_fixed_score"]:.1f} | '
            f'{100 * ours["score"]:.1f} | {100 * ours["regret"]:+.2f} |'
        )
    return '\n'.join(lines)
