# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
The activation cache: samples start behind the frozen prefix (etuner.md section 5.1).

While the first blocks are frozen, what they make of a sample never changes. It is computed once
and kept; later rounds need no decoding, no forward and no backward through the prefix.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
import hashlib

import torch
from torch import Tensor

from etuner_ros.core.cost import CACHE, counted_as
from etuner_ros.core.models.cuts import Cuts
from etuner_ros.core.models.freezing import frozen_prefix
from etuner_ros.core.models.networks import Classifier, Unit


@dataclass(frozen=True)
class _Entry:
    depth: int  # border behind which it was taken
    prefix: bytes  # digest of the blocks before it
    values: Tensor
    low: Tensor | None = None  # of 8-bit values: real = low + step * value, by channel
    step: Tensor | None = None

    @property
    def bytes(self) -> int:
        """Memory of the tensors."""
        parts = [self.values, *(t for t in (self.low, self.step) if t is not None)]
        return sum(t.numel() * t.element_size() for t in parts)

    def real(self) -> Tensor:
        """Return float32 values."""
        values = self.values.float()
        if self.low is None or self.step is None:
            return values
        return self.low.float() + self.step.float() * values


class ActivationCache:
    """
    Keeps the activation of samples behind the frozen prefix of a model.

    Entries are valid by content: each carries the digest of the weights and buffers of the blocks
    before it. When the prefix grows, an entry is advanced through the new blocks on its next use;
    when it shrinks, or other weights are loaded, entries that no longer fit are dropped. So no
    sequence of freezes, thaws and swaps can bring a stale activation.

    :param model: its `frozen` blocks decide; call `follow` after any change to them or to weights
    :param capacity_bytes: the least recently used entries go first; 0 keeps nothing
    :param precision: 'float32' is exact; 'float16' and 'uint8' (affine, by channel) take a half
        and a quarter of the memory
    """

    def __init__(
        self,
        model: Classifier,
        cuts: Cuts,
        capacity_bytes: int,
        precision: str = 'float16',
    ) -> None:
        self._model, self._cuts = model, cuts
        self._capacity, self._precision = capacity_bytes, precision
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._chain: list[bytes] = [b'']
        self.border = 0  # blocks that samples skip
        self.bytes = 0
        self.uses = Counter[str]()  # hits, advanced and misses since the start

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        """Return whether the activation of a sample is kept, at whatever border."""
        return key in self._entries

    def follow(self) -> int:
        """
        Take notice of what is frozen and of the weights in it; drop what no longer fits.

        :return: the border that samples now start from
        """
        prefix = frozen_prefix(self._model) if self._capacity > 0 else 0
        chain = [b'']
        for unit in self._model.units[:prefix]:
            chain.append(hashlib.sha256(chain[-1] + digest(unit)).digest())
        self._chain = chain
        self.border = self._cuts.border(prefix)
        for key in [
            k
            for k, e in self._entries.items()
            if e.depth > self.border or chain[e.depth] != e.prefix
        ]:
            self._remove(key)
        return self.border

    def fetch(self, keys: Sequence[Hashable], images: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """
        Return the activations of samples at `border`, float32, on the model's device.

        :param keys: what names each sample and view
        :param images: makes the normalised images (m, 3, S, S) of those positions in `keys` that
            are not kept
        :return: (n, ...); for border 0 the images themselves
        """
        if self.border == 0:
            return images(range(len(keys)))
        with counted_as(CACHE):
            return self._fetch(keys, images)

    def _fetch(
        self, keys: Sequence[Hashable], images: Callable[[Sequence[int]], Tensor]
    ) -> Tensor:
        found: dict[int, Tensor] = {}
        depths: dict[int, list[int]] = {}
        # What making room for one sample throws out may be needed for the next.
        entries = [self._entries.get(key) for key in keys]
        for position, entry in enumerate(entries):
            depths.setdefault(0 if entry is None else entry.depth, []).append(position)
        device = self._model.head.weight.device
        for depth, positions in depths.items():
            if depth == 0:
                start = images(positions)
                self.uses['misses'] += len(positions)
            else:
                kept = [e.real() for e in (entries[p] for p in positions) if e is not None]
                start = torch.stack(kept).to(device)
                kind = 'hits' if depth == self.border else 'advanced'
                self.uses[kind] += len(positions)
            with torch.no_grad(), self._model.evaluating():  # dropout is not to be kept
                reached = self._cuts.run(start, depth, self.border)
            for row, position in enumerate(positions):
                found[position] = reached[row]
                if depth != self.border:
                    self._keep(keys[position], reached[row])
                elif keys[position] in self._entries:
                    self._entries.move_to_end(keys[position])
        return torch.stack([found[p] for p in range(len(keys))])

    def offer(self, key: Hashable, activation: Tensor, made_by: Sequence[Unit]) -> bool:
        """
        Keep an activation at `border` that another network made, when its blocks up to there hold
        the same values as those of this model.

        :param made_by: the blocks of that network
        :return: whether it was kept
        """
        if self.border == 0 or not same_values(made_by, self._model.units, self.border):
            return False
        self._keep(key, activation)
        self.uses['offered'] += 1
        return True

    def discard(self, key: Hashable) -> None:
        """Forget a sample."""
        if key in self._entries:
            self._remove(key)

    def clear(self) -> None:
        """Forget all samples."""
        self._entries.clear()
        self.bytes = 0

    def _remove(self, key: Hashable) -> None:
        self.bytes -= self._entries.pop(key).bytes

    def _keep(self, key: Hashable, activation: Tensor) -> None:
        self.discard(key)
        values = activation.detach().cpu()
        low = step = None
        if self._precision == 'uint8':
            flat = values.flatten(1) if values.ndim > 1 else values[None]
            shape = (-1, *([1] * (values.ndim - 1))) if values.ndim > 1 else (1,)
            least, most = flat.amin(dim=1), flat.amax(dim=1)
            low = least.reshape(shape)
            step = ((most - least) / 255.0).clamp_min(1e-12).reshape(shape)
            values = ((values - low) / step).round().to(torch.uint8)
        elif self._precision == 'float16':
            # Saturate instead of overflowing to infinity.
            values = values.clamp(-65504.0, 65504.0).to(torch.float16)
        else:
            values = values.clone()
        entry = _Entry(self.border, self._chain[self.border], values, low, step)
        if entry.bytes > self._capacity:
            return
        while self.bytes + entry.bytes > self._capacity:
            self._remove(next(iter(self._entries)))
        self._entries[key] = entry
        self.bytes += entry.bytes


def digest(unit: Unit) -> bytes:
    """Return the SHA-256 of a block's parameters and buffers."""
    result = hashlib.sha256()
    for tensor in (*unit.parameters(), *unit.module.buffers()):
        values = tensor.detach().cpu().contiguous()
        result.update(values.reshape(-1).view(torch.uint8).numpy().data)
    return result.digest()


def same_values(one: Sequence[Unit], other: Sequence[Unit], count: int) -> bool:
    """Return whether the first `count` blocks of two networks are equal bit for bit."""
    for a, b in zip(one[:count], other[:count]):
        ours = (*a.parameters(), *a.module.buffers())
        theirs = (*b.parameters(), *b.module.buffers())
        if not all(torch.equal(x, y) for x, y in zip(ours, theirs)):
            return False
    return True
