# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Serving in 8 bit: ranges of activations from the robot's own pictures, and features as they will be
served. A quantised version is another backbone: its ranges are part of what names it.
"""

from __future__ import annotations

from collections.abc import Sequence
import time

import numpy as np
import torch
from torch import Tensor

from etuner_ros.core.errors import EngineError
from etuner_ros.core.learn.sample import Sample
from etuner_ros.core.models.weights import ModelSpec, network_of, RANGES, State
from etuner_ros.core.serve.calibrate import calibrate, selection
from etuner_ros.core.serve.engines import Engines
from etuner_ros.core.serve.graph_file import Floats, ranges_of
from etuner_ros.core.serve.networks import Network

WORTH = 0.9  # time of a prediction in 8 bit, of that in float, from which on it is worth it
TRIED = 20  # predictions that are timed


class Quantiser:
    """
    Quantises versions where that is asked for, and remembers why it does not.

    :param spec: of the network
    :param base: tensors of the base weights
    """

    def __init__(self, engines: Engines, spec: ModelSpec, base: State) -> None:
        self._engines, self._spec, self._base = engines, spec, base
        self._faster: bool | None = None  # whether 8 bit are, here; None until it was measured
        self._refused: set[str] = set()  # digests of backbones that are better off in float
        self.why_not = ''  # why nothing is quantised, for people

    @property
    def wanted(self) -> bool:
        """Whether versions are to be quantised."""
        precision = self._engines.settings.precision
        if not self._engines.uses_onnxruntime or self._faster is False:
            return False
        return precision == 'int8' or precision == 'auto'

    def wants(self, backbone: str, update: State) -> bool:
        """Return whether a version could be quantised, with `LEAST_PICTURES` to calibrate with."""
        return self.wanted and ranges_of(update) is None and backbone not in self._refused

    def refuse(self, backbone: str, why: str) -> None:
        """Leave a backbone in float."""
        self._refused.add(backbone)
        self.why_not = why

    def quantise(self, update: State, pictures: Sequence[Sample]) -> tuple[State, Network]:
        """
        Return the update with the ranges of its activations, and the network that serves it.

        :param update: tensors that differ from the base weights
        :raises EngineError: when it can not be, or does not pay
        """
        state = self._whole(update)
        images = [s.image for s in selection(pictures)]  # no others are decoded
        layout, ranges = calibrate(self._spec, state, images, self._engines)
        quantised = {**update, f'{RANGES}{layout}': ranges}
        network = self._network(state, (layout, ranges))
        if self._faster is None and self._engines.settings.precision == 'auto':
            self._measure(network, state, images)
        self.why_not = ''
        return quantised, network

    def _whole(self, update: State) -> State:
        return {**self._base, **network_of(update)}

    def _network(self, state: State, ranges: tuple[str, Floats]) -> Network:
        network = self._engines.network(self._spec, state, ranges, wait=True)
        if not network.quantised:
            raise EngineError(self._engines.why_not() or 'the engine does not serve 8 bit')
        return network

    def network(self, update: State) -> Network | None:
        """Return the network that serves a quantised update; None when it can't be made here."""
        ranges = ranges_of(update)
        if ranges is None:
            return None
        try:
            return self._network(self._whole(update), ranges)
        except EngineError as error:
            self.why_not = str(error)
            return None

    def _measure(self, network: Network, state: State, images: Sequence[np.ndarray]) -> None:
        """
        Find out whether 8 bit are faster here: without instructions for them they are not.

        :raises EngineError: when they are not
        """
        plain = self._engines.network(self._spec, state, wait=True)
        times: dict[str, list[float]] = {}
        for number in range(TRIED):
            for one in (network, plain):
                began = time.perf_counter()
                one.look([images[number % len(images)]])
                times.setdefault(one.name, []).append(time.perf_counter() - began)
        of_int8, of_float = (1e3 * min(times[n.name]) for n in (network, plain))
        self._faster = of_int8 < WORTH * of_float
        if not self._faster:
            raise EngineError(
                f'8 bit are not worth it on this computer: {of_int8:.1f} ms a prediction, '
                f'{of_float:.1f} ms in float'
            )


def features_by(network: Network, samples: Sequence[Sample]) -> Tensor:
    """Return the features (n, D) of samples as a network serves them: one picture at a time."""
    rows = [network.look([s.image])[0] for s in samples]
    return torch.from_numpy(np.concatenate(rows))
