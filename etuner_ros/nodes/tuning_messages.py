# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the tuner, to and from what its worker understands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

from std_msgs.msg import Header

from etuner_ros.core.decide.scenario_log import ScenarioLog
from etuner_ros.core.identity import Scenario
from etuner_ros.core.models.weights import backbone_digest, sha256
from etuner_ros.core.tune.round_keeper import Proposal, RoundKeeper, State
from etuner_ros.msg import (
    Box,
    HeadCandidate,
    LabelledSample,
    LayerStates,
    ModelCandidate,
    ModelUpdate,
    TunerStatus,
    ValidationOutcome,
)
from etuner_ros.nodes.messages import stamp_ns, to_bytes

STATES = {
    State.STARTING: TunerStatus.STARTING,
    State.WAITING: TunerStatus.WAITING,
    State.TUNING: TunerStatus.TUNING,
    State.PROPOSED: TunerStatus.PROPOSED,
    State.ACCEPTED: TunerStatus.PROPOSED,
    State.DOWN: TunerStatus.DOWN,
}


def frame_name(source: str, header: Header, uid: int, box: Box | None = None) -> str:
    """Return what a frame, or a thing in one, is called in the worker."""
    name = f'{source}/{stamp_ns(header)}/{header.frame_id}/{uid:x}'
    if box is None or not box.width:
        return name
    return f'{name}@{box.x:.0f},{box.y:.0f},{box.width:.0f},{box.height:.0f}'


def learned_of(update: ModelUpdate | None) -> dict[str, int]:
    """Return up to which batch of each collector a version has learned."""
    return dict(zip(update.collectors, update.batch_ids)) if update is not None else {}


def samples_message(
    collector: str,
    samples: Sequence[LabelledSample],
    new: bool,
    renamed: list[tuple[str, str]],
    scenario_at: Callable[[str, int], Scenario],
) -> dict[str, Any]:
    """Return labelled samples as the worker takes them."""

    def name(sample: LabelledSample) -> str:
        if sample.source:
            return frame_name(sample.source, sample.header, sample.frame_uid, sample.box)
        return f'{collector}/{sample.sample_id}'

    return {
        'op': 'samples',
        'samples': [
            {
                'id': name(s),
                'label': s.label,
                'predicted': s.predicted_label,
                'thing': s.box.width > 0,
                'image': bytes(s.image.data),
                'scenario': scenario_at(s.source, stamp_ns(s.header)),
            }
            for s in samples
            if s.label
        ],
        'new': new,
        'renamed': renamed,
        'withdrawn': [name(s) for s in samples if not s.label],
    }


def layers_message(layers: LayerStates) -> dict[str, Any]:
    """Return which blocks are frozen and pinned as the worker takes it."""
    return {
        'op': 'layers',
        'frozen': [s.name for s in layers.layers if s.frozen],
        'pinned': [s.name for s in layers.layers if s.pinned],
    }


def backbone_name(update: ModelUpdate) -> str:
    """Return the digest of the backbone that a version is for."""
    return str(update.backbone_sha256) or backbone_digest(update.base_sha256, {})


def model_message(update: ModelUpdate, backbone: bytes) -> dict[str, Any]:
    """
    Return live weights as the worker takes them.

    :param backbone: safetensors of their backbone; empty for that of the base weights, and when
        the worker has it
    """
    return {
        'op': 'model',
        'version': update.version,
        'classes': list(update.classes),
        'weights': bytes(update.weights),
        'backbone_sha256': backbone_name(update),
        'backbone': backbone,
    }


def proposal(message: Mapping[str, Any], prefix: str) -> Proposal:
    """Return what is remembered of a candidate that the worker made."""
    return Proposal(
        candidate_id=f'{prefix}/{sha256(message["weights"])[:12]}',
        parent=message['parent'],
        iterations=message.get('iterations', 0),
        accuracy=message['accuracy'],
        accuracy_before=message['accuracy_before'],
        move=message.get('appearance_move', ()),
    )


def _common(
    message: Mapping[str, Any],
    candidate_id: str,
    base_sha256: str,
    cursors: Mapping[str, int],
    scenarios: ScenarioLog,
) -> dict[str, Any]:
    """Return the fields that both kinds of candidates have."""
    current = scenarios.current
    return {
        'candidate_id': candidate_id,
        'parent': message['parent'],
        'base_sha256': base_sha256,
        'backbone_sha256': message['backbone'],
        'sha256': sha256(message['weights']),
        'classes': message['classes'],
        'weights': to_bytes(message['weights']),
        'scenario_sources': list(current),
        'scenarios': list(current.values()),
        'seconds': message['seconds'],
        'new_samples': message['new_samples'],
        'collectors': list(cursors),
        'batch_ids': list(cursors.values()),
        'outcomes': [
            ValidationOutcome(
                sample_id=sample_id,
                label=label,
                source=source,
                scenario=number,
                live_correct=live,
                candidate_correct=candidate,
                anchored=anchor is not None,
                anchor_correct=bool(anchor),
            )
            for sample_id, label, (source, number), live, candidate, anchor in message['outcomes']
        ],
    }


def head_candidate(message: Mapping[str, Any], *facts: Any) -> HeadCandidate:
    """Return a head as `model_manager` takes it; `facts` as in `_common`."""
    return HeadCandidate(**_common(message, *facts))


def model_candidate(
    message: Mapping[str, Any],
    architecture: str,
    layers: LayerStates | None,
    forward_shares: Mapping[str, float],
    *facts: Any,
) -> ModelCandidate:
    """Return what a round has made as `model_manager` takes it; `facts` as in `_common`."""
    names = [s.name for s in layers.layers] if layers else list(message['cka'])
    return ModelCandidate(
        **_common(message, *facts),
        architecture=architecture,
        frozen_layers=message['frozen'],
        layers=names,
        cka=[message['cka'].get(name, math.nan) for name in names],
        forward_share=[forward_shares.get(name, math.nan) for name in names],
        iterations=message['iterations'],
    )


def status_message(
    keeper: RoundKeeper, reason: str, version: int, layers: LayerStates | None
) -> TunerStatus:
    """Return what the tuner is doing and why; without a stamp."""
    blocks = layers.layers if layers else []
    tuning = keeper.state is State.TUNING
    return TunerStatus(
        state=STATES[keeper.state],
        reason=reason,
        batches_waiting=keeper.lazy.waiting,
        batches_needed=keeper.lazy.batches_needed,
        scenario_source=keeper.scenarios.last.camera,
        scenario=keeper.scenarios.last.number,
        scenario_score=keeper.scenarios.score,
        layers_frozen=sum(s.frozen for s in blocks),
        layers_total=len(blocks),
        model_version=version,
        rounds=keeper.completed,
        refused=keeper.refused,
        heads=keeper.heads,
        labels_compared=keeper.standing[0],
        labels_won=keeper.standing[1],
        labels_lost=keeper.standing[2],
        progress=keeper.progress if tuning else 0.0,
        last_round_s=keeper.last_round_s,
        tuning_s=keeper.tuning_s,
        accuracy_before=keeper.before,
        accuracy_after=keeper.after,
        energy_j=keeper.energy.last_j,
        energy_source=keeper.energy.source,
    )
