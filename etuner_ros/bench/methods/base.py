# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What every method of the benchmark is: told of requests and labels, asked for predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from etuner_ros.bench.fronts import Fronts
from etuner_ros.core.cost import CostMeter
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.networks import Classifier


@dataclass(frozen=True)
class World:
    """What a method starts from, the same for all on one stream and seed."""

    base: Classifier  # the deployed model
    exemplars: tuple[Sample, ...]  # what it was fitted to
    features: Callable[[Sequence[Sample]], Tensor]  # of the deployed backbone, (n, D); free
    fronts: Fronts  # activations of its first blocks, kept
    meter: CostMeter
    seed: int


class Method:
    """
    One way to keep a deployed model up to date.

    The runner calls: `on_request` for each request, `on_change` when the detector says so,
    `on_batch` for labels, `wants_round` while no round runs, then `round`, `make_candidate` and
    `finish_round`, each when its virtual time has come. What predictions come from may change in
    `on_batch`, `finish_round` and `refresh` only.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.rounds = 0
        self.refused = 0
        self.updates = 0  # times that what it has learned went live

    @property
    def frozen(self) -> int:
        """Blocks that do not train now."""
        return len(self.world.base.units)

    @property
    def trained_share(self) -> float | None:
        """Share of the labelled samples that a round has trained on; None without rounds."""
        return None

    @property
    def compute_share(self) -> float:
        """Share of the compute that the last round was given, in (0, 1]; it lasts the longer."""
        return 1.0

    def on_request(self, sample: Sample) -> None:
        """Note a request; `predict` has answered it, or will before anything else is learned."""

    def wants_refresh(self) -> bool:
        """Return whether requests alone have shown something that predictions should follow."""
        return False

    def refresh(self) -> None:
        """Follow what requests have shown."""

    def on_change(self) -> None:
        """Note that the detector has found a change of scenario."""

    def on_batch(self, samples: list[Sample]) -> None:
        """Take labelled samples that arrived."""

    def wants_round(self) -> bool:
        """Return whether a round of training should start now."""
        return False

    def wants_last_round(self) -> bool:
        """Return whether a round should run over what waits at the end of the stream."""
        return False

    def round(self) -> Iterator[None]:
        """Train; yields after each training batch."""
        yield from ()

    def make_candidate(self) -> None:
        """Make what may go live of a round, and measure it."""

    def finish_round(self) -> None:
        """Bring what the round made live."""

    def examine(self, samples: Sequence[Sample]) -> list[str]:
        """
        Return what it would say if samples were the next requests, in this order; nothing that it
        learns from them lasts.
        """
        return self.predict(samples)

    def predict(self, samples: Sequence[Sample]) -> list[str]:
        """Return the label that the live model gives each sample."""
        raise TypeError(f'{type(self).__name__} does not predict')
