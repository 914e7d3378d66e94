# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Versions of the weights on disk. The store always opens: a version is there whole, or not at all,
and a damaged one is skipped.

Layout: `<root>/<first 16 digits of the base's SHA-256>/base.safetensors`, `live` (a number), and
one folder `v00000012` for each version with `weights.safetensors`, `manifest.json` and, when it is
kept for ever, an empty file `pinned`. Version 0 is the base weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
import json
import math
import os
from pathlib import Path
import shutil
from typing import Any

from etuner_ros.core.errors import StoreError, WeightsError
from etuner_ros.core.files import replace_file, sync_folder, write_synced
from etuner_ros.core.models.weights import BaseWeights, read_base, sha256

PIN = 'pinned'
KEPT_HEADS = 3  # versions with a new head only, besides what `keep` allows


@dataclass(frozen=True)
class Manifest:
    """What is known of one version."""

    version: int
    parent: int
    sha256: str  # of weights.safetensors
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
    head_only: bool = False  # a new head on the backbone of its parent, not a round

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Read a manifest; raises ValueError, KeyError or TypeError when it is damaged."""
        raw: dict[str, Any] = json.loads(text)
        raw['classes'], raw['frozen_layers'] = tuple(raw['classes']), tuple(raw['frozen_layers'])
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
    :raises WeightsError: when the base weights can't be read
    :raises StoreError: when the folder can't be written
    """

    def __init__(self, root: Path, base: Path, keep: int = 10, read_only: bool = False) -> None:
        self.warnings: list[str] = []
        self.keep = keep
        self.base: BaseWeights = read_base(base)
        self.folder = root / self.base.sha256[:16]
        if not read_only:
            self._make_ready(base)
        root_manifest = Manifest(0, 0, sha256(b''), self.base.spec.classes, reason='deployed')
        self.manifests: dict[int, Manifest] = {0: root_manifest}
        self.pinned: set[int] = set()
        self._highest = 0
        for folder in sorted(self.folder.glob('v*')):
            self._open_version(folder)
        self.live = self._open_live()

    def _make_ready(self, base: Path) -> None:
        """Make the folder, clear what a crash left in the middle of a write, keep the base."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in [*self.folder.glob('.*'), *self.folder.glob('v*/.*')]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            if (
                not self.base_path.exists()
                or sha256(self.base_path.read_bytes()) != self.base.sha256
            ):
                replace_file(self.base_path, base.read_bytes())
        except OSError as error:
            raise StoreError(
                f'the model store {self.folder} can not be written: {error.strerror or error}; '
                f'check models.folder'
            ) from error

    @property
    def base_path(self) -> Path:
        """The base weights in the store."""
        return self.folder / 'base.safetensors'

    def _version_folder(self, version: int) -> Path:
        return self.folder / f'v{version:08d}'

    def _open_version(self, folder: Path) -> None:
        try:
            self._highest = max(
                self._highest, int(folder.name[1:])
            )  # a damaged version keeps its number
            manifest = Manifest.from_json((folder / 'manifest.json').read_text())
            if sha256((folder / 'weights.safetensors').read_bytes()) != manifest.sha256:
                raise ValueError('the checksum of its weights is wrong')
            if manifest.version != int(folder.name[1:]):
                raise ValueError(f'its manifest is that of version {manifest.version}')
            self.manifests[manifest.version] = manifest
            if (folder / PIN).exists():
                self.pinned.add(manifest.version)
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
        if wanted in self.manifests:
            return wanted
        best = self._before(wanted)
        self.warnings.append(f'version {wanted} can not be used; version {best} is live instead')
        return best

    def _before(self, version: int) -> int:
        """Return the last good version before one that can't be used."""
        return max((v for v in self.manifests if v < version), default=0)

    def live_weights(self) -> tuple[bytes, list[str]]:
        """
        Return the live weights; when they are damaged, those of the last good version, made live.

        :return: the weights, and one warning for each version that was given up
        :raises StoreError: when the disk does not take the name of another live version
        """
        version, warnings = self.live, list[str]()
        while True:
            try:
                data = self.weights(version)
                break
            except WeightsError as error:  # version 0 is never damaged: it has no weights
                self.manifests.pop(version)
                self.pinned.discard(version)
                version = self._before(version)
                warnings.append(f'{error}; version {version} is used instead')
        if version != self.live:
            self.set_live(version)
        return data, warnings

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

    def weights(self, version: int) -> bytes:
        """
        Return the update of a version as safetensors bytes; empty for version 0.

        :raises WeightsError: when there is no such version, or it is damaged
        """
        if version not in self.manifests:
            raise WeightsError(f'version {version} is not in the store')
        if version == 0:
            return b''
        try:
            data = (self._version_folder(version) / 'weights.safetensors').read_bytes()
        except OSError as error:
            raise WeightsError(
                f'version {version} is damaged: {error.strerror or error}'
            ) from error
        if sha256(data) != self.manifests[version].sha256:
            raise WeightsError(
                f'version {version} is damaged: the checksum of its weights is wrong'
            )
        return data

    def commit(self, data: bytes, parent: int, classes: tuple[str, ...], **facts: Any) -> Manifest:
        """
        Store a new version and make it live.

        :param facts: the other fields of its manifest
        :raises StoreError: when the disk does not take it; the store is as before
        """
        manifest = Manifest(self._highest + 1, parent, sha256(data), classes, **facts)
        final = self._version_folder(manifest.version)
        aside = final.with_name(f'.{final.name}.tmp')
        try:
            aside.mkdir()
            write_synced(aside / 'weights.safetensors', data)
            write_synced(aside / 'manifest.json', json.dumps(asdict(manifest), indent=1).encode())
            sync_folder(aside)
            os.rename(aside, final)
            sync_folder(self.folder)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise StoreError(
                f'version {manifest.version} could not be stored: {error.strerror or error}'
            ) from error
        self._highest = manifest.version
        self.manifests[manifest.version] = manifest
        self.set_live(manifest.version)
        self._prune()
        return manifest

    def set_live(self, version: int) -> None:
        """
        Make a stored version live, durably.

        :raises WeightsError: when there is no such version, or it is damaged
        :raises StoreError: when the disk does not take it
        """
        self.weights(version)
        try:
            replace_file(self.folder / 'live', str(version).encode())
        except OSError as error:
            raise StoreError(
                f'the live version could not be noted: {error.strerror or error}'
            ) from error
        self.live = version

    def _prune(self) -> None:
        keep = {
            0,
            self.live,
            self.manifests[self.live].parent,
            *self.pinned,
            # A head is made with every correction; they must not push out what rounds made.
            *[v for v in sorted(self.manifests) if not self.manifests[v].head_only][-self.keep :],
            *[v for v in sorted(self.manifests) if self.manifests[v].head_only][-KEPT_HEADS:],
        }
        for version in [v for v in self.manifests if v not in keep]:
            shutil.rmtree(self._version_folder(version), ignore_errors=True)
            del self.manifests[version]
