# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
A learned rival of the variant policy: A2C of stable-baselines3, on days of other seeds.

It hears what our policy hears, through the very same readings: what battery and heat allow, load,
late share, camera rate, and what each variant would take of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv
import torch

from etuner_ros.bench.switching_days import make_days
from etuner_ros.bench.switching_traces import Day
from etuner_ros.bench.switching_world import Costs, costs, Outcome, Tally, World
from etuner_ros.core.serve.variant_limits import VariantLimits
from etuner_ros.core.serve.variant_policy import VariantPolicyConfig
from etuner_ros.core.serve.variants import Variant

ROBOTS = 16  # that learn side by side
EPISODE = 450  # steps, a quarter of an hour
PENALTY = 3.0  # of a step over a limit
TRAIN_SEEDS = tuple(range(1000, 1008))
CHECK_SEEDS = (2000,)  # of the days on which the best learner is chosen
SETTINGS: dict[str, Any] = {
    'n_steps': 16,
    'gamma': 0.99,
    'gae_lambda': 0.95,
    'ent_coef': 0.002,
    'learning_rate': 7e-4,
    'policy_kwargs': {'net_arch': [64, 64]},
}


class Listener:
    """Makes a vector of what a robot hears."""

    def __init__(
        self, variants: Sequence[Variant], config: VariantPolicyConfig, world: World, feed: Any
    ) -> None:
        self.world, self._feed = world, feed
        self.variants = list(variants)
        self.limits = VariantLimits(variants, config, lambda: world.seconds)

    def look(self) -> np.ndarray:
        """Hear what there is in this step; return it, about 1 in size."""
        limits, heard = self.limits, self.world.hear()
        self._feed(limits, self.world, heard)
        limits.serve(self.variants[self.world.last])
        most = max(limits.watts(v) for v in self.variants) + 1e-9
        config, allowed = limits.config, limits.battery.allowed()
        room = config.max_temperature - heard.celsius
        last = np.eye(len(self.variants))[self.world.last]
        values = [
            np.nan_to_num(allowed / most, nan=-0.5),
            (limits.battery.charge - config.min_battery) if limits.battery.read_at > 0 else 0.0,
            limits.battery.seconds_left / (3600.0 * max(config.target_hours, 1e-9)),
            np.nan_to_num(room / 10.0, nan=-0.5),
            float(np.isnan(heard.celsius)),
            float(np.isnan(heard.charge)),
            limits.load - 1.0,
            10.0 * limits.late,
            heard.rate / 30.0,
            *last,
            *(limits.load * v.p99_ms / config.deadline_ms for v in self.variants),
            *(limits.watts(v) / most for v in self.variants),
            *(limits.load * v.p50_ms * heard.rate / 1e3 for v in self.variants),
        ]
        return np.clip(np.asarray(values), -2.0, 3.0).astype(np.float32)


class Robot(gymnasium.Env[np.ndarray, np.int64]):
    """A robot on a piece of a random day, for learning."""

    def __init__(
        self,
        days: Sequence[tuple[Day, Costs]],
        variants: Sequence[Variant],
        configure: Any,
        feed: Any,
        seed: int,
    ) -> None:
        self._days, self._variants = list(days), list(variants)
        self._configure, self._feed = configure, feed
        self._random = np.random.default_rng([seed, 7])
        self.action_space = gymnasium.spaces.Discrete(len(variants))
        size = 9 + 4 * len(variants)
        self.observation_space = gymnasium.spaces.Box(-2.0, 3.0, (size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Set out at a random time of a random day."""
        day, given = self._days[self._random.integers(len(self._days))]
        begin = int(self._random.integers(day.steps - EPISODE - 1))
        self._world = World(day, self._variants, given, begin)
        self._end = begin + EPISODE
        config = self._configure(day)
        self._ear = Listener(self._variants, config, self._world, self._feed)
        return self._ear.look(), {}

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Serve with a variant for a step."""
        right, violated = self._world.step(int(action))
        reward = right - PENALTY * violated
        # The day goes on after the piece, so it is cut off, not ended.
        return self._ear.look(), reward, False, self._world.at >= self._end, {}


def play(
    model: A2C,
    days: Sequence[tuple[Day, Costs]],
    variants: Sequence[Variant],
    configure: Any,
    feed: Any,
) -> list[Outcome]:
    """Let a learner choose on whole days, all side by side."""
    ears = [
        Listener(variants, configure(day), World(day, variants, given), feed)
        for day, given in days
    ]
    tallies = [Tally(day) for day, _ in days]
    left = list(range(len(days)))
    while left:
        seen = np.stack([ears[i].look() for i in left])
        actions, _ = model.predict(seen, deterministic=True)
        for i, action in zip(left, actions):
            world = ears[i].world
            at = world.at
            tallies[i].add(at, int(action), *world.step(int(action)))
        left = [i for i in left if not ears[i].world.over]
    return [tally.outcome() for tally in tallies]


def learn(
    variants: Sequence[Variant], configure: Any, feed: Any, steps: int, seeds: Sequence[int]
) -> A2C:
    """
    Learn from days of `TRAIN_SEEDS`, with each seed; return the best on those of `CHECK_SEEDS`.

    Best is the least of violations, then the highest score.

    :param steps: decisions of each learner
    """
    torch.set_num_threads(1)
    found = []
    days = [(day, costs(day, variants)) for day in make_days(variants, TRAIN_SEEDS)]
    checks = [(day, costs(day, variants)) for day in make_days(variants, CHECK_SEEDS)]
    for seed in seeds:
        robots = DummyVecEnv(
            [
                lambda n=n: Robot(days, variants, configure, feed, seed * 100 + n)  # type: ignore[misc]  # noqa: B023
                for n in range(ROBOTS)
            ]
        )
        model = A2C('MlpPolicy', robots, seed=seed, device='cpu', **SETTINGS)
        model.learn(steps)
        outcomes = play(model, checks, variants, configure, feed)
        score = float(np.mean([o.score for o in outcomes]))
        found.append((-sum(o.violations for o in outcomes), score, -seed, model))
    return max(found, key=lambda f: f[:3])[3]
