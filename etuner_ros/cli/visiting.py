# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A node in the graph for the time of one command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.validate_namespace import validate_namespace


@contextmanager
def visitor(namespace: str = '') -> Iterator[tuple[Node, SingleThreadedExecutor]]:
    """
    Give a node in the graph, for a while.

    :raises InvalidNamespaceException: when nothing can have that namespace
    """
    if namespace:  # a node that is not made warns of what it leaves behind
        validate_namespace(f'/{namespace.lstrip("/")}')
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('etuner_cli', context=context, namespace=namespace or None)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        yield node, executor
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
