# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The live version at fewer pixels: aligned, never mixed with another version, never in the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
import threading

import numpy as np
import pytest
from versions import make_graphs, travelling

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.errors import ConfigError, EngineError
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.models.weights import (
    backbone_digest,
    BaseWeights,
    RANGES,
    read_base,
    sha256,
    State,
)
from etuner_ros.core.serve.calibrate import calibrate
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.graph_store import GraphStore
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.live_variants import (
    LEAST_FRAMES,
    LiveVariants,
    MOST_FRAMES,
    read_pixels,
    SLOW_S,
)
from etuner_ros.core.serve.slot import Alignment, SmallerSlot


@pytest.fixture(scope='module')
def base(deployed: Path) -> BaseWeights:
    return read_base(deployed)


@pytest.fixture(scope='module')
def duck(frames: list) -> np.ndarray:
    return next(f.image for f in frames if f.label == 'duck')


class Robot:
    """A live model, its variants, and a clock that stands until it is moved."""

    def __init__(self, base: BaseWeights, engines: Engines, pixels: tuple[int, ...] = (48, 32)):
        self.base, self.now = base, 0.0
        self.live = LiveModel(base, engines)
        self.variants = LiveVariants(pixels, engines, clock=lambda: self.now)

    def see(self, frames: list, seconds: float = 1.0) -> None:
        for frame in frames:
            self.variants.note(frame.image, self.base.spec.input_size)
            self.now += seconds

    def made_ready(self, frames: list) -> Robot:
        self.see(frames)
        assert self.variants.wants(self.live)
        self.variants.prepare(self.live)
        return self

    def smaller(self, pixels: int) -> SmallerSlot:
        found = [s for s in self.variants.ready.slots.values() if s and s.pixels == pixels]
        assert len(found) == 1
        return found[0]

    def swap(self, version: int, state: State, classes: tuple[str, ...] = ()) -> None:
        classes = classes or self.base.spec.classes
        self.live.swap(self.live.prepare(version, classes, *travelling(self.base, state)))


@pytest.fixture(params=['torch', 'onnxruntime'])
def robot(request: pytest.FixtureRequest, base: BaseWeights, ros_home: Path) -> Iterator[Robot]:
    graphs = GraphStore()
    if request.param == 'onnxruntime':
        make_graphs(base.spec.architecture, 64, 48, 32)
    engines = Engines(EngineSettings(engine=request.param), graphs=graphs)
    made = Robot(base, engines)
    assert made.live.engine == f'{request.param}-fp32'
    yield made
    made.variants.close()
    made.variants.end()
    engines.close()


def rolled_head(base: BaseWeights) -> State:
    """Return a head that calls everything by the name of the next class."""
    return {k: np.roll(v, 1, axis=0) for k, v in base.state.items() if k.startswith('head.')}


def other_backbone(base: BaseWeights, scale: float = 1.01) -> State:
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    return {name: base.state[name] * np.float32(scale)}


def right(robot: Robot, frames: list) -> float:
    known = [f for f in frames if f.label in robot.base.spec.classes]
    return float(np.mean([robot.live.predict(f.image, 1).labels[0] == f.label for f in known]))


def test_an_alignment_gives_each_value_the_mean_and_deviation_of_the_target():
    random = np.random.default_rng(1)
    values = random.normal(3.0, 2.0, (64, 5)).astype(np.float32)
    target = random.normal(-1.0, [0.5, 1, 2, 3, 4], (64, 5)).astype(np.float32)
    aligned = Alignment.of(values, target)(values)
    assert np.allclose(aligned.mean(axis=0), target.mean(axis=0), atol=1e-5)
    assert np.allclose(aligned.std(axis=0), target.std(axis=0), rtol=1e-4)


def test_an_alignment_stretches_nothing_that_stands_still():
    """A robot before a wall: a ratio of two kinds of noise is no gain."""
    random = np.random.default_rng(1)
    values, target = random.normal(0.0, 1.0, (2, 64, 10))
    values[:, 0], target[:, 0] = random.normal(5.0, 1e-9, 64), random.normal(7.0, 1e-4, 64)
    align = Alignment.of(values.astype(np.float32), target.astype(np.float32))
    assert align.gain[0] == pytest.approx(1.0)
    assert align.shift[0] == pytest.approx(2.0, abs=1e-3)
    same = np.ones((64, 10), np.float32)
    assert np.isfinite(Alignment.of(same, same).gain).all()


def test_fewer_pixels_serve_the_same_version_and_say_so(robot, frames, duck):
    robot.made_ready(frames[:40])
    own = robot.live.predict(duck, 3)
    assert own.pixels == 64
    robot.live.smaller = robot.smaller(48)
    small = robot.live.predict(duck, 3)
    assert (small.pixels, small.version, small.labels[0]) == (48, 0, 'duck')
    bare = backbone_digest(robot.base.sha256, {})
    assert (own.backbone, small.backbone) == (bare, sha256(f'{bare}@48'.encode()))
    expected, _ = robot.smaller(48).network.look([resize_square(duck, 48)])
    assert np.array_equal(small.features, expected[0]), 'as the digest says: not yet aligned'
    assert robot.live.feature(duck)[2] == bare, 'exemplars are looked at as the head was solved'
    robot.live.smaller = None
    again = robot.live.predict(duck, 3)
    assert (again.pixels, again.scores, again.backbone) == (64, own.scores, bare)


def test_an_aligned_variant_is_more_often_right_than_one_that_is_not(robot, frames):
    robot.made_ready(frames[:64])
    robot.live.smaller = slot = robot.smaller(32)
    aligned = right(robot, frames)
    none = Alignment(np.ones(1, np.float32), np.zeros(1, np.float32))
    robot.live.smaller = replace(slot, features=none)
    assert right(robot, frames) + 0.1 < aligned
    robot.live.smaller = None
    assert right(robot, frames) >= aligned


def test_the_appearance_at_fewer_pixels_lies_where_it_did(robot, frames):
    """Else each change of pixels would be taken for another scenario."""

    def seen() -> np.ndarray:
        return np.mean([robot.live.predict(f.image, 1).appearance for f in frames[:40]], axis=0)

    robot.made_ready(frames[:40])
    own = seen()
    robot.live.smaller = slot = robot.smaller(32)
    assert np.abs(seen() - own).max() < 1e-3
    robot.live.smaller = replace(slot, appearance=Alignment(np.ones(1), np.zeros(1)))
    assert np.abs(seen() - own).max() > 0.05


def test_what_is_measured_is_a_row_of_the_table_for_each_size(robot, frames):
    times = iter(np.arange(1e6) * 0.004)  # each look takes 4 ms by this watch
    robot.variants._stopwatch = lambda: next(times)
    rows = robot.made_ready(frames[:40]).variants.ready.rows
    assert [r.name for r in rows] == ['64 px fp32', '48 px fp32', '32 px fp32']
    assert rows[0].accuracy == 1.0
    assert all(r.p50_ms == pytest.approx(4.0) and r.p99_ms == pytest.approx(4.0) for r in rows)

    def says(pixels: int) -> list:
        robot.live.smaller = robot.smaller(pixels) if pixels < 64 else None
        return [robot.live.predict(f.image, 1).labels for f in frames[:40]]

    own = says(64)
    middle, small = (sum(a == b for a, b in zip(says(p), own)) for p in (48, 32))
    assert middle > small > 20
    assert rows[1].accuracy == pytest.approx((middle + 1) / 42), 'as often as both say the same'
    assert rows[2].accuracy == pytest.approx((small + 1) / 42)


def test_fewer_pixels_never_count_as_better_than_more(robot, frames):
    """On frames that are all alike every size says the same: the largest one is preferred."""
    robot.see(frames[:1] * 40)
    robot.variants.prepare(robot.live)
    counts = [r.accuracy * 42 - 1 for r in robot.variants.ready.rows[1:]]
    assert counts == pytest.approx([40.0, 39.5])


def test_too_few_frames_leave_the_own_size_serving_and_the_reason_is_said(robot, frames):
    robot.see(frames[: LEAST_FRAMES - 1])
    robot.now -= 0.5
    robot.see(frames[LEAST_FRAMES:], 0.0)
    assert not robot.variants.wants(robot.live), 'frames of one moment count as one'
    assert robot.variants.why_not(robot.live) == '31 of the 32 frames that it takes were seen'
    robot.now += 1.0
    robot.see(frames[:1])
    assert robot.variants.wants(robot.live)


def test_a_new_head_serves_at_fewer_pixels_at_once(robot, frames, duck):
    robot.made_ready(frames[:40])
    robot.live.smaller = robot.smaller(48)
    before = robot.live.predict(duck, 1)
    robot.swap(1, rolled_head(robot.base))
    after = robot.live.predict(duck, 1)
    names = robot.base.spec.classes
    assert (after.version, after.pixels, after.backbone) == (1, 48, before.backbone)
    assert after.labels == [names[(names.index('duck') + 1) % len(names)]]
    assert not robot.variants.wants(robot.live), 'nothing has to be made anew'


def test_another_backbone_serves_at_its_own_size_until_fewer_pixels_of_it_are_ready(
    robot, frames, duck
):
    robot.made_ready(frames[:40])
    old = robot.live.smaller = robot.smaller(48)
    robot.swap(1, other_backbone(robot.base))
    result = robot.live.predict(duck, 1)
    assert (result.version, result.pixels) == (1, 64)
    assert robot.variants.why_not(robot.live) == (
        'other sizes are made ready for the live version'
    )
    assert robot.variants.wants(robot.live)
    robot.variants.prepare(robot.live)
    robot.live.smaller = robot.smaller(48)
    result = robot.live.predict(duck, 1)
    digest = backbone_digest(robot.base.sha256, other_backbone(robot.base))
    assert (result.version, result.pixels) == (1, 48)
    assert result.backbone == sha256(f'{digest}@48'.encode())
    robot.swap(2, {})  # torch's network of before is written over with what it held before
    robot.live.smaller = old
    assert robot.live.predict(duck, 1).pixels == 64, 'even so: who can tell what it held meanwhile'


def test_no_prediction_mixes_versions_while_backbones_and_sizes_change(robot, frames, duck):
    """Each answer is that of one version at one size, to the last bit."""
    robot.made_ready(frames[:LEAST_FRAMES])
    states = {0: {}, 1: other_backbone(robot.base, 1.5)}
    expected = {}
    for version, state in states.items():
        robot.swap(version, state)
        robot.variants.prepare(robot.live)
        for pixels in (64, 48, 32):
            slot = robot.live.slot if pixels == 64 else robot.smaller(pixels)
            expected[version, pixels] = slot.network.look([resize_square(duck, pixels)])[0][0]
    over, answered, problems = threading.Event(), threading.Event(), []

    def change() -> None:
        try:
            for turn in range(2):
                robot.swap(turn % 2, states[turn % 2])
                robot.variants.prepare(robot.live)
                for pixels in (48, 32):
                    robot.live.smaller = robot.smaller(pixels)
                    for _ in range(2):  # the first may have begun before
                        answered.clear()
                        answered.wait(30.0)
        except Exception as error:
            problems.append(error)
        over.set()

    thread = threading.Thread(target=change)
    thread.start()
    served = set()
    while not over.wait(0.02):  # as a camera does: a lock that is never free starves the others
        result = robot.live.predict(duck, 1)
        answered.set()
        served.add((result.version, result.pixels))
        wanted = expected[result.version, result.pixels]
        assert np.array_equal(result.features, wanted), (result.version, result.pixels)
    thread.join()
    assert not problems
    assert {v for v, _ in served} == {0, 1}
    assert any(pixels < 64 for _, pixels in served)


def test_frames_are_seldom_kept_once_there_are_enough_and_all_is_made_anew_in_time(robot, frames):
    robot.made_ready(frames[:32])
    first = robot.variants.ready
    robot.see(frames[32:63])
    assert not robot.variants.wants(robot.live)
    robot.see(frames[63:64])
    assert robot.variants.wants(robot.live), 'as many new ones'
    robot.variants.prepare(robot.live)
    assert robot.variants.ready is not first
    assert len(robot.variants._frames) == MOST_FRAMES
    robot.see(frames[:63])
    assert not robot.variants.wants(robot.live)
    robot.see(frames[:64], SLOW_S)
    assert robot.variants.wants(robot.live)


def test_a_quantised_version_is_quantised_at_every_size(base, frames, ros_home):
    make_graphs(base.spec.architecture, 64, 48)
    engines = Engines()
    ranges = calibrate(
        base.spec, base.state, [resize_square(f.image, 64) for f in frames], engines
    )
    robot = Robot(base, engines, (48,))
    robot.swap(1, {f'{RANGES}{ranges[0]}': ranges[1]})
    assert robot.live.engine == 'onnxruntime-int8'
    robot.made_ready(frames[:40])
    assert [r.name for r in robot.variants.ready.rows] == ['64 px int8', '48 px int8']
    robot.live.smaller = robot.smaller(48)
    assert right(robot, frames) > 0.8


def test_a_size_that_fails_while_it_serves_costs_no_frame(robot, frames, duck):
    robot.made_ready(frames[:40])

    class Broken:
        name, quantised = 'broken-fp32', False

        def look(self, images: object) -> object:
            raise EngineError('the engine is gone')

    slot = replace(robot.smaller(48), network=Broken())
    robot.live.smaller = slot
    engine = robot.live.engine
    result = robot.live.predict(duck, 1)
    assert (result.pixels, result.labels) == (64, ['duck'])
    assert robot.live.smaller is None
    assert robot.live.smaller_failed == (slot, 'the engine is gone')
    assert robot.live.engine == engine, 'the own size serves as before'
    robot.variants.give_up(robot.smaller(48), 'the engine is gone')
    assert [r.pixels for r in robot.variants.ready.rows] == [64, 32]
    assert robot.variants.unfit() == '48 px: the engine is gone'
    robot.variants._tried = (0, 0, 0)
    robot.variants.prepare(robot.live)
    assert [r.pixels for r in robot.variants.ready.rows] == [64, 32], 'it is not tried again'


def test_a_size_is_not_blamed_for_what_fails_at_parts_of_an_image(robot, frames, duck):
    """Parts are looked at at the version's own pixels."""
    robot.made_ready(frames[:40])
    robot.live.smaller = slot = robot.smaller(48)

    class Broken:
        name, quantised = 'broken-fp32', False

        def look(self, images: object) -> object:
            raise EngineError('no memory')

    robot.live.swap(replace(robot.live.slot, network=Broken()))
    robot.live.look_at(duck, as_boxes([(0, 0, 30, 30)]))
    assert robot.live.smaller is slot
    assert robot.live.smaller_failed is None


def test_a_network_that_can_not_be_exported_at_a_size_is_left_out_with_the_reason(
    robot, frames, monkeypatch
):
    if robot.live.engine.startswith('torch'):
        pytest.skip('torch exports nothing')
    find = robot.variants._graphs.find

    def broken(architecture: str, pixels: int, kind: str) -> object:
        if pixels == 48:
            raise EngineError('no room on the disk')
        return find(architecture, pixels, kind)

    monkeypatch.setattr(robot.variants._graphs, 'find', broken)
    robot.made_ready(frames[:40])
    assert [r.pixels for r in robot.variants.ready.rows] == [64, 32]
    assert robot.variants.unfit() == '48 px: no room on the disk'


def test_a_network_that_takes_one_size_only_is_served_at_that(base, frames, monkeypatch):
    robot = Robot(base, Engines(EngineSettings(engine='torch')))
    look = robot.live.slot.network.look

    def strict(images: list) -> object:
        if images[0].shape[0] != 64:
            raise AssertionError('Wrong image height!')
        return look(images)

    monkeypatch.setattr(robot.live.slot.network, 'look', strict)
    robot.made_ready(frames[:40])
    assert [r.pixels for r in robot.variants.ready.rows] == [64]
    assert '48 px: the network does not take it: Wrong image' in robot.variants.why_not(robot.live)


def test_preparing_ends_when_it_is_closed(robot, frames):
    robot.see(frames[:40])
    robot.variants.close()
    robot.variants.prepare(robot.live)
    assert robot.variants.ready is None


def test_sizes_that_are_not_smaller_are_left_out(base, frames):
    robot = Robot(base, Engines(EngineSettings(engine='torch')), (96, 64))
    robot.see(frames[:40])
    assert not robot.variants.wants(robot.live)
    assert robot.variants.why_not(robot.live) == (
        'no size of variants.pixels is smaller than the 64 px of the live version'
    )


def test_sizes_are_read_and_bad_ones_refused_in_one_sentence():
    assert read_pixels('') == ()
    assert read_pixels(' 96, 128,96,') == (128, 96)
    for text in ('128;96', '16', '4096', '-96', 'large', '9.5'):
        with pytest.raises(ConfigError, match='variants.pixels must be sizes from 32 to 1024 px'):
            read_pixels(text)
