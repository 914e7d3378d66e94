# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Announces one version after the other, in a process of its own as `model_manager` is one.

Arguments: base weights, first version, how many, seconds between two, and a safetensors file with
the ranges of activations when versions are quantised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
import subprocess
import sys
import time

import numpy as np
import rclpy

from etuner_ros.core.errors import EtunerError
from etuner_ros.core.models.store import head_of
from etuner_ros.core.models.weights import (
    backbone_digest,
    backbone_of,
    BaseWeights,
    pack,
    read_base,
    sha256,
    State,
    unpack,
)
from etuner_ros.core.processes import die_with_parent
from etuner_ros.msg import Backbone, ModelUpdate
from etuner_ros.nodes.messages import to_bytes
from etuner_ros.nodes.qos import LATCHED
from etuner_ros.nodes.running import use_dds_profile

PERIOD = 70  # versions after which the marks repeat


def swap_messages(
    base: BaseWeights, version: int, ranges: State | None = None
) -> tuple[Backbone, ModelUpdate]:
    """
    Announce weights by which a prediction shows from which version each part of it came.

    The class, the score and the appearance (which the first blocks make) each follow the number
    of the version with another period; a new class comes and goes.

    :param ranges: of activations, for quantised versions
    """
    mark = version % PERIOD
    classes = [*base.spec.classes, *(['grown'] if mark % 2 else [])]
    weight = base.state['head.weight']
    bias = np.zeros(len(classes), np.float32)
    bias[mark % len(base.spec.classes)] = 1.0 + 0.5 * (mark % 7)
    state = {
        k: np.multiply(v, 1.0 + 0.02 * (mark % 5), dtype=np.float32)
        for k, v in base.state.items()
        if v.dtype == np.float32 and v.ndim > 1 and k not in ('head.weight', 'head.bias')
    }
    state.update(ranges or {})
    head = {'head.weight': np.zeros((len(classes), weight.shape[1]), np.float32)}
    return announcement(base, version, classes, {**state, **head, 'head.bias': bias})


def announcement(
    base: BaseWeights, version: int, classes: Sequence[str], update: State
) -> tuple[Backbone, ModelUpdate]:
    """Return how `model_manager` announces a version whose backbone is new."""
    backbone = backbone_of(update)
    digest = backbone_digest(base.sha256, backbone)
    data = pack(head_of(update))
    return Backbone(
        base_sha256=base.sha256, backbone_sha256=digest, weights=to_bytes(pack(backbone))
    ), ModelUpdate(
        version=version,
        base_sha256=base.sha256,
        backbone_sha256=digest,
        sha256=sha256(data),
        architecture=base.spec.architecture,
        classes=list(classes),
        weights=to_bytes(data),
    )


@contextmanager
def announcing(
    base: Path, first: int, count: int, period_s: float, ranges: Path | None = None
) -> Iterator[None]:
    """
    Have another process announce versions, from now on.

    It ends in order: a process that is killed leaves locks of DDS behind that others wait for.

    :raises EtunerError: when nobody listens, or it does not start
    """
    arguments = [str(base), str(first), str(count), str(period_s)]
    arguments += [str(ranges)] if ranges is not None else []
    command = [sys.executable, '-m', 'etuner_ros.bench.swapper', *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=die_with_parent
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b'ready\n':
            raise EtunerError('the process that announces versions did not start')
        process.stdin.write(b'go\n')
        process.stdin.flush()
        yield
        process.wait(count * period_s + 30.0)
    finally:
        process.kill()
        process.wait()


def main() -> int:
    """Announce; the first one when somebody listens."""
    base, first, count = read_base(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    period = float(sys.argv[4])
    ranges = unpack(Path(sys.argv[5]).read_bytes()) if len(sys.argv) > 5 else None
    numbers = range(first, first + min(count, PERIOD))
    messages = {n % PERIOD: swap_messages(base, n, ranges) for n in numbers}
    use_dds_profile()
    rclpy.init()
    node = rclpy.create_node('swapper')
    backbones = node.create_publisher(Backbone, 'backbone', LATCHED)
    publisher = node.create_publisher(ModelUpdate, 'model', LATCHED)
    while publisher.get_subscription_count() == 0:
        rclpy.spin_once(node, timeout_sec=0.05)
    print('ready', flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, began + number * period - time.monotonic()))
        backbone, message = messages[(first + number) % PERIOD]
        message.version = first + number
        backbones.publish(backbone)
        publisher.publish(message)
    time.sleep(period)
    node.destroy_node()
    rclpy.shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
