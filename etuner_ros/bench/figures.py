# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What the answers on a stream say beside their mean: on return to a place, and of new kinds."""

from __future__ import annotations

from collections.abc import Sequence

from etuner_ros.bench.streams import Stream

RETURN_REQUESTS = 40  # first requests of a visit that tell what was kept since the last one


def on_return(stream: Stream, correct: Sequence[bool]) -> float | None:
    """
    Return the accuracy over the first requests of each visit that is not the first to its place.

    :param correct: of each request, in order
    :return: in [0, 1]; None where no place is visited again
    """
    again = {v for v, place in enumerate(stream.visits) if place in stream.visits[:v]}
    counts = dict.fromkeys(again, 0)
    right = []
    requests = (e for e in stream.events if not e.labelled)
    for event, is_right in zip(requests, correct):
        if event.visit in again and counts[event.visit] < RETURN_REQUESTS:
            counts[event.visit] += 1
            right.append(is_right)
    return sum(right) / len(right) if right else None


def new_kind_requests(stream: Stream, correct: Sequence[bool]) -> float | None:
    """
    Return how many requests of a new kind are answered wrong between its first label and the first
    right answer, on average over new kinds; one that is never said right counts with all of them.

    :param correct: of each request, in order
    :return: None where all kinds were deployed, or no new one is asked for once it was labelled
    """
    deployed = {p.label for p in stream.deployment}
    wrong: dict[str, int] = {}
    labelled: set[str] = set()
    learned: set[str] = set()
    answers = iter(correct)
    for event in stream.events:
        if event.labelled:
            labelled.update(p.label for p in event.pictures if p.label not in deployed)
            continue
        kind, is_right = event.pictures[0].label, next(answers)
        if kind in labelled and kind not in learned:
            wrong[kind] = wrong.get(kind, 0) + (not is_right)
            if is_right:
                learned.add(kind)
    return sum(wrong.values()) / len(wrong) if wrong else None
