# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of the label collector."""

from __future__ import annotations

from dataclasses import dataclass

from etuner_ros.core.config import Checked, setting

# What may be set at run time.
LIVE = (
    'source',
    'join_wait_s',
    'batch_size',
    'batch_timeout_s',
    'max_label_length',
    'authors',
    'sources',
    'author_rate_hz',
    'max_frame_mb',
    'budget_mb',
    'silence_s',
)


@dataclass(frozen=True)
class DeskRules:
    """What is taken and from whom."""

    longest_label: int = 64
    authors: frozenset[str] = frozenset()  # empty: everyone
    author_rate_hz: float = 10.0  # 0: no limit
    keep_s: float = 120.0  # how long frames are kept, and in how much memory: for reasons
    keep_mb: float = 256.0


@dataclass(frozen=True)
class CollectorSettings(Checked):
    """Parameters of the label collector."""

    source: str = setting('camera', 'camera pipeline that corrections without a source are about')
    keep_s: float = setting(
        120.0, 'how long a predicted frame can be labelled, in s', 1.0, 86400.0
    )
    keep_mb: float = setting(256.0, 'memory for predicted frames, in MB', 1.0, 1e6)
    join_wait_s: float = setting(
        1.0,
        'how long a correction waits for its frame to arrive, and for its objects when it is of '
        'one, in s',
        0.0,
        60.0,
    )
    batch_size: int = setting(8, 'labelled samples in a batch', 1, 10000)
    batch_timeout_s: float = setting(
        10.0, 'a smaller batch goes out when its oldest sample has waited so long, in s', 0.1, 1e6
    )
    request_period_s: float = setting(
        2.0, 'time between two label requests, in s; 0 = none', 0.0, 1e6
    )
    max_label_length: int = setting(64, 'longest label, in characters', 1, 1000)
    authors: str = setting('', 'who may label, separated by commas; empty = everyone')
    sources: str = setting(
        '', 'camera pipelines whose frames are kept, separated by commas; empty = all'
    )
    author_rate_hz: float = setting(
        10.0,
        'corrections an author may send per second, beside a burst of 20; 0 = no limit',
        0.0,
        1e6,
    )
    silence_s: float = setting(
        10.0,
        'time without a frame after which the likely cause is said, in s; 0 = never',
        0.0,
        1e6,
    )
    max_frame_mb: float = setting(8.0, 'largest encoded frame that is kept, in MB', 0.001, 1e3)
    budget_mb: float = setting(
        4000.0,
        'disk for pictures of labelled frames, in MB; those of the largest class that were '
        'learned make room; 0 = no limit',
        0.0,
        1e9,
    )
    store: str = setting(
        '', 'database file of the labels; empty = $ROS_HOME/etuner/labels/<node name>.db'
    )

    @property
    def rules(self) -> DeskRules:
        """What the desk takes and from whom."""
        return DeskRules(
            self.max_label_length,
            frozenset(names(self.authors)),
            self.author_rate_hz,
            self.keep_s,
            self.keep_mb,
        )


def names(text: str) -> set[str]:
    """Return the names in a list that is separated by commas."""
    return {name.strip() for name in text.split(',') if name.strip()}
