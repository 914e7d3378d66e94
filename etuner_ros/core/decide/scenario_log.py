# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Which scenario each camera was in, and when: so that a label that comes late is counted where its
frame was taken.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from etuner_ros.core.config import ScenarioConfig
from etuner_ros.core.decide.scenario import MOST_SCENARIOS, ScenarioDetector, Vector
from etuner_ros.core.decide.state import MOST_WHOLE, Saved
from etuner_ros.core.identity import Scenario

MOST_VERSIONS = 1000
SAVED_VERSIONS = 20  # the newest, whose moves are saved
MOST_CAMERAS = 64
MOST_PASSES = 100  # of the clock of a camera
MOST_CHANGES = 1000  # in one pass
BACK_NS = 1_000_000_000  # stamps that go back by less are only out of order


@dataclass
class _Pass:
    """
    Requests of a camera over which its stamps rise.

    A recording that is played again, or a simulator that is started again, begins another one.
    """

    first_ns: int
    newest_ns: int
    start: int  # number of the scenario when it began
    changes: list[tuple[int, int]] = field(default_factory=list)  # stamp and number, both rising

    def at(self, stamp_ns: int) -> int:
        """Return the number of the scenario at a time."""
        index = bisect_right(self.changes, stamp_ns, key=lambda c: c[0])
        return self.changes[index - 1][1] if index else self.start


class _Camera:
    """What is known of one camera."""

    def __init__(self, config: ScenarioConfig, version: int) -> None:
        self.detector = ScenarioDetector(config)
        self.version = version  # of the weights of its last request
        self.passes: deque[_Pass] = deque(maxlen=MOST_PASSES)

    def note(self, stamp_ns: int, before: int) -> None:
        """Note a request, and whether the scenario has another number than before it."""
        now = self.detector.scenario
        if not self.passes or stamp_ns < self.passes[-1].newest_ns - BACK_NS:
            self.passes.append(_Pass(stamp_ns, stamp_ns, before))
        newest = self.passes[-1]
        newest.first_ns = min(newest.first_ns, stamp_ns)
        newest.newest_ns = max(newest.newest_ns, stamp_ns)
        if now != before:
            after = newest.changes[-1][0] if newest.changes else stamp_ns
            newest.changes.append((max(stamp_ns, after), now))
            if len(newest.changes) > MOST_CHANGES:
                newest.start = newest.changes.pop(0)[1]

    def at(self, stamp_ns: int) -> int:
        """Return the number of the scenario at a time."""
        for each in reversed(self.passes):
            if each.first_ns <= stamp_ns <= each.newest_ns:
                return each.at(stamp_ns)
        newest = self.passes[-1] if self.passes else None
        if newest is None or stamp_ns > newest.newest_ns:  # newer than all that was heard
            return self.detector.scenario
        return self.passes[0].start  # older


class ScenarioLog:
    """
    One detector per camera; the scenarios of each are counted from 0.

    Stamps may repeat: a time is looked for in the newest pass of the camera's clock that reaches
    from before to after it. Where several passes do, the label is most likely of the newest.
    """

    def __init__(self, config: ScenarioConfig | None = None) -> None:
        self._config = config or ScenarioConfig()
        self._cameras: dict[str, _Camera] = {}  # the one heard of last at the end
        self._offsets: dict[int, Vector] = {}  # of the appearance, by version of the weights
        self._last = ''

    @property
    def current(self) -> dict[str, int]:
        """The scenario that each camera is in, of all that were heard of."""
        return {name: c.detector.scenario for name, c in sorted(self._cameras.items())}

    @property
    def last(self) -> Scenario:
        """
        The camera whose surroundings changed last, and the scenario that it is in.

        Before any change that is the camera that was heard of first, and before any request one
        without a name.
        """
        camera = self._cameras.get(self._last)
        return Scenario(self._last, camera.detector.scenario if camera else 0)

    @property
    def score(self) -> float:
        """How much that camera's surroundings look like others: about 1 when they do not."""
        camera = self._cameras.get(self._last)
        return camera.detector.score if camera else 0.0

    def on_version(self, version: int, parent: int, move: Sequence[float]) -> None:
        """
        Note how far the appearance of the same frames moved from one version to its child.

        :param move: of the `compressed` appearance; empty when it is the same
        """
        before, moved = self._offsets.get(parent, np.zeros(0)), np.asarray(move, np.float64)
        if before.size == moved.size:
            self._offsets[version] = before + moved
        else:  # one of the two is empty, or it is another network
            self._offsets[version] = moved if moved.size else before
        self._offsets.setdefault(parent, np.zeros(0))
        for old in sorted(self._offsets)[:-MOST_VERSIONS]:
            del self._offsets[old]

    def on_request(
        self, source: str, stamp_ns: int, appearance: Sequence[float], version: int = 0
    ) -> bool:
        """
        Take a request of a camera.

        :param version: of the weights; those that nothing is known of start the description of the
            scenario anew
        :return: whether the surroundings of this camera changed
        """
        camera = self._cameras.pop(source, None) or _Camera(self._config, version)
        self._cameras[source] = camera
        if len(self._cameras) > MOST_CAMERAS:
            del self._cameras[next(iter(self._cameras))]
        if self._last not in self._cameras:
            self._last = source
        detector, before = camera.detector, camera.version
        if before != version:
            camera.version = version
            if version not in self._offsets or before not in self._offsets:
                detector.restart()
            elif not np.array_equal(self._offsets[version], self._offsets[before]):
                detector.on_swap()
        number = detector.scenario
        changed = detector.update(appearance, self._offset(version, len(appearance)))
        camera.note(stamp_ns, number)
        if changed:
            self._last = source
        return changed

    def _offset(self, version: int, size: int) -> Vector | None:
        offset = self._offsets.get(version)
        return offset if offset is not None and offset.size == size else None

    def at(self, source: str, stamp_ns: int) -> Scenario:
        """
        Return the scenario of a camera at a time.

        A time after all requests that were heard of is now; one before all is the oldest that is
        known; a camera that was never heard of is in its first scenario.
        """
        camera = self._cameras.get(source)
        return Scenario(source, camera.at(stamp_ns) if camera else 0)

    def state_dict(self) -> dict[str, Any]:
        """Return what each camera's scenario looks like and when it changed, as plain values."""
        used = {c.version for c in self._cameras.values()}
        kept = used.intersection(self._offsets) | set(sorted(self._offsets)[-SAVED_VERSIONS:])
        return {
            'last': self._last,
            'offsets': [[version, self._offsets[version].tolist()] for version in sorted(kept)],
            'cameras': [
                {
                    'name': name,
                    'version': camera.version,
                    'detector': camera.detector.state_dict(),
                    'passes': [
                        [p.first_ns, p.newest_ns, p.start, [list(c) for c in p.changes]]
                        for p in camera.passes
                    ],
                }
                for name, camera in self._cameras.items()
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Continue from `state_dict` of another instance, of an earlier run for instance.

        :raises StateError: naming what is wrong; nothing is changed then
        """
        saved = Saved('ScenarioLog', state)
        last = saved.as_name(saved.get('last'), 'last')
        offsets = {}
        for version, move in saved.rows('offsets', 2):
            if not isinstance(move, list):
                raise saved.error(f"'offsets' must hold lists of numbers, got {move!r:.60}")
            numbers = [saved.as_number(v, 'offsets') for v in move]
            offsets[saved.as_whole(version, 'offsets')] = np.array(numbers, np.float64)
        listed = saved.get('cameras')
        if not isinstance(listed, list):
            raise saved.error(f"'cameras' must be a list, got {listed!r:.60}")
        cameras = {}
        for entry in listed[-MOST_CAMERAS:]:
            of_camera = Saved('ScenarioLog', entry)
            name = of_camera.as_name(of_camera.get('name'), 'name')
            cameras[name] = self._loaded(of_camera)
        self._last, self._offsets, self._cameras = last, offsets, cameras

    def _loaded(self, saved: Saved) -> _Camera:
        def stamp(value: Any) -> int:
            return saved.as_whole(value, 'passes', -MOST_WHOLE)

        def number(value: Any) -> int:
            return saved.as_whole(value, 'passes', 0, MOST_SCENARIOS)

        camera = _Camera(self._config, saved.whole('version'))
        camera.detector.load_state_dict(saved.get('detector'))
        for first, newest, start, changes in saved.rows('passes', 4):
            pairs = Saved(saved.owner, {'changes': changes}).rows('changes', 2)
            found = sorted((stamp(ns), number(to)) for ns, to in pairs)[-MOST_CHANGES:]
            camera.passes.append(_Pass(stamp(first), stamp(newest), number(start), found))
        return camera
