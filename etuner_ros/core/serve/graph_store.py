# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where the graphs of networks lie, and who makes those that are missing. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import hashlib
from importlib import metadata
import math
import os
from pathlib import Path
import time

from etuner_ros.core.errors import EngineError
from etuner_ros.core.files import home
from etuner_ros.core.models.child import Child
from etuner_ros.core.serve.graph_file import FORMAT, GraphFile, read_graph

RETRY_S = 300.0  # after which what could not be made is tried again
KINDS = ('fp32', 'int8', 'observer')


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return 'none'


def graphs_folder() -> Path:
    """Return the folder of graphs: `$ETUNER_GRAPHS`, by default below `$ROS_HOME`."""
    chosen = os.environ.get('ETUNER_GRAPHS')
    return Path(chosen) if chosen else home('graphs')


def has_graphs() -> bool:
    """Whether any graph has been made here."""
    return any(graphs_folder().glob('*.onnx'))


def graph_path(architecture: str, input_size: int, kind: str) -> Path:
    """
    Return the file of a graph. Its name holds all that it depends on, so a graph of another
    version is never found.
    """
    made_by = '/'.join(f'{n} {_version(n)}' for n in ('onnxruntime', 'onnx'))
    key = hashlib.sha256(f'{FORMAT} {made_by}'.encode()).hexdigest()[:10]
    return graphs_folder() / f'{architecture}-{input_size}-{key}-{kind}.onnx'


@dataclass(frozen=True)
class _Failure:
    """Why a graph could not be made."""

    text: str
    until: float  # when it may be tried again


class GraphStore:
    """
    Gives the graphs of networks; those that are missing are made in a process of their own.

    What failed is tried again after some minutes, unless the network is none that can be served.
    Not for two threads.

    :param clock: steady time in s
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._making: dict[tuple[str, int], Child] = {}
        self._failed: dict[tuple[str, int], _Failure] = {}
        self._read: dict[Path, GraphFile] = {}

    def find(self, architecture: str, input_size: int, kind: str) -> GraphFile | None:
        """
        Return a graph; None while it is made, which begins now when nobody has made it.

        :raises EngineError: when it can not be made
        """
        path, key = graph_path(architecture, input_size, kind), (architecture, input_size)
        if path in self._read:
            return self._read[path]
        try:
            if path.exists():
                try:
                    self._read[path] = read_graph(path)
                    return self._read[path]
                except EngineError:
                    if key not in self._making:
                        path.unlink(missing_ok=True)  # it is damaged: made anew
        except OSError as error:
            raise EngineError(f'{path} can not be used: {error.strerror or error}') from error
        self._make(key)
        return None

    def wait(self, architecture: str, input_size: int, kind: str) -> GraphFile:
        """
        Return a graph, which may take some seconds.

        :raises EngineError: when it can not be made
        """
        for _ in range(2):  # the second time when it has just been made
            found = self.find(architecture, input_size, kind)
            if found is not None:
                return found
            child = self._making.get((architecture, input_size))
            if child is not None:
                child.wait()
        found = self.find(architecture, input_size, kind)
        if found is None:
            raise EngineError(f'the graph of {architecture} at {input_size} px was not made')
        return found

    def _make(self, key: tuple[str, int]) -> None:
        failed = self._failed.get(key)
        if failed is not None and self._clock() < failed.until:
            raise EngineError(failed.text)
        child = self._making.get(key)
        if child is None:
            try:
                graph_path(*key, KINDS[0]).parent.mkdir(parents=True, exist_ok=True)
                self._making[key] = Child('etuner_ros.core.serve.graph', key[0], str(key[1]))
            except OSError as error:
                self._fail(key, f'{error.filename or ""}: {error.strerror or error}')
        elif child.ended:
            problem = child.problem
            child.close()
            del self._making[key]
            if problem:
                self._fail(key, problem)

    def _fail(self, key: tuple[str, int], why: str) -> None:
        text = f'the graph of {key[0]} at {key[1]} px can not be made: {why}'
        for_good = why.startswith(f"'{key[0]}'")  # the network itself is why
        self._failed[key] = _Failure(text, math.inf if for_good else self._clock() + RETRY_S)
        raise EngineError(text)

    @property
    def is_making(self) -> bool:
        """Whether a graph is being made."""
        return bool(self._making)

    def close(self) -> None:
        """End what is being made."""
        for child in self._making.values():
            child.close()
        self._making.clear()
