# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Switching of variants on made days, beside every fixed choice and a learned rival; `etuner bench
switching`.

The score of a day is the expected accuracy of a frame, 0 for one that is late or dropped; a step
over a limit is a violation and is counted apart. Regret is against the best fixed choice in
hindsight: of those that violate no limit on that day, the one with the highest score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
import json
from pathlib import Path
import sys
from typing import Any

from etuner_ros.bench.head_commit import machine
from etuner_ros.bench.switching_days import make_days
from etuner_ros.bench.switching_report import LEARNED, OURS, summary
from etuner_ros.bench.switching_traces import BUSY_WATTS, Day
from etuner_ros.bench.switching_world import bound, Costs, costs, Heard, Outcome, Tally, World
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.serve.variant_limits import VariantLimits
from etuner_ros.core.serve.variant_policy import VariantPolicy, VariantPolicyConfig
from etuner_ros.core.serve.variants import read_variants, Variant, variants_of


def configure(day: Day) -> VariantPolicyConfig:
    """Return the limits of a day; all else as shipped."""
    return VariantPolicyConfig(
        deadline_ms=day.deadline_ms,
        min_battery=day.min_battery,
        target_hours=day.plans[0][1],
        battery_wh=day.battery_wh,
        usual_watts=day.usual_watts,
        busy_watts=BUSY_WATTS,
        max_temperature=day.max_temperature,
    )


def feed(limits: VariantLimits, world: World, heard: Heard) -> None:
    """Tell a policy what is heard in a step, and of a plan that begins."""
    for begin, hours in world.day.plans[1:]:
        if begin == world.at:
            limits.configure(replace(limits.config, target_hours=hours))
            limits.battery.restart()
    median_ms = world.variants[world.last].p50_ms
    limits.battery.on_battery(heard.charge, heard.watts)
    limits.on_temperature(heard.celsius)
    limits.on_rate(heard.rate)
    for slower in heard.slower.tolist():
        limits.on_prediction(slower * median_ms)


def play_policy(
    day: Day, given: Costs, variants: Sequence[Variant], config: VariantPolicyConfig | None = None
) -> tuple[Outcome, dict[str, list[float]]]:
    """
    Let the policy choose on a day.

    :return: how it went, and what was: variant, charge and temperature of each step
    """
    world, tally = World(day, variants, given), Tally(day)
    policy = VariantPolicy(variants, config or configure(day), lambda: world.seconds)
    numbers = {v.name: i for i, v in enumerate(variants)}
    story: dict[str, list[float]] = {'variant': [], 'charge': [], 'celsius': []}
    while not world.over:
        feed(policy.limits, world, world.hear())
        at, chosen = world.at, numbers[policy.choose().name]
        tally.add(at, chosen, *world.step(chosen))
        for key, value in zip(story, (chosen, world.charge, world.celsius)):
            story[key].append(value)
    return tally.outcome(), story


def play_fixed(day: Day, given: Costs, variants: Sequence[Variant], chosen: int) -> Outcome:
    """Serve with one variant all day."""
    world, tally = World(day, variants, given), Tally(day)
    while not world.over:
        at = world.at
        tally.add(at, chosen, *world.step(chosen))
    return tally.outcome()


def regret(score: float, best: float) -> float:
    """Return by which share a score is below the best one; negative = above."""
    return 1.0 - score / best if best > 0 else 0.0


def compare(
    variants: Sequence[Variant], seeds: Sequence[int], learner_steps: int, learners: int
) -> tuple[list[dict[str, Any]], list[tuple[Day, dict[str, list[float]]]]]:
    """
    Play all days with all choices.

    :param learner_steps: decisions that A2C learns from, 0 = leave it out
    :param learners: of which the best one counts
    :return: a row for each day, and what the policy did on it
    """
    days = [(day, costs(day, variants)) for day in make_days(variants, seeds)]
    rows, stories = [], []
    for day, given in days:
        fixed = [play_fixed(day, given, variants, i) for i in range(len(variants))]
        allowed = [(o.score, v.name) for o, v in zip(fixed, variants) if not o.violations]
        if not allowed:
            raise EtunerError(f'no variant keeps the limits of the made day {day.name}')
        best, best_name = max(allowed)
        ours, story = play_policy(day, given, variants)
        stories.append((day, story))
        row = {
            'day': day.name,
            'hours': day.hours,
            'limits': {
                'deadline_ms': day.deadline_ms,
                'battery_wh': day.battery_wh,
                'min_battery': day.min_battery,
                'max_temperature': day.max_temperature,
            },
            'fixed': {v.name: vars(o) for v, o in zip(variants, fixed)},
            'best_fixed': best_name,
            'best_fixed_score': best,
            'bound': bound(day, given),
            OURS: {**vars(ours), 'regret': regret(ours.score, best)},
        }
        rows.append(row)
        print(
            f'{day.name}: policy {100 * ours.score:.1f} %, {ours.violations} violations, '
            f'{ours.switches} switches; best fixed {best_name} {100 * best:.1f} %',
            file=sys.stderr,
            flush=True,
        )
    if learner_steps:
        _play_learned(rows, days, variants, learner_steps, learners)
    return rows, stories


def _play_learned(
    rows: list[dict[str, Any]],
    days: Sequence[tuple[Day, Costs]],
    variants: Sequence[Variant],
    steps: int,
    learners: int,
) -> None:
    """Add what A2C makes of the days."""
    try:
        from etuner_ros.bench.switching_a2c import learn, play
    except ImportError as error:
        raise EtunerError(
            f'A2C needs {error.name}: run `make bench-switching`, which installs it, or leave it '
            f'out with --learner-steps 0'
        ) from None
    model = learn(variants, configure, feed, steps, range(learners))
    for row, outcome in zip(rows, play(model, days, variants, configure, feed)):
        row[LEARNED] = {
            **vars(outcome),
            'regret': regret(outcome.score, row['best_fixed_score']),
        }


def bench(
    table: Path | None,
    network: str,
    stream: Path,
    output: Path,
    seeds: Sequence[int],
    learner_steps: int,
    learners: int,
) -> dict[str, Any]:
    """
    Compare, and write `switching.json` and `switching.png`.

    :param table: of variants, see `read_variants`; None = they are measured here
    :param network: whose variants are taken of a table of several networks
    :param stream: recording that accuracy is measured on
    """
    from etuner_ros.bench.switching_plot import plot
    from etuner_ros.bench.variant_table import measure_table

    where = machine()  # before anything is written
    if table is not None:
        variants, origin = read_variants(table, network), {'file': table.name}
    else:
        origin = measure_table(stream)
        variants = variants_of(origin, 'what was measured here')
    rows, stories = compare(variants, seeds, learner_steps, learners)
    answer = {
        'summary': summary(rows),
        'variants': [asdict(v) for v in variants],
        'table_from': origin,
        'days': rows,
        'setting': {
            'policy': asdict(VariantPolicyConfig()),
            'seeds': list(seeds),
            'learner_steps': learner_steps,
            'learners': learners,
        },
        'machine': where,
    }
    output.mkdir(parents=True, exist_ok=True)
    (output / 'switching.json').write_text(json.dumps(answer, indent=1) + '\n')
    plot(output / 'switching.png', variants, rows, stories)
    return answer
