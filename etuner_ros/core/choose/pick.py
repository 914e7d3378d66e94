# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which of the measured candidates to take, under limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from etuner_ros.core.choose.measured import Measured
from etuner_ros.core.errors import ConfigError

RULES = (
    'sharpest_likely',
    'likeliest',
    'near_likeliest',
    'best',
    'within_error',
    'within_paired_error',
)
# Of doubt, in nats, that twice the pixels make up for. Searched on pictures of no report.
SHARPER = 0.04
NEAR = 0.25  # standard errors of a difference of doubts, below which it is none


@dataclass(frozen=True)
class Limits:
    """
    What a prediction may cost; NaN is no limit of time or power.

    :ivar ms: of a prediction at p50
    :ivar watts: above idle, at `rate_hz` predictions a second
    """

    ms: float = math.nan
    watts: float = math.nan
    rate_hz: float = 30.0

    def __post_init__(self) -> None:
        """
        Check them.

        :raises ConfigError: when one is not positive, or the rate is no number
        """
        for name, value in (('ms', self.ms), ('watts', self.watts), ('rate', self.rate_hz)):
            none = math.isnan(value) and name != 'rate'
            if not (none or 0 < value < math.inf):
                raise ConfigError(f'the limit of {name} must be a positive number, got {value:g}')

    def admits(self, measured: Measured) -> bool:
        """Return whether a candidate keeps to them; one whose power is unknown does not."""
        fast = math.isnan(self.ms) or measured.p50_ms <= self.ms
        return fast and (math.isnan(self.watts) or measured.watts(self.rate_hz) <= self.watts)


def front(found: Sequence[Measured]) -> list[Measured]:
    """Return those that no other beats: as fast, and as often right, and better in one of both."""
    best, chosen = -1.0, []
    for one in sorted(found, key=lambda m: (m.p50_ms, -m.accuracy)):
        if one.accuracy > best:
            best = one.accuracy
            chosen.append(one)
    return chosen


def choose(found: Sequence[Measured], limits: Limits, rule: str = RULES[0]) -> Measured:
    """
    Return the candidate to take.

    With some hundred labels, accuracies of good candidates differ by a few pictures, which is
    chance; how sure the head is of all pictures says more. `etuner bench choose` compares:

    - 'sharpest_likely': as 'likeliest', but near ties go to more pixels, by `SHARPER`: pictures of
      one session are alike, and leaving one of them out makes few pixels look better than they are
    - 'likeliest': whose head gives the labels that were left out the highest likelihood
    - 'near_likeliest': the fastest that is hardly behind that one, by `NEAR`
    - 'best': most often right on labels that were left out
    - 'within_error': the fastest within a standard error of that one's accuracy
    - 'within_paired_error': within the standard error of their difference on the same pictures

    :raises ConfigError: when none keeps to the limits, with what the closest one takes
    """
    if not found:
        raise ConfigError('nothing was measured, so there is nothing to choose from')
    fitting = [m for m in found if limits.admits(m)]
    if not fitting:
        raise ConfigError(_refusal(found, limits))
    if rule == 'sharpest_likely':
        return min(fitting, key=lambda m: (_sharp_doubt(m), m.p50_ms))
    likeliest = min(fitting, key=lambda m: (m.mean_doubt, m.p50_ms))
    best = max(fitting, key=lambda m: (m.accuracy, -m.p50_ms))
    if rule == 'likeliest':
        return likeliest
    if rule == 'best':
        return best
    if rule == 'near_likeliest':
        near = [m for m in fitting if _more_doubt(m, likeliest) <= NEAR]
    elif rule == 'within_error':
        error = math.sqrt(best.accuracy * (1.0 - best.accuracy) / best.samples)
        near = [m for m in fitting if m.accuracy >= best.accuracy - error]
    elif rule == 'within_paired_error':
        near = [m for m in fitting if best.accuracy - m.accuracy <= paired_error(best, m)]
    else:
        raise ConfigError(f'the rule must be one of {", ".join(RULES)}, got {rule!r}')
    return min(near, key=lambda m: (m.p50_ms, -m.accuracy))


def paired_error(one: Measured, other: Measured) -> float:
    """Return the standard error of the difference of two accuracies on the same pictures."""
    difference = one.outcomes.astype(np.float64) - other.outcomes
    return float(difference.std() / math.sqrt(len(difference)))


def _sharp_doubt(one: Measured) -> float:
    """Return the doubt of a candidate in nats, less what its pixels make up for."""
    return one.mean_doubt - SHARPER * math.log2(one.candidate.pixels)


def _more_doubt(one: Measured, other: Measured) -> float:
    """Return how much more one doubts than another, in standard errors of the difference."""
    difference = np.subtract(one.doubt, other.doubt, dtype=np.float64)
    error = float(difference.std() / math.sqrt(len(difference)))
    mean = float(difference.mean())
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0


def _refusal(found: Sequence[Measured], limits: Limits) -> str:
    if not math.isnan(limits.watts) and all(math.isnan(m.joules) for m in found):
        return (
            'the energy of a prediction is unavailable here (no meter that can be read), so '
            '--max-watts can not be kept: use --max-ms, or --assumed-watts with the power of a '
            'busy core'
        )
    fastest = min(found, key=lambda m: m.p50_ms)
    power = [m.watts(limits.rate_hz) for m in found if not math.isnan(m.joules)]
    least = f' and the thriftiest {min(power):.2f} W at {limits.rate_hz:g} Hz' if power else ''
    return (
        f'none of {len(found)} candidates keeps to the limits: the fastest, '
        f'{fastest.candidate.name}, takes {fastest.p50_ms:.2f} ms{least}; raise the limit, or try '
        f'fewer pixels with --pixels'
    )
