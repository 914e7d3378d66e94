# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What outlives the tuner, in one file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
import json
from pathlib import Path
import time
from typing import Any

from etuner_ros.core.errors import EtunerError
from etuner_ros.core.files import replace_file

PERIOD_S = 60.0  # what changes in between is lost with the power


class StateFile:
    """
    Saves state as JSON, in one step.

    :param state: returns what to save
    :param clock: monotonic time in s
    """

    def __init__(
        self,
        path: Path,
        state: Callable[[], Mapping[str, Any]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._state, self._clock = path, state, clock
        self._saved = clock()

    def load(self, use: Callable[[Mapping[str, Any]], None]) -> str:
        """
        Hand over what was saved, if anything was.

        :param use: may raise EtunerError
        :return: what is wrong with it, or nothing
        """
        try:
            state = json.loads(self._path.read_bytes())
            if not isinstance(state, dict):
                raise ValueError('not a mapping')
            use(state)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, RecursionError, EtunerError) as error:
            return f'{self._path.name} is damaged, the tuner starts anew: {error}'
        return ''

    def save(self) -> str:
        """Save now; return what is wrong, or nothing."""
        self._saved = self._clock()
        try:
            replace_file(self._path, json.dumps(self._state()).encode())
        except OSError as error:
            return f'the state of the tuner could not be saved: {error}'
        return ''

    def save_if_due(self) -> str:
        """Save when the last time is long ago; return what is wrong, or nothing."""
        return self.save() if self._clock() - self._saved >= PERIOD_S else ''
