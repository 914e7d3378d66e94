# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Measure the table that variants are switched by: time, energy and accuracy of each one, here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
import itertools
import math
from pathlib import Path
import time
from typing import Any

import numpy as np
import torch

from etuner_ros.bench.datasets import Picture, recording
from etuner_ros.bench.head_commit import machine
from etuner_ros.core.decide.energy import find_meter, Meter
from etuner_ros.core.errors import EngineError
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.learn.instant_head import InstantHead
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.serve.calibrate import calibrate
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.networks import Network
from etuner_ros.core.serve.variants import Variant

PIXELS = (96, 128, 160, 224)
PRECISIONS = ('fp32', 'int8')
TURNS = 300  # predictions of each variant that are timed
METERED_S = 5.0  # of predictions, and of rest, that the meter is watched over
METER_EVERY_S = 0.1  # between two readings of the meter, at least


def prepare(
    pixels: int, precision: str, engine: str, calibration: Sequence[Image], architecture: str
) -> Network:
    """
    Return the pretrained backbone as it is served.

    :param calibration: RGB uint8 (H, W, 3), for int8
    :raises EngineError: when this precision can not be served here
    """
    spec = pretrained_spec(architecture, pixels)
    state = build(spec, 'pretrained').state()
    engines = Engines(EngineSettings(engine, precision))
    ranges = None
    if precision == 'int8':
        images = [resize_square(i, pixels) for i in calibration]
        ranges = calibrate(spec, state, images, engines)
    network = engines.network(spec, state, ranges, wait=True)
    if not network.name.endswith(precision):
        raise EngineError(engines.why_not() or f'{precision} can not be served here')
    return network


def time_all(
    networks: Sequence[tuple[Network, int]], pictures: Sequence[Image], turns: int
) -> list[tuple[float, float]]:
    """
    Return median and 99th percentile of a prediction, in ms, of networks that take turns.

    Resizing counts. A machine that slows down in between slows all of them.
    """
    times: list[list[float]] = [[] for _ in networks]
    for turn in range(turns + 3):
        picture = pictures[turn % len(pictures)]
        for (network, size), found in zip(networks, times):
            began = time.perf_counter()
            network.look([resize_square(picture, size)])
            if turn >= 3:
                found.append(1e3 * (time.perf_counter() - began))
    return [
        (float(np.median(found)), float(np.percentile(found, 99, method='higher')))
        for found in times
    ]


def joules(network: Network, size: int, pictures: Sequence[Image]) -> float | None:
    """Return the J of a prediction above rest by the board's own meter; None without one."""
    meter = find_meter()
    if meter is None:
        return None
    turns = itertools.cycle(pictures)
    rest, rested, _ = _metered(meter, lambda: time.sleep(METER_EVERY_S))
    busy, worked, count = _metered(meter, lambda: network.look([resize_square(next(turns), size)]))
    spent = busy - rest / rested * worked
    return spent / count if math.isfinite(spent) and spent > 0 else None


def _metered(meter: Meter, step: Callable[[], object]) -> tuple[float, float, int]:
    """
    Do a step again and again for a while, and read the meter meanwhile: a power is integrated over
    the times at which it is read.

    :return: J, NaN when they are not known; s; steps
    """
    first, began, count = meter.joules(), time.monotonic(), 0
    now = read = began
    gaps = meter.gaps
    while now - began < METERED_S:
        step()
        count += 1
        now = time.monotonic()
        if now - read >= METER_EVERY_S:
            meter.joules()
            read = now
    last = meter.joules()
    return (last - first if meter.gaps == gaps else math.nan), now - began, count


def accuracy(
    network: Network, size: int, labelled: Sequence[Picture], scored: Sequence[Picture]
) -> float:
    """Return the accuracy on `scored` of the instant head on `labelled`, features as served."""

    def rows(pictures: Sequence[Picture]) -> torch.Tensor:
        return torch.from_numpy(
            np.concatenate([network.look([p.image(size)])[0] for p in pictures])
        )

    features = rows(labelled)
    head = InstantHead(features.shape[1])
    head.rebuild(features, [p.label for p in labelled])
    best = head.logits(rows(scored)).argmax(dim=1).tolist()
    return float(np.mean([head.classes[i] == p.label for i, p in zip(best, scored)]))


def measure_table(
    stream: Path,
    pixels: Sequence[int] = PIXELS,
    precisions: Sequence[str] = PRECISIONS,
    engine: str = 'auto',
    pictures: int = 600,
    turns: int = TURNS,
    architecture: str = 'efficientnet_lite0',
) -> dict[str, Any]:
    """
    Measure variants on one thread.

    :param stream: recording with ground truth
    :param pictures: labelled ones that the head learns, and as many others that it is asked for
    :return: `variants` as `read_variants` takes them, what is left out and why, settings, machine
    """
    where = machine()  # before anything runs
    torch.set_num_threads(1)
    found = recording(stream)
    spread = np.random.default_rng(0).permutation(len(found))
    labelled = [found[i] for i in spread if found[i].labelled][:pictures]
    scored = [found[i] for i in spread if not found[i].labelled][:pictures]
    raw = [p.image(480) for p in labelled[:100]]
    networks: list[tuple[Network, int]] = []
    variants: list[Variant] = []
    left_out = []
    for size in pixels:
        for precision in precisions:
            try:
                network = prepare(size, precision, engine, raw, architecture)
            except EngineError as error:
                left_out.append(f'{size} px {precision}: {error}')
                continue
            right = accuracy(network, size, labelled, scored)
            variants.append(Variant(size, precision, 1.0, 1.0, right))
            networks.append((network, size))
    times = time_all(networks, raw, turns)
    energy = [joules(network, size, raw) for network, size in networks]
    rows = [
        {
            **asdict(replace(v, p50_ms=p50, p99_ms=p99, joules=j)),
            'served': network.name,
            'joules': 'unavailable' if j is None else j,
        }
        for v, (p50, p99), j, (network, _) in zip(variants, times, energy, networks)
    ]
    return {
        'variants': rows,
        'left_out': left_out,
        'setting': {
            'network': architecture,
            'engine': engine,
            'stream': stream.name,
            'labelled': len(labelled),
            'scored': len(scored),
            'turns': turns,
            'threads': 1,
        },
        'machine': where,
    }
