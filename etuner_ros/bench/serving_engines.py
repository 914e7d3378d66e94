# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Engines side by side as they serve: milliseconds, accuracy, and swaps under the camera."""

from __future__ import annotations

from dataclasses import asdict
import sys
from typing import Any

from etuner_ros.bench.datasets import recording
from etuner_ros.bench.engines import accuracy, networks_of, time_in_turns
from etuner_ros.bench.serving_stage import RATE_HZ, Stage
from etuner_ros.bench.soak.swaps import swap_weights
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.models.weights import (
    read_base,
)

SWAP_EVERY = 5  # pictures between two swaps


def swaps_by_engine(stage: Stage, swaps: int) -> dict[str, dict[str, Any]]:
    """
    Swap backbones under the camera with each engine; by torch, the next best, a fifth as often.

    :return: by engine `swap_gap_ratio`, `frames_dropped_by_swaps`, `mixed_versions`, and gaps
    """
    found = {}
    for name in ('torch-fp32', 'onnxruntime-fp32', 'onnxruntime-int8'):
        engine, _, precision = name.partition('-')
        home = stage.folder / f'swaps-{name}'
        settings = {'engine': engine, 'precision': precision}
        coded = stage.ranges if precision == 'int8' else None
        count = swaps if engine == 'onnxruntime' else -(-swaps // 5)
        result = swap_weights(
            stage.base, stage.pictures[0], home, count, SWAP_EVERY, RATE_HZ, settings, coded
        )
        found[name] = asdict(result)
        print(
            f'{count} swaps, {name}: {result.frames_dropped_by_swaps} frames dropped, gap ratio '
            f'{result.swap_gap_ratio:.2f}',
            file=sys.stderr,
            flush=True,
        )
    return found


def engines_side_by_side(stage: Stage, swaps: int, turns: int) -> dict[str, dict[str, Any]]:
    """Return milliseconds, accuracy and swaps of each engine at the size that is served."""
    base = read_base(stage.base)
    pictures = [resize_square(p, base.spec.input_size) for p in stage.pictures]
    networks = networks_of(base.spec, base.state, pictures)
    times = time_in_turns(networks, dict.fromkeys(networks, pictures), turns)
    sets = {'recording': recording(stage.source)}
    measured_int8 = accuracy(sets, base.spec.architecture, base.spec.input_size, print_err)
    delta = measured_int8['recording']['int8_minus_fp32']
    swapped = swaps_by_engine(stage, swaps) if swaps else {}
    return {
        name: {
            'pixels': base.spec.input_size,
            **row,
            'accuracy_delta': delta if name.endswith('int8') else 0.0,
            **{
                key: swapped[name][key]
                for key in (
                    'swap_gap_ratio',
                    'frames_dropped_by_swaps',
                    'swaps',
                    'mixed_versions',
                    'gap_p999_with_ms',
                    'gap_p999_without_ms',
                )
                if name in swapped
            },
        }
        for name, row in times.items()
    }


def engine_table(engines: dict[str, dict[str, Any]]) -> str:
    """Return the engines as a Markdown table, with their swaps where these were run."""
    swapped = all('swaps' in row for row in engines.values())
    head = ['engine', 'px', 'p50, ms', 'over turns', 'p99, ms', 'accuracy, points']
    head += ['swaps', 'dropped', 'gap ratio'] if swapped else []
    lines = [f'| {" | ".join(head)} |', '|---' * len(head) + '|']
    for name, row in engines.items():
        low, high = row['p50_range_ms']
        cells = [name, f'{row["pixels"]}', f'{row["p50_ms"]:.2f}', f'{low:.2f} to {high:.2f}']
        cells += [f'{row["p99_ms"]:.2f}', f'{row["accuracy_delta"]:+.2f}']
        if swapped:
            cells += [f'{row["swaps"]}', f'{row["frames_dropped_by_swaps"]}']
            cells += [f'{row["swap_gap_ratio"]:.2f}']
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def print_err(text: str) -> None:
    """Tell of progress."""
    print(text, file=sys.stderr, flush=True)
