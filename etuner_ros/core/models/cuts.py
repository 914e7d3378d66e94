# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Run a network from one block border to another: what the activation cache and the probes start
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import fx, nn, Tensor

from etuner_ros.core.models.networks import Unit


class _Tracer(fx.Tracer):
    """Records the network's own forward; blocks are single steps."""

    def __init__(self, leaves: set[nn.Module]) -> None:
        super().__init__()
        self._leaves = leaves

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is one step."""
        return m in self._leaves or super().is_leaf_module(m, module_qualified_name)


class Cuts:
    """
    Cuts a network behind its blocks.

    The order of computation, reshapes and pooling between blocks included, is recorded once with
    `torch.fx`. A border is a point where a single tensor, the output of a block, is all that the
    rest of the network needs. The pieces share modules and weights with the network, so freezing,
    training and new weights hold for both.

    :param network: maps (N, 3, H, W) to features
    :param units: its blocks, from input to output
    :ivar borders: numbers of leading blocks behind which it can be cut, ascending; 0 is the input.
        Only 0 when the network can not be recorded (its control flow depends on data)
    """

    def __init__(self, network: nn.Module, units: Sequence[Unit]) -> None:
        self._network, self._units = network, list(units)
        self._pieces: dict[tuple[int, int], fx.GraphModule] = {}
        self._ends: dict[int, fx.Node] = {}
        self.reason = ''  # why there is no border but 0
        tracer = _Tracer({unit.module for unit in units})
        try:
            self._graph = tracer.trace(network)
        except Exception as error:  # fx raises many kinds; the network still runs whole
            self.reason = f'{type(error).__name__}: {error}'
            self.borders: tuple[int, ...] = (0,)
            return
        nodes = self._nodes = list(self._graph.nodes)
        order = {node: i for i, node in enumerate(nodes)}
        names = {unit.module: i for i, unit in enumerate(units)}
        modules = dict(network.named_modules())
        done = 0  # leading blocks that have run, in their order
        for node in nodes:
            if node.op != 'call_module' or modules[str(node.target)] not in names:
                continue
            if names[modules[str(node.target)]] != done or len(node.users) == 0:
                break  # used twice, or out of order: no border from here on
            done += 1
            here = order[node]
            crossing = {
                source
                for later in nodes[here + 1 :]
                for source in later.all_input_nodes
                if order[source] <= here and source.op != 'get_attr'
            }
            if crossing == {node}:
                self._ends[done] = node
        self._order = order
        self.borders = (0, *self._ends)

    def border(self, prefix: int) -> int:
        """Return the last border at or before so many leading blocks."""
        return max(b for b in self.borders if b <= prefix)

    def run(self, x: Tensor, start: int, stop: int | None = None) -> Tensor:
        """
        Run the blocks from border `start` to border `stop`.

        :param x: the activation at `start`; for 0 the normalised images (N, 3, H, W)
        :param stop: None runs to the end of the network
        :return: the activation behind block `stop`, or features (N, ...) at the end
        :raises ValueError: when either is no border
        """
        end = len(self._units) + 1 if stop is None else stop
        if start not in self.borders or (stop is not None and stop not in self.borders):
            raise ValueError(f'borders are {self.borders}, got {start} and {stop}')
        if start == stop:
            return x
        if start == 0 and stop is None:
            return cast(Tensor, self._network(x))
        if (start, end) not in self._pieces:
            self._pieces[start, end] = self._piece(start, stop)
        return cast(Tensor, self._pieces[start, end](x))

    def _piece(self, start: int, stop: int | None) -> fx.GraphModule:
        """Copy the steps between two borders into a graph of their own."""
        graph = fx.Graph()
        values: dict[fx.Node, fx.Node] = {}
        first = 0
        if start:
            begin = self._ends[start]
            values[begin] = graph.placeholder('x')
            first = self._order[begin] + 1
        last = self._order[self._ends[stop]] if stop is not None else len(self._nodes) - 1
        for node in self._nodes[:first]:  # constants and parameters that later steps read
            if node.op == 'get_attr':
                values[node] = graph.node_copy(node, lambda n: values[n])
        for node in self._nodes[first : last + 1]:
            copied = graph.node_copy(node, lambda n: values[n])
            values[node] = copied
        if stop is not None:
            graph.output(values[self._nodes[last]])
        piece = fx.GraphModule(self._network, graph)
        piece.graph.eliminate_dead_code()
        piece.recompile()
        return piece
