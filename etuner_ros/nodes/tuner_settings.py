# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the tuner node itself."""

from __future__ import annotations

from dataclasses import dataclass

from etuner_ros.core.config import setting
from etuner_ros.core.rate_limit import TransferSettings

# What may be set at run time.
LIVE = (
    'rounds',
    'verdict_timeout_s',
    'restart_delay_s',
    'worker_timeout_s',
    'worker_memory_mb',
    'silence_s',
    'transfer_mbit_s',
)


@dataclass(frozen=True)
class TunerSettings(TransferSettings):
    """Time-outs, limits of the worker, and what is assumed of the board."""

    rounds: bool = setting(
        True,
        'whether rounds of fine-tuning start by themselves; without, the instant head alone '
        'learns, and ~/fine_tune still runs one',
    )
    verdict_timeout_s: float = setting(
        15.0, 'how long a candidate waits for its verdict, in s', 0.1, 3600.0
    )
    restart_delay_s: float = setting(
        2.0,
        'pause before a dead worker is started again, in s; doubles up to 60 while it dies again',
        0.0,
        3600.0,
    )
    worker_timeout_s: float = setting(
        300.0,
        'time without any sign of life after which a worker that has work is taken to hang and '
        'is started anew, in s',
        1.0,
        1e6,
    )
    silence_s: float = setting(
        10.0,
        'time without a prediction after which the likely cause is said, in s; 0 = never',
        0.0,
        1e6,
    )
    assumed_watts: float = setting(
        0.0,
        'power of training above idle, in W, for an estimate on boards without a meter; 0 = none',
        0.0,
        1e4,
    )
    worker_memory_mb: float = setting(
        0.0,
        'resident memory above which the worker is started anew with half the batch size, in MB; '
        '0 = no limit',
        0.0,
        1e7,
    )
