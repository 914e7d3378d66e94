# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The action of the tuner: fine-tune now, with progress, cancellable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from rclpy.task import Future

from etuner_ros.action import FineTune
from etuner_ros.core.tune.round_keeper import End, How
from etuner_ros.nodes.messages import short

CODES = {
    How.ACCEPTED: FineTune.Result.NONE,
    How.REFUSED: FineTune.Result.REFUSED,
    How.CANCELLED: FineTune.Result.CANCELLED,
    How.FAILED: FineTune.Result.FAILED,
    How.NOTHING: FineTune.Result.NOTHING_TO_LEARN,
}


class FineTuneAction:
    """
    Serves `~/fine_tune`; one goal at a time.

    :param start: starts a round; returns why none can start, as code and text, or (0, '')
    :param cancel: cancels the running round; returns False when it is too late
    :param version: returns the live version
    """

    def __init__(
        self,
        node: Node,
        start: Callable[[], tuple[int, str]],
        cancel: Callable[[], bool],
        version: Callable[[], int],
    ) -> None:
        self._start, self._cancel, self._version = start, cancel, version
        self._goal: Any = None
        self._done: Future | None = None
        self._server = ActionServer(
            node,
            FineTune,
            '~/fine_tune',
            self._execute,
            goal_callback=lambda _: GoalResponse.ACCEPT,
            cancel_callback=self._on_cancel,
        )

    def _on_cancel(self, goal: Any) -> CancelResponse:
        ours = self._goal is not None and self._goal.goal_id == goal.goal_id
        return CancelResponse.ACCEPT if ours and self._cancel() else CancelResponse.REJECT

    async def _execute(self, goal: Any) -> FineTune.Result:
        code, text = self._start()
        if code:
            goal.abort()
            return FineTune.Result(error_code=code, error_msg=text, version=self._version())
        self._goal, self._done = goal, Future()
        result: FineTune.Result = await self._done
        self._goal = self._done = None
        if goal.is_cancel_requested and result.error_code == FineTune.Result.CANCELLED:
            goal.canceled()
        elif result.error_code == FineTune.Result.NONE:
            goal.succeed()
        else:
            goal.abort()
        return result

    def feedback(self, iteration: int, iterations: int, loss: float) -> None:
        """Tell of a training batch, if anybody asked for the round."""
        if self._goal is not None:
            self._goal.publish_feedback(
                FineTune.Feedback(iteration=iteration, iterations=iterations, loss=loss)
            )

    def ended(self, end: End) -> None:
        """Tell what became of the round, if anybody asked for it."""
        if self._done is not None:
            self._done.set_result(
                FineTune.Result(
                    error_code=CODES[end.how],
                    error_msg=short(end.text, 300),
                    version=self._version() if end.version is None else end.version,
                    seconds=end.seconds,
                )
            )
