# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The model that serves, and how announced versions take its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
import threading

import numpy as np
import pytest
from versions import travelling

from etuner_ros.core.boxes.geometry import as_boxes
from etuner_ros.core.errors import WeightsError
from etuner_ros.core.models.deflate import deflated
from etuner_ros.core.models.learned import learned_version
from etuner_ros.core.models.likeness import shipped
from etuner_ros.core.models.store import ModelStore
from etuner_ros.core.models.weights import (
    backbone_digest,
    BaseWeights,
    pack,
    pack_base,
    read_base,
    sha256,
    State,
)
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.slot import Alignment, SmallerSlot
from etuner_ros.core.serve.swapper import Announced, AnnouncedBackbone, Attempt, ModelSwapper


@pytest.fixture(scope='module')
def base(deployed: Path) -> BaseWeights:
    return read_base(deployed)


@pytest.fixture(scope='module')
def duck(frames: list) -> np.ndarray:
    return next(f.image for f in frames if f.label == 'duck')


def rolled_head(base: BaseWeights) -> State:
    """Return a head that calls everything by the name of the next class."""
    return {k: np.roll(v, 1, axis=0) for k, v in base.state.items() if k.startswith('head.')}


def other_backbone(base: BaseWeights) -> State:
    """Return a head and one tensor of the backbone that are not those of the base weights."""
    name = next(k for k, v in base.state.items() if v.ndim == 4)
    return {**rolled_head(base), name: base.state[name] * np.float32(1.01)}


def test_the_live_model_predicts_what_it_was_deployed_for_and_swaps_at_once(base, frames):
    live = LiveModel(base)
    ducks = [f.image for f in frames if f.label == 'duck']
    results = [live.predict(image, top_k=3) for image in ducks]
    assert all(r.labels[0] == 'duck' and len(r.labels) == 3 and r.version == 0 for r in results)
    assert all(
        r.scores == sorted(r.scores, reverse=True) and sum(r.scores) <= 1 + 1e-5 for r in results
    )
    data = bytearray(pack(rolled_head(base)))
    live.swap(live.prepare(7, base.spec.classes, data, sha256(data)))
    after = live.predict(ducks[0], top_k=1)
    assert (after.version, after.labels) == (7, [base.spec.classes[1]])
    with pytest.raises(WeightsError, match='checksum'):
        live.prepare(8, base.spec.classes, data, sha256(b''))
    assert live.version == 7


def test_a_version_tells_how_like_what_was_taught_regions_are_where_it_knows(base, duck):
    live, box = LiveModel(base), as_boxes([(0, 0, *duck.shape[1::-1])])
    seen = live.look_at(duck, box)
    assert seen.likeness is None
    asked = []
    named = live.look_at(duck, box, steady=lambda f, b: asked.append((f, b)) or np.zeros_like(f))
    assert (asked[0][0] == named.features).all(), 'which are told as they were seen'
    assert asked[0][1] == seen.backbone
    assert (named.logits == live.slot.bias).all()
    assert (seen.logits != named.logits).any()
    rows = np.zeros((len(base.spec.classes), seen.features.shape[1]), np.float16)
    within = shipped(base.spec.architecture, base.state)
    rows[1] = seen.features[0] / within.lengths(seen.features)[0]
    for update in ({'head.likeness': rows[:-1]}, {'head.likeness': rows.astype(np.float32)}):
        data = bytearray(pack({**rolled_head(base), **update}))
        with pytest.raises(WeightsError, match="'head.likeness'"):
            live.prepare(1, base.spec.classes, data, sha256(data))
    data = bytearray(pack({**rolled_head(base), 'head.likeness': rows}))
    live.swap(live.prepare(1, base.spec.classes, data, sha256(data)))
    now = live.look_at(duck, box).likeness
    expected = float((seen.features[0] ** 2).sum() / within.lengths(seen.features)[0] ** 2)
    assert now[0, 1] == pytest.approx(expected, rel=2e-3)
    assert np.isnan(now[0, 2:]).all()
    data = bytearray(pack(rolled_head(base)))
    live.swap(live.prepare(2, base.spec.classes, data, sha256(data)))
    assert live.look_at(duck, box).likeness is None, 'of the version before nothing is left'


def test_a_prediction_names_the_backbone_that_its_feature_is_of(base, duck):
    """A new head leaves the backbone as it was; version 0 is the base weights alone."""
    live = LiveModel(base)
    bare = backbone_digest(base.sha256, {})
    assert live.predict(duck, 1).backbone == bare
    both = travelling(base, other_backbone(base))
    live.swap(live.prepare(1, base.spec.classes, *travelling(base, rolled_head(base))))
    assert live.predict(duck, 1).backbone == bare
    slot = live.prepare(2, base.spec.classes, *both)
    assert live.predict(duck, 1).backbone == bare, 'what is prepared does not serve yet'
    live.swap(slot)
    result = live.predict(duck, 1)
    expected = backbone_digest(base.sha256, other_backbone(base))
    assert (result.version, result.backbone) == (2, expected)
    assert live.feature(duck)[1:] == (2, expected)
    network = live.slot.network
    live.swap(live.prepare(3, base.spec.classes, *both[:3]))  # a head for what serves already
    assert live.slot.network is network
    assert live.predict(duck, 1).backbone == expected
    with pytest.raises(WeightsError, match='the backbone of version 4 is damaged'):
        live.prepare(4, base.spec.classes, both[0], both[1], 'f' * 64, both[3])
    whole = bytearray(pack(other_backbone(base)))
    with pytest.raises(WeightsError, match='version 4 has more than a head'):
        live.prepare(4, base.spec.classes, whole, sha256(whole), expected)
    live.swap(live.prepare(0, base.spec.classes, bytearray(), sha256(b'')))
    assert live.predict(duck, 1).backbone == bare


def test_a_new_head_keeps_no_frame_from_the_network_that_serves(base, duck, monkeypatch):
    live = LiveModel(base)
    both = travelling(base, other_backbone(base))
    for announced in ((), both):
        if announced:
            live.swap(live.prepare(2, base.spec.classes, *announced))
        with monkeypatch.context() as patch:
            patch.setattr(live.slot.network, 'look', lambda _: pytest.fail('it looks'))
            head = travelling(base, rolled_head(base))
            live.swap(live.prepare(3, base.spec.classes, *head[:2], *announced[2:3]))
            huge = {k: np.full_like(v, 3e38) for k, v in rolled_head(base).items()}
            head = travelling(base, huge)
            with (
                np.errstate(over='ignore', invalid='ignore'),
                pytest.raises(WeightsError, match='not finite'),
            ):
                live.prepare(4, base.spec.classes, *head[:2], *announced[2:3])
        assert live.predict(duck, 1).version == 3


def test_a_head_that_is_refused_leaves_the_network_alone_that_serves(base, duck):
    """The next backbone is written into another one."""
    live = LiveModel(base)
    before = live.predict(duck, 1)
    huge = {k: np.full_like(v, 3e38) for k, v in rolled_head(base).items()}
    for _ in range(2):
        with (
            np.errstate(over='ignore', invalid='ignore'),
            pytest.raises(WeightsError, match='not finite'),
        ):
            live.prepare(1, base.spec.classes, *travelling(base, huge))
        live.prepare(2, base.spec.classes, *travelling(base, other_backbone(base)))
        assert np.array_equal(live.predict(duck, 1).features, before.features)


def test_a_better_engine_for_what_no_longer_serves_takes_nothing_back(base, duck, monkeypatch):
    live = LiveModel(base)
    make, head = live.engines.network, travelling(base, rolled_head(base))

    def meanwhile(*arguments: object) -> object:
        live.swap(live.prepare(7, base.spec.classes, *head))
        return make(*arguments)

    monkeypatch.setattr(live.engines, 'network', meanwhile)
    live.renew()
    result = live.predict(duck, 1)
    assert (result.version, result.labels) == (7, [base.spec.classes[1]])


def test_how_new_a_frame_is_is_judged_among_those_of_its_own_camera(base, duck):
    live = LiveModel(base)
    images = [np.roll(duck, i, axis=1) for i in range(30)]
    live.predict_all(images, 1, ['left'] * 30)
    other = np.full_like(duck, 128)
    left, right = live.predict_all([other, other], 1, ['left', 'right'])
    assert left.novelty > 0.9
    assert right.novelty == 0.5, 'the first one that it sees'


@pytest.mark.parametrize('what', ['version', 'pixels'])
def test_where_energies_are_others_what_was_seen_before_counts_little(base, duck, what):
    live = LiveModel(base)
    images = [np.roll(duck, i, axis=1) for i in range(25)]
    for _ in range(8):
        live.predict_all(images, 1, [''] * 25)
    if what == 'version':
        sure = {'head.bias': base.state['head.bias'] + np.float32(50)}
        live.swap(live.prepare(1, base.spec.classes, *travelling(base, sure)))
    else:
        slot = live.slot
        far = Alignment(np.full(1, 20, np.float32), np.zeros(1, np.float32))
        as_it_was = Alignment(np.ones(1, np.float32), np.zeros(1, np.float32))
        live.smaller = SmallerSlot(slot.network, 48, slot.number, 'smaller', far, as_it_was)
    for _ in range(2):
        result = live.predict_all(images, 1, [''] * 25)[-1]
    assert result.version == (what == 'version')
    assert result.pixels == (48 if what == 'pixels' else 64)
    assert 0.1 < result.novelty < 0.9, 'all frames look like this now'


class Robot:
    """A swapper whose thread is waited for, and what it asked for."""

    def __init__(
        self, base: BaseWeights, learned: int = 0, wait: bool = True, live: LiveModel | None = None
    ) -> None:
        self.base = base
        self.asked: list[str] = []
        self.asked_backbones: list[str] = []
        self.now = 100.0
        self.swapper = ModelSwapper(
            live or LiveModel(base),
            learned,
            wait,
            lambda path: LiveModel(read_base(path)),
            self.asked.append,
            lambda: None,
            lambda: self.now,
            self.asked_backbones.append,
        )

    def announce(self, version: int, state: State | None = None, **fields: object) -> None:
        data = bytearray(pack(state)) if state else bytearray()
        announced = Announced(
            version, self.base.spec.classes, data, sha256(data), self.base.sha256, ''
        )
        self.swapper.take(replace(announced, **fields))

    def finish(self) -> Attempt:
        attempt = self.swapper.finish()
        assert attempt is not None
        return attempt


def test_only_the_version_announced_last_is_built_after_the_one_that_is_being_built(base):
    robot = Robot(base)
    for version in (1, 2, 3):
        robot.announce(version, rolled_head(base))
    assert robot.finish().version == 1
    assert robot.finish().version == 3
    assert robot.swapper.finish() is None
    assert (robot.swapper.live.version, robot.swapper.swaps) == (3, 2)


def test_a_refused_version_is_told_until_another_one_serves(base):
    robot = Robot(base)
    robot.announce(1, rolled_head(base), sha256='no')
    assert 'checksum' in str(robot.finish().error)
    assert robot.swapper.why_not() == (
        'version 1 is refused: version 1 is damaged on the way: its checksum is wrong; version 0 '
        'serves'
    )
    robot.announce(2, rolled_head(base))
    assert robot.finish().error is None
    assert not robot.swapper.why_not()


def test_any_error_in_building_leaves_the_live_version_serving(base, duck):
    live = LiveModel(base)

    def explode(*_: object) -> None:
        raise MemoryError('no room')

    live.prepare = explode
    robot = Robot(base, live=live)
    robot.announce(1, rolled_head(base))
    assert isinstance(robot.finish().error, MemoryError)
    assert robot.swapper.live.predict(duck, 1).version == 0


def test_other_base_weights_are_asked_for_and_their_version_serves_without_those_alone(
    base, tmp_path, duck
):
    """The version before serves until the announced one is whole: never the bare base weights."""
    robot = Robot(base)
    state = {k: v * np.float32(1.5) if k == 'head.weight' else v for k, v in base.state.items()}
    path = tmp_path / 'other.safetensors'
    path.write_bytes(pack_base(state, base.spec, base.units))
    other = read_base(path)
    robot.announce(5, rolled_head(other), base_sha256=other.sha256)
    assert robot.asked == [other.sha256]
    assert 'has not sent yet; version 0 serves' in robot.swapper.why_not()
    robot.swapper.fetched(other.sha256, path)
    assert robot.finish().error is None
    live = robot.swapper.live
    assert (live.version, live.base.sha256) == (5, other.sha256)
    assert live.predict(duck, 1).backbone == backbone_digest(other.sha256, {})
    assert not robot.swapper.why_not()


def test_damaged_base_weights_are_refused_and_asked_for_again(base, deployed):
    robot = Robot(base)
    robot.announce(1, base_sha256='f' * 64)
    robot.swapper.fetched('f' * 64, deployed)
    assert 'are damaged' in str(robot.finish().error)
    assert robot.swapper.live.version == 0
    robot.announce(1, base_sha256='f' * 64)
    assert robot.asked == ['f' * 64] * 2


def test_a_robot_that_has_learned_waits_until_its_version_is_announced(base):
    robot = Robot(base, learned=7)
    assert not robot.swapper.ready
    assert 'to announce version 7' in robot.swapper.why_not()
    assert 'nothing is predicted' in robot.swapper.why_not()
    robot.announce(8, rolled_head(base))
    assert robot.finish().error is None
    assert robot.swapper.ready
    assert not robot.swapper.why_not()


def test_without_waiting_the_base_weights_serve_with_a_warning(base):
    robot = Robot(base, learned=7, wait=False)
    assert robot.swapper.ready
    assert 'version 0 serves meanwhile (these are the base weights' in robot.swapper.why_not()


def test_a_robot_that_has_learned_nothing_serves_at_once(base):
    robot = Robot(base)
    assert robot.swapper.ready
    assert not robot.swapper.why_not()


def test_the_base_weights_announced_end_the_wait(base):
    robot = Robot(base, learned=7)
    robot.announce(0)
    assert robot.swapper.ready
    assert not robot.swapper.why_not()


def test_a_version_that_can_not_be_used_ends_the_wait_and_is_told(base):
    """A robot that sees nothing helps nobody: it was heard, and what is wrong is said."""
    robot = Robot(base, learned=7)
    robot.announce(7, rolled_head(base), sha256='no')
    robot.finish()
    assert robot.swapper.ready
    assert 'version 7 is refused' in robot.swapper.why_not()


def test_a_version_waits_for_its_backbone_whichever_comes_first(base, duck):
    _, _, digest, tensors = travelling(base, other_backbone(base))
    backbone = AnnouncedBackbone(digest, tensors)
    late, early = Robot(base, learned=2), Robot(base, learned=2)
    late.announce(2, rolled_head(base), backbone_sha256=digest)
    assert not late.swapper.ready
    assert f'version 2 is for backbone {digest[:12]}, which' in late.swapper.why_not()
    late.swapper.take_backbone(AnnouncedBackbone('f' * 64, bytearray()))
    assert not late.swapper.ready, 'another one'
    late.swapper.take_backbone(backbone)
    early.swapper.take_backbone(backbone)
    early.announce(2, rolled_head(base), backbone_sha256=digest)
    for robot in (late, early):
        assert robot.finish().error is None
        assert not robot.swapper.why_not()
        result = robot.swapper.live.predict(duck, 1)
        assert (result.version, result.backbone) == (2, digest)


def test_a_head_for_the_live_backbone_needs_no_backbone_again(base, duck):
    robot = Robot(base)
    _, _, digest, tensors = travelling(base, other_backbone(base))
    robot.swapper.take_backbone(AnnouncedBackbone(digest, tensors))
    robot.announce(1, rolled_head(base), backbone_sha256=digest)
    robot.finish()
    robot.swapper.take_backbone(AnnouncedBackbone('e' * 64, bytearray(b'next')))
    robot.announce(2, backbone_sha256=digest)  # the newest is of a version to come
    assert robot.finish().error is None
    result = robot.swapper.live.predict(duck, 1)
    assert (result.version, result.backbone) == (2, digest)
    robot.announce(3)  # back at the base weights
    assert robot.finish().error is None
    assert robot.swapper.live.predict(duck, 1).backbone == backbone_digest(base.sha256, {})


def test_a_store_that_counts_from_one_again_has_its_version_served(base, duck):
    """Same number, another head: what serves is told by content."""
    robot = Robot(base)
    robot.announce(1, rolled_head(base))
    assert robot.finish().error is None
    before = robot.swapper.live.predict(duck, 1).scores
    robot.announce(1, rolled_head(base))
    assert robot.swapper.finish() is None, 'the very same is not built again'
    robot.announce(1, {'head.bias': base.state['head.bias'] + np.float32([5, 0, 0, 0])})
    assert robot.finish().error is None
    assert robot.swapper.live.version == 1
    assert robot.swapper.live.predict(duck, 1).scores != before


def test_a_backbone_that_is_offered_is_asked_for_by_who_lacks_it(base, duck):
    robot = Robot(base)
    _, _, digest, tensors = travelling(base, other_backbone(base))
    robot.swapper.take_backbone(AnnouncedBackbone(digest, bytearray()))
    assert robot.asked_backbones[-1] == digest
    robot.announce(1, rolled_head(base), backbone_sha256=digest)
    small = bytearray(deflated(bytes(tensors), base.state))
    robot.swapper.take_backbone(AnnouncedBackbone(digest, small))
    assert robot.finish().error is None
    assert robot.swapper.live.predict(duck, 1).backbone == digest
    robot.swapper.take_backbone(AnnouncedBackbone(digest, bytearray()))
    assert robot.asked_backbones[-1] == '', 'it serves: none is wanted'


def test_what_is_rolled_back_to_while_another_is_built_is_asked_for_again(base):
    robot = Robot(base)
    _, _, first, tensors = travelling(base, other_backbone(base))
    robot.swapper.take_backbone(AnnouncedBackbone(first, tensors))
    robot.announce(1, rolled_head(base), backbone_sha256=first)
    assert robot.finish().error is None
    state = {name: value + 1e-3 for name, value in other_backbone(base).items()}
    _, _, second, others = travelling(base, state)
    robot.swapper.take_backbone(AnnouncedBackbone(second, others))
    robot.announce(2, rolled_head(base), backbone_sha256=second)  # is being built ...
    robot.swapper.take_backbone(AnnouncedBackbone(first, bytearray()))  # ... and rolled back
    robot.announce(1, rolled_head(base), backbone_sha256=first)
    assert robot.finish().error is None
    assert robot.asked_backbones[-1] == first
    robot.swapper.take_backbone(AnnouncedBackbone(first, tensors))
    assert robot.finish().error is None
    assert robot.swapper.live.version == 1


def test_a_broken_backbone_is_asked_for_again_but_not_too_often(base, duck):
    robot = Robot(base)
    _, _, digest, tensors = travelling(base, other_backbone(base))
    robot.swapper.take_backbone(AnnouncedBackbone(digest, bytearray(tensors[:-9])))
    robot.announce(1, rolled_head(base), backbone_sha256=digest)
    assert robot.finish().error is not None
    assert 'version 1 is refused' in robot.swapper.why_not()
    asked = []
    for _ in range(3600):  # an hour
        robot.now += 1.0
        count = len(robot.asked_backbones)
        robot.swapper.retry()
        asked += [robot.now] * (len(robot.asked_backbones) - count)
    assert robot.asked_backbones[-1] == digest
    assert 5 < len(asked) < 20
    robot.swapper.take_backbone(AnnouncedBackbone(digest, tensors))
    assert robot.finish().error is None
    assert not robot.swapper.why_not()
    assert robot.swapper.live.predict(duck, 1).backbone == digest
    count = len(robot.asked_backbones)
    robot.now += 3600.0
    robot.swapper.retry()
    assert len(robot.asked_backbones) == count, 'all is well'


def test_a_swapper_that_is_closed_waits_for_its_thread(base):
    live, entered, go_on = LiveModel(base), threading.Event(), threading.Event()
    prepare = live.prepare

    def slow(*arguments: object) -> object:
        entered.set()
        go_on.wait()
        return prepare(*arguments)

    live.prepare = slow
    robot = Robot(base, live=live)
    robot.announce(1, rolled_head(base))
    entered.wait()
    go_on.set()
    robot.swapper.close()
    assert robot.swapper.finish() is None
    assert live.version == 1


def test_what_was_learned_is_seen_by_names_alone(base, deployed, tmp_path):
    assert learned_version(tmp_path, base.sha256) == 0, 'no store'
    store = ModelStore(tmp_path, deployed)
    assert learned_version(tmp_path, base.sha256) == 0, 'an empty one'
    for _ in range(2):
        store.commit(rolled_head(base), store.live, base.spec.classes)
    assert learned_version(tmp_path, base.sha256) == 2
    (store.folder / 'live').unlink()
    assert learned_version(tmp_path, base.sha256) == 2
    store.set_live(0)
    assert learned_version(tmp_path, base.sha256) == 0, 'back at the base weights by hand'
    assert learned_version(tmp_path, 'f' * 64) == 0, 'of other base weights'


def test_a_version_is_made_in_place_and_what_differed_before_goes_back(deployed, frames):
    base = read_base(deployed)
    live, image = LiveModel(base), frames[0].image
    first = live.predict(image, 3)
    state = {
        k: v * np.float32(1.5)
        for k, v in base.state.items()
        if v.dtype == np.float32 and v.ndim > 1
    }
    grown = {**state, 'head.weight': np.zeros((5, base.state['head.weight'].shape[1]), np.float32)}
    grown['head.bias'] = np.arange(5, dtype=np.float32)
    versions = {
        1: (grown, (*base.spec.classes, 'new')),
        2: ({'head.bias': base.state['head.bias'] + 1}, base.spec.classes),
        3: ({}, base.spec.classes),
    }
    fresh = {}
    for version, (update, classes) in versions.items():
        live.swap(live.prepare(version, classes, *travelling(base, update)))
        again = LiveModel(base)
        again.swap(again.prepare(version, classes, *travelling(base, update)))
        got, fresh = live.predict(image, 3), again.predict(image, 3)
        assert (got.version, got.labels, got.scores) == (version, fresh.labels, fresh.scores)
        assert np.array_equal(got.features, fresh.features)
    assert got.scores == first.scores
    with pytest.raises(WeightsError):
        live.prepare(4, base.spec.classes, bytearray(b'x'), sha256(b'x'))
    assert live.predict(image, 3).scores == first.scores, 'what is live is as it was'
