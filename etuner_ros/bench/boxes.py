# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Things in boxes: what labels of boxes teach, beside labels of whole images, the proposer's own
names and heads that are trained by gradient; `etuner bench boxes`.

Labelled are frames of the first visit to each place, scored are all frames of the second one, when
things lie elsewhere and some kinds are new. Features are frozen: those of the deployed network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
import json
import math
from pathlib import Path
import statistics
import time
from typing import Any

import cv2
import numpy as np
import torch

from etuner_ros.bench import provenance
from etuner_ros.bench.boxes_data import Deployed, Propose, read_frames, Say, shots
from etuner_ros.bench.boxes_methods import (
    ByGradient,
    Lesson,
    Method,
    Ours,
    ProposersOwn,
    Shot,
    WholeImages,
    WithProposals,
)
from etuner_ros.bench.boxes_region_head import RegionSettings
from etuner_ros.bench.boxes_score import RIGHT, Score, score
from etuner_ros.bench.boxes_tracks import purity, Tracks
from etuner_ros.bench.table import interval
from etuner_ros.core.boxes.crops import cut
from etuner_ros.core.boxes.geometry import overlaps
from etuner_ros.core.boxes.readout import read
from etuner_ros.core.boxes.recording import BoxFrame
from etuner_ros.core.cost import CostMeter
from etuner_ros.core.images.codec import Image
from etuner_ros.core.learn.within_class import WithinClass

LABELLED = (30, 60, 120, 240)  # frames
MAIN = 60  # with which all methods are compared; the others for a few
MAINLY = ('ours', 'ours, tapped')
TURNS = 40  # of the clock
REGIONS = 10
FULL_FRAME = (640, 480)
GREEN, RED, AMBER = (64, 200, 120), (220, 60, 60), (240, 170, 60)

Make = Callable[[], Method]


def lessons(shots_: Sequence[Shot], count: int, seed: int, all_things: bool) -> list[Lesson]:
    """
    Return frames of first visits with labels, by chance.

    :param all_things: whether somebody names all things in view, or one of them by chance
    """
    rng = np.random.default_rng(seed)
    pool = [s for s in shots_ if s.visit == 0 and s.names]
    chosen = [pool[i] for i in rng.permutation(len(pool))[:count]]
    return [
        Lesson(s, tuple(range(len(s.names))) if all_things else (int(rng.integers(len(s.names))),))
        for s in chosen
    ]


def methods(
    tracks: Tracks, own_names: Mapping[str, str], within: WithinClass | None = None
) -> dict[str, tuple[Make, bool]]:
    """
    Return how each method is made, by name, and whether all things of a frame are named.

    :param tracks: of the stream
    :param within: what ships with the package for the network that made the features
    """

    def ours(tapped: bool, followed: Tracks | None = None) -> Make:
        return lambda: Ours(tapped, within, followed)

    def proposals(background: bool = True, regressor: bool = True) -> Make:
        return lambda: WithProposals(RegionSettings(), background, regressor, within=within)

    found: dict[str, tuple[Make, bool]] = {
        'ours': (ours(tapped=False), True),
        'ours, tapped': (ours(tapped=True), True),
        'ours, tapped, no within-class map': (lambda: Ours(True), True),
        'ours, tapped, frame by frame': (lambda: Ours(True, within, steady=False), True),
        '... and its track': (ours(tapped=True, followed=tracks), True),
        '... and background': (proposals(regressor=False), True),
        '... and box regressor': (proposals(background=False), True),
        '... and both': (proposals(), True),
        'softmax and box head by gradient': (ByGradient, True),
        'the same with a hidden layer': (lambda: ByGradient(256), True),
        'whole-image labels, crops named': (lambda: WholeImages(True, within), True),
        'whole-image labels, image named': (lambda: WholeImages(False, within), True),
        'ours, one box a frame': (ours(tapped=False), False),
        'ours, one tap a frame': (ours(tapped=True), False),
        'ours, one tap a frame, no within-class map': (lambda: Ours(True), False),
        '... and its track, one tap a frame': (ours(tapped=True, followed=tracks), False),
        '... and both, one box a frame': (proposals(), False),
    }
    if own_names:
        found["the proposer's own names"] = (lambda: ProposersOwn(own_names), True)
    return found


def run(make: Make, shots_: Sequence[Shot], teaching: Sequence[Lesson], seed: int) -> Any:
    """
    Return the score of one run, and what teaching cost.

    Kinds that were in view on first visits, but that nobody named, are as unknown as new ones.
    """
    kinds = sorted({lesson.shot.names[i] for lesson in teaching for i in lesson.taught})
    scored = [s for s in shots_ if s.visit > 0]
    method = make()
    with CostMeter() as meter:
        began = time.process_time()
        method.teach(teaching, seed)
        seconds = time.process_time() - began
        flops = meter.total_flops
    answers = [method.answer(s) for s in scored]
    return score(answers, [s.truth() for s in scored], kinds), flops, 1e3 * seconds


def row(
    name: str, frames: int, proposer: str, runs: Sequence[tuple[Score, float, float]], commit: str
) -> dict[str, Any]:
    """Return a row of the results: means over seeds, and half-widths of 95 % intervals."""
    columns = {
        key: [100 * getattr(found, key) for found, _, _ in runs]
        for key in (f.name for f in fields(Score))
    }
    # Where there is nothing unknown, there are no false names to count.
    told = {key: v for key, v in columns.items() if not any(map(math.isnan, v))}
    return {
        'method': name,
        'proposer': proposer,
        'labelled_frames': frames,
        'seeds': len(runs),
        **{key: statistics.fmean(told[key]) if key in told else None for key in columns},
        'ci95': {key: interval(values) for key, values in told.items()},
        'flops': statistics.fmean(flops for _, flops, _ in runs),
        'ms': statistics.median(ms for _, _, ms in runs),
        'commit': commit,
    }


def compare(
    name: str,
    make: Make,
    stream: Sequence[Shot],
    taught: Sequence[Sequence[Lesson]],
    proposer: str,
    commit: str,
) -> dict[str, Any]:
    """
    Return a row of the results: of runs of a method with the lessons of each seed.

    It tells as many labelled frames as there were, where more were asked for.
    """
    runs = [run(make, stream, some, seed) for seed, some in enumerate(taught)]
    return row(name, len(taught[0]), proposer, runs, commit)


def clock(deployed: Deployed, classes: int = 20) -> dict[str, float]:
    """Return milliseconds of the processor for ten regions of 640 x 480, median of many turns."""
    rng = np.random.default_rng(0)
    width, height = FULL_FRAME
    image = np.asarray(
        cv2.resize(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8), FULL_FRAME),
        np.uint8,
    )
    boxes = np.concatenate(
        [rng.uniform(0, 400, (REGIONS, 2)), rng.uniform(50, 250, (REGIONS, 2))], axis=1
    ).astype(np.float32)
    dimension = deployed.network.look(cut(image, boxes[:1], deployed.size))[0].shape[1]
    weight = rng.normal(size=(classes, dimension)).astype(np.float32)
    names = [str(i) for i in range(classes)]
    times = []
    for _ in range(TURNS):
        marks = [time.process_time()]
        crops = cut(image, boxes, deployed.size)
        marks.append(time.process_time())
        features = deployed.network.look(crops)[0]
        marks.append(time.process_time())
        read(names, features @ weight.T, boxes, FULL_FRAME)
        marks.append(time.process_time())
        times.append([*np.diff(marks), marks[-1] - marks[0]])
    middle = 1e3 * np.median(times, axis=0)
    return dict(zip(('crops', 'network', 'head', 'all'), (float(v) for v in middle)))


def measure(
    recording: Path,
    proposers: Mapping[str, Propose],
    output: Path,
    folder: Path,
    seeds: int = 5,
    labelled: Sequence[int] = LABELLED,
    every: int = 1,
    own_names: Mapping[str, str] | None = None,
    say: Say = lambda _line: None,
) -> dict[str, Any]:
    """
    Measure all methods and write `boxes.json` and `boxes.jpg`.

    :param proposers: by name, the best first; the truth is the last one
    :param folder: where features are kept
    :param every: take one frame of so many
    :param own_names: of the first proposer's classes: the kind of the stream that is meant
    """
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    deployed, frames, commit = Deployed.pretrained(), read_frames(recording, every), made_by()
    output.mkdir(parents=True, exist_ok=True)
    sources: dict[str, Propose | None] = {**proposers, 'the truth': None}
    followed = {
        name: Tracks(shots(frames, propose, deployed, folder, say=say))
        for name, propose in sources.items()
    }
    seen = {name: tracks.steadied for name, tracks in followed.items()}
    first = next(iter(seen))
    picture(frames, seen[first], output / 'boxes.jpg', deployed.within)
    scored = [s for s in seen[first] if s.visit > 0]
    answer: dict[str, Any] = {
        'rows': [],
        'tracks': asdict(purity(seen[first], followed[first])),
        'ms_ten_regions': clock(deployed),
        'setting': {
            'recording': recording.name,
            'frames': len(frames),
            'every': every,
            'scored': len(scored),
            'things': statistics.fmean(len(s.names) for s in scored),
            'proposals': statistics.fmean(len(s.proposals) for s in scored),
            'pixels': deployed.size,
            'engine': deployed.network.name,
            'threads': 1,
        },
        'machine': {**provenance.machine(), 'commit': commit},
    }
    # The numbers of frames that most is asked about come first; each row is kept once it is there.
    for count in sorted(labelled, key=lambda n: (n != MAIN, n)):
        for proposer, stream in seen.items():
            names = (own_names or {}) if proposer == first else {}
            ways = methods(followed[proposer], names, deployed.within)
            for name, (make, all_things) in ways.items():
                if (proposer != first or count != MAIN) and name not in MAINLY:
                    continue
                taught = [lessons(stream, count, seed, all_things) for seed in range(seeds)]
                answer['rows'].append(compare(name, make, stream, taught, proposer, commit))
                say(line(answer['rows'][-1]))
                (output / 'boxes.json').write_text(json.dumps(answer, indent=1) + '\n')
    return answer


def made_by() -> str:
    """Return the commit of the code that these figures depend on, with + where it is changed."""
    paths = provenance.sources(provenance.ROOT, 'etuner_ros.bench.boxes')
    commit = provenance.git('log', '-1', '--format=%h', '--', *paths)
    return (commit or 'none') + ('+' if provenance.uncommitted(paths) else '')


def line(found: Mapping[str, Any]) -> str:
    """Return a row of the table in Markdown."""

    def cell(key: str) -> str:
        value, width = found[key], found['ci95'].get(key)
        if value is None:
            return ''
        return f'{value:.1f}' + ('' if width is None else f' ± {width:.1f}')

    return (
        f'| {found["method"]} | {found["proposer"]} | {found["labelled_frames"]} '
        f'| {cell("class_right")} | {cell("class_and_box")} | {cell("ap50")} '
        f'| {cell("false_name")} | {cell("false_of_right")} '
        f'| {cell("named")} | {cell("named_right")} | {cell("false_named")} '
        f'| {found["flops"] / 1e9:.1f} | {found["ms"]:.0f} |'
    )


def table(answer: Mapping[str, Any]) -> str:
    """Return the comparison in Markdown."""
    times = answer['ms_ten_regions']
    return '\n'.join(
        [
            '| method | proposals by | labelled frames | class right, % | class and box, % | '
            'AP50 | false name, % | ... at 90 % of right ones | named, % | ... rightly | '
            'of unknown ones, % | GFLOP | ms |',
            '|---|---|---|---|---|---|---|---|---|---|---|---|---|',
            *(line(found) for found in answer['rows']),
            '',
            f'Ten regions of 640 x 480: {times["all"]:.1f} ms (crops {times["crops"]:.1f}, '
            f'network {times["network"]:.1f}, head {times["head"]:.1f}) of one thread.',
        ]
    )


def picture(
    frames: Sequence[BoxFrame],
    shots_: Sequence[Shot],
    file: Path,
    within: WithinClass | None = None,
) -> None:
    """Save scored frames after 60 labelled ones, as the robot names things that were tapped."""
    method = Ours(True, within)
    method.teach(lessons(shots_, 60, 0, True), 0)
    scored = [s for s in shots_ if s.visit > 0]
    chosen = scored[:: max(len(scored) // 8, 1)][:8]
    drawn = [_drawn(frames[s.number].image, s, method) for s in chosen]
    sheet = np.vstack([np.hstack(drawn[i : i + 4]) for i in range(0, len(drawn) // 4 * 4, 4)])
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), sheet[..., ::-1])


def _drawn(image: Image, shot: Shot, method: Method) -> Image:
    """Draw objects: green with a right name, red with a wrong one, amber for unknown."""
    scale = 2
    drawn = np.asarray(cv2.resize(image, None, fx=scale, fy=scale), np.uint8)
    said = method.answer(shot)
    truths = shot.truth()
    nobody = np.zeros(len(said.names), bool) if said.unknown is None else said.unknown
    for box, name, unknown in zip(said.boxes, said.names, nobody):
        overlap = overlaps(box[None], truths.boxes)[0]
        best = int(overlap.argmax()) if len(overlap) else -1
        true = truths.names[best] if best >= 0 and overlap[best] >= RIGHT else ''
        colour = AMBER if unknown else GREEN if name == true else RED
        x, y, w, h = (int(round(scale * float(v))) for v in box)
        cv2.rectangle(drawn, (x, y), (x + w, y + h), colour, 2)
        text = 'unknown' if unknown else name
        cv2.putText(drawn, text, (x + 3, y + 14), cv2.FONT_HERSHEY_DUPLEX, 0.45, colour, 1)
    return drawn
