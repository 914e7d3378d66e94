# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`model_manager`: owns the versions of the weights and the frozen state of every layer; checks,
commits, announces, rolls back.

Subscribes `candidate` (ModelCandidate: of a round) and `head_candidate` (HeadCandidate: a new head
for the live backbone). Publishes `model` (ModelUpdate, latched), `backbone` (Backbone, latched:
when it is another one), `layers` (LayerStates, latched), `verdicts` (ModelVerdict: one for each
candidate). Serves `~/set_frozen_layers`, `~/swap`,
`~/roll_back`, `~/list_versions`, `~/pin_version`, `~/export_version`, `~/get_model`. Calls
`tuner/get_candidate` for the weights of a candidate that came without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rclpy.lifecycle import TransitionCallbackReturn

from etuner_ros.core.config import Checked, GateConfig, setting
from etuner_ros.core.errors import MessageError, WeightsError
from etuner_ros.core.files import home, models_home
from etuner_ros.core.models.base_weights import (
    base_file,
    copy_warning,
    intact_file,
    prepare_in_process,
)
from etuner_ros.core.models.candidate_check import CandidateCheck, Code, Finding, refused
from etuner_ros.core.models.deflate import inflated
from etuner_ros.core.models.export_queue import ExportQueue
from etuner_ros.core.models.layer_board import LayerBoard
from etuner_ros.core.models.store import head_of, ModelStore
from etuner_ros.core.models.weights import backbone_of, pack, sha256, State
from etuner_ros.core.rate_limit import RateLimit, TransferSettings
from etuner_ros.msg import (
    Backbone,
    HeadCandidate,
    LayerState,
    LayerStates,
    ModelCandidate,
    ModelUpdate,
    ModelVerdict,
)
from etuner_ros.nodes.base_fetcher import PieceFetcher
from etuner_ros.nodes.candidates import to_candidate
from etuner_ros.nodes.health import guarded
from etuner_ros.nodes.lifecycle import AutostartNode, transition
from etuner_ros.nodes.messages import answered, comes_in_pieces, short, to_bytes
from etuner_ros.nodes.parameters import declare, ModelSettings
from etuner_ros.nodes.qos import LATCHED, reliable
from etuner_ros.nodes.running import run
from etuner_ros.nodes.timers import steady_timer
from etuner_ros.nodes.version_services import NOT_ACTIVE, VersionServices
from etuner_ros.srv import SetFrozenLayers

PIECES_LOST_S = 15.0  # without a piece of a candidate's weights, after which it is refused


@dataclass(frozen=True)
class StoreSettings(Checked):
    """Parameters of the model store."""

    folder: str = setting(
        '',
        'folder of the model store, of this model_manager alone; empty = $ROS_HOME/etuner/models, '
        'in a namespace /a/b $ROS_HOME/etuner/models/ns/a.b; inference has to be given the same '
        'one, or its wait_for_model does nothing',
    )
    keep: int = setting(
        10,
        'versions made by rounds that are kept beside the live one, its parent and the pinned',
        1,
        100000,
    )
    export_folder: str = setting(
        '', 'folder that ~/export_version may write to; empty = $ROS_HOME/etuner/exports'
    )


class ModelManagerNode(AutostartNode):
    """
    Guards the weights.

    Deactivated, weights and layers are pinned: candidates are refused, services that would change
    something say so.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('model_manager', **options)
        self._model = declare(self, 'model', ModelSettings)
        self._store: ModelStore | None = None
        self._exports: ExportQueue | None = None
        self._limit = RateLimit(0.0)  # of what is sent
        self._pieces: PieceFetcher | None = None
        self._coming: ModelCandidate | None = None  # whose weights are fetched
        self._accepted = self._refused = 0
        # Base weights of a pretrained network are made by a process with torch, started at once so
        # that configuring need not wait.
        self._wanted = (self._model.architecture, self._model.input_size, self._model.weights)
        self._preparation = prepare_in_process(*self._wanted)

    def diagnostics(self) -> Mapping[str, object]:
        """Return what /diagnostics says about this node."""
        store = self._store
        layers = self._board.layers() if store else []
        return {
            'live version': store.live if store else 'none',
            'versions': len(store.manifests) if store else 0,
            'versions pinned': len(store.pinned) if store else 0,
            'versions damaged': len(store.damaged) if store else 0,
            'accepted': self._accepted,
            'refused': self._refused,
            'layers frozen': sum(layer.frozen for layer in layers),
            'layers pinned': sum(layer.pinned for layer in layers),
            'active': self.active,
        }

    @property
    def may_configure(self) -> bool:
        """Whether the base weights are there, or will not come."""
        return self._preparation is None or self._preparation.ended

    @transition
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Open the store, say what is damaged, make publishers and services."""
        settings = declare(self, 'models', StoreSettings)
        gate = declare(self, 'gate', GateConfig, self._apply_gate)
        self._apply_limit(declare(self, '', TransferSettings, self._apply_limit))
        folder, exports = (Path(f).expanduser() for f in (settings.folder, settings.export_folder))
        if not settings.folder:
            folder = models_home(self.get_namespace())
        store = self._store = ModelStore(folder, self._base_weights(), settings.keep)
        self._check = CandidateCheck(store, gate)
        self._exports = ExportQueue(exports if settings.export_folder else home('exports'))
        frozen = store.manifests[store.live].frozen_layers
        self._board = LayerBoard(store.folder / 'layers.json', store.base.units, frozen)
        self._warn(*store.warnings, self._board.problem)
        self._models = self.create_lifecycle_publisher(ModelUpdate, 'model', LATCHED)
        self._backbones = self.create_lifecycle_publisher(Backbone, 'backbone', LATCHED)
        self._announced = ''  # digest of the backbone that was published last
        self._layers = self.create_lifecycle_publisher(LayerStates, 'layers', LATCHED)
        self._verdicts = self.create_publisher(ModelVerdict, 'verdicts', reliable(10))
        hear, take = self.create_subscription, self._on_candidate
        services = VersionServices(
            self,
            store,
            self._exports,
            lambda: self.active,
            self._announce,
            self._warn,
            self._limit,
        )
        self._pieces = PieceFetcher(
            self, 'tuner/get_candidate', 'candidate', self._on_weights, named=False
        )
        self.entities += [
            self._models,
            self._backbones,
            self._layers,
            self._verdicts,
            hear(ModelCandidate, 'candidate', take, reliable(2)),
            hear(HeadCandidate, 'head_candidate', take, reliable(2)),
            self.create_service(
                SetFrozenLayers, '~/set_frozen_layers', self._on_set_frozen_layers
            ),
            *services.entities,
            steady_timer(self, 0.2, self._look_after_exports),
            steady_timer(self, 1.0, self._give_up_candidate),
            steady_timer(self, 5.0, self._save_layers),
        ]
        self.get_logger().info(
            f'version {store.live} of {len(store.manifests) - 1} stored, in {store.folder}'
        )
        return TransitionCallbackReturn.SUCCESS

    def _base_weights(self) -> Path:
        """Return the file of the base weights; start to make it when it is not there."""
        if not self.may_configure:
            raise WeightsError(
                'the base weights are still being made; configure again in a few seconds'
            )
        wanted = base_file(*self._wanted)
        base = intact_file(wanted)
        if base is None:
            reason = self._preparation.problem if self._preparation is not None else ''
            self._end_preparation()
            self._preparation = prepare_in_process(*self._wanted)
            raise WeightsError(
                f'there are no base weights: {reason or "they are gone; they are made anew"}'
            )
        self._warn(copy_warning(wanted, base))
        return base

    @transition
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Announce weights and layers; take changes from now on."""
        result = super().on_activate(state)
        self._announced = ''
        self._announce('live at start')
        return result

    def release(self) -> None:
        """Undo `on_configure`."""
        self.active = False
        if self._exports is not None:
            self._exports.close('model_manager was cleaned up')
        if self._pieces is not None:
            self._pieces.close()
        self._pieces = self._coming = None
        self.destroy_entities()
        if self._store is not None:
            self._store.close()
        self._store = self._exports = None

    def close(self) -> None:
        """Let go of everything, at the end of the process."""
        self.release()
        self._end_preparation()

    def _end_preparation(self) -> None:
        if self._preparation is not None:
            self._preparation.close()
            self._preparation = None

    @property
    def _open(self) -> ModelStore:
        assert self._store is not None
        return self._store

    def _apply_gate(self, gate: GateConfig) -> None:
        if self._store is not None:
            self._check.gate = gate

    def _apply_limit(self, settings: TransferSettings) -> None:
        self._limit.mbit_s = settings.transfer_mbit_s

    def _warn(self, *texts: str) -> None:
        for text in filter(None, texts):
            self.health.problem(text)
            self.get_logger().warning(text)

    # Candidates

    @guarded
    def _on_candidate(self, message: ModelCandidate | HeadCandidate) -> None:
        """Answer a candidate, whatever happens, once its weights have come."""
        fetcher = self._pieces
        if not isinstance(message, ModelCandidate) or not comes_in_pieces(message):
            self._decide(message)
        elif fetcher is not None and self.active:
            if self._coming is not None:
                self._decide(self._coming, refused(Code.STALE, 'a newer candidate came'))
            self._coming = message
            fetcher.fetch(message.sha256)
        else:
            self._decide(message, refused(Code.PINNED, NOT_ACTIVE))

    def _on_weights(self, digest: str, data: bytes) -> None:
        """Take the weights of the candidate that they were fetched for."""
        message, self._coming = self._coming, None
        if message is None or message.sha256 != digest:
            return
        try:
            weights = inflated(bytearray(data), self._open.base.state)
        except WeightsError as error:
            self._decide(message, refused(Code.DAMAGED, str(error)))
            return
        message.weights = to_bytes(weights)
        self._decide(message)

    @guarded
    def _give_up_candidate(self) -> None:
        message, fetcher = self._coming, self._pieces
        if message is not None and fetcher is not None and fetcher.quiet_s > PIECES_LOST_S:
            self._coming = None
            fetcher.stop()
            text = 'its weights do not come from tuner/get_candidate'
            self._decide(message, refused(Code.STALE, text))  # nobody has looked at it

    @guarded
    def _decide(
        self, message: ModelCandidate | HeadCandidate, finding: Finding | None = None
    ) -> None:
        """
        Answer a candidate.

        :param finding: None to put it to the gate
        """
        if not self.active:
            finding = refused(Code.PINNED, NOT_ACTIVE)
        if finding is None:
            now = int(self.get_clock().now().nanoseconds)
            finding = self._check.admit(to_candidate(message), now)
        reason, name = finding.verdict.reason, short(message.candidate_id)
        self._accepted += finding.accepted
        self._refused += not finding.accepted
        if finding.accepted:
            try:
                if isinstance(message, ModelCandidate):
                    cka, shares = dict(zip(message.layers, message.cka)), message.forward_share
                    shares = dict(zip(message.layers, shares))
                    self._board.take(message.frozen_layers, cka, shares)
                self._announce(f'tuned: {reason}')
            except Exception as error:  # it is in the store: a verdict must say so
                reason = f'{reason}; it is live but could not be announced: {error}'
                self._warn(reason)
        self._answer(message, finding, reason)
        # One call per level: rclpy takes the level of a call site from its first use.
        if finding.accepted:
            self.get_logger().info(f'candidate {name}: {reason}, live as {self._open.live}')
        else:
            self.get_logger().warning(f'candidate {name}: {reason}')

    def _answer(
        self, message: ModelCandidate | HeadCandidate, finding: Finding, reason: str
    ) -> None:
        head, verdict = isinstance(message, HeadCandidate), finding.verdict
        self._verdicts.publish(
            ModelVerdict(
                candidate_id=short(message.candidate_id),
                kind=ModelVerdict.HEAD if head else ModelVerdict.ROUND,
                code=finding.code,
                reason=reason,
                version=self._open.live,
                samples=verdict.samples,
                live_accuracy=verdict.live_accuracy,
                candidate_accuracy=verdict.candidate_accuracy,
                p_worse=verdict.p_worse,
                collectors=message.collectors if finding.accepted else [],
                batch_ids=message.batch_ids if finding.accepted else [],
            )
        )

    def _announce(self, reason: str) -> None:
        """Publish the live weights and the layers."""
        store = self._open
        update, warnings = store.live_update()
        self._warn(*warnings)
        manifest, data = store.manifests[store.live], _packed(head_of(update))
        self._announce_backbone(update)
        message = ModelUpdate(
            version=store.live,
            parent=manifest.parent,
            base_sha256=store.base.sha256,
            backbone_sha256=store.backbone(store.live),
            sha256=sha256(data),
            architecture=store.base.spec.architecture,
            classes=list(manifest.classes),
            frozen_layers=list(manifest.frozen_layers),
            weights=to_bytes(data),
            reason=reason,
            collectors=list(manifest.learned),
            batch_ids=list(manifest.learned.values()),
        )
        message.header.stamp = self.get_clock().now().to_msg()
        self._models.publish(message)
        self._announce_layers()

    def _announce_backbone(self, update: State) -> None:
        """Publish the live backbone when it is another one than before."""
        store = self._open
        digest = store.backbone(store.live)
        if digest != self._announced:
            message = Backbone(base_sha256=store.base.sha256, backbone_sha256=digest)
            if not self._limit.on:  # else who lacks it asks `~/get_model`
                message.weights = to_bytes(_packed(backbone_of(update)))
            message.header.stamp = self.get_clock().now().to_msg()
            self._backbones.publish(message)
            self._announced = digest

    def _announce_layers(self) -> None:
        message = LayerStates(model_version=self._open.live)
        message.header.stamp = self.get_clock().now().to_msg()
        message.layers = [LayerState(**vars(layer)) for layer in self._board.layers()]
        self._layers.publish(message)
        self._save_layers()

    @guarded
    def _save_layers(self) -> None:
        """Keep the frozen state; what a full disk did not take is tried again by a timer."""
        self._warn(self._board.save())

    @guarded
    def _look_after_exports(self) -> None:
        if self._exports is not None:
            self._exports.poll()

    # Layers

    def _on_set_frozen_layers(
        self, request: SetFrozenLayers.Request, response: SetFrozenLayers.Response
    ) -> SetFrozenLayers.Response:
        if not self.active:
            return answered(response, response.NOT_ACTIVE, NOT_ACTIVE)
        try:
            response.changed = self._board.set(request.names, request.frozen, request.pinned)
        except MessageError as error:
            return answered(response, response.UNKNOWN_LAYER, str(error))
        self._announce_layers()
        lost = ', but not on the disk yet' if self._board.unsaved else ''
        return answered(response, response.NONE, f'{len(response.changed)} layers changed{lost}')


def _packed(tensors: State) -> bytes:
    """Return tensors as they travel; nothing for none."""
    return pack(tensors) if tensors else b''


def main() -> int:
    """Run the node."""
    return run(ModelManagerNode)
