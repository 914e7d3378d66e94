# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The weights by which `inference` serves: heard, fetched, swapped in between two frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.images.codec import decode
from etuner_ros.core.labels.value import MOST_EXEMPLARS
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.swapper import Announced, AnnouncedBackbone, ModelSwapper
from etuner_ros.msg import Backbone, FrameFeature, ModelUpdate
from etuner_ros.nodes.base_fetcher import BaseFetcher, PieceFetcher
from etuner_ros.nodes.health import guarded
from etuner_ros.nodes.lifecycle import AutostartNode
from etuner_ros.nodes.predictions import packed
from etuner_ros.nodes.punctual import take, TakenByHand
from etuner_ros.nodes.qos import LATCHED, latched


class WeightsIntake:
    """
    Subscribes `model` (ModelUpdate, latched) and `backbone` (Backbone, latched), both taken by
    hand; publishes `exemplar_features` (FrameFeature, latched): of the pictures that travel with
    the base weights, so that nobody is asked about what is known.

    :param source: camera that exemplars are said to be of
    :param live: serves until another version is taken
    :param learned: version that this robot has learned, see `learned_version`
    :param wait: see `ModelSwapper`
    :param read: makes a model of a file of base weights
    """

    def __init__(
        self,
        node: AutostartNode,
        source: str,
        live: LiveModel,
        learned: int,
        wait: bool,
        read: Callable[[Path], LiveModel],
    ) -> None:
        self._node, self._source = node, source
        self.health, self.get_logger = node.health, node.get_logger
        self._exemplars_left: list[bytes] = []  # whose features are not published yet ...
        self._exemplars_of = ''  # ... and the base weights that they travel with
        by_hand = node.create_subscription
        self._backbones = by_hand(
            Backbone, 'backbone', self._on_backbone, LATCHED, callback_group=TakenByHand()
        )
        self._updates = by_hand(
            ModelUpdate, 'model', self._on_model, LATCHED, callback_group=TakenByHand()
        )
        self._exemplars = node.create_lifecycle_publisher(
            FrameFeature, 'exemplar_features', latched(MOST_EXEMPLARS)
        )
        built = node.create_guard_condition(self._on_built)
        self.entities = [self._backbones, self._updates, self._exemplars, built]
        self._fetcher = BaseFetcher(node, self._on_fetched)
        self._pieces = PieceFetcher(
            node, 'model_manager/get_model', 'backbone', self._on_backbone_fetched
        )
        self._swapper = ModelSwapper(
            live,
            learned,
            wait,
            read,
            self._fetcher.fetch,
            built.trigger,
            fetch_backbone=self._pieces.fetch,
        )
        self._concern = self.health.watch(
            self._swapper.why_not,
            'the weights that were learned last serve',
            DiagnosticStatus.WARN,
        )
        self._take_exemplars(live)

    @property
    def live(self) -> LiveModel:
        """The model that serves."""
        return self._swapper.live

    @property
    def ready(self) -> bool:
        """Whether it may serve."""
        return self._swapper.ready

    @property
    def swaps(self) -> int:
        """How many versions were swapped in."""
        return self._swapper.swaps

    @property
    def preparing(self) -> int:
        """Version that is being built; 0 = none."""
        return self._swapper.preparing

    def wait_for_model(self, wait: bool) -> None:
        """Set whether nothing may be predicted before a learned version was announced."""
        self._swapper.wait = wait

    def renew(self, anyway: bool = False) -> None:
        """Serve by a better engine, if one is ready; by a new one of the same kind anyway."""
        self._swapper.renew(anyway=anyway)

    def retry(self) -> None:
        """Ask again for what was broken, when it is time; call it often."""
        self._swapper.retry()

    def between_frames(self, active: bool) -> None:
        """Take what was announced, and look at one exemplar: no frame has to wait for more."""
        self._take_update()
        if active:
            self._look_at_exemplar()

    def close(self) -> None:
        """End the threads."""
        self.health.forget([self._concern])
        self._swapper.close()
        self._fetcher.close()
        self._pieces.close()

    def _take_update(self) -> None:
        """Take announced weights, if there are any: a backbone before the head that is for it."""
        backbone = take(self._backbones)
        if backbone is not None:
            self._on_backbone(backbone)
        message = take(self._updates)
        if message is not None:
            self._on_model(message)

    @guarded
    def _on_backbone(self, message: Backbone) -> None:
        self._swapper.take_backbone(AnnouncedBackbone(message.backbone_sha256, message.weights))

    def _on_backbone_fetched(self, digest: str, data: bytes) -> None:
        self._swapper.take_backbone(AnnouncedBackbone(digest, bytearray(data)))

    @guarded
    def _on_model(self, message: ModelUpdate) -> None:
        self._swapper.take(
            Announced(
                message.version,
                tuple(message.classes),
                message.weights,
                message.sha256,
                message.base_sha256,
                message.backbone_sha256,
            )
        )

    @guarded
    def _on_fetched(self, path: Path | None) -> None:
        if path is not None:
            self._swapper.fetched(path.stem, path)  # the cache names files by their SHA-256

    @guarded
    def _on_built(self) -> None:
        """Say how the swap ended."""
        attempt = self._swapper.finish()
        if attempt is None:
            return
        version, error, live = attempt.version, attempt.error, self.live
        if attempt.renewed:
            if error is not None:
                self.health.problem(f'no other engine can be taken: {error}')
            self.get_logger().info(f'version {version} is served by {live.engine}')
            return
        if error is None:
            self._take_exemplars(live)
            self.get_logger().info(
                f'version {version} is live, prepared in {1e3 * attempt.seconds:.0f} ms'
            )
            return
        self.health.problem(f'version {version} is refused: {error}')
        kind = '' if isinstance(error, WeightsError) else f'{type(error).__name__}: '
        self.get_logger().error(
            f'version {version} is refused, version {live.version} stays: {kind}{error}'
        )

    def _take_exemplars(self, live: LiveModel) -> None:
        """Have the features of the pictures published that travel with base weights, once."""
        if live.base.sha256 == self._exemplars_of:
            return
        self._exemplars_of = live.base.sha256
        step = -(-len(live.base.exemplars) // MOST_EXEMPLARS) or 1
        self._exemplars_left = [code for _, code in live.base.exemplars[::step]]

    def _look_at_exemplar(self) -> None:
        if not self._exemplars_left or not self.ready:
            return
        picture = decode(self._exemplars_left.pop())
        feature, version, backbone = self.live.feature(picture)
        self._exemplars.publish(
            FrameFeature(
                source=self._source,
                model_version=version,
                backbone_sha256=backbone,
                feature=packed(feature),
            )
        )
