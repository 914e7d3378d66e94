# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
How much smaller the weights of rounds become, and what 16 bit would do to answers.

Rounds run as launched on the recorded stream: the network is deployed in its first scenario and
tuned in the second one.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
import json
import lzma
from pathlib import Path
import time
import zlib

import numpy as np

from etuner_ros.bench.head_commit import head_commit
from etuner_ros.bench.shipped import shipped
from etuner_ros.core.errors import ConfigError
from etuner_ros.core.identity import DEPLOYED, Scenario
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.images.sources import open_source, SourceFrame
from etuner_ros.core.learn.candidates import RoundCandidate
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.live_state import predictions
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.deflate import deflated, inflated
from etuner_ros.core.models.deploy import fit_head
from etuner_ros.core.models.networks import build, Classifier, from_base, pretrained_spec
from etuner_ros.core.models.weights import backbone_of, network_of, pack, State

INPUT_SIZE = 160
NEW_SAMPLES = 64  # of a round


@dataclass(frozen=True)
class Method:
    """One way to make a backbone smaller, on average over rounds."""

    name: str
    ratio: float  # of the bytes as safetensors
    pack_ms: float
    unpack_ms: float


@dataclass(frozen=True)
class Deflating:
    """What was found."""

    rounds: int
    backbone_bytes: int
    methods: list[Method]
    frames: int  # of the whole stream
    accuracy_32_bit: float  # with the backbone of the last round
    accuracy_16_bit: float  # the same, its tensors rounded to float16
    answers_changed: int
    commit: str


def measure(output: Path, stream: Path, rounds: int) -> Deflating:
    """
    Run rounds and pack what they make; write `deflate.json`.

    :param stream: recording with ground truth, of two places at least
    :raises ConfigError: when it has fewer, or no round came to a backbone
    """
    import torch

    commit = head_commit()  # of the code that is imported, whatever is edited meanwhile
    torch.set_num_threads(1)
    torch.manual_seed(0)
    frames = [f for f in open_source(str(stream)) if f.label]
    places = dict.fromkeys(f.scenario for f in frames)
    if len(places) < 2:
        raise ConfigError(
            f"'{stream}' has labelled pictures of {len(places)} places, two are needed: the model "
            f'is deployed in the first and tuned in the second'
        )
    model, made = _tuned(frames, rounds)
    if not made:
        raise ConfigError(f"no round on '{stream}' came to anything that could be packed")
    base, last = {k: np.array(v) for k, v in model.state().items()}, made[-1]
    backbones = [backbone_of(c.update) for c in made]
    samples = _samples(frames, '')
    exact = predictions(_with(model, base, last, last.update), samples)
    half = {
        k: v.astype(np.float16).astype(np.float32) if v.dtype == np.float32 else v
        for k, v in backbones[-1].items()
    }
    rounded = predictions(_with(model, base, last, {**last.update, **half}), samples)
    labels = [f.label for f in frames]
    found = Deflating(
        len(made),
        len(pack(backbones[-1])),
        list(_methods(backbones, base)),
        len(frames),
        _share(exact, labels),
        _share(rounded, labels),
        sum(a != b for a, b in zip(exact, rounded)),
        commit,
    )
    output.mkdir(parents=True, exist_ok=True)
    (output / 'deflate.json').write_text(json.dumps(asdict(found), indent=1) + '\n')
    return found


def _samples(
    frames: list[SourceFrame], prefix: str, scenario: Scenario = DEPLOYED
) -> list[Sample]:
    return [
        Sample.of(f'{prefix}{i}', f.label, scenario, resize_square(f.image, INPUT_SIZE))
        for i, f in enumerate(frames)
    ]


def _tuned(frames: list[SourceFrame], rounds: int) -> tuple[Classifier, list[RoundCandidate]]:
    """Return the network as deployed, and what rounds made of it one after the other."""
    places = list(dict.fromkeys(f.scenario for f in frames))
    known = [f for f in frames if f.scenario == places[0]][::2]
    model = build(pretrained_spec('efficientnet_lite0', INPUT_SIZE), 'pretrained')
    images = [resize_square(f.image, INPUT_SIZE) for f in known]
    fit_head(model, images, [f.label for f in known])
    recipe, made = shipped().recipe, []
    deployed = from_base({k: np.array(v) for k, v in model.state().items()}, model.spec)
    learner = Learner(deployed, recipe.train, recipe.sim_freeze, recipe.head)
    learner.add_exemplars(_samples(known[::4], 'deployed/'))
    others = [f for f in frames if f.scenario == places[1]]
    for number in range(rounds):
        part = others[number::rounds][:NEW_SAMPLES]
        learner.add_samples(_samples(part, f'{number}/', Scenario('eye', 1)))
        *_, result = learner.run_round()
        if isinstance(result, RoundCandidate):
            learner.set_live(result.update, result.classes, number + 1)
            made.append(result)
    return model, made


def _with(model: Classifier, base: State, made: RoundCandidate, update: State) -> Classifier:
    """Return the network with an update."""
    spec = replace(model.spec, classes=made.classes)
    return from_base({**base, **network_of(update)}, spec)


def _share(said: list[str], labels: list[str]) -> float:
    return round(sum(a == b for a, b in zip(said, labels)) / len(labels), 4)


def _methods(backbones: list[State], base: State) -> Iterator[Method]:
    wholes = [pack(b) for b in backbones]
    plain: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
        'zlib 6': (partial(zlib.compress, level=6), zlib.decompress),
        'bz2': (bz2.compress, bz2.decompress),
        'lzma 1': (partial(lzma.compress, preset=1), lzma.decompress),
    }
    for name, (make, back) in plain.items():
        yield _method(f'{name} of the bytes', wholes, make, back)
        yield _method(
            f'{name} of the bytes, planes apart',
            [b'\0' * (-len(w) % 4) + w for w in wholes],
            lambda w, make=make: make(_planes(w)),  # type: ignore[misc]
            lambda d, back=back: _together(back(d)),  # type: ignore[misc]
        )
    yield _method(
        'steps from the base, planes apart, zlib 6 (shipped)',
        wholes,
        lambda w: deflated(w, base),
        lambda d: bytes(inflated(bytearray(d), base)),
    )


def _planes(data: bytes) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(-1, 4).T.tobytes()


def _together(data: bytes) -> bytes:
    return np.frombuffer(data, np.uint8).reshape(4, -1).T.tobytes()


def _method(
    name: str,
    wholes: list[bytes],
    make: Callable[[bytes], bytes],
    back: Callable[[bytes], bytes],
) -> Method:
    ratios, there, again = [], [], []
    for whole in wholes:
        began = time.perf_counter()
        small = make(whole)
        made = time.perf_counter()
        assert back(small) == whole
        again.append(time.perf_counter() - made)
        there.append(made - began)
        ratios.append(len(small) / len(whole))
    pack_ms, unpack_ms = (1e3 * float(np.median(t)) for t in (there, again))
    return Method(name, round(float(np.mean(ratios)), 3), round(pack_ms), round(unpack_ms))


def table(found: Deflating) -> str:
    """Return the figures as a Markdown table."""
    change = 100 * (found.accuracy_16_bit - found.accuracy_32_bit)
    lines = [
        f'backbones of {found.rounds} rounds, {found.backbone_bytes / 1e6:.1f} MB each',
        '',
        '| lossless | size | ms to pack | ms to unpack |',
        '|---|---|---|---|',
        *(
            f'| {m.name} | {100 * m.ratio:.1f} % | {m.pack_ms:.0f} | {m.unpack_ms:.0f} |'
            for m in found.methods
        ),
        '',
        f'rounded to 16 bit: 50 %, {found.answers_changed} of {found.frames} answers change, '
        f'accuracy {change:+.2f} points',
    ]
    return '\n'.join(lines)
