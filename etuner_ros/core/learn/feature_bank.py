# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Features that were computed, by what made them: a stale one can not be found."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor

from etuner_ros.core.learn.sample import Sample

CHUNK = 32  # samples between two signs of life

Compute = Callable[[Sequence[Sample]], Tensor]  # n samples to (n, D) float32 on the CPU


class FeatureBank:
    """
    Keeps features (D,) by (backbone digest, sample id); the least recently used go first.

    :param capacity_bytes: memory of all
    :param alive: called now and then while many features are computed, which may take minutes
    """

    def __init__(self, capacity_bytes: int, alive: Callable[[], None] = lambda: None) -> None:
        self._capacity, self._alive = capacity_bytes, alive
        self._rows: OrderedDict[tuple[str, str], Tensor] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        """Return the number of features."""
        return len(self._rows)

    def get(self, backbone: str, sample_id: str) -> Tensor | None:
        """Return the feature that this backbone makes of a sample, if it is known."""
        row = self._rows.get((backbone, sample_id))
        if row is not None:
            self._rows.move_to_end((backbone, sample_id))
        return row

    def put(self, backbone: str, sample_id: str, row: Tensor) -> None:
        """Keep a feature; one that is known already stays as it is."""
        key = (backbone, sample_id)
        if key in self._rows:
            self._rows.move_to_end(key)
            return
        row = row.detach().float().cpu().clone()
        self._rows[key] = row
        self.bytes += row.numel() * row.element_size()
        while self.bytes > self._capacity and len(self._rows) > 1:
            _, old = self._rows.popitem(last=False)
            self.bytes -= old.numel() * old.element_size()

    def rows(self, backbone: str, samples: Sequence[Sample], compute: Compute) -> list[Tensor]:
        """
        Return the features of samples.

        :param compute: makes those that are not known, with this very backbone
        """
        known = {s.sample_id: self.get(backbone, s.sample_id) for s in samples}
        missing = [s for s in samples if known[s.sample_id] is None]
        for start in range(0, len(missing), CHUNK):
            if start:
                self._alive()
            chunk = missing[start : start + CHUNK]
            for sample, row in zip(chunk, compute(chunk)):
                self.put(backbone, sample.sample_id, row)
                known[sample.sample_id] = row.detach().float().cpu().clone()
        return [row for s in samples if (row := known[s.sample_id]) is not None]

    def discard(self, sample_ids: Iterable[str]) -> None:
        """Forget samples, of every backbone."""
        gone = set(sample_ids)
        for key in [k for k in self._rows if k[1] in gone]:
            self._drop(key)

    def keep_only(self, backbone: str) -> None:
        """Forget what other backbones made: it will not be asked for again."""
        for key in [k for k in self._rows if k[0] != backbone]:
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        row = self._rows.pop(key)
        self.bytes -= row.numel() * row.element_size()
