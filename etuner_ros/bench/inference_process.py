# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The inference node as the serving benchmark runs it. With a file to count in, it also tunes in a
thread of the same process, which is what this package does not do.
"""

from __future__ import annotations

from pathlib import Path
import sys
import threading

from etuner_ros.core.config import SimFreezeConfig, TrainConfig
from etuner_ros.core.identity import Scenario
from etuner_ros.core.images.codec import resize_square
from etuner_ros.core.images.sources import open_source
from etuner_ros.core.learn.learner import Learner
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.learn.trainer import Step
from etuner_ros.core.models.networks import from_base
from etuner_ros.core.models.weights import read_base
from etuner_ros.nodes.inference import main as run_node

HERE = Scenario('camera', 0)


def tune_for_ever(base: Path, stream: str, count: int, counts: Path) -> None:
    """Run one round after the other, as the worker does; write how many samples were trained."""
    read = read_base(base)
    config = TrainConfig()
    learner = Learner(from_base(read.state, read.spec), config, SimFreezeConfig(enabled=False))
    frames = [f for f in open_source(stream) if f.label][:count]
    images = [resize_square(f.image, learner.input_size) for f in frames]
    trained = number = 0
    while True:
        number += 1
        learner.add_samples(
            [
                Sample.of(f'{i}/{number}', f.label, HERE, x)
                for i, (f, x) in enumerate(zip(frames, images))
            ]
        )
        for item in learner.run_round():
            if isinstance(item, Step):
                trained += config.batch_size
                counts.write_text(str(trained))
        learner.go_back()


def main() -> int:
    """Run the node; arguments: file to count in or '', base weights, stream, labelled pictures."""
    counts, base, stream, count = sys.argv[1:5]
    del sys.argv[1:5]
    if counts:
        arguments = (Path(base), stream, int(count), Path(counts))
        threading.Thread(target=tune_for_ever, args=arguments, daemon=True).start()
    return run_node()


if __name__ == '__main__':
    sys.exit(main())
