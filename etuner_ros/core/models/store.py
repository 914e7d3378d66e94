# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Versions of the weights on disk. The store always opens: a version is there whole, or not at all,
and a damaged one is skipped. Weights are checked when they are used; opening reads the live ones.

Layout: `<root>/<first 16 digits of the base's SHA-256>/base.safetensors`, `live` (a number), one
folder `v00000012` for each version with `head.safetensors`, `manifest.json` and, when it is kept
for ever, an empty file `pinned`, and `backbones/<digest>.safetensors` for each backbone that
versions are of. Version 0 is the base weights. Version 0.1 kept both in `weights.safetensors` of
the version's folder; that is read as it is.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
from dataclasses import asdict, dataclass, field, fields, replace
import errno
import fcntl
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any

from etuner_ros.core.errors import EtunerError, StoreError, WeightsError
from etuner_ros.core.files import replace_file, sync_folder, write_synced
from etuner_ros.core.models.weights import (
    backbone_digest,
    backbone_of,
    BaseWeights,
    pack,
    read_base,
    sha256,
    State,
    unpack,
)

BASE, ROUND, HEAD = 'base', 'round', 'head'  # kinds of versions: what made them
PIN = 'pinned'
HEAD_FILE, WHOLE_FILE = 'head.safetensors', 'weights.safetensors'  # the second: of version 0.1
KEPT_HEADS = 3  # versions with a new head only, besides what `keep` allows


@dataclass(frozen=True)
class Manifest:
    """What is known of one version."""

    version: int
    parent: int
    sha256: str  # of the file with its head
    classes: tuple[str, ...]
    frozen_layers: tuple[str, ...] = ()
    reason: str = ''
    accuracy: float = math.nan  # on validation samples when it was accepted
    scenario_accuracy: dict[str, float] = field(default_factory=dict)  # the same, by scenario
    seconds: float = 0.0  # the round that made it
    iterations: int = 0  # training batches of that round
    new_samples: int = 0  # labelled samples that it learned
    created_ns: int = 0  # ROS time
    learned: dict[str, int] = field(default_factory=dict)  # collector: last batch learned
    kind: str = ROUND
    backbone: str = ''  # its digest; empty in what some earlier releases wrote
    # Its parent, the parent of that, and so on: those that were stored when it was made. Empty in
    # what earlier releases wrote.
    ancestors: tuple[int, ...] = ()

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Read a manifest; raises ValueError, KeyError or TypeError when it is damaged."""
        raw: dict[str, Any] = json.loads(text)
        raw['classes'], raw['frozen_layers'] = tuple(raw['classes']), tuple(raw['frozen_layers'])
        raw['ancestors'] = tuple(raw.get('ancestors', ()))
        if raw.get('head_only'):  # of an earlier release
            raw['kind'] = HEAD
        known = {f.name for f in fields(Manifest)}  # a later release may have written more
        return Manifest(**{k: v for k, v in raw.items() if k in known})


class ModelStore:
    """
    Opens or makes the store of one set of base weights.

    :param root: folder of all stores
    :param base: file of the base weights; it is copied into the store
    :param keep: how many versions made by rounds are kept beside the live one, its parent and the
        pinned
    :param read_only: look at a store that another process owns: nothing is cleared or written
    :ivar manifests: by version; of all whose manifest can be read
    :ivar damaged: those among them that could not be read when they were last used, with why
    :raises WeightsError: when the base weights can't be read
    :raises StoreError: when the folder can't be read or written, or another process owns it
    """

    def __init__(self, root: Path, base: Path, keep: int = 10, read_only: bool = False) -> None:
        self.warnings: list[str] = []
        self.keep = keep
        self.base: BaseWeights = read_base(base)
        self.folder = root / self.base.sha256[:16]
        self._lock: int | None = None
        self._bare = backbone_digest(self.base.sha256, {})
        deployed = Manifest(
            0,
            0,
            sha256(b''),
            self.base.spec.classes,
            reason='deployed',
            kind=BASE,
            backbone=self._bare,
        )
        self.manifests: dict[int, Manifest] = {0: deployed}
        self.damaged: dict[int, str] = {}
        self.pinned: set[int] = set()
        self._highest = 0
        try:
            if not read_only:
                self._make_ready(base)
            for folder in sorted(self.folder.glob('v*')):
                self._open_version(folder)
            # What a version needs whose manifest can't be read just now stays.
            if not read_only and not self.warnings:
                self._clear_backbones(
                    {path.stem for path in self._backbones.glob('*.safetensors')}
                )
        except OSError as error:
            self.close()
            raise StoreError(
                f'the model store {self.folder} can not be opened: {error.strerror or error}; '
                f'check models.folder'
            ) from error
        self.live = self._open_live()

    def _make_ready(self, base: Path) -> None:
        """Make the folder, clear what a crash left in the middle of a write, keep the base."""
        self._backbones.mkdir(parents=True, exist_ok=True)
        self._own()
        for leftover in [*self.folder.glob('.*'), *self.folder.glob('*/.*')]:
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not self.base_path.exists() or sha256(self.base_path.read_bytes()) != self.base.sha256:
            replace_file(self.base_path, base.read_bytes())

    def _own(self) -> None:
        """Keep others from writing here; the system lets go when this process ends."""
        self._lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                self.close()
                raise StoreError(
                    f'the model store {self.folder} belongs to another model_manager that runs; '
                    f'give each a models.folder of its own'
                ) from error
            self.warnings.append(f'this file system has no locks: {error.strerror or error}')

    def close(self) -> None:
        """Let others own the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __del__(self) -> None:
        """Let go also when nobody closed it."""
        with contextlib.suppress(AttributeError):  # it was never opened
            self.close()

    @property
    def base_path(self) -> Path:
        """The base weights in the store."""
        return self.folder / 'base.safetensors'

    @property
    def _backbones(self) -> Path:
        return self.folder / 'backbones'

    def _backbone_file(self, digest: str) -> Path:
        return self._backbones / f'{digest}.safetensors'

    def _version_folder(self, version: int) -> Path:
        return self.folder / f'v{version:08d}'

    def _open_version(self, folder: Path) -> None:
        try:
            number = int(folder.name[1:])
            self._highest = max(self._highest, number)  # a damaged version keeps its number
            manifest = Manifest.from_json((folder / 'manifest.json').read_text())
            if manifest.version != number:
                raise ValueError(f'its manifest is that of version {manifest.version}')
            self.manifests[number] = manifest
            if (folder / PIN).exists():
                self.pinned.add(number)
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.warnings.append(f'version {folder.name} is damaged and skipped: {error}')

    def _open_live(self) -> int:
        path = self.folder / 'live'
        wanted = 0
        try:
            wanted = int(path.read_text())
        except FileNotFoundError:
            if not self._highest:
                return 0
            wanted = self._highest
            self.warnings.append('the name of the live version is missing')
        except (OSError, ValueError) as error:
            wanted = self._highest
            self.warnings.append(f'the name of the live version is damaged ({error})')
        version, _, warnings = self._usable(wanted)
        self.warnings += warnings
        return version

    def _before(self, version: int) -> int:
        """
        Return what to go back to from a version, of those that are not known to be damaged: the
        nearest version that it was made from or, where none of these is left, the last one before
        it with the same backbone, or the last one.
        """
        good = self.manifests.keys() - self.damaged.keys()
        for ancestor in self._ancestors(version):
            if ancestor in good:
                return ancestor
        # The number before may be one that somebody went back from.
        lower = {v for v in good if v < version}
        made = self.manifests.get(version)
        backbone = made.backbone if made else ''
        alike = {v for v in lower if backbone and self.manifests[v].backbone == backbone}
        return max(alike or lower, default=0)

    def _ancestors(self, version: int) -> tuple[int, ...]:
        """Return what a version was made from, nearest first, as far as that is known."""
        found: list[int] = []
        while version > 0 and (made := self.manifests.get(version)) is not None:
            if made.ancestors:
                return (*found, *made.ancestors)
            if made.parent >= version:  # damaged
                break
            version = made.parent
            found.append(version)
        return tuple(found)

    def _usable(self, version: int) -> tuple[int, State, list[str]]:
        """
        Return a version or, when it is damaged, the next good one to go back to.

        :return: the version, its update, one warning for each version that was given up
        """
        warnings: list[str] = []
        while True:
            try:
                return version, self.update(version), warnings
            except WeightsError as error:  # version 0 is never damaged: it has no weights
                version = self._before(version)
                warnings.append(f'{error}; version {version} is used instead')

    def live_update(self) -> tuple[State, list[str]]:
        """
        Return the live update; when it is damaged, that of the last good version, made live.

        :return: the update, and one warning for each thing that went wrong
        """
        version, update, warnings = self._usable(self.live)
        if version != self.live:
            try:
                self._note_live(version)
            except StoreError as error:  # the next start finds the same damage
                warnings.append(str(error))
                self.live = version
        return update, warnings

    def roll_back(self) -> list[str]:
        """
        Make the parent of the live version live or, where that is gone, what comes before it.

        :return: one warning for each version that was skipped
        :raises StoreError: when the disk does not take it
        """
        version, _, warnings = self._usable(self._before(self.live))
        self._note_live(version)
        return warnings

    def backbone(self, version: int) -> str:
        """
        Return the digest of a version's backbone.

        :raises WeightsError: when an earlier release wrote it and it is damaged
        """
        if not self.manifests[version].backbone:
            digest = backbone_digest(self.base.sha256, self.update(version))
            self.manifests[version] = replace(self.manifests[version], backbone=digest)
        return self.manifests[version].backbone

    def pin(self, version: int, pinned: bool) -> None:
        """
        Keep a version for ever, or no longer.

        :raises WeightsError: when there is no such version
        :raises StoreError: when the disk does not take it
        """
        if version not in self.manifests:
            raise WeightsError(f'version {version} is not in the store')
        if version == 0:
            return  # always kept
        file = self._version_folder(version) / PIN
        try:
            if pinned:
                replace_file(file, b'')
            else:
                file.unlink(missing_ok=True)
                sync_folder(file.parent)
        except OSError as error:
            raise StoreError(
                f'the pin of version {version} could not be stored: {error.strerror or error}'
            ) from error
        (self.pinned.add if pinned else self.pinned.discard)(version)

    def update(self, version: int) -> State:
        """
        Return the tensors of a version that differ from the base weights, head and backbone.

        :raises WeightsError: when there is no such version, or it is damaged
        """
        if version not in self.manifests:
            raise WeightsError(f'version {version} is not in the store')
        if version == 0:
            return {}
        try:
            update = self._read(version)
        except (OSError, WeightsError) as error:
            text = getattr(error, 'strerror', None) or str(error)
            self.damaged[version] = text
            raise WeightsError(f'version {version} is damaged: {text}') from error
        self.damaged.pop(version, None)
        return update

    def _read(self, version: int) -> State:
        update, is_whole = self._read_head(version)
        digest = self.manifests[version].backbone
        if is_whole or digest == self._bare:
            return update
        backbone = unpack(self._backbone_file(digest).read_bytes())
        if backbone_digest(self.base.sha256, backbone) != digest:
            raise WeightsError('its backbone is damaged')
        return {**backbone, **update}

    def _read_head(self, version: int) -> tuple[State, bool]:
        """Return what lies in the folder of a version, and whether that is all of it."""
        folder = self._version_folder(version)
        is_whole = (folder / WHOLE_FILE).exists()
        data = (folder / (WHOLE_FILE if is_whole else HEAD_FILE)).read_bytes()
        if sha256(data) != self.manifests[version].sha256:
            raise WeightsError('the checksum of its weights is wrong')
        return unpack(data), is_whole

    def commit(
        self,
        update: State,
        parent: int,
        classes: tuple[str, ...],
        same_backbone: bool = False,
        **facts: Any,
    ) -> Manifest:
        """
        Store a new version and make it live.

        :param update: all tensors that differ from the base weights, checked
        :param same_backbone: the backbone is that of the live version, and `update` a head: it
            costs its own size
        :param facts: the other fields of its manifest
        :raises StoreError: when the disk does not take it; the store is as before
        """
        head, number, digest = pack(head_of(update)), self._highest + 1, ''
        final = self._version_folder(number)
        aside = final.with_name(f'.{final.name}.tmp')
        try:
            digest = self._keep_backbone(None if same_backbone else update)
            stored = tuple(v for v in self._ancestors(parent) if v in self.manifests)
            manifest = Manifest(
                number,
                parent,
                sha256(head),
                classes,
                backbone=digest,
                ancestors=(parent, *stored),
                **facts,
            )
            aside.mkdir(exist_ok=True)  # an earlier failure may have left it
            write_synced(aside / HEAD_FILE, head)
            write_synced(aside / 'manifest.json', json.dumps(asdict(manifest), indent=1).encode())
            sync_folder(aside)
            os.rename(aside, final)
            sync_folder(self.folder)
            self._highest = number
            self.manifests[number] = manifest
            self._read_head(number)
            self._note_live(number)
        except (OSError, EtunerError) as error:
            for folder in (aside, final):
                shutil.rmtree(folder, ignore_errors=True)
            self.manifests.pop(number, None)
            with contextlib.suppress(StoreError):  # it may be named already
                self._note_live(self.live)
            self._clear_backbones([digest])
            text = getattr(error, 'strerror', None) or str(error)
            raise StoreError(f'version {number} could not be stored: {text}') from error
        self._prune()
        return manifest

    def _keep_backbone(self, update: State | None) -> str:
        """Return the digest of a backbone that is on the disk now; None for the live one."""
        if update is None:
            digest = self.backbone(self.live)
            if digest == self._bare or self._backbone_file(digest).exists():
                return digest
            update = self.update(self.live)  # version 0.1 kept it with the head
        backbone = backbone_of(update)
        digest = backbone_digest(self.base.sha256, backbone)
        if digest != self._bare:
            replace_file(self._backbone_file(digest), pack(backbone))
        return digest

    def set_live(self, version: int) -> None:
        """
        Make a stored version live, durably.

        :raises WeightsError: when there is no such version, or it is damaged
        :raises StoreError: when the disk does not take it
        """
        self.update(version)
        self._note_live(version)

    def _note_live(self, version: int) -> None:
        try:
            replace_file(self.folder / 'live', str(version).encode())
        except OSError as error:
            raise StoreError(
                f'the live version could not be noted: {error.strerror or error}'
            ) from error
        self.live = version

    def _prune(self) -> None:
        rounds, heads = (
            [v for v in sorted(self.manifests) if (self.manifests[v].kind == HEAD) == head]
            for head in (False, True)
        )
        # A head is made with every correction; they must not push out what rounds made.
        kept = {*rounds[-self.keep :], *heads[-KEPT_HEADS:], *self.pinned}
        kept |= {0, self.live, self.manifests[self.live].parent}
        dropped = [self.manifests[v].backbone for v in self.manifests if v not in kept]
        for version in [v for v in self.manifests if v not in kept]:
            shutil.rmtree(self._version_folder(version), ignore_errors=True)
            del self.manifests[version]
            self.damaged.pop(version, None)
        self._clear_backbones(dropped)

    def _clear_backbones(self, digests: Iterable[str]) -> None:
        """Remove those backbones that no version is of."""
        for digest in set(digests) - {m.backbone for m in self.manifests.values()}:
            with contextlib.suppress(OSError):
                self._backbone_file(digest).unlink(missing_ok=True)


def head_of(update: State) -> State:
    """Return the tensors of an update that are the head's."""
    rest = backbone_of(update)
    return {name: tensor for name, tensor in update.items() if name not in rest}
