# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
`model_manager`: owns the versions of the weights and the frozen state of every layer; checks,
commits, announces, rolls back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import fnmatch
import json
import math
from pathlib import Path
import subprocess
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.task import Future

from etuner_ros.core.config import Checked, GateConfig, setting
from etuner_ros.core.decide.gate import judge, Outcome, Verdict
from etuner_ros.core.errors import EtunerError, StoreError, WeightsError
from etuner_ros.core.files import home, replace_file
from etuner_ros.core.models.base_weights import base_file, intact_file, prepare_in_process
from etuner_ros.core.models.export import export_in_process, FORMATS
from etuner_ros.core.models.store import ModelStore
from etuner_ros.core.models.weights import check_update, sha256, unpack
from etuner_ros.msg import (
    LayerState,
    LayerStates,
    ModelCandidate,
    ModelUpdate,
    ModelVerdict,
    ValidationOutcome,
)
from etuner_ros.nodes.base_fetcher import PIECE
from etuner_ros.nodes.health import guarded
from etuner_ros.nodes.lifecycle import AutostartNode, transition
from etuner_ros.nodes.messages import short, to_bytes
from etuner_ros.nodes.parameters import declare, ModelSettings
from etuner_ros.nodes.qos import LATCHED, reliable
from etuner_ros.nodes.running import run
from etuner_ros.srv import (
    ExportVersion,
    GetModel,
    ListVersions,
    PinVersion,
    RollBack,
    SetFrozenLayers,
    SwapModel,
)

MOST_OUTCOMES, MOST_CLASSES, MOST_EXPORTS = 100_000, 10_000, 4
NOT_ACTIVE = 'model_manager is not active: weights and layers are pinned'


@dataclass(frozen=True)
class StoreSettings(Checked):
    """Parameters of the model store."""

    folder: str = setting('', 'folder of the model store; empty = $ROS_HOME/etuner/models')
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

    Subscribes `candidate` (ModelCandidate). Publishes `model` (ModelUpdate, latched), `layers`
    (LayerStates, latched), `verdicts` (ModelVerdict). Serves `~/set_frozen_layers`, `~/swap`,
    `~/roll_back`, `~/list_versions`, `~/pin_version`, `~/export_version`, `~/get_model`.
    Deactivated, weights and layers are pinned: candidates are refused, services that would change
    something say so.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__('model_manager', **options)
        self._model = declare(self, 'model', ModelSettings)
        self._store: ModelStore | None = None
        self._frozen: set[str] = set()
        self._pinned: set[str] = set()
        self._cka: dict[str, float] = {}
        self._forward_shares: dict[str, float] = {}
        self._exports: list[tuple[subprocess.Popen[str], Future]] = []
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
            'versions pinned': len(store.pinned) if store else 0,
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
        settings = self._store_settings = declare(self, 'models', StoreSettings)
        self._gate = declare(self, 'gate', GateConfig, self._apply_gate)
        wanted = (self._model.architecture, self._model.input_size, self._model.weights)
        base = intact_file(base_file(*wanted))
        if base is None:
            lines = ['they are gone; they are made anew']
            if self._preparation is not None and self._preparation.stderr is not None:
                lines = self._preparation.stderr.read().strip().splitlines() or ['no reason given']
                self._preparation.stderr.close()
            self._preparation = prepare_in_process(*wanted)
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
            self.create_service(PinVersion, '~/pin_version', self._on_pin),
            # In a group of its own: a call that waits would keep all others waiting.
            self.create_service(
                ExportVersion,
                '~/export_version',
                self._on_export,
                callback_group=ReentrantCallbackGroup(),
            ),
            self.create_service(GetModel, '~/get_model', self._on_get_model),
            self.create_timer(0.2, self._look_after_exports),
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
        for process, future in self._exports:
            process.kill()
            process.wait()
            future.set_result('model_manager was cleaned up')
        self._exports.clear()
        self.destroy_entities()
        self._store = None

    def close(self) -> None:
        """Let go of everything, at the end of the process."""
        self.release()
        if self._preparation is not None:
            self._preparation.kill()
            self._preparation.wait()

    @property
    def _open(self) -> ModelStore:
        assert self._store is not None
        return self._store

    # Layers

    def _apply_gate(self, gate: GateConfig) -> None:
        self._gate = gate

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
                forward_share=self._forward_shares.get(name, math.nan),
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
            response.error_code, response.error_msg = response.NOT_ACTIVE, NOT_ACTIVE
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
            self._forward_shares = dict(zip(message.layers, map(float, message.forward_share)))
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
                collectors=message.collectors if accepted else [],
                batch_ids=message.batch_ids if accepted else [],
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
        if len(message.outcomes) > MOST_OUTCOMES or len(classes) > MOST_CLASSES:
            return refuse(ModelVerdict.DAMAGED, 'it has too many classes or validation samples')
        if len(message.collectors) != len(message.batch_ids):
            return refuse(ModelVerdict.DAMAGED, 'collectors and batch_ids differ in length')
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
            message.scenario,
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
                scenario_accuracy=by_scenario(message.outcomes),
                seconds=float(message.seconds),
                iterations=message.iterations,
                new_samples=message.new_samples,
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
        data, warnings = store.live_weights()
        for warning in warnings:
            self.health.problem(warning)
            self.get_logger().warning(warning)
        manifest = store.manifests[store.live]
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

    def _on_pin(
        self, request: PinVersion.Request, response: PinVersion.Response
    ) -> PinVersion.Response:
        if not self.active:
            response.error_code, response.error_msg = response.NOT_ACTIVE, NOT_ACTIVE
            return response
        try:
            self._open.pin(request.version, request.pinned)
            response.error_msg = (
                f'version {request.version} is {"kept for ever" if request.pinned else "free"}'
            )
        except WeightsError:
            response.error_code, response.error_msg = (
                response.UNKNOWN_VERSION,
                self._unknown(request.version),
            )
        except StoreError as error:
            response.error_code, response.error_msg = response.DISK, str(error)
        return response

    def _unknown(self, version: int) -> str:
        known = ', '.join(map(str, sorted(self._open.manifests)))
        return f'version {version} is not stored; stored: {known}'

    async def _on_export(
        self, request: ExportVersion.Request, response: ExportVersion.Response
    ) -> ExportVersion.Response:
        """Have a process with torch write the file; everything else goes on meanwhile."""
        settings, store = self._store_settings, self._open
        named = settings.export_folder
        root = (Path(named).expanduser() if named else home('exports')).resolve()
        path = (root / request.path).resolve()
        if request.version not in store.manifests:
            response.error_code = response.UNKNOWN_VERSION
            response.error_msg = self._unknown(request.version)
            return response
        problem = ''
        if request.format not in FORMATS:
            problem = f"'{short(request.format)}' is none of {', '.join(FORMATS)}"
        elif not request.path or path == root or not path.is_relative_to(root):
            problem = f'the path must lie below {root}'
        elif len(self._exports) >= MOST_EXPORTS:
            problem = 'too many exports are under way; try again later'
        if problem:
            response.error_code, response.error_msg = response.BAD_REQUEST, problem
            return response
        future: Future = Future()
        self._exports.append(
            (export_in_process(store.folder, request.version, request.format, path), future)
        )
        failed = await future
        if failed:
            response.error_code, response.error_msg = response.FAILED, str(failed)
        else:
            response.path, response.error_msg = str(path), f'version {request.version} is written'
        return response

    @guarded
    def _look_after_exports(self) -> None:
        for item in [e for e in self._exports if e[0].poll() is not None]:
            self._exports.remove(item)
            process, future = item
            assert process.stderr is not None
            lines = process.stderr.read().strip().splitlines() or ['no reason given']
            process.stderr.close()
            future.set_result(short(lines[-1], 300) if process.returncode else '')

    def _on_swap(
        self, request: SwapModel.Request, response: SwapModel.Response
    ) -> SwapModel.Response:
        if not self.active:
            response.error_code, response.error_msg = response.NOT_ACTIVE, NOT_ACTIVE
        elif request.version not in self._open.manifests:
            response.error_code = response.UNKNOWN_VERSION
            response.error_msg = self._unknown(request.version)
        else:
            self._go_live(request.version, 'swapped by hand', response)
        return response

    def _on_roll_back(
        self, request: RollBack.Request, response: RollBack.Response
    ) -> RollBack.Response:
        if not self.active:
            response.error_code, response.error_msg = response.NOT_ACTIVE, NOT_ACTIVE
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
        response.pinned = [m.version in self._open.pinned for m in manifests]
        response.head_only = [m.head_only for m in manifests]
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


def by_scenario(outcomes: Sequence[ValidationOutcome]) -> dict[str, float]:
    """Return a candidate's accuracy on the validation samples of each scenario."""
    found: dict[str, list[bool]] = {}
    for outcome in outcomes:
        found.setdefault(str(outcome.scenario), []).append(outcome.candidate_correct)
    return {scenario: sum(right) / len(right) for scenario, right in found.items()}


def main() -> int:
    """Run the node."""
    return run(ModelManagerNode)
