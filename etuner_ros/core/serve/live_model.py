# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The model that serves requests, and how another version takes its place between two frames."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
from contextlib import contextmanager
from dataclasses import replace
import threading
import time
from typing import TypeVar

import numpy as np

from etuner_ros.core.boxes.crops import features_of
from etuner_ros.core.boxes.geometry import Boxes
from etuner_ros.core.boxes.region_memory import Region, RegionMemory
from etuner_ros.core.decide.scenario import NoveltyScore
from etuner_ros.core.errors import EngineError, WeightsError
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.models.likeness import Likeness, shipped, Within
from etuner_ros.core.models.weights import (
    backbone_digest,
    backbone_of,
    BaseWeights,
    check_update,
    HEAD_LIKENESS,
    HEAD_TENSORS,
    network_of,
    read_in_place,
    sha256,
    State,
)
from etuner_ros.core.serve.engines import Engines, EngineSettings
from etuner_ros.core.serve.graph_file import Floats, ranges_of
from etuner_ros.core.serve.networks import Network, OnnxNetwork, TorchNetwork
from etuner_ros.core.serve.slot import next_number, RegionResult, Result, Slot, SmallerSlot

Answer = TypeVar('Answer')
# What applies a function to each of several sets of boxes, in order: `map`, or that of a pool.
Each = Callable[[Callable[[Boxes], Floats], Iterable[Boxes]], Iterable[Floats]]
Steady = Callable[[Floats, str], Floats]
AT_ONCE = 2  # regions that a thread takes: few, so that none waits for long for the last one


class LiveModel:
    """
    Holds one version and predicts with it. `prepare` makes another beside it, `swap` makes it live
    by one assignment.

    `predict` may run in one thread while `prepare` runs in another. The head lies outside of the
    network: a version whose head alone is new shares the network that serves. Another backbone
    gets a network of its own; torch's is written over in place, as building one would hold
    Python's lock for up to 0.1 s.

    Beside the live version may stand the same at fewer pixels, `smaller`. It serves as long as it
    belongs to the network that is live; set it to None for the version's own size. Any thread may
    set it, at any time: it counts from the next frame on.

    :param engines: makes networks; torch on the CPU serves without
    :ivar bare: digest of the backbone of the base weights
    """

    def __init__(self, base: BaseWeights, engines: Engines | None = None) -> None:
        self.base = base
        self.engines = engines or Engines(EngineSettings(engine='torch'))
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._serving: Network | None = None  # in use by a prediction right now
        self._spare: Network | None = None  # that may be written over
        self._novelty: defaultdict[str, NoveltyScore] = defaultdict(NoveltyScore)
        self.smaller: SmallerSlot | None = None
        self.smaller_failed: tuple[SmallerSlot, str] | None = None  # with the reason; newest
        self.bare = backbone_digest(base.sha256, {})
        # What the network checked last makes of a black picture, (1, D), and its slot's number:
        # a look costs the frame that comes meanwhile its time.
        self._seen: tuple[int, Floats] = (0, np.zeros((1, 0), np.float32))
        self._within: Within | None = None
        with contextlib.suppress(WeightsError):  # the tuner says so; names do without it
            self._within = shipped(base.spec.architecture, base.state)
        self._slot = self._make(0, base.spec.classes, base.state, {}, self.bare)
        self._spare = None
        if isinstance(self._slot.network, TorchNetwork) and not self.engines.warming:
            self._keep(self._network({}))  # the one that the next backbone is written into
        self._check(self._slot)

    @property
    def version(self) -> int:
        """The live version."""
        return self._slot.version

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of the live version."""
        return self._slot.classes

    @property
    def slot(self) -> Slot:
        """The live version; to look at."""
        return self._slot

    @property
    def engine(self) -> str:
        """Engine and precision that serve, such as 'onnxruntime-int8'."""
        return self._slot.network.name

    def prepare(
        self,
        version: int,
        classes: tuple[str, ...],
        weights: bytearray | array[int],
        digest: str,
        backbone: str = '',
        tensors: bytearray | array[int] | None = None,
    ) -> Slot:
        """
        Make a version beside the one that serves, run it once and check that it works.

        One version at a time: what was prepared and not swapped in is given up.

        :param weights: safetensors of the head, as far as it differs from that of the base weights
        :param digest: SHA-256 of `weights`
        :param backbone: digest of the backbone that the head is for; '' for that of the base
        :param tensors: safetensors of that backbone, as far as it differs from the base weights;
            not needed for the live one and that of the base
        :raises WeightsError: when it may not go live; the live version is as it was
        """
        if sha256(weights) != digest:
            raise WeightsError(f'version {version} is damaged on the way: its checksum is wrong')
        head = read_in_place(weights) if len(weights) else {}
        if backbone_of(head):
            raise WeightsError(f'version {version} has more than a head: {min(backbone_of(head))}')
        backbone = backbone or self.bare
        update: State = {}
        if backbone not in (self._slot.announced, self.bare):
            update = read_in_place(tensors) if tensors else {}
            if backbone_digest(self.base.sha256, update) != backbone:
                raise WeightsError(f'the backbone of version {version} is damaged on the way')
        check_update(self.base.state, {**update, **head}, len(classes))
        slot = self._make(version, classes, head, update, backbone)
        try:
            self._check(slot)
        except WeightsError:
            if slot.network is not self._slot.network:
                self._keep(slot.network)
            raise
        return slot

    def _make(
        self, version: int, classes: tuple[str, ...], head: State, update: State, backbone: str
    ) -> Slot:
        """
        Make a slot.

        :param head: where the tensors of the head are, when they differ from those of the base
        """
        tensors = (head.get(name, self.base.state[name]) for name in HEAD_TENSORS)
        weight, bias = (np.array(t, np.float32) for t in tensors)
        live: Slot | None = getattr(self, '_slot', None)
        told = head.get(HEAD_LIKENESS)
        likeness = None
        if told is not None and self._within is not None:
            likeness = Likeness(np.array(told, np.float32), self._within)
        if live is not None and live.announced == backbone:
            return replace(
                live,
                weight=weight,
                bias=bias,
                classes=classes,
                version=version,
                likeness=likeness,
            )
        network = self._network(update)
        served = self._served(backbone, update, network)
        return Slot(network, weight, bias, classes, version, served, update, backbone, likeness)

    def _served(self, announced: str, update: State, network: Network) -> str:
        """Return the digest of what makes the features: without its ranges, nothing is rounded."""
        if ranges_of(update) is None or network.quantised:
            return announced
        return backbone_digest(self.base.sha256, network_of(update))

    def _network(self, update: State) -> Network:
        with self._making:
            reuse, self._spare = self._spare, None
            while reuse is not None and self._is_serving(reuse):  # last, with the version before
                time.sleep(0.001)
            state = {**self.base.state, **network_of(update)}
            return self.engines.network(self.base.spec, state, ranges_of(update), reuse)

    def _keep(self, network: Network) -> None:
        """Keep a network that serves no more, or never did, where it can be written over."""
        self._spare = network if isinstance(network, TorchNetwork) else None

    def _check(self, slot: Slot) -> None:
        """Run a version once, so that its first frame does not wait; of a new head, it alone."""
        number, features = self._seen
        if number != slot.number:
            size = self.base.spec.input_size
            features, _ = slot.network.look([np.zeros((size, size, 3), np.uint8)])
            self._seen = slot.number, features
        logits = slot.logits(features)
        if not (np.isfinite(logits).all() and np.isfinite(features).all()):
            raise WeightsError(f'version {slot.version} gives values that are not finite')

    def _is_serving(self, network: Network) -> bool:
        with self._lock:
            return self._serving is network

    def swap(self, slot: Slot) -> None:
        """Make a prepared version live."""
        with self._lock:
            before, self._slot = self._slot, slot
            if before.network is not slot.network:
                self._keep(before.network)

    @property
    def has_better(self) -> bool:
        """Whether `renew` may find a better engine than the one that serves."""
        return self.engines.has_better

    def renew(self) -> None:
        """Serve the live version by a better engine that was waited for."""
        live = self._slot
        network = self._network(live.update)
        served = self._served(live.announced, live.update, network)
        slot = replace(live, network=network, backbone=served, number=next_number())
        self._check(slot)
        with self._lock:
            if self._slot is live:  # nothing newer has gone live meanwhile
                self._slot = slot
                self._keep(live.network)

    def predict(self, image: Image, top_k: int, camera: str = '') -> Result:
        """
        Predict one image, with one version from beginning to end.

        :param image: RGB uint8, (H, W, 3)
        :param camera: among whose frames its novelty is judged
        """
        return self.predict_all([image], top_k, [camera])[0]

    def predict_all(
        self, images: Sequence[Image], top_k: int, cameras: Sequence[str]
    ) -> list[Result]:
        """
        Predict images in one batch, with one version for all of them.

        :param images: RGB uint8, (H, W, 3) each, of any sizes
        :param cameras: among whose frames the novelty of each is judged
        """
        return self._with_slot(
            lambda slot, smaller: self._predict(slot, smaller, images, top_k, cameras)
        )

    def _with_slot(
        self, look: Callable[[Slot, SmallerSlot | None], Answer], whole: bool = True
    ) -> Answer:
        """
        Have the live version look at something; by the next best engine where one fails.

        :param whole: it looks at whole images, so a smaller size looks where one serves
        """
        while True:
            with self._serve() as (slot, smaller):
                smaller = smaller if whole else None
                try:
                    return look(slot, smaller)
                except EngineError as error:
                    if smaller is None and isinstance(slot.network, TorchNetwork):
                        raise  # there is no other
                    if smaller is None:
                        self.engines.give_up(str(error))
                    else:
                        self.smaller, self.smaller_failed = None, (smaller, str(error))
            if smaller is None:
                self.renew()  # by the next best engine, now: no frame may be lost

    def look_at(
        self,
        image: Image,
        boxes: Boxes,
        each: Each = map,
        steady: Steady | None = None,
        memory: RegionMemory | None = None,
    ) -> RegionResult:
        """
        Look at parts of an image, with one version for all of them.

        Always at the version's own pixels: parts have few enough.

        :param image: RGB uint8, (H, W, 3)
        :param boxes: (n, 4), in the image at least in part
        :param each: goes through batches of them, perhaps by several threads
        :param steady: returns what they are named by, (n, D), from their features and the digest
            of what made these; what they are like is always told of the features
        :param memory: of this camera: what looks as it did before is not looked at again
        """

        def look(slot: Slot, _: SmallerSlot | None) -> RegionResult:
            features = np.zeros((len(boxes), slot.weight.shape[1]), np.float32)
            network, size = slot.network, self.base.spec.input_size

            def of(some: Boxes) -> Floats:
                return features_of(image, some, network.look, size)

            known: list[Region | None] = [None] * len(boxes)
            if memory is not None:
                known = memory.recall(image, boxes, slot.number)
            new = np.array([region is None for region in known], np.bool_)
            for place, region in enumerate(known):
                if region is not None:
                    features[place] = region.feature
            if new.any():
                batches = self._batches(network, boxes[new])
                # One alone is looked at here: in another thread, torch would start its own anew.
                go_through = each if len(batches) > 1 else map
                try:
                    features[new] = np.concatenate(list(go_through(of, batches)))
                except EngineError:
                    if new.sum() == 1:
                        raise
                    # Perhaps so many at once are too much for it: one by one, it may still do.
                    features[new] = np.concatenate([of(b[None]) for b in boxes[new]])
            if memory is not None:
                memory.keep(image, boxes, features, known)
            logits = slot.logits(steady(features, slot.backbone) if steady else features)
            likeness = slot.likeness(features) if slot.likeness is not None else None
            return RegionResult(
                features, logits, slot.classes, slot.version, slot.backbone, likeness
            )

        return self._with_slot(look, whole=False)

    def _batches(self, network: Network, boxes: Boxes) -> list[Boxes]:
        """
        Return boxes as they go through the network together.

        On a CPU a batch of onnxruntime takes as long as its pictures one after the other, and
        several threads may look at once; torch has threads of its own, and a GPU wants them all.
        """
        spread = isinstance(network, OnnxNetwork) and self.engines.device == 'cpu'
        step = AT_ONCE if spread else len(boxes)
        return [boxes[i : i + step] for i in range(0, len(boxes), step)]

    def feature(self, image: Image) -> tuple[Floats, int, str]:
        """
        Look at a picture that is no frame.

        :return: its feature (D,), the version and the backbone that it is of
        """
        with self._serve() as (slot, _):
            features, _ = slot.network.look([resize_square(image, self.base.spec.input_size)])
            return features[0], slot.version, slot.backbone

    @contextmanager
    def _serve(self) -> Iterator[tuple[Slot, SmallerSlot | None]]:
        """
        Give the live version, whose network is not written to meanwhile, and what is to serve at
        fewer pixels: of this very network, or nothing.
        """
        with self._lock:
            slot, smaller = self._slot, self.smaller
            self._serving = slot.network
        try:
            yield slot, smaller if smaller and smaller.number == slot.number else None
        finally:
            self._serving = None

    def _predict(
        self,
        slot: Slot,
        smaller: SmallerSlot | None,
        images: Sequence[Image],
        top_k: int,
        cameras: Sequence[str],
    ) -> list[Result]:
        began = time.perf_counter()
        pixels = smaller.pixels if smaller else self.base.spec.input_size
        squares = [resize_square(image, pixels) for image in images]
        resized = time.perf_counter()
        features, appearance = (smaller or slot).network.look(squares)
        aligned = features
        if smaller:
            aligned, appearance = smaller.features(features), smaller.appearance(appearance)
        named = slot.name(aligned, top_k)
        novelty = [
            self._novelty[camera].update(n.energy, (slot.version, pixels)) if n.labels else 0.5
            for camera, n in zip(cameras, named)
        ]
        ended = time.perf_counter()
        return [
            Result(
                n.labels,
                n.scores,
                n.energy,
                novelty[i],
                appearance[i].tolist(),
                features[i],
                slot.version,
                (smaller or slot).backbone,
                resized - began,
                ended - began,
                pixels,
            )
            for i, n in enumerate(named)
        ]
