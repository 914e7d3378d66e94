# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Sizes of one version compared on frames of the robot: how features lie, what a look costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import threading

import numpy as np

from etuner_ros.core.images.codec import Image
from etuner_ros.core.niceness import step_back
from etuner_ros.core.serve.graph_file import Floats
from etuner_ros.core.serve.networks import Network
from etuner_ros.core.serve.slot import Alignment, backbone_at, Slot, SmallerSlot
from etuner_ros.core.serve.variants import Variant

NICENESS = 10  # that a thread that measures adds to what it has


@dataclass(frozen=True)
class Ready:
    """What one may choose from, for one network that serves."""

    number: int  # of the slot; of another one nothing here may serve
    rows: tuple[Variant, ...]  # as measured; the version's own size first
    slots: Mapping[str, SmallerSlot | None]  # by name of the row; None = the version's own size


@dataclass(frozen=True)
class Seen:
    """What a network saw in some frames."""

    features: Floats  # (n, D)
    appearance: Floats  # (n, 2A)
    ms: Floats  # (n,)


def look(
    networks: Mapping[int, Network],
    frames: Sequence[Mapping[int, Image]],
    stopwatch: Callable[[], float],
    ends: threading.Event,
) -> dict[int, Seen]:
    """
    Look at all frames with all networks, in turns: what else runs then slows all alike.

    In a thread beside the main one, that thread has a low priority from now on.

    :param networks: by size, in px
    :param frames: at least one; RGB uint8 (S, S, 3) by size
    :param stopwatch: in s
    :param ends: set when nobody wants to know any more
    :return: by size; nothing when `ends` was set
    """
    if threading.current_thread() is not threading.main_thread():
        # Not before networks are made, which hand it on to the threads that they start.
        step_back(NICENESS)
    seen: dict[int, list[tuple[Floats, Floats, float]]] = {p: [] for p in networks}
    for pixels, network in networks.items():
        network.look([frames[0][pixels]])  # the first one is slow
    for squares in frames:
        for pixels, network in networks.items():
            if ends.is_set():
                return {}
            began = stopwatch()
            features, appearance = network.look([squares[pixels]])
            seen[pixels].append((features[0], appearance[0], 1e3 * (stopwatch() - began)))
    return {p: Seen(*map(np.array, zip(*looks))) for p, looks in seen.items()}


def compare(
    slot: Slot, own: int, networks: Mapping[int, Network], seen: Mapping[int, Seen]
) -> Ready:
    """
    Align all sizes to the version's own, and see how often they say the same.

    As `accuracy` counts on how many of n frames a size says what the version says at its own size,
    (k + 1) / (n + 2); that itself counts 1. So few frames can not show that fewer pixels are
    better: a size that is right as often as a larger one, or more, counts as half a frame worse.

    :param own: the version's own size, in px
    """
    whole = seen[own]
    rows = [_row(slot.network, own, whole, 1.0)]
    slots: dict[str, SmallerSlot | None] = {rows[0].name: None}
    said = slot.logits(whole.features).argmax(axis=1) if slot.classes else None
    most = float(len(whole.ms))
    for pixels, part in sorted(seen.items(), reverse=True):
        if pixels == own:
            continue
        small = SmallerSlot(
            networks[pixels],
            pixels,
            slot.number,
            backbone_at(slot.backbone, pixels),
            Alignment.of(part.features, whole.features),
            Alignment.of(part.appearance, whole.appearance),
        )
        if said is not None:
            says = slot.logits(small.features(part.features)).argmax(axis=1)
            most = min(most, float((says == said).sum()))
        row = _row(small.network, pixels, part, (most + 1.0) / (len(part.ms) + 2.0))
        most = max(most - 0.5, 0.0)
        rows.append(row)
        slots[row.name] = small
    return Ready(slot.number, tuple(rows), slots)


def _row(network: Network, pixels: int, seen: Seen, accuracy: float) -> Variant:
    p50, p99 = (max(float(v), 1e-6) for v in np.percentile(seen.ms, (50, 99)))
    return Variant(pixels, network.name.rpartition('-')[2], p50, p99, accuracy)
