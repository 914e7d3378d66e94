# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which engine serves at which precision, and what to do when it can not."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
import os
import sys
import threading
from typing import Any

import numpy as np

from etuner_ros.core.config import Checked, setting
from etuner_ros.core.errors import ConfigError, EngineError
from etuner_ros.core.installing import INSTALL
from etuner_ros.core.models.weights import ModelSpec, State
from etuner_ros.core.serve.graph_file import Floats, GraphFile
from etuner_ros.core.serve.graph_store import graphs_folder, GraphStore
from etuner_ros.core.serve.networks import Network, OnnxNetwork, TorchNetwork

ENGINES = ('auto', 'torch', 'onnxruntime')
PRECISIONS = ('auto', 'fp32', 'fp16', 'int8')
CPU = 'CPUExecutionProvider'


@dataclass(frozen=True)
class EngineSettings(Checked):
    """How a network is to be served."""

    engine: str = setting(
        'auto',
        "'auto' takes onnxruntime where it is installed and runs on the device, else torch; "
        "'torch', 'onnxruntime'",
        choices=ENGINES,
    )
    precision: str = setting(
        'auto',
        "'auto' serves a version quantised that comes quantised; 'fp32' never does; 'int8' warns "
        "while none has come; 'fp16' is for CUDA",
        choices=PRECISIONS,
    )


def has_onnxruntime() -> bool:
    """Whether onnxruntime is installed."""
    return find_spec('onnxruntime') is not None


def providers_for(device: str, precision: str) -> list[Any]:
    """
    Return the providers of onnxruntime for a device, the best first.

    :raises EngineError: when the installed onnxruntime has none for it
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if device == 'cpu':
        return [CPU]
    number = int(device.partition(':')[2] or 0)
    found: list[Any] = []
    if 'TensorrtExecutionProvider' in there:
        cache = engine_cache()
        options: dict[str, Any] = {'device_id': number}
        if precision in ('fp16', 'int8'):
            options[f'trt_{precision}_enable'] = True
        if cache:
            options.update(trt_engine_cache_enable=True, trt_engine_cache_path=cache)
        found.append(('TensorrtExecutionProvider', options))
    if 'CUDAExecutionProvider' in there:
        found.append(('CUDAExecutionProvider', {'device_id': number}))
    if not found:
        raise EngineError(
            f'the installed onnxruntime runs on {", ".join(there)}, not on {device}: install '
            f'onnxruntime-gpu'
        )
    return [*found, CPU]


def engine_cache() -> str:
    """Return a folder for built engines that can be written to; empty when there is none."""
    folder = graphs_folder() / 'tensorrt'
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ''
    return str(folder) if os.access(folder, os.W_OK) else ''


class Engines:
    """
    Makes networks with the best engine that there is, and knows why that is not a better one.

    `network` belongs to one thread at a time; what it says may be read by any.

    :param device: of torch: 'cpu', 'cuda', 'cuda:1'
    :param threads: CPU threads of a prediction
    """

    def __init__(
        self,
        settings: EngineSettings | None = None,
        device: str = 'cpu',
        threads: int = 1,
        graphs: GraphStore | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        if self.settings.precision == 'fp16' and device == 'cpu':
            raise ConfigError("precision 'fp16' needs CUDA; set it to 'auto', 'fp32' or 'int8'")
        self.threads = threads
        self.device = device
        self._graphs = graphs or GraphStore()
        self._lock = threading.Lock()
        self._waits: tuple[ModelSpec, str] | None = None  # for a graph that is being made
        self._failed = ''  # why onnxruntime is not used any more
        self._trouble: dict[str, str] = {}  # what is not as wanted, by what

    @property
    def uses_onnxruntime(self) -> bool:
        """Whether onnxruntime is wanted, and not known to fail."""
        engine = self.settings.engine
        if engine == 'torch' or self._failed:
            return False
        return engine == 'onnxruntime' or has_onnxruntime()

    def why_not(self) -> str:
        """Return why the wanted engine or precision does not serve; nothing when it does."""
        return '; '.join(self._trouble.values())

    @property
    def warming(self) -> bool:
        """Whether another engine serves until the graph of the wanted one has been made."""
        return self._waits is not None and self._graphs.is_making

    @property
    def has_better(self) -> bool:
        """Whether the graph that was waited for is there now."""
        waits = self._waits
        if waits is None:
            return False
        try:
            return self._graph(*waits) is not None
        except EngineError:
            return False  # it will be tried again

    def set_threads(self, threads: int) -> None:
        """Take another number of threads; networks of onnxruntime that are made have their own."""
        self.threads = threads
        if 'torch' in sys.modules:
            sys.modules['torch'].set_num_threads(threads)

    def _graph(self, spec: ModelSpec, kind: str, wait: bool = False) -> GraphFile | None:
        with self._lock:
            look = self._graphs.wait if wait else self._graphs.find
            return look(spec.architecture, spec.input_size, kind)

    def network(
        self,
        spec: ModelSpec,
        state: State,
        ranges: tuple[str, Floats] | None = None,
        reuse: Network | None = None,
        wait: bool = False,
    ) -> Network:
        """
        Return a network with weights.

        When the wanted engine can not serve, the next best does, and `why_not` says why.

        :param state: all tensors of the network
        :param ranges: layout and ranges of its activations, when it is quantised
        :param reuse: one that does not serve any more and may be written over
        :param wait: for a graph that is being made
        """
        self._waits = None
        trouble = {'engine': self._failed} if self._failed else {}
        made: Network | None = None
        if self.uses_onnxruntime:
            try:
                made = self._onnx(spec, state, ranges, wait, trouble)
            except EngineError as error:
                trouble['engine'] = f'{error}; torch serves'
        elif self.settings.engine == 'onnxruntime' and not self._failed:
            trouble['engine'] = NOT_INSTALLED
        in_float = made is None and ranges is not None and not self.warming
        if in_float and self.settings.precision != 'fp32':
            trouble['precision'] = 'int8 needs onnxruntime; the version is served in fp32'
        self._trouble = trouble  # at once: others read it
        return made or self._torch(spec, state, reuse)

    def _torch(self, spec: ModelSpec, state: State, reuse: Network | None) -> Network:
        if isinstance(reuse, TorchNetwork):
            reuse.load(state)
            return reuse
        half = self.settings.precision == 'fp16'
        return TorchNetwork(spec, state, self.device, half, self.threads)

    def _onnx(
        self,
        spec: ModelSpec,
        state: State,
        ranges: tuple[str, Floats] | None,
        wait: bool,
        trouble: dict[str, str],
    ) -> Network | None:
        """
        Return a session; None while its graph is made.

        :param trouble: takes what is not as wanted
        :raises EngineError: when there can be none
        """
        if not has_onnxruntime():
            raise EngineError(NOT_INSTALLED)
        precision = self.settings.precision
        providers = providers_for(self.device, precision)
        if ranges is None and precision == 'int8':
            trouble['precision'] = (
                'precision is int8, but the live version is not quantised yet: fp32 serves until '
                'the tuner has calibrated one'
            )
        if ranges is not None and precision in ('auto', 'int8'):
            try:
                return self._best(spec, state, ranges, wait, providers)
            except EngineError as error:
                trouble['precision'] = f'{error}; fp32 serves'
        return self._best(spec, state, None, wait, providers)

    def _best(
        self,
        spec: ModelSpec,
        state: State,
        ranges: tuple[str, Floats] | None,
        wait: bool,
        providers: list[Any],
    ) -> Network | None:
        """
        Return a session by TensorRT, else in fp32 by CUDA; the CPU takes parts of either alone.

        The usual wheel for GPUs lists TensorRT, whether it is there or not.

        :raises EngineError: when there can be none
        """
        if len(providers) > 2:
            try:
                return self._session(spec, state, ranges, wait, providers)
            except EngineError:
                if self.settings.precision == 'fp16' or ranges is not None:
                    raise
        return self._session(spec, state, ranges, wait, providers[-2:])

    def _session(
        self,
        spec: ModelSpec,
        state: State,
        ranges: tuple[str, Floats] | None,
        wait: bool,
        providers: list[Any],
    ) -> Network | None:
        """Return a network that has looked at a picture once; None while its graph is made."""
        kind = 'fp32' if ranges is None else 'int8'
        self._waits = (spec, kind)
        graph = self._graph(spec, kind, wait)
        if graph is None:
            return None
        self._waits = None
        if ranges is not None and graph.layout != ranges[0]:
            raise EngineError('the version was quantised by another release of onnxruntime')
        filled = graph.filled(state, None if ranges is None else ranges[1])
        half = self.settings.precision == 'fp16' and 'Tensorrt' in str(providers[0])
        name = f'onnxruntime-{"fp16" if half else kind}'
        made = OnnxNetwork(name, filled, spec, ranges is not None, self.threads, providers)
        made.look([np.zeros((spec.input_size, spec.input_size, 3), np.uint8)])
        return made

    def observer(self, spec: ModelSpec) -> GraphFile:
        """
        Return the graph that observes the ranges of activations.

        :raises EngineError: when it can not be made
        """
        if not has_onnxruntime():
            raise EngineError(NOT_INSTALLED)
        with self._lock:
            return self._graphs.wait(spec.architecture, spec.input_size, 'observer')

    def give_up(self, why: str) -> None:
        """Use onnxruntime no more: it failed while it served."""
        self._failed = f'{why}; torch serves'

    def close(self) -> None:
        """End what is being made."""
        self._graphs.close()


NOT_INSTALLED = f'onnxruntime is not installed: {INSTALL} onnxruntime onnx; torch serves meanwhile'
