# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A thread for what must not hold up the next frame: encoding, drawing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import threading
from typing import Generic, TypeVar

import cv2
import numpy as np

from etuner_ros.core.niceness import step_back

Job = TypeVar('Job')


class SideThread(Generic[Job]):
    """
    Works off jobs one after the other; those who give them never wait, and where the system knows
    the niceness of a thread, they go first.

    :param work: does one job
    :param failed: told of what a job raised; the next one is done all the same
    :param most: jobs that may wait; the oldest makes room for one more
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Job], None],
        failed: Callable[[Exception], None],
        most: int,
    ) -> None:
        self._work, self._failed = work, failed
        self._jobs: deque[Job] = deque(maxlen=most)
        self._changed = threading.Condition()
        self._ends = False
        # OpenCV's threads work for all others, too, and are as nice as the one that needs them
        # first: that is to be this one.
        cv2.cvtColor(np.zeros((512, 512, 3), np.uint8), cv2.COLOR_RGB2BGR)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def full(self) -> bool:
        """Whether one more job would cost one that waits."""
        return len(self._jobs) == self._jobs.maxlen

    def give(self, job: Job) -> None:
        """Have a job done."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Do what waits, and end."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        step_back()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._ends)
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            try:
                self._work(job)
            except Exception as error:  # one bad job must not end all others
                self._failed(error)
