# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How many of the things in view are among the first boxes of each proposer, and in what time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
import statistics
import time
from typing import Any

from etuner_ros.core.boxes.geometry import overlaps
from etuner_ros.core.boxes.proposer import available, make_proposer, Proposer
from etuner_ros.core.boxes.recording import BoxFrame, BoxRecording

TOPS = (1, 10, 20)
RIGHT = 0.5  # overlap from which a box has found a thing


def recall(proposer: Proposer, frames: Iterable[BoxFrame], tops: Sequence[int] = TOPS) -> Any:
    """
    Return a row: the share of things that the first boxes find, in percent, and milliseconds.

    Things that are hardly visible do not count.
    """
    found, things, seconds = dict.fromkeys(tops, 0), 0, []
    for frame in frames:
        start = time.perf_counter()
        boxes = proposer.propose(frame.image, max(tops)).boxes
        seconds.append(time.perf_counter() - start)
        truth = frame.boxes[frame.fair()]
        things += len(truth)
        pairs = overlaps(truth, boxes)
        for top in tops:
            found[top] += int((pairs[:, :top].max(axis=1, initial=0.0) >= RIGHT).sum())
    return {
        'proposer': proposer.name,
        'frames': len(seconds),
        'things': things,
        **{f'recall_{top}': 100 * found[top] / max(things, 1) for top in tops},
        'ms': 1e3 * statistics.median(seconds) if seconds else float('nan'),
    }


def measure(recording: Path, own: Path, every: int = 1) -> list[dict[str, Any]]:
    """
    Return a row for each proposer that there is.

    :param own: the file of the proposer that ships with the package
    :param every: take one frame of so many
    :raises ImageError: when the recording does not say where things are
    """
    frames = [f for i, f in enumerate(BoxRecording(recording)) if i % every == 0]
    there = [kind for kind, reason in available(own).items() if not reason]
    return [recall(make_proposer(kind, own), frames) for kind in there]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as Markdown."""
    head = [f'recall of the first {top}, %' for top in TOPS]
    lines = [
        '| ' + ' | '.join(['proposer', 'things', *head, 'ms (median)']) + ' |',
        '|' + '---|' * (3 + len(TOPS)),
    ]
    lines += [
        f'| {row["proposer"]} | {row["things"]} | '
        + ' | '.join(f'{row[f"recall_{top}"]:.1f}' for top in TOPS)
        + f' | {row["ms"]:.1f} |'
        for row in rows
    ]
    return '\n'.join(lines)
