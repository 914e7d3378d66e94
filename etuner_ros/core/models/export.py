# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""
Stored versions as files for other programs: a state dict of torch, ONNX.

Run as a program it writes one; so a node without torch can have it done.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
import sys
from typing import Any, TYPE_CHECKING
import warnings

from etuner_ros.core.errors import EtunerError, StoreError
from etuner_ros.core.files import sync_folder
from etuner_ros.core.installing import INSTALL, requirements

if TYPE_CHECKING:  # a node without torch reads this file too
    from torch import Tensor

    from etuner_ros.core.models.networks import Classifier

FORMATS = ('torch', 'onnx')


def export_version(folder: Path, version: int, kind: str, path: Path) -> None:
    """
    Write a version of a store.

    `torch` is `{'state_dict', 'classes', 'spec'}`, which loads with `weights_only=True`. `onnx`
    maps a picture (1, 3, S, S), normalised with `mean` and `std`, to logits (1, C), and has the
    description in its metadata.

    :param folder: of the store: that of one set of base weights
    :raises EtunerError: when the version is not there or damaged, or can't be written
    """
    import torch

    from etuner_ros.core.models.networks import from_base
    from etuner_ros.core.models.store import ModelStore

    store = ModelStore(folder.parent, folder / 'base.safetensors', read_only=True)
    update = store.update(version)
    model = from_base(store.base.state, store.base.spec)
    model.load_state({**store.base.state, **update}, store.manifests[version].classes)
    model.eval()
    size = model.spec.input_size
    example = torch.zeros(1, 3, size, size)
    aside = aside_of(path, os.getpid())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == 'torch':
            spec = json.loads(model.spec.to_json())
            content = {
                'state_dict': model.state_dict(),
                'classes': list(model.classes),
                'spec': spec,
            }
            torch.save(content, aside)
        else:
            _export_onnx(model, example, aside)
        os.replace(aside, path)
        sync_folder(path.parent)
    except OSError as error:
        raise StoreError(f'{path} can not be written: {error.strerror or error}') from error
    finally:
        with contextlib.suppress(OSError):  # where no file can be there is none
            aside.unlink(missing_ok=True)


def _export_onnx(model: Classifier, example: Tensor, path: Path) -> None:
    import torch

    # Before torch 2.5 there is only the exporter that traces, which writes a file.
    traced = 'dynamo' not in torch.onnx.export.__code__.co_varnames
    try:
        import onnx

        if not traced:
            import onnxscript  # noqa: F401
    except Exception as error:  # one that was made for another numpy raises many kinds
        raise StoreError(
            f'ONNX needs the packages onnx and onnxscript ({error}): {INSTALL} --no-deps -r '
            f'{requirements()}'
        ) from error
    names: dict[str, Any] = {'input_names': ['image'], 'output_names': ['logits']}
    try:
        if traced:
            with warnings.catch_warnings():  # of sizes that are constants here
                warnings.simplefilter('ignore')
                torch.onnx.export(model, (example,), str(path), opset_version=17, **names)
            proto = onnx.load(path)
        else:
            program = torch.onnx.export(model, (example,), dynamo=True, **names)
            assert program is not None  # only without dynamo
            proto = program.model_proto
    except OSError:
        raise
    except Exception as error:  # exporters raise many kinds
        text = (str(error).strip().splitlines() or ['no reason given'])[0][:200]
        raise StoreError(
            f"'{model.spec.architecture}' can not be exported to ONNX: {text}"
        ) from error
    entry = proto.metadata_props.add()
    entry.key, entry.value = 'etuner', model.spec.to_json()
    onnx.save(proto, str(path))


def aside_of(path: Path, pid: int) -> Path:
    """Return what a process writes first, before it is renamed to `path`."""
    return path.with_name(f'.{path.name}.{pid}.tmp')


if __name__ == '__main__':
    try:
        export_version(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
    except EtunerError as failure:
        sys.exit(str(failure))
