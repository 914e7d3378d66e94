# Copyright 2026 The etuner_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Which device serves, found out without torch where it can be: its import takes seconds."""

from __future__ import annotations

from pathlib import Path
import sys

from etuner_ros.core.errors import ConfigError
from etuner_ros.core.serve.engines import Engines, EngineSettings, has_onnxruntime
from etuner_ros.core.serve.graph_store import has_graphs

# What NVIDIA's drivers make: of cards, of Jetsons, of WSL.
CUDA_FILES = ('/dev/nvidiactl', '/dev/nvhost-gpu', '/dev/nvgpu', '/dev/nvmap', '/dev/dxg')


def may_have_cuda() -> bool:
    """Whether there may be a CUDA device."""
    return any(Path(name).exists() for name in CUDA_FILES)


def needs_torch(arguments: list[str] | None = None) -> bool:
    """
    Whether torch will have to serve, also if only until the first graph has been made.

    :param arguments: of the command line, which may ask for it
    """
    asked = any('engine:=torch' in a for a in (sys.argv if arguments is None else arguments))
    return asked or not has_onnxruntime() or may_have_cuda() or not has_graphs()


def serving_device(name: str, settings: EngineSettings) -> str:
    """
    Return the device that a setting names; 'auto' takes CUDA where there is one.

    :raises ConfigError: for CUDA where there is none, or an unknown name
    """
    without = settings.engine != 'torch' and has_onnxruntime()
    if name == 'cpu' or (name == 'auto' and without and not may_have_cuda()):
        return 'cpu'
    try:
        from etuner_ros.core.models.networks import choose_device
    except ImportError as error:
        raise ConfigError(f"device is '{name}', which needs torch; set it to 'cpu'") from error
    return str(choose_device(name))


def engines_for(settings: EngineSettings, device: str, threads: int) -> Engines:
    """
    Return the engines that serve; torch alone where onnxruntime is there and can not be imported.

    A build for another numpy, or one that lacks a library of the GPU, must not keep a robot from
    seeing.

    :param device: of torch: 'cpu', 'cuda', 'cuda:1'
    :param threads: CPU threads of a prediction
    :raises ConfigError: when the device can not do what is asked for
    """
    engines = Engines(settings, device, threads)
    if engines.uses_onnxruntime and has_onnxruntime():
        try:
            import onnxruntime  # noqa: F401
        except Exception as error:  # whatever it meets on its way
            engines.give_up(f'onnxruntime does not import: {str(error)[:200]}')
    return engines
