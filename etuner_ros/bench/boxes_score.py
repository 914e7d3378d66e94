# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How right objects in boxes are: names, boxes, average precision, names of unknown things."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from etuner_ros.core.boxes.geometry import Boxes, Floats, overlaps

RIGHT = 0.5  # intersection over union from which on a box is right
TOUCHES = 0.1  # ... from which on an object may be meant for a thing


@dataclass(frozen=True)
class Answer:
    """What a method says of a frame; n objects, the surest first."""

    boxes: Boxes  # (n, 4)
    names: Sequence[str]  # n
    scores: Floats  # (n,) how sure, comparable between frames
    evidence: Floats  # (n,) how much speaks for the name rather than for an unknown thing
    unknown: npt.NDArray[np.bool_] | None = None  # (n,) it is called so; None: all are named


@dataclass(frozen=True)
class Truth:
    """What is in a frame; k things in view, of taught kinds or not, and what is hardly in view."""

    boxes: Boxes  # (k, 4)
    names: Sequence[str]  # k
    hidden: Boxes  # (h, 4), things too small or too much covered to count


@dataclass(frozen=True)
class Score:
    """Shares in [0, 1]."""

    class_right: float  # of things of taught kinds: the object upon it has its name
    class_and_box: float  # ... an object has its name and its box, each object counted once
    ap50: float  # mean over taught kinds
    recall: float  # of things of taught kinds, by proposals or objects of any name
    false_name: float  # of unknown things, at 90 % recall of known ones; nan without any
    false_of_right: float  # the same where 90 % of known ones that are called rightly have a name
    named: float  # of known things with an object upon them, as it is deployed: it has a name
    named_right: float  # ... which is theirs
    false_named: float  # of unknown ones, as it is deployed


class _Met(NamedTuple):
    """The object upon a thing."""

    evidence: float
    named: bool
    right: bool  # its best name is the thing's


def score(answers: Sequence[Answer], truths: Sequence[Truth], taught: Sequence[str]) -> Score:
    """Compare answers with the truth of the same frames."""
    kinds = sorted(set(taught))
    known = right = both = found = 0
    met: tuple[list[_Met], list[_Met]] = ([], [])  # known things, unknown ones
    hits: dict[str, list[tuple[float, bool]]] = {kind: [] for kind in kinds}
    totals = dict.fromkeys(kinds, 0)
    for answer, truth in zip(answers, truths):
        overlap = overlaps(answer.boxes, truth.boxes)
        hidden = overlaps(answer.boxes, truth.hidden).max(axis=1, initial=0.0) >= RIGHT
        for place, name in enumerate(truth.names):
            upon = int(overlap[:, place].argmax()) if len(answer.boxes) else -1
            meets = upon >= 0 and overlap[upon, place] >= TOUCHES
            if meets:
                said = answer.unknown is None or not answer.unknown[upon]
                rightly = answer.names[upon] == name
                met[name not in totals].append(
                    _Met(float(answer.evidence[upon]), bool(said), rightly)
                )
            if name in totals:
                known += 1
                totals[name] += 1
                right += meets and answer.names[upon] == name
                found += bool((overlap[:, place] >= RIGHT).any())
        both += _match(answer, truth, overlap, hidden, hits)
    precisions = [_average_precision(hits[k], totals[k]) for k in kinds if totals[k]]
    return Score(
        right / max(known, 1),
        both / max(known, 1),
        float(np.mean(precisions)) if precisions else 0.0,
        found / max(known, 1),
        false_names([m.evidence for m in met[0]], [m.evidence for m in met[1]]),
        false_names([m.evidence for m in met[0] if m.right], [m.evidence for m in met[1]]),
        _share([m.named for m in met[0]]),
        _share([m.named and m.right for m in met[0]]),
        _share([m.named for m in met[1]]),
    )


def _share(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if len(values) else float('nan')


def _match(
    answer: Answer,
    truth: Truth,
    overlap: Floats,
    hidden: np.ndarray,
    hits: dict[str, list[tuple[float, bool]]],
) -> int:
    """Note for each object whether it is right; return how many are."""
    taken: set[int] = set()
    for place in np.argsort(-answer.scores, kind='stable'):
        name = answer.names[place]
        if name not in hits:
            continue
        same = [k for k, n in enumerate(truth.names) if n == name and k not in taken]
        best = max(same, key=lambda k: overlap[place, k], default=-1)
        good = best >= 0 and overlap[place, best] >= RIGHT
        if good:
            taken.add(best)
        elif hidden[place]:
            continue  # neither right nor wrong
        hits[name].append((float(answer.scores[place]), bool(good)))
    return len(taken)


def _average_precision(hits: Sequence[tuple[float, bool]], total: int) -> float:
    """Return the area below precision over recall, precision made monotone, in [0, 1]."""
    if not hits:
        return 0.0
    good = np.array([hit for _, hit in sorted(hits, key=lambda h: -h[0])], float)
    recall = np.cumsum(good) / total
    precision = np.cumsum(good) / np.arange(1, len(good) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def false_names(known: Sequence[float], unknown: Sequence[float], recall: float = 0.9) -> float:
    """
    Return the share of unknown things that get a name where a share of known ones does.

    :param known: (n,) evidence
    :param unknown: (m,) evidence
    """
    if not len(known) or not len(unknown):
        return float('nan')
    return float((np.asarray(unknown) >= np.quantile(known, 1.0 - recall)).mean())
