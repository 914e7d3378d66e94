# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Asks `inference` for the picture of a frame as the camera had it."""

from __future__ import annotations

import threading
from typing import Any

from rclpy.exceptions import InvalidServiceNameException
from rclpy.node import Node

from etuner_ros.core.errors import ConfigError, EtunerError
from etuner_ros.core.labels.settings import names
from etuner_ros.nodes.messages import short
from etuner_ros.srv import GetFrame

ANSWER_S = 5.0  # that an answer may take; pictures come over the radio, too


class FullPictureClient:
    """
    One client of `~/get_frame` for each inference node.

    :param servers: names of these nodes, separated by commas
    :raises ConfigError: when no node can have such a name
    """

    def __init__(self, node: Node, servers: str) -> None:
        self._clients: dict[str, Any] = {}
        for name in sorted(names(servers)):
            try:
                self._clients[name] = node.create_client(GetFrame, f'{name}/get_frame')
            except (InvalidServiceNameException, ValueError) as error:
                raise ConfigError(f'inference: no node can be called {short(name)!r}') from error

    def fetch(self, uid: int) -> bytes:
        """
        Return the encoded picture of a frame; waits, so not for the thread of the executor.

        :raises EtunerError: when no node has it, with what the nodes said
        """
        reasons = []
        for name, client in self._clients.items():
            answer = _answer(client, uid)
            if answer is None:
                reasons.append(f'{name} does not answer')
            elif answer.error_code:
                reasons.append(answer.error_msg)
            else:
                return bytes(answer.image.data)
        raise EtunerError('; '.join(reasons) or 'no inference node is named to be asked')


def _answer(client: Any, uid: int) -> Any:
    """Return what a service says; None when it says nothing."""
    if not client.service_is_ready():
        return None
    answered = threading.Event()
    future = client.call_async(GetFrame.Request(frame_uid=uid))
    future.add_done_callback(lambda _: answered.set())
    if not answered.wait(ANSWER_S):
        client.remove_pending_request(future)
        return None
    return future.result()
