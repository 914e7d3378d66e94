# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Services that answer whatever happens."""

from __future__ import annotations

from collections.abc import Callable
import functools
from typing import Any


def answering(service: Callable[..., None]) -> Callable[..., Any]:
    """
    Have a service of a store fill in its response; when it raises, the answer says so.

    The response needs `error_code` with a constant STORE, and `error_msg`.
    """

    @functools.wraps(service)
    def call(self: Any, request: Any, response: Any) -> Any:
        try:
            service(self, request, response)
        except Exception as error:  # a service has to answer
            self.health.problem(str(error))
            response.error_code = response.STORE
            response.error_msg = f'the store does not answer: {error}'
        return response

    return call
