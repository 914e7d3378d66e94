# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The live version at fewer pixels: made ready, aligned and measured beside what serves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
import threading
import time

import numpy as np

from etuner_ros.core.errors import ConfigError, EngineError
from etuner_ros.core.images.codec import Image, resize_square
from etuner_ros.core.models.weights import network_of
from etuner_ros.core.serve.engines import Engines
from etuner_ros.core.serve.graph_file import ranges_of
from etuner_ros.core.serve.graph_store import GraphStore
from etuner_ros.core.serve.live_model import LiveModel
from etuner_ros.core.serve.measuring import compare, look, Ready
from etuner_ros.core.serve.networks import Network, TorchNetwork
from etuner_ros.core.serve.slot import Slot, SmallerSlot

LEAST_FRAMES = 32  # before fewer pixels serve: to tell how features lie
MOST_FRAMES = 64  # that are kept
KEEP_S = 1.0  # between two of them, until there are so many ...
SLOW_S = 10.0  # ... and then: each costs a look at every size once more
LEAST_PIXELS, MOST_PIXELS = 32, 1024


def read_pixels(text: str) -> tuple[int, ...]:
    """
    Read sizes such as '128,96', in px; empty = none.

    :return: without repetitions, the largest first
    :raises ConfigError: saying what is wrong
    """
    sizes = set()
    for part in filter(None, (p.strip() for p in text.split(','))):
        if not part.isdecimal() or not LEAST_PIXELS <= int(part) <= MOST_PIXELS:
            raise ConfigError(
                f'variants.pixels must be sizes from {LEAST_PIXELS} to {MOST_PIXELS} px with '
                f"commas between them, such as '128,96', got {part!r}"
            )
        sizes.add(int(part))
    return tuple(sorted(sizes, reverse=True))


class LiveVariants:
    """
    Makes the live version ready at fewer pixels.

    Each size gets a network with the same weights and the same ranges (torch's takes any size, so
    it is shared where the network itself does). Features and appearance of it are aligned to those
    at the version's own size, by up to `MOST_FRAMES` frames that the robot has seen, without a
    label. As `accuracy` counts how often it says what the version says at its own size; see
    `compare`.

    All is made anew when another network serves, and when as many new frames have come as it was
    made from; a new head alone needs nothing. `note` and `wants` belong to the thread that
    predicts, `prepare` to one beside it; `ready` and `why_not` may be read by any.

    :param pixels: sizes in px; those that are not smaller than the version's own are left out
    :param engines: that serve; other ones of the same settings are used here
    :param clock: steady time, in s
    :param stopwatch: for looks, in s; None = of the processor where one thread computes, which is
        right also beside a busy camera, else of the wall
    """

    def __init__(
        self,
        pixels: Sequence[int],
        engines: Engines,
        clock: Callable[[], float] = time.monotonic,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        self._pixels, self._clock, self._stopwatch = tuple(pixels), clock, stopwatch
        self._serving = engines
        # An engine and its graphs belong to one thread.
        self._graphs = GraphStore()
        self._engines = Engines(engines.settings, engines.device, engines.threads, self._graphs)
        self._ends = threading.Event()
        self._frames: deque[dict[int, Image]] = deque(maxlen=MOST_FRAMES)  # squares by size
        self._own = 0  # px of the version that these frames were kept for
        self._kept_at, self._kept = -np.inf, 0
        self._networks: dict[int, Network] = {}
        self._made_for = 0  # number of the slot that these are of
        self._tried = (0, 0, 0)  # of the last try: number of the slot, frames kept till then, used
        self._unfit: dict[int, str] = {}  # sizes that can not serve, with the reason
        self.ready: Ready | None = None

    def note(self, image: Image, own: int) -> None:
        """
        Keep a frame now and then.

        :param image: RGB uint8, (H, W, 3)
        :param own: size of the version, in px
        """
        if own != self._own:  # other base weights serve
            self._frames.clear()
            self._own = own
        now = self._clock()
        if now - self._kept_at < (KEEP_S if len(self._frames) < MOST_FRAMES else SLOW_S):
            return
        self._kept_at = now
        self._frames.append({p: resize_square(image, p) for p in (own, *self._smaller(own))})
        self._kept += 1

    def _smaller(self, own: int) -> list[int]:
        return [p for p in self._pixels if p < own]

    def wants(self, live: LiveModel) -> bool:
        """Whether `prepare` has something to do."""
        number, kept, used = self._tried
        own = live.base.spec.input_size
        if not self._smaller(own) or own != self._own or len(self._frames) < LEAST_FRAMES:
            return False
        if live.engines.warming:  # another network serves soon
            return False
        return live.slot.number != number or self._kept - kept >= used

    def why_not(self, live: LiveModel) -> str:
        """Return why fewer pixels can not serve now; nothing when some can."""
        own = live.base.spec.input_size
        smaller = self._smaller(own)
        if not smaller:
            return f'no size of variants.pixels is smaller than the {own} px of the live version'
        if self.ready is not None and self.ready.number == live.slot.number:
            return '' if len(self.ready.rows) > 1 else self.unfit()
        if len(self._frames) < LEAST_FRAMES:
            return f'{len(self._frames)} of the {LEAST_FRAMES} frames that it takes were seen'
        return 'other sizes are made ready for the live version'

    def unfit(self) -> str:
        """Return which sizes can not serve, and why; nothing when all can."""
        return '; '.join(f'{pixels} px: {why}' for pixels, why in dict(self._unfit).items())

    def give_up(self, slot: SmallerSlot, why: str) -> None:
        """Leave a size out, as it failed while it served."""
        self._unfit[slot.pixels] = why
        if self.ready is not None:
            slots = {n: s for n, s in self.ready.slots.items() if s is not slot}
            rows = tuple(r for r in self.ready.rows if r.name in slots)
            self.ready = Ready(self.ready.number, rows, slots)

    def prepare(self, live: LiveModel) -> None:
        """
        Make `ready` for the network that is live; takes a look of each size at each kept frame.

        A size that can not be made is left out; `unfit` says why.

        :raises EngineError: when the network that is live fails
        """
        slot, frames = live.slot, list(self._frames)  # in one step: nobody adds one meanwhile
        self._tried = (slot.number, self._kept, len(frames))
        if self._made_for != slot.number:
            self.ready = None  # its networks are of no use, and take memory
            self._networks, self._made_for = {}, slot.number
        own = live.base.spec.input_size
        for pixels in self._smaller(own):
            if pixels not in self._unfit and pixels not in self._networks:
                self._make(live, slot, pixels)
        frames = [f for f in frames if own in f]
        if self._ends.is_set() or not frames:
            return
        networks = {own: slot.network, **self._networks}
        networks = {p: n for p, n in networks.items() if p not in self._unfit}
        one = self._serving.device == 'cpu' and self._serving.threads == 1
        stopwatch = self._stopwatch or (time.thread_time if one else time.perf_counter)
        seen = look(networks, frames, stopwatch, self._ends)
        # A network of torch may have been written over meanwhile.
        if seen and live.slot.number == slot.number:
            self.ready = compare(live.slot, own, networks, seen)

    def _make(self, live: LiveModel, slot: Slot, pixels: int) -> None:
        if isinstance(slot.network, TorchNetwork):
            try:
                slot.network.look([np.zeros((pixels, pixels, 3), np.uint8)])
            except Exception as error:  # transformers, say, know one size
                self._unfit[pixels] = f'the network does not take it: {error}'
                return
            self._networks[pixels] = slot.network
            return
        spec = replace(live.base.spec, input_size=pixels)
        engines, ranges = self._engines, ranges_of(slot.update)
        engines.threads = self._serving.threads
        kind = 'int8' if slot.network.quantised else 'fp32'
        try:
            # First, so that nothing falls back on torch, which takes seconds and memory.
            while self._graphs.find(spec.architecture, pixels, kind) is None:
                if self._ends.wait(0.1):
                    return
            state = {**live.base.state, **network_of(slot.update)}
            made = engines.network(spec, state, ranges if slot.network.quantised else None, None)
        except EngineError as error:
            self._unfit[pixels] = str(error)
            return
        if isinstance(made, TorchNetwork):
            self._unfit[pixels] = engines.why_not()
        else:
            self._networks[pixels] = made

    def close(self) -> None:
        """Have `prepare` end soon; wait for it before `end`."""
        self._ends.set()

    def end(self) -> None:
        """End what is being made; after `prepare` has ended."""
        self._graphs.close()
