# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Where base weights come from: a file of ours, or a pretrained network. Kept in a cache by their
SHA-256.

Run as a program, it makes them in a process of its own, so that a node without torch can have
them.
"""

from __future__ import annotations

from pathlib import Path
import sys

from etuner_ros.core.errors import WeightsError
from etuner_ros.core.files import home, replace_file
from etuner_ros.core.models.child import Child
from etuner_ros.core.models.weights import pack_base, read_base, sha256


def cache_folder() -> Path:
    """Return the folder of cached base weights."""
    return home('base')


def base_file(architecture: str, input_size: int, weights: str) -> Path:
    """Return the file that holds, or will hold, the base weights of these settings."""
    if weights.endswith('.safetensors'):
        return Path(weights).expanduser()
    source = f'-{sha256(weights.encode())[:12]}' if weights else ''
    return cache_folder() / f'pretrained-{architecture}-{input_size}{source}.safetensors'


def cached(digest: str) -> Path:
    """Return the file for base weights that were fetched from another node."""
    return cache_folder() / f'{digest}.safetensors'


def checksum_file(path: Path) -> Path:
    """
    Return the file beside base weights that holds their SHA-256 and, unless an earlier release
    wrote it, by what it is seen that others were put in their place: size and time in ns.
    """
    return path.with_name(f'{path.name}.sha256')


def check_name(path: Path) -> None:
    """
    Look whether a name for base weights is one by which they are found again.

    :raises WeightsError: when it is none
    """
    if path.suffix != '.safetensors':
        raise WeightsError(f'base weights are files *.safetensors; {path.name} is none')


def write_base(path: Path, data: bytes) -> None:
    """Write base weights and, beside them, their checksum; durable, each in one step."""
    checksum_file(path).unlink(missing_ok=True)  # of another content
    replace_file(path, data)
    there = path.stat()
    text = f'{sha256(data)} {there.st_size} {there.st_mtime_ns}'
    replace_file(checksum_file(path), text.encode())


def _was_replaced(path: Path, known: list[str]) -> bool:
    """
    Return whether somebody has put others in the place of base weights.

    :param known: size and time in ns of those that were written; empty where that is not known
    """
    try:
        there = path.stat()
        if known:  # what is moved here, or copied with its time, may be older, too
            is_same = known == [str(there.st_size), str(there.st_mtime_ns)]
        else:
            is_same = there.st_mtime_ns <= checksum_file(path).stat().st_mtime_ns
        if is_same:
            return False  # damage of the disk changes neither
        read_base(path)
    except (OSError, WeightsError):
        return False
    return True


def intact_file(path: Path) -> Path | None:
    """
    Return base weights that are whole: the file, or when it is damaged or gone a copy that the
    cache or a model store under $ROS_HOME has. None when there is none.

    A file without a checksum beside it is taken as it is, and so are base weights of another size
    or time than those that were written: somebody has put others in their place.
    """
    try:
        digest, *known = checksum_file(path).read_text().split() or ['']
        if _was_replaced(path, known):
            return path
    except (OSError, UnicodeDecodeError):
        return path if path.exists() else None
    stores = (home('models'), *home('models').glob('ns/*'))
    copies = (store / digest[:16] / 'base.safetensors' for store in stores)
    for candidate in (path, cached(digest), *copies):
        try:
            if sha256(candidate.read_bytes()) == digest:
                return candidate
        except OSError:
            continue
    return None


def copy_warning(path: Path, found: Path) -> str:
    """
    Return what to say where a copy serves; nothing where the file itself does.

    :param found: by `intact_file` or `prepare`
    """
    if found == path:
        return ''
    state = f'not those of {checksum_file(path).name}: damaged' if path.exists() else 'gone'
    return f'the base weights {path} are {state}; their copy {found} is used'


def prepare(architecture: str, input_size: int, weights: str) -> Path:
    """
    Return base weights, made from the pretrained network when they are not there yet; imports
    torch only then.

    :param weights: '' for pretrained weights, a `.safetensors` file of base weights, or a
        state-dict file of a torchvision network
    :raises WeightsError: when there are none
    """
    path = base_file(architecture, input_size, weights)
    intact = intact_file(path)
    if intact is not None:
        return intact
    if path.exists() and weights.endswith('.safetensors'):
        raise WeightsError(
            f'the weights file {path} does not have the checksum in {checksum_file(path)}, '
            f'and there is no other copy: it is damaged; make it anew with `etuner deploy`'
        )
    if weights.endswith('.safetensors'):
        raise WeightsError(
            f'the weights file {path} does not exist; set model.weights to base weights made by '
            f'`etuner deploy`'
        )
    from etuner_ros.core.models.networks import build, pretrained_spec

    model = build(pretrained_spec(architecture, input_size), weights or 'pretrained')
    write_base(path, pack_base(model.state(), model.spec, model.unit_sizes))
    return path


def prepare_in_process(architecture: str, input_size: int, weights: str) -> Child | None:
    """
    Start making base weights in another process; None when they are there already.

    :raises OSError: when no process can be started
    """
    if intact_file(base_file(architecture, input_size, weights)) is not None:
        return None
    return Child('etuner_ros.core.models.base_weights', architecture, str(input_size), weights)


if __name__ == '__main__':
    try:
        prepare(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    except (WeightsError, OSError) as failure:
        sys.exit(str(failure))
