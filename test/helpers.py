# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A ROS graph for one test: nodes in this process, real DDS, waiting for events, no sleeping."""

from __future__ import annotations

from collections.abc import Callable
import itertools
import os
import socket
import time
from typing import Any
import zlib

import numpy as np
from rcl_interfaces.msg import Log
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from etuner_ros.core.images.codec import encode_jpeg

LIMIT_S = 120.0  # generous: only a broken feature waits so long
MOST_DOMAINS = 100  # 1 to 100 are safe on Linux
_domains, _graphs = itertools.count(), itertools.count()


def new_domain() -> int:
    """Return a ROS domain for a test, which no other process of this run of tests uses."""
    lanes = int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', '1'))
    lane = int(os.environ.get('PYTEST_XDIST_WORKER', 'gw0').removeprefix('gw'))
    each = MOST_DOMAINS // lanes
    # Two runs of the tests start at different places.
    run = zlib.crc32(os.environ.get('PYTEST_XDIST_TESTRUNUID', str(os.getpid())).encode())
    return 1 + (run + lane * each + next(_domains) % each) % MOST_DOMAINS


class Graph:
    """Nodes of one test and an executor that is spun while the test waits."""

    def __init__(self) -> None:
        self.domain = new_domain()
        # rcl keeps one /rosout publisher per node name in a process, and a node of an earlier test
        # may take it along when it is collected late; a namespace makes the names differ.
        self.namespace = f'/t{next(_graphs)}'
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self._nodes: list[Any] = []
        self.probe = self.add(lambda **options: Node('probe', **options))

    def add(self, make: Callable[..., Any], **parameters: Any) -> Any:
        """Make a node with parameters (`a__b` stands for `a.b`) and spin it from now on."""
        overrides = [Parameter(k.replace('__', '.'), value=v) for k, v in parameters.items()]
        node = make(context=self.context, namespace=self.namespace, parameter_overrides=overrides)
        self.executor.add_node(node)
        self._nodes.append(node)
        return node

    def remove(self, node: Any) -> None:
        """End a node, as when its process ends."""
        self._nodes.remove(node)
        self.executor.remove_node(node)
        if hasattr(node, 'close'):
            node.close()
        node.destroy_node()

    def listen(self, kind: Any, topic: str, qos: Any = 50) -> list[Any]:
        """Collect what is published on a topic."""
        heard: list[Any] = []
        self.probe.create_subscription(kind, topic, heard.append, qos)
        return heard

    def logs(self) -> list[Log]:
        """Collect what the nodes log; returns when each node that is there was heard."""
        qos = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        heard: list[Log] = self.listen(Log, '/rosout', qos)
        for node in self._nodes:
            logger, name = node.get_logger(), node.get_logger().name

            def spoke(logger: Any = logger, name: str = name) -> bool:
                logger.info('log check')
                return any(m.name == name for m in heard)

            self.until(spoke, f'a log of {name}')
        return heard

    def speak(self, kind: Any, topic: str, qos: Any = 50) -> Any:
        """Return a publisher that has found at least one subscriber."""
        publisher = self.probe.create_publisher(kind, topic, qos)
        self.until(lambda: publisher.get_subscription_count() > 0, f'a subscriber of {topic}')
        return publisher

    def until(self, condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
        """Spin until the condition holds; return its value."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            value = condition()
            if value:
                return value
            self.executor.spin_once(timeout_sec=0.05)
        raise AssertionError(f'waited {limit_s:.0f} s in vain for {what}')

    def call(self, kind: Any, name: str, **fields: Any) -> Any:
        """Call a service and return its answer."""
        client = self.probe.create_client(kind, name)
        self.until(client.service_is_ready, f'service {name}')
        future = client.call_async(kind.Request(**fields))
        self.until(future.done, f'the answer of {name}')
        self.probe.destroy_client(client)
        return future.result()

    def close(self) -> None:
        """End everything."""
        for node in list(reversed(self._nodes)):
            self.remove(node)
        self.executor.shutdown()
        rclpy.shutdown(context=self.context)


def free_port() -> int:
    """Return a TCP port of this computer that nobody uses."""
    with socket.create_server(('127.0.0.1', 0)) as server:
        return int(server.getsockname()[1])


def header(stamp_ns: int, frame_id: str = 'eye') -> Header:
    """Make a header."""
    made = Header(frame_id=frame_id)
    made.stamp.sec, made.stamp.nanosec = divmod(stamp_ns, 10**9)
    return made


def image_message(image: np.ndarray, head: Header) -> Image:
    """Make an rgb8 message."""
    height, width = image.shape[:2]
    return Image(
        header=head,
        height=height,
        width=width,
        encoding='rgb8',
        step=3 * width,
        data=image.tobytes(),
    )


def jpeg_message(image: np.ndarray, head: Header) -> CompressedImage:
    """Make a JPEG message."""
    return CompressedImage(header=head, format='jpeg', data=encode_jpeg(image))
