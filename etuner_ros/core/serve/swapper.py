# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which announced version is wanted, built beside the one that serves, and swapped in."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
import threading
import time

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.models.deflate import inflated
from etuner_ros.core.models.weights import backbone_digest, read_in_place, sha256
from etuner_ros.core.serve.live_model import LiveModel

FIRST_RETRY_S, LONGEST_RETRY_S = 10.0, 600.0  # until a broken backbone is fetched again


@dataclass(frozen=True)
class Announced:
    """A version that `model_manager` announced."""

    version: int
    classes: tuple[str, ...]
    weights: bytearray | array[int]  # safetensors of its head
    sha256: str  # of `weights`
    base_sha256: str
    backbone_sha256: str  # that the head is for; '' = that of the base weights


@dataclass(frozen=True)
class AnnouncedBackbone:
    """A backbone that `model_manager` announced."""

    backbone_sha256: str
    weights: bytearray | array[int]  # safetensors of what differs from the base weights, maybe
    # deflated; empty when nothing does, or when who lacks it has to ask


@dataclass(frozen=True)
class Attempt:
    """How building a version ended."""

    version: int
    seconds: float
    error: Exception | None  # why it does not serve
    renewed: bool = False  # it served already, and does so by another engine now
    broken: bool = False  # the backbone that came is not the one that was announced


class ModelSwapper:
    """
    Takes announcements; only the newest one counts.

    A version is built in a thread. Whatever fails, the version before it goes on serving. All
    methods belong to one thread; `live` may be read by any.

    :param live: serves until a version is taken
    :param learned: version that this robot has learned, as far as can be seen; 0 = none
    :param wait: nothing may be predicted before a learned version has been announced; may be set
        at any time
    :param read: makes a model of a file of base weights
    :param fetch: asks for base weights by their SHA-256, and calls `fetched` when they are there;
        may be called again meanwhile
    :param built: called in the thread when it has ended; `finish` has to follow
    :param clock: steady time in s
    :param fetch_backbone: asks for the live backbone by its digest, and calls `take_backbone` with
        it; may be called again meanwhile; '' = none is wanted any longer
    """

    def __init__(
        self,
        live: LiveModel,
        learned: int,
        wait: bool,
        read: Callable[[Path], LiveModel],
        fetch: Callable[[str], None],
        built: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        fetch_backbone: Callable[[str], None] = lambda _digest: None,
    ) -> None:
        self.live = live
        self.wait = wait
        self.swaps = 0
        self.preparing = 0  # version that is being built; 0 = none
        self._learned = learned
        self._heard = False  # an announcement was followed to its end
        self._renew_anyway = False
        self._refused = ''  # why the version announced last does not serve
        self._read, self._fetch, self._built, self._clock = read, fetch, built, clock
        self._fetch_backbone = fetch_backbone
        self._offered = ''  # digest of the backbone that may be asked for
        # What serves, by content: a store that was begun anew counts its versions from 1 again.
        self._serves = Announced(
            live.version, live.classes, bytearray(), sha256(b''), live.base.sha256, ''
        )
        self._files: dict[str, Path] = {}  # base weights that were fetched, by their SHA-256
        self._wanted: Announced | None = None
        self._backbone: AnnouncedBackbone | None = None  # the newest
        self._again: Announced | None = None  # refused, as its backbone was broken
        self._retry_at, self._pause = 0.0, FIRST_RETRY_S
        self._thread: threading.Thread | None = None
        self._building: Announced | None = None  # newest that was begun
        self._attempt: Attempt | None = None

    @property
    def ready(self) -> bool:
        """Whether the live version may serve."""
        return self._heard or not (self.wait and self._learned)

    def why_not(self) -> str:
        """Return why what was learned last does not serve; nothing when it does."""
        serving = f'version {self.live.version} serves' if self.ready else 'nothing is predicted'
        wanted = self._wanted
        if wanted is not None and self._misses(wanted):
            return (
                f'version {wanted.version} counts from base weights {wanted.base_sha256[:12]}, '
                f'which model_manager has not sent yet; {serving} meanwhile'
            )
        if wanted is not None and self._lacks(wanted):
            return (
                f'version {wanted.version} is for backbone {wanted.backbone_sha256[:12]}, which '
                f'model_manager has not sent yet; {serving} meanwhile'
            )
        if self._refused:
            return f'{self._refused}; {serving}'
        if self._heard or not self._learned:
            return ''
        way = (
            'wait_for_model is set'
            if self.wait
            else 'these are the base weights: wait_for_model is not set'
        )
        return (
            f'waiting for model_manager to announce version {self._learned}, which this robot '
            f'has learned; {serving} meanwhile ({way})'
        )

    def take(self, announced: Announced) -> None:
        """Begin to build an announced version."""
        self._wanted, self._again, self._pause = announced, None, FIRST_RETRY_S
        self._begin()

    def take_backbone(self, backbone: AnnouncedBackbone) -> None:
        """Note the newest backbone, or ask for it; build the version that waits for it."""
        digest, again = backbone.backbone_sha256, self._again
        offered = not backbone.weights and digest != backbone_digest(self.live.base.sha256, {})
        lacked = offered and digest not in (self.live.slot.announced, self._held)
        self._fetch_backbone(digest if lacked else '')
        if offered:
            self._offered = digest
            return
        self._backbone = backbone
        if again is not None and again.backbone_sha256 == digest:
            self._wanted, self._again = self._wanted or again, None
        self._begin()

    def retry(self) -> None:
        """Ask again, now and then, for a backbone that was broken; to be called often."""
        if self._again is not None and self._clock() >= self._retry_at:
            self._put_off_retry()
            self._fetch_backbone(self._again.backbone_sha256)

    def _put_off_retry(self) -> None:
        self._retry_at = self._clock() + self._pause
        self._pause = min(2 * self._pause, LONGEST_RETRY_S)

    @property
    def _held(self) -> str:
        """Digest of the backbone that has come last; '' for none."""
        return self._backbone.backbone_sha256 if self._backbone is not None else ''

    def fetched(self, digest: str, path: Path) -> None:
        """Base weights are there that were asked for."""
        self._files[digest] = path
        self._begin()

    def finish(self) -> Attempt | None:
        """Return how the thread ended, and begin with what was announced meanwhile."""
        if self._thread is None:
            return None
        self._thread.join()
        self._thread, self.preparing = None, 0
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        if not attempt.renewed:
            self._heard = True
            self._refused = ''
            if attempt.error is None:
                self.swaps += 1
            else:
                self._refused = f'version {attempt.version} is refused: {attempt.error}'
        if attempt.broken and self._wanted is None:
            self._backbone, self._again = None, self._building
            self._put_off_retry()
        self._begin()
        return attempt

    def renew(self, anyway: bool = False) -> None:
        """
        Have the live version served by a better engine when one has been made ready.

        :param anyway: also by the same one, with other settings
        """
        self._renew_anyway |= anyway  # also when something is being built just now
        if self._thread is None and (self._renew_anyway or self.live.has_better):
            self._renew_anyway = False
            self._start(self._renew)

    def close(self) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join()
        self._thread = self._wanted = None

    def _misses(self, announced: Announced) -> bool:
        """Whether its base weights have to be fetched first."""
        digest = announced.base_sha256
        return digest != self.live.base.sha256 and digest not in self._files

    def _lacks(self, announced: Announced) -> bool:
        """Whether its backbone has to come first."""
        same_base = announced.base_sha256 == self.live.base.sha256
        if same_base and announced.backbone_sha256 == self.live.slot.announced:
            return False
        bare = backbone_digest(announced.base_sha256, {})
        return announced.backbone_sha256 not in ('', bare) and self._tensors(announced) is None

    def _tensors(self, announced: Announced) -> bytearray | array[int] | None:
        """Return the weights of its backbone, when they have come."""
        known = self._backbone
        if known is None or known.backbone_sha256 != announced.backbone_sha256:
            return None
        return known.weights

    def _begin(self) -> None:
        announced = self._wanted
        if announced is None or self._thread is not None:
            return
        if self._misses(announced):
            self._fetch(announced.base_sha256)
            return
        if self._lacks(announced):
            if announced.backbone_sha256 == self._offered:
                # It served when it was offered, and another one took its place meanwhile.
                self._fetch_backbone(self._offered)
            return
        self._wanted = None
        if self._same(announced):
            self._heard, self._refused = True, ''
            return
        self.preparing, self._building = announced.version, announced
        self._start(partial(self._build, announced, self._tensors(announced)))

    def _same(self, announced: Announced) -> bool:
        """Whether it serves already."""
        bare = backbone_digest(announced.base_sha256, {})

        def content(of: Announced) -> tuple[object, ...]:
            backbone = of.backbone_sha256 or bare
            return of.version, of.base_sha256, backbone, of.sha256, of.classes

        return content(announced) == content(self._serves)

    def _start(self, work: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=work, name='builder', daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        began, error = self._clock(), None
        try:
            self.live.renew()
        except Exception as problem:  # whatever fails, what serves goes on
            error = problem
        self._attempt = Attempt(self.live.version, self._clock() - began, error, renewed=True)
        self._built()

    def _build(self, announced: Announced, tensors: bytearray | array[int] | None) -> None:
        began, error, broken = self._clock(), None, False
        try:
            self._swap_in(announced, tensors)
        except Exception as problem:  # whatever fails, the live version goes on serving
            error = problem
            broken = tensors is not None and self._is_broken(announced, tensors)
        self._attempt = Attempt(announced.version, self._clock() - began, error, broken=broken)
        self._built()

    def _is_broken(self, announced: Announced, tensors: bytearray | array[int]) -> bool:
        """Whether these are not the tensors of its backbone."""
        base = self.live.base
        if announced.base_sha256 != base.sha256:
            return False
        try:
            state = read_in_place(inflated(tensors, base.state))
            return backbone_digest(base.sha256, state) != announced.backbone_sha256
        except WeightsError:
            return True

    def _swap_in(self, announced: Announced, tensors: bytearray | array[int] | None) -> None:
        live = self.live
        if live.base.sha256 != announced.base_sha256:
            live = self._read(self._files[announced.base_sha256])
            if live.base.sha256 != announced.base_sha256:
                del self._files[announced.base_sha256]
                raise WeightsError('the base weights that were fetched for it are damaged')
        live.swap(
            live.prepare(
                announced.version,
                announced.classes,
                announced.weights,
                announced.sha256,
                announced.backbone_sha256,
                inflated(tensors, live.base.state) if tensors is not None else None,
            )
        )
        self.live, self._serves = live, announced
