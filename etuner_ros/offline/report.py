# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a recording taught: as values, as a table, as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
import math
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use('Agg')
from matplotlib import pyplot
from matplotlib.backend_bases import FigureCanvasBase

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.files import replace_file
from etuner_ros.offline.recording import LearningBag
from etuner_ros.offline.robot import Learned, LearnedRound, OfflineRobot

WINDOW = 20  # labels that the curve is the mean of
CURVE, UNTUNED, ACCEPTED, REFUSED = '#12805c', '#8a8f98', '#2d6cdf', '#c0392b'


def facts(bag: LearningBag, robot: OfflineRobot, took_s: float) -> dict[str, Any]:
    """
    Return what was learned.

    :param took_s: of all
    """
    learned = robot.learned
    labels = learned.labels
    kinds = Counter(label.label for label in labels)
    right = Counter(label.label for label in labels if label.right)
    untuned = Counter(label.label for label in labels if label.right_untuned)
    refused = Counter(learned.refused) + Counter(code.name for code in learned.gone.values())
    refused += Counter(BOX=bag.boxes, REPEATED_STAMP=bag.ambiguous)
    return {
        'recording_s': bag.seconds,
        'took_s': took_s,
        'frames': learned.frames,
        'labels': len(labels),
        'kinds': {k: [count, right[k], untuned[k]] for k, count in sorted(kinds.items())},
        **_shares('right', [label.right for label in labels]),
        **_shares('untuned_right', [label.right_untuned for label in labels]),
        'not_taken': dict(sorted(refused.items())),
        'unreadable': dict(bag.damage.messages),
        'damaged': bag.damage.end,
        'rounds': [asdict(r) for r in learned.rounds],
        'heads': learned.heads,
        'heads_refused': learned.heads_refused,
        'retreats': learned.retreats,
        'scenario_changes': learned.scenario_changes,
        'version': learned.version,
        'classes': list(robot.learner.live.classes),
    }


def _shares(name: str, right: Sequence[bool]) -> dict[str, float]:
    """Return how many were right, in [0, 1]: of all, of the first and of the last third."""
    third = -(-len(right) // 3)
    parts = {'before_label': right, 'first_third': right[:third]}
    parts['last_third'] = right[len(right) - third :]
    return {f'{name}_{k}': sum(x) / len(x) if x else math.nan for k, x in parts.items()}


def text(found: dict[str, Any]) -> str:
    """Return the facts for people."""
    took, whole = found['took_s'], found['recording_s']
    lines = [
        f'{found["frames"]} frames and {found["labels"]} labels of {whole / 60:.1f} min, learned '
        f'in {took:.0f} s ({whole / max(took, 1e-9):.1f} times real time)',
        '',
    ]
    third = -(-found['labels'] // 3)
    if found['labels']:
        lines += [
            '| kind | labels | predicted right before | by the weights it began with |',
            '|---|---|---|---|',
            *(
                f'| {kind} | {count} | {_percent(right / count)} | {_percent(untuned / count)} |'
                for kind, (count, right, untuned) in found['kinds'].items()
            ),
            *(
                f'| {words} | {count} | {_percent(found[f"right_{part}"])} | '
                f'{_percent(found[f"untuned_right_{part}"])} |'
                for words, part, count in (
                    ('all', 'before_label', found['labels']),
                    ('first third', 'first_third', third),
                    ('last third', 'last_third', third),
                )
            ),
            '',
        ]
    if found['rounds']:
        lines += [
            '| round at | why | labels | accuracy before | after | verdict | frozen | s |',
            '|---|---|---|---|---|---|---|---|',
        ]
    for made in found['rounds']:
        lines.append(
            f'| {_minutes(made["seconds"])} | {made["reason"]} | {made["labels"]} | '
            f'{_percent(made["before"])} | {_percent(made["after"])} | {made["verdict"]} | '
            f'{made["frozen"]} | {made["took_s"]:.1f} |'
        )
    refused = sum(not made['accepted'] for made in found['rounds'])
    back = f', taken back {found["retreats"]} times' if found['retreats'] else ''
    lines.append(
        f'{len(found["rounds"])} rounds, {refused} refused{back}; {found["heads"]} new heads, '
        f'{found["heads_refused"]} refused; {len(found["scenario_changes"])} changes of scenario'
    )
    lines += [
        f'{count} labels not taken: {WHY.get(code, code.lower().replace("_", " "))}'
        for code, count in found['not_taken'].items()
    ]
    lines += [
        f'{count} messages of {topic} are damaged and left out'
        for topic, count in found['unreadable'].items()
    ]
    lines += [found['damaged']] if found['damaged'] else []
    if not found['labels']:
        lines.append('nothing was learned: no label could be taken')
    if 'weights' in found:
        lines.append(f'use it with the parameter model.weights: {found["weights"]}')
    return '\n'.join(lines)


WHY = {
    'UNKNOWN_FRAME': 'their frames are not in the recording (stamp, frame_id and source as in '
    'the image; see --source and --image-topic)',
    'TOO_OLD': 'they came when their frame was no longer kept (keep_s, keep_mb of '
    'label_collector)',
    'BOX': 'they are of boxes, and whole images are learned here',
    'REPEATED_STAMP': 'other images have the stamp of theirs',
    'DUPLICATE': 'said before by the same author',
}


def round_line(made: LearnedRound) -> str:
    """Return what became of a round, in a line."""
    return (
        f'{_minutes(made.seconds)} round on {made.labels} labels ({made.reason}): '
        f'{_percent(made.before)} before, {_percent(made.after)} after, {made.verdict}'
    )


def _percent(share: float) -> str:
    return '-' if math.isnan(share) else f'{100 * share:.1f} %'


def _minutes(seconds: float) -> str:
    return f'{int(seconds) // 60}:{int(seconds) % 60:02}'


def check_picture(path: Path) -> None:
    """
    Look whether a name is one of a picture that can be drawn.

    :raises ConfigError: when it is none
    """
    known = FigureCanvasBase.get_supported_filetypes()
    if (kind := path.suffix.lstrip('.').lower()) and kind not in known:
        raise ConfigError(f'pictures are files *.png or *.svg; {path.name} is none')


def picture(path: Path, learned: Learned, seconds: float) -> None:
    """
    Draw how often predictions were right just before their label, with rounds and scenarios.

    :param seconds: of the recording
    """
    figure, axes = pyplot.subplots(figsize=(10, 4))
    times = [label.seconds / 60 for label in learned.labels]
    ends = np.arange(1, len(times) + 1)
    starts = np.maximum(ends - WINDOW, 0)
    for name, colour, right in (
        ('the weights it began with', UNTUNED, [x.right_untuned for x in learned.labels]),
        ('as it learned', CURVE, [x.right for x in learned.labels]),
    ):
        sums = np.cumsum([0.0, *right])
        shares = 100 * (sums[ends] - sums[starts]) / (ends - starts)
        axes.plot(times, shares, color=colour, label=name)
    axes.legend(loc='lower right')
    for moment in learned.scenario_changes:
        axes.axvline(moment / 60, color='black', linewidth=0.8, linestyle=':')
    for made in learned.rounds:
        colour = ACCEPTED if made.accepted else REFUSED
        axes.axvline(made.seconds / 60, color=colour, linewidth=0.8)
    axes.set(
        xlim=(0, seconds / 60),
        ylim=(0, 101),
        xlabel='time of the recording (min)',
        ylabel=f'right before the label,\nmean of {WINDOW} (%)',
        title='rounds: blue went live, red were refused; dotted: changes of scenario',
    )
    stream = BytesIO()
    figure.savefig(stream, format=path.suffix.lstrip('.') or 'png', bbox_inches='tight')
    pyplot.close(figure)
    replace_file(path, stream.getvalue())
