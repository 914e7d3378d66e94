# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
What updates of the weights cost: bytes that `model_manager` writes to the disk, and bytes on the
topics, for new heads and for new backbones.

`model_manager` runs as a process; here somebody proposes what a tuner would, one after the other,
and counts the messages as they are serialised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
import json
import os
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import serialize_message

from etuner_ros.bench.head_commit import head_commit
from etuner_ros.core.errors import EtunerError
from etuner_ros.core.models.networks import build, pretrained_spec
from etuner_ros.core.models.store import head_of
from etuner_ros.core.models.weights import (
    backbone_digest,
    backbone_of,
    pack,
    pack_base,
    read_base,
    sha256,
    State,
)
from etuner_ros.msg import (
    Backbone,
    HeadCandidate,
    LayerStates,
    ModelCandidate,
    ModelUpdate,
    ModelVerdict,
)
from etuner_ros.nodes.messages import to_bytes
from etuner_ros.nodes.qos import LATCHED, reliable
from etuner_ros.nodes.running import use_dds_profile
from etuner_ros.shared.supervisor import Supervisor

INPUT_SIZE = 160
CLASSES = tuple(f'kind {i}' for i in range(16))
FROZEN_SHARE = 0.56  # of the blocks from the input on, as launched: they are as deployed
LIMIT_S = 60.0  # for one answer


@dataclass(frozen=True)
class Traffic:
    """Bytes of so many updates."""

    head_updates: int
    backbone_updates: int
    head_bytes: int  # weights of one head
    backbone_bytes: int  # weights of one backbone
    sent_by_topic: dict[str, int]  # all messages
    written_bytes: int  # by model_manager, to the disk
    commit: str

    @property
    def sent_bytes(self) -> int:
        """All messages."""
        return sum(self.sent_by_topic.values())

    @property
    def whole_bytes(self) -> int:
        """What the weights of all updates would have, if each carried head and backbone."""
        updates = self.head_updates + self.backbone_updates
        return updates * (self.head_bytes + self.backbone_bytes)


class Proposer:
    """Proposes updates to a `model_manager`, and counts what is said."""

    def __init__(self, base: Path) -> None:
        self.base = read_base(base)
        use_dds_profile()
        rclpy.init()
        self.node = rclpy.create_node('bench_proposer')
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.sent: Counter[str] = Counter()
        self.live: ModelUpdate | None = None
        self.backbone = ''  # that was announced last
        self.update: State = {}  # that is live
        hear = self.node.create_subscription
        for kind, topic in ((ModelUpdate, 'model'), (Backbone, 'backbone')):
            hear(kind, topic, self._counted(topic), LATCHED)
        hear(LayerStates, 'layers', self._counted('layers'), LATCHED)
        hear(ModelVerdict, 'verdicts', self._counted('verdicts'), reliable(10))
        self._heads = self.node.create_publisher(HeadCandidate, 'head_candidate', reliable(2))
        self._rounds = self.node.create_publisher(ModelCandidate, 'candidate', reliable(2))

    def _counted(self, topic: str) -> Callable[[Any], None]:
        def count(message: Any) -> None:
            self.sent[topic] += len(serialize_message(message))
            if isinstance(message, ModelUpdate):
                self.live = message
            elif isinstance(message, Backbone):
                self.backbone = message.backbone_sha256

        return count

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """
        Spin until a condition holds.

        :raises EtunerError: when it does not
        """
        end = time.monotonic() + LIMIT_S
        while not condition():
            if time.monotonic() > end:
                raise EtunerError(f'{what} did not come from model_manager in {LIMIT_S:.0f} s')
            self.executor.spin_once(timeout_sec=0.05)

    def propose(self, update: State, is_round: bool) -> None:
        """Propose an update and wait until it is live."""
        assert self.live is not None
        before, backbone = self.live.version, backbone_digest(self.base.sha256, update)
        data = pack(update if is_round else head_of(update))
        values = {
            'candidate_id': f'{before + 1}',
            'parent': before,
            'base_sha256': self.base.sha256,
            'backbone_sha256': backbone,
            'sha256': sha256(data),
            'classes': list(CLASSES),
            'weights': to_bytes(data),
        }
        message = ModelCandidate(**values) if is_round else HeadCandidate(**values)
        topic = 'candidate' if is_round else 'head_candidate'
        self.sent[topic] += len(serialize_message(message))
        (self._rounds if is_round else self._heads).publish(message)
        verdicts = self.sent['verdicts']
        self.until(lambda: self.sent['verdicts'] > verdicts, 'a verdict')
        self.until(lambda: self.live is not None and self.live.version > before, 'the version')
        self.until(lambda: self.backbone == backbone, 'its backbone')
        self.update = update

    def close(self) -> None:
        """Leave the graph."""
        self.node.destroy_node()
        rclpy.shutdown()


def measure(output: Path, heads: int, backbones: int, seed: int = 0) -> Traffic:
    """
    Send updates, backbones evenly among the heads; write `traffic.json`.

    :raises EtunerError: when `model_manager` does not answer
    """
    rng = np.random.default_rng(seed)
    before = dict(os.environ)
    output.mkdir(parents=True, exist_ok=True)
    # Beside the results: a file system in memory counts no bytes.
    with tempfile.TemporaryDirectory(prefix='.traffic.', dir=output) as name:
        folder = Path(name)
        base = folder / 'base.safetensors'
        model = build(pretrained_spec('efficientnet_lite0', INPUT_SIZE), 'pretrained')
        for label in CLASSES:
            model.add_class(label)
        base.write_bytes(pack_base(model.state(), model.spec, model.unit_sizes))
        (folder / 'params.yaml').write_text(
            json.dumps(
                {
                    '/**': {
                        'ros__parameters': {
                            'autostart': True,
                            'model': {'weights': str(base), 'input_size': INPUT_SIZE},
                        }
                    }
                }
            )
        )
        proposer = Proposer(base)
        os.environ['ROS_HOME'] = str(folder)
        supervisor = Supervisor([folder / 'params.yaml'], folder / 'log')
        try:
            supervisor.start('model_manager')
            proposer.until(lambda: proposer.live is not None, 'the base weights')
            proposer.sent.clear()
            pid = supervisor.pid('model_manager')
            written = _written(pid)
            trained = _trained(proposer.base.state, model.unit_names)
            for number in range(heads + backbones):
                turn = backbones * (number + 1) // (heads + backbones)
                is_round = turn > backbones * number // (heads + backbones)
                names = [*(trained if is_round else ()), 'head.weight', 'head.bias']
                state = {k: proposer.base.state[k] for k in names}
                noise = {k: _noise(rng, v) for k, v in state.items()}
                proposer.propose({**backbone_of(proposer.update), **noise}, is_round)
            update = proposer.update
            found = Traffic(
                heads,
                backbones,
                len(pack(head_of(update))),
                len(pack({k: proposer.base.state[k] for k in trained})),
                dict(proposer.sent),
                _written(pid) - written,
                head_commit(),
            )
        finally:
            supervisor.stop()
            proposer.close()
            os.environ.clear()
            os.environ.update(before)
    content = {**asdict(found), 'sent_bytes': found.sent_bytes, 'whole_bytes': found.whole_bytes}
    (output / 'traffic.json').write_text(json.dumps(content, indent=1) + '\n')
    return found


def table(found: Traffic) -> str:
    """Return the figures as a Markdown table."""
    rows = [('written to the disk by model_manager', found.written_bytes)]
    rows += [(f'sent on {topic}', count) for topic, count in sorted(found.sent_by_topic.items())]
    rows += [('sent, all', found.sent_bytes), ('weights, if all were whole', found.whole_bytes)]
    lines = [
        f'{found.head_updates} new heads of {found.head_bytes / 1e3:.0f} KB, '
        f'{found.backbone_updates} new backbones of {found.backbone_bytes / 1e6:.1f} MB',
        '',
        '| what | MB |',
        '|---|---|',
    ]
    return '\n'.join(lines + [f'| {what} | {count / 1e6:.2f} |' for what, count in rows])


def _trained(state: State, units: Sequence[str]) -> list[str]:
    """Return the tensors of the blocks that rounds train as launched."""
    rear = units[round(FROZEN_SHARE * len(units)) :]
    starts = tuple(f'backbone.{unit}.' for unit in rear)
    return [k for k, v in state.items() if k.startswith(starts) and v.dtype == np.float32]


def _noise(rng: np.random.Generator, tensor: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return numbers that no compression makes smaller, as training leaves them."""
    return rng.normal(size=tensor.shape).astype(np.float32)


def _written(pid: int | None) -> int:
    """Return the bytes that a process has had written to the disk."""
    lines = Path(f'/proc/{pid}/io').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('write_bytes'))
