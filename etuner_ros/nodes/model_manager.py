# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`model_manager`: owns the versions of the weights and the frozen state of every layer; checks,
commits, announces, rolls back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
import fnmatch
import json
import math
from pathlib import Path
from typing import Any

from rclpy.lifecycle import TransitionCallbackReturn

from etuner_ros.core.base_weights import base_file
from etuner_ros.core.base_weights import prepare_in_process
from etuner_ros.core.config import Checked
from etuner_ros.core.config import GateConfig
from etuner_ros.core.config import setting
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.errors import StoreError
from etuner_ros.core.errors import WeightsError
from etuner_ros.core.files import home
from etuner_ros.core.files import replace_file
from etuner_ros.core.gate import judge
from etuner_ros.core.gate import Outcome
from etuner_ros.core.gate import Verdict
from etuner_ros.core.model_store import ModelStore
from etuner_ros.core.weights import check_update
from etuner_ros.core.weights import sha256
from etuner_ros.core.weights import unpack
from etuner_ros.msg import LayerState
from etuner_ros.msg import LayerStates
from etuner_ros.msg import ModelCandidate
from etuner_ros.msg import ModelUpdate
from etuner_ros.msg import ModelVerdict
from etuner_ros.nodes.base_fetcher import PIECE
from etuner_ros.nodes.common import AutostartNode
from etuner_ros.nodes.common import declare
from etuner_ros.nodes.common import guarded
from etuner_ros.nodes.common import LATCHED
from etuner_ros.nodes.common import ModelSettings
from etuner_ros.nodes.common import reliable
from etuner_ros.nodes.common import run
from etuner_ros.nodes.common import short
from etuner_ros.nodes.common import to_bytes
from etuner_ros.nodes.common import transition
from etuner_ros.srv import GetModel
from etuner_ros.srv import ListVersions
from etuner_ros.srv import RollBack
from etuner_ros.srv import SetFrozenLayers
from etuner_ros.srv import SwapModel


@dataclass(frozen=True)
class StoreSettings(Checked):
    """Parameters of the model store."""

    folder: str = setting('', 'folder of the model store; empty = $ROS_HOME/etuner/models')
    keep: int = setting(
        10, 'versions made by rounds that are kept beside the live one and its parent', 1, 100000
    )


class ModelManagerNode(AutostartNode):
    """
    Guards the weights.

    Subscribes `candidate` (ModelCandidate). Publishes `model` (ModelUpdate, latched), `layers`
    (LayerStates, latched), `verdicts` (ModelVerdict). Serves `~/set_frozen_layers`, `~/swap`,
    `~/roll_back`, `~/list_versions`, `~/get_model`. Deactivated, weights and layers are pinned:
    candidates are refused, services that would change something say so.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('model_manager', **options)
        self._model = declare(self, 'model', ModelSettings)
        self._store: ModelStore | None = None
        self._frozen: set[str] = set()
        self._pinned: set[str] = set()
        self._cka: dict[str, float] = {}
        self._accepted = self._refused = 0
        # Base weights of a pretrained network are made by a process with torch, started at once so
        # that configuring need not wait.
        self._preparation = prepare_in_process(
            self._model.architecture, self._model.input_size, self._model.weights
        )

    def diagnostics(self) -> Mapping[str, object]:
        """Return what /diagnostics says about this node."""
        store = self._store
        return {
            'live version': store.live if store else 'none',
            'versions': len(store.manifests) if store else 0,
            'accepted': self._accepted,
            'refused': self._refused,
            'layers frozen': len(self._frozen),
            'layers pinned': len(self._pinned),
            'active': self.active,
        }

    @property
    def may_configure(self) -> bool:
        """Whether the base weights are there, or will not come."""
        return self._preparation is None or self._preparation.poll() is not None

    @transition
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Open the store, say what is damaged, make publishers and services."""
        if not self.may_configure:
            raise WeightsError(
                'the base weights are still being made; configure again in a few seconds'
            )
        settings = declare(self, 'models', StoreSettings)
        self._gate = declare(self, 'gate', GateConfig)
        base = base_file(self._model.architecture, self._model.input_size, self._model.weights)
        if (
            not base.exists()
            and self._preparation is not None
            and self._preparation.stderr is not None
        ):
            lines = self._preparation.stderr.read().strip().splitlines() or ['no reason given']
            self._preparation = prepare_in_process(
                self._model.architecture, self._model.input_size, self._model.weights
            )
            raise WeightsError(f'there are no base weights: {lines[-1]}')
        folder = Path(settings.folder).expanduser() if settings.folder else home('models')
        self._store = ModelStore(folder, base, settings.keep)
        for warning in self._store.warnings:
            self.health.problem(warning)
            self.get_logger().warning(warning)
        self._load_layers()
        self._models = self.create_lifecycle_publisher(ModelUpdate, 'model', LATCHED)
        self._layers = self.create_lifecycle_publisher(LayerStates, 'layers', LATCHED)
        self._verdicts = self.create_publisher(ModelVerdict, 'verdicts', reliable(10))
        self.entities += [
            self._models,
            self._layers,
            self._verdicts,
            self.create_subscription(ModelCandidate, 'candidate', self._on_candidate, reliable(2)),
            self.create_service(
                SetFrozenLayers, '~/set_frozen_layers', self._on_set_frozen_layers
            ),
            self.create_service(SwapModel, '~/swap', self._on_swap),
            self.create_service(RollBack, '~/roll_back', self._on_roll_back),
            self.create_service(ListVersions, '~/list_versions', self._on_list_versions),
            self.create_service(GetModel, '~/get_model', self._on_get_model),
        ]
        self.get_logger().info(
            f'version {self._store.live} of {len(self._store.manifests) - 1} stored, in '
            f'{self._store.folder}'
        )
        return TransitionCallbackReturn.SUCCESS

    @transition
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Announce weights and layers; take changes from now on."""
        result = super().on_activate(state)
        self._announce('live at start')
        self._announce_layers()
        return result

    def release(self) -> None:
        """Undo `on_configure`."""
        self.active = False
        self.destroy_entities()
        self._store = None

    close = release

    @property
    def _open(self) -> ModelStore:
        assert self._store is not None
        return self._store

    # Layers

    def _layers_file(self) -> Path:
        return self._open.folder / 'layers.json'

    def _load_layers(self) -> None:
        """Take up the frozen state where it was left."""
        names = {name for name, _ in self._open.base.units}
        self._frozen, self._pinned, self._cka = (
            set(self._open.manifests[self._open.live].frozen_layers) & names,
            set(),
            {},
        )
        try:
            raw = json.loads(self._layers_file().read_text())
            self._frozen, self._pinned = set(raw['frozen']) & names, set(raw['pinned']) & names
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.health.problem(
                f'the frozen layers could not be read and are those of the live version: {error}'
            )

    def _announce_layers(self) -> None:
        message = LayerStates(model_version=self._open.live)
        message.header.stamp = self.get_clock().now().to_msg()
        message.layers = [
            LayerState(
                name=name,
                frozen=name in self._frozen,
                pinned=name in self._pinned,
                cka=self._cka.get(name, math.nan),
                parameters=size,
            )
            for name, size in self._open.base.units
        ]
        self._layers.publish(message)
        replace_file(
            self._layers_file(),
            json.dumps({'frozen': sorted(self._frozen), 'pinned': sorted(self._pinned)}).encode(),
        )

    def _on_set_frozen_layers(
        self, request: SetFrozenLayers.Request, response: SetFrozenLayers.Response
    ) -> SetFrozenLayers.Response:
        if not self.active:
            response.error_code, response.error_msg = (
                response.NOT_ACTIVE,
                'model_manager is not active: layers are pinned as they are',
            )
            return response
        names = [name for name, _ in self._open.base.units]
        matches = {wanted: fnmatch.filter(names, wanted) for wanted in request.names}
        unknown = [short(wanted, 60) for wanted, found in matches.items() if not found]
        if unknown or not matches:
            response.error_code = response.UNKNOWN_LAYER
            wanted = ', '.join(unknown) or 'an empty list'
            response.error_msg = f'no layer matches {wanted}; layers: {", ".join(names)}'
            return response
        chosen = {name for found in matches.values() for name in found}
        before = {name: (name in self._frozen, name in self._pinned) for name in names}
        self._frozen = self._frozen | chosen if request.frozen else self._frozen - chosen
        self._pinned = self._pinned | chosen if request.pinned else self._pinned - chosen
        response.changed = [
            name for name in names if before[name] != (name in self._frozen, name in self._pinned)
        ]
        try:
            self._announce_layers()
        except OSError as error:
            self.health.problem(f'the frozen layers could not be stored: {error}')
        response.error_msg = f'{len(response.changed)} layers changed'
        return response

    # Candidates

    @guarded
    def _on_candidate(self, message: ModelCandidate) -> None:
        code, verdict = self._judge(message)
        accepted = code == ModelVerdict.ACCEPTED
        self._accepted, self._refused = self._accepted + accepted, self._refused + (not accepted)
        if accepted:
            self._cka = dict(zip(message.layers, (float(v) for v in message.cka)))
            named = {name for name, _ in self._open.base.units}
            kept = self._frozen & self._pinned
            self._frozen = kept | ((set(message.frozen_layers) & named) - self._pinned)
            self._announce(f'tuned: {verdict.reason}')
            self._announce_layers()
        live = self._store.live if self._store else 0
        self._verdicts.publish(
            ModelVerdict(
                candidate_id=short(message.candidate_id),
                code=code,
                reason=verdict.reason,
                version=live,
                samples=verdict.samples,
                live_accuracy=verdict.live_accuracy,
                candidate_accuracy=verdict.candidate_accuracy,
                p_worse=verdict.p_worse,
            )
        )
        # One call per level: rclpy takes the level of a call site from its first use.
        if accepted:
            self.get_logger().info(
                f'candidate {short(message.candidate_id)}: {verdict.reason}, live as version '
                f'{live}'
            )
        else:
            self.get_logger().warning(f'candidate {short(message.candidate_id)}: {verdict.reason}')

    def _judge(self, message: ModelCandidate) -> tuple[int, Verdict]:
        """Check a candidate, put it to the gate, store it."""

        def refuse(code: int, text: str) -> tuple[int, Verdict]:
            return code, Verdict(False, f'refused: {text}', 0, math.nan, math.nan, math.nan)

        if not self.active:
            return refuse(ModelVerdict.PINNED, 'model_manager is not active: weights are pinned')
        store = self._open
        data, classes = bytes(message.weights), tuple(message.classes)
        if message.base_sha256 != store.base.sha256:
            return refuse(
                ModelVerdict.DAMAGED,
                f'it counts from other base weights ({short(message.base_sha256, 15)})',
            )
        if message.parent != store.live:
            return refuse(
                ModelVerdict.STALE,
                f'it was made from version {message.parent}, version {store.live} is live',
            )
        if sha256(data) != message.sha256:
            return refuse(ModelVerdict.DAMAGED, 'its checksum is wrong')
        if len(set(classes)) != len(classes) or not all(classes):
            return refuse(ModelVerdict.DAMAGED, 'its classes are not distinct names')
        try:
            check_update(store.base.state, unpack(data), len(classes))
        except WeightsError as error:
            return refuse(ModelVerdict.DAMAGED, str(error))
        ids = [o.sample_id for o in message.outcomes]
        if len(set(ids)) != len(ids):
            return refuse(ModelVerdict.DAMAGED, 'a validation sample is counted twice')
        verdict = judge(
            [
                Outcome(o.sample_id, o.label, o.scenario, o.live_correct, o.candidate_correct)
                for o in message.outcomes
            ],
            self._gate,
        )
        if not verdict.accepted:
            return ModelVerdict.WORSE, verdict
        try:
            store.commit(
                data,
                message.parent,
                classes,
                frozen_layers=tuple(message.frozen_layers),
                reason=verdict.reason,
                accuracy=verdict.candidate_accuracy,
                seconds=float(message.seconds),
                head_only=message.iterations == 0,
                created_ns=int(self.get_clock().now().nanoseconds),
                learned={str(k): int(v) for k, v in zip(message.collectors, message.batch_ids)},
            )
        except EtunerError as error:
            self.health.problem(str(error))
            return refuse(ModelVerdict.DISK, str(error))
        return ModelVerdict.ACCEPTED, verdict

    def _announce(self, reason: str) -> None:
        """Publish the live weights."""
        store = self._open
        manifest, data = store.manifests[store.live], store.weights(store.live)
        message = ModelUpdate(
            version=store.live,
            parent=manifest.parent,
            base_sha256=store.base.sha256,
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

    # Versions

    def _go_live(self, version: int, reason: str, response: Any) -> None:
        """Make a stored version live and announce it; failures go into the response."""
        try:
            self._open.set_live(version)
            self._announce(reason)
            self._announce_layers()
            response.error_msg = f'version {version} is live'
            self.get_logger().info(f'{reason}: version {version} is live')
        except (WeightsError, StoreError, OSError) as error:
            self.health.problem(str(error))
            response.error_code, response.error_msg = response.DAMAGED, str(error)

    def _on_swap(
        self, request: SwapModel.Request, response: SwapModel.Response
    ) -> SwapModel.Response:
        if not self.active:
            response.error_code, response.error_msg = (
                response.NOT_ACTIVE,
                'model_manager is not active: weights are pinned',
            )
        elif request.version not in self._open.manifests:
            known = ', '.join(map(str, sorted(self._open.manifests)))
            response.error_code, response.error_msg = (
                response.UNKNOWN_VERSION,
                f'version {request.version} is not stored; stored: {known}',
            )
        else:
            self._go_live(request.version, 'swapped by hand', response)
        return response

    def _on_roll_back(
        self, request: RollBack.Request, response: RollBack.Response
    ) -> RollBack.Response:
        if not self.active:
            response.error_code, response.error_msg = (
                response.NOT_ACTIVE,
                'model_manager is not active: weights are pinned',
            )
            return response
        store = self._open
        if store.live == 0:
            response.error_code, response.error_msg = (
                response.NO_PARENT,
                'the base weights are live, there is nothing before them',
            )
        else:
            parent = store.manifests[store.live].parent
            best = (
                parent
                if parent in store.manifests
                else max(v for v in store.manifests if v < store.live)
            )
            self._go_live(best, 'rolled back', response)
        response.version = store.live
        return response

    def _on_list_versions(
        self, request: ListVersions.Request, response: ListVersions.Response
    ) -> ListVersions.Response:
        manifests = [self._open.manifests[v] for v in sorted(self._open.manifests)]
        response.live, response.base_sha256 = self._open.live, self._open.base.sha256
        response.versions = [m.version for m in manifests]
        response.parents = [m.parent for m in manifests]
        response.accuracies = [m.accuracy for m in manifests]
        response.reasons = [m.reason for m in manifests]
        return response

    def _on_get_model(
        self, request: GetModel.Request, response: GetModel.Response
    ) -> GetModel.Response:
        store = self._open
        if request.base_sha256 not in ('', store.base.sha256):
            response.error_code, response.error_msg = (
                response.UNKNOWN_BASE,
                f'only base weights {store.base.sha256} are here',
            )
            return response
        try:
            response.size = store.base_path.stat().st_size
            if not 0 <= request.offset < response.size:
                response.error_code, response.error_msg = (
                    response.BAD_RANGE,
                    f'the file has {response.size} bytes',
                )
                return response
            with store.base_path.open('rb') as stream:
                stream.seek(request.offset)
                response.data = to_bytes(stream.read(min(request.length or PIECE, PIECE)))
        except OSError as error:
            response.error_code, response.error_msg = (
                response.UNKNOWN_BASE,
                f'the base weights can not be read: {error}',
            )
        return response


def main() -> int:
    """Run the node."""
    return run(ModelManagerNode)
